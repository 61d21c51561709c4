"""backend="aiter" of the public functions against stand-ins with the signatures of AITER's releases.

No AITER has run here: the stand-ins compute what its sources say, see support/fake_aiter.py.
"""

import dataclasses
import itertools
import logging
import math
import sys

import pytest
import torch

from flashinfer_jit import decode, page, prefill, runtime
from flashinfer_jit.backends import aiter, aiter_releases
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import kernels, params
from flashinfer_jit.jit.arch import GFX942
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference
from flashinfer_jit.variants import AttentionVariant
from support import fake_aiter, paged

F16, BF16 = torch.float16, torch.bfloat16
RELEASES = {release.name: release for release in aiter_releases.RELEASES}
WHEEL = RELEASES["0.1.7.post2.dev18"]
VARIANT = AttentionVariant("half", logits_transform="return logits * 0.5f;")


class Cpu:
    """A runtime on which this package's kernels are counted and do nothing."""

    kind = "emulator"
    device_type = "cpu"

    def __init__(self):
        self.launches = []

    def device(self):
        return torch.device("cpu")

    def arch(self, device):
        return GFX942

    def is_capturing(self):
        return False

    def launch(self, kernel, values, tensors, stream):
        self.launches.append(kernel.key)


class OurKernel:
    def __init__(self, key):
        self.key = key
        self.params_type = params.table_of(key.config).struct


@pytest.fixture
def cpu(monkeypatch):
    cpu = Cpu()
    monkeypatch.setattr(runtime, "current", lambda: cpu)
    monkeypatch.setattr(kernels, "get_kernel", lambda key, active: OurKernel(key))
    monkeypatch.setattr(prefill, "_problems", {})
    monkeypatch.setattr(decode, "_problems", {})
    monkeypatch.setattr("flashinfer_jit.log._said", set())
    monkeypatch.delenv("FLASHINFER_JIT_BACKEND", raising=False)
    yield cpu
    aiter._load.cache_clear()


@pytest.fixture
def only_aiter(cpu, monkeypatch):
    """No kernel of this package may be looked up."""

    def fail(key, active):
        raise AssertionError(f"a kernel of this package was looked up: {key}")

    monkeypatch.setattr(kernels, "get_kernel", fail)
    return cpu


def cases(operation, *lists):
    """Parametrize a test: everything with the wheel, and something with every other release that has the function."""
    name = aiter.OPERATIONS[operation]
    others = [x for x in aiter_releases.RELEASES if x is not WHEEL and name in x.functions]
    first = [values[-1] for values in lists]
    chosen = [(WHEEL, *case) for case in itertools.product(*lists)] + [(release, *first) for release in others]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: f"{case[0].name}-{case[1:]}")


