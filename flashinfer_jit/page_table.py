"""Page tables of batches: read on the host for planning, checked, and kept where kernels read them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flashinfer_jit import validation


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
        The largest page number in use; -1 for none, None if page numbers are on a GPU.
    """

    indptr: npt.NDArray[np.int32]
    kv_end: npt.NDArray[np.int64]
    min_kv_len: npt.NDArray[np.int64]
    max_page: int | None


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
        is copied to the host, and only if ``indptr_host`` is not given.
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
    starts = host.numpy() if host.device.type == "cpu" else host.cpu().numpy()
    batch_size = last_page_len.shape[0]
    if len(starts) != batch_size + 1:
        raise ValueError(
            f"indptr has {len(starts)} elements and last_page_len {batch_size}: expected one more in indptr than there "
            "are requests"
        )
    num_pages = starts[1:].astype(np.int64) - starts[:-1]
    if starts[0] < 0 or (batch_size and np.minimum.reduce(num_pages) < 0):
        request = int(np.argmax(num_pages < 0))
        raise ValueError(f"indptr must not decrease: it is {starts[request]} and then {starts[request + 1]}")
    if starts[-1] > indices.shape[0]:
        raise ValueError(f"indptr ends with {starts[-1]}, and indices has {indices.shape[0]} elements")
    if batch_size and int(np.maximum.reduce(num_pages)) * page_size > validation.INT32_MAX:
        raise ValueError(f"a request of {num_pages.max()} pages of {page_size} tokens has more than 2**31 - 1 keys")

    longest = num_pages * page_size
    if last_page_len.device.type == "cpu":
        longest = shortest = _lengths(num_pages, longest, last_page_len.numpy(), page_size)
        if seq_lens is not None and seq_lens.device.type == "cpu":
            given = seq_lens.reshape(-1).numpy()
            if len(given) != batch_size or (given != longest).any():
                raise ValueError("seq_lens does not agree with the lengths that indptr and last_page_len give")
    else:
        shortest = np.maximum(longest - (page_size - 1), 0)
    max_page: int | None = None
    if indices.device.type == "cpu":
        max_page = _largest_page(indices.numpy(), int(starts[0]), int(starts[-1]))
    return HostTable(starts, longest, shortest, max_page)


def _lengths(
    num_pages: npt.NDArray[np.int64], longest: npt.NDArray[np.int64], last: npt.NDArray[np.int32], page_size: int
) -> npt.NDArray[np.int64]:
    """Return the keys of each request; raise ValueError for the length of a last page that cannot be."""
    # Below 1 is above everything when read without a sign. Requests without pages may have anything.
    in_last = last - np.int32(1)
    if len(last) and (
        np.minimum.reduce(num_pages) == 0 or np.maximum.reduce(in_last.view(np.uint32)) >= np.uint32(page_size)
    ):
        wrong = (num_pages > 0) & ((last < 1) | (last > page_size))
        if wrong.any():
            request = int(np.argmax(wrong))
            raise ValueError(
                f"last_page_len[{request}]={last[request]} must be 1 to page_size={page_size}, for request {request} "
                f"has {num_pages[request]} pages"
            )
        return np.where(num_pages > 0, longest - page_size + last, 0)
    return longest + (in_last - np.int32(page_size - 1))


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
            f"{tensor.dtype}; pass {name}.to(torch.int32)"
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
            f"paged_kv_indptr_buffer has {indptr.shape[0]} elements: expected {last_page_len.shape[0] + 1}, one more "
            "than paged_kv_last_page_len_buffer"
        )
    return int(last_page_len.shape[0])


def copy_into(buffer: torch.Tensor, values: torch.Tensor, name: str) -> None:
    """Copy ``values`` to the beginning of ``buffer``, unless they are there; raise ValueError if they are more."""
    if values.shape[0] > buffer.shape[0]:
        raise ValueError(f"{name} has {values.shape[0]} elements, and its buffer has room for {buffer.shape[0]}")
    if values.data_ptr() != buffer.data_ptr():
        buffer[: values.shape[0]].copy_(values, non_blocking=True)
