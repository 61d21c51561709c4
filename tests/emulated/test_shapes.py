"""Batches of any shape: lengths, page sizes, strides and splits that Hypothesis finds, against float64; few kernels."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulated import test_batch_decode, test_batch_prefill
from flashinfer_jit.decode import BatchDecodeWithPagedKVCacheWrapper
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.merge import merge_key

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
GROUP_SIZE, HEAD_DIM = 4, 64
EXAMPLES = 10
# Any page size but 1 and the multiples of a tile's granule, which have kernels of their own.
PAGE_SIZES = st.integers(2, 70).filter(lambda size: size % 16)
SPLITS = st.sampled_from([{}, {"disable_split_kv": True}, {"fixed_split_size": 3}])
HEADS = st.integers(1, 3)
LAYOUTS = st.sampled_from(["NHD", "HND"])
LENGTHS = st.lists(st.one_of(st.integers(0, 80), st.integers(0, 700)), min_size=1, max_size=5)

# Both archs are parameters of the test function, which one example after the other sees.
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def prefill_case(page_size, num_kv_heads, layout):
    return test_batch_prefill.Case(
        page_size,
        "causal",
        {},
        F16,
        head_dim=HEAD_DIM,
        group_size=GROUP_SIZE,
        num_kv_heads=num_kv_heads,
        layout=layout,
    )


def decode_case(page_size, num_kv_heads, layout, qo_len):
    return (BF16, None, HEAD_DIM, 7, num_kv_heads, layout, page_size, qo_len, False, test_batch_decode.CAP)


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    for page_size in (None, 5):
        problem = test_batch_prefill.problem_of(prefill_case(page_size, 1, "NHD"), arch)
        for tile in problem.tiles:
            yield problem.kernel_key(tile, False)
        yield problem.merge_key(False)
    config = test_batch_decode.config_of(decode_case(5, 1, "NHD", 1))
    yield KernelKey(config, tiling.candidates(config, arch)[0], arch)
    yield merge_key(arch, "float32", "bfloat16", HEAD_DIM)


def with_gaps(tensor, gap):
    """Return a view with the contents of ``tensor`` and NaN between rows, heads and tokens: other strides."""
    if gap == 0:
        return tensor
    sizes = [size + gap * 16 * (dim >= tensor.ndim - 2) for dim, size in enumerate(tensor.shape)]
    wide = torch.full(sizes, math.nan).to(tensor.dtype)
    view = wide[tuple(slice(size) for size in tensor.shape)]
    view.copy_(tensor)
    return view


@bounded
@given(
    st.lists(st.tuples(st.one_of(st.integers(0, 3), st.integers(0, 90)), st.integers(0, 300)), min_size=1, max_size=5),
    st.one_of(st.none(), PAGE_SIZES),
    *(HEADS, LAYOUTS, SPLITS, st.integers(0, 1), st.integers(0, 2**16)),
)
def test_prefill(lengths, page_size, num_kv_heads, layout, split, gap, seed):
    batch = test_batch_prefill.make(prefill_case(page_size, num_kv_heads, layout), tuple(lengths), seed)
    batch.q = with_gaps(batch.q, gap)
    batch.caches = tuple(with_gaps(cache, gap) for cache in batch.caches)
    wrapper = batch.wrapper()
    batch.plan(wrapper, **split)
    batch.assert_matches(*batch.run(wrapper, return_lse=True))


@bounded
@given(
    *(LENGTHS, PAGE_SIZES, HEADS, LAYOUTS, st.integers(1, 2)),
    st.one_of(SPLITS, st.just({"batch_invariant": True})),
    *(st.integers(0, 1), st.integers(0, 2**16)),
)
def test_decode(kv_lens, page_size, num_kv_heads, layout, qo_len, split, gap, seed):
    case = decode_case(page_size, num_kv_heads, layout, qo_len)
    q, batch, _ = test_batch_decode.make(case, kv_lens, seed)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(test_batch_decode.workspace(), layout)
    wrapper.plan(*batch.table, *test_batch_decode.sizes(case), **test_batch_decode.plan_options(case), **split)
    cache = tuple(with_gaps(pages, gap) for pages in batch.cache.unbind(1))
    o, lse = wrapper.run(with_gaps(q, gap), cache, return_lse=True)
    test_batch_decode.assert_right(case, q, batch, None, o, lse)
