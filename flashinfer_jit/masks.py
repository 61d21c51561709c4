"""Custom masks: booleans packed into bits, as kernels read them."""

from typing import Any

import torch

from flashinfer_jit.validation import shape_text

# Kernels load 8 bytes around a bit, so the tensor has at least that many.
MIN_PACKED_BYTES = 8


def pack_bits(mask: torch.Tensor) -> torch.Tensor:
    """Return the bits of ``mask``, flattened, eight to a byte, the first in the lowest bit.

    Parameters
    ----------
    mask : torch.Tensor
        Booleans of any shape.

    Returns
    -------
    torch.Tensor
        ``[max(ceil(n / 8), 8)]`` uint8 on the device of ``mask``; bits past the last are 0.
    """
    flat = mask.reshape(-1).to(torch.uint8)
    num_bytes = max(-(-flat.numel() // 8), MIN_PACKED_BYTES)
    padded = torch.nn.functional.pad(flat, (0, 8 * num_bytes - flat.numel()))
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (padded.view(-1, 8) * weights).sum(-1, dtype=torch.uint8)


def single_mask(
    custom_mask: Any, packed_custom_mask: Any, qo_len: int, kv_len: int, device: torch.device
) -> torch.Tensor:
    """Return the packed mask of one request; the packed argument wins over the other, as in FlashInfer.

    Raises
    ------
    TypeError
        If the mask is no tensor.
    ValueError
        If its shape, dtype or device does not fit.
    """
    name, mask = ("packed_custom_mask", packed_custom_mask)
    if mask is None:
        name, mask = ("custom_mask", custom_mask)
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(mask).__name__}")
    if mask.device != device:
        raise ValueError(f"Invalid device of {name}: expected {device} as that of q, got {mask.device}")
    if name == "custom_mask":
        if mask.dtype != torch.bool:
            raise ValueError(f"Invalid dtype of custom_mask: expected torch.bool, got {mask.dtype}")
        if tuple(mask.shape) != (qo_len, kv_len):
            raise ValueError(
                f"Invalid shape of custom_mask: expected [{qo_len}, {kv_len}] (qo_len, kv_len), got {shape_text(mask)}"
            )
        return pack_bits(mask)
    num_bytes = -(-qo_len * kv_len // 8)
    if mask.dtype != torch.uint8:
        raise ValueError(f"Invalid dtype of packed_custom_mask: expected torch.uint8, got {mask.dtype}")
    if mask.ndim != 1 or mask.shape[0] < num_bytes:
        raise ValueError(
            f"Invalid shape of packed_custom_mask: expected at least [{num_bytes}] for {qo_len} x {kv_len} bits, "
            f"got {shape_text(mask)}"
        )
    mask = mask.contiguous()
    if mask.shape[0] < MIN_PACKED_BYTES:
        mask = torch.nn.functional.pad(mask, (0, MIN_PACKED_BYTES - mask.shape[0]))
    return mask
