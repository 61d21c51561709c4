"""Cascades on both emulated GPUs: levels of shared keys give what attention over all keys at once gives."""

import copy
import math
import pickle

import pytest
import torch

from flashinfer_jit import (
    BatchDecodeWithSharedPrefixPagedKVCacheWrapper,
    BatchPrefillWithSharedPrefixPagedKVCacheWrapper,
    MultiLevelCascadeAttentionWrapper,
    emulator,
)
from flashinfer_jit.jit import kernels
from flashinfer_jit.merge import merge_key
from flashinfer_jit.testing import TOLERANCES, attention_reference

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, E4M3 = torch.float16, torch.float8_e4m3fn
SIZES = HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE = 4, 1, 64, 16


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(F16)


class Pages:
    """A cache that hands out its pages in a scattered order."""

    def __init__(self):
        self.cache = torch.full((40, 2, PAGE_SIZE, KV_HEADS, HEAD_DIM), math.nan, dtype=F16)
        self.free = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()

    def store(self, groups):
        """Put keys and values of each group into pages, and return their page table."""
        indptr, indices, last = [0], [], []
        for k, v in groups:
            for first in range(0, len(k), PAGE_SIZE):
                page = self.free.pop()
                count = min(PAGE_SIZE, len(k) - first)
                self.cache[page, 0, :count], self.cache[page, 1, :count] = (
                    k[first : first + count],
                    v[first : first + count],
                )
                indices.append(page)
                last_count = count
            indptr.append(len(indices))
            last.append(last_count if len(k) else 0)
        return int32(*indptr), int32(*indices), int32(*last)


def make_keys(lengths, seed):
    return [
        (randn(n, KV_HEADS, HEAD_DIM, seed=seed + i), randn(n, KV_HEADS, HEAD_DIM, seed=seed + i + 50))
        for i, n in enumerate(lengths)
    ]


def joined(*parts):
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


