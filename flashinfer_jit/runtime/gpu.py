"""A real AMD GPU, on the HIP runtime that a ROCm build of PyTorch has brought into the process."""

import ctypes
from collections.abc import Mapping
from typing import Any

import torch

from flashinfer_jit.errors import NoDeviceError
from flashinfer_jit.jit.arch import Arch, get_arch
from flashinfer_jit.runtime.base import Runtime
from flashinfer_jit.runtime.libraries import MappedLibrary, mapped_libraries, promote, require_one

# Both return the same number; the private one costs a tenth and may go away.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)


class GpuRuntime(Runtime):
    """The HIP runtime that PyTorch uses."""

    kind = "hip"
    device_type = "cuda"

    def __init__(self) -> None:
        super().__init__()
        if torch.version.hip is None:
            raise NoDeviceError(
                f"FLASHINFER_JIT_DEVICE=hip needs a ROCm build of PyTorch, and torch {torch.__version__} is none: "
                "install one, or use FLASHINFER_JIT_DEVICE=emulator"
            )
        if not torch.cuda.is_available():
            raise NoDeviceError(
                f"torch {torch.__version__} is a ROCm build but sees no GPU: look at rocminfo, at the permissions of "
                "/dev/kfd and at HIP_VISIBLE_DEVICES. Kernels can be compiled without one (python -m "
                "flashinfer_jit.warmup); to run them without one, install a build of PyTorch for CPUs"
            )
        self._archs: dict[torch.device, Arch] = {}

    def _open(self) -> tuple[MappedLibrary, ctypes.CDLL]:
        library = require_one(mapped_libraries())
        return library, promote(library)

    def device(self) -> torch.device:
        """Return PyTorch's current GPU."""
        return torch.device("cuda", torch.cuda.current_device())

    def arch(self, device: torch.device) -> Arch:
        """Return the architecture of the GPU; raises UnsupportedConfigError for one that no kernel is made for."""
        found = self._archs.get(device)
        if found is None:
            found = self._archs[device] = get_arch(torch.cuda.get_device_properties(device).gcnArchName)
        return found

    def stream(self, device: torch.device) -> int:
        """Return PyTorch's current stream on ``device``."""
        if _raw_stream is not None:
            return int(_raw_stream(device.index))
        return int(torch.cuda.current_stream(device).cuda_stream)

    def is_capturing(self) -> bool:
        """Return whether PyTorch's current stream is being captured into a graph."""
        return bool(torch.cuda.is_current_stream_capturing())

    def launch(
        self, kernel: Any, params: ctypes.Structure, tensors: Mapping[str, torch.Tensor], stream: int | None
    ) -> None:
        """Launch ``kernel`` on the GPU of the first tensor, on PyTorch's current stream there if ``stream`` is None."""
        device = next(iter(tensors.values())).device
        if stream is None:
            stream = self.stream(device)
        previous = self.swap_device(device.index)
        try:
            code = kernel.launch_fn(ctypes.byref(params), stream)
        finally:
            if previous != device.index:
                self.call("hipSetDevice", previous)
        if code:
            raise self.error(code, f"launch of {kernel.key}")
