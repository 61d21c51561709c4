"""Custom masks of batches: one after the other, packed into bits, each beginning with a byte of its own."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flashinfer_jit import validation
from flashinfer_jit.quantization import segment_packbits

# Kernels load the 8 bytes around a bit.
MIN_BYTES = 8


def pack(
    custom_mask: Any, packed_custom_mask: Any, num_bits: npt.NDArray[np.int64], device: torch.device
) -> tuple[torch.Tensor, npt.NDArray[np.int32]]:
    """Return the packed masks of a batch, and where each begins.

    Parameters
    ----------
    custom_mask : torch.Tensor or None
        ``[sum(num_bits)]`` bool: the masks ``[qo_len, kv_len]`` of all requests, flattened and concatenated.
    packed_custom_mask : torch.Tensor or None
        The same as bits, little endian, each request beginning with a byte of its own; uint8. It wins over the other.
    num_bits : numpy.ndarray
        ``[num_requests]``: ``qo_len * kv_len``.
    device : torch.device
        Where kernels read them.

    Returns
    -------
    tuple of torch.Tensor and numpy.ndarray
        At least 8 bytes uint8 on ``device``; ``[num_requests + 1]`` int32.

    Raises
    ------
    TypeError
        If the mask is no tensor.
    ValueError
        For a shape or dtype that does not fit, and masks of 2**31 bytes or more.
    """
    num_bytes = -(-num_bits // 8)
    if num_bytes.sum() > validation.INT32_MAX:
        raise ValueError(f"custom masks of {num_bytes.sum()} bytes are too large: at most {validation.INT32_MAX} bytes")
    indptr = np.zeros(len(num_bits) + 1, dtype=np.int32)
    np.cumsum(num_bytes, out=indptr[1:])
    if packed_custom_mask is not None:
        packed = packed_custom_mask
        _check("packed_custom_mask", packed, (torch.uint8,), int(indptr[-1]), "bytes")
    else:
        _check("custom_mask", custom_mask, (torch.bool, torch.uint8), int(num_bits.sum()), "booleans")
        begins = torch.from_numpy(np.concatenate(([0], np.cumsum(num_bits))))
        packed, _ = segment_packbits(custom_mask.reshape(-1), begins, bitorder="little")
    packed = packed.reshape(-1).to(device, non_blocking=True)
    if packed.shape[0] < MIN_BYTES:
        packed = torch.nn.functional.pad(packed, (0, MIN_BYTES - packed.shape[0]))
    return packed, indptr


def _check(name: str, mask: Any, dtypes: tuple[torch.dtype, ...], size: int, unit: str) -> None:
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype not in dtypes:
        raise ValueError(f"Invalid dtype of {name}: expected {dtypes[0]}, got {mask.dtype}")
    if mask.numel() != size:
        raise ValueError(
            f"Invalid shape of {name}: expected [{size}], the {unit} of [qo_len, kv_len] of all requests, got "
            f"{validation.shape_text(mask)}"
        )


def into_buffers(
    packed: torch.Tensor, indptr: npt.NDArray[np.int32], mask_buffer: Any, indptr_buffer: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy packed masks to the buffers that a captured graph reads; raise ValueError if they do not fit or are none."""
    for name, buffer, dtype, size in (
        ("custom_mask_buf", mask_buffer, torch.uint8, max(packed.shape[0], MIN_BYTES)),
        ("mask_indptr_buf", indptr_buffer, torch.int32, len(indptr)),
    ):
        if not isinstance(buffer, torch.Tensor):
            raise ValueError(
                f"{name} must be given to the constructor if a custom mask is used with use_cuda_graph=True"
            )
        if buffer.dtype != dtype or buffer.ndim != 1 or buffer.shape[0] < size or not buffer.is_contiguous():
            raise ValueError(
                f"Invalid {name}: expected [{size}] or more of {dtype}, got {validation.shape_text(buffer)} "
                f"{buffer.dtype}"
            )
    mask_buffer[: packed.shape[0]].copy_(packed, non_blocking=True)
    indptr_buffer[: len(indptr)].copy_(torch.from_numpy(indptr), non_blocking=True)
    return mask_buffer, indptr_buffer
