"""Batched prefill over ragged and paged keys on both emulated GPUs against attention computed in float64."""

import ctypes
import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import flashinfer_jit
from flashinfer_jit import (
    BatchPrefillWithPagedKVCacheWrapper,
    BatchPrefillWithRaggedKVCacheWrapper,
    segment_packbits,
)
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.merge import merge_key
from flashinfer_jit.prefill_problem import PrefillOptions, resolve
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance, attention_reference

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
E4M3, E4M3_FNUZ, E5M2, E5M2_FNUZ = (
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)
WINDOW, CAP = {"window_left": 37}, {"logits_soft_cap": 4.0}
ROPE, ALIBI = {"pos_encoding_mode": "ROPE_LLAMA"}, {"pos_encoding_mode": "ALIBI"}


@dataclass(frozen=True)
class Case:
    """One plan: page_size None is ragged."""

    page_size: int | None = None
    mask: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = F16
    dtype_kv: torch.dtype | None = None
    dtype_o: torch.dtype | None = None
    head_dim: int = 64
    head_dim_vo: int | None = None
    group_size: int = 2
    num_kv_heads: int = 2
    layout: str = "NHD"
    sinks: bool = False

    def __str__(self):
        words = [str(self.page_size or "ragged"), self.mask, self.layout, f"d{self.head_dim}", f"g{self.group_size}"]
        words += [str(dtype).removeprefix("torch.") for dtype in (self.dtype, self.dtype_kv, self.dtype_o) if dtype]
        return "-".join([*words, *map(str, self.options.values()), *(["sinks"] if self.sinks else [])])


CASES = (
    Case(),
    Case(None, "causal", WINDOW, BF16, layout="HND", group_size=3, sinks=True),
    Case(None, "custom", CAP, F16, group_size=5, num_kv_heads=1),
    Case(None, "causal", ROPE | CAP, F16, head_dim=128, layout="HND", dtype_o=F32),
    Case(None, "none", ALIBI | WINDOW, BF16, E5M2, head_dim=80, group_size=1),
    Case(None, "causal", {}, BF16, head_dim=192, head_dim_vo=128, group_size=1),
    Case(1, "causal", {}, F16, group_size=4),
    Case(1, "custom", WINDOW, BF16, E4M3, layout="HND", head_dim=128),
    Case(16, "causal", CAP, BF16, head_dim=128, group_size=8, num_kv_heads=1, sinks=True),
    Case(16, "none", WINDOW | ROPE, F16, E4M3_FNUZ, layout="HND", dtype_o=F32),
    Case(5, "custom", ALIBI, BF16, group_size=7, num_kv_heads=1, layout="HND"),
    Case(7, "causal", ROPE, F16, E5M2_FNUZ, head_dim=96),
    Case(64, "none", {}, F16, head_dim=256, group_size=1, sinks=True),
    Case(48, "causal", ALIBI | WINDOW, F16, head_dim=112, group_size=3),
)
# Queries and keys of each request: none of either, of both, fewer keys than queries, pages exactly full.
LENGTHS = ((20, 96), (0, 33), (5, 0), (0, 0), (40, 17), (1, 64), (33, 161), (70, 70))
SPLIT_LENGTHS = ((3, 1500), (20, 40), (1, 700))


