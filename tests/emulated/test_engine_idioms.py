"""How serving engines call wrappers, beyond what the documentation of FlashInfer's functions says."""

import ctypes
import functools
import math

import numpy as np
import pytest
import torch

import flashinfer_jit
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.plan_buffers import PlanBuffers
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference
from support.paged import make_batch

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16 = torch.float16
KV_LENS, QO_LENS = (40, 70, 21), (5, 33, 21)


@pytest.fixture
def workspace():
    return torch.empty(4 << 20, dtype=torch.uint8)


@pytest.fixture
def stored(monkeypatch):
    """The names of all lists that plans copied to the device."""
    names, store = [], PlanBuffers.store
    monkeypatch.setattr(PlanBuffers, "store", lambda self, lists: names.extend(lists) or store(self, lists))
    return names


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def queries(num_tokens, seed=0):
    return torch.randn(num_tokens, 4, 64, generator=torch.Generator().manual_seed(seed)).to(F16)


def check_requests(o, lse, q, qo_lens, batch, first_request=0, **options):
    first = 0
    for request, qo_len in enumerate(qo_lens, first_request):
        part = slice(first, first + qo_len)
        reference = attention_reference(q[part], batch.keys[request], batch.values[request], **options)
        assert TOLERANCES[F16].worst(o[part], reference[0]) <= 1
        assert LSE_TOLERANCE.worst(lse[part], reference[1]) <= 1
        first += qo_len


def test_prefill_of_the_last_requests_of_a_batch(workspace):
    """The page table is a part of the whole batch's, -1 means no fixed split, and no soft cap reads as 0."""
    batch = make_batch(KV_LENS, 16, 2, 64, F16)
    wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace)
    qo_lens = QO_LENS[1:]
    options = {"causal": True, "sm_scale": 0.1, "logits_soft_cap": None, "fixed_split_size": -1}
    table = batch.indptr[1:], batch.indices, batch.last_page_len[1:]
    wrapper.plan(int32(0, 33, 54), *table, 4, 2, 64, 16, **options)
    assert (wrapper._causal, wrapper._window_left, wrapper._sm_scale) == (True, -1, 0.1)
    assert wrapper._logits_soft_cap == 0.0
    q = queries(sum(qo_lens))
    out = torch.empty_like(q)
    o, lse = wrapper.run(q, batch.cache, k_scale=1.0, v_scale=1.0, out=out, return_lse=True)
    assert o is out
    check_requests(o, lse, q, qo_lens, batch, first_request=1, causal=True, sm_scale=0.1)

    ragged = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(workspace)
    k, v = (torch.cat(parts).to(F16) for parts in (batch.keys, batch.values))
    ragged.plan(int32(0, 33, 54), int32(40, 110, 131), 4, 2, 64, **options)
    o, lse = ragged.run(q, k, v, return_lse=True)
    check_requests(o, lse, q, qo_lens, batch, first_request=1, causal=True, sm_scale=0.1)


def test_options_of_a_layer_do_not_plan_again(workspace, stored):
    """begin_forward() knows the batch, forward() the layer: its scale and cap are no reason for another plan."""
    batch = make_batch(KV_LENS, 16, 2, 64, F16)
    wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace)
    wrapper.begin_forward(int32(0, 5, 38, 59), *batch.table, 4, 2, 64, 16, q_data_type=F16)
    stored.clear()
    q = queries(sum(QO_LENS))
    for sm_scale, cap in ((0.1, 0.0), (0.2, 5.0), (None, 6.0)):
        options = {"sm_scale": sm_scale, "logits_soft_cap": cap}
        o, lse = wrapper.forward_return_lse(q, batch.cache, causal=False, **options)
        check_requests(o, lse, q, QO_LENS, batch, **options)
    assert not stored
    o, lse = wrapper.forward_return_lse(q, batch.cache, causal=True)
    assert stored
    check_requests(o, lse, q, QO_LENS, batch, causal=True)


