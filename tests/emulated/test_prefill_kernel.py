"""The prefill kernel on both emulated GPUs: every axis of its configuration and every tile, against float64."""

import dataclasses
import math

import pytest
import torch

from flashinfer_jit import emulator
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import HEAD_DIMS
from flashinfer_jit.jit.tiling import candidates, prefill_stage_bytes
from support.prefill import FP8, Problem, errors, launch, make_inputs, merge, pack_mask, reference

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32

# All tiles with the main head dims, dtypes and masks; lengths end within a tile and a wave.
TILES = [
    Problem(qo_len=150, kv_len=300, num_kv_heads=1, tile=tile, **axes)
    for tile in (0, 1, 2)
    for axes in (
        {"dtype": F16, "head_dim": 128, "mask_mode": "causal"},
        {"dtype": BF16, "head_dim": 64, "mask_mode": "none", "group_size": 3},
    )
]
DIMS = [
    Problem(head_dim=qk, head_dim_vo=vo, dtype=(F16, BF16)[i % 2], mask_mode="none", qo_len=33, kv_len=70, tile=i % 3)
    for i, (qk, vo) in enumerate(HEAD_DIMS)
]
GROUPS = [
    Problem(group_size=group, num_kv_heads=1, qo_len=9, kv_len=70, head_dim=32, tile=i % 3)
    for i, group in enumerate((1, 3, 5, 7, 8, 16, 32, 71))
]
MASKS = [
    Problem(window_left=20, tile=0),
    Problem(window_left=0, kv_len=300, dtype=BF16),
    Problem(window_left=150, qo_len=300, kv_len=400, mask_mode="none", num_kv_heads=1),
    Problem(mask_mode="custom", kv_len=97),
    Problem(mask_mode="custom", window_left=30, dtype=BF16, tile=0),
    Problem(mask_mode="custom", qo_len=1, kv_len=3),
]
LOGITS = [
    Problem(logits_soft_cap=5.0),
    Problem(logits_soft_cap=30.0, pos_encoding_mode="ALIBI", group_size=3, mask_mode="none", dtype=BF16),
    Problem(pos_encoding_mode="ALIBI", group_size=5),
    Problem(pos_encoding_mode="ROPE_LLAMA", kv_len=300),
    Problem(pos_encoding_mode="ROPE_LLAMA", dtype=BF16, head_dim=48, rope_scale=2.0, rope_theta=5e5, tile=0),
    Problem(sm_scale=0.5, mask_mode="none"),
]
KV_DTYPES = [
    Problem(dtype_kv=dtype_kv, dtype=dtype, v_scale=2.0, head_dim=head_dim, tile=tile)
    for (dtype_kv, dtype, head_dim, tile) in (
        (torch.float8_e4m3fn, F16, 64, 0),
        (torch.float8_e4m3fnuz, BF16, 128, -1),
        (torch.float8_e5m2, BF16, 80, -1),
        (torch.float8_e5m2fnuz, F16, 64, -1),
    )
] + [Problem(dtype_kv=torch.float8_e4m3fn, dtype=BF16, pos_encoding_mode="ROPE_LLAMA", head_dim=96)]
OUTPUTS = [Problem(dtype_o=F32), Problem(dtype=BF16, dtype_o=F16, tile=0)]
SPLITS = [
    Problem(num_chunks=3, kv_len=300),
    Problem(num_chunks=4, kv_len=200, qo_len=150, num_kv_heads=1, tile=0),
    Problem(num_chunks=5, kv_len=640, qo_len=2, window_left=100, tile=0),
]
PROBLEMS = {
    f"{family}{i}": problem
    for family, problems in {
        "tile": TILES,
        "dim": DIMS,
        "group": GROUPS,
        "mask": MASKS,
        "logits": LOGITS,
        "kv_dtype": KV_DTYPES,
        "output": OUTPUTS,
        "split": SPLITS,
    }.items()
    for i, problem in enumerate(problems)
}


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    return (problem.key(arch) for problem in PROBLEMS.values())


@pytest.mark.parametrize("name", PROBLEMS)
def test_against_float64(name, arch):
    problem = PROBLEMS[name]
    inputs = make_inputs(problem, seed=len(name), layout="HND" if problem.kv_len % 3 else "NHD")
    o_error, lse_error = errors(problem, inputs, arch)
    assert o_error <= 1
    assert lse_error <= 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_kernel_keeps_to_its_registers_and_lds(name, arch):
    key = PROBLEMS[name].key(arch)
    resources = kernels.build_kernel(key).meta["resources"]
    assert resources["scratch_bytes"] == resources["vgpr_spills"] == resources["sgpr_spills"] == 0
    assert resources["vgpr"] + resources["agpr"] <= 512 // key.tile.waves_per_simd
    stages = 2 * prefill_stage_bytes(key.config, key.arch, key.tile.block_kv)
    shares_keys = key.tile.block_q < 32 * key.tile.num_waves
    # Waves that share keys also merge through LDS, which may take more than the stages.
    assert stages <= resources["lds_bytes"] <= (key.arch.lds_bytes if shares_keys else stages)


