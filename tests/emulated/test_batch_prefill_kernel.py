"""The prefill kernel for batches on both emulated GPUs, ragged and paged, planned by the scheduler, against float64."""

import dataclasses
import math

import pytest
import torch

from flashinfer_jit import emulator
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.config import PREFILL_PAGE_GRANULE
from support.batch_prefill import Batch, batch_errors, int32, launch_batch, make_batch, plan

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
E4M3, E5M2, E4M3_FNUZ = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz
LONG = {"qo_lens": (3, 129, 1, 40), "kv_lens": (700, 129, 1500, 39)}
SMALL = {"qo_lens": (17, 0, 2), "kv_lens": (60, 3, 35)}

# Chosen so that every value of every axis meets ragged keys and each kind of page; several share a kernel.
BATCHES = {
    "ragged": Batch(),
    "ragged_d128": Batch(head_dim=128, dtype=BF16, mask_mode="none", group_size=3),
    "ragged_custom": Batch(mask_mode="custom", dtype=BF16, tile=0),
    "ragged_sinks_split": Batch(has_sinks=True, disable_split_kv=False, v_scale=2.0, **LONG),
    "ragged_mla": Batch(head_dim=192, head_dim_vo=128, dtype=BF16, **SMALL),
    "ragged_alibi": Batch(pos_encoding_mode="ALIBI", logits_soft_cap=20.0, group_size=5, dtype_o=F32),
    "ragged_fp8_rope": Batch(dtype_kv=E4M3, dtype=BF16, pos_encoding_mode="ROPE_LLAMA", head_dim=96),
    "ragged_many_heads": Batch(
        group_size=71, num_kv_heads=1, tile=0, disable_split_kv=False, fixed_split_size=64, **SMALL
    ),
    "page1": Batch(page_size=1, head_dim=128, mask_mode="none"),
    "page1_wide": Batch(page_size=1, head_dim=32, tile=0, window_left=200, dtype=BF16, fixed_split_size=256, **LONG),
    "page1_fp8": Batch(page_size=1, dtype_kv=E5M2, head_dim=80, mask_mode="custom", v_scale=0.5),
    "page3": Batch(page_size=3, dtype=BF16, window_left=20),
    "page3_rope": Batch(page_size=3, pos_encoding_mode="ROPE_LLAMA", head_dim=48, has_sinks=True),
    "page17": Batch(page_size=17, head_dim=128, dtype=BF16, **LONG),
    "page17_d256": Batch(page_size=17, head_dim=256, group_size=1, mask_mode="none", **SMALL),
    "page17_fp8": Batch(page_size=17, head_dim=128, dtype_kv=E4M3_FNUZ, logits_soft_cap=5.0, group_size=7),
    "page16": Batch(page_size=16, head_dim=128, group_size=3),
    "page16_sinks": Batch(page_size=16, head_dim=80, tile=0, has_sinks=True, dtype=BF16),
    "page16_mla": Batch(page_size=16, head_dim=192, head_dim_vo=128, tile=1, group_size=1, mask_mode="none"),
    "page48_d32": Batch(page_size=48, head_dim=32, tile=0, mask_mode="none", disable_split_kv=False, **LONG),
    "page64": Batch(page_size=64, **LONG),
    "page64_d256": Batch(page_size=64, head_dim=256, dtype=BF16, mask_mode="custom", **SMALL),
    "page64_fp8_rope": Batch(page_size=64, dtype_kv=E4M3, pos_encoding_mode="ROPE_LLAMA", window_left=40),
}


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    return (batch.key(arch) for batch in BATCHES.values())


@pytest.mark.parametrize("name", BATCHES)
def test_against_float64(name, arch):
    batch = BATCHES[name]
    inputs = make_batch(batch, seed=len(name), layout="HND" if len(name) % 2 else "NHD")
    o_error, lse_error = batch_errors(batch, inputs, arch)
    assert o_error <= 1
    assert lse_error <= 1


@pytest.mark.parametrize("name", BATCHES)
def test_the_kernel_keeps_to_its_registers_and_lds(name, arch):
    key = BATCHES[name].key(arch)
    resources = kernels.build_kernel(key).meta["resources"]
    assert resources["scratch_bytes"] == resources["vgpr_spills"] == resources["sgpr_spills"] == 0
    assert resources["vgpr"] + resources["agpr"] <= 512 // key.tile.waves_per_simd
    assert resources["lds_bytes"] <= key.arch.lds_bytes


def test_the_names_say_what_the_pages_are():
    sources = {name: batch.kv_source for name, batch in BATCHES.items()}
    assert {sources[name] for name in sources if name.startswith(("page16", "page48"))} == {"page_size_multiple"}
    assert PREFILL_PAGE_GRANULE == 16
    assert set(sources.values()) == {"ragged", "page_size_1", "page_size_any", "page_size_multiple"}


