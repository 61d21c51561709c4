"""Appending to a paged KV cache on both emulated GPUs: every element where it belongs, and nothing else touched."""

import math

import numpy as np
import pytest
import torch

import flashinfer_jit
from flashinfer_jit import (
    BatchDecodeWithPagedKVCacheWrapper,
    append_paged_kv_cache,
    append_paged_mla_kv_cache,
    get_batch_indices_positions,
    get_seq_lens,
)
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.config import AppendPagedKvConfig
from flashinfer_jit.jit.families.batch_indices import BatchIndicesConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.testing import TOLERANCES
from support.decode_reference import decode_reference

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
FP8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
# dtype of the new keys, of the cache, head_dim, heads, layout, page size
CASES = (
    (F16, F16, 128, 2, "NHD", 16),
    (BF16, BF16, 64, 3, "HND", 1),
    (BF16, BF16, 64, 2, "NHD", 5),
    (F16, FP8[0], 128, 2, "HND", 16),
    (BF16, FP8[1], 64, 1, "NHD", 7),
    (BF16, FP8[2], 64, 2, "NHD", 1),
    (F16, FP8[3], 128, 1, "NHD", 64),
    (FP8[0], FP8[0], 128, 2, "NHD", 16),
)


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    configs = [BatchIndicesConfig(), AppendPagedKvConfig("bfloat16", "bfloat16", 512, 64)]
    for dtype, dtype_cache, head_dim, *_ in CASES:
        names = (str(x).removeprefix("torch.") for x in (dtype, dtype_cache))
        configs.append(AppendPagedKvConfig(*names, head_dim, head_dim))
    for config in configs:
        yield KernelKey(config, tiling.candidates(config, arch)[0], arch)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def page_table(kv_lens, page_size, seed=0):
    """Return indptr, shuffled indices, lengths of last pages, and the pages of the cache."""
    pages = [-(-kv_len // page_size) for kv_len in kv_lens]
    order = torch.randperm(sum(pages) + 3, generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    indptr = int32(0, *torch.tensor(pages).cumsum(0).tolist())
    last = int32(*(kv_len - (n - 1) * page_size if n else 0 for kv_len, n in zip(kv_lens, pages, strict=True)))
    return indptr, order[: sum(pages)].clone(), last, len(order)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def round_to(tensor, dtype):
    """Return ``tensor`` in ``dtype`` by PyTorch's rounding, with numbers beyond the largest as the largest."""
    limit = torch.finfo(dtype).max
    return tensor.float().clamp(-limit, limit).to(dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value).removeprefix("torch.") for value in case))
def test_append(case):
    """Some tokens of each request are new; all other bytes of the cache stay."""
    dtype, dtype_cache, head_dim, heads, layout, page_size = case
    kv_lens, appended = [0, 1, 40, page_size + 1, 2 * page_size], [0, 1, 7, page_size + 1, 1]
    indptr, indices, last, num_pages = page_table(kv_lens, page_size)
    assert get_seq_lens(indptr, last, page_size).tolist() == kv_lens
    append_indptr = int32(0, *torch.tensor(appended).cumsum(0).tolist())
    nnz = sum(appended)
    requests, positions = get_batch_indices_positions(append_indptr, int32(*kv_lens), nnz + 2)
    assert requests.tolist() == [r for r, n in enumerate(appended) for _ in range(n)] + [-1, -1]
    assert positions.tolist() == [kv_lens[r] - n + i for r, n in enumerate(appended) for i in range(n)] + [-1, -1]

    generator = torch.Generator().manual_seed(1)
    # Columns of a wider projection, with magnitudes from below the smallest fp8 number to beyond the largest.
    wide = torch.randn(nnz + 2, 2 * heads + 1, head_dim, generator=generator)
    wide *= 10 ** torch.linspace(-7, 4, head_dim)
    wide = round_to(wide, dtype) if dtype in FP8 else wide.to(dtype)
    k, v = wide[:, :heads], wide[:, heads : 2 * heads]
    shape = (page_size, heads) if layout == "NHD" else (heads, page_size)
    cache = torch.randint(0, 256, (num_pages, 2, *shape, head_dim * dtype_cache.itemsize), generator=generator)
    cache = cache.to(torch.uint8).view(dtype_cache)
    expected = cache.clone()
    by_token = expected if layout == "NHD" else expected.transpose(2, 3)
    scales = {"k_scale": 0.5, "v_scale": 4.0} if dtype != dtype_cache else {}
    for token in range(nnz):
        place = indptr[requests[token]] + positions[token] // page_size
        for which, (new, name) in enumerate(((k, "k_scale"), (v, "v_scale"))):
            row = round_to(new[token].float() / scales[name], dtype_cache) if scales else new[token]
            by_token[indices[place], which, positions[token] % page_size] = row
    append_paged_kv_cache(k, v, requests, positions, cache, indices, indptr, last, layout, **scales)
    assert torch.equal(bits(cache), bits(expected))


def test_append_to_a_tuple_and_to_an_mla_cache():
    indptr, indices, last, num_pages = page_table([20, 5], 16)
    requests, positions = get_batch_indices_positions(int32(0, 20, 25), int32(20, 5), 25)
    ckv, kpe = torch.randn(25, 512).to(BF16), torch.randn(25, 64).to(BF16)
    caches = (
        torch.full((num_pages, 16, 512), math.nan, dtype=BF16),
        torch.full((num_pages, 16, 64), math.nan, dtype=BF16),
    )
    append_paged_mla_kv_cache(ckv, kpe, requests, positions, *caches, indices, indptr, last)
    for new, cache in zip((ckv, kpe), caches, strict=True):
        stored = torch.cat([cache[indices[0]], cache[indices[1], :4], cache[indices[2], :5]])
        assert torch.equal(stored, new)
        assert cache.isnan().sum() == cache.numel() - new.numel()
    k, v = torch.randn(2, 25, 2, 128).half().unbind()
    pair = torch.zeros(num_pages, 16, 2, 128, dtype=F16), torch.zeros(num_pages, 16, 2, 128, dtype=F16)
    append_paged_kv_cache(k, v, requests, positions, pair, indices, indptr, last, backend="native")
    assert torch.equal(pair[0][indices[0]], k[:16])
    assert torch.equal(pair[1][indices[2], :5], v[20:])


def test_append_then_attend():
    """A cache filled token by token gives what attention over the same keys gives."""
    kv_lens = [37, 3]
    indptr, indices, last, num_pages = page_table(kv_lens, 16, seed=2)
    k, v = torch.randn(2, 40, 2, 128, generator=torch.Generator().manual_seed(3)).to(F16).unbind()
    q = torch.randn(2, 16, 128, generator=torch.Generator().manual_seed(4)).to(F16)
    cache = torch.full((num_pages, 2, 16, 2, 128), math.nan, dtype=F16)
    for part in (slice(0, 30), slice(30, 31), slice(31, 40)):
        requests, positions = get_batch_indices_positions(int32(0, 37, 40), int32(*kv_lens), 40)
        append_paged_kv_cache(k[part], v[part], requests[part], positions[part], cache, indices, indptr, last)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(torch.empty(1 << 20, dtype=torch.uint8))
    wrapper.plan(indptr, indices, last, 16, 2, 128, 16)
    o = wrapper.run(q, cache)
    for request, keys in enumerate((slice(0, 37), slice(37, 40))):
        reference, _ = decode_reference(q[request : request + 1], k[keys], v[keys])
        assert TOLERANCES[F16].worst(o[request : request + 1], reference) <= 1


def test_nothing_to_append():
    empty = torch.empty(0, 2, 128, dtype=F16)
    cache = torch.zeros(1, 2, 16, 2, 128, dtype=F16)
    append_paged_kv_cache(empty, empty, int32(), int32(), cache, int32(0), int32(0, 1), int32(1))
    assert [x.tolist() for x in get_batch_indices_positions(int32(0, 0), int32(3), 0)] == [[], []]


def test_a_number_of_tokens_of_numpy_is_one_and_a_tensor_is_none():
    results = get_batch_indices_positions(int32(0, 2), int32(5), np.int32(2))
    assert [x.tolist() for x in results] == [[0, 0], [3, 4]]
    with pytest.raises(ValueError, match="nnz=tensor.2. must be a whole number of tokens"):
        get_batch_indices_positions(int32(0, 2), int32(5), torch.tensor(2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"append_value": torch.zeros(2, 3, 128, dtype=F16)}, ValueError, "Invalid shape of append_value"),
        ({"append_value": torch.zeros(2, 2, 128, dtype=BF16)}, ValueError, "Invalid dtype of append_value"),
        (
            {"append_key": torch.zeros(2, 2, 128, dtype=torch.int8)},
            UnsupportedConfigError,
            "Invalid dtype of append_key",
        ),
        ({"batch_indices": int32(0, 2)}, ValueError, "batch_indices names request 2, and kv_indptr is for 1"),
        ({"batch_indices": torch.tensor([0, 0])}, ValueError, "Invalid batch_indices"),
        ({"positions": int32(3, 32)}, ValueError, "positions has 32 for request 0, whose pages hold 32"),
        ({"positions": int32(3, -4)}, ValueError, "positions must not be negative, got -4"),
        ({"positions": int32(3)}, ValueError, "batch_indices and positions must have 2 elements"),
        ({"kv_indices": int32(0, 9)}, ValueError, "kv_indices names page 9 of 4"),
        ({"kv_indptr": int32(0, 3)}, ValueError, "indptr ends with 3, and indices has 2 elements"),
        ({"kv_indptr": int32(2, 0)}, ValueError, "indptr must not decrease: it is 2 and then 0"),
        ({"kv_last_page_len": int32(17)}, ValueError, r"last_page_len\[0\]=17 must be 1 to page_size=16"),
        ({"kv_last_page_len": int32(5, 5)}, ValueError, "indptr has 2 elements and last_page_len 2"),
        ({"kv_layout": "HDN"}, KeyError, "Invalid kv_layout"),
        ({"backend": "cuda"}, ValueError, "backend='cuda'"),
        ({"k_scale": 2.0}, ValueError, "k_scale=2.0 has no meaning"),
        (
            {"paged_kv_cache": torch.zeros(4, 2, 16, 1, 128, dtype=F16).expand(-1, -1, -1, 2, -1)},
            ValueError,
            "Invalid strides of k_cache: it is written",
        ),
        (
            {"paged_kv_cache": (torch.zeros(4, 16, 2, 128, dtype=F16),) * 2},
            ValueError,
            "Invalid k_cache: it is written, and shares memory with v_cache",
        ),
        (
            {"paged_kv_cache": torch.zeros(4, 2, 16, 2, 128)},
            UnsupportedConfigError,
            r"append_key: expected torch.float32 as k_cache has it, got torch.float16; pass append_key.to\(",
        ),
    ],
)
def test_bad_input_is_refused_by_name(monkeypatch, change, error, message):
    def launch(*_args):
        raise AssertionError("launched")

    monkeypatch.setattr(type(flashinfer_jit.runtime.current()), "launch", launch)
    arguments = {
        "append_key": torch.zeros(2, 2, 128, dtype=F16),
        "append_value": torch.zeros(2, 2, 128, dtype=F16),
        "batch_indices": int32(0, 0),
        "positions": int32(3, 20),
        "paged_kv_cache": torch.zeros(4, 2, 16, 2, 128, dtype=F16),
        "kv_indices": int32(0, 1),
        "kv_indptr": int32(0, 2),
        "kv_last_page_len": int32(5),
    }
    with pytest.raises(error, match=message):
        append_paged_kv_cache(**{**arguments, **change})
