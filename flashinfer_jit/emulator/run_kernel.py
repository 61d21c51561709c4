"""Running any kernel of any code object on the emulated GPU."""

import ctypes
import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from flashinfer_jit.emulator.library import (
    check,
    current_arch,
    device_index,
    last_report,
    load,
    timed_launches,
)
from flashinfer_jit.emulator.report import Report
from flashinfer_jit.errors import UnsupportedConfigError

# HIP_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE, _END
_PARAM_POINTER, _PARAM_SIZE, _PARAM_END = 1, 2, 3
_FLOATS = {2: "<e", 4: "<f", 8: "<d"}


class _NamedRange(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_uint64),
        ("num_bytes", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("writable", ctypes.c_uint64),
    )


def run(
    code_object: bytes | str | os.PathLike[str],
    kernel: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any] | bytes,
    *,
    buffers: Sequence[Any] = (),
    arch: str | None = None,
    dynamic_lds: int = 0,
    checks: Sequence[str] = (),
    timing: bool = False,
) -> Report:
    """Run a kernel of a code object on the emulated GPU and return what it did.

    Parameters
    ----------
    code_object : bytes or path
        An ELF code object, or an offload bundle (compressed ones included) that holds one for the GPU.
    kernel : str
        Its name in the code object.
    grid : int or sequence of int
        Workgroups in x, y and z.
    block : int or sequence of int
        Work-items of a workgroup in x, y and z.
    args : sequence, or bytes
        The kernel's arguments in order: tensors and arrays (anything with ``data_ptr()`` or ``__array_interface__``)
        are passed by address and their memory may be touched; ints, floats and bools are converted to the argument's
        size (a float of 2, 4 or 8 bytes is float16, float32 or float64); bytes are passed as they are. Or the raw
        kernarg segment as bytes.
    buffers : sequence of tensors or arrays
        Further memory that the kernel may touch, for addresses inside structs or raw kernarg bytes.
    arch : str, optional
        ``gfx942`` or ``gfx950``; by default as ``use_arch`` says.
    dynamic_lds : int
        Bytes of LDS beside the kernel's own.
    checks
        Not built yet.
    timing : bool
        Whether to run the timing model: ``Report.timing`` then holds its estimate.

    Returns
    -------
    Report
        Counts by instruction class and memory, with the bytes of each buffer.

    Raises
    ------
    HipError
        With HIP's code and the emulator's explanation: a malformed code object, another GPU's code, an unknown kernel,
        arguments too short, grid, block or LDS out of range; a wild address, an unknown instruction, an endless loop, a
        barrier that not all waves reach.
    UnsupportedConfigError
        For ``checks``, for arguments that cannot be passed, and for an unknown ``arch``.
    """
    if checks:
        raise UnsupportedConfigError(f"checks={tuple(checks)!r}: the emulator's deeper checks are not built yet")
    name = current_arch().name if arch is None else arch
    grid_xyz, block_xyz = _three(grid, "grid"), _three(block, "block")
    lds_bytes = _integer(dynamic_lds, 4, "dynamic_lds", signed=False)
    library = load()
    image = code_object if isinstance(code_object, bytes) else Path(os.fspath(code_object)).read_bytes()
    with _current_device(library, device_index(name)), _module(library, image) as module:
        function = ctypes.c_void_p()
        code = library.hipModuleGetFunction(ctypes.byref(function), module, kernel.encode())
        check(code, "hipModuleGetFunction")
        memory: list[tuple[int, int, str]] = []
        if isinstance(args, bytes | bytearray | memoryview):
            kernarg = bytes(args)
        else:
            kernarg = _pack(json.loads(library.fij_emu_describe_kernel(function)), args, memory)
        for n, buffer in enumerate(buffers):
            found = _memory_of(buffer)
            if found is None:
                raise UnsupportedConfigError(f"buffers[{n}] is a {type(buffer).__name__}, not a tensor or an array")
            memory.append((*found[1:], f"buffers[{n}]"))
        ranges = (_NamedRange * len(memory))(*(_NamedRange(at, n, text.encode(), 1) for at, n, text in memory))
        data = ctypes.create_string_buffer(kernarg, max(1, len(kernarg)))
        size = ctypes.c_size_t(len(kernarg))
        extra = (ctypes.c_void_p * 5)(
            _PARAM_POINTER, ctypes.addressof(data), _PARAM_SIZE, ctypes.addressof(size), _PARAM_END
        )
        library.fij_emu_set_named_launch_ranges(ranges, len(memory))
        try:
            with timed_launches() if timing else nullcontext():
                code = library.hipModuleLaunchKernel(function, *grid_xyz, *block_xyz, lds_bytes, None, None, extra)
        finally:
            library.fij_emu_set_launch_ranges(None, 0)
        check(code, "hipModuleLaunchKernel")
        return last_report()


