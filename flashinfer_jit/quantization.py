"""Packing booleans into bits."""

import itertools

import torch

from flashinfer_jit.validation import check_tensor

__all__ = ["packbits", "segment_packbits"]

_WEIGHTS = {"big": (128, 64, 32, 16, 8, 4, 2, 1), "little": (1, 2, 4, 8, 16, 32, 64, 128)}


def packbits(x: torch.Tensor, bitorder: str = "big") -> torch.Tensor:
    """Pack booleans into bits.

    Parameters
    ----------
    x : torch.Tensor
        ``[n]``, bool or uint8; anything but 0 is a 1.
    bitorder : str
        ``big``: the first is the highest bit of its byte; ``little``: the lowest.

    Returns
    -------
    torch.Tensor
        ``[ceil(n / 8)]`` uint8 on the same device; bits beyond the end are 0.

    Raises
    ------
    ValueError
        For another dtype, number of dimensions or bit order.
    """
    check_tensor("x", x, ("n",))
    return _pack(x, _weights(x, bitorder))


def segment_packbits(x: torch.Tensor, indptr: torch.Tensor, bitorder: str = "big") -> tuple[torch.Tensor, torch.Tensor]:
    """Pack the booleans of several segments into bits, every segment beginning with a byte of its own.

    Parameters
    ----------
    x : torch.Tensor
        ``[indptr[-1]]``, bool or uint8.
    indptr : torch.Tensor
        ``[num_segments + 1]`` integers: where the segments begin. It is read on the host.
    bitorder : str
        As in :func:`packbits`.

    Returns
    -------
    tuple of torch.Tensor
        The bytes, and where the segments begin in them, ``[num_segments + 1]`` int32; both on the device of ``x``.

    Raises
    ------
    ValueError
        For another dtype, number of dimensions or bit order, and for an ``indptr`` that does not fit ``x``.
    """
    check_tensor("x", x, ("n",))
    check_tensor("indptr", indptr, ("num_segments + 1",))
    weights = _weights(x, bitorder)
    begins = indptr.tolist()
    if begins[0] != 0 or begins[-1] != x.shape[0] or any(a > b for a, b in itertools.pairwise(begins)):
        raise ValueError(
            f"indptr must rise from 0 to the {x.shape[0]} elements of x, got {begins[:4]} ... {begins[-1]}"
        )
    parts = [_pack(x[a:b], weights) for a, b in itertools.pairwise(begins)]
    lens = torch.tensor([0, *map(len, parts)], dtype=torch.int64)
    packed = torch.cat(parts) if parts else x.new_empty(0, dtype=torch.uint8)
    return packed, lens.cumsum(0).to(torch.int32).to(x.device)


def _weights(x: torch.Tensor, bitorder: str) -> torch.Tensor:
    if bitorder not in _WEIGHTS:
        raise ValueError(f"bitorder={bitorder!r} is unknown: expected 'big' or 'little'")
    if x.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"Invalid dtype of x: expected torch.bool or torch.uint8, got {x.dtype}")
    return torch.tensor(_WEIGHTS[bitorder], dtype=torch.uint8, device=x.device)


def _pack(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    bits = x if x.dtype == torch.bool else x != 0
    padded = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (padded * weights).sum(1, dtype=torch.uint8)
