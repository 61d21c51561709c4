"""Rotary position encoding as a function of its own, on both emulated GPUs, against float64."""

import math

import pytest
import torch

import flashinfer_jit
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.families.apply_rope import ApplyRopeConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.testing import Tolerance

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
# One rounding of the result, of values up to 5.
TOLERANCES = {F16: Tolerance(1e-4, 5e-4), BF16: Tolerance(1e-3, 4e-3), F32: Tolerance(2e-5, 2e-6)}
LENS, OFFSETS = (3, 0, 20, 1), (0, 7, 100000, 12)


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    for config in (
        ApplyRopeConfig("float16"),
        ApplyRopeConfig("bfloat16", interleave=True),
        ApplyRopeConfig("float32"),
        ApplyRopeConfig("float16", has_cache=True),
        ApplyRopeConfig("float16", interleave=True, has_cache=True),
    ):
        yield KernelKey(config, tiling.candidates(config, arch)[0], arch)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(dtype, head_dim=128):
    """Queries and keys in one packed tensor, whose heads of values are left over."""
    packed = random(sum(LENS), 8 * head_dim).to(dtype)
    q, k = packed[:, : 5 * head_dim].unflatten(1, (5, head_dim)), packed[:, 5 * head_dim : 7 * head_dim]
    return packed, q, k.unflatten(1, (2, head_dim))


def positions():
    return torch.cat([torch.arange(offset, offset + n) for n, offset in zip(LENS, OFFSETS, strict=True)])


def frequencies(rotary_dim, theta, scale):
    return theta ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim) / scale


def rotated(x, angles, interleave):
    """Rotate ``[tokens, heads, head_dim]`` by ``[tokens, pairs]``, in float64."""
    x, pairs = x.double(), angles.shape[1]
    columns = torch.arange(2 * pairs).view(pairs, 2) if interleave else torch.arange(2 * pairs).view(2, pairs).T
    first, second = x[..., columns[:, 0]], x[..., columns[:, 1]]
    result = x.clone()
    result[..., columns[:, 0]] = first * angles.cos()[:, None] - second * angles.sin()[:, None]
    result[..., columns[:, 1]] = second * angles.cos()[:, None] + first * angles.sin()[:, None]
    return result


def check(results, tensors, angles, interleave=False):
    for result, tensor in zip(results, tensors, strict=True):
        assert result.dtype == tensor.dtype
        assert result.shape == tensor.shape
        assert TOLERANCES[tensor.dtype].worst(result, rotated(tensor, angles, interleave)) <= 1


@pytest.mark.parametrize(
    ("dtype", "rotary_dim", "interleave", "index"),
    [(F16, None, False, torch.int32), (BF16, 48, True, torch.int64), (F32, 96, False, torch.int64)],
)
def test_by_offsets_and_by_positions(dtype, rotary_dim, interleave, index):
    packed, q, k = make(dtype)
    before = packed.clone()
    angles = positions()[:, None] * frequencies(rotary_dim or 128, 2e4, 2.0)
    options = {"rotary_dim": rotary_dim, "interleave": interleave, "rope_scale": 2.0, "rope_theta": 2e4}
    indptr = torch.tensor([0, *torch.tensor(LENS).cumsum(0).tolist()], dtype=index)
    offsets, pos_ids = torch.tensor(OFFSETS, dtype=index), positions().to(index)
    results = flashinfer_jit.apply_rope(q, k, indptr, offsets, **options)
    check(results, (q, k), angles, interleave)
    assert all(map(torch.equal, flashinfer_jit.apply_rope_pos_ids(q, k, pos_ids, **options), results))
    assert torch.equal(packed, before)
    for function, arguments in (
        (flashinfer_jit.apply_rope_inplace, (indptr, offsets)),
        (flashinfer_jit.apply_rope_pos_ids_inplace, (pos_ids,)),
    ):
        packed.copy_(before)
        function(q, k, *arguments, **options)
        assert torch.equal(q, results[0])
        assert torch.equal(k, results[1])
        assert torch.equal(packed[:, 7 * 128 :], before[:, 7 * 128 :])


