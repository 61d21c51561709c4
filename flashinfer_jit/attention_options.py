"""Options that every attention call has, checked and turned into what kernels take."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from flashinfer_jit import validation
from flashinfer_jit.jit.config import FP8_DTYPES, default_dtype_o

LOG2_E = math.log2(math.e)
DEFAULT_ROPE_SCALE = 1.0
DEFAULT_ROPE_THETA = 1e4
POSITION_ENCODINGS = {"NONE": "none", "ROPE_LLAMA": "rope_llama", "ALIBI": "alibi"}
DTYPES_FP8 = tuple(getattr(torch, name) for name in FP8_DTYPES)
DTYPES_Q = (torch.float16, torch.bfloat16, *DTYPES_FP8)
DTYPES_O = (torch.float16, torch.bfloat16, torch.float32)


def mask_mode(has_custom_mask: bool, causal: bool) -> str:
    """Return the ``mask_mode`` of the configuration: a custom mask decides alone, as in FlashInfer."""
    return "custom" if has_custom_mask else "causal" if causal else "none"


@dataclass(frozen=True, slots=True)
class LogitsOptions:
    """What happens to logits before the softmax, beside their scale.

    Attributes
    ----------
    position_encoding : str
        ``none``, ``rope_llama`` or ``alibi``.
    window_left : int
        Keys to the left that a query sees; -1 for all.
    logits_soft_cap : float
        0 for none.
    rope_frequency : float
        Revolutions per token of the first pair of dimensions.
    rope_decay : float
        The factor from one pair to the next.
    """

    position_encoding: str
    window_left: int
    logits_soft_cap: float
    rope_frequency: float
    rope_decay: float


def check_dtypes(
    q: torch.dtype, kv: torch.dtype, o: torch.dtype | None, names: tuple[str, str, str]
) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """Return the dtypes of q, of k and v, and of the output: None is that of q, or for fp8 q that of k and v if it has
    16 bits, or else bfloat16, as AMD's port of FlashInfer and FlashInfer's CUTLASS kernels have it; its other kernels
    would make fp8 outputs, which its documentation advises against.

    Raises
    ------
    UnsupportedConfigError
        For a dtype, or a pair of them, that no kernel is built for; ``names`` are those of the arguments.
    """
    validation.check_dtype(names[0], q, DTYPES_Q)
    fitting = DTYPES_Q if q in DTYPES_FP8 else (q, *DTYPES_FP8)
    validation.check_dtype(names[1], kv, fitting, "" if q in DTYPES_FP8 else f" with {q} queries")
    if o is None:
        o = getattr(torch, default_dtype_o(validation.DTYPE_NAMES[q], validation.DTYPE_NAMES[kv]))
    validation.check_dtype(names[2], o, DTYPES_O)
    return q, kv, o


def check_fixed_split(size: Any) -> int | None:
    """Return the size of a part of a request's keys, None for no fixed size, which callers also write as -1.

    Raises ValueError for anything else than a positive whole number.
    """
    if size is None or size == -1:
        return None
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
        raise ValueError(f"fixed_split_size={size!r} must be None, -1 (both mean none) or a positive whole number")
    return int(size)


def check_logits_options(
    pos_encoding_mode: str,
    window_left: Any,
    logits_soft_cap: Any,
    rope_scale: Any,
    rope_theta: Any,
    head_dim_qk: int,
) -> LogitsOptions:
    """Return the options, checked.

    Raises
    ------
    KeyError
        For an unknown ``pos_encoding_mode``.
    ValueError
        For a window, a cap, a RoPE scale or base that is out of range, and for RoPE parameters without RoPE.
    """
    validation.check_pos_encoding_mode(pos_encoding_mode)
    window_left = validation.check_window_left(window_left)
    cap = validation.check_logits_soft_cap(logits_soft_cap)
    if pos_encoding_mode != "ROPE_LLAMA":
        for name, value in (("rope_scale", rope_scale), ("rope_theta", rope_theta)):
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} has no meaning with pos_encoding_mode={pos_encoding_mode!r}: expected None, or "
                    "pos_encoding_mode='ROPE_LLAMA'"
                )
    scale = DEFAULT_ROPE_SCALE if rope_scale is None else validation.check_scale("rope_scale", rope_scale)
    theta = DEFAULT_ROPE_THETA if rope_theta is None else validation.check_scale("rope_theta", rope_theta)
    return LogitsOptions(
        position_encoding=POSITION_ENCODINGS[pos_encoding_mode],
        window_left=window_left,
        logits_soft_cap=cap,
        rope_frequency=1.0 / (2.0 * math.pi * scale),
        rope_decay=theta ** (-2.0 / head_dim_qk),
    )


def softmax_scale(default: float, sm_scale: Any, *scales: tuple[str, Any]) -> float:
    """Return the factor of logits: ``sm_scale``, or ``default`` if it is None, times the named scales that are given.

    Raises ValueError for a scale that is no positive finite number.
    """
    result = default if sm_scale is None else validation.check_scale("sm_scale", sm_scale)
    for name, scale in scales:
        if scale is not None:
            result *= validation.check_scale(name, scale)
    return result
