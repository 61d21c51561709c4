"""What warmup compiles is what calls ask for: after it, nothing is compiled."""

import json

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator, presets
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.plan import keys_of, read_record


def _calls(model: presets.Model) -> None:
    num_kv_heads = 1
    heads = model.num_qo_heads // model.num_kv_heads
    q = torch.randn(3, heads, model.head_dim_qk, dtype=torch.bfloat16)
    k = torch.randn(20, num_kv_heads, model.head_dim_qk, dtype=torch.bfloat16)
    v = torch.randn(20, num_kv_heads, model.head_dim_vo, dtype=torch.bfloat16)
    for causal in (True, False):
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=causal)
    flashinfer_jit.single_decode_with_kv_cache(q[0], k, v)
    lse = torch.zeros(3, heads)
    flashinfer_jit.merge_state(q, lse, q, lse)
    for page_size in (1, 16):
        _batch_decode(q[:2], page_size, model)
        _batch_prefill(q, page_size, model)


def _batch_decode(q: torch.Tensor, page_size: int, model: presets.Model) -> None:
    """Decode for two requests, of one and of two pages."""
    wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(torch.empty(1 << 20, dtype=torch.uint8))
    indptr = torch.tensor([0, 1, 3], dtype=torch.int32)
    indices, last = torch.arange(3, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    sizes = (indptr, indices, last, q.shape[1], 1, model.head_dim_qk, page_size)
    wrapper.plan(*sizes, q_data_type=q.dtype, kv_data_type=q.dtype)
    wrapper.run(q, torch.randn(3, 2, page_size, 1, model.head_dim_qk, dtype=q.dtype))


def _batch_prefill(q: torch.Tensor, page_size: int, model: presets.Model) -> None:
    """Two requests of two and one tokens: appended to a paged cache, prefilled from it and from ragged keys."""
    dim, heads = model.head_dim_qk, q.shape[1]
    qo_indptr, indptr, last = (torch.tensor(n, dtype=torch.int32) for n in ([0, 2, 3], [0, 2, 3], [1, 1]))
    indices = torch.arange(3, dtype=torch.int32)
    cache = torch.zeros(3, 2, page_size, 1, dim, dtype=q.dtype)
    kv = torch.randn(3, 1, dim, dtype=q.dtype)
    seq_lens = flashinfer_jit.get_seq_lens(indptr, last, page_size)
    places = flashinfer_jit.get_batch_indices_positions(qo_indptr, seq_lens, 3)
    flashinfer_jit.append_paged_kv_cache(kv, kv, *places, cache, indices, indptr, last)
    dtypes = {"q_data_type": q.dtype, "kv_data_type": q.dtype, "causal": True}
    paged = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(torch.empty(1 << 22, dtype=torch.uint8))
    paged.plan(qo_indptr, indptr, indices, last, heads, 1, dim, page_size, **dtypes)
    paged.run(q, cache)
    # Both requests begin with page 0, and have one more each.
    shared, own = (
        [torch.tensor(n, dtype=torch.int32) for n in level]
        for level in (([0, 3], [0, 1], [0], [page_size]), ([0, 2, 3], [0, 1, 2], [1, 2], [1, 1]))
    )
    cascade = flashinfer_jit.MultiLevelCascadeAttentionWrapper(2, torch.empty(1 << 22, dtype=torch.uint8))
    cascade.plan(*map(list, zip(shared, own, strict=True)), heads, 1, dim, page_size, **dtypes)
    cascade.run(q, cache)
    ragged = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(torch.empty(1 << 22, dtype=torch.uint8))
    ragged.plan(qo_indptr, qo_indptr, heads, 1, dim, **dtypes)
    ragged.run(q, kv, kv)


@pytest.mark.parametrize("name", ["llama-3-8b"])
def test_calls_of_a_preset_use_kernels_of_the_preset(arch, name, monkeypatch, tmp_path) -> None:
    kernels.forget()
    monkeypatch.setenv("FLASHINFER_JIT_RECORD", str(tmp_path / "record"))
    with emulator.use_arch(arch):
        _calls(presets.MODELS[name])
    used = read_record(tmp_path / "record")
    assert len(used) >= 4
    configs, _ = presets.preset_configs(name, "bfloat16")
    assert set(used) <= set(keys_of(configs, [ARCHS[arch]]))
    # The file is what --from-log reads: one JSON object a line.
    assert all(json.loads(line)["arch"] == arch for line in (tmp_path / "record").read_text().splitlines())