def test_splitting_changes_neither_o_nor_lse(arch):
    whole = BATCHES["page64"]
    inputs = make_batch(whole)
    o, lse = launch_batch(whole, inputs, arch)
    split = dataclasses.replace(whole, fixed_split_size=128)
    assert plan(split, arch).num_partial_rows > 0
    o_split, lse_split = launch_batch(split, inputs, arch)
    torch.testing.assert_close(o, o_split, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(lse, lse_split, atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"fixed_split_size": 128}, {"disable_split_kv": True}], ids=["fixed", "unsplit"])
def test_a_request_does_not_depend_on_its_neighbours(options, arch):
    batch = dataclasses.replace(BATCHES["page64"], **options)
    inputs = make_batch(batch)
    o, lse = launch_batch(batch, inputs, arch)
    first = batch.qo_lens[0] + batch.qo_lens[1]
    alone = dataclasses.replace(batch, qo_lens=batch.qo_lens[2:3], kv_lens=batch.kv_lens[2:3])
    table = inputs.index
    begin, end = table["paged_kv_indptr"][2:4].tolist()
    index = {
        "paged_kv_indptr": int32([0, end - begin]),
        "paged_kv_indices": table["paged_kv_indices"][begin:end].clone(),
        "paged_kv_last_page_len": table["paged_kv_last_page_len"][2:3].clone(),
    }
    o_alone, lse_alone = launch_batch(
        alone, dataclasses.replace(inputs, q=inputs.q[first : first + 1], index=index), arch
    )
    assert torch.equal(o_alone, o[first : first + 1])
    assert torch.equal(lse_alone, lse[first : first + 1])


@pytest.mark.parametrize("name", ["ragged", "page3", "page64"])
def test_rows_without_keys_give_zero(name, arch):
    # Causal with fewer keys than query tokens, and no keys at all.
    batch = dataclasses.replace(BATCHES[name], qo_lens=(70, 5), kv_lens=(3, 0))
    o, lse = launch_batch(batch, make_batch(batch), arch)
    assert (o[:67] == 0).all() and (o[70:] == 0).all()
    assert (lse[:67] == -math.inf).all() and (lse[70:] == -math.inf).all()
    assert lse[67:70].isfinite().all()


def test_workgroups_beyond_the_device_count_do_nothing(arch):
    batch = BATCHES["page64"]
    inputs = make_batch(batch)
    o, lse = launch_batch(batch, inputs, arch)
    padded = plan(batch, arch, graph_slots=100)
    assert padded.work_items.shape == (100, 8) and padded.num_work_items < 100
    count = int32([padded.num_work_items])
    padded.work_items[padded.num_work_items :] = 10**6  # would be a wild address
    o_padded, lse_padded = launch_batch(batch, inputs, arch, padded, num_work_items_ptr=count)
    assert torch.equal(o, o_padded) and torch.equal(lse, lse_padded)


@pytest.mark.parametrize("name", ["page3", "page64"])
def test_caches_may_be_larger_than_four_gigabytes(name, arch):
    batch = dataclasses.replace(BATCHES[name], qo_lens=(5,), kv_lens=(3 * BATCHES[name].page_size - 1,))
    inputs = make_batch(batch)
    small = [tensor[inputs.index["paged_kv_indices"].long()] for tensor in (inputs.k, inputs.v)]
    # Never written, so most of it takes no memory.
    page_stride = 1_300_000_000
    whole = torch.empty(2 * page_stride + 10**6, dtype=batch.dtype)
    for i, (field, pages) in enumerate(zip(("k", "v"), small, strict=True)):
        pages = pages.contiguous()
        cache = whole[i * 400_000 :].as_strided(pages.shape, (page_stride, *pages.stride()[1:]))
        cache.copy_(pages)
        setattr(inputs, field, cache)
    inputs.index["paged_kv_indices"] = int32([0, 1, 2])
    assert max(batch_errors(batch, inputs, arch)) <= 1


def test_causal_and_windowed_tiles_read_only_what_they_see(arch):
    batch = dataclasses.replace(
        BATCHES["page64"], qo_lens=(256,), kv_lens=(1024,), group_size=1, num_kv_heads=1, window_left=100
    )
    tile = batch.key(arch).tile
    launch_batch(batch, make_batch(batch), arch)
    read = {buffer.name: buffer.read for buffer in emulator.last_report().buffers}
    keys = 0
    for first in range(0, 256, tile.block_q):
        begin = (768 + first - 100) // tile.block_kv * tile.block_kv
        keys += 768 + min(first + tile.block_q, 256) - begin
    assert read["k"] == read["v"] == keys * batch.head_dim * 2


@pytest.mark.parametrize("name", ["page1", "page17", "page16", "page48_d32", "page17_d256"])
def test_lds_accesses_meet_no_bank_conflicts(name, arch):
    launch_batch(BATCHES[name], make_batch(BATCHES[name]), arch)
    assert emulator.last_report().lds_conflict_cycles == 0
