"""The one HIP runtime of this process, real or emulated: found once, asked for devices and streams, told to launch."""

import contextlib
import os
import platform
import sys
from collections.abc import Iterator

import torch

from flashinfer_jit import env
from flashinfer_jit.errors import NoDeviceError, UnsupportedConfigError
from flashinfer_jit.runtime.base import Runtime

__all__ = ["Runtime", "current", "device", "use_stream"]

_runtimes: dict[str | None, Runtime] = {}


def current() -> Runtime:
    """Return the runtime that kernels run on, as FLASHINFER_JIT_DEVICE says.

    ``auto`` is the GPU when PyTorch is a ROCm build, else the emulated device; a ROCm build of PyTorch never emulates
    by itself, for that would be a thousand times slower without a word.

    Raises
    ------
    NoDeviceError
        If there is nothing to run on: a ROCm build that sees no GPU, ``hip`` without a ROCm build, or a platform other
        than Linux on x86-64.
    """
    setting = os.environ.get(env.DEVICE.name)
    found = _runtimes.get(setting)
    if found is None:
        found = _runtimes[setting] = _create(env.DEVICE.get())
    return found


def _create(kind: str) -> Runtime:
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        raise NoDeviceError(f"kernels run on Linux on x86-64 only, and this is {sys.platform} on {platform.machine()}")
    if kind == "auto":
        kind = "emulator" if torch.version.hip is None else "hip"
    # One runtime per kind, whatever spelling of the variable asked for it.
    for runtime in _runtimes.values():
        if runtime.kind == kind:
            return runtime
    if kind == "hip":
        from flashinfer_jit.runtime.gpu import GpuRuntime

        return GpuRuntime()
    from flashinfer_jit.runtime.emulated import EmulatedRuntime

    return EmulatedRuntime()


def device() -> torch.device:
    """Return the device that tensors must be on: ``cuda`` on a ROCm machine, ``cpu`` for the emulated GPU."""
    return current().device()


@contextlib.contextmanager
def use_stream(handle: int) -> Iterator[None]:
    """Launch on the stream ``handle`` of the emulated device within the ``with`` block, in this thread.

    Parameters
    ----------
    handle : int
        A hipStream_t, as ``hipStreamCreate`` gave it while the device of the architecture was current; 0 is the default
        stream.

    Raises
    ------
    UnsupportedConfigError
        On a real GPU, where kernels follow PyTorch's current stream: use ``torch.cuda.stream`` there.
    """
    runtime = current()
    if runtime.kind != "emulator":
        raise UnsupportedConfigError(
            "use_stream is for the emulated device: on a GPU use `with torch.cuda.stream(stream):`"
        )
    from flashinfer_jit.runtime.emulated import stream_handle

    token = stream_handle.set(handle)
    try:
        yield
    finally:
        stream_handle.reset(token)