@dataclass
class Batch:
    """A batch with everything but its results."""

    case: Case
    lengths: tuple[tuple[int, int], ...]
    q: torch.Tensor
    # Of every request, [kv_len, num_kv_heads, head_dim].
    k: list[torch.Tensor]
    v: list[torch.Tensor]
    masks: list[torch.Tensor] | None
    sinks: torch.Tensor | None
    # What plan() and run() get.
    plan_args: tuple[torch.Tensor, ...]
    caches: tuple[torch.Tensor, ...]

    @property
    def sizes(self):
        case = self.case
        sizes = [case.group_size * case.num_kv_heads, case.num_kv_heads, case.head_dim]
        return [*sizes, case.page_size] if case.page_size else sizes

    @property
    def plan_options(self):
        case = self.case
        options = {"causal": case.mask == "causal", "q_data_type": case.dtype, **case.options}
        options |= {"kv_data_type": case.dtype_kv, "o_data_type": case.dtype_o, "head_dim_vo": case.head_dim_vo}
        if self.masks is not None:
            options["custom_mask"] = torch.cat([mask.flatten() for mask in self.masks])
        return options

    def plan(self, wrapper, **options):
        wrapper.plan(*self.plan_args, *self.sizes, **(self.plan_options | options))

    def run(self, wrapper, **options):
        if self.sinks is not None:
            options["sinks"] = self.sinks
        caches = (self.caches,) if self.case.page_size else self.caches
        return wrapper.run(self.q, *caches, **options)

    def wrapper(self, workspace_bytes=16 << 20, **options):
        wrapper_type = (
            BatchPrefillWithPagedKVCacheWrapper if self.case.page_size else BatchPrefillWithRaggedKVCacheWrapper
        )
        workspace = torch.full((workspace_bytes,), 0x7F, dtype=torch.uint8)
        return wrapper_type(workspace, self.case.layout, **options)

    def reference(self, v_scale=1.0, **options):
        """Return o and lse of all requests."""
        first, parts = 0, []
        for i, (qo_len, _) in enumerate(self.lengths):
            o, lse = attention_reference(
                self.q[first : first + qo_len],
                self.k[i].float(),
                self.v[i].float(),
                causal=self.case.mask == "causal",
                custom_mask=None if self.masks is None else self.masks[i],
                **(self.case.options | options),
            )
            if self.sinks is not None:
                # A key whose value is 0.
                with_sink = torch.logaddexp2(lse, self.sinks.double() * math.log2(math.e))
                o, lse = o * torch.exp2(lse - with_sink)[..., None], with_sink
            parts.append((o * v_scale, lse))
            first += qo_len
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def assert_matches(self, o, lse, v_scale=1.0, **options):
        o_reference, lse_reference = self.reference(v_scale, **options)
        assert (o.dtype, lse.dtype) == (self.case.dtype_o or self.case.dtype, F32)
        assert (o.shape, lse.shape) == (o_reference.shape, lse_reference.shape)
        tolerance = TOLERANCES[self.case.dtype]
        assert tolerance.worst(o / v_scale, o_reference / v_scale) <= 1
        rotated = self.case.options.get("pos_encoding_mode") == "ROPE_LLAMA"
        # The rounding of rotated queries and keys to their dtype moves the logits.
        assert (Tolerance(tolerance.absolute, 0.0) if rotated else LSE_TOLERANCE).worst(lse, lse_reference) <= 1


def int32(values):
    return torch.tensor(np.asarray(values), dtype=torch.int32)


def indptr_of(lengths):
    return int32([0, *itertools.accumulate(lengths)])