@contextmanager
def _current_device(library: ctypes.CDLL, index: int) -> Iterator[None]:
    previous = ctypes.c_int()
    library.hipGetDevice(ctypes.byref(previous))
    library.hipSetDevice(index)
    try:
        yield
    finally:
        library.hipSetDevice(previous.value)


@contextmanager
def _module(library: ctypes.CDLL, image: bytes) -> Iterator[ctypes.c_void_p]:
    module = ctypes.c_void_p()
    code = library.fij_emu_module_load(ctypes.byref(module), image, len(image))
    check(code, "loading a code object")
    try:
        yield module
    finally:
        library.hipModuleUnload(module)


def _three(value: int | Sequence[int], name: str) -> tuple[int, int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if not 1 <= len(values) <= 3:
        raise UnsupportedConfigError(f"{name}={value!r}: expected one to three numbers")
    x, y, z = (_integer(n, 4, name, signed=False) for n in (*values, 1, 1)[:3])
    return x, y, z


def _integer(value: Any, num_bytes: int, name: str, signed: bool = True) -> int:
    """Return an integer that fits, signed or unsigned."""
    low, high = -(1 << (8 * num_bytes - 1)) if signed else 0, (1 << (8 * num_bytes)) - 1
    number = value.__index__() if hasattr(value, "__index__") else None
    if number is None or not low <= number <= high:
        raise UnsupportedConfigError(f"{name}={value!r}: expected an integer from {low} to {high}")
    return int(number)


def _memory_of(value: Any) -> tuple[int, int, int] | None:
    """Return (address to pass, begin, bytes) of a tensor's whole storage or an array, or None for anything else."""
    if hasattr(value, "data_ptr"):
        storage = value.untyped_storage()
        return value.data_ptr(), storage.data_ptr(), storage.nbytes()
    interface = getattr(value, "__array_interface__", None)
    if interface is None or (getattr(value, "shape", None) == () and not hasattr(value, "ctypes")):
        return None
    address = interface["data"][0]
    strides, itemsize = value.strides, value.dtype.itemsize
    if value.size == 0:
        return address, address, 0
    # Negative strides reach below the first element.
    below = sum((n - 1) * s for n, s in zip(value.shape, strides, strict=True) if s < 0)
    above = sum((n - 1) * s for n, s in zip(value.shape, strides, strict=True) if s > 0)
    return address, address + below, above - below + itemsize


def _pack(info: dict[str, Any], args: Sequence[Any], memory: list[tuple[int, int, str]]) -> bytes:
    """Return the explicit part of the kernarg segment, and note the memory of the tensors among the arguments."""
    if not info["has_metadata"]:
        raise UnsupportedConfigError(
            f"kernel {info['name']!r} carries no metadata of its arguments: pass the kernarg bytes as `args`"
        )
    slots = [slot for slot in info["arguments"] if not slot["kind"].startswith("hidden_")]
    if len(slots) != len(args):
        raise UnsupportedConfigError(f"kernel {info['name']!r} takes {len(slots)} arguments and {len(args)} were given")
    kernarg = bytearray(info["explicit_bytes"])
    for n, (slot, value) in enumerate(zip(slots, args, strict=True)):
        data = _argument(value, slot["size"], f"args[{n}]", memory)
        kernarg[slot["offset"] : slot["offset"] + slot["size"]] = data
    return bytes(kernarg)


def _argument(value: Any, num_bytes: int, name: str, memory: list[tuple[int, int, str]]) -> bytes:
    found = _memory_of(value)
    if found is not None:
        if num_bytes != 8:
            raise UnsupportedConfigError(f"{name} is a tensor and the kernel's argument has {num_bytes} bytes, not 8")
        memory.append((*found[1:], name))
        return struct.pack("<Q", found[0])
    if isinstance(value, bytes | bytearray | memoryview | ctypes.Structure | ctypes._SimpleCData):
        data = bytes(value)
        if len(data) != num_bytes:
            raise UnsupportedConfigError(f"{name} has {len(data)} bytes and the kernel's argument {num_bytes}")
        return data
    if value is None and num_bytes == 8:
        return bytes(8)
    if hasattr(value, "__index__"):
        return (_integer(value, num_bytes, name) & ((1 << 8 * num_bytes) - 1)).to_bytes(num_bytes, "little")
    if hasattr(value, "__float__") and num_bytes in _FLOATS:
        return struct.pack(_FLOATS[num_bytes], float(value))
    raise UnsupportedConfigError(
        f"{name}={value!r} cannot be passed as an argument of {num_bytes} bytes: expected a tensor, an array, a number "
        "or bytes"
    )