def test_llama31_keeps_high_frequencies():
    _, q, k = make(F16)
    own = frequencies(128, 5e5, 1.0)
    turns = own * 8192 / (2 * math.pi)
    kept = ((turns - 1) / (4 - 1)).clamp(0, 1)
    angles = positions()[:, None] * (own * kept + own / 8 * (1 - kept))
    assert len(kept.unique()) > 2
    indptr = torch.tensor([0, *torch.tensor(LENS).cumsum(0).tolist()], dtype=torch.int32)
    results = flashinfer_jit.apply_llama31_rope(q, k, indptr, torch.tensor(OFFSETS, dtype=torch.int32))
    check(results, (q, k), angles)
    assert all(map(torch.equal, flashinfer_jit.apply_llama31_rope_pos_ids(q, k, positions()), results))
    for function, arguments in (
        (flashinfer_jit.apply_llama31_rope_inplace, (indptr, torch.tensor(OFFSETS, dtype=torch.int32))),
        (flashinfer_jit.apply_llama31_rope_pos_ids_inplace, (positions(),)),
    ):
        own_q, own_k = q.clone(), k.clone()
        function(own_q, own_k, *arguments)
        assert torch.equal(own_q, results[0])
        assert torch.equal(own_k, results[1])


@pytest.mark.parametrize("is_neox", [True, False])
def test_by_a_table(is_neox):
    head_dim, rotary_dim = 64, 32
    query, key = random(30, 3 * head_dim).to(F16), random(30, head_dim, seed=1).to(F16)
    place = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(2))
    angles = torch.arange(50)[:, None] * frequencies(rotary_dim, 1e4, 1.0)
    cache = torch.cat([angles.cos(), angles.sin()], 1).float()
    results = flashinfer_jit.apply_rope_with_cos_sin_cache(place, query, key, head_dim, cache, is_neox)
    heads = [tensor.unflatten(1, (-1, head_dim)) for tensor in (query, key)]
    check([result.unflatten(1, (-1, head_dim)) for result in results], heads, angles[place], not is_neox)
    flashinfer_jit.apply_rope_with_cos_sin_cache_inplace(place.int(), query, key, head_dim, cache, is_neox)
    assert torch.equal(query, results[0])
    assert torch.equal(key, results[1])


def test_bad_input_is_refused():
    _, q, k = make(F16)
    place = positions()
    apply = flashinfer_jit.apply_rope_pos_ids
    for arguments, options, error, message in (
        ((q, k, place[:-1]), {}, ValueError, r"pos_ids: expected \[24\], got \[23\]"),
        ((q, k, [0]), {}, TypeError, "pos_ids must be a torch.Tensor, got list"),
        (([0], k, place), {}, TypeError, "q must be a torch.Tensor, got list"),
        ((q, k, place.float()), {}, ValueError, "int32 or int64"),
        ((q, k[:, :, :64], place), {}, ValueError, "Invalid k"),
        ((q, k.to(BF16), place), {}, ValueError, "Invalid k"),
        ((q, k, place), {"rotary_dim": 24}, UnsupportedConfigError, "rotary_dim=24"),
        ((q, k, place), {"rotary_dim": 256}, UnsupportedConfigError, "rotary_dim=256"),
        ((q, k, place), {"rope_theta": 0}, ValueError, "rope_theta=0"),
        ((q.to(torch.float8_e5m2), k, place), {}, UnsupportedConfigError, "dtype of q"),
    ):
        with pytest.raises(error, match=message):
            apply(*arguments, **options)
    with pytest.raises(ValueError, match="must differ"):
        flashinfer_jit.apply_llama31_rope_pos_ids(q, k, place, low_freq_factor=2, high_freq_factor=2)
    with pytest.raises(ValueError, match="float32"):
        flashinfer_jit.apply_rope_with_cos_sin_cache(place, q.flatten(1), k.flatten(1), 128, torch.ones(9, 64).half())
    table = torch.ones(int(place.max()), 64)
    for index, head_size, message in (
        (place, 128, rf"positions has {len(table)}, and cos_sin_cache has the {len(table)} positions from 0 on"),
        (place - 1 - place.min(), 128, "positions has -1, and cos_sin_cache"),
        (place, 0, "head_size=0 must be a positive whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            flashinfer_jit.apply_rope_with_cos_sin_cache(index, q.flatten(1), k.flatten(1), head_size, table)
    for starts in ([0, 25], [0, 9, 4], [1, 24], [0]):
        with pytest.raises(ValueError, match="indptr must begin with 0, not decrease and end with the 24 tokens of q"):
            flashinfer_jit.apply_rope(q, k, torch.tensor(starts), torch.zeros(len(starts) - 1, dtype=torch.int64))
    for keys, message in ((q, "shares memory with k"), (k[:, :1].expand_as(k), "Invalid strides of k: it is written")):
        with pytest.raises(ValueError, match=message):
            flashinfer_jit.apply_rope_pos_ids_inplace(q, keys, place)
