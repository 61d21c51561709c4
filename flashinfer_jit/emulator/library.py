"""The emulator library in this process: loaded once, asked for errors and reports, told which GPU it is."""

import contextlib
import contextvars
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from flashinfer_jit import env
from flashinfer_jit.emulator.build import build, library_path
from flashinfer_jit.emulator.report import Report
from flashinfer_jit.errors import HipError, HipRuntimeMismatchError, KernelLoadError
from flashinfer_jit.jit.arch import ARCHS, Arch, get_arch

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("emulated_arch", default=None)
_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_path: Path | None = None


def load() -> ctypes.CDLL:
    """Return the emulator library, built if it is not in the cache, with its symbols visible to kernel libraries.

    Raises
    ------
    HipRuntimeMismatchError
        If another libamdhip64 is mapped into the process.
    ToolchainNotFoundError, CompilationError, NoDeviceError
        As ``build`` does.
    KernelLoadError
        If the library cannot be loaded.
    """
    global _library, _path
    if _library is not None:
        return _library
    with _lock:
        if _library is None:
            _refuse_other_runtimes()
            path = library_path() or build().path
            try:
                handle = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_GLOBAL)
            except OSError as error:
                raise KernelLoadError(
                    f"the emulator library cannot be loaded: {error}; remove {path.parent} and call again"
                ) from None
            _declare(handle)
            _path, _library = path, handle
    return _library


def loaded_path() -> Path | None:
    """Return the file of the emulator library if it is loaded into this process."""
    return _path


def _refuse_other_runtimes() -> None:
    try:
        maps = Path("/proc/self/maps").read_text(errors="surrogateescape")
    except OSError:
        return
    for line in maps.splitlines():
        if "/libamdhip64.so" in line:
            raise HipRuntimeMismatchError(
                f"a HIP runtime is mapped into this process already: {line.split(maxsplit=5)[-1]}. The emulated GPU "
                "has the same name and cannot live beside it: use a process that loads no ROCm library"
            )


def _declare(handle: ctypes.CDLL) -> None:
    pointer, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    texts = ("fij_emu_last_error", "fij_emu_last_report", "fij_emu_describe_kernel", "fij_emu_kernel_names")
    for name in texts:
        getattr(handle, name).restype = ctypes.c_char_p
    handle.fij_emu_describe_kernel.argtypes = [pointer]
    handle.fij_emu_kernel_names.argtypes = [pointer]
    handle.fij_emu_module_load.argtypes = [ctypes.POINTER(pointer), pointer, u64]
    handle.fij_emu_set_launch_ranges.argtypes = [pointer, u32]
    handle.fij_emu_set_launch_ranges.restype = None
    handle.fij_emu_set_named_launch_ranges.argtypes = [pointer, u32]
    handle.fij_emu_set_named_launch_ranges.restype = None
    handle.fij_emu_recover.restype = None
    handle.fij_emu_set_budget.argtypes = [u64]
    handle.fij_emu_set_budget.restype = None
    handle.fij_emu_set_timing.argtypes = [u32, u64, u64, u32]
    handle.fij_emu_set_timing.restype = None
    handle.fij_emu_timing_constants.restype = ctypes.c_char_p
    handle.fij_emu_set_threads.argtypes = [u32]
    handle.fij_emu_set_threads.restype = None
    handle.hipModuleUnload.argtypes = [pointer]
    handle.hipModuleGetFunction.argtypes = [ctypes.POINTER(pointer), pointer, ctypes.c_char_p]
    handle.hipModuleLaunchKernel.argtypes = [pointer, *[u32] * 7, pointer, pointer, pointer]
    handle.hipGetErrorName.restype = ctypes.c_char_p


def current_arch() -> Arch:
    """Return the GPU that the emulator is now: as ``use_arch`` says, else FLASHINFER_JIT_ARCH."""
    return get_arch(_chosen.get() or env.ARCH.get())


@contextlib.contextmanager
def use_arch(name: str) -> Iterator[Arch]:
    """Make the emulator another GPU within the ``with`` block, in this thread and the tasks it starts.

    Parameters
    ----------
    name : str
        ``gfx942`` (MI300X) or ``gfx950`` (MI355X).

    Raises
    ------
    UnsupportedConfigError
        For any other name.
    """
    arch = get_arch(name)
    token = _chosen.set(arch.name)
    try:
        yield arch
    finally:
        _chosen.reset(token)


@contextlib.contextmanager
def timed_launches(units: int = 4, instruction_limit: int = 0, timeline: int = 0, sample: int = 0) -> Iterator[None]:
    """Time this thread's launches in the ``with`` block by the timing model: ``last_report().timing`` is its estimate.

    Parameters
    ----------
    units : int
        Compute units to model at most, spread evenly over those in use; the workgroups of the others only run.
    instruction_limit : int
        Wave instructions of a unit after which the rest runs untimed; 0 is the default of 4,000,000.
    timeline : int
        Issues to keep, for plots.
    sample : int
        If not 0: run only the modelled units, up to the limit, and so many more workgroups, which tell how long the
        whole launch is. Its results are then incomplete: for estimates of launches that are too long to run.
    """
    handle = load()
    handle.fij_emu_set_timing(units, instruction_limit, timeline, sample)
    try:
        yield
    finally:
        handle.fij_emu_set_timing(0, 0, 0, 0)


def device_index(arch: str) -> int:
    """Return the emulator's device number of a GPU."""
    return list(ARCHS).index(get_arch(arch).name)


def last_error() -> str:
    """Return what the latest failed HIP call of this thread said: for a fault the kernel, instruction and address."""
    return (load().fij_emu_last_error() or b"").decode("utf-8", "replace")


def last_report() -> Report:
    """Return what the latest launch of this thread did, whoever launched it; if it has launched none, of any thread.

    Raises
    ------
    LookupError
        If nothing was launched in this process.
    """
    text = (load().fij_emu_last_report() or b"").decode("utf-8", "replace")
    if not text:
        raise LookupError("no kernel was launched on the emulated GPU in this process yet")
    return Report.from_json(text)


def recover() -> None:
    """Make the emulated GPUs usable again after a kernel's fault, and forget this thread's last error.

    A real GPU would need its process ended. Here a fault stops the kernel before it touches anything.
    """
    load().fij_emu_recover()


def check(code: int, call: str) -> None:
    """Raise HipError with the emulator's explanation unless ``code`` is 0, and make the device usable again."""
    if code == 0:
        return
    handle = load()
    detail = last_error().removeprefix(f"{call}: ")
    name = (handle.hipGetErrorName(code) or b"hipErrorUnknown").decode()
    handle.fij_emu_recover()
    raise HipError(code, name, call, detail)