def test_fixed_buffers_serve_layers_that_see_less(workspace, stored):
    """With use_cuda_graph, what forward() captures is launches: causal and windowed layers use the list as planned."""
    batch = make_batch(KV_LENS, 16, 2, 64, F16)
    buffers = {
        "qo_indptr_buf": 4,
        "paged_kv_indptr_buf": 4,
        "paged_kv_indices_buf": 20,
        "paged_kv_last_page_len_buf": 3,
    }
    wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(
        workspace, use_cuda_graph=True, **{name: torch.zeros(size, dtype=torch.int32) for name, size in buffers.items()}
    )
    wrapper.begin_forward(int32(0, 5, 38, 59), *batch.table, 4, 2, 64, 16, q_data_type=F16)
    stored.clear()
    q = queries(sum(QO_LENS))
    for options in ({"causal": True}, {"causal": True, "window_left": 9}):
        o, lse = wrapper.forward_return_lse(q, batch.cache, **options)
        check_requests(o, lse, q, QO_LENS, batch, **options)
        assert wrapper._causal
    assert not stored
    o, lse = wrapper.forward_return_lse(q, batch.cache, causal=False)
    assert stored
    check_requests(o, lse, q, QO_LENS, batch)


def test_decode_of_a_padded_batch(workspace):
    """Requests that only fill a captured batch have no pages and, by convention, a last page of 1 token."""
    batch = make_batch((40, 70), 16, 2, 64, F16)
    sizes = {"paged_kv_indptr_buffer": 5, "paged_kv_indices_buffer": 30, "paged_kv_last_page_len_buffer": 4}
    wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(
        workspace, use_cuda_graph=True, **{name: torch.zeros(size, dtype=torch.int32) for name, size in sizes.items()}
    )
    indptr = torch.cat([batch.indptr, batch.indptr[-1:], batch.indptr[-1:]])
    last_page_len = torch.cat([batch.last_page_len, int32(1, 1)])
    sizes = (4, 2, 64, 16)
    # All by position, as FlashInfer 0.5 has them: the last but one is the fixed split size.
    options = ("NONE", -1, None, F16, F16, None, 0.1, None, None, True, None, None, -1, False)
    wrapper.plan(indptr, batch.indices[: int(indptr[-1])], last_page_len, *sizes, *options)
    assert (wrapper._window_left, wrapper._logits_soft_cap, wrapper._sm_scale) == (-1, 0.0, 0.1)
    q = queries(4)
    o, lse = wrapper.run(q, batch.cache, k_scale=1.0, v_scale=1.0, return_lse=True)
    assert wrapper._qo_indptr_buf.tolist() == [0, 1, 2, 3, 4]
    check_requests(o, lse, q, (1, 1), batch, sm_scale=0.1)
    assert not o[2:].any()


