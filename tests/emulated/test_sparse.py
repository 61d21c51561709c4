"""Attention with masks made of blocks, and mixed batches, on both emulated GPUs against float64."""

import math

import pytest
import torch

import flashinfer_jit
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference
from support.paged import make_batch

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
NUM_ROWS, NUM_COLUMNS = 4, 6


def kernel_keys(arch):
    """Return the kernels that this file needs most, for the compile pass."""
    for mask, source in (("none", "page_size_multiple"), ("custom", "page_size_any"), ("none", "page_size_1")):
        config = AttentionConfig(
            phase="prefill",
            dtype_q="float16",
            dtype_kv="float16",
            dtype_o="float16",
            head_dim_qk=64,
            head_dim_vo=64,
            group_size=2,
            mask_mode=mask,
            kv_source=source,
        )
        yield KernelKey(config, tiling.candidates(config, arch)[0], arch)


@pytest.fixture
def workspace():
    return torch.empty(4 << 20, dtype=torch.uint8)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(result, reference, dtype=F16):
    assert TOLERANCES[dtype].worst(result[0], reference[0]) <= 1
    assert LSE_TOLERANCE.worst(result[1], reference[1]) <= 1


@pytest.mark.parametrize(("rows", "columns", "has_mask"), [(16, 16, False), (5, 4, True)])
def test_blocks(workspace, rows, columns, has_mask):
    blocks = random(NUM_ROWS, NUM_COLUMNS) > 0.3
    blocks[1] = False
    # The last row of blocks is not full.
    num_queries, num_keys = NUM_ROWS * rows - 2, NUM_COLUMNS * columns
    indices = blocks.nonzero()[:, 1].to(torch.int32)
    indptr = torch.nn.functional.pad(blocks.sum(1).cumsum(0), (1, 0)).to(torch.int32)
    dense = blocks.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    mask = None
    if has_mask:
        mask = random(len(indices), rows, columns, seed=1) > 0
        for number, (i, j) in enumerate(blocks.nonzero().tolist()):
            dense[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = mask[number]
    q, k, v = random(num_queries, 4, 64).to(F16), *random(2, num_keys, 2, 64, seed=2).to(F16)
    wrapper = flashinfer_jit.BlockSparseAttentionWrapper(workspace)
    wrapper.plan(indptr, indices, num_queries, num_keys, rows, columns, 4, 2, 64, mask=mask)
    reference = attention_reference(q, k, v, custom_mask=dense[:num_queries])
    check(wrapper.run_return_lse(q, k, v), reference)
    out = torch.empty_like(q)
    assert wrapper.run(q, k, v, out=out) is out
    assert TOLERANCES[F16].worst(out, reference[0]) <= 1


def test_masks_of_blocks_as_custom_masks():
    mask = random(5, 2, 3) > 0
    flat = flashinfer_jit.convert_bsr_mask_layout(mask, torch.tensor([0, 2, 2, 5], dtype=torch.int32))
    rows = [torch.cat([mask[0], mask[1]], 1), torch.cat([mask[2], mask[3], mask[4]], 1)]
    assert torch.equal(flat, torch.cat([row.flatten() for row in rows]))


def test_blocks_of_any_size_for_each_head(workspace):
    row_sizes = torch.tensor([[3, 20, 7], [10, 10, 10]])
    column_sizes = torch.tensor([[5, 30, 1, 14], [20, 10, 10, 10]])
    seen = random(2, 3, 4) > -0.2
    seen[1, 2] = False
    q, k, v = random(4, 30, 64).to(F16), *random(2, 2, 50, 64, seed=1).to(F16)
    wrapper = flashinfer_jit.VariableBlockSparseAttentionWrapper(workspace)
    wrapper.plan(seen, row_sizes, column_sizes, 4, 2, 64)
    o, lse = wrapper.run(q, k, v, return_lse=True)
    for head in range(2):
        mask = seen[head].repeat_interleave(row_sizes[head], 0).repeat_interleave(column_sizes[head], 1)
        own = slice(2 * head, 2 * head + 2)
        q_head, k_head, v_head = q[own].transpose(0, 1), k[head][:, None], v[head][:, None]
        reference_o, reference_lse = attention_reference(q_head, k_head, v_head, custom_mask=mask)
        check((o[own], lse[own]), (reference_o.transpose(0, 1), reference_lse.T))
    out, states = torch.empty_like(o), torch.empty_like(lse)
    result = wrapper.run(q, k, v, out=out, lse=states, return_lse=True)
    assert result[0] is out
    assert torch.equal(out, o)
    assert torch.equal(states, lse)


def test_bad_blocks_are_refused(workspace):
    wrapper = flashinfer_jit.BlockSparseAttentionWrapper(workspace)
    indptr, indices = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    for sizes, message in (((32, 60, 16, 16), "N=60"), ((64, 64, 16, 16), "indptr"), ((32, 64, 0, 16), "R=0")):
        with pytest.raises(ValueError, match=message):
            wrapper.plan(indptr, indices, *sizes, 4, 2, 64)
    with pytest.raises(RuntimeError, match="call plan"):
        wrapper.run(*(random(32, 2, 64).to(F16) for _ in range(3)))
    wrapper.plan(indptr, indices, 32, 64, 16, 16, 4, 2, 64)
    with pytest.raises(ValueError, match="Invalid shape of k"):
        wrapper.run(*(random(32, 2, 64).to(F16) for _ in range(3)))
    variable = flashinfer_jit.VariableBlockSparseAttentionWrapper(workspace)
    with pytest.raises(ValueError, match="block_col_sz"):
        variable.plan(torch.ones(2, 1, 1), torch.tensor([[3], [3]]), torch.tensor([[3], [4]]), 4, 2, 64)


def test_prefills_and_decodes_in_one_batch():
    kv_lens = (40, 70, 5)
    batch = make_batch(kv_lens, 16, 2, 64, BF16)
    wrapper = flashinfer_jit.BatchAttention()
    qo_indptr, lens = torch.tensor([0, 1, 34, 39], dtype=torch.int32), torch.tensor(kv_lens, dtype=torch.int32)
    arguments = (qo_indptr, batch.indptr, batch.indices, lens, 4, 2, 64, 64, 16)
    wrapper.plan(*arguments, causal=True, logits_soft_cap=20.0)
    q = random(39, 4, 64).to(BF16)
    o, lse = wrapper.run(q, batch.cache, k_scale=0.5, v_scale=2.0, logits_soft_cap=20.0)
    for i, (first, end) in enumerate(((0, 1), (1, 34), (34, 39))):
        options = {"causal": True, "logits_soft_cap": 20.0, "sm_scale": 0.5 / 8}
        reference = attention_reference(q[first:end], batch.keys[i], batch.values[i], **options)
        check((o[first:end] / 2, lse[first:end]), reference, BF16)
    with pytest.raises(ValueError, match="logits_soft_cap=3"):
        wrapper.run(q, batch.cache, logits_soft_cap=3.0)
    with pytest.raises(ValueError, match="kv_len_arr does not agree"):
        wrapper.plan(qo_indptr, batch.indptr, batch.indices, lens + 60, 4, 2, 64, 64, 16)
    with pytest.raises(UnsupportedConfigError, match="use_profiler"):
        wrapper.plan(*arguments, use_profiler=True)


def test_sinks_by_position(workspace):
    batch = make_batch((40, 70), 16, 2, 64, F16)
    types = {"q_data_type": F16, "kv_data_type": F16}
    sizes = {"head_dim_qk": 64, "head_dim_vo": 64}
    wrapper = flashinfer_jit.BatchAttentionWithAttentionSinkWrapper(workspace, **types, **sizes, window_left=30)
    table = (torch.tensor([0, 20, 27], dtype=torch.int32), *batch.table)
    wrapper.plan(*table, 4, 2, 64, 16, causal=True)
    q, sink = random(27, 4, 64).to(F16), random(4, seed=1)
    o = wrapper.run(q, batch.cache, sink, 0.1)
    for i, (first, end) in enumerate(((0, 20), (20, 27))):
        options = {"causal": True, "window_left": 30, "sm_scale": 0.1}
        reference_o, lse = attention_reference(q[first:end], batch.keys[i], batch.values[i], **options)
        with_sink = torch.logaddexp2(lse, sink.double() * math.log2(math.e))
        assert TOLERANCES[F16].worst(o[first:end], reference_o * torch.exp2(lse - with_sink)[..., None]) <= 1
    with pytest.raises(ValueError, match="head_dim_qk=128 is not that of the wrapper, 64"):
        wrapper.plan(*table, 4, 2, 128, 16)