def make(case, lengths=LENGTHS, seed=0):
    """Return a batch; caches are NaN wherever no key of the batch is, and pages lie in any order."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    qo_lens, kv_lens = zip(*lengths, strict=True)
    dtype_kv = case.dtype_kv or case.dtype
    heads, dims = case.num_kv_heads, (case.head_dim, case.head_dim_vo or case.head_dim)
    q = random(sum(qo_lens), case.group_size * heads, case.head_dim).to(case.dtype)
    k, v = ([random(length, heads, dim).to(dtype_kv) for length in kv_lens] for dim in dims)
    masks = None
    if case.mask == "custom":
        masks = [random(*shape) > 0.2 for shape in lengths]
        masks[0][3] = False
    sinks = random(q.shape[1]) if case.sinks else None
    caches = []
    if case.page_size is None:
        for parts, dim in ((k, dims[0]), (v, dims[1])):
            cache = torch.full((sum(kv_lens) + 50, heads, dim + 16), math.nan).to(dtype_kv)
            cache[: sum(kv_lens), :, :dim] = torch.cat(parts)
            # The kernel may look no further than the last key.
            cache = cache.transpose(0, 1).contiguous() if case.layout == "HND" else cache
            caches.append(cache[..., :dim])
        return Batch(case, lengths, q, k, v, masks, sinks, (indptr_of(qo_lens), indptr_of(kv_lens)), tuple(caches))

    size = case.page_size
    num_pages = [-(-length // size) for length in kv_lens]
    indices = torch.randperm(sum(num_pages) + 9, generator=generator)[: sum(num_pages)]
    for parts, dim in ((k, dims[0]), (v, dims[1])):
        cache = torch.full((sum(num_pages) + 9, size, heads, dim), math.nan).to(dtype_kv)
        first = 0
        for part, pages in zip(parts, num_pages, strict=True):
            for page in range(pages):
                keys = part[page * size : (page + 1) * size]
                cache[indices[first + page], : len(keys)] = keys
            first += pages
        caches.append(cache.transpose(1, 2).contiguous() if case.layout == "HND" else cache)
    last_page_len = int32([length - (pages - 1) * size for length, pages in zip(kv_lens, num_pages, strict=True)])
    plan_args = (indptr_of(qo_lens), indptr_of(num_pages), indices.int(), last_page_len)
    return Batch(case, lengths, q, k, v, masks, sinks, plan_args, tuple(caches))


def problem_of(case, arch):
    options = {"logits_soft_cap": None, "window_left": -1, "pos_encoding_mode": "NONE"} | case.options
    return resolve(
        PrefillOptions(
            num_qo_heads=case.group_size * case.num_kv_heads,
            num_kv_heads=case.num_kv_heads,
            head_dim_qk=case.head_dim,
            head_dim_vo=case.head_dim_vo,
            page_size=case.page_size,
            has_custom_mask=case.mask == "custom",
            causal=case.mask == "causal",
            sm_scale=None,
            rope_scale=None,
            rope_theta=None,
            q_data_type=case.dtype,
            kv_data_type=case.dtype_kv,
            o_data_type=case.dtype_o,
            **options,
        ),
        arch,
    )


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    for case in CASES:
        problem = problem_of(case, arch)
        tile = problem.choose_tile(np.array([qo_len for qo_len, _ in LENGTHS]), False)
        yield problem.kernel_key(tile, False)
        if case.sinks:
            yield problem.kernel_key(tile, True)
    for case in (RAGGED, PAGED):
        problem = problem_of(case, arch)
        for tile in problem.tiles:
            yield problem.kernel_key(tile, False)
        yield problem.merge_key(False)
    for dtype in ("float16", "float32"):
        yield merge_key(arch, dtype, dtype, 64)


RAGGED, PAGED = CASES[0], CASES[6]
SPLIT = [RAGGED, PAGED, CASES[8], CASES[11]]


def test_cases_cover_the_axes():
    """Every value occurs, and every pair of kind of cache, mask, layout, dtype; and each of them with each option."""
    assert {case.dtype_kv for case in CASES} == {None, E4M3, E4M3_FNUZ, E5M2, E5M2_FNUZ}
    kinds = {None: "ragged", 1: "1", 16: "multiple", 64: "multiple", 48: "multiple"}
    rows = [(kinds.get(case.page_size, "any"), case.mask, case.layout, case.dtype) for case in CASES]
    axes = (("ragged", "1", "multiple", "any"), ("none", "causal", "custom"), ("NHD", "HND"), (F16, BF16))
    for (i, first), (j, second) in itertools.combinations(enumerate(axes), 2):
        missing = set(itertools.product(first, second)) - {(row[i], row[j]) for row in rows}
        assert missing <= {("1", "none"), ("any", "none"), ("multiple", "custom")}
    for option in ("window_left", "logits_soft_cap", "pos_encoding_mode"):
        assert {case.page_size is None for case in CASES if option in case.options} == {True, False}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case):
    batch = make(case)
    wrapper = batch.wrapper()
    batch.plan(wrapper)
    o, lse = batch.run(wrapper, return_lse=True)
    batch.assert_matches(o, lse)
    assert torch.equal(batch.run(wrapper), o)


@pytest.mark.parametrize("case", SPLIT, ids=str)
def test_split_and_unsplit_agree(case):
    batch = make(case, SPLIT_LENGTHS)
    wrapper = batch.wrapper()
    for options in ({}, {"fixed_split_size": -(-256 // (case.page_size or 1))}, {"disable_split_kv": True}):
        batch.plan(wrapper, **options)
        assert (wrapper._plan_info.num_partial_rows > 0) == ("disable_split_kv" not in options)
        batch.assert_matches(*batch.run(wrapper, return_lse=True))


def test_workspace_too_small_to_split():
    """Without room for parts nothing is split, unless parts were asked for: then it says what is missing."""
    batch = make(RAGGED, SPLIT_LENGTHS)
    wrapper = batch.wrapper(workspace_bytes=256)
    batch.plan(wrapper)
    assert wrapper._plan_info.num_partial_rows == 0
    batch.assert_matches(*batch.run(wrapper, return_lse=True))
    with pytest.raises(ValueError, match="fixed_split_size=256"):
        batch.plan(wrapper, fixed_split_size=256)


@pytest.mark.parametrize("options", [{"fixed_split_size": 128}, {"disable_split_kv": True}], ids=str)
def test_results_do_not_depend_on_the_batch(options):
    """Bit for bit, whatever else is in the batch."""
    batch = make(RAGGED, ((9, 600), (70, 300), (1, 1000), (200, 200)))
    wrapper = batch.wrapper()
    batch.plan(wrapper, **options)
    together = batch.run(wrapper, return_lse=True)
    qo_starts, kv_starts = (indptr_of(lens) for lens in zip(*batch.lengths, strict=True))
    for i, (qo_len, kv_len) in enumerate(batch.lengths):
        tokens, keys = slice(qo_starts[i], qo_starts[i + 1]), slice(kv_starts[i], kv_starts[i + 1])
        wrapper.plan(int32([0, qo_len]), int32([0, kv_len]), *batch.sizes, **options)
        alone = wrapper.run(batch.q[tokens], *(cache[keys] for cache in batch.caches), return_lse=True)
        assert all(torch.equal(a, b[tokens]) for a, b in zip(alone, together, strict=True))


def test_order_of_pages_does_not_matter():
    batch = make(PAGED)
    wrapper = batch.wrapper()
    batch.plan(wrapper)
    before = batch.run(wrapper)
    order = torch.randperm(batch.caches[0].shape[0], generator=torch.Generator().manual_seed(1))
    batch.caches = tuple(cache[order] for cache in batch.caches)
    indices = torch.argsort(order).int()[batch.plan_args[2]]
    batch.plan_args = (*batch.plan_args[:2], indices, batch.plan_args[3])
    batch.plan(wrapper)
    assert torch.equal(batch.run(wrapper), before)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_forms_of_a_cache(layout):
    """One tensor, a tuple of two, and either without the dimension of pages of size 1; a list is refused."""
    batch = make(Case(1, "causal", group_size=4, layout=layout))
    wrapper = batch.wrapper()
    batch.plan(wrapper)
    k, v = batch.caches
    o = wrapper.run(batch.q, (k, v))
    page_dim = 1 if layout == "NHD" else 2
    whole = torch.stack((k, v), 1)
    for cache in (whole, whole.squeeze(page_dim + 1), (k.squeeze(page_dim), v.squeeze(page_dim))):
        assert torch.equal(wrapper.run(batch.q, cache), o)
    with pytest.raises(KeyError, match="Unrecognized paged_kv_cache type list"):
        wrapper.run(batch.q, [k, v])


def test_one_wrapper_many_plans():
    """Nothing of an earlier plan is left in a later one: masks, windows, dtypes, head dims."""
    wrapper = make(RAGGED).wrapper()
    order = [CASES[2], RAGGED, CASES[4], CASES[2], CASES[5]]
    for seed, case in enumerate(order):
        batch = make(case, LENGTHS[seed % 3 :], seed)
        batch.plan(wrapper)
        batch.assert_matches(*batch.run(wrapper, return_lse=True))


def test_packed_masks():
    """A packed mask wins over the other, and both win over causal."""
    batch = make(CASES[2])
    wrapper = batch.wrapper()
    batch.plan(wrapper, causal=True)
    o = batch.run(wrapper)
    begins = torch.tensor([0, *itertools.accumulate(mask.numel() for mask in batch.masks)])
    packed, indptr = segment_packbits(batch.plan_options["custom_mask"], begins, bitorder="little")
    assert indptr[-1] == len(packed)
    batch.plan(wrapper, packed_custom_mask=packed, custom_mask=None)
    assert torch.equal(batch.run(wrapper), o)
    batch.plan(wrapper, packed_custom_mask=packed, custom_mask=torch.zeros(1, dtype=torch.bool))
    assert torch.equal(batch.run(wrapper), o)


def test_scales():
    """Numbers and tensors of one element mean the same; those per head multiply each head."""
    batch = make(RAGGED, SPLIT_LENGTHS)
    wrapper = batch.wrapper()
    batch.plan(wrapper, sm_scale=0.1)
    o, lse = batch.run(wrapper, q_scale=0.5, k_scale=torch.tensor(3.0), v_scale=torch.tensor([0.25]), return_lse=True)
    batch.assert_matches(o, lse, v_scale=0.25, sm_scale=0.15)
    per_head = torch.tensor([0.5, 2.0])
    o, lse = batch.run(wrapper, k_scale=per_head, v_scale=per_head, return_lse=True)
    batch.k = [part.float() * per_head[:, None] for part in batch.k]
    batch.v = [part.float() * per_head[:, None] for part in batch.v]
    o_reference, lse_reference = batch.reference(sm_scale=0.1)
    assert TOLERANCES[F16].worst(o / 2, o_reference / 2) <= 1
    assert LSE_TOLERANCE.worst(lse, lse_reference) <= 1


def test_sinks_with_split_keys():
    batch = make(CASES[8], SPLIT_LENGTHS)
    wrapper = batch.wrapper()
    batch.plan(wrapper, use_sinks=True)
    assert wrapper._plan_info.num_partial_rows > 0
    batch.assert_matches(*batch.run(wrapper, return_lse=True))


def test_older_form():
    """forward() runs with its own options; run() after it with them too, until the next plan."""
    for case, caches in ((RAGGED, lambda b: b.caches), (PAGED, lambda b: (b.caches,))):
        batch = make(case)
        wrapper = batch.wrapper()
        wrapper.begin_forward(*batch.plan_args, *batch.sizes)
        for mask, options in (("causal", {"causal": True}), ("none", {"window_left": 37}), ("none", {})):
            batch.case = Case(
                case.page_size, mask, WINDOW if "window_left" in options else {}, group_size=case.group_size
            )
            o, lse = wrapper.forward_return_lse(batch.q, *caches(batch), **options)
            batch.assert_matches(o, lse)
            assert torch.equal(wrapper.forward(batch.q, *caches(batch), **options), o)
            assert wrapper._causal == (mask == "causal")
        wrapper.end_forward()


def test_results_are_written_where_told():
    """With out and lse nothing is allocated, in any strides of out."""
    batch = make(RAGGED, SPLIT_LENGTHS)
    wrapper = batch.wrapper()
    batch.plan(wrapper)
    expected = batch.run(wrapper, return_lse=True)
    out = torch.full((batch.q.shape[1], batch.q.shape[0], 80), math.nan, dtype=F16)[..., :64].transpose(0, 1)
    lse = torch.full(batch.q.shape[:2], math.nan)
    with _NoAllocation():
        o, s = batch.run(wrapper, out=out, lse=lse, return_lse=True)
    assert o is out
    assert s is lse
    assert torch.equal(out, expected[0])
    assert torch.equal(lse, expected[1])


@pytest.mark.parametrize("case", [PAGED, CASES[9]], ids=str)
def test_a_partial_state_is_merged(case):
    batch = make(case)
    wrapper = batch.wrapper()
    batch.plan(wrapper)
    o, lse = batch.run(wrapper, return_lse=True)
    generator = torch.Generator().manual_seed(5)
    other = torch.randn(o.shape, generator=generator).to(o.dtype), 3 * torch.randn(lse.shape, generator=generator)
    # Also where queries see no key here, or none there.
    other[1][::3] = -math.inf
    expected = flashinfer_jit.merge_state(o, lse, *other)
    kept = tuple(x.clone() for x in other)
    merged = batch.run(wrapper, return_lse=True, partial_state=other)
    assert all(torch.equal(a, b) for a, b in zip(merged, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(other, kept, strict=True))
    out = torch.empty_like(o)
    assert batch.run(wrapper, out=out, partial_state=other) is out
    assert torch.equal(out, expected[0])


def test_a_table_changed_after_plan_is_refused_by_name():
    batch = make(PAGED)
    wrapper = batch.wrapper()
    batch.plan(wrapper)
    o = batch.run(wrapper)
    indices, page = batch.plan_args[2], int(batch.plan_args[2][0])
    indices[0] = len(batch.caches[0])
    with pytest.raises(ValueError, match="indices names page"):
        batch.run(wrapper)
    indices[0] = page
    assert torch.equal(batch.run(wrapper), o)


class _NoAllocation(torch.utils._python_dispatch.TorchDispatchMode):
    """Refuses operators that allocate; views do not."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.is_view, f"{func} in run()"
        return func(*args, **(kwargs or {}))


