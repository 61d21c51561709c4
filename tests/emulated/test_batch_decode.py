"""Batch decode over a paged cache on both emulated GPUs against attention computed in float64."""

import ctypes
import functools
import itertools
import math

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator
from flashinfer_jit.decode import (
    BatchDecodeWithPagedKVCacheWrapper,
    CUDAGraphBatchDecodeWithPagedKVCacheWrapper,
    _get_range_buf,
    fast_decode_plan,
)
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.kv_cache import kv_source, page_division
from flashinfer_jit.merge import merge_key
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance
from flashinfer_jit.validation import DTYPE_NAMES
from support.decode_reference import decode_reference
from support.paged import make_batch

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
E4M3, E4M3_FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz
E5M2, E5M2_FNUZ = torch.float8_e5m2, torch.float8_e5m2fnuz
PLAIN, WINDOW, CAP = {}, {"window_left": 70}, {"logits_soft_cap": 4.0}
ROPE, ALIBI = {"pos_encoding_mode": "ROPE_LLAMA"}, {"pos_encoding_mode": "ALIBI"}
ROPE_BF16_LSE = Tolerance(6e-3, 0.0)
# dtype, dtype of the cache or None, head_dim, group size, KV heads, layout, page size, query tokens, sinks, options
CASES = (
    (F16, None, 128, 8, 2, "NHD", 16, 1, False, PLAIN),
    (F16, None, 128, 8, 2, "HND", 1, 1, False, PLAIN),
    (BF16, None, 64, 4, 1, "HND", 64, 2, False, WINDOW),
    (BF16, None, 64, 7, 2, "NHD", 5, 1, False, CAP),
    (F16, None, 96, 3, 1, "NHD", 1, 3, True, WINDOW),
    (BF16, None, 128, 1, 3, "HND", 16, 1, False, ROPE),
    (F16, None, 112, 5, 1, "HND", 7, 1, True, ALIBI),
    (BF16, E4M3, 128, 4, 2, "NHD", 32, 1, False, PLAIN),
    (F16, E4M3_FNUZ, 64, 8, 1, "NHD", 1, 1, False, CAP),
    (BF16, E5M2, 64, 16, 1, "HND", 3, 2, True, PLAIN),
    (F16, None, 256, 2, 1, "NHD", 16, 1, False, PLAIN),
    (BF16, None, 64, 32, 1, "NHD", 16, 1, False, PLAIN),
    (F16, None, 128, 128, 1, "HND", 16, 1, False, WINDOW),
    (F16, None, 64, 8, 1, "NHD", 16, 5, True, PLAIN),
    (F16, E5M2_FNUZ, 64, 4, 1, "NHD", 16, 1, False, PLAIN),
)


def config_of(case):
    dtype, dtype_kv, head_dim, group_size, _, _, page_size, _, sinks, options = case
    name = DTYPE_NAMES[dtype]
    return AttentionConfig(
        phase="decode",
        dtype_q=name,
        dtype_kv=DTYPE_NAMES[dtype_kv or dtype],
        dtype_o=name,
        head_dim_qk=head_dim,
        head_dim_vo=head_dim,
        group_size=group_size,
        mask_mode="causal",
        kv_source=kv_source(page_size),
        position_encoding=options.get("pos_encoding_mode", "none").lower(),
        has_window="window_left" in options,
        has_soft_cap="logits_soft_cap" in options,
        has_sinks=sinks,
    )


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    for case in CASES:
        config = config_of(case)
        tile = tiling.smallest_holding(tiling.candidates(config, arch), case[3] * case[7])
        yield KernelKey(config, tile, arch)
        yield merge_key(arch, "float32", config.dtype_o, case[2], case[8])


