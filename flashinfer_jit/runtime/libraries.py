"""Which libamdhip64 is mapped into this process, and how its symbols are made visible to kernel libraries.

Kernel libraries name no runtime: their HIP symbols are resolved from the process when they are loaded. A framework
opens its HIP runtime privately (RTLD_LOCAL), so the mapped copy is reopened for all. A second copy beside the first
would have its own streams and its own state: launches then fail on the streams of the framework only, which tests on
the default stream never see. That is refused as soon as it can be seen.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from flashinfer_jit.errors import HipRuntimeMismatchError, KernelLoadError
from flashinfer_jit.maps import RUNTIME_NAME, MappedLibrary, parse_maps

__all__ = ["RUNTIME_NAME", "MappedLibrary", "mapped_libraries", "parse_maps", "promote", "require_one"]


def mapped_libraries(name: str = RUNTIME_NAME) -> tuple[MappedLibrary, ...]:
    """Return the shared libraries called ``name`` that are mapped into this process now."""
    return parse_maps(Path("/proc/self/maps").read_text(errors="surrogateescape"), name)


def _likely_owner(library: MappedLibrary) -> str:
    """Return who is known to bring a runtime from such a place, for the error message."""
    places = {
        "/torch/": "PyTorch's own copy",
        "_rocm_sdk": "the rocm-sdk packages",
        "rocm_sdk": "the rocm-sdk packages",
        "/opt/rocm": "the system's ROCm",
        "/flashinfer_jit/": "this package's emulated device",
    }
    for place, owner in places.items():
        if place in library.path:
            return f"{library} ({owner})"
    return str(library)


def require_one(libraries: Iterable[MappedLibrary], expected: MappedLibrary | None = None) -> MappedLibrary:
    """Return the one HIP runtime among ``libraries``.

    Parameters
    ----------
    libraries : iterable of MappedLibrary
        What ``mapped_libraries`` found.
    expected : MappedLibrary, optional
        The runtime that this process already works with.

    Raises
    ------
    HipRuntimeMismatchError
        If there are two, or the one there is differs from ``expected``: the message names both.
    KernelLoadError
        If there is none.
    """
    distinct: list[MappedLibrary] = [] if expected is None else [expected]
    for library in libraries:
        if not any(library.is_same_file(other) for other in distinct):
            distinct.append(library)
    if not distinct:
        raise KernelLoadError(f"no {RUNTIME_NAME}.so is mapped into this process: `import torch` (a ROCm build) first")
    if len(distinct) > 1:
        names = "\n  ".join(_likely_owner(library) for library in distinct)
        raise HipRuntimeMismatchError(
            f"{len(distinct)} HIP runtimes are mapped into this process:\n  {names}\n"
            "Each has its own streams and memory, so kernels would fail on the framework's streams. Import torch "
            "before any other user of HIP, unset ROCM_PATH or point it at the copy that torch brings, and use "
            "FLASHINFER_JIT_DEVICE=emulator only with a PyTorch that is not a ROCm build."
        )
    return distinct[0]


def promote(library: MappedLibrary) -> ctypes.CDLL:
    """Make the symbols of a mapped library visible to libraries loaded later, without mapping anything new.

    Raises KernelLoadError when the loader does not know the path any more (the file was replaced under the process).
    """
    try:
        return ctypes.CDLL(library.path, mode=os.RTLD_NOW | os.RTLD_NOLOAD | os.RTLD_GLOBAL)
    except OSError as error:
        raise KernelLoadError(
            f"{library} is mapped into this process but cannot be reopened by its path ({error}): "
            "it was replaced while the process ran; start the process again"
        ) from None
