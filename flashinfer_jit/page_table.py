"""Page tables of batches: read on the host for planning, checked, and kept where kernels read them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flashinfer_jit import env, validation


@dataclass(frozen=True)
class HostTable:
    """What planning needs to know of a page table.

    Attributes
    ----------
    indptr : numpy.ndarray
        ``[batch_size + 1]`` int32.
    kv_end : numpy.ndarray
        ``[batch_size]`` int64: keys of each request, or, if the lengths of last pages are on a GPU, the most it can be.
    min_kv_len : numpy.ndarray
        ``[batch_size]`` int64: the least it can be.
    max_page : int or None
        The largest page number in use; -1 for none, None if page numbers are on a GPU and not checked.
    """

    indptr: npt.NDArray[np.int32]
    kv_end: npt.NDArray[np.int64]
    min_kv_len: npt.NDArray[np.int64]
    max_page: int | None


def checks_indices() -> bool:
    """Return whether index tensors on a GPU are to be checked too: FLASHINFER_JIT_CHECK=indices."""
    return "indices" in env.CHECK.get()


def is_on_host(tensor: torch.Tensor) -> bool:
    """Return whether reading ``tensor`` waits for nothing."""
    return tensor.device.type == "cpu"


def to_check(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return ``tensor`` on the host if its contents are to be checked; of one on a GPU that is a copy."""
    if is_on_host(tensor):
        return tensor
    return tensor.cpu() if checks_indices() else None


def read(
    indptr: torch.Tensor,
    indices: torch.Tensor,
    last_page_len: torch.Tensor,
    page_size: int,
    indptr_host: torch.Tensor | None = None,
    seq_lens: torch.Tensor | None = None,
) -> HostTable:
    """Return the page table as far as it is needed, checked where it is on the host.

    Parameters
    ----------
    indptr, indices, last_page_len : torch.Tensor
        ``[batch_size + 1]``, ``[indptr[-1]]`` or longer, ``[batch_size]``, int32. Of tensors on a GPU only ``indptr``
        is copied to the host, and only if ``indptr_host`` is not given; with FLASHINFER_JIT_CHECK=indices all are.
    page_size : int
        Tokens of a page.
    indptr_host : torch.Tensor, optional
        ``indptr`` on the host.
    seq_lens : torch.Tensor, optional
        ``[batch_size]``: lengths that must agree with the page table, if both are on the host.

    Raises
    ------
    ValueError
        For wrong dtypes, shapes and contents.
    """
    for name, tensor in (("indptr", indptr), ("indices", indices), ("last_page_len", last_page_len)):
        check_int32(name, tensor)
    if indptr_host is not None:
        check_int32("indptr on the host", indptr_host)
    host = indptr if indptr_host is None else indptr_host
    starts = host.numpy() if is_on_host(host) else host.cpu().numpy()
    batch_size = last_page_len.shape[0]
    if len(starts) != batch_size + 1:
        raise ValueError(
            f"indptr has {len(starts)} elements and last_page_len {batch_size}: expected one more in indptr than there "
            "are requests"
        )
    if indptr_host is not None and indptr_host is not indptr and (device_starts := to_check(indptr)) is not None:
        _check_same(device_starts.numpy(), starts)
    num_pages = starts[1:].astype(np.int64) - starts[:-1]
    fewest, most = (int(np.minimum.reduce(num_pages)), int(np.maximum.reduce(num_pages))) if batch_size else (0, 0)
    if starts[0] < 0 or fewest < 0:
        request = int(np.argmax(num_pages < 0))
        raise ValueError(f"indptr must not decrease: it is {starts[request]} and then {starts[request + 1]}")
    if starts[-1] > indices.shape[0]:
        raise ValueError(f"indptr ends with {starts[-1]}, and indices has {indices.shape[0]} elements")
    if most * page_size > validation.INT32_MAX:
        raise ValueError(f"a request of {most} pages of {page_size} tokens has more than 2**31 - 1 keys")

    longest = num_pages * page_size
    shortest = lengths = None
    last = to_check(last_page_len)
    if last is not None:
        lengths = _lengths(num_pages, longest, last.numpy(), page_size, fewest > 0)
        if seq_lens is not None and not isinstance(seq_lens, torch.Tensor):
            raise TypeError(f"seq_lens must be a torch.Tensor, got {type(seq_lens).__name__}")
        if seq_lens is not None and (given := to_check(seq_lens)) is not None:
            _check_seq_lens(given, lengths)
    if lengths is not None and is_on_host(last_page_len):
        longest = shortest = lengths
    else:
        # Lengths that are only checked do not change the plan.
        shortest = np.maximum(longest - (page_size - 1), 0)
    pages = to_check(indices)
    max_page = None if pages is None else _largest_page(pages.numpy(), int(starts[0]), int(starts[-1]))
    return HostTable(starts, longest, shortest, max_page)