def workspace(num_bytes=16 << 20):
    # NaN everywhere: what a kernel has not written must not be read.
    return torch.full((num_bytes // 4,), math.nan)


def make(case, kv_lens, seed=0):
    dtype, dtype_kv, head_dim, group_size, num_kv_heads, layout, page_size, qo_len, has_sinks, _ = case
    batch = make_batch(kv_lens, page_size, num_kv_heads, head_dim, dtype_kv or dtype, layout, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    num_heads = group_size * num_kv_heads
    q = torch.randn(len(kv_lens) * qo_len, num_heads, head_dim, generator=generator).to(dtype)
    sinks = torch.randn(num_heads, generator=generator) if has_sinks else None
    return q, batch, sinks


def plan_options(case):
    return {
        "q_data_type": case[0],
        "kv_data_type": case[1],
        "q_len_per_req": case[7],
        **case[9],
    }


def sizes(case):
    return case[3] * case[4], case[4], case[2], case[6]


def assert_right(case, q, batch, sinks, o, lse):
    qo_len = case[7]
    rounded = case[9].get("pos_encoding_mode") == "ROPE_LLAMA" and q.dtype == BF16
    for request, (k, v) in enumerate(zip(batch.keys, batch.values, strict=True)):
        rows = slice(request * qo_len, (request + 1) * qo_len)
        o_reference, lse_reference = decode_reference(q[rows], k, v, sinks=sinks, **case[9])
        assert TOLERANCES[q.dtype].worst(o[rows], o_reference) <= 1
        assert (ROPE_BF16_LSE if rounded else LSE_TOLERANCE).worst(lse[rows], lse_reference) <= 1


def lengths(page_size):
    return [0, 1, page_size - 1, page_size, page_size + 1, 255, 256, 257]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value).removeprefix("torch.") for value in case))
def test_against_float64(case):
    kv_lens = [*lengths(case[6]), 1000]
    q, batch, sinks = make(case, kv_lens)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(), case[5])
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case))
    assert wrapper._plan_info.is_split == ("window_left" not in case[9])
    o, lse = wrapper.run(q, batch.cache, return_lse=True, sinks=sinks)
    assert (o.shape, o.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, q.shape[:2], torch.float32)
    assert_right(case, q, batch, sinks, o, lse)
    # Split in another way, or not at all, it is the same.
    for options in ({"disable_split_kv": True}, {"fixed_split_size": max(48 // case[6], 1)}):
        wrapper.plan(*batch.table, *sizes(case), **plan_options(case), **options)
        assert wrapper._plan_info.is_split != ("disable_split_kv" in options)
        out, out_lse = torch.full_like(q, math.nan), torch.full(q.shape[:2], math.nan)
        returned = wrapper.run(q, batch.cache, return_lse=True, sinks=sinks, out=out, lse=out_lse)
        assert returned[0] is out
        assert returned[1] is out_lse
        assert_right(case, q, batch, sinks, out, out_lse)


def test_cases_cover_the_axes():
    rows = [(case[0], case[5], kv_source(case[6]), case[7] > 1, case[8]) for case in CASES]
    axes = (
        (F16, BF16),
        ("NHD", "HND"),
        ("page_size_1", "page_size_multiple", "page_size_any"),
        (True, False),
        (True, False),
    )
    for (i, first), (j, second) in itertools.combinations(enumerate(axes), 2):
        assert set(itertools.product(first, second)) - {(row[i], row[j]) for row in rows} <= {(BF16, "page_size_1")}


def test_division_by_the_page_size():
    for page_size in (*range(2, 70), 1000, 2**20 - 1, 2**24):
        reciprocal, shift = page_division(page_size)
        assert 0 < reciprocal < 2**32
        for n in (
            0,
            1,
            page_size - 1,
            page_size,
            7 * page_size - 1,
            2**31 - 1,
            (2**31 - 1) // page_size * page_size - 1,
        ):
            assert n * reciprocal >> 32 >> shift == n // page_size


def test_forms_of_the_cache_and_of_plan():
    """Tuples, tensors without the dimension of a page, positional and keyword arguments, names of dtypes."""
    case = CASES[1]
    q, batch, _ = make(case, [40, 3], seed=5)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(), "HND", use_tensor_cores=True)
    wrapper.begin_forward(*batch.table, *sizes(case), "NONE", -1, None, "float16", None, None, None, None, None, True)
    expected = wrapper.forward(q, batch.cache)
    k, v = batch.cache.unbind(1)
    wrapper.plan(*batch.table, *sizes(case), data_type=F16, q_data_type=None)
    for cache in ((k, v), (k.squeeze(2), v.squeeze(2)), batch.cache.squeeze(3)):
        assert torch.equal(wrapper.run(q, cache), expected)
    o, lse = wrapper.forward_return_lse(q, batch.cache)
    assert torch.equal(o, expected)
    assert torch.equal(wrapper.run_return_lse(q, batch.cache)[1], lse)
    wrapper.end_forward()


def test_forward_with_other_options_plans_again():
    case = CASES[0]
    q, batch, _ = make(case, [500, 100], seed=6)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace())
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case))
    other = (*CASES[12][:2], 128, 8, 2, "NHD", 16, 1, False, WINDOW)
    o, lse = wrapper.forward_return_lse(q, batch.cache, window_left=70)
    assert_right(other, q, batch, None, o, lse)


