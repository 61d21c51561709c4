"""Names that FlashInfer has under ``flashinfer.utils`` and that programs import from there."""

from enum import Enum

import torch

from flashinfer_jit import runtime

__all__ = [
    "MaskMode",
    "PosEncodingMode",
    "TensorLayout",
    "get_compute_capability",
    "is_sm90a_supported",
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