@pytest.mark.parametrize("dtype_kv", FP8.values(), ids=list(FP8))
def test_every_fp8_value_is_read_exactly(dtype_kv, arch):
    # One key, so that o is that key's value times p = 1, which float16 may truncate by one unit in the last place.
    problem = dataclasses.replace(PROBLEMS["kv_dtype0"], dtype_kv=dtype_kv, qo_len=1, kv_len=1, v_scale=1.0)
    for values in torch.arange(256, dtype=torch.uint8).view(dtype_kv).view(4, 1, 1, 64):
        inputs = make_inputs(problem)
        inputs.v = values.expand(1, problem.num_kv_heads, 64)
        o, _ = launch(problem, inputs, arch)
        expected = values[0].to(problem.dtype).expand_as(o[0])
        torch.testing.assert_close(o[0], expected, rtol=2**-10, atol=0, equal_nan=True)


@pytest.mark.parametrize("tile", [0, 2])
def test_without_keys_and_with_one(tile, arch):
    problem = dataclasses.replace(TILES[0], mask_mode="none", dtype=F16, head_dim=64, qo_len=3, kv_len=0, tile=tile)
    o, lse = launch(problem, make_inputs(problem, pad=0), arch)
    assert (o == 0).all()
    assert (lse == -math.inf).all()
    problem = dataclasses.replace(problem, kv_len=1)
    assert max(errors(problem, make_inputs(problem), arch)) <= 1


def test_a_row_without_keys_and_a_large_reference(arch):
    # Logits far below and far above zero, rising along the keys so that the reference moves in every tile.
    problem = Problem(qo_len=5, kv_len=500, mask_mode="none", group_size=1)
    inputs = make_inputs(problem)
    inputs.q[:] = 1
    inputs.k[:] = torch.linspace(-10, 10, 500)[:, None, None].to(F16)
    assert max(errors(problem, inputs, arch)) <= 1
    inputs.k[:] = torch.linspace(10, -10, 500)[:, None, None].to(F16)
    assert max(errors(problem, inputs, arch)) <= 1


def test_chunks_agree_with_the_whole(arch):
    split = SPLITS[1]
    inputs = make_inputs(split)
    o, lse = merge(*launch(split, inputs, arch))
    whole, whole_lse = launch(dataclasses.replace(split, num_chunks=1), inputs, arch)
    torch.testing.assert_close(o, whole.double(), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(lse, whole_lse.double(), atol=1e-4, rtol=0)


def test_whole_tiles_outside_window_and_triangle_are_not_read(arch):
    problem = Problem(qo_len=128, kv_len=1024, group_size=1, num_kv_heads=1, window_left=100)
    inputs = make_inputs(problem)
    tile = problem.key(arch).tile
    launch(problem, inputs, arch)
    read = {buffer.name: buffer.read for buffer in emulator.last_report().buffers}
    # Keys from the first query's window on, to the end: to the tile's grain, and none twice.
    first = (1024 - 128 - 100) // tile.block_kv * tile.block_kv
    assert read["k"] == read["v"] == (1024 - first) * problem.head_dim * 2
    # Poison what must not be read: NaN would show.
    inputs.k[:first] = inputs.v[:first] = math.nan
    assert max(errors_of_rest(problem, inputs, first, arch)) <= 1


def errors_of_rest(problem, inputs, first, arch):
    o, lse = launch(problem, inputs, arch)
    clean = dataclasses.replace(inputs, k=inputs.k.nan_to_num(0.0), v=inputs.v.nan_to_num(0.0))
    o_reference, lse_reference = reference(problem, clean)
    return float((o.double() - o_reference).abs().max() / 2e-3), float(
        (lse.double() - lse_reference).abs().max() / 1e-3
    )


def test_causal_tiles_read_only_what_they_see(arch):
    problem = Problem(qo_len=512, kv_len=512, group_size=1, num_kv_heads=1, head_dim=128)
    tile = problem.key(arch).tile
    inputs = make_inputs(problem)
    launch(problem, inputs, arch)
    read = {buffer.name: buffer.read for buffer in emulator.last_report().buffers}
    # A tile of rows ends at the key of its last row.
    keys = sum(range(tile.block_q, 513, tile.block_q))
    assert read["k"] == read["v"] == keys * problem.head_dim * 2


def test_packed_masks_have_at_least_eight_bytes():
    assert len(pack_mask(torch.ones(1, 3, dtype=torch.bool))) == 8
    assert pack_mask(torch.tensor([[True, False, True] + [False] * 6 + [True]])).tolist() == [5, 2, 0, 0, 0, 0, 0, 0]


def test_tiles_fit_every_head_dim(arch):
    for qk, vo in HEAD_DIMS:
        config = Problem(head_dim=qk, head_dim_vo=vo).config
        tiles = candidates(config, ARCHS[arch])
        assert sorted(tile.block_q for tile in tiles) == [tile.block_q for tile in tiles]
        for tile in tiles:
            assert 2 * prefill_stage_bytes(config, ARCHS[arch], tile.block_kv) <= ARCHS[arch].lds_bytes


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name.startswith(("tile", "dim", "mask", "group"))])
def test_lds_accesses_meet_no_bank_conflicts(name, arch):
    problem = PROBLEMS[name]
    launch(problem, make_inputs(problem), arch)
    report = emulator.last_report()
    assert report.lds_accesses > 0
    assert report.lds_conflict_cycles == 0