def test_fast_decode_plan():
    case = CASES[0]
    q, batch, _ = make(case, [500, 100], seed=7)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace())
    wrapper.begin_forward = functools.partial(fast_decode_plan, wrapper)
    wrapper.begin_forward(
        *batch.table, *sizes(case), data_type=F16, q_data_type=F16, global_override_indptr_cpu=batch.indptr.clone()
    )
    o, lse = wrapper.run(q, batch.cache, return_lse=True)
    assert_right(case, q, batch, None, o, lse)
    assert torch.equal(_get_range_buf(5, q.device), torch.arange(5, dtype=torch.int32))


@pytest.mark.parametrize("options", [{}, {"fixed_split_size": 4}], ids=str)
def test_scales_that_are_tensors(options):
    """Scales per head, of one element and as numbers, in any mixture; no run sees those of the run before."""
    case = CASES[7]
    q, batch, _ = make(case, [200, 1])
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace())
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case), **options)
    assert wrapper._plan_info.is_split == bool(options)
    q_heads, kv_heads = torch.linspace(0.5, 2, 8), torch.tensor([0.25, 3.0])
    one = torch.tensor(0.5)
    for q_scale, k_scale, v_scale in (
        (q_heads, kv_heads, kv_heads.flip(0)),
        (None, torch.full((4,), 2.0)[::2], 0.5),
        (0.5, one, one.reshape(1, 1)),
        (q_heads.half(), 2.0, kv_heads),
        (None, None, None),
    ):
        o, lse = wrapper.run(q, batch.cache, return_lse=True, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale)
        factors = [
            torch.as_tensor(1.0 if x is None else x).double().reshape(-1, 1) for x in (q_scale, k_scale, v_scale)
        ]
        for request, (k, v) in enumerate(zip(batch.keys, batch.values, strict=True)):
            o_reference, lse_reference = decode_reference(
                q[request : request + 1].double() * factors[0], k.double() * factors[1], v.double() * factors[2]
            )
            assert TOLERANCES[BF16].worst(o[request : request + 1], o_reference) <= 1
            assert LSE_TOLERANCE.worst(lse[request : request + 1], lse_reference) <= 1


def test_plans_prepare_the_kernels_of_sinks(monkeypatch):
    case = CASES[13]
    q, batch, sinks = make(case, [700, 9])
    find, wanted = kernels.get_kernel, []
    monkeypatch.setattr(kernels, "get_kernel", lambda key, *args: wanted.append(key.config) or find(key, *args))
    for use_sinks in (False, True):
        wanted.clear()
        wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace())
        wrapper.plan(*batch.table, *sizes(case), **plan_options(case), use_sinks=use_sinks, fixed_split_size=4)
        assert {config.has_sinks for config in wanted} == {False, use_sinks}
    wanted.clear()
    wrapper.run(q, batch.cache, sinks=sinks)
    # The launch of the merge asks again for what plan() has found.
    assert [config.kernel for config in wanted] == ["merge_states"]


def run_alone_and_together(**options):
    """Return whether each request's result is the same bits alone as in a batch."""
    case = CASES[0]
    kv_lens = [700, 30, 1500, 257]
    q, batch, _ = make(case, kv_lens, seed=8)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace())
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case), **options)
    together, together_lse = wrapper.run(q, batch.cache, return_lse=True)
    assert_right(case, q, batch, None, together, together_lse)
    for request in range(len(kv_lens)):
        first, end = batch.indptr[request : request + 2]
        table = torch.tensor([0, end - first], dtype=torch.int32), batch.indices[first:end].clone()
        wrapper.plan(
            *table, batch.last_page_len[request : request + 1].clone(), *sizes(case), **plan_options(case), **options
        )
        o, lse = wrapper.run(q[request : request + 1], batch.cache, return_lse=True)
        if not (torch.equal(o[0], together[request]) and torch.equal(lse[0], together_lse[request])):
            return False
    return True


