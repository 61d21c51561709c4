"""Tensors that a call writes: each element in a place of its own, and none where the call still reads."""

import math
from collections.abc import Mapping

import torch

Dims = list[tuple[int, int]]
# Views without a stride in common are compared row by row, up to this many.
MAX_ROWS = 64


def check_writable(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError if two elements of ``tensor``, which is to be written, are in the same place."""
    if not tensor.is_contiguous() and _overlaps_itself(_dims(tensor), tensor.element_size()):
        raise ValueError(
            f"Invalid strides of {name}: it is written, and strides {list(tensor.stride())} of shape "
            f"{list(tensor.shape)} put several elements in one place, as expand() does; pass a tensor of its own memory"
        )


def check_apart(written: Mapping[str, torch.Tensor], read: Mapping[str, torch.Tensor], may_be: str = "") -> None:
    """Raise ValueError if a tensor that is written shares memory with another one, written or read.

    Parameters
    ----------
    written, read : mapping
        Tensors by their names.
    may_be : str
        Name of a read tensor that the first written one may be, all of it: where every element of the result is
        written by the threads that alone have read what was there.
    """
    names = list(written)
    for number, (name, tensor) in enumerate(written.items()):
        storage = tensor.untyped_storage().data_ptr()
        others = {**{later: written[later] for later in names[number + 1 :]}, **read}
        for other_name, other in others.items():
            if other.untyped_storage().data_ptr() != storage or not share_memory(tensor, other):
                continue
            if number == 0 and other_name == may_be and _is_same(tensor, other):
                continue
            raise ValueError(
                f"Invalid {name}: it is written, and shares memory with {other_name}; pass tensors of their own memory"
            )


def share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether an element of ``a`` surely is where one of ``b`` is.

    Slices of one tensor, as the heads of q and k in a fused projection, lie between each other without sharing. Views
    of many rows without a stride in common are taken for apart.
    """
    if a.numel() == 0 or b.numel() == 0:
        return False
    # Steps of 0 add no bytes.
    dims_a, dims_b = ([dim for dim in _dims(tensor) if dim[0] > 0] for tensor in (a, b))
    return _share((dims_a, a.element_size()), (dims_b, b.element_size()), b.data_ptr() - a.data_ptr())


def _share(a: tuple[Dims, int], b: tuple[Dims, int], distance: int) -> bool:
    """Return whether ``a`` and ``b``, which begins ``distance`` bytes after ``a``, share a byte."""
    span_a, span_b = _span(*a), _span(*b)
    if distance >= span_a or -distance >= span_b:
        return False
    if _is_dense(*a):
        return _is_dense(*b) or _reaches(b, -distance, span_a - distance)
    if _is_dense(*b):
        return _reaches(a, distance, distance + span_b)
    (dims_a, size_a), (dims_b, size_b) = a, b
    (stride, steps_a), (other_stride, steps_b) = dims_a[-1], dims_b[-1]
    inner_a, inner_b = (dims_a[:-1], size_a), (dims_b[:-1], size_b)
    if stride == other_stride and max(_span(*inner_a), _span(*inner_b)) <= stride:
        # Row 0 of b begins in row `steps` of a, and may reach into the one after that.
        steps, distance = divmod(distance, stride)
        return (-steps_b < steps < steps_a and _share(inner_a, inner_b, distance)) or (
            -steps_b < steps + 1 < steps_a and _share(inner_a, inner_b, distance - stride)
        )
    if steps_a > MAX_ROWS:
        return False
    return any(_share(inner_a, b, distance - row * stride) for row in range(steps_a))


def _reaches(tensor: tuple[Dims, int], begin: int, end: int) -> bool:
    """Return whether a byte of ``tensor`` is among the bytes ``begin`` to ``end``, counted from where it begins."""
    dims, size = tensor
    if begin >= _span(dims, size) or end <= 0:
        return False
    if _is_dense(dims, size):
        return True
    stride, rows = dims[-1]
    inner = (dims[:-1], size)
    first = max((begin - _span(*inner)) // stride + 1, 0)
    last = min((end - 1) // stride, rows - 1)
    # Of three rows that are reached, the bytes hold the middle one whole.
    return last - first >= 2 or any(
        _reaches(inner, begin - i * stride, end - i * stride) for i in range(first, last + 1)
    )


def _dims(tensor: torch.Tensor) -> Dims:
    """Return the strides in bytes and the sizes of the dimensions that have several elements, the closest first."""
    sizes = zip(tensor.stride(), tensor.shape, strict=True)
    return sorted((stride * tensor.element_size(), size) for stride, size in sizes if size > 1)


def _span(dims: Dims, element_size: int) -> int:
    return sum(stride * (size - 1) for stride, size in dims) + element_size


def _is_dense(dims: Dims, element_size: int) -> bool:
    return _span(dims, element_size) == element_size * math.prod(size for _, size in dims)


def _overlaps_itself(dims: Dims, element_size: int) -> bool:
    span = element_size
    for stride, size in dims:
        if stride < span:
            return True
        span += stride * (size - 1)
    return False


def _is_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
