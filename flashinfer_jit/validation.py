"""Checks of arguments that all wrappers share: what is wrong, which value, what is allowed, before any launch.

The types of the exceptions are FlashInfer's: KeyError for the name of a layout or position encoding, ValueError for
shapes, dtypes and devices, UnsupportedConfigError (a ValueError too) for what no kernel is built for.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch

from flashinfer_jit import env, log, overlap
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.config import DTYPE_SLUGS
from flashinfer_jit.runtime.base import Runtime

KV_LAYOUTS = ("NHD", "HND")
POS_ENCODING_MODES = ("NONE", "ROPE_LLAMA", "ALIBI")
BACKENDS = ("auto", "fa2", "aiter")
DTYPE_NAMES: Mapping[torch.dtype, str] = {getattr(torch, name): name for name in DTYPE_SLUGS}
# Rows of a head are read 16 bytes at a time, so each must start at a multiple of that.
ROW_ALIGNMENT = 16
# A tile of K or V is addressed by 32-bit byte offsets, and no tile has more tokens than 256.
MAX_TOKEN_STRIDE_BYTES = 2**24
INT32_MAX = 2**31 - 1
# Kernels subtract windows from positions in 32 bits; models say "no window" by any number that is large enough.
MAX_WINDOW_LEFT = 2**30


def shape_text(tensor: torch.Tensor) -> str:
    """Return the shape as ``[7, 8, 64]``."""
    return "[" + ", ".join(map(str, tensor.shape)) + "]"


def check_kv_layout(kv_layout: str) -> None:
    """Raise KeyError unless ``kv_layout`` is known."""
    if kv_layout not in KV_LAYOUTS:
        raise KeyError(f"Invalid kv_layout {kv_layout!r}: expected 'NHD' or 'HND'")


def check_pos_encoding_mode(pos_encoding_mode: str) -> None:
    """Raise KeyError unless ``pos_encoding_mode`` is known."""
    if pos_encoding_mode not in POS_ENCODING_MODES:
        raise KeyError(
            f"Invalid pos_encoding_mode {pos_encoding_mode!r}: expected one of {', '.join(POS_ENCODING_MODES)}"
        )


def resolve_backend(backend: str) -> str:
    """Return ``fa2`` or ``aiter``: ``auto`` is what FLASHINFER_JIT_BACKEND says, else ``fa2``.

    Raises ValueError for an unknown name.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is unknown: expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = env.BACKEND.get()
    return "aiter" if backend == "aiter" else "fa2"


def check_tensor(name: str, tensor: Any, dims: Sequence[str]) -> None:
    """Raise TypeError unless ``tensor`` is a torch.Tensor, ValueError unless it has as many dimensions as ``dims``."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.ndim != len(dims):
        raise ValueError(f"Invalid shape of {name}: expected [{', '.join(dims)}], got {shape_text(tensor)}")


def check_device(runtime: Runtime, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless all tensors are on the one device that ``runtime`` runs on."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.device.type != runtime.device_type:
            where = "an AMD GPU" if runtime.kind == "hip" else "the emulated GPU, whose memory is that of CPU tensors"
            raise ValueError(
                f"Invalid device of {name}: kernels run on {where}: expected {runtime.device()}, got {tensor.device}; "
                "create tensors with device=flashinfer_jit.device(), or choose another with FLASHINFER_JIT_DEVICE"
            )
        if tensor.device != first.device:
            raise ValueError(
                f"Invalid device of {name}: expected {first.device} as that of {first_name}, got {tensor.device}"
            )


def check_dtype(name: str, dtype: Any, allowed: Sequence[torch.dtype], reason: str = "") -> str:
    """Return the name of ``dtype``; raise UnsupportedConfigError unless it is one of ``allowed``."""
    if dtype not in allowed:
        expected = " or ".join(map(str, allowed))
        raise UnsupportedConfigError(f"Invalid dtype of {name}: expected {expected}{reason}, got {dtype}")
    return DTYPE_NAMES[dtype]


def canonical_dtype(name: str, dtype: Any) -> torch.dtype:
    """Return the torch.dtype that ``dtype``, a torch.dtype or its name, says; raise UnsupportedConfigError if none."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise UnsupportedConfigError(f"{name}={dtype!r} is not allowed: expected a torch.dtype or its name")
    return found


def check_result(
    name: str, tensor: Any, shape: Sequence[int], dtype: torch.dtype, device: torch.device, contiguous: bool = False
) -> None:
    """Raise ValueError unless ``tensor``, given to be overwritten, has this shape, dtype and device."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    for what, expected, got in (
        ("shape", list(shape), list(tensor.shape)),
        ("dtype", dtype, tensor.dtype),
        ("device", device, tensor.device),
    ):
        if expected != got:
            raise ValueError(f"Invalid {what} of {name}: expected {expected}, got {got}")
    if (contiguous and not tensor.is_contiguous()) or (tensor.shape[-1] > 1 and tensor.stride(-1) != 1):
        raise ValueError(
            f"Invalid strides of {name}: expected {'no gaps' if contiguous else 'a contiguous last dimension'}, got "
            f"{list(tensor.stride())}"
        )
    overlap.check_writable(name, tensor)


def check_rows(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless the rows (last dimension) of ``tensor`` adjoin and start at multiples of 16 bytes.

    A copy would satisfy the kernels as well, at a cost that the caller would not see: it is refused instead.
    """
    if tensor.numel() == 0:
        return
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"Invalid strides of {name}: the last dimension must be contiguous, got stride {tensor.stride(-1)}; "
            f"pass {name}.contiguous()"
        )
    if tensor.data_ptr() % ROW_ALIGNMENT:
        raise ValueError(
            f"Invalid address of {name}: rows must start at multiples of {ROW_ALIGNMENT} bytes, and its first element "
            f"is at {tensor.data_ptr():#x}; pass "
            f"{'one of its own memory' if name == 'out' else name + '.clone()'}"
        )
    for dim in range(tensor.ndim - 1):
        num_bytes = tensor.stride(dim) * tensor.element_size()
        if tensor.shape[dim] > 1 and num_bytes % ROW_ALIGNMENT:
            raise ValueError(
                f"Invalid strides of {name}: rows must start at multiples of {ROW_ALIGNMENT} bytes, and dimension "
                f"{dim} has stride {tensor.stride(dim)} ({num_bytes} bytes); pass {name}.contiguous()"
            )