@pytest.mark.parametrize(
    "options", [{"batch_invariant": True}, {"fixed_split_size": 16}, {"disable_split_kv": True}], ids=str
)
def test_batch_invariance(options):
    assert run_alone_and_together(**options)


def test_windowed_requests_leave_other_pages_alone():
    case = (F16, None, 128, 128, 1, "HND", 16, 1, False, WINDOW)
    q, batch, _ = make(case, [500], seed=9)
    # The window begins with key 500 - 1 - 70; pages before that key's are never touched.
    for page in batch.indices[: (500 - 1 - 70) // 16].tolist():
        batch.cache[page] = math.nan
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(), "HND")
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case))
    o, lse = wrapper.run(q, batch.cache, return_lse=True)
    assert_right(case, q, batch, None, o, lse)


def test_captured_and_replayed_with_other_lengths(arch):
    """One graph, three batches: plan() fills the same buffers, and a replay needs no Python at all."""
    case = CASES[0]
    batch_size = 5
    buffers = [torch.zeros(n, dtype=torch.int32) for n in (batch_size + 1, 400, batch_size)]
    wrapper = CUDAGraphBatchDecodeWithPagedKVCacheWrapper(workspace(), *buffers)
    cache = torch.zeros(300, 2, 16, 2, 128, dtype=F16)
    q = torch.zeros(batch_size, 16, 128, dtype=F16)
    o, lse = torch.empty_like(q), torch.empty(batch_size, 16)
    active = flashinfer_jit.runtime.current()
    stream, graph, executable = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    previous = active.swap_device(list(ARCHS).index(arch))
    active.call("hipStreamCreate", ctypes.byref(stream))
    for step, kv_lens in enumerate(([16] * 5, [1000, 0, 1, 257, 700], [40, 2000, 15, 16, 17])):
        new_q, batch, _ = make(case, kv_lens, seed=20 + step)
        wrapper.plan(*batch.table, *sizes(case), **plan_options(case))
        q.copy_(new_q)
        cache[: len(batch.cache)] = batch.cache
        if step == 0:
            wrapper.run(q, cache, out=o, lse=lse, return_lse=True)
            active.call("hipStreamBeginCapture", stream, 2)
            with flashinfer_jit.use_stream(stream.value):
                wrapper.run(q, cache, out=o, lse=lse, return_lse=True)
            active.call("hipStreamEndCapture", stream, ctypes.byref(graph))
            active.call("hipGraphInstantiate", ctypes.byref(executable), graph, None, None, 0)
        o.fill_(math.nan)
        lse.fill_(math.nan)
        active.call("hipGraphLaunch", executable, stream)
        active.call("hipStreamSynchronize", stream)
        assert_right(case, q, batch, None, o, lse)
    with pytest.raises(ValueError, match="batch size is fixed"):
        wrapper.plan(buffers[0][:3], buffers[1], buffers[2][:2], *sizes(case), **plan_options(case))
    active.call("hipGraphExecDestroy", executable)
    active.call("hipGraphDestroy", graph)
    active.call("hipStreamDestroy", stream)
    active.swap_device(previous)


def test_no_registers_are_spilled():
    for key in kernel_keys(emulator.current_arch()):
        meta = kernels.get_kernel(key, flashinfer_jit.runtime.current()).meta
        assert meta["vgpr_spills"] == meta["sgpr_spills"] == meta["scratch_bytes"] == 0
        assert meta["vgpr"] + meta["agpr"] <= 512 // key.tile.waves_per_simd
        config = key.config
        if config.kernel == "attention" and config.head_dim_qk <= 128 and key.tile.block_q == 16:
            plain = config.position_encoding == "none" and config.dtype_kv == config.dtype_q
            # RoPE, and conversions with an address for each key, take more; then fewer waves share a SIMD.
            assert meta["vgpr"] <= (128 if plain else 256)