def test_run_compiles_nothing(monkeypatch):
    batch = make(PAGED, SPLIT_LENGTHS)
    wrapper = batch.wrapper()
    batch.plan(wrapper)

    def refuse(key):
        raise AssertionError(f"{key} is compiled by run()")

    monkeypatch.setattr(kernels, "build_kernel", refuse)
    batch.assert_matches(*batch.run(wrapper, return_lse=True))


def test_plan_asks_only_for_the_kernels_it_needs(monkeypatch):
    batch = make(RAGGED)
    asked = []
    get = kernels.get_kernel
    monkeypatch.setattr(kernels, "get_kernel", lambda key, runtime: asked.append(key) or get(key, runtime))
    batch.plan(batch.wrapper(), disable_split_kv=True)
    assert len(asked) == 1


@pytest.mark.parametrize("case", [RAGGED, PAGED], ids=str)
def test_captured_and_replayed_with_other_plans(arch, case):
    """A graph of run() computes again from whatever plans and tensors hold: other lengths, splits and pages."""
    first, others = (
        make(case, ((30, 90), (8, 20), (4, 900))),
        (((1, 700), (20, 800), (9, 9)), ((0, 0), (42, 50), (0, 9))),
    )
    batch_size, max_pages = 3, 1000 + 50
    buffers = {"qo_indptr_buf": batch_size + 1}
    if case.page_size:
        buffers |= {"paged_kv_indptr_buf": batch_size + 1, "paged_kv_indices_buf": max_pages * 2}
        buffers |= {"paged_kv_last_page_len_buf": batch_size}
    else:
        buffers["kv_indptr_buf"] = batch_size + 1
    wrapper = first.wrapper(use_cuda_graph=True, **{n: torch.zeros(s, dtype=torch.int32) for n, s in buffers.items()})
    first.plan(wrapper)
    q = first.q.clone()
    shape = list(first.caches[0].shape)
    shape[0] = 2000
    caches = [torch.full(shape, math.nan, dtype=F16) for _ in range(2)]

    def fill(batch):
        q[: len(batch.q)] = batch.q
        for cache, values in zip(caches, batch.caches, strict=True):
            cache[: len(values)] = values

    fill(first)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
    arguments = (q, tuple(caches)) if case.page_size else (q, *caches)
    wrapper.run(*arguments, out=out, lse=lse, return_lse=True)
    first.assert_matches(out, lse)

    active = flashinfer_jit.runtime.current()
    stream, graph, executable = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    previous = active.swap_device(list(ARCHS).index(arch))
    active.call("hipStreamCreate", ctypes.byref(stream))
    active.call("hipStreamBeginCapture", stream, 2)
    with flashinfer_jit.use_stream(stream.value):
        wrapper.run(*arguments, out=out, lse=lse, return_lse=True)
    active.call("hipStreamEndCapture", stream, ctypes.byref(graph))
    active.call("hipGraphInstantiate", ctypes.byref(executable), graph, None, None, 0)
    for seed, lengths in enumerate(others, 1):
        batch = make(case, lengths, seed)
        fill(batch)
        batch.plan(wrapper)
        out.fill_(math.nan)
        active.call("hipGraphLaunch", executable, stream)
        active.call("hipStreamSynchronize", stream)
        batch.assert_matches(out[: len(batch.q)], lse[: len(batch.q)])
    active.call("hipGraphExecDestroy", executable)
    active.call("hipGraphDestroy", graph)
    active.call("hipStreamDestroy", stream)
    active.swap_device(previous)
    with pytest.raises(ValueError, match="at most that of its first plan, 42, got 43"):
        make(case, ((43, 50), (0, 0), (0, 0))).plan(wrapper)
    with pytest.raises(ValueError, match="batch size .* is fixed: its buffers are for 3 requests, got 2"):
        make(case, ((4, 50), (1, 1))).plan(wrapper)


