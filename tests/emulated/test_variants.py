"""Custom attention variants in the prefill kernel on both emulated GPUs, against float64."""

import dataclasses
import math

import pytest
import torch

from flashinfer_jit import emulator
from flashinfer_jit.errors import HipError
from flashinfer_jit.jit import kernels
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES
from flashinfer_jit.variants import AttentionVariant
from support.batch_prefill import Batch, launch_batch, make_batch

# Everything at once: a bias per head, a distance penalty, blocks of keys that a head sees, a gate on the output.
VARIANT = AttentionVariant(
    "gated_blocks",
    logits_transform="return logits + bias[qo_head_idx] - decay(kv_idx, qo_idx + kv_len - qo_len) * slope;",
    logits_mask="return kv_idx / block_size % 2 == qo_head_idx % 2 || batch_idx == 1;",
    output_transform="return output * gate[column] + qo_head_idx;",
    tensors=(("bias", "float32"), ("gate", "float16")),
    scalars=(("slope", "float"), ("block_size", "int32_t")),
    declarations="__device__ inline float decay(int a, int b) { return a < b ? b - a : a - b; }",
)
BATCHES = {
    "ragged": Batch(variant=VARIANT.to_json(), mask_mode="none", dtype=torch.bfloat16),
    "paged": Batch(variant=VARIANT.to_json(), page_size=16, logits_soft_cap=10.0),
}


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    return (batch.key(arch) for batch in BATCHES.values())


def reference(batch, inputs, bias, gate, slope, block_size):
    outputs, lses = [], []
    for i, q in enumerate(inputs.q.split(batch.qo_lens)):
        qo_len, kv_len = batch.qo_lens[i], batch.kv_lens[i]
        k, v = (x.double().repeat_interleave(batch.group_size, 1) for x in (inputs.keys[i], inputs.values[i]))
        logits = torch.einsum("qhd,khd->hqk", q.double(), k) / math.sqrt(batch.head_dim)
        if batch.logits_soft_cap:
            logits = batch.logits_soft_cap * torch.tanh(logits / batch.logits_soft_cap)
        own_key, keys = torch.arange(qo_len)[:, None] + kv_len - qo_len, torch.arange(kv_len)
        heads = torch.arange(q.shape[1])[:, None, None]
        logits = logits + bias.double()[:, None, None] - (keys - own_key).abs() * slope
        seen = (keys // block_size % 2 == heads % 2) | torch.tensor(i == 1)
        if batch.mask_mode == "causal":
            seen = seen & (keys <= own_key)
        logits = logits.masked_fill(~seen, -math.inf)
        lse = torch.logsumexp(logits, 2) if kv_len else logits.new_full(logits.shape[:2], -math.inf)
        weights = torch.exp(logits - lse[..., None]).nan_to_num(nan=0.0)
        o = torch.einsum("hqk,khd->qhd", weights, v)
        outputs.append(o * gate.double() + torch.arange(q.shape[1])[:, None])
        lses.append(lse.T * math.log2(math.e))
    return torch.cat(outputs), torch.cat(lses)


@pytest.mark.parametrize("name", BATCHES)
def test_against_float64(name, arch):
    batch = BATCHES[name]
    inputs = make_batch(batch)
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(inputs.q.shape[1], generator=generator)
    gate = torch.randn(batch.head_dim, generator=generator).to(torch.float16)
    with emulator.use_arch(arch):
        o, lse = launch_batch(
            batch, inputs, arch, variant_bias=bias, variant_gate=gate, variant_slope=0.125, variant_block_size=8
        )
    o_reference, lse_reference = reference(batch, inputs, bias, gate, 0.125, 8)
    assert TOLERANCES[batch.dtype].worst(o, o_reference) <= 1
    assert LSE_TOLERANCE.worst(lse, lse_reference) <= 1
    resources = kernels.build_kernel(batch.key(arch)).meta["resources"]
    assert resources["scratch_bytes"] == resources["vgpr_spills"] == resources["sgpr_spills"] == 0


def test_an_output_transform_with_split_keys_is_an_error(arch):
    """The merge of parts knows nothing of the transform: it must not be left out silently."""
    batch = dataclasses.replace(BATCHES["ragged"], fixed_split_size=64)
    inputs = make_batch(batch)
    bias, gate = torch.zeros(inputs.q.shape[1]), torch.ones(batch.head_dim, dtype=torch.float16)
    extra = {"variant_bias": bias, "variant_gate": gate, "variant_slope": 0.0, "variant_block_size": 8}
    with emulator.use_arch(arch), pytest.raises(HipError, match=r"trap"):
        launch_batch(batch, inputs, arch, **extra)


def test_variants_of_one_name_are_two_kernels(arch):
    other = dataclasses.replace(VARIANT, logits_mask="return true;")
    keys = {Batch(variant=variant.to_json()).key(arch).kernel_name for variant in (VARIANT, other)}
    assert len(keys) == 2
