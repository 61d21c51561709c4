"""The paged KV cache: appending keys and values, and the numbers that go with it."""

import functools
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch

from flashinfer_jit import kv_cache, ops, overlap, page_table, runtime, validation
from flashinfer_jit.attention_options import DTYPES_FP8
from flashinfer_jit.backends import aiter, aiter_decode
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import AppendPagedKvConfig, KernelConfig
from flashinfer_jit.jit.families.batch_indices import BatchIndicesConfig
from flashinfer_jit.jit.key import KernelKey

__all__ = [
    "append_paged_kv_cache",
    "append_paged_mla_kv_cache",
    "get_batch_indices_positions",
    "get_seq_lens",
]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, *DTYPES_FP8)


@functools.cache
def _key(config: KernelConfig, arch: Arch) -> KernelKey:
    return KernelKey(config, tiling.candidates(config, arch)[0], arch)


def get_seq_lens(kv_indptr: torch.Tensor, kv_last_page_len: torch.Tensor, page_size: int) -> torch.Tensor:
    """Return the number of keys of each request.

    Parameters
    ----------
    kv_indptr : torch.Tensor
        ``[batch_size + 1]`` int32: where the pages of each request begin.
    kv_last_page_len : torch.Tensor
        ``[batch_size]`` int32: tokens in the last page of each request.
    page_size : int
        Tokens of a page.

    Returns
    -------
    torch.Tensor
        ``[batch_size]`` int32; a request without pages has its ``kv_last_page_len``, which should be 0.
    """
    return torch.clamp(kv_indptr[1:] - kv_indptr[:-1] - 1, min=0) * page_size + kv_last_page_len