def check_max_page(max_page: int | None, num_pages: int) -> None:
    """Raise ValueError if the largest page number in use, as far as it is known, is not in a cache of ``num_pages``."""
    if max_page is not None and max_page >= num_pages:
        raise ValueError(
            f"indices names page {max_page}, and paged_kv_cache has {num_pages} pages: expected page numbers below that"
        )


def _check_same(device_starts: npt.NDArray[np.int32], starts: npt.NDArray[np.int32]) -> None:
    if len(device_starts) != len(starts) or (device_starts != starts).any():
        raise ValueError("indptr does not agree with its copy on the host")


def _check_seq_lens(seq_lens: torch.Tensor, lengths: npt.NDArray[np.int64]) -> None:
    given = seq_lens.reshape(-1).numpy()
    if len(given) != len(lengths) or (given != lengths).any():
        raise ValueError("seq_lens does not agree with the lengths that indptr and last_page_len give")


def _lengths(
    num_pages: npt.NDArray[np.int64],
    longest: npt.NDArray[np.int64],
    last: npt.NDArray[np.int32],
    page_size: int,
    all_have_pages: bool,
) -> npt.NDArray[np.int64]:
    """Return the keys of each request; raise ValueError for the length of a last page that cannot be."""
    # Below 1 is above everything when read without a sign. Requests without pages may have anything.
    before_last = last - np.int32(1)
    if not all_have_pages or int(np.maximum.reduce(before_last.view(np.uint32))) >= page_size:
        wrong = (num_pages > 0) & ((last < 1) | (last > page_size))
        if wrong.any():
            request = int(np.argmax(wrong))
            raise ValueError(
                f"last_page_len[{request}]={last[request]} must be 1 to page_size={page_size}, for request {request} "
                f"has {num_pages[request]} pages"
            )
        return np.where(num_pages > 0, longest - page_size + last, 0)
    return longest + (before_last - np.int32(page_size - 1))


def _largest_page(indices: npt.NDArray[np.int32], begin: int, end: int) -> int:
    """Return the largest of a range of page numbers, -1 of none; raise ValueError if one is negative."""
    if begin == end:
        return -1
    used = indices[begin:end]
    # Negative numbers are the largest when read without a sign: one pass finds both.
    largest = int(np.maximum.reduce(used.view(np.uint32)))
    if largest > validation.INT32_MAX:
        raise ValueError(f"indices must not be negative: indices[{begin + int(used.argmin())}]={used.min()}")
    return largest


def check_int32(name: str, tensor: Any) -> None:
    """Raise ValueError unless ``tensor`` is a list of 32-bit integers without gaps."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype != torch.int32 or tensor.ndim != 1 or not tensor.is_contiguous():
        raise ValueError(
            f"Invalid {name}: expected one contiguous dimension of torch.int32, got {validation.shape_text(tensor)} "
            f"{tensor.dtype}{'' if tensor.is_contiguous() else ' with gaps'}; pass {name}.to(torch.int32).contiguous()"
        )


def check_graph_buffers(indptr: Any, indices: Any, last_page_len: Any) -> int:
    """Return the batch size that page-table buffers of a graph are for; raise ValueError if they do not fit."""
    names = ("paged_kv_indptr_buffer", "paged_kv_indices_buffer", "paged_kv_last_page_len_buffer")
    for name, buffer in zip(names, (indptr, indices, last_page_len), strict=True):
        if not isinstance(buffer, torch.Tensor):
            raise ValueError(f"{name} must be a torch.Tensor with use_cuda_graph=True, got {type(buffer).__name__}")
        check_int32(name, buffer)
    if indptr.shape[0] != last_page_len.shape[0] + 1:
        raise ValueError(
            f"paged_kv_indptr_buffer has {indptr.shape[0]} elements: expected batch_size + 1 = "
            f"{last_page_len.shape[0] + 1}, one more than paged_kv_last_page_len_buffer"
        )
    return int(last_page_len.shape[0])


def copy_into(buffer: torch.Tensor, values: torch.Tensor, name: str) -> None:
    """Copy ``values`` to the beginning of ``buffer``, unless they are there; raise ValueError if they are more."""
    if values.shape[0] > buffer.shape[0]:
        raise ValueError(f"{name} has {values.shape[0]} elements, and its buffer has room for {buffer.shape[0]}")
    if values.data_ptr() != buffer.data_ptr():
        buffer[: values.shape[0]].copy_(values, non_blocking=True)