def random(*shape, dtype=F16, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(result, reference, dtype=F16, factor=1.0):
    o, lse = result if isinstance(result, tuple) else (result, None)
    assert o.dtype == dtype
    assert TOLERANCES[dtype].worst(o, factor * reference[0]) <= 1
    if lse is not None:
        assert lse.dtype == torch.float32 and lse.is_contiguous()
        assert LSE_TOLERANCE.worst(lse, reference[1]) <= 1


# Masks, windows, scale, and the dtype.
OPTIONS = [
    ({}, F16),
    ({"causal": True}, BF16),
    ({"window_left": 5}, F16),
    ({"window_left": 5, "causal": True, "sm_scale": 0.2}, F16),
]


@cases(aiter.SINGLE, OPTIONS, ["NHD", "HND"])
def test_single_prefill(only_aiter, monkeypatch, case):
    release, (options, dtype), layout = case
    calls = fake_aiter.install(monkeypatch, release)
    q, k, v = (random(*shape, dtype=dtype, seed=i) for i, shape in enumerate([(20, 6, 64), (30, 2, 64), (30, 2, 64)]))
    reference = attention_reference(q, k, v, **options)
    # As inference engines have them: parts of one tensor, that want a gradient.
    q.requires_grad_(True)
    if layout == "HND":
        k, v = (x.transpose(0, 1).contiguous() for x in (k, v))
    for wants_lse in (False, True):
        result = prefill.single_prefill_with_kv_cache(
            q, k, v, **options, kv_layout=layout, backend="aiter", return_lse=wants_lse
        )
        assert isinstance(result, tuple) == wants_lse
        assert_close(result, reference, dtype)
    assert [name for name, _ in calls] == ["flash_attn_func"] * 2
    # One query token, and scales of both kinds.
    scales = {"scale_q": 0.5, "scale_k": 4.0, "v_scale": 0.25}
    result = prefill.single_prefill_with_kv_cache(q[:1], k, v, **scales, kv_layout=layout, backend="aiter")
    scaled = attention_reference(q.detach()[:1], k, v, sm_scale=2 / 8, kv_layout=layout)
    assert_close(result, scaled, dtype, 0.25)
    assert prefill.single_prefill_with_kv_cache(q[:0], k, v, kv_layout=layout, backend="aiter").shape == (0, 6, 64)
    with pytest.raises(UnsupportedConfigError, match="is a tensor"):
        prefill.single_prefill_with_kv_cache(q, k, v, scale_k=torch.ones(2), kv_layout=layout, backend="aiter")
    assert len(calls) == 3


# Query tokens and keys of requests: some without queries, one without anything.
LENGTHS = ((5, 9), (0, 4), (15, 15), (0, 0), (1, 33))


def starts(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def reference_of(q, keys, values, **options):
    q_starts = starts(n for n, _ in LENGTHS).tolist()
    parts = [
        attention_reference(q[q_starts[i] : q_starts[i + 1]], k, v, **options)
        for i, (k, v) in enumerate(zip(keys, values, strict=True))
    ]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def check_run(wrapper, q, kv, reference, dtype):
    """Runs with all that run() can be given."""
    assert_close(wrapper.run(q, *kv), reference, dtype)
    assert_close(wrapper.run_return_lse(q, *kv), reference, dtype)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
    result = wrapper.run(q, *kv, out=out, lse=lse, return_lse=True, v_scale=0.5)
    assert result[0] is out and result[1] is lse
    assert_close(result, (0.5 * reference[0], reference[1]), dtype)


@cases(aiter.RAGGED, OPTIONS, ["NHD", "HND"])
def test_ragged_prefill(only_aiter, monkeypatch, case):
    release, (options, dtype), layout = case
    calls = fake_aiter.install(monkeypatch, release)
    q_starts, kv_starts = starts(n for n, _ in LENGTHS), starts(n for _, n in LENGTHS)
    q = random(int(q_starts[-1]), 6, 64, dtype=dtype)
    # Both are parts of one tensor, with tokens to spare.
    k, v = random(int(kv_starts[-1]) + 3, 2, 128, dtype=dtype, seed=1).chunk(2, -1)
    ranges = list(itertools.pairwise(kv_starts.tolist()))
    parts = [[x[a:b] for a, b in ranges] for x in (k, v)]
    reference = reference_of(q, *parts, **options)
    if layout == "HND":
        k, v = k.transpose(0, 1), v.transpose(0, 1)
    wrapper = prefill.BatchPrefillWithRaggedKVCacheWrapper(
        torch.empty(1 << 20, dtype=torch.uint8), layout, backend="aiter"
    )
    for _ in range(2):
        wrapper.plan(q_starts, kv_starts, 6, 2, 64, **options, q_data_type=dtype)
        check_run(wrapper, q, (k, v), reference, dtype)
    assert wrapper._backend == "aiter" and len(calls) == 6
    # FlashInfer's older form with other options plans again.
    other = reference_of(q, *parts, sm_scale=0.5)
    assert_close(wrapper.forward(q, k, v, sm_scale=0.5), other, dtype)
    with pytest.raises(UnsupportedConfigError, match="logits_soft_cap=2.0 may reach no kernel"):
        wrapper.forward(q, k, v, logits_soft_cap=2.0)


PAGES = [(1, "NHD", False), (1, "HND", True), (16, "NHD", False), (3, "NHD", True)]


@cases(aiter.PAGED, [*OPTIONS, ({"window_left": 0, "logits_soft_cap": 3.0}, F16)], PAGES)
def test_paged_prefill(only_aiter, monkeypatch, case):
    release, (options, dtype), (page_size, layout, is_tuple) = case
    calls = fake_aiter.install(monkeypatch, release)
    q_starts = starts(n for n, _ in LENGTHS)
    q = random(int(q_starts[-1]), 6, 64, dtype=dtype)
    batch = paged.make_batch([n for _, n in LENGTHS], page_size, 2, 64, dtype, layout)
    reference = reference_of(q, batch.keys, batch.values, **options)
    wrapper = prefill.BatchPrefillWithPagedKVCacheWrapper(
        torch.empty(1 << 20, dtype=torch.uint8), layout, backend="aiter"
    )
    wrapper.plan(q_starts, *batch.table, 6, 2, 64, page_size, **options, q_data_type=dtype)
    cache = tuple(x.contiguous() for x in batch.cache.unbind(1)) if is_tuple else batch.cache
    check_run(wrapper, q, (cache,), reference, dtype)
    # The other form of cache in the same plan: other distances of pages.
    assert_close(wrapper.run(q, tuple(batch.cache.unbind(1))), reference, dtype)
    assert len(calls) == 4


@cases(
    aiter.DECODE,
    [({}, F16), ({"window_left": 0}, BF16), ({"logits_soft_cap": 3.0}, F16), ({"window_left": 6}, F16)],
    [(1, "HND", 1), (32, "NHD", 16), (8, "NHD", 3)],
)
def test_batch_decode(only_aiter, monkeypatch, case):
    release, (options, dtype), (page_size, layout, group_size) = case
    calls = fake_aiter.install(monkeypatch, release)
    # The longest is cut into parts.
    kv_lens = [1, 33, 7, 260 if page_size == 32 else 40]
    batch = paged.make_batch(kv_lens, page_size, 2, 128, dtype, layout)
    q = random(len(kv_lens), 2 * group_size, 128, dtype=dtype)
    parts = [
        attention_reference(q[i, None], k, v, **options)
        for i, (k, v) in enumerate(zip(batch.keys, batch.values, strict=True))
    ]
    reference = [torch.cat(part) for part in zip(*parts, strict=True)]
    wrapper = decode.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(1 << 20, dtype=torch.uint8), layout, backend="aiter"
    )
    wrapper.plan(*batch.table, 2 * group_size, 2, 128, page_size, **options, q_data_type=dtype)
    assert_close(wrapper.run(q, batch.cache), reference, dtype)
    out = torch.empty_like(q)
    assert wrapper.run(q, batch.cache, out=out, v_scale=2.0) is out
    assert_close(out, reference, dtype, 2.0)
    scaled = attention_reference(q[1, None], batch.keys[1], batch.values[1], **options, sm_scale=2 / math.sqrt(128))
    assert_close(wrapper.run(q, batch.cache, q_scale=4.0, k_scale=0.5)[1, None], scaled, dtype)
    assert len(calls) == 3 and wrapper._backend == "aiter" and wrapper._cached_module is None


@cases(aiter.APPEND, [(4, "NHD", True), (1, "HND", False), (4, "NHD", False)])
def test_append(only_aiter, monkeypatch, case):
    release, (page_size, layout, is_tuple) = case
    calls = fake_aiter.install(monkeypatch, release)
    sizes = (page_size, 2, 64) if layout == "NHD" else (2, page_size, 64)
    cache, expected = (torch.zeros(9, 2, *sizes, dtype=F16) for _ in range(2))
    pages = torch.tensor([8, 3, 0, 5], dtype=torch.int32)
    indptr, last = torch.tensor([0, 1, 4], dtype=torch.int32), torch.tensor([1, 1], dtype=torch.int32)
    request = torch.tensor([1, 0, -1, 1, 1], dtype=torch.int32)
    position = torch.tensor([2, 0, -1, 0, 1], dtype=torch.int32)
    # The new tokens are parts of a wider tensor.
    key, value = random(5, 2, 2, 64).unbind(1)
    for i, (b, p) in enumerate(zip(request.tolist(), position.tolist(), strict=True)):
        if b >= 0:
            where = expected[pages[indptr[b] + p // page_size]]
            where = where if layout == "NHD" else where.transpose(1, 2)
            where[0, p % page_size], where[1, p % page_size] = key[i], value[i]
    target = tuple(x.contiguous() for x in cache.unbind(1)) if is_tuple else cache
    page.append_paged_kv_cache(key, value, request, position, target, pages, indptr, last, layout, backend="aiter")
    assert torch.equal(torch.stack(target, 1) if is_tuple else target, expected)
    assert len(calls) == 1


# Which call breaks which rule.
BASE = {
    aiter.SINGLE: aiter.Call(aiter.SINGLE, "cpu", F16, F16, F16, 64, 64),
    aiter.RAGGED: aiter.Call(aiter.RAGGED, "cpu", F16, F16, F16, 64, 64),
    aiter.PAGED: aiter.Call(aiter.PAGED, "cpu", F16, F16, F16, 64, 64, page_size=16),
    aiter.DECODE: aiter.Call(aiter.DECODE, "cpu", F16, F16, F16, 64, 64, page_size=16, mask_mode="causal"),
    aiter.APPEND: aiter.Call(aiter.APPEND, "cpu", F16, F16, F16, 64, 64),
}
EVERY = tuple(aiter.OPERATIONS)
BREAKS = [
    ({"device_type": "mps"}, EVERY, "tensors are on mps"),
    ({"dtype_q": torch.float8_e4m3fn, "dtype_kv": torch.float8_e4m3fn}, aiter.ATTENTION, "q is torch.float8_e4m3fn"),
    ({"dtype_q": torch.float64, "dtype_kv": torch.float64}, (aiter.APPEND,), "append_key is torch.float64"),
    ({"dtype_kv": torch.float8_e4m3fnuz}, EVERY, "they are torch.float8_e4m3fnuz"),
    ({"dtype_o": torch.float32}, aiter.ATTENTION, "the output is torch.float32"),
    ({"head_dim_vo": 32}, EVERY, "they are 32 and 64"),
    ({"head_dim_qk": 80, "head_dim_vo": 80}, aiter.ATTENTION, "head_dim_qk=80"),
    ({"head_dim_qk": 256, "head_dim_vo": 256}, (aiter.PAGED,), "head_dim_qk=256"),
    ({"group_size": 17}, (aiter.DECODE,), "there are 17"),
    ({"mask_mode": "custom"}, aiter.PREFILL, "there is a custom mask"),
    ({"position_encoding": "alibi"}, aiter.ATTENTION, "pos_encoding_mode='ALIBI'"),
    ({"kv_layout": "HND"}, (aiter.PAGED,), "kv_layout='HND' with page_size=16"),
    ({"page_size": 48}, (aiter.DECODE,), "page_size=48"),
    ({"window_left": 0}, (aiter.SINGLE, aiter.RAGGED), "window_left=0"),
    ({"logits_soft_cap": 2.0}, (aiter.SINGLE, aiter.RAGGED), "logits_soft_cap=2.0 may reach no kernel"),
    ({"logits_soft_cap": 2.0, "window_left": 3}, (aiter.DECODE,), "logits_soft_cap=2.0 would be applied after"),
    ({"q_len_per_req": 2}, (aiter.DECODE,), "q_len_per_req=2"),
    ({"variant": "{}"}, aiter.ATTENTION, "there is a custom variant"),
    ({"is_captured": True}, aiter.BATCHES, "use_cuda_graph=True"),
    ({"is_batch_invariant": True}, aiter.BATCHES, "it splits by rules of its own"),
    ({"has_hidden_rows": True}, aiter.ATTENTION, "some queries see none"),
    ({"missing_workspace": 8}, (aiter.DECODE,), "float_workspace_buffer is 8 bytes too small"),
]


def test_every_rule_is_broken_by_a_call_and_by_no_other(monkeypatch):
    monkeypatch.setattr(aiter, "DEVICE_TYPE", "cpu")
    assert [aiter.why_not(call) for call in BASE.values()] == [None] * len(BASE)
    broken = set()
    for changes, operations, reason in BREAKS:
        for operation, call in BASE.items():
            refusal = aiter.why_not(dataclasses.replace(call, **changes))
            said = None if refusal is None else refusal.reason
            assert (said is not None and said.startswith(reason)) == (operation in operations), (
                changes,
                operation,
                said,
            )
            if said is not None:
                assert f"{aiter.OPERATIONS[operation]} needs " in said
                broken.add((said.split(" needs ")[1], operation))
    assert broken == {(rule.needs, operation) for rule in aiter.CALL_RULES for operation in rule.operations}


def plan_arguments(operation, changes):
    """Return wrapper and plan of a batch that AITER does, with changes; lengths of requests are ``lengths``."""
    changes = dict(changes)
    lengths = changes.pop("lengths", ((5, 9), (3, 20)))
    made = {"backend": "aiter", **changes.pop("wrapper", {})}
    workspace = torch.empty(made.pop("bytes", 1 << 20), dtype=torch.uint8)
    head_dim, page_size = changes.pop("head_dim", 64), changes.pop("page_size", 16)
    heads = (changes.pop("num_qo_heads", 4), 2, head_dim)
    q_starts = starts(n for n, _ in lengths)
    if operation == aiter.RAGGED:
        wrapper = prefill.BatchPrefillWithRaggedKVCacheWrapper(workspace, **made)
        return wrapper, (q_starts, starts(n for _, n in lengths), *heads), changes, None
    batch = paged.make_batch([n for _, n in lengths], page_size, 2, head_dim, F16, made.get("kv_layout", "NHD"))
    if operation == aiter.PAGED:
        wrapper = prefill.BatchPrefillWithPagedKVCacheWrapper(workspace, **made)
        return wrapper, (q_starts, *batch.table, *heads, page_size), changes, batch
    return (
        decode.BatchDecodeWithPagedKVCacheWrapper(workspace, **made),
        (*batch.table, *heads, page_size),
        changes,
        batch,
    )


def buffers(**sizes):
    return {name: torch.empty(size, dtype=torch.int32) for name, size in sizes.items()}


PREFILL_GRAPH = {
    "use_cuda_graph": True,
    **buffers(qo_indptr_buf=3, paged_kv_indptr_buf=3, paged_kv_indices_buf=9, paged_kv_last_page_len_buf=2),
}
DECODE_GRAPH = {
    "use_cuda_graph": True,
    **buffers(paged_kv_indptr_buffer=3, paged_kv_indices_buffer=9, paged_kv_last_page_len_buffer=2),
}


@pytest.mark.parametrize(
    ("operation", "changes", "reason"),
    [
        (aiter.RAGGED, {"kv_data_type": torch.float8_e4m3fn}, "they are torch.float8_e4m3fn, beside torch.float16"),
        (aiter.RAGGED, {"o_data_type": torch.float32}, "the output is torch.float32"),
        (aiter.RAGGED, {"custom_mask": torch.ones(105, dtype=torch.bool)}, "there is a custom mask"),
        (aiter.RAGGED, {"pos_encoding_mode": "ROPE_LLAMA"}, "pos_encoding_mode='ROPE_LLAMA'"),
        (aiter.RAGGED, {"logits_soft_cap": 3.0}, "logits_soft_cap=3.0"),
        (aiter.RAGGED, {"wrapper": {"variant": VARIANT}}, "there is a custom variant"),
        (aiter.DECODE, {"wrapper": {"variant": VARIANT}}, "there is a custom variant"),
        (aiter.RAGGED, {"fixed_split_size": 64}, "splits by rules of its own"),
        (aiter.RAGGED, {"causal": True, "lengths": ((5, 4),)}, "some queries see none"),
        (aiter.PAGED, {"wrapper": {"kv_layout": "HND"}}, "kv_layout='HND' with page_size=16"),
        (aiter.PAGED, {"wrapper": PREFILL_GRAPH}, "use_cuda_graph=True"),
        (aiter.PAGED, {"disable_split_kv": True}, "splits by rules of its own"),
        (aiter.PAGED, {"lengths": ((2, 0), (1, 1))}, "some queries see none"),
        (aiter.PAGED, {"head_dim": 256}, "head_dim_qk=256"),
        (aiter.DECODE, {"wrapper": DECODE_GRAPH}, "use_cuda_graph=True"),
        (aiter.DECODE, {"batch_invariant": True}, "splits by rules of its own"),
        (aiter.DECODE, {"q_len_per_req": 2}, "q_len_per_req=2"),
        (aiter.DECODE, {"page_size": 24}, "page_size=24: paged_attention_v1 needs a page_size that divides 32"),
        (aiter.DECODE, {"num_qo_heads": 34}, "there are 17"),
        (aiter.DECODE, {"lengths": ((1, 0), (1, 1))}, "some queries see none"),
        (aiter.DECODE, {"wrapper": {"bytes": 512}}, "float_workspace_buffer is 576 bytes too small"),
        (aiter.DECODE, {"logits_soft_cap": 3.0, "window_left": 3}, "applied after window_left=3"),
    ],
)
def test_plans_that_it_would_not_honour_are_refused(only_aiter, monkeypatch, operation, changes, reason):
    calls = fake_aiter.install(monkeypatch, WHEEL)
    wrapper, arguments, options, _ = plan_arguments(operation, changes)
    with pytest.raises(
        UnsupportedConfigError, match="backend='aiter' cannot do this: .*or use backend='fa2'"
    ) as caught:
        wrapper.plan(*arguments, **options)
    assert reason in str(caught.value) and f"{aiter.OPERATIONS[operation]} needs" in str(caught.value)
    assert calls == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kv_layout": "NHD", "packed_custom_mask": torch.zeros(6, dtype=torch.uint8)}, "there is a custom mask"),
        ({"o_dtype": torch.float32}, "the output is torch.float32"),
        ({"logits_soft_cap": 2.0}, "logits_soft_cap=2.0"),
        ({"pos_encoding_mode": "ALIBI"}, "pos_encoding_mode='ALIBI'"),
        ({"window_left": 0}, "window_left=0"),
        ({"kv_len": 0}, "there are no keys"),
        ({"variant": VARIANT}, "there is a custom variant"),
    ],
)
def test_single_calls_that_it_would_not_honour_are_refused(only_aiter, monkeypatch, changes, reason):
    calls = fake_aiter.install(monkeypatch, WHEEL)
    kv_len = changes.get("kv_len", 9)
    options = {name: value for name, value in changes.items() if name != "kv_len"}
    with pytest.raises(UnsupportedConfigError, match=f"backend='aiter' cannot do this: {reason}"):
        prefill.single_prefill_with_kv_cache(
            random(5, 4, 64), random(kv_len, 2, 64), random(kv_len, 2, 64), **options, backend="aiter"
        )
    assert calls == []


def run_broken(name, monkeypatch):
    """Run something that only tensors say AITER cannot do, after a plan that it can do."""
    operation = RUN_OPERATIONS[name.split()[0]]
    wrapper, arguments, options, batch = plan_arguments(operation, {"wrapper": {"backend": run_broken.backend}})
    wrapper.plan(*arguments, **options)
    q = random(2 if operation == aiter.DECODE else 8, 4, 64)
    kv = (random(29, 2, 64), random(29, 2, 64)) if batch is None else (batch.cache,)
    given = {}
    if name.endswith("sinks"):
        given["sinks"] = torch.zeros(4)
    elif name == "decode lse":
        given["return_lse"] = True
    elif name.endswith("scales"):
        given["k_scale"] = torch.ones(2)
    elif name == "decode q":
        q = random(2, 4, 128)[..., :64]
    elif name == "decode out":
        given["out"] = torch.empty(2, 8, 64, dtype=F16)[:, :4]
    elif name in ("decode strides", "paged strides"):
        # Pages of keys lie 2 * 16 tokens apart, those of values 16.
        kv = ((batch.cache[:, 0], batch.cache[:, 1].contiguous()),)
    elif name == "paged bytes":
        monkeypatch.setattr(aiter, "MAX_PAGED_BYTES", 4096)
    wrapper.run(q, *kv, **given)


# What is said, and the rule that is broken.
RUNS = {
    "ragged sinks": ("sinks are given", "no sinks"),
    "paged sinks": ("sinks are given", "no sinks"),
    "decode sinks": ("sinks are given", "no sinks"),
    "decode lse": ("return_lse=True, and it returns none", "no return_lse"),
    "ragged scales": ("q_scale, k_scale or v_scale is a tensor", "scales that are numbers"),
    "paged scales": ("q_scale, k_scale or v_scale is a tensor", "scales that are numbers"),
    "decode scales": ("q_scale, k_scale or v_scale is a tensor", "scales that are numbers"),
    "decode q": ("strides are [512, 128, 1] and [256, 64, 1]", "heads of q and of the output without gaps"),
    "decode out": ("strides are [256, 64, 1] and [512, 64, 1]", "heads of q and of the output without gaps"),
    "decode strides": (
        "they have [4096, 128, 64, 1] and [2048, 128, 64, 1]",
        "keys and values with the same strides",
    ),
    "paged strides": (
        "strides are [4096, 128, 64, 1] and [2048, 128, 64, 1]",
        "keys and values whose pages are the same whole number of tokens apart",
    ),
    "paged bytes": ("they span 49152 bytes", "keys and values of at most 2 GiB each"),
}
RUN_OPERATIONS = {"ragged": aiter.RAGGED, "paged": aiter.PAGED, "decode": aiter.DECODE}


def test_every_rule_of_runs_has_a_case():
    cases = {(RUN_OPERATIONS[name.split()[0]], need) for name, (_, need) in RUNS.items()}
    rules = {(operation, rule.needs) for rule in aiter.RUN_RULES for operation in rule.operations}
    # Appends and single calls have tests of their own.
    assert cases == {(operation, need) for operation, need in rules if operation not in (aiter.APPEND, aiter.SINGLE)}


@pytest.mark.parametrize("backend", ["aiter", "auto"])
@pytest.mark.parametrize("name", RUNS)
def test_runs_that_it_would_not_honour(cpu, monkeypatch, caplog, name, backend):
    """By the argument they are refused, by the environment they are this package's, and the log says why."""
    calls = fake_aiter.install(monkeypatch, WHEEL)
    what, need = RUNS[name]
    reason = f"{what}: {aiter.OPERATIONS[RUN_OPERATIONS[name.split()[0]]]} needs {need}"
    monkeypatch.setattr(run_broken, "backend", backend, raising=False)
    if backend == "aiter":
        with pytest.raises(UnsupportedConfigError, match="backend='aiter' cannot do this") as caught:
            run_broken(name, monkeypatch)
        assert f"cannot do this: {reason}; or use backend='fa2'" in str(caught.value)
        assert cpu.launches == []
    else:
        monkeypatch.setenv("FLASHINFER_JIT_BACKEND", "aiter")
        with caplog.at_level(logging.WARNING):
            run_broken(name, monkeypatch)
            run_broken(name, monkeypatch)
        # Once, however often it happens.
        assert caplog.text.count(f"this package's kernels are used instead of AITER's: {reason}") == 1
        assert len(cpu.launches) >= 2
    assert calls == []


@pytest.mark.parametrize("backend", ["aiter", "auto"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layout": "HND"}, "new keys, new values and pages without gaps"),
        ({"cache": torch.float8_e4m3fnuz}, "they are torch.float8_e4m3fnuz, beside torch.float16"),
        ({"dim": 128}, "new keys, new values and pages without gaps"),
        ({"heads": 4}, "new keys, new values and pages without gaps"),
    ],
)
def test_appends_that_it_would_not_honour(cpu, monkeypatch, caplog, changes, reason, backend):
    calls = fake_aiter.install(monkeypatch, WHEEL)
    monkeypatch.setenv("FLASHINFER_JIT_BACKEND", "aiter")
    layout = changes.get("layout", "NHD")
    sizes = (4, 2) if layout == "NHD" else (2, 4)
    cache = torch.zeros(3, 2, *sizes, changes.get("dim", 64), dtype=F16).to(changes.get("cache", F16))[..., :64]
    new = random(1, changes.get("heads", 2), 64)[:, :: changes.get("heads", 2) // 2]
    numbers = [torch.tensor(x, dtype=torch.int32) for x in ([0], [2])]
    table = [torch.tensor(x, dtype=torch.int32) for x in ([1], [0, 1], [3])]
    arguments = (new, new.clone() if new.is_contiguous() else new, *numbers, cache, *table, layout, backend)
    if backend == "aiter":
        with pytest.raises(UnsupportedConfigError, match="backend='aiter' cannot do this") as caught:
            page.append_paged_kv_cache(*arguments)
        assert reason in str(caught.value) and cpu.launches == []
    else:
        with caplog.at_level(logging.WARNING):
            page.append_paged_kv_cache(*arguments)
        assert reason in caplog.text and len(cpu.launches) == 1
    assert calls == []


def test_the_environment_asks_for_it_where_it_can(cpu, monkeypatch, caplog):
    """One run by AITER, with this package's kernels ready; calls that it cannot do are launched; fa2 is never AITER."""
    calls = fake_aiter.install(monkeypatch, WHEEL)
    q, k, v = random(5, 4, 64), random(9, 2, 64), random(9, 2, 64)
    prefill.single_prefill_with_kv_cache(q, k, v)
    assert (len(calls), len(cpu.launches)) == (0, 1)
    monkeypatch.setenv("FLASHINFER_JIT_BACKEND", "aiter")
    prefill.single_prefill_with_kv_cache(q, k, v)
    assert (len(calls), len(cpu.launches)) == (1, 1)
    prefill.single_prefill_with_kv_cache(q, k, v, backend="fa2")
    with caplog.at_level(logging.WARNING):
        prefill.single_prefill_with_kv_cache(q, k, v, logits_soft_cap=5.0)
        decode.single_decode_with_kv_cache(q[0], k, v)
    assert (len(calls), len(cpu.launches)) == (1, 4)
    assert "logits_soft_cap=5.0 may reach no kernel: flash_attn_func needs no logits_soft_cap" in caplog.text
    assert "AITER has no function for single_decode_with_kv_cache" in caplog.text
    wrapper, arguments, options, batch = plan_arguments(aiter.PAGED, {"wrapper": {"backend": "auto"}})
    wrapper.plan(*arguments, **options)
    assert wrapper._backend == "aiter" and wrapper._cached_module is not None
    wrapper.run(random(8, 4, 64), batch.cache)
    assert (len(calls), len(cpu.launches)) == (2, 4)
    wrapper.plan(*arguments, custom_mask=torch.ones(105, dtype=torch.bool))
    assert wrapper._backend == "fa2"
    wrapper.run(random(8, 4, 64), batch.cache)
    assert (len(calls), len(cpu.launches)) == (2, 5)
    wrapper.plan(*arguments, **options)
    assert wrapper._backend == "aiter"
    # FlashInfer's older form with options of which AITER has other opinions.
    wrapper.forward(random(8, 4, 64), batch.cache, pos_encoding_mode="ALIBI")
    wrapper.forward(random(8, 4, 64), batch.cache, window_left=3)
    assert (len(calls), len(cpu.launches)) == (3, 6) and calls[-1][1]["window_size"] == (3, -1)
    wrapper, arguments, options, batch = plan_arguments(aiter.DECODE, {"wrapper": {"backend": "auto"}})
    wrapper.plan(*arguments, **options)
    q = random(2, 4, 64)
    for changes in ({}, {"sm_scale": 0.5}, {"sm_scale": 0.5, "logits_soft_cap": 2.0, "window_left": 2}, {}):
        wrapper.forward(q, batch.cache, **changes)
    assert (len(calls), len(cpu.launches)) == (6, 7)
    assert [a["scale"] for _, a in calls[3:]] == [1 / 8, 0.5, 1 / 8]


@pytest.mark.parametrize("operation", aiter.BATCHES)
def test_runs_copy_nothing_to_the_host(only_aiter, monkeypatch, operation):
    fake_aiter.install(monkeypatch, WHEEL)
    wrapper, arguments, options, batch = plan_arguments(operation, {})
    wrapper.plan(*arguments, **options)
    q = random(2 if operation == aiter.DECODE else 8, 4, 64)
    kv = (random(29, 2, 64), random(29, 2, 64)) if batch is None else (batch.cache,)
    out, lse = torch.empty_like(q), torch.zeros(4, len(q))
    monkeypatch.setattr(wrapper._plan_made.aiter, "_called", lambda *a, **k: (out, lse))

    def fail(*_, **__):
        raise AssertionError("a run reads device memory")

    for name in ("item", "tolist", "numpy", "cpu", "to", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, fail)
    wrapper.run(q, *kv, out=out, **({} if operation == aiter.DECODE else {"return_lse": True}))


def test_compiled_graphs_call_it(only_aiter, monkeypatch):
    calls = fake_aiter.install(monkeypatch, WHEEL)
    q, k, v = random(5, 4, 64), random(9, 2, 64), random(9, 2, 64)

    def called(q, k, v):
        return prefill.single_prefill_with_kv_cache(q, k, v, causal=True, backend="aiter", return_lse=True)

    result = torch.compile(called, backend="aot_eager", fullgraph=True)(q, k, v)
    assert_close(result, attention_reference(q, k, v, causal=True))
    for operation, num_tokens in ((aiter.PAGED, 8), (aiter.DECODE, 2)):
        wrapper, arguments, options, batch = plan_arguments(operation, {})
        wrapper.plan(*arguments, **options)
        q = random(num_tokens, 4, 64)
        compiled = torch.compile(lambda q, cache, run=wrapper.run: run(q, cache), backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(q, batch.cache), wrapper.run(q, batch.cache))
    assert len(calls) == 5


class TestReleases:
    """Which AITER is installed."""

    def refusal(self):
        with pytest.raises(UnsupportedConfigError) as caught:
            prefill.single_prefill_with_kv_cache(random(5, 4, 64), random(9, 2, 64), random(9, 2, 64), backend="aiter")
        assert str(caught.value).endswith("; or use backend='fa2' (this package's kernels)")
        return str(caught.value)

    def test_none(self, only_aiter, monkeypatch):
        fake_aiter.install(monkeypatch, WHEEL)
        fake_aiter.install_version(monkeypatch, None)
        assert "AITER is not installed (no distribution amd-aiter or aiter): install it" in self.refusal()

    @pytest.mark.parametrize("version", ["0.1.19", "0.1.7", "0.1.7.post2.dev18+gabcdef0", "0.1.20.dev3+ge11da613978d"])
    def test_unknown(self, only_aiter, monkeypatch, version):
        fake_aiter.install(monkeypatch, WHEEL)
        fake_aiter.install_version(monkeypatch, version)
        said = self.refusal()
        assert f"amd-aiter {version} is unknown" in said and "aiter_releases.py" in said
        assert all(name in said for name in RELEASES)

    def test_commits_are_known_by_their_digits(self):
        for release in aiter_releases.RELEASES:
            assert aiter_releases.find(fake_aiter.version_of(release)) is release
        assert aiter_releases.find("0.1.4.dev7+ge11da61.d20250301") is RELEASES["ROCm/aiter e11da613978c"]
        assert aiter_releases.find("0.1.4.dev7+ge11da6") is None
        assert aiter_releases.find("0.1.7.post2.dev18") is WHEEL

    @pytest.mark.parametrize(
        "signature", [None, "q, k, v", WHEEL.functions["flash_attn_func"].replace("True", "False")]
    )
    def test_other_functions(self, only_aiter, monkeypatch, signature):
        fake_aiter.install(monkeypatch, WHEEL)
        function = None if signature is None else fake_aiter.make_function("flash_attn_func", signature, [])
        monkeypatch.setattr(sys.modules["aiter"], "flash_attn_func", function)
        said = self.refusal()
        assert "aiter.flash_attn_func is not that of AITER 0.1.7.post2.dev18: expected (q, k, v, dropout_p=0.0" in said
        assert f"got {'nothing' if signature is None else f'({signature})'}: reinstall it" in said

    def test_operators_have_the_signature_of_their_schema(self, monkeypatch):
        fake_aiter.install(monkeypatch, WHEEL)
        name, hidden = "reshape_and_cache_flash", sys.modules["aiter"].reshape_and_cache_flash
        assert aiter.signature_text(hidden, name) == WHEEL.functions[name]
        assert aiter.signature_text(hidden, "an_operator_that_is_not_there") == "*args, **kwargs"
        library = torch.library.Library("aiter", "FRAGMENT")
        library.define("with_defaults(Tensor key, str kv_cache_dtype, Tensor? k_scale=None, int kv_layout=-1) -> ()")
        expected = "key, kv_cache_dtype, k_scale=None, kv_layout=-1"
        assert aiter.signature_text(hidden, "with_defaults") == expected

    def test_functions_that_were_not_read(self, only_aiter, monkeypatch):
        fake_aiter.install(monkeypatch, RELEASES["ROCm/aiter 0056982d17eb"])
        said = self.refusal()
        assert "the signature of aiter.flash_attn_func is not known for AITER ROCm/aiter 0056982d17eb" in said
        assert "install one of 0.1.7.post2.dev18, ROCm/aiter 00472f7dfb39" in said

    def test_an_import_that_fails(self, only_aiter, monkeypatch):
        fake_aiter.install(monkeypatch, WHEEL)
        monkeypatch.setitem(sys.modules, "aiter", None)
        assert "amd-aiter 0.1.7.post2.dev18+rocm7.2 cannot be imported" in self.refusal()

    def test_what_is_installed_is_printed(self, monkeypatch, capsys):
        fake_aiter.install(monkeypatch, WHEEL)
        aiter.main()
        printed = capsys.readouterr().out.splitlines()
        assert printed[:2] == ["amd-aiter 0.1.7.post2.dev18+rocm7.2", f"known: {WHEEL.name}, from {WHEEL.source}"]
        assert printed[2:] == [f"{name}({WHEEL.functions[name]})" for name in aiter.OPERATIONS.values()]

    def test_without_a_gpu(self, only_aiter):
        assert "tensors are on cpu: flash_attn_func needs tensors on an AMD GPU" in self.refusal()


def test_signatures_are_signatures():
    for release in aiter_releases.RELEASES:
        assert set(release.functions) <= set(aiter.OPERATIONS.values())
        assert len(release.commit) in (0, 40)
        for name, text in release.functions.items():
            assert aiter.signature_text(fake_aiter.make_function(name, text, []), name) == text
