"""A stand-in for AITER: the functions of a release, with its signatures, computing what its sources compute.

It also does what AITER does with what it must not be given, so that a call which should have been refused shows.
"""

import importlib.metadata
import itertools
import math
import sys
import types

import torch

from flashinfer_jit.backends import aiter, aiter_releases
from flashinfer_jit.testing import attention_reference

LOG2_E = math.log2(math.e)


def attend(q, k, v, a, cap=0.0):
    """Return output and natural log-sum-exp [heads, tokens] of one request; ``a`` has AITER's arguments."""
    left, right, *sink_size = a["window_size"]
    assert not any(sink_size) and a["dropout_p"] == 0 and a.get("alibi_slopes") is a.get("bias") is None
    assert right == (0 if a["causal"] and left >= 0 else -1)
    assert not torch.is_grad_enabled()
    if k.shape[0] == 0:
        # As its C++ does: outputs of 0, and +inf.
        return torch.zeros_like(q), torch.full((q.shape[1], q.shape[0]), math.inf)
    options = {"causal": a["causal"], "sm_scale": a["softmax_scale"], "window_left": left, "logits_soft_cap": cap}
    o, lse = attention_reference(q, k, v, **options)
    return o.to(q.dtype), (lse / LOG2_E).float().transpose(0, 1).contiguous()


def check_kinds(*tensors):
    assert all(x.dtype == torch.int32 and x.is_contiguous() for x in tensors)


def attend_batch(a, keys_of):
    """Attend request by request; ``keys_of`` gives keys and values from a range of the list of keys."""
    q_starts = a["cu_seqlens_q"].tolist()
    k_starts = a["cu_seqlens_k" if "cu_seqlens_k" in a else "kv_indptr"].tolist()
    q_lens, k_lens = ([stop - start for start, stop in itertools.pairwise(x)] for x in (q_starts, k_starts))
    assert (a["max_seqlen_q"], a["max_seqlen_k"]) == (max(q_lens), max(k_lens))
    assert len(q_lens) == len(k_lens) > 0
    parts = [
        attend(a["q"][q0 : q0 + n], *keys_of(k0, k0 + m), a, a.get("logits_soft_cap", 0.0))
        for q0, n, k0, m in zip(q_starts, q_lens, k_starts, k_lens, strict=False)
    ]
    o, lse = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], 1)
    if a.get("out") is not None:
        assert a["out"].shape == o.shape and a["out"].dtype == o.dtype
        o = a["out"].copy_(o)
    return (o, lse) if a["return_lse"] else o


def flash_attn_func(a):
    # The hand-written kernels for bfloat16 see a window of 0 as none; those of a batch and of one request are alike.
    assert a["window_size"][0] != 0 and a.get("cu_seqlens_q") is None and not a.get("num_splits")
    o, lse = attend(a["q"][0], a["k"][0], a["v"][0], a)
    return (o[None], lse[None]) if a["return_lse"] else (o[None],)


def flash_attn_varlen_func(a):
    check_kinds(a["cu_seqlens_q"], a["cu_seqlens_k"])
    # Nothing reaches the hand-written kernels but their own arguments.
    assert a["window_size"][0] != 0 and not a.get("logits_soft_cap") and not a.get("min_seqlen_q")
    assert a["block_table"] is None
    return attend_batch(a, lambda start, stop: (a["k"][start:stop], a["v"][start:stop]))


def mha_batch_prefill_func(a):
    check_kinds(a["cu_seqlens_q"], a["kv_indptr"], a["kv_page_indices"])
    assert a["k"].ndim == a["v"].ndim == 3 and a["q"].shape[2] in (64, 128)
    # Three dimensions are pages of one token, which need neither of these.
    assert a.get("kv_last_page_lens") is a.get("block_table") is a.get("seqlen_k") is None
    # It reads whole tiles of the list, and what it finds there has to be memory that holds numbers.
    last = int(a["kv_indptr"][-1])
    beyond = a["kv_page_indices"][last:]
    assert len(beyond) >= 255 and not a["v"][beyond.long()].isnan().any()

    def keys_of(start, stop):
        rows = a["kv_page_indices"][start:stop].long()
        return a["k"][rows], a["v"][rows]

    return attend_batch(a, keys_of)


