"""torch.compile: calls are operators of one full graph, and give what they give in eager mode."""

import pytest
import torch

import flashinfer_jit
from emulated import test_batch_decode, test_batch_prefill
from flashinfer_jit.decode import BatchDecodeWithPagedKVCacheWrapper


@pytest.fixture(autouse=True)
def forget_traces(on_arch):
    torch.compiler.reset()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).half()


def same_compiled(function, *args):
    """Run ``function`` in eager mode and as one full graph; both must agree bit for bit."""
    eager = function(*args)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)(*args)
    for a, b in zip(eager, compiled, strict=True):
        assert torch.equal(a, b)


def test_single_prefill():
    q, k, v = random(20, 4, 64), random(50, 2, 64, seed=1), random(50, 2, 64, seed=2)

    def layer(q, k, v):
        o, lse = flashinfer_jit.single_prefill_with_kv_cache_return_lse(q * 2, k, v, causal=True, scale_v=0.5)
        return o + flashinfer_jit.single_prefill_with_kv_cache(q, k, v, k_scale=torch.tensor(0.5)), lse

    same_compiled(layer, q, k, v)


def test_single_decode():
    q, k, v = random(4, 64), random(50, 2, 64, seed=1), random(50, 2, 64, seed=2)

    def layer(q, k, v):
        o, lse = flashinfer_jit.single_decode_with_kv_cache(q * 2, k, v, return_lse=True, k_scale=0.5)
        return o + flashinfer_jit.single_decode_with_kv_cache(q, k, v, v_scale=torch.tensor(0.5)), lse

    same_compiled(layer, q, k, v)


@pytest.mark.parametrize("case", [test_batch_prefill.RAGGED, test_batch_prefill.PAGED], ids=str)
def test_batch_prefill_wrappers(case):
    batch = test_batch_prefill.make(case)
    wrapper = batch.wrapper()
    batch.plan(wrapper)

    def layer(q, k, v):
        caches = ((k, v),) if case.page_size else (k, v)
        out = torch.empty_like(q)
        wrapper.run(q, *caches, out=out, v_scale=2.0)
        return (*wrapper.run(q * 2, *caches, return_lse=True), out + 1)

    same_compiled(layer, batch.q, *batch.caches)


def batch_decode(case):
    q, batch, sinks = test_batch_decode.make(case, [300, 5], seed=3)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(test_batch_decode.workspace(), case[5])
    wrapper.plan(*batch.table, *test_batch_decode.sizes(case), **test_batch_decode.plan_options(case), use_sinks=True)
    return wrapper, q, batch.cache, sinks


