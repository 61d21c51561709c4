"""The mapping to AITER against stand-ins with its releases' signatures, which compute what AITER documents."""

import dataclasses
import importlib.metadata
import math
import sys
import types

import pytest
import torch

from flashinfer_jit.backends import aiter
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.testing import attention_reference

F16 = torch.float16
CALL = aiter.Call(F16, F16, F16, 64, 64, "causal", "none", "NHD", None, -1, 0.0, 0.2)


def attend(q, k, v, a):
    """Return output and natural log-sum-exp, [heads, tokens], of one request; keyword arguments as AITER means them."""
    left, right = a["window_size"]
    assert right == (0 if a["causal"] and left >= 0 else -1)
    cap = a.get("logits_soft_cap", 0.0)
    o, lse = attention_reference(
        q, k, v, causal=a["causal"], sm_scale=a["softmax_scale"], window_left=left, logits_soft_cap=cap
    )
    return o.to(q.dtype), (lse / math.log2(math.e)).float().transpose(0, 1)


def attend_batch(q, k, v, q_starts, k_starts, a):
    parts = [
        attend(q[q_starts[i] : q_starts[i + 1]], k[k_starts[i] : k_starts[i + 1]], v[k_starts[i] : k_starts[i + 1]], a)
        for i in range(len(q_starts) - 1)
    ]
    o, lse = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts], 1)
    if a["out"] is not None:
        o = a["out"].copy_(o)
    return (o, lse) if a["return_lse"] else o


def flash_attn_func(a):
    o, lse = attend(a["q"][0], a["k"][0], a["v"][0], a)
    return (o[None], lse[None]) if a["return_lse"] else o[None]


def flash_attn_varlen_func(a):
    return attend_batch(a["q"], a["k"], a["v"], a["cu_seqlens_q"], a["cu_seqlens_k"], a)


def mha_batch_prefill_func(a):
    assert a["k"].ndim == 3
    k, v = a["k"][a["kv_page_indices"]], a["v"][a["kv_page_indices"]]
    return attend_batch(a["q"], k, v, a["cu_seqlens_q"], a["kv_indptr"], a)


@pytest.fixture(params=sorted(aiter.RELEASES))
def release(request, monkeypatch):
    """A stand-in for a release: functions with its parameters, all of them with AITER's neutral values."""
    module = types.ModuleType("aiter")
    implementations = {f.__name__: f for f in (flash_attn_func, flash_attn_varlen_func, mha_batch_prefill_func)}
    for name, parameters in aiter.RELEASES[request.param].items():
        text = ", ".join(f"{parameter}=None" for parameter in parameters)
        scope = {"implementation": implementations[name]}
        exec(f"def {name}({text}): return implementation(locals())", scope)
        setattr(module, name, scope[name])
    monkeypatch.setitem(sys.modules, "aiter", module)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: request.param)
    return module


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(F16)


def inputs(qo_len, kv_len):
    return random(qo_len, 4, 64, seed=0), random(kv_len, 2, 64, seed=1), random(kv_len, 2, 64, seed=2)


def assert_same(result, reference):
    assert torch.allclose(result[0].double(), reference[0], atol=2e-3)
    assert torch.allclose(result[1].double(), reference[1], atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"mask_mode": "none"}, {"window_left": 5}, {"window_left": 5, "mask_mode": "none"}]
)
def test_calls_are_mapped(release, changes):
    """Masks, windows, scales; log-sum-exps to base 2, token by token."""
    call = dataclasses.replace(CALL, **changes)
    expected = {"causal": call.mask_mode == "causal", "window_left": call.window_left, "sm_scale": 0.2}
    q, k, v = inputs(20, 30)
    assert_same(aiter.single_prefill(call, q, k, v, True), attention_reference(q, k, v, **expected))
    assert aiter.single_prefill(call, q, k, v, False)[1] is None

    call = dataclasses.replace(call, logits_soft_cap=3.0)
    q_starts, k_starts = torch.tensor([0, 5, 20], dtype=torch.int32), torch.tensor([0, 9, 30], dtype=torch.int32)
    parts = [
        attention_reference(q[a:b], k[c:d], v[c:d], logits_soft_cap=3.0, **expected)
        for a, b, c, d in ((0, 5, 0, 9), (5, 20, 9, 30))
    ]
    reference = [torch.cat(part) for part in zip(*parts, strict=True)]
    assert_same(aiter.ragged_prefill(call, q, k, v, q_starts, k_starts, 15, 21, True), reference)
    out = torch.empty_like(q)
    assert aiter.ragged_prefill(call, q, k, v, q_starts, k_starts, 15, 21, False, out)[0] is out

    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    pages = [torch.empty_like(x).index_copy(0, order, x)[:, None] for x in (k, v)]
    call = dataclasses.replace(call, page_size=1)
    assert_same(aiter.paged_prefill(call, q, *pages, q_starts, k_starts, order.int(), 15, 21, True), reference)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype_q": torch.float32}, "q is torch.float32"),
        ({"dtype_kv": torch.float8_e4m3fnuz}, "k and v are torch.float8_e4m3fnuz"),
        ({"dtype_o": torch.float32}, "the output is torch.float32"),
        ({"head_dim_vo": 32}, "head_dim_vo differs"),
        ({"head_dim_qk": 80, "head_dim_vo": 80}, "head_dim_qk=80"),
        ({"mask_mode": "custom"}, "custom mask"),
        ({"position_encoding": "alibi"}, "pos_encoding_mode='ALIBI'"),
        ({"kv_layout": "HND"}, "kv_layout='HND'"),
        ({"page_size": 16}, "page_size=16"),
        ({"logits_soft_cap": 2.0}, "logits_soft_cap=2.0"),
        ({"has_sinks": True}, "sinks"),
        ({"is_captured": True}, "use_cuda_graph"),
        ({"is_batch_invariant": True}, "fixed_split_size"),
        ({"has_hidden_rows": True}, "see no key"),
    ],
)
def test_what_it_would_ignore_is_said(changes, reason):
    assert aiter.why_not(CALL, is_single=True) is None
    assert reason in aiter.why_not(dataclasses.replace(CALL, **changes), is_single=True)


def test_other_releases_are_refused(release, monkeypatch):
    aiter.functions()
    monkeypatch.setattr(release, "flash_attn_func", lambda q, k, v: None)
    with pytest.raises(UnsupportedConfigError, match="aiter.flash_attn_func is not that of amd-aiter"):
        aiter.functions()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    with pytest.raises(UnsupportedConfigError, match="amd-aiter 9.9.9 is not a release that this package knows"):
        aiter.functions()


def test_without_it():
    with pytest.raises(UnsupportedConfigError, match="needs amd-aiter, which cannot be imported"):
        aiter.functions()