@pytest.mark.parametrize("use_cuda_graph", [False, True])
def test_options_of_a_layer_do_not_plan_a_decode_again(workspace, stored, use_cuda_graph):
    batch = make_batch(KV_LENS, 1, 2, 64, F16)
    names = ("paged_kv_indptr_buffer", "paged_kv_indices_buffer", "paged_kv_last_page_len_buffer")
    buffers = dict(zip(names, (x.clone() for x in batch.table), strict=True)) if use_cuda_graph else {}
    wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(workspace, use_cuda_graph=use_cuda_graph, **buffers)
    plan = functools.partial(flashinfer_jit.fast_decode_plan, wrapper)
    plan(*batch.table, 4, 2, 64, 1, q_data_type=F16, global_override_indptr_cpu=batch.indptr)
    stored.clear()
    q = queries(3)
    # A cache as pages of one token: their dimension is left out.
    cache = tuple(part.squeeze(1) for part in batch.cache.unbind(1))
    for sm_scale, cap in ((0.1, 0.0), (0.2, 5.0), (None, 6.0)):
        options = {"sm_scale": sm_scale, "logits_soft_cap": cap}
        o, lse = wrapper.forward_return_lse(q, cache, k_scale=None, v_scale=None, **options)
        check_requests(o, lse, q, (1, 1, 1), batch, **options)
    assert not stored
    o, lse = wrapper.forward_return_lse(q, cache, window_left=20)
    assert bool(stored) != use_cuda_graph
    check_requests(o, lse, q, (1, 1, 1), batch, window_left=20)
    assert wrapper._window_left == 20


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_captured_layers_follow_later_plans(arch, workspace, kind):
    """begin_forward() outside the graph, forward() with a layer's options inside: replays see the newest batch."""
    batches = [make_batch(lens, 16, 2, 64, F16, seed=seed) for seed, lens in enumerate(((30, 300, 5), (1, 44, 400)))]
    qo_lens = ((1, 1, 1), (1, 1, 1)) if kind == "decode" else ((2, 6, 4), (1, 5, 6))
    cache, q = torch.zeros(60, 2, 16, 2, 64, dtype=F16), queries(sum(qo_lens[0]))
    sizes, names = (4, 2, 64, 16), ("paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len")
    buffers = dict(zip(names, (torch.zeros(n, dtype=torch.int32) for n in (4, 60, 3)), strict=True))
    if kind == "decode":
        wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(
            workspace, use_cuda_graph=True, **{f"{name}_buffer": buffer for name, buffer in buffers.items()}
        )
        options = {"sm_scale": 0.2, "logits_soft_cap": 5.0}
    else:
        wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(
            workspace,
            use_cuda_graph=True,
            qo_indptr_buf=torch.zeros(4, dtype=torch.int32),
            **{f"{name}_buf": buffer for name, buffer in buffers.items()},
        )
        options = {"sm_scale": 0.2, "causal": True}

    def begin(number):
        batch = batches[number]
        cache[: len(batch.cache)] = batch.cache.nan_to_num()
        starts = () if kind == "decode" else (int32(0, *torch.tensor(qo_lens[number]).cumsum(0).tolist()),)
        table = batch.indptr, batch.indices[: int(batch.indptr[-1])], batch.last_page_len
        wrapper.begin_forward(*starts, *table, *sizes, q_data_type=F16)

    begin(0)
    wrapper.forward(q, cache, **options)
    begin(0)
    active = flashinfer_jit.runtime.current()
    stream, graph, executable = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    previous = active.swap_device(list(ARCHS).index(arch))
    active.call("hipStreamCreate", ctypes.byref(stream))
    active.call("hipStreamBeginCapture", stream, 2)
    with flashinfer_jit.use_stream(stream.value):
        o, lse = wrapper.forward_return_lse(q, cache, **options)
    active.call("hipStreamEndCapture", stream, ctypes.byref(graph))
    active.call("hipGraphInstantiate", ctypes.byref(executable), graph, None, None, 0)
    for number in (1, 0):
        begin(number)
        o.fill_(math.nan)
        active.call("hipGraphLaunch", executable, stream)
        active.call("hipStreamSynchronize", stream)
        check_requests(o, lse, q, qo_lens[number], batches[number], **options)
    active.call("hipGraphExecDestroy", executable)
    active.call("hipGraphDestroy", graph)
    active.call("hipStreamDestroy", stream)
    active.swap_device(previous)


def test_sizes_of_numpy_are_sizes(workspace):
    """Sizes that no plan before has had, so that none is found by comparing equal."""
    sizes = [np.int64(size) for size in (6, 2, 48)]
    table = int32(0, 2), int32(0, 1), int32(3)
    cache = torch.ones(2, 2, 24, 2, 48, dtype=F16)
    decode = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(workspace)
    decode.plan(*table, *sizes, np.int32(24), q_data_type=F16, fixed_split_size=np.int64(1))
    prefill = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace)
    prefill.plan(int32(0, 1), *table, *sizes, np.int32(24), q_data_type=F16, window_left=np.int64(5))
    for wrapper in (decode, prefill):
        ones = torch.ones(1, 6, 48, dtype=F16)
        assert TOLERANCES[F16].worst(wrapper.run(ones, cache), ones.double()) <= 1