def aligned_rows(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` if its rows start at multiples of 16 bytes, else a copy whose rows do, and say so once.

    Raises ValueError if the last dimension is not contiguous: FlashInfer refuses that too.
    """
    if tensor.numel() == 0 or tensor.shape[-1] == 1 or tensor.stride(-1) == 1:
        sizes = zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
        steps = [stride * tensor.element_size() for size, stride in sizes if size > 1]
        if not any(step % ROW_ALIGNMENT for step in (tensor.data_ptr(), *steps)):
            return tensor
        log.warn_once(
            f"unaligned {name}",
            f"rows of {name} do not start at multiples of {ROW_ALIGNMENT} bytes (strides {list(tensor.stride())} of "
            f"{tensor.element_size()}-byte elements): such tensors are copied at every call",
        )
        return tensor.clone(memory_format=torch.contiguous_format)
    check_rows(name, tensor)
    return tensor


def check_token_stride(name: str, tensor: torch.Tensor, token_dim: int) -> None:
    """Raise ValueError if the tokens of ``tensor`` are farther apart than a tile can be addressed."""
    num_bytes = tensor.stride(token_dim) * tensor.element_size()
    if tensor.shape[token_dim] > 1 and num_bytes > MAX_TOKEN_STRIDE_BYTES:
        raise ValueError(
            f"Invalid strides of {name}: tokens may be at most {MAX_TOKEN_STRIDE_BYTES} bytes apart, got {num_bytes}; "
            f"pass {name}.contiguous()"
        )


def check_heads(num_qo_heads: int, num_kv_heads: int) -> int:
    """Return query heads per KV head; raise ValueError unless that is a whole number above 0."""
    if num_qo_heads < 1 or num_kv_heads < 1 or num_qo_heads % num_kv_heads:
        raise ValueError(
            f"num_qo_heads={num_qo_heads} of q must be a positive multiple of num_kv_heads={num_kv_heads} of k and v"
        )
    return num_qo_heads // num_kv_heads


def check_window_left(window_left: Any) -> int:
    """Return ``window_left``, cut to MAX_WINDOW_LEFT; raise ValueError unless it is -1 (none) or a number of keys."""
    if isinstance(window_left, bool) or not isinstance(window_left, Integral) or window_left < -1:
        raise ValueError(
            f"window_left={window_left!r} must be -1 (no window) or the number of keys to the left, 0 or more"
        )
    return min(int(window_left), MAX_WINDOW_LEFT)


def check_planned_window(window_left: Any, planned: int) -> None:
    """Raise ValueError unless ``window_left`` of a run means the planned window."""
    if check_window_left(window_left) != planned:
        raise ValueError(f"window_left={window_left} is not the planned one, {planned}")


def check_logits_soft_cap(logits_soft_cap: Any) -> float:
    """Return the cap, 0.0 for none; raise ValueError unless it is None or a finite number not below 0."""
    if logits_soft_cap is None:
        return 0.0
    if not _is_number(logits_soft_cap) or not 0 <= logits_soft_cap < math.inf:
        raise ValueError(f"logits_soft_cap={logits_soft_cap!r} must be None, 0 (both mean no cap) or a positive number")
    return float(logits_soft_cap)


def check_scale(name: str, scale: Any) -> float:
    """Return ``scale`` as a float; raise ValueError unless it is a positive finite number.

    The largest logit is found before the scale is applied to it, so a scale must keep the order of the logits.
    """
    if not _is_number(scale) or not 0 < scale < math.inf:
        raise ValueError(f"{name}={scale!r} must be a positive finite number")
    return float(scale)


def _is_number(value: Any) -> bool:
    # NumPy's scalars and 0-dimensional things that say they are a float are welcome; tensors would synchronise.
    return isinstance(value, (int, float)) or (hasattr(value, "__float__") and not isinstance(value, torch.Tensor))


def plain_int(value: Any) -> Any:
    """Return a whole number of NumPy's as Python's, which kernels are chosen by, and anything else as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def refuse(name: str, value: Any, allowed: str) -> None:
    """Raise UnsupportedConfigError for an argument whose feature is not built yet: nothing is ignored."""
    if isinstance(value, torch.Tensor):
        value = f"<tensor {shape_text(value)} {value.dtype}>"
    raise UnsupportedConfigError(f"{name}={value} is not built yet: expected {allowed}")


def refuse_given(arguments: Mapping[str, Any]) -> None:
    """Raise UnsupportedConfigError for the first of ``arguments`` that is not None."""
    for name, value in arguments.items():
        if value is not None:
            refuse(name, value, "None")
