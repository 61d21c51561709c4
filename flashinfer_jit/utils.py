"""Names that FlashInfer has under ``flashinfer.utils`` and that programs import from there."""

from enum import Enum

import torch

from flashinfer_jit import runtime
from flashinfer_jit.attention_options import DTYPES_FP8

__all__ = [
    "MaskMode",
    "PosEncodingMode",
    "TensorLayout",
    "determine_attention_backend",
    "get_alibi_slopes",
    "get_compute_capability",
    "has_flashinfer_jit_cache",
    "is_float8",
    "is_sm90a_supported",
    "is_sm100a_supported",
]


class MaskMode(Enum):
    """What hides keys from queries, by FlashInfer's numbers."""

    NON_CAUSAL = 0
    CAUSAL = 1
    CUSTOM = 2
    MULTIITEMSCORING = 3


class PosEncodingMode(Enum):
    """Position encodings by FlashInfer's numbers."""

    NONE = 0
    ROPE_LLAMA = 1
    ALIBI = 2


class TensorLayout(Enum):
    """Layouts of keys and values by FlashInfer's numbers."""

    NHD = 0
    HND = 1


def get_compute_capability(device: torch.device) -> tuple[int, int]:
    """Return the version of the GPU as PyTorch for ROCm gives it: ``(9, 4)`` for gfx942, ``(9, 5)`` for gfx950."""
    digits = runtime.current().arch(device).name.removeprefix("gfx")
    return int(digits[:-2]), int(digits[-2], 16)


def is_sm90a_supported(device: torch.device) -> bool:
    """Return False: that is a GPU of another maker."""
    return False


def is_sm100a_supported(device: torch.device) -> bool:
    """Return False: that is a GPU of another maker."""
    return False


def has_flashinfer_jit_cache() -> bool:
    """Return False: FlashInfer's package of compiled kernels is not what this package loads."""
    return False


def determine_attention_backend(device: torch.device, *args: object, **kwargs: object) -> str:
    """Return ``fa2``, which is what ``auto`` means here: this package's kernels, whatever the options are."""
    return "fa2"


def is_float8(tensor: torch.Tensor) -> bool:
    """Return whether the dtype is one of the four fp8 dtypes."""
    return tensor.dtype in DTYPES_FP8


def get_alibi_slopes(num_heads: int) -> torch.Tensor:
    """Return the ALiBi slope of each query head, ``[num_heads]`` float32: ``2^(-8 (h + 1) / n)`` for the first ``n``,
    the largest power of two among them, then the odd powers of ``2^(-4 / n)`` (arXiv 2108.12409)."""
    n = 1 << (num_heads.bit_length() - 1)
    heads = torch.arange(num_heads, dtype=torch.float64)
    return torch.where(heads < n, 2.0 ** (-8 * (heads + 1) / n), 2.0 ** (-4 * (2 * (heads - n) + 1) / n)).float()
