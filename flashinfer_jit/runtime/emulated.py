"""The emulated GPU: kernels' machine code runs on the CPU, and the memory of CPU tensors is the device's memory."""

import contextvars
import ctypes
import functools
import struct
from collections.abc import Mapping
from typing import Any

import torch

from flashinfer_jit import emulator
from flashinfer_jit.errors import HipError
from flashinfer_jit.jit.arch import ARCHS, Arch
from flashinfer_jit.jit.config import KernelConfig
from flashinfer_jit.jit.params import table_of
from flashinfer_jit.runtime.base import Runtime
from flashinfer_jit.runtime.libraries import MappedLibrary, mapped_libraries, require_one

stream_handle: contextvars.ContextVar[int] = contextvars.ContextVar("stream_handle", default=0)

_CPU = torch.device("cpu")
# The emulator's devices are the architectures in this order.
_DEVICE_INDEX = {name: index for index, name in enumerate(ARCHS)}


@functools.cache
def _roles(config: KernelConfig) -> dict[str, tuple[int, bool]]:
    """Return by name of a pointer parameter the address of that name, and whether the kernel may write there."""
    pointers = [field for field in table_of(config).fields if field.c_type.endswith("*")]
    return {field.name: (_c_string(field.name), not field.c_type.startswith("const ")) for field in pointers}


@functools.cache
def _c_string(text: str) -> int:
    """Return the address of a C string that lives as long as the process."""
    _c_strings.append(ctypes.create_string_buffer(text.encode()))
    return ctypes.addressof(_c_strings[-1])


_c_strings: list[ctypes.Array[ctypes.c_char]] = []


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Return address and bytes of the smallest range of memory that holds all elements of ``tensor``."""
    # One of the few things done for every tensor of every launch, so the common case comes first.
    if tensor.is_contiguous():
        return tensor.data_ptr(), tensor.nbytes
    if tensor.numel() == 0:
        return tensor.data_ptr(), 0
    last = 0
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        last += (size - 1) * stride
    return tensor.data_ptr(), (last + 1) * tensor.element_size()


class EmulatedRuntime(Runtime):
    """The HIP runtime of the emulated device."""

    kind = "emulator"
    device_type = "cpu"

    def __init__(self) -> None:
        super().__init__()
        # A graph may be replayed at any time later. PyTorch's pool for graphs keeps the memory that a call allocates
        # while it is captured; CPU tensors have no such pool, so those of captured launches stay alive here.
        self._captured: list[torch.Tensor] = []

    def is_capturing(self) -> bool:
        """Return whether the stream named by ``use_stream`` is being captured into a graph."""
        return self._is_capturing(stream_handle.get())

    def _is_capturing(self, stream: int) -> bool:
        if stream == 0:
            return False
        status = ctypes.c_int()
        self.call("hipStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
        return status.value != 0

    def _open(self) -> tuple[MappedLibrary, ctypes.CDLL]:
        handle = emulator.load()
        return require_one(mapped_libraries()), handle

    def _detail(self) -> str:
        """Return which kernel, instruction, lane and address; a fault does not outlive its exception."""
        detail = emulator.last_error()
        emulator.recover()
        return detail

    def device(self) -> torch.device:
        """Return the CPU: the memory of its tensors is the emulated device's memory."""
        return _CPU

    def arch(self, device: torch.device) -> Arch:
        """Return the architecture chosen by ``emulator.use_arch`` or FLASHINFER_JIT_ARCH."""
        return emulator.current_arch()

    def stream(self, device: torch.device) -> int:
        """Return the stream named by ``use_stream``, or 0."""
        return stream_handle.get()

    def error(self, code: int, call: str) -> HipError:
        """Return the exception with what the emulator says of the error, and make the device usable again."""
        error = HipError(code, self.error_name(code), call, emulator.last_error())
        emulator.recover()
        return error

    def launch(
        self, kernel: Any, params: ctypes.Structure, tensors: Mapping[str, torch.Tensor], stream: int | None
    ) -> None:
        """Launch ``kernel`` on the emulated GPU of its architecture; it can access the memory of ``tensors`` only."""
        if stream is None:
            stream = stream_handle.get()
        handle = self.handle
        roles = _roles(kernel.key.config)
        # fij_emu_set_named_launch_ranges takes structs of four 64-bit words: begin, bytes, name, writable or not.
        words: list[int] = []
        for name, tensor in tensors.items():
            words += extent(tensor)
            words += roles[name]
        index = _DEVICE_INDEX[kernel.key.arch.name]
        if self._is_capturing(stream):
            self._captured += tensors.values()
        previous = self.swap_device(index)
        try:
            handle.fij_emu_set_named_launch_ranges(struct.pack(f"{len(words)}Q", *words), len(tensors))
            code = kernel.launch_fn(ctypes.byref(params), stream)
        finally:
            if previous != index:
                self.call("hipSetDevice", previous)
        if code:
            raise self.error(code, f"launch of {kernel.key}")