@pytest.mark.parametrize(("causal", "window_left"), [(False, -1), (True, -1), (True, 15), (True, 45), (False, 70)])
def test_three_levels(causal, window_left):
    """A system prompt for all, a document for two groups, own keys: as attention over the three in a row."""
    qo_lens = [3, 1, 20, 5]
    system, documents, own = make_keys([40], 100), make_keys([17, 33], 200), make_keys([10, 1, 20, 37], 300)
    pages = Pages()
    tables = [pages.store(level) for level in (system, documents, own)]
    starts = [0, 3, 4, 24, 29]
    q = randn(29, HEADS, HEAD_DIM, seed=1)
    wrapper = MultiLevelCascadeAttentionWrapper(3, torch.empty(4 << 20, dtype=torch.uint8))
    groupings = [int32(0, 29), int32(0, 4, 29), int32(*starts)]
    wrapper.plan(groupings, *map(list, zip(*tables, strict=True)), *SIZES, causal=causal, window_left=window_left)
    o = wrapper.run(q, pages.cache)
    for request, qo_len in enumerate(qo_lens):
        k, v = joined(system[0], documents[request // 2], own[request])
        rows = slice(starts[request], starts[request] + qo_len)
        reference, _ = attention_reference(q[rows], k, v, causal=causal, window_left=window_left)
        assert TOLERANCES[F16].worst(o[rows], reference) <= 1


def test_levels_of_fp8_are_merged_in_the_dtype_of_their_outputs():
    system, own = make_keys([40], 800), make_keys([10, 37], 900)
    pages = Pages()
    tables = [pages.store(level) for level in (system, own)]
    q, cache = randn(5, HEADS, HEAD_DIM, seed=4).to(E4M3), pages.cache.to(E4M3)
    wrapper = MultiLevelCascadeAttentionWrapper(2, torch.empty(4 << 20, dtype=torch.uint8))
    wrapper.plan([int32(0, 5), int32(0, 2, 5)], *map(list, zip(*tables, strict=True)), *SIZES, q_data_type=E4M3)
    o = wrapper.run(q, cache)
    assert o.dtype == torch.bfloat16
    for rows, keys in ((slice(0, 2), own[0]), (slice(2, 5), own[1])):
        k, v = (tensor.to(E4M3) for tensor in joined(system[0], keys))
        assert TOLERANCES[o.dtype].worst(o[rows], attention_reference(q[rows], k, v)[0]) <= 1


@pytest.mark.parametrize("copy_of", [copy.deepcopy, pickle.dumps])
def test_copies_that_would_share_a_plan_are_refused(copy_of):
    wrapper = MultiLevelCascadeAttentionWrapper(1, torch.empty(1 << 20, dtype=torch.uint8))
    with pytest.raises(TypeError, match="a plan is addresses of this process's memory: make a new wrapper"):
        copy_of(wrapper)


def test_decode_with_a_shared_prefix():
    prefix, own = make_keys([100], 400), make_keys([5, 40, 17], 500)
    pages = Pages()
    table = pages.store(own)
    q = randn(3, HEADS, HEAD_DIM, seed=2)
    wrapper = BatchDecodeWithSharedPrefixPagedKVCacheWrapper(torch.empty(4 << 20, dtype=torch.uint8))
    wrapper.begin_forward(*table, HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE)
    o = wrapper.forward(q, *prefix[0], pages.cache)
    wrapper.end_forward()
    for request in range(3):
        k, v = joined(prefix[0], own[request])
        assert (
            TOLERANCES[F16].worst(o[request : request + 1], attention_reference(q[request : request + 1], k, v)[0]) <= 1
        )


def test_prefill_with_a_shared_prefix():
    prefix, own = make_keys([65], 600), make_keys([9, 30], 700)
    pages = Pages()
    table = pages.store(own)
    starts = [0, 9, 20]
    q = randn(20, HEADS, HEAD_DIM, seed=3)
    wrapper = BatchPrefillWithSharedPrefixPagedKVCacheWrapper(torch.empty(4 << 20, dtype=torch.uint8))
    wrapper.begin_forward(int32(*starts), *table, HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE)
    o = wrapper.forward(q, *prefix[0], pages.cache, causal=True, sm_scale=0.2)
    for request in range(2):
        rows = slice(*starts[request : request + 2])
        k, v = joined(prefix[0], own[request])
        reference, _ = attention_reference(q[rows], k, v, causal=True, sm_scale=0.2)
        assert TOLERANCES[F16].worst(o[rows], reference) <= 1


def test_plans_load_the_kernel_that_merges_levels():
    """So a run can be captured, and made where nothing may be compiled."""
    pages = Pages()
    tables = [pages.store(make_keys(lengths, 800)) for lengths in ([16], [5, 9])]
    wrapper = MultiLevelCascadeAttentionWrapper(2, torch.empty(4 << 20, dtype=torch.uint8))
    kernels.forget()
    groupings = [int32(0, 2), int32(0, 1, 2)]
    wrapper.plan(groupings, *map(list, zip(*tables, strict=True)), HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE)
    merging = merge_key(emulator.current_arch(), "float16", "float16", HEAD_DIM)
    assert merging in kernels._memo
    decode = BatchDecodeWithSharedPrefixPagedKVCacheWrapper(torch.empty(4 << 20, dtype=torch.uint8))
    kernels.forget()
    decode.begin_forward(*tables[1], HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE)
    assert merging in kernels._memo


def test_bad_levels_are_refused_by_name():
    workspace = torch.empty(1 << 20, dtype=torch.uint8)
    with pytest.raises(ValueError, match="num_levels=0"):
        MultiLevelCascadeAttentionWrapper(0, workspace)
    with pytest.raises(ValueError, match="qo_indptr_buf_arr must be a list of 2"):
        MultiLevelCascadeAttentionWrapper(2, workspace, use_cuda_graph=True)
    wrapper = MultiLevelCascadeAttentionWrapper(2, workspace)
    table = [[int32(0, 2)] * 2, [int32(0, 1)] * 2, [int32(0)] * 2, [int32(4)] * 2]
    sizes = HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE
    with pytest.raises(ValueError, match="paged_kv_indptr_arr must be a list of 2 tensors"):
        wrapper.plan(table[0], [int32(0, 1)], *table[2:], *sizes)
    with pytest.raises(ValueError, match="pos_encoding_mode='ALIBI' needs positions across levels"):
        wrapper.plan(*table, *sizes, pos_encoding_mode="ALIBI")
    with pytest.raises(ValueError, match=r"last_page_len\[0\]=17"):
        wrapper.plan(*table[:3], [int32(17)] * 2, *sizes, window_left=5)
    for qo_indptr, message in (
        (int32(0, 3, 2), "qo_indptr must not decrease"),
        (int32(0, 1, 2), "qo_indptr has 3 elem"),
    ):
        with pytest.raises(ValueError, match=message):
            wrapper.plan([qo_indptr, int32(0, 2)], *table[1:], *sizes, window_left=5)
    buffers = [[int32(0, 1)] * 2, [int32(0, 1)] * 2, [int32(0)] * 2, [int32(4)] * 2]
    captured = MultiLevelCascadeAttentionWrapper(2, workspace, "NHD", True, *buffers)
    with pytest.raises(ValueError, match="window_left=5 over 2 levels needs masks"):
        captured.plan(*table, *sizes, window_left=5)
    with pytest.raises(ValueError, match="must end with the same number at every level"):
        wrapper.plan([int32(0, 2), int32(0, 3)], *table[1:], *sizes)