def test_batch_decode_wrapper():
    case = test_batch_decode.CASES[4]
    wrapper, q, cache, sinks = batch_decode(case)

    def layer(q, cache, sinks):
        out = torch.empty_like(q)
        wrapper.run(q, cache, out=out, v_scale=2.0, sinks=sinks, q_len_per_req=3)
        return (*wrapper.run(q * 2, cache, return_lse=True, k_scale=torch.tensor(0.5), window_left=70), out + 1)

    same_compiled(layer, q, cache, sinks)
    wrapper.reset_workspace_buffer(test_batch_decode.workspace(), torch.empty(1 << 20, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="call plan"):
        torch.compile(lambda *x: wrapper.run(*x), backend="aot_eager", fullgraph=True)(q, cache)


@pytest.mark.parametrize("is_tuple", [False, True])
def test_what_surrounds_attention(is_tuple):
    """Rotating, appending, merging: between calls of attention, a graph is not broken by them."""
    q, k, v = random(9, 4, 64), random(9, 2, 64, seed=1), random(9, 2, 64, seed=2)
    indptr, lens = torch.tensor([0, 4, 9], dtype=torch.int32), torch.tensor([20, 5], dtype=torch.int32)
    table = (torch.tensor([2, 0, 1], dtype=torch.int32), torch.tensor([0, 2, 3], dtype=torch.int32))
    last_page_len = torch.tensor([4, 5], dtype=torch.int32)

    def layer(q, k, v, cache):
        requests, positions = flashinfer_jit.get_batch_indices_positions(indptr, lens, q.shape[0])
        q, k = flashinfer_jit.apply_rope_pos_ids(q, k, positions, rope_theta=1e5)
        flashinfer_jit.apply_llama31_rope_inplace(q, k, indptr, lens)
        caches = (cache[:, 0], cache[:, 1]) if is_tuple else cache
        flashinfer_jit.append_paged_kv_cache(k * 2, v, requests, positions, caches, *table, last_page_len)
        state = q, q[..., 0].float()
        merged = flashinfer_jit.merge_state(*state, *state)
        flashinfer_jit.merge_state_in_place(*merged, *state)
        stacked = torch.stack([merged[0], q], 1), torch.stack([merged[1], state[1]], 1)
        return (*merged, *flashinfer_jit.merge_states(*stacked), cache + 1)

    caches = [torch.zeros(3, 2, 16, 2, 64, dtype=torch.float16) for _ in range(2)]
    eager = layer(q, k, v, caches[0])
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(q, k, v, caches[1])
    assert caches[0].any()
    for a, b in zip((*eager, caches[0]), (*compiled, caches[1]), strict=True):
        assert torch.equal(a, b)


def test_operators_are_what_their_schemas_say():
    """PyTorch's own checks: results alias nothing, only what is named is written, fakes have the real shapes."""
    namespace = torch.ops.flashinfer_jit
    # Operators are defined when their modules are imported.
    assert flashinfer_jit.prefill and flashinfer_jit.decode and flashinfer_jit.rope and flashinfer_jit.cascade
    q, k, v = random(20, 4, 64), random(50, 2, 64, seed=1), random(50, 2, 64, seed=2)
    layout = {"kv_layout": "NHD", "pos_encoding_mode": "NONE", "sm_scale": None, "window_left": -1}
    none = ("logits_soft_cap", "rope_scale", "rope_theta", "q_scale", "k_scale", "v_scale")
    common = layout | dict.fromkeys(none)
    tensors = ("o_dtype", "custom_mask", "packed_custom_mask", "q_scale_tensor", "k_scale_tensor", "v_scale_tensor")
    decode = common | dict.fromkeys(tensors[3:])
    prefill = common | dict.fromkeys(tensors) | {"causal": True, "backend": "auto"}
    for return_lse in (False, True):
        torch.library.opcheck(namespace.single_prefill.default, (q, k, v), prefill | {"return_lse": return_lse})
        torch.library.opcheck(namespace.single_decode.default, (q[0], k, v), decode | {"return_lse": return_lse})
    batch = test_batch_prefill.make(test_batch_prefill.RAGGED)
    wrapper = batch.wrapper()
    batch.plan(wrapper)
    out, lse = torch.empty_like(batch.q), torch.empty(batch.q.shape[:2])
    arguments = (wrapper._number, batch.q, *batch.caches, out, lse, *[None] * 8)
    torch.library.opcheck(namespace.batch_prefill_run.default, arguments)
    wrapper, q, cache, sinks = batch_decode(test_batch_decode.CASES[13])
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
    arguments = (wrapper._number, q, *cache.unbind(1), out, lse, *[None] * 7, sinks, None)
    torch.library.opcheck(namespace.batch_decode_run.default, arguments)
    s, place = torch.randn(20, 4), torch.arange(20)
    torch.library.opcheck(namespace.merge_state.default, (q_state := random(20, 4, 64), s, q_state * 2, s + 1))
    torch.library.opcheck(namespace.merge_state_in_place.default, (q_state, s, q_state * 2, s + 1, None))
    torch.library.opcheck(namespace.merge_states.default, (random(20, 3, 4, 64), torch.randn(20, 3, 4)))
    rotation = (place, None, None, False)
    torch.library.opcheck(namespace.apply_rope.default, (q_state, k[:20], q_state + 1, k[:20] + 1, *rotation))
    torch.library.opcheck(namespace.apply_rope.default, (None, None, q_state, k[:20].clone(), *rotation, 2.0, 1e4))
    indptr, lens = torch.tensor([0, 4, 9], dtype=torch.int32), torch.tensor([20, 5], dtype=torch.int32)
    torch.library.opcheck(namespace.get_batch_indices_positions.default, (indptr, lens, 9))
    places = flashinfer_jit.get_batch_indices_positions(indptr, lens, 9)
    table = (
        torch.tensor([2, 0, 1], dtype=torch.int32),
        torch.tensor([0, 2, 3], dtype=torch.int32),
        torch.tensor([4, 5], dtype=torch.int32),
    )
    cache, options = torch.zeros(3, 2, 16, 2, 64, dtype=torch.float16), ("NHD", "auto", None, None)
    arguments = (k[:9], v[:9], *places, [cache], *table, *options)
    torch.library.opcheck(namespace.append_paged_kv_cache.default, arguments)


def test_a_graph_outlives_no_wrapper():
    batch = test_batch_prefill.make(test_batch_prefill.RAGGED)
    number = batch.wrapper()._number
    with pytest.raises(RuntimeError, match="keep the wrapper alive"):
        flashinfer_jit.ops.object_of(number)
