"""Bytes of K and V that kernels ask for, counted on the emulated GPUs: as often as tiles of rows must see them."""

import math

import numpy as np
import pytest
import torch

from emulated import test_batch_decode, test_batch_prefill
from flashinfer_jit.bench_attention import reports_of
from flashinfer_jit.decode import BatchDecodeWithPagedKVCacheWrapper
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.key import KernelKey

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

CASES = test_batch_prefill.CASES
# Causal and windowed, ragged and of every kind of pages; fp8 and a head dimension that fills no whole tile.
PREFILL = (CASES[1], CASES[5], test_batch_prefill.PAGED, CASES[8], CASES[9], CASES[13])
LENGTHS = ((200, 600), (64, 64), (1, 500), (130, 130), (0, 9), (33, 1000))
PAGE_SIZES = (1, 16, 64)


def decode_case(page_size):
    return (torch.float16, None, 128, 8, 2, "NHD", page_size, 1, False, test_batch_decode.PLAIN)


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    for case in PREFILL:
        problem = test_batch_prefill.problem_of(case, arch)
        tile = problem.choose_tile(np.array([qo_len for qo_len, _ in LENGTHS]), True)
        yield problem.kernel_key(tile, case.sinks)
    for page_size in PAGE_SIZES[:2]:
        config = test_batch_decode.config_of(decode_case(page_size))
        yield KernelKey(config, tiling.candidates(config, arch)[0], arch)


def keys_needed(case, tile):
    """Return the keys that tiles of rows see, in whole tiles at the left edge of a window."""
    window_left, tokens = case.options.get("window_left", -1), max(tile.block_q // case.group_size, 1)
    keys = 0
    for qo_len, kv_len in LENGTHS:
        for first in range(0, qo_len, tokens):
            last = min(first + tokens, qo_len) - 1
            begin = max(first + kv_len - qo_len - window_left, 0) if window_left >= 0 else 0
            end = last + kv_len - qo_len + 1 if case.mask == "causal" else kv_len
            keys += max(end - begin // tile.block_kv * tile.block_kv, 0)
    return keys


@pytest.mark.parametrize("case", PREFILL, ids=str)
def test_prefill_reads_what_its_tiles_see(case):
    batch = test_batch_prefill.make(case, LENGTHS)
    wrapper = batch.wrapper()
    batch.plan(wrapper, disable_split_kv=True)
    ((kernel, report),) = reports_of(lambda: batch.run(wrapper))
    config = kernel.key.config
    read = {buffer.name: buffer.read for buffer in report.buffers}
    keys = keys_needed(case, kernel.key.tile) * case.num_kv_heads
    for name, cache, head_dim in zip("kv", batch.caches, (config.head_dim_qk, config.head_dim_vo), strict=True):
        needed = keys * head_dim * cache.element_size()
        assert needed <= read[name] <= 1.05 * needed


@pytest.mark.parametrize("split", [{}, {"disable_split_kv": True}], ids=str)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_decode_reads_every_key_once(page_size, split):
    case = decode_case(page_size)
    kv_lens = [3000, 1333, 64, 0, 1]
    q, batch, _ = test_batch_decode.make(case, kv_lens)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(test_batch_decode.workspace())
    wrapper.plan(*batch.table, *test_batch_decode.sizes(case), **test_batch_decode.plan_options(case), **split)
    cache = tuple(pages.contiguous() for pages in batch.cache.unbind(1))
    reports = [report for _, report in reports_of(lambda: wrapper.run(q, cache))]
    assert len(reports) == (1 if split else 2)
    needed = sum(kv_lens) * math.prod((2, 128, 2))
    buffers = {buffer.name: buffer for buffer in reports[0].buffers}
    assert buffers["k"].read == buffers["v"].read == needed
    if split:
        # The rest is read by many, but comes from memory once, as caches keep it: no more than there is of it.
        others = [buffer for name, buffer in buffers.items() if name not in "kv"]
        traffic = sum(min(buffer.read, buffer.num_bytes) + buffer.written for buffer in others)
        assert 2 * needed + traffic <= 1.02 * 2 * needed
