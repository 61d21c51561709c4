"""Merging the states of attention over disjoint sets of keys."""

from typing import Any

import torch

from flashinfer_jit import merge, ops, overlap, runtime, validation
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.key import KernelKey

__all__ = ["merge_state", "merge_state_in_place", "merge_states"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _merged(v: torch.Tensor, s: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The fake results of merging: with four dimensions, the second counts states."""
    shape = v.shape if v.ndim == 3 else (v.shape[0], *v.shape[2:])
    return v.new_empty(shape), v.new_empty(shape[:2], dtype=torch.float32)


@ops.traceable("merge_state(Tensor v_a, Tensor s_a, Tensor v_b, Tensor s_b) -> (Tensor, Tensor)", _merged)
def merge_state(
    v_a: torch.Tensor, s_a: torch.Tensor, v_b: torch.Tensor, s_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return the attention over the union of two disjoint sets of keys.

    With :math:`s = \log_2(2^{s_a} + 2^{s_b})` the result is :math:`(v_a 2^{s_a} + v_b 2^{s_b}) / 2^s`
    (arXiv 2402.05099).

    Parameters
    ----------
    v_a, v_b : torch.Tensor
        Outputs over the first and the second set, ``[seq_len, num_heads, head_dim]``, float16, bfloat16 or float32.
    s_a, s_b : torch.Tensor
        Their log-sum-exps to base 2, ``[seq_len, num_heads]``; -inf is a set that a row sees nothing of, and its output
        is not looked at.

    Returns
    -------
    tuple of torch.Tensor
        The output, like ``v_a``, and the log-sum-exp ``[seq_len, num_heads]`` float32.

    Raises
    ------
    ValueError
        For shapes, dtypes, devices or strides that do not fit.
    """
    active = runtime.current()
    _check_states(active, {"v_a": v_a, "s_a": s_a}, ("seq_len", "num_heads", "head_dim"))
    _check_states(active, {"v_b": v_b, "s_b": s_b}, ("seq_len", "num_heads", "head_dim"))
    _check_like("v_b", v_b, "v_a", v_a)
    v = torch.empty_like(v_a, memory_format=torch.contiguous_format)
    s = torch.empty(v_a.shape[:2], dtype=torch.float32, device=v_a.device)
    _launch(active, v_a, _lse(s_a), v, s, v_other=v_b, s_other=_lse(s_b))
    return v, s


@ops.traceable(
    "merge_state_in_place(Tensor(a!) v, Tensor(b!) s, Tensor v_other, Tensor s_other, Tensor? mask=None) -> ()",
    ops.no_results,
)
def merge_state_in_place(
    v: torch.Tensor,
    s: torch.Tensor,
    v_other: torch.Tensor,
    s_other: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> None:
    """Merge another state into ``v`` and ``s``.

    Parameters
    ----------
    v, s : torch.Tensor
        Output ``[seq_len, num_heads, head_dim]`` and log-sum-exp ``[seq_len, num_heads]``; both are overwritten,
        whatever dtype and strides ``s`` has.
    v_other, s_other : torch.Tensor
        The other state, likewise.
    mask : torch.Tensor, optional
        ``[seq_len]`` bool: rows with False are left alone.

    Raises
    ------
    ValueError
        For shapes, dtypes, devices or strides that do not fit.
    """
    active = runtime.current()
    _check_states(active, {"v": v, "s": s}, ("seq_len", "num_heads", "head_dim"))
    _check_states(active, {"v_other": v_other, "s_other": s_other}, ("seq_len", "num_heads", "head_dim"))
    _check_like("v_other", v_other, "v", v)
    if mask is not None:
        validation.check_tensor("mask", mask, ("seq_len",))
        if mask.dtype not in (torch.bool, torch.uint8) or mask.shape[0] != v.shape[0] or mask.device != v.device:
            raise ValueError(
                f"Invalid mask: expected [{v.shape[0]}] torch.bool on {v.device}, got "
                f"{validation.shape_text(mask)} {mask.dtype} on {mask.device}"
            )
        mask = mask.contiguous().view(torch.uint8)
    overlap.check_writable("v", v)
    overlap.check_writable("s", s)
    overlap.check_apart({"v": v}, {"v_other": v_other, "s_other": s_other}, may_be="v_other")
    overlap.check_apart({"s": s}, {"v": v, "v_other": v_other, "s_other": s_other}, may_be="s_other")
    lse = _lse(s)
    _launch(active, v, lse, v, lse, v_other=v_other, s_other=_lse(s_other), mask=mask)
    if lse is not s:
        s.copy_(lse)


@ops.traceable("merge_states(Tensor v, Tensor s) -> (Tensor, Tensor)", _merged)
def merge_states(v: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention over the union of several disjoint sets of keys.

    Parameters
    ----------
    v : torch.Tensor
        Outputs, ``[seq_len, num_states, num_heads, head_dim]``, float16, bfloat16 or float32.
    s : torch.Tensor
        Log-sum-exps to base 2, ``[seq_len, num_states, num_heads]``.

    Returns
    -------
    tuple of torch.Tensor
        The output ``[seq_len, num_heads, head_dim]`` and the log-sum-exp ``[seq_len, num_heads]`` float32.

    Raises
    ------
    ValueError
        For shapes, dtypes, devices or strides that do not fit.
    """
    active = runtime.current()
    _check_states(active, {"v": v, "s": s}, ("seq_len", "num_states", "num_heads", "head_dim"))
    seq_len, num_states, num_heads, head_dim = v.shape
    merged_v = torch.empty((seq_len, num_heads, head_dim), dtype=v.dtype, device=v.device)
    merged_s = torch.empty((seq_len, num_heads), dtype=torch.float32, device=v.device)
    # The kernel counts states through all rows: they have to adjoin.
    if v.stride(0) != num_states * v.stride(1):
        v = v.contiguous()
    _launch(active, v, _lse(s), merged_v, merged_s, num_states=num_states)
    return merged_v, merged_s


def load_merging_kernel(dtype: str | torch.dtype, head_dim: int, device: torch.device) -> None:
    """Load the kernel that merges states of ``dtype``, for plans whose runs are to find it ready."""
    active = runtime.current()
    kernels.get_kernel(_merging_key(active, validation.canonical_dtype("dtype", dtype), head_dim, device), active)


def _merging_key(active: runtime.Runtime, dtype: torch.dtype, head_dim: int, device: torch.device) -> KernelKey:
    name = validation.DTYPE_NAMES[dtype]
    return merge.merge_key(active.arch(device), name, name, head_dim)


def _lse(s: torch.Tensor) -> torch.Tensor:
    """Return ``s`` itself where it is float32 without gaps, as kernels read it, and a converted copy elsewhere."""
    return s if s.dtype == torch.float32 and s.is_contiguous() else s.float().contiguous()


def _check_states(active: runtime.Runtime, state: dict[str, Any], dims: tuple[str, ...]) -> None:
    (v_name, v), (s_name, s) = state.items()
    validation.check_tensor(v_name, v, dims)
    validation.check_tensor(s_name, s, dims[:-1])
    validation.check_device(active, state)
    validation.check_dtype(v_name, v.dtype, DTYPES)
    if not s.dtype.is_floating_point:
        raise ValueError(f"Invalid dtype of {s_name}: expected torch.float32, got {s.dtype}")
    if s.shape != v.shape[:-1]:
        raise ValueError(
            f"Invalid shape of {s_name}: expected [{', '.join(map(str, v.shape[:-1]))}] as {v_name} without its last "
            f"dimension, got {validation.shape_text(s)}"
        )
    if v.shape[-1] > 1 and v.stride(-1) != 1:
        raise ValueError(
            f"Invalid strides of {v_name}: the last dimension must be contiguous, got stride {v.stride(-1)}; "
            f"pass {v_name}.contiguous()"
        )


def _check_like(name: str, tensor: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    if tensor.shape != other.shape or tensor.dtype != other.dtype or tensor.device != other.device:
        raise ValueError(
            f"Invalid {name}: expected {validation.shape_text(other)} {other.dtype} on {other.device} as {other_name}, "
            f"got {validation.shape_text(tensor)} {tensor.dtype} on {tensor.device}"
        )


def _launch(
    active: runtime.Runtime,
    v: torch.Tensor,
    s: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor,
    *,
    num_states: int = 2,
    v_other: torch.Tensor | None = None,
    s_other: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> None:
    """Merge ``num_states`` states of each row, or the row's and the other one's, into ``o`` and ``lse``."""
    if o.numel() == 0:
        return
    kernel = kernels.get_kernel(_merging_key(active, v.dtype, v.shape[-1], v.device), active)
    tensors = {"v": v, "s": s, "o": o, "lse": lse}
    strides = {"v_stride_state": v.stride(-3), "v_stride_head": v.stride(-2)}
    optional = {"v_other": v_other, "s_other": s_other, "mask": mask}
    tensors.update({name: tensor for name, tensor in optional.items() if tensor is not None})
    if v_other is not None:
        strides.update(v_other_stride_row=v_other.stride(0), v_other_stride_head=v_other.stride(1))
    num_rows, num_heads = lse.shape
    params = kernel.params_type(
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        **strides,
        s_stride_state=num_heads,
        s_other_stride_row=num_heads,
        o_stride_row=o.stride(0),
        o_stride_head=o.stride(1),
        num_rows=num_rows,
        num_states=num_states,
        num_heads=num_heads,
        output_scale=1.0,
    )
    active.launch(kernel, params, tensors, None)
