"""What the real and the emulated HIP runtime have in common: loading, launching, errors."""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from flashinfer_jit.errors import HipError
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.runtime.libraries import MappedLibrary, mapped_libraries, require_one


class Runtime(ABC):
    """The one HIP runtime of this process.

    Attributes
    ----------
    kind : str
        ``hip`` or ``emulator``.
    device_type : str
        The ``torch.device`` type that tensors must have: ``cuda`` (as ROCm builds of PyTorch call it) or ``cpu``.
    """

    kind: str
    device_type: str

    def __init__(self) -> None:
        self._library: MappedLibrary | None = None
        self._handle: ctypes.CDLL | None = None

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Raise TypeError: wrappers hold plans, which are addresses in this process."""
        raise TypeError(
            "what holds a plan cannot be copied deeply or pickled, for a plan is addresses of this process's memory: "
            "make a new wrapper and call its plan() there"
        )

    @abstractmethod
    def _open(self) -> tuple[MappedLibrary, ctypes.CDLL]:
        """Find the runtime library and make its symbols visible to kernel libraries."""

    @abstractmethod
    def device(self) -> torch.device:
        """Return the device that tensors must be on."""

    @abstractmethod
    def arch(self, device: torch.device) -> Arch:
        """Return the architecture of the GPU that runs kernels on tensors of ``device``."""

    @abstractmethod
    def stream(self, device: torch.device) -> int:
        """Return the handle of the stream that kernels on tensors of ``device`` are launched on now."""

    @abstractmethod
    def launch(
        self, kernel: Any, params: ctypes.Structure, tensors: Mapping[str, torch.Tensor], stream: int | None
    ) -> None:
        """Launch ``kernel``.

        Parameters
        ----------
        kernel : Kernel
            As ``jit.kernels.get_kernel`` returns it.
        params : ctypes.Structure
            An instance of ``kernel.params_type``; it is copied before this returns.
        tensors : mapping
            Every tensor whose memory the kernel may touch, by the name of the parameter that is its address. The first
            one's device is the one the kernel runs on.
        stream : int or None
            A stream's handle; None is the current stream.

        Raises
        ------
        HipError
            With the code and name of the runtime's error, and on the emulated device what the kernel did wrong.
        """

    @property
    def handle(self) -> ctypes.CDLL:
        """The runtime library, for calls of the HIP API."""
        if self._handle is None:
            self._library, self._handle = self._open()
        return self._handle

    @property
    def library(self) -> MappedLibrary:
        """The file of the runtime library."""
        _ = self.handle
        assert self._library is not None
        return self._library

    def prepare_for_loading(self) -> None:
        """Make a kernel library loadable: its HIP symbols resolve to this runtime, and there is no other.

        Called before every kernel that is loaded, so that a second runtime is noticed early.

        Raises
        ------
        HipRuntimeMismatchError
            If two HIP runtimes are mapped into the process.
        """
        require_one(mapped_libraries(), self.library)

    def error_name(self, code: int) -> str:
        """Return the name of a hipError_t, for example ``hipErrorIllegalAddress``."""
        return self._text("hipGetErrorName", code)

    def error(self, code: int, call: str) -> HipError:
        """Return the exception for error ``code`` of ``call``, and clear the runtime's record of it."""
        self.handle.hipGetLastError()
        return HipError(code, self.error_name(code), call, self._text("hipGetErrorString", code))

    def _text(self, function: str, code: int) -> str:
        get = getattr(self.handle, function)
        get.restype = ctypes.c_char_p
        return (get(code) or b"unknown error").decode()

    def is_capturing(self) -> bool:
        """Return whether the current stream is being captured into a graph."""
        return False

    def call(self, name: str, *args: Any) -> None:
        """Call the HIP function ``name``; raises HipError when it fails."""
        code = getattr(self.handle, name)(*args)
        if code:
            raise self.error(code, name)

    def swap_device(self, index: int) -> int:
        """Make device ``index`` current in this thread and return the one that was, to give it back afterwards."""
        previous = ctypes.c_int()
        self.call("hipGetDevice", ctypes.byref(previous))
        if previous.value != index:
            self.call("hipSetDevice", index)
        return previous.value
