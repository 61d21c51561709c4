"""The paged KV cache: the forms in which it comes, its strides, and how kernels divide by its page size."""

from numbers import Integral
from typing import Any, NamedTuple

import torch

from flashinfer_jit import validation

# The decode kernels' tile of keys: pages that hold whole tiles have a kernel of their own.
TILE_KEYS = 16


class KvPages(NamedTuple):
    """Keys and values as pages, ``[num_pages, page_size, num_kv_heads, head_dim]`` for NHD and
    ``[num_pages, num_kv_heads, page_size, head_dim]`` for HND."""

    k: torch.Tensor
    v: torch.Tensor


class PageDivision(NamedTuple):
    """``n // page_size == n * reciprocal >> 32 >> shift`` for ``0 <= n < 2**31``."""

    reciprocal: int
    shift: int


def kv_source(page_size: int) -> str:
    """Return the ``kv_source`` of the configuration for pages of this size."""
    if page_size == 1:
        return "page_size_1"
    return "page_size_any" if page_size % TILE_KEYS else "page_size_multiple"


def page_division(page_size: int) -> PageDivision:
    """Return the numbers by which a kernel divides by ``page_size``.

    With ``2**(l - 1) < page_size <= 2**l`` the rounded-up reciprocal ``ceil(2**(31 + l) / page_size)`` has 32 bits, and
    its error times ``n`` stays below one for n of 31 bits (Granlund and Montgomery, PLDI 1994, theorem 4.2).
    """
    if page_size == 1:
        return PageDivision(0, 0)
    bits = (page_size - 1).bit_length()
    return PageDivision(-(-(1 << (31 + bits)) // page_size), bits - 1)


def check_page_size(page_size: Any) -> None:
    """Raise ValueError unless ``page_size`` is a whole number of tokens above 0."""
    if isinstance(page_size, bool) or not isinstance(page_size, Integral) or not 1 <= page_size <= 2**24:
        raise ValueError(f"page_size={page_size!r} must be a number of tokens from 1 to {2**24}")


def unpack(paged_kv_cache: Any, kv_layout: str) -> KvPages:
    """Return views of the keys and the values of a cache.

    Parameters
    ----------
    paged_kv_cache : torch.Tensor or tuple of torch.Tensor
        ``[num_pages, 2, page_size, num_kv_heads, head_dim]`` (NHD) or ``[num_pages, 2, num_kv_heads, page_size,
        head_dim]`` (HND), or a tuple of keys and values without the 2. Of pages of 1, the dimension may be absent.
    kv_layout : str
        ``NHD`` or ``HND``.

    Raises
    ------
    KeyError
        For something else than a tensor or a tuple of two.
    ValueError
        For another number of dimensions.
    """
    page_dim = 1 if kv_layout == "NHD" else 2
    if isinstance(paged_kv_cache, tuple) and len(paged_kv_cache) == 2:
        pages = [_expand(name, x, page_dim) for name, x in zip(("k_cache", "v_cache"), paged_kv_cache, strict=True)]
        return KvPages(*pages)
    if not isinstance(paged_kv_cache, torch.Tensor):
        raise KeyError(
            f"Unrecognized paged_kv_cache type {type(paged_kv_cache).__name__}: expected a tensor or a tuple of two"
        )
    if paged_kv_cache.ndim not in (4, 5) or paged_kv_cache.shape[1] != 2:
        raise ValueError(
            "Invalid shape of paged_kv_cache: expected [num_pages, 2, page_size, num_kv_heads, head_dim] (NHD) or "
            f"[num_pages, 2, num_kv_heads, page_size, head_dim] (HND), got {validation.shape_text(paged_kv_cache)}"
        )
    k, v = paged_kv_cache.unbind(1)
    return KvPages(_expand("paged_kv_cache", k, page_dim), _expand("paged_kv_cache", v, page_dim))


def _expand(name: str, pages: Any, page_dim: int) -> torch.Tensor:
    if isinstance(pages, torch.Tensor) and pages.ndim == 3:
        pages = pages.unsqueeze(page_dim)
    dims = ("page_size", "num_kv_heads") if page_dim == 1 else ("num_kv_heads", "page_size")
    validation.check_tensor(name, pages, ("num_pages", *dims, "head_dim"))
    return pages  # type: ignore[no-any-return]


def check_pages(
    name: str, pages: torch.Tensor, kv_layout: str, *, page_size: int, num_kv_heads: int, head_dim: int
) -> None:
    """Raise ValueError unless ``pages`` has these sizes and its rows can be read 16 bytes at a time."""
    sizes = (page_size, num_kv_heads) if kv_layout == "NHD" else (num_kv_heads, page_size)
    if pages.shape[1:] != (*sizes, head_dim):
        dims = "page_size, num_kv_heads" if kv_layout == "NHD" else "num_kv_heads, page_size"
        raise ValueError(
            f"Invalid shape of {name}: expected [num_pages, {dims}, head_dim] = [*, {sizes[0]}, {sizes[1]}, {head_dim}]"
            f" as planned, got {validation.shape_text(pages)}"
        )
    validation.check_rows(name, pages)
    validation.check_token_stride(name, pages, 1 if kv_layout == "NHD" else 2)
    if pages.shape[0] > 1 and not 0 <= pages.stride(0) < 2**32:
        raise ValueError(f"Invalid strides of {name}: pages may be at most {2**32 - 1} elements apart")