def paged_attention_v1(a):
    q, out, layout = a["query"], a["out"], a["kv_cache_layout"]
    check_kinds(a["context_lens"], a["block_tables"])
    assert a["cu_query_lens"] is a["alibi_slopes"] is a["fp8_out_scale"] is None
    assert (a["kv_cache_dtype"], a["partition_size"], a["mtp"]) == ("auto", 256, 1)
    assert float(a["k_scale"]) == float(a["v_scale"]) == 1.0 and a["k_scale"].dtype == torch.float32
    # Kernels take q's first stride only, K's strides for V too, and write out without gaps.
    assert (
        out.is_contiguous()
        and q.stride()[1:] == (q.shape[2], 1)
        and a["key_cache"].stride() == a["value_cache"].stride()
    )
    k_cache, v_cache = (x if layout == "NHD" else x.transpose(1, 2) for x in (a["key_cache"], a["value_cache"]))
    page_size, num_kv_heads = k_cache.shape[1:3]
    group_size = q.shape[1] // num_kv_heads
    assert 32 % page_size == 0 and group_size <= 16
    assert int(a["context_lens"].min()) > 0 and int(a["context_lens"].max()) <= a["max_context_len"]
    parts = q.shape[0] * q.shape[1] * -(-a["max_context_len"] // 256)
    assert a["workspace_buffer"].nbytes >= parts * (8 + 2 * q.shape[2])
    window, cap = a["sliding_window"], a["logits_soft_cap"]
    for i, length in enumerate(a["context_lens"].tolist()):
        pages = a["block_tables"][i, : -(-length // page_size)].long()
        k, v = (x[pages].flatten(0, 1)[:length].double().repeat_interleave(group_size, 1) for x in (k_cache, v_cache))
        logits = torch.einsum("hd,khd->hk", q[i].double(), k) * a["scale"]
        if window > 0:
            logits[:, : max(length - window, 0)] = torch.finfo(torch.float32).min
        if cap > 0:
            logits = cap * torch.tanh(logits / cap)
        out[i] = torch.einsum("hk,khd->hd", logits.softmax(1), v)
    return out


def reshape_and_cache_flash(a):
    key, value, k_cache, v_cache, slots = (a[x] for x in ("key", "value", "key_cache", "value_cache", "slot_mapping"))
    assert slots.dtype == torch.int64 and a["kv_cache_dtype"] == "auto" and key.dtype == k_cache.dtype
    assert float(a["k_scale"]) == float(a["v_scale"]) == 1.0
    heads, dim = key.shape[1:]
    assert k_cache.stride(0) == v_cache.stride(0)
    for i, slot in enumerate(slots.tolist()):
        if slot >= 0:
            page, place = divmod(slot, k_cache.shape[1])
            for new, cache in ((key, k_cache), (value, v_cache)):
                # One run of elements on either side, whatever the strides say.
                source = new.as_strided((heads * dim,), (1,), new.storage_offset() + i * new.stride(0))
                first = cache.storage_offset() + page * cache.stride(0) + place * heads * dim
                cache.as_strided((heads * dim,), (1,), first).copy_(source)


IMPLEMENTATIONS = {
    f.__name__: f
    for f in (
        *(flash_attn_func, flash_attn_varlen_func, mha_batch_prefill_func, paged_attention_v1),
        reshape_and_cache_flash,
    )
}


# AITER registers these as operators, with parameters of these types, and exports functions without a signature.
OPERATORS = {
    "reshape_and_cache_flash": "(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, "
    "Tensor slot_mapping, str kv_cache_dtype, Tensor k_scale, Tensor v_scale) -> ()"
}
_library = torch.library.Library("aiter", "FRAGMENT")
for _name, _schema in OPERATORS.items():
    _library.define(_name + _schema)


def make_function(name, signature, calls):
    """Return a function that records its calls and has this signature."""
    scope = {"run": lambda a: (calls.append((name, a)), IMPLEMENTATIONS[name](a))[1]}
    exec(f"def {name}({signature}): return run(locals())", scope)
    return scope[name]


def as_operator(function):
    """Hide the signature, as AITER's decorator does."""
    return lambda *args, **kwargs: function(*args, **kwargs)


def version_of(release):
    return f"0.1.20.dev3+g{release.commit[:9]}" if release.commit else f"{release.name}+rocm7.2"


def install(monkeypatch, release):
    """Make ``release`` the AITER that is installed, on tensors of the CPU, and return the list of its calls."""
    calls = []
    module = types.ModuleType("aiter")
    for name, signature in release.functions.items():
        function = make_function(name, signature, calls)
        setattr(module, name, as_operator(function) if name in OPERATORS else function)
    monkeypatch.setitem(sys.modules, "aiter", module)
    install_version(monkeypatch, version_of(release))
    monkeypatch.setattr(aiter, "DEVICE_TYPE", "cpu")
    return calls


def install_version(monkeypatch, version):
    """Make ``version`` that of the installed amd-aiter; None for none."""

    def find(name, find_other=importlib.metadata.version):
        if name not in aiter_releases.DISTRIBUTIONS:
            return find_other(name)
        if version is None or name != aiter_releases.DISTRIBUTIONS[0]:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", find)
    aiter._load.cache_clear()