def test_no_requests():
    case = CASES[0]
    q, batch, _ = make(case, [])
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace())
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case))
    assert wrapper.run(q, batch.cache).shape == (0, 16, 128)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"indptr": int32(0, 2)}, ValueError, "indptr has 2 elements and last_page_len 2"),
        ({"indptr": int32(0, 5, 4)}, ValueError, "indptr must not decrease: it is 5 and then 4"),
        ({"indptr": int32(0, 2, 9)}, ValueError, "indptr ends with 9, and indices has 6"),
        ({"indptr": torch.tensor([0, 2, 4])}, ValueError, "Invalid indptr"),
        ({"last_page_len": int32(0, 4)}, ValueError, r"last_page_len\[0\]=0 must be 1 to page_size=16"),
        ({"last_page_len": int32(4, 17)}, ValueError, r"last_page_len\[1\]=17"),
        ({"indices": int32(0, 1, -2, 3)}, ValueError, r"indices\[2\]=-2"),
        ({"num_qo_heads": 15}, ValueError, "num_qo_heads=15"),
        ({"head_dim": 72}, UnsupportedConfigError, "head_dim_qk=72"),
        ({"page_size": 0}, ValueError, "page_size=0"),
        ({"q_data_type": "float64"}, UnsupportedConfigError, "Invalid dtype of q_data_type"),
        ({"kv_data_type": "bfloat16"}, UnsupportedConfigError, "Invalid dtype of kv_data_type"),
        ({"pos_encoding_mode": "YARN"}, KeyError, "Invalid pos_encoding_mode"),
        ({"window_left": -5}, ValueError, "window_left=-5"),
        ({"block_tables": torch.zeros(2, 2)}, UnsupportedConfigError, "block_tables"),
        ({"window_right": 3}, UnsupportedConfigError, "window_right=3"),
        ({"seq_lens": int32(1, 1)}, ValueError, "seq_lens does not agree"),
        ({"q_len_per_req": 0}, ValueError, "q_len_per_req must be >= 1.* got 0"),
        ({"fixed_split_size": 0}, ValueError, "fixed_split_size=0"),
    ],
)
def test_bad_plans_are_refused_by_name(change, error, message):
    case = CASES[0]
    _, batch, _ = make(case, [20, 30])
    heads, kv_heads, head_dim, page_size = sizes(case)
    arguments = {
        "indptr": batch.indptr,
        "indices": batch.indices,
        "last_page_len": batch.last_page_len,
        "num_qo_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "page_size": page_size,
        "q_data_type": F16,
    }
    with pytest.raises(error, match=message):
        BatchDecodeWithPagedKVCacheWrapper(workspace()).plan(**{**arguments, **change})


SHARED = torch.zeros(3, 16, 128, dtype=F16)
MEMORY = torch.zeros(2048)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(3, 16, 128, dtype=F16)}, r"Invalid shape of q: .* = \[2, 16, 128\] as planned"),
        ({"q": torch.zeros(2, 16, 128, dtype=BF16)}, "The dtype of q torch.bfloat16 does not match the q_data_type"),
        ({"paged_kv_cache": torch.zeros(9, 2, 16, 2, 128, dtype=BF16)}, "The dtype of kv torch.bfloat16"),
        ({"paged_kv_cache": torch.zeros(9, 2, 8, 2, 128, dtype=F16)}, "Invalid shape of k_cache"),
        ({"paged_kv_cache": torch.zeros(2, 2, 16, 2, 128, dtype=F16)}, "indices names page"),
        ({"paged_kv_cache": torch.zeros(9, 3, 16, 2, 128, dtype=F16)}, "Invalid shape of paged_kv_cache"),
        ({"out": torch.zeros(2, 16, 64, dtype=F16)}, "Invalid shape of out"),
        ({"lse": torch.zeros(2, 16, dtype=F16), "return_lse": True}, "Invalid dtype of lse"),
        ({"window_left": 3}, "window_left=3 is not the planned one, -1"),
        ({"q_len_per_req": 2}, "q_len_per_req=2 is not the planned one, 1"),
        ({"sinks": torch.zeros(3)}, r"Invalid sinks: expected \[16\] torch.float32"),
        ({"k_scale": -1.0}, "k_scale=-1.0"),
        (
            {"k_scale": torch.ones(16)},
            r"Invalid k_scale: expected a number, or a float32 tensor .* \[2\], on cpu, got \[16\]",
        ),
        ({"q_scale": torch.ones(16, dtype=torch.int32)}, "Invalid q_scale: .* torch.int32"),
        ({"v_scale": torch.tensor([1.0, math.nan])}, "v_scale=nan must be a positive finite number"),
        ({"kv_cache_sf": torch.zeros(3)}, "kv_cache_sf"),
        ({"out": torch.zeros(16, 128, dtype=F16).expand(2, 16, 128)}, "Invalid strides of out: it is written, and st"),
        ({"q": SHARED[:2], "out": SHARED[1:]}, "Invalid out: it is written, and shares memory with q"),
        (
            {"lse": MEMORY[:32].view(2, 16), "out": MEMORY.view(F16).view(2, 16, 128), "return_lse": True},
            "Invalid out: it is written, and shares memory with lse",
        ),
    ],
)
def test_bad_runs_are_refused_by_name(monkeypatch, change, message):
    case = CASES[0]
    q, batch, _ = make(case, [20, 30])
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace())
    with pytest.raises(RuntimeError, match="call plan"):
        wrapper.run(q, batch.cache)
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case))

    def launch(*_args):
        raise AssertionError("launched")

    monkeypatch.setattr(type(flashinfer_jit.runtime.current()), "launch", launch)
    with pytest.raises(ValueError, match=message):
        wrapper.run(**{"q": q, "paged_kv_cache": batch.cache, **change})
    with pytest.raises(KeyError, match="Unrecognized paged_kv_cache type list"):
        wrapper.run(q, [batch.cache])