@ops.traceable(
    "get_batch_indices_positions(Tensor append_indptr, Tensor seq_lens, SymInt nnz) -> (Tensor, Tensor)",
    lambda append_indptr, seq_lens, nnz: tuple(seq_lens.new_empty(nnz, dtype=torch.int32) for _ in range(2)),
)
def get_batch_indices_positions(
    append_indptr: torch.Tensor, seq_lens: torch.Tensor, nnz: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return of every new token which request it belongs to, and at which position it stands there.

    Parameters
    ----------
    append_indptr : torch.Tensor
        ``[batch_size + 1]`` int32: where the new tokens of each request begin.
    seq_lens : torch.Tensor
        ``[batch_size]`` int32: keys of each request, the new ones included, which are the last.
    nnz : int
        Length of the results; tokens past ``append_indptr[-1]`` get -1, which appending leaves out.

    Returns
    -------
    tuple of torch.Tensor
        ``batch_indices`` and ``positions``, ``[nnz]`` int32.

    Raises
    ------
    ValueError
        For wrong dtypes and shapes.
    """
    active = runtime.current()
    page_table.check_int32("append_indptr", append_indptr)
    page_table.check_int32("seq_lens", seq_lens)
    tensors = {"append_indptr": append_indptr, "seq_lens": seq_lens}
    validation.check_device(active, tensors)
    if append_indptr.shape[0] != seq_lens.shape[0] + 1:
        raise ValueError(
            f"append_indptr has {append_indptr.shape[0]} elements and seq_lens {seq_lens.shape[0]}: expected one more "
            "in append_indptr"
        )
    # A tensor's number would have to be fetched from the GPU: whoever has one says so by int().
    if isinstance(nnz, bool) or not isinstance(nnz, Integral) or nnz < 0:
        raise ValueError(f"nnz={nnz!r} must be a whole number of tokens, 0 or more")
    nnz = int(nnz)
    tensors["batch_indices"] = torch.empty(nnz, dtype=torch.int32, device=seq_lens.device)
    tensors["positions"] = torch.empty(nnz, dtype=torch.int32, device=seq_lens.device)
    if nnz > 0:
        kernel = kernels.get_kernel(_key(BatchIndicesConfig(), active.arch(seq_lens.device)), active)
        addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        params = kernel.params_type(**addresses, num_requests=seq_lens.shape[0], num_tokens=nnz)
        active.launch(kernel, params, tensors, None)
    return tensors["batch_indices"], tensors["positions"]


def append_paged_kv_cache(
    append_key: torch.Tensor,
    append_value: torch.Tensor,
    batch_indices: torch.Tensor,
    positions: torch.Tensor,
    paged_kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
    kv_indices: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_last_page_len: torch.Tensor,
    kv_layout: str = "NHD",
    backend: str = "auto",
    *,
    k_scale: float | None = None,
    v_scale: float | None = None,
) -> None:
    """Write new keys and values to their places in a paged cache.

    Token ``i`` goes to slot ``positions[i] % page_size`` of page
    ``kv_indices[kv_indptr[batch_indices[i]] + positions[i] // page_size]``.

    Parameters
    ----------
    append_key, append_value : torch.Tensor
        ``[nnz, num_kv_heads, head_dim]``, of any strides whose last one is 1.
    batch_indices, positions : torch.Tensor
        ``[nnz]`` int32, as ``get_batch_indices_positions`` returns them; tokens with a negative index are left out.
    paged_kv_cache : torch.Tensor or tuple of torch.Tensor
        ``[num_pages, 2, page_size, num_kv_heads, head_dim]`` (NHD) or ``[num_pages, 2, num_kv_heads, page_size,
        head_dim]`` (HND), or a tuple of keys and values without the 2; of the dtype of the new keys, or of any fp8
        dtype, to which they are rounded (to nearest even, beyond the largest number to the largest).
    kv_indices, kv_indptr, kv_last_page_len : torch.Tensor
        The page table, int32. Pages for the new tokens are in it already, and counted in ``kv_last_page_len``.
    kv_layout : str
        ``NHD`` or ``HND``.
    backend : str
        ``auto``, ``fa2`` and ``native`` are this package's kernel; ``aiter`` is AITER's reshape_and_cache_flash,
        refused by name where that would not honour an argument. See ``FLASHINFER_JIT_BACKEND`` for what ``auto`` can
        mean.
    k_scale, v_scale : float, optional
        Scales of an fp8 cache: what is stored is the new key divided by ``k_scale``, the value by ``v_scale``.

    Raises
    ------
    ValueError
        For shapes, dtypes, strides and devices that do not fit. For a wrong page table and positions outside of it,
        where the tensors are on the host, as on the emulated GPU; of those on a GPU with FLASHINFER_JIT_CHECK=indices,
        which waits for the stream.
    KeyError
        For an unknown ``kv_layout`` or a cache that is no tensor or tuple.
    """
    if torch.compiler.is_compiling():
        caches = list(paged_kv_cache) if isinstance(paged_kv_cache, tuple) else [paged_kv_cache]
        table = (kv_indices, kv_indptr, kv_last_page_len)
        options = (kv_layout, backend, k_scale, v_scale)
        _append_traced(append_key, append_value, batch_indices, positions, caches, *table, *options)
        return
    active = runtime.current()
    validation.check_kv_layout(kv_layout)
    is_for_aiter = backend != "native" and aiter.is_wanted(backend)
    k_cache, v_cache = kv_cache.unpack(paged_kv_cache, kv_layout)
    for name, tensor in (("append_key", append_key), ("append_value", append_value)):
        validation.check_tensor(name, tensor, ("nnz", "num_kv_heads", "head_dim"))
    if kv_layout == "HND":
        k_cache, v_cache = k_cache.transpose(1, 2), v_cache.transpose(1, 2)
    _append(
        active,
        {"append_key": append_key, "append_value": append_value},
        {"k_cache": k_cache, "v_cache": v_cache},
        (batch_indices, positions, kv_indptr, kv_indices, kv_last_page_len),
        (k_scale, v_scale),
        backend if is_for_aiter else None,
    )


def _append_operator(
    append_key: torch.Tensor,
    append_value: torch.Tensor,
    batch_indices: torch.Tensor,
    positions: torch.Tensor,
    caches: list[torch.Tensor],
    kv_indices: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_last_page_len: torch.Tensor,
    kv_layout: str,
    backend: str,
    k_scale: float | None,
    v_scale: float | None,
) -> None:
    cache = caches[0] if len(caches) == 1 else (caches[0], caches[1])
    table = (kv_indices, kv_indptr, kv_last_page_len)
    scales = {"k_scale": k_scale, "v_scale": v_scale}
    append_paged_kv_cache(
        append_key, append_value, batch_indices, positions, cache, *table, kv_layout, backend, **scales
    )


_append_traced = ops.define(
    """append_paged_kv_cache(Tensor append_key, Tensor append_value, Tensor batch_indices, Tensor positions,
    Tensor(a!)[] caches, Tensor kv_indices, Tensor kv_indptr, Tensor kv_last_page_len, str kv_layout, str backend,
    float? k_scale, float? v_scale) -> ()""",
    _append_operator,
    ops.no_results,
)


@ops.traceable(
    """append_paged_mla_kv_cache(Tensor append_ckv, Tensor append_kpe, Tensor batch_indices, Tensor positions,
    Tensor(a!) ckv_cache, Tensor(b!) kpe_cache, Tensor kv_indices, Tensor kv_indptr, Tensor kv_last_page_len) -> ()""",
    ops.no_results,
)
def append_paged_mla_kv_cache(
    append_ckv: torch.Tensor,
    append_kpe: torch.Tensor,
    batch_indices: torch.Tensor,
    positions: torch.Tensor,
    ckv_cache: torch.Tensor,
    kpe_cache: torch.Tensor,
    kv_indices: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_last_page_len: torch.Tensor,
) -> None:
    """Write new compressed keys and values, and rotated parts of keys, to their places in a paged MLA cache.

    Parameters
    ----------
    append_ckv, append_kpe : torch.Tensor
        ``[nnz, head_dim_ckv]`` and ``[nnz, head_dim_kpe]``.
    batch_indices, positions : torch.Tensor
        As for ``append_paged_kv_cache``.
    ckv_cache, kpe_cache : torch.Tensor
        ``[num_pages, page_size, head_dim_ckv]`` and ``[num_pages, page_size, head_dim_kpe]``.
    kv_indices, kv_indptr, kv_last_page_len : torch.Tensor
        The page table, int32.

    Raises
    ------
    ValueError
        As ``append_paged_kv_cache``.
    """
    active = runtime.current()
    for name, tensor in (("append_ckv", append_ckv), ("append_kpe", append_kpe)):
        validation.check_tensor(name, tensor, ("nnz", "head_dim"))
    for name, tensor in (("ckv_cache", ckv_cache), ("kpe_cache", kpe_cache)):
        validation.check_tensor(name, tensor, ("num_pages", "page_size", "head_dim"))
    _append(
        active,
        {"append_ckv": append_ckv.unsqueeze(1), "append_kpe": append_kpe.unsqueeze(1)},
        {"ckv_cache": ckv_cache.unsqueeze(2), "kpe_cache": kpe_cache.unsqueeze(2)},
        (batch_indices, positions, kv_indptr, kv_indices, kv_last_page_len),
        (None, None),
    )


def _append(
    active: runtime.Runtime,
    new: dict[str, torch.Tensor],
    caches: dict[str, torch.Tensor],
    table: tuple[torch.Tensor, ...],
    scales: tuple[float | None, float | None],
    aiter_backend: str | None = None,
) -> None:
    """Append two tensors ``[nnz, heads, dim]`` to two caches ``[pages, page_size, heads, dim]`` of any strides.

    ``aiter_backend`` is the ``backend`` of a call for AITER.
    """
    names = ("batch_indices", "positions", "kv_indptr", "kv_indices", "kv_last_page_len")
    for name, tensor in zip(names, table, strict=True):
        page_table.check_int32(name, tensor)
    validation.check_device(active, {**new, **caches, **dict(zip(names, table, strict=True))})
    (k_name, k), (_, v) = new.items()
    k_cache, v_cache = caches.values()
    for name, tensor, cache_name, cache in zip(new, new.values(), caches, caches.values(), strict=True):
        validation.check_dtype(name, tensor.dtype, DTYPES)
        expected = (k.shape[0], *cache.shape[2:])
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"Invalid shape of {name}: expected {list(expected)} as {cache_name} and {k_name} have it, got "
                f"{validation.shape_text(tensor)}"
            )
        if tensor.dtype != k.dtype or cache.dtype != k_cache.dtype:
            raise ValueError(f"Invalid dtype of {name} or {cache_name}: expected those of {k_name} and its cache")
        if cache.dtype not in (tensor.dtype, *DTYPES_FP8):
            raise UnsupportedConfigError(
                f"Invalid dtype of {name}: expected {cache.dtype} as {cache_name} has it, got {tensor.dtype}; pass "
                f"{name}.to({cache.dtype})"
            )
        for what, x in ((name, tensor), (cache_name, cache)):
            if x.shape[-1] > 1 and x.stride(-1) != 1:
                raise ValueError(f"Invalid strides of {what}: the last dimension must be contiguous")
    num_tokens, page_size = k.shape[0], k_cache.shape[1]
    if v_cache.shape[:2] != k_cache.shape[:2]:
        raise ValueError(f"Invalid shape of the caches: {list(k_cache.shape[:2])} and {list(v_cache.shape[:2])} differ")
    if any(x.shape[0] != num_tokens for x in table[:2]):
        raise ValueError(f"batch_indices and positions must have {num_tokens} elements as {k_name} has tokens")
    for name, cache in caches.items():
        overlap.check_writable(name, cache)
    overlap.check_apart(caches, new)
    factors = []
    for name, scale in zip(("k_scale", "v_scale"), scales, strict=True):
        if scale is not None and k.dtype == k_cache.dtype:
            raise ValueError(f"{name}={scale!r} has no meaning: the cache has the dtype of {k_name} and is not scaled")
        factors.append(1.0 if scale is None else 1.0 / validation.check_scale(name, scale))
    on_host = [page_table.to_check(tensor) for tensor in table]
    if all(tensor is not None for tensor in on_host):
        _check_places(on_host, page_size, k_cache.shape[0])
    if aiter_backend is not None:
        request, position, indptr, indices = table[:4]
        if aiter_decode.append(aiter_backend, k, v, request, position, k_cache, v_cache, indices, indptr):
            return
    config = AppendPagedKvConfig(
        validation.DTYPE_NAMES[k.dtype],
        str(k_cache.dtype).removeprefix("torch."),
        k.shape[2],
        v.shape[2],
    )
    if k.numel() == 0:
        return
    if k.shape[0] * k.shape[1] * max(k.shape[2], v.shape[2]) > validation.INT32_MAX:
        raise ValueError(f"{k_name} has {k.numel()} elements: append at most {validation.INT32_MAX} at a time")
    kernel = kernels.get_kernel(_key(config, active.arch(k.device)), active)
    tensors: dict[str, Any] = {"k": k, "v": v, "k_cache": k_cache, "v_cache": v_cache}
    # The length of the last page is checked only: the kernel goes by positions.
    tensors.update(zip(names[:4], table[:4], strict=True))
    params = kernel.params_type(
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        k_stride_n=k.stride(0),
        k_stride_h=k.stride(1),
        v_stride_n=v.stride(0),
        v_stride_h=v.stride(1),
        k_cache_stride_page=k_cache.stride(0),
        k_cache_stride_n=k_cache.stride(1),
        k_cache_stride_h=k_cache.stride(2),
        v_cache_stride_page=v_cache.stride(0),
        v_cache_stride_n=v_cache.stride(1),
        v_cache_stride_h=v_cache.stride(2),
        num_tokens=num_tokens,
        num_heads=k.shape[1],
        page_size=page_size,
        k_factor=factors[0],
        v_factor=factors[1],
    )
    active.launch(kernel, params, tensors, None)


def _check_places(table: Sequence[Any], page_size: int, num_pages: int) -> None:
    """Raise ValueError for a page table that is wrong, and for a token that goes outside of it or of the cache."""
    page_table.read(*table[2:], page_size)
    request, position, indptr, indices = (tensor.numpy() for tensor in table[:4])
    used = request >= 0
    request, position = request[used], position[used]
    if not len(request):
        return
    if request.max() >= len(indptr) - 1:
        raise ValueError(f"batch_indices names request {request.max()}, and kv_indptr is for {len(indptr) - 1}")
    if position.min() < 0:
        raise ValueError(f"positions must not be negative, got {position.min()}")
    entry = indptr[request] + position // page_size
    outside = (entry >= indptr[request + 1]) | (entry >= len(indices)) | (entry < 0)
    if outside.any():
        token = int(np.argmax(outside))
        raise ValueError(
            f"positions has {position[token]} for request {request[token]}, whose pages hold "
            f"{(indptr[request[token] + 1] - indptr[request[token]]) * page_size} tokens"
        )
    pages = indices[entry]
    if pages.min() < 0 or pages.max() >= num_pages:
        raise ValueError(f"kv_indices names page {pages.max() if pages.min() >= 0 else pages.min()} of {num_pages}")
