"""Operators for torch.compile: what a traced graph calls instead of tracing into validation and launches.

The public functions use them only while ``torch.compiler.is_compiling()``; in eager mode they cost one test of a flag.
An operator's kernel is the eager function itself, so both ways check and compute the same.
"""

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch

NAMESPACE = "flashinfer_jit"
F = TypeVar("F", bound=Callable[..., Any])
# Opened at import, because operators cannot be defined while a graph is being traced.
_library = torch.library.Library(NAMESPACE, "DEF")

_numbers = itertools.count(1)
_objects: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


def define(schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an operator and return it.

    Parameters
    ----------
    schema : str
        Its name and signature, as PyTorch writes them: ``"name(Tensor q) -> Tensor"``.
    function : callable
        What it does with real tensors; it returns new tensors, or nothing and writes those that the schema says.
    fake : callable
        The same for tensors without memory: shapes and dtypes of results only.
    """
    name = schema.partition("(")[0]
    _library.define(" ".join(schema.split()), tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def traceable(schema: str, fake: Callable[..., Any]) -> Callable[[F], F]:
    """Decorator: while torch.compile traces, the function is the operator of this schema, which takes what it takes.

    Parameters
    ----------
    schema, fake
        As for ``define``; arguments have the names, the order and the defaults of the function's.
    """

    def decorate(function: F) -> F:
        operator = define(schema, function, fake)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (operator if torch.compiler.is_compiling() else function)(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def number_of(value: Any) -> int:
    """Give ``value``, a wrapper that holds a plan, a number by which operators name it."""
    number = next(_numbers)
    _objects[number] = value
    return number


def object_of(number: int) -> Any:
    """Return what ``number_of`` gave this number to; raise RuntimeError if it is gone."""
    value = _objects.get(number)
    if value is None:
        raise RuntimeError("this compiled graph runs a wrapper that does not exist any more: keep the wrapper alive")
    return value


def split_scale(scale: Any) -> tuple[float | None, torch.Tensor | None]:
    """Return ``scale`` as the pair of arguments that schemas have for it: a number, or a tensor."""
    return (None, scale) if isinstance(scale, torch.Tensor) else (scale, None)


def join_scale(number: float | None, tensor: torch.Tensor | None) -> float | torch.Tensor | None:
    """Return the scale that ``split_scale`` took apart."""
    return number if tensor is None else tensor


def no_results(*args: Any, **kwargs: Any) -> None:
    """The fake of an operator that only writes tensors it is given."""
