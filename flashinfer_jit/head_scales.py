"""Scales of quantised tensors: numbers, which the host multiplies, and tensors, which kernels read."""

from typing import Any, NamedTuple

import torch

from flashinfer_jit import validation

Scale = float | torch.Tensor | None
NAMES = ("q_scale", "k_scale", "v_scale")


class HeadScales(NamedTuple):
    """The scales of one call.

    Attributes
    ----------
    logits, output : float
        Products of those that are numbers: of q and k, and of v.
    tensors : dict
        Those that are tensors, by name: one element, or one for each head, float32.
    """

    logits: float
    output: float
    tensors: dict[str, torch.Tensor]

    def fill(self, params: Any) -> None:
        """Put the tensors into the parameters of a kernel, which has the fields ``params.HEAD_SCALES``."""
        for name in NAMES:
            tensor = self.tensors.get(name)
            setattr(params, name, None if tensor is None else tensor.data_ptr())
            setattr(params, f"{name}_stride", 0 if tensor is None or tensor.numel() == 1 else tensor.stride(0))


NO_SCALES = HeadScales(1.0, 1.0, {})


def read(
    q_scale: Scale,
    k_scale: Scale,
    v_scale: Scale,
    num_qo_heads: int,
    num_kv_heads: int,
    device: torch.device,
    argument_names: tuple[str, str, str] = NAMES,
) -> HeadScales:
    """Return the scales, checked. Nothing waits for a GPU, so what tensors on one hold is not.

    Parameters
    ----------
    q_scale, k_scale, v_scale : float or torch.Tensor, optional
        A number; or a tensor of one element, or of one for each query head (``q_scale``) or KV head, on ``device``. A
        tensor of one element may also be on the host.
    num_qo_heads, num_kv_heads : int
        Heads.
    device : torch.device
        Where kernels run.
    argument_names : tuple of str
        What the caller calls the three.

    Raises
    ------
    ValueError
        For a scale that is not positive and finite, and a tensor of another shape, dtype or device.
    """
    numbers = {"q_scale": 1.0, "k_scale": 1.0, "v_scale": 1.0}
    tensors: dict[str, torch.Tensor] = {}
    for name, argument, scale in zip(NAMES, argument_names, (q_scale, k_scale, v_scale), strict=True):
        if scale is None:
            continue
        if not isinstance(scale, torch.Tensor):
            numbers[name] = validation.check_scale(argument, scale)
        elif scale.numel() == 1 and scale.device.type == "cpu" != device.type:
            numbers[name] = validation.check_scale(argument, scale.item())
        else:
            tensors[name] = _check(argument, scale, num_qo_heads if name == "q_scale" else num_kv_heads, device)
    return HeadScales(numbers["q_scale"] * numbers["k_scale"], numbers["v_scale"], tensors)


def one_of(name: str, scale: Scale, other_name: str, other: Scale) -> tuple[str, Scale]:
    """Return the scale that may be given under either of two names, and its name; ValueError if both are given."""
    if scale is not None and other is not None:
        raise ValueError(f"{name} and {other_name} are the same scale: give one of them")
    return (name, scale) if other is None else (other_name, other)


def _check(name: str, scale: torch.Tensor, num_heads: int, device: torch.device) -> torch.Tensor:
    fits = scale.numel() == 1 or tuple(scale.shape) == (num_heads,)
    if not fits or not scale.dtype.is_floating_point or scale.device != device:
        raise ValueError(
            f"Invalid {name}: expected a number, or a float32 tensor of one element or of one per head, [{num_heads}], "
            f"on {device}, got {validation.shape_text(scale)} {scale.dtype} on {scale.device}"
        )
    if scale.device.type == "cpu":
        for value in scale.reshape(-1).tolist():
            validation.check_scale(name, value)
    return scale.float()