def test_tables_changed_after_plan_are_refused_by_name(monkeypatch):
    case = CASES[0]
    q, batch, _ = make(case, [20, 30])
    buffers = [torch.zeros(n, dtype=torch.int32) for n in (3, 20, 2)]
    workspaces = workspace()
    for wrapper, indices, last_page_len in (
        (BatchDecodeWithPagedKVCacheWrapper(workspaces), batch.indices, batch.last_page_len),
        (CUDAGraphBatchDecodeWithPagedKVCacheWrapper(workspaces, *buffers), *buffers[1:]),
    ):
        wrapper.plan(*batch.table, *sizes(case), **plan_options(case))
        expected = wrapper.run(q, batch.cache)
        pages = indices[:2].tolist()
        indices[:2] = indices[:2].flip(0)
        assert not torch.equal(wrapper.run(q, batch.cache), expected)
        for tensor, value, message in (
            (indices, len(batch.cache), "indices names page"),
            (last_page_len, 5, "the page table was changed after plan"),
            (last_page_len, 17, r"last_page_len\[0\]=17"),
        ):
            old = int(tensor[0])
            tensor[0] = value
            with monkeypatch.context() as patch, pytest.raises(ValueError, match=message):
                patch.setattr(type(flashinfer_jit.runtime.current()), "launch", None)
                wrapper.run(q, batch.cache)
            tensor[0] = old
        indices[:2] = int32(*pages)
        assert torch.equal(wrapper.run(q, batch.cache), expected)


def test_bad_wrappers_are_refused_by_name():
    for arguments, error, message in (
        ({"kv_layout": "DHN"}, KeyError, "Invalid kv_layout"),
        ({"backend": "fa9"}, ValueError, "backend='fa9'"),
        ({"jit_args": ["x"]}, ValueError, "jit_args must be the 13 values"),
        ({"use_cuda_graph": True}, ValueError, "paged_kv_indptr_buffer must be a torch.Tensor"),
    ):
        with pytest.raises(error, match=message):
            BatchDecodeWithPagedKVCacheWrapper(workspace(), **arguments)


def test_a_workspace_that_is_too_small_splits_less_or_says_so():
    case = CASES[0]
    q, batch, _ = make(case, [1000, 700], seed=11)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace(4096))
    wrapper.plan(*batch.table, *sizes(case), **plan_options(case))
    assert not wrapper._plan_info.is_split
    o, lse = wrapper.run(q, batch.cache, return_lse=True)
    assert_right(case, q, batch, None, o, lse)
    with pytest.raises(ValueError, match="float_workspace_buffer is too small"):
        wrapper.plan(*batch.table, *sizes(case), **plan_options(case), fixed_split_size=4)