def test_attributes_that_engines_read():
    batch = make(PAGED)
    wrapper = batch.wrapper()
    assert wrapper._causal is wrapper._window_left is wrapper._plan_info is wrapper._cached_module is None
    batch.plan(wrapper, window_left=5, logits_soft_cap=3.0, sm_scale=0.5)
    attributes = (wrapper._causal, wrapper._window_left, wrapper._logits_soft_cap, wrapper._sm_scale)
    assert attributes == (True, 5, 3.0, 0.5)
    assert (wrapper._backend, wrapper._use_cuda_graph, wrapper._fixed_batch_size) == ("fa2", False, 0)
    buffers = (wrapper._qo_indptr_buf, wrapper._paged_kv_indptr_buf, wrapper._paged_kv_indices_buf)
    for buffer, given in zip((*buffers, wrapper._paged_kv_last_page_len_buf), batch.plan_args, strict=True):
        assert torch.equal(buffer, given)
    assert wrapper._float_workspace_buffer.numel() == 16 << 20
    assert wrapper._int_workspace_buffer.dtype == torch.uint8
    assert not wrapper.is_cuda_graph_enabled
    with pytest.raises(AttributeError, match="has no attribute '_nonsense'"):
        _ = wrapper._nonsense


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"qo_indptr": int32([0, 30, 20])}, ValueError, r"qo_indptr\[1\] is 30 and qo_indptr\[2\] is 20"),
        ({"qo_indptr": int32([1, 30, 40])}, ValueError, "qo_indptr must .* begin with 0"),
        ({"qo_indptr": int32([0, 9])}, ValueError, "kv_indptr"),
        ({"qo_indptr": torch.tensor([0, 9, 9])}, ValueError, "torch.int32"),
        ({"qo_indptr": [0, 9, 9]}, TypeError, "qo_indptr must be a torch.Tensor, got list"),
        ({"num_qo_heads": 3}, ValueError, "num_qo_heads=3"),
        ({"num_kv_heads": 0}, ValueError, "num_kv_heads=0"),
        ({"head_dim_qk": 72}, UnsupportedConfigError, "head_dim_qk=72"),
        ({"q_data_type": torch.float32}, UnsupportedConfigError, "q_data_type"),
        ({"q_data_type": "floaty"}, UnsupportedConfigError, "q_data_type='floaty'"),
        ({"kv_data_type": BF16}, UnsupportedConfigError, "kv_data_type"),
        ({"pos_encoding_mode": "ROPE"}, KeyError, "Invalid pos_encoding_mode"),
        ({"window_left": -2}, ValueError, "window_left=-2"),
        ({"logits_soft_cap": -1.0}, ValueError, "logits_soft_cap"),
        ({"sm_scale": 0.0}, ValueError, "sm_scale"),
        ({"rope_theta": 1e4}, ValueError, "rope_theta"),
        ({"use_fp16_qk_reduction": True}, UnsupportedConfigError, "use_fp16_qk_reduction=True"),
        ({"prefix_len_ptr": int32([1])}, UnsupportedConfigError, "prefix_len_ptr"),
        ({"token_pos_in_items_ptr": int32([1])}, UnsupportedConfigError, "token_pos_in_items_ptr"),
        ({"token_pos_in_items_len": 3}, UnsupportedConfigError, "token_pos_in_items_len=3"),
        ({"max_item_len_ptr": int32([1])}, UnsupportedConfigError, "max_item_len_ptr"),
        ({"custom_mask": torch.ones(7, dtype=torch.bool)}, ValueError, r"custom_mask: expected \[900\]"),
        ({"custom_mask": torch.ones(900)}, ValueError, "dtype of custom_mask"),
        ({"packed_custom_mask": torch.ones(9, dtype=torch.uint8)}, ValueError, "packed_custom_mask"),
        ({"fixed_split_size": 0}, ValueError, "fixed_split_size=0"),
        ({"fixed_split_size": 2.5}, ValueError, r"fixed_split_size=2"),
        ({"seq_lens": int32([20, 21])}, ValueError, "seq_lens does not agree"),
        ({"seq_lens_q": int32([20, 21])}, ValueError, "seq_lens_q does not agree"),
        ({"max_sequence_kv": 19}, ValueError, "max_sequence_kv=19 is less than the length of request 0, 20"),
        ({"max_token_per_sequence": 8}, ValueError, "max_token_per_sequence=8"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_plans_of_both_wrappers(changes, error, message):
    """Refused by name, before any launch; and an older plan is not run by mistake."""
    sizes = {"num_qo_heads": 2, "num_kv_heads": 2, "head_dim_qk": 64}
    ragged = {"qo_indptr": int32([0, 30, 45]), "kv_indptr": int32([0, 20, 40])}
    pages = {"page_size": 10, "paged_kv_indptr": int32([0, 2, 4]), "paged_kv_indices": int32([0, 1, 2, 3])}
    paged = {"qo_indptr": int32([0, 30, 45]), **pages, "paged_kv_last_page_len": int32([10, 10])}
    for wrapper, arguments in ((make(RAGGED).wrapper(), ragged), (make(PAGED).wrapper(), paged)):
        wrapper.plan(**(arguments | sizes))
        with pytest.raises(error, match=message):
            wrapper.plan(**(arguments | sizes | changes))
        with pytest.raises(RuntimeError, match=r"call plan\(\) first"):
            make(RAGGED).run(wrapper) if arguments is ragged else make(PAGED).run(wrapper)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"paged_kv_indptr": int32([0, 2, 1])}, ValueError, "paged_kv_indptr must not decrease"),
        ({"paged_kv_indptr": int32([0, 2, 9])}, ValueError, "indices has 4 elements"),
        ({"paged_kv_indices": int32([0, 1, -2, 3])}, ValueError, "must not be negative"),
        ({"paged_kv_last_page_len": int32([10, 11])}, ValueError, r"last_page_len\[1\]=11"),
        ({"paged_kv_last_page_len": int32([0, 1])}, ValueError, r"last_page_len\[0\]=0"),
        ({"paged_kv_last_page_len": int32([1])}, ValueError, "last_page_len"),
        ({"page_size": 0}, ValueError, "page_size=0"),
        ({"page_size": 2.0}, ValueError, "page_size=2.0"),
        ({"block_tables": int32([[1]])}, UnsupportedConfigError, "block_tables"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_page_tables(changes, error, message):
    sizes = {"num_qo_heads": 2, "num_kv_heads": 2, "head_dim_qk": 64}
    pages = {"page_size": 10, "paged_kv_indptr": int32([0, 2, 4]), "paged_kv_indices": int32([0, 1, 2, 3])}
    arguments = {"qo_indptr": int32([0, 30, 45]), **pages, "paged_kv_last_page_len": int32([10, 10])}
    wrapper = make(PAGED).wrapper()
    with pytest.raises(error, match=message):
        wrapper.plan(**(arguments | sizes | changes))


SHARED = torch.zeros(46, 2, 64, dtype=F16)


def empty_cache(**changes):
    values = {"pages": 4, "size": 10, "heads": 2, "dim": 64, "dtype": F16} | changes
    return torch.zeros(values["pages"], 2, values["size"], values["heads"], values["dim"], dtype=values["dtype"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": torch.zeros(44, 2, 64, dtype=F16)}, ValueError, r"Invalid shape of q: expected .*\[45, 2, 64\]"),
        ({"q": torch.zeros(45, 4, 64, dtype=F16)}, ValueError, "Invalid shape of q"),
        ({"q": [1.0]}, TypeError, "q must be a torch.Tensor, got list"),
        ({"q": torch.zeros(45, 2, 64, dtype=BF16)}, ValueError, "does not match the q_data_type torch.float16"),
        ({"q": torch.zeros(45, 2, 65, dtype=F16)[..., 1:]}, ValueError, "multiples of 16 bytes"),
        ({"paged_kv_cache": empty_cache(dtype=BF16)}, ValueError, "does not match the kv_data_type torch.float16"),
        ({"paged_kv_cache": empty_cache(heads=1)}, ValueError, "as planned, got"),
        ({"paged_kv_cache": empty_cache(size=16)}, ValueError, "as planned, got"),
        ({"paged_kv_cache": empty_cache(pages=3)}, ValueError, "holds page 3, and paged_kv_cache has 3 pages"),
        ({"paged_kv_cache": empty_cache()[:, :1]}, ValueError, "Invalid shape of paged_kv_cache"),
        ({"out": torch.zeros(45, 2, 32, dtype=F16)}, ValueError, "Invalid shape of out: expected"),
        ({"out": torch.zeros(45, 2, 64)}, ValueError, "Invalid dtype of out: expected torch.float16"),
        ({"lse": torch.zeros(45, 1), "return_lse": True}, ValueError, "Invalid shape of lse"),
        ({"lse": torch.zeros(45, 2, dtype=F16), "return_lse": True}, ValueError, "Invalid dtype of lse"),
        ({"window_left": 3}, ValueError, "window_left=3 is not the planned one, -1"),
        ({"sinks": torch.zeros(3)}, ValueError, "Invalid sinks"),
        ({"k_scale": 0.0}, ValueError, "k_scale=0.0"),
        ({"v_scale": torch.ones(3)}, ValueError, "Invalid v_scale"),
        ({"partial_state": [1, 2]}, ValueError, "partial_state must be a tuple"),
        (
            {"partial_state": (SHARED[:45], torch.zeros(45, 2)), "out": SHARED[:45]},
            *(ValueError, r"Invalid out: it is written, and shares memory with partial_state\[0\]"),
        ),
        ({"partial_state": (torch.zeros(45, 2, 64), None)}, ValueError, r"Invalid dtype of partial_state\[0\]"),
        ({"sinks": [0.0, 0.0]}, TypeError, "sinks must be a torch.Tensor, got list"),
        ({"out": torch.zeros(1, 2, 64, dtype=F16).expand(45, 2, 64)}, ValueError, "Invalid strides of out: it is wri"),
        ({"out": SHARED[:45], "q": SHARED[1:]}, ValueError, "Invalid out: it is written, and shares memory with q"),
        ({"kv_cache_sf": 1}, UnsupportedConfigError, "kv_cache_sf"),
        ({"skip_softmax_threshold_scale_factor": 1.0}, UnsupportedConfigError, "skip_softmax"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_runs(changes, error, message):
    wrapper = make(PAGED).wrapper()
    q = torch.zeros(45, 2, 64, dtype=F16)
    with pytest.raises(RuntimeError, match=r"call plan\(\) first"):
        wrapper.run(q, empty_cache())
    wrapper.plan(int32([0, 30, 45]), int32([0, 2, 4]), int32([0, 1, 2, 3]), int32([10, 10]), 2, 2, 64, 10, causal=False)
    with pytest.raises(error, match=message):
        wrapper.run(**({"q": q, "paged_kv_cache": empty_cache()} | changes))


def test_bad_wrappers():
    workspace = torch.empty(1024, dtype=torch.uint8)
    with pytest.raises(KeyError, match="Invalid kv_layout 'NDH'"):
        BatchPrefillWithPagedKVCacheWrapper(workspace, "NDH")
    with pytest.raises(ValueError, match="backend='fa3' is unknown"):
        BatchPrefillWithRaggedKVCacheWrapper(workspace, backend="fa3")
    with pytest.raises(ValueError, match="jit_args must be the 13 values"):
        BatchPrefillWithRaggedKVCacheWrapper(workspace, jit_args=["x"])
    with pytest.raises(ValueError, match="kv_indptr_buf must be a torch.Tensor with use_cuda_graph=True, got NoneType"):
        BatchPrefillWithRaggedKVCacheWrapper(workspace, use_cuda_graph=True, qo_indptr_buf=int32([0, 0]))
    buffers = {"qo_indptr_buf": int32([0, 0]), "kv_indptr_buf": int32([0, 0, 0])}
    with pytest.raises(ValueError, match="The length of kv_indptr_buf must be 2"):
        BatchPrefillWithRaggedKVCacheWrapper(workspace, use_cuda_graph=True, **buffers)
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(
        workspace, use_cuda_graph=True, qo_indptr_buf=int32([0, 0]), kv_indptr_buf=int32([0, 0])
    )
    with pytest.raises(ValueError, match="custom_mask_buf must be given to the constructor"):
        wrapper.plan(int32([0, 1]), int32([0, 1]), 2, 2, 64, custom_mask=torch.ones(1, dtype=torch.bool))


def test_masks_of_a_captured_wrapper():
    """Packed masks are copied to the buffers that the constructor was given."""
    batch = make(CASES[2], ((20, 30), (7, 9)))
    buffers = {
        name: torch.zeros(3, dtype=torch.int32) for name in ("qo_indptr_buf", "kv_indptr_buf", "mask_indptr_buf")
    }
    mask = torch.zeros(1000, dtype=torch.uint8)
    wrapper = batch.wrapper(use_cuda_graph=True, custom_mask_buf=mask, **buffers)
    batch.plan(wrapper)
    assert buffers["mask_indptr_buf"].tolist() == [0, 75, 83]
    assert wrapper._custom_mask_buf is mask
    batch.assert_matches(*batch.run(wrapper, return_lse=True))
