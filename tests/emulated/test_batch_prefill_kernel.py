"""The prefill kernel for batches on both emulated GPUs, ragged and paged, planned by the scheduler, against float64."""

import pytest
import torch

from flashinfer_jit import emulator
from flashinfer_jit.jit import kernels
from support.batch_prefill import Batch, batch_errors, make_batch

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
LONG = {"qo_lens": (3, 129, 1, 40), "kv_lens": (700, 129, 1500, 39)}

BATCHES = {
    "ragged": Batch(),
    "ragged_d128": Batch(head_dim=128, dtype=BF16, mask_mode="none", group_size=3),
    "page1": Batch(page_size=1, head_dim=128, mask_mode="none"),
    "page3": Batch(page_size=3, dtype=BF16, window_left=20),
    "page16": Batch(page_size=16, head_dim=128, group_size=3),
    "page17": Batch(page_size=17, head_dim=128, dtype=BF16, **LONG),
    "page64": Batch(page_size=64, **LONG),
}


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    return (batch.key(arch) for batch in BATCHES.values())


@pytest.fixture(autouse=True)
def on_arch(arch):
    with emulator.use_arch(arch):
        yield


@pytest.mark.parametrize("name", BATCHES)
def test_against_float64(name, arch):
    batch = BATCHES[name]
    inputs = make_batch(batch, seed=len(name), layout="HND" if len(name) % 2 else "NHD")
    o_error, lse_error = batch_errors(batch, inputs, arch)
    assert o_error <= 1
    assert lse_error <= 1


@pytest.mark.parametrize("name", BATCHES)
def test_the_kernel_keeps_to_its_registers(name, arch):
    key = BATCHES[name].key(arch)
    resources = kernels.build_kernel(key).meta["resources"]
    assert resources["scratch_bytes"] == resources["vgpr_spills"] == resources["sgpr_spills"] == 0
    assert resources["vgpr"] + resources["agpr"] <= 512 // key.tile.waves_per_simd
