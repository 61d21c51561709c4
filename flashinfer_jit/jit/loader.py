"""From a cached library to a function that Python can call. The HIP runtime it binds to is given by the caller."""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from flashinfer_jit.errors import AbiMismatchError, ArchMismatchError, HipError, KernelLoadError
from flashinfer_jit.jit.cache import Entry
from flashinfer_jit.jit.codeobject import FormatError
from flashinfer_jit.jit.compiler import inspect_library
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.params import table_of
from flashinfer_jit.jit.render import ABI_VERSION


class Runtime(Protocol):
    """What the loader needs of the HIP runtime of this process."""

    def prepare_for_loading(self) -> None:
        """Make the HIP functions visible to libraries that are loaded from now on."""

    def error_name(self, code: int) -> str:
        """Return the name of a hipError_t."""

    def is_capturing(self) -> bool:
        """Return whether the current stream is being captured into a graph."""


class _CAttributes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("num_registers", "lds_bytes", "scratch_bytes", "max_threads_per_block", "blocks_per_cu")
    ]


class KernelAttributes(NamedTuple):
    """What the driver says of a loaded kernel: registers of a lane, bytes, and workgroups that fit on a CU."""

    num_registers: int
    lds_bytes: int
    scratch_bytes: int
    max_threads_per_block: int
    blocks_per_cu: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """A loaded kernel.

    Attributes
    ----------
    key : KernelKey
        What it is.
    name : str
        Its symbol.
    launch_fn : callable
        ``fij_launch(address of the parameter struct, stream handle) -> hipError_t``.
    params_type : type
        The ctypes struct to fill.
    meta : dict
        ``vgpr``, ``agpr``, ``sgpr``, ``lds_bytes``, ``scratch_bytes``, ``vgpr_spills``, ``sgpr_spills``,
        ``compile_seconds``, ``toolchain``.
    entry : Entry
        Where it came from.
    """

    key: KernelKey
    name: str
    launch_fn: Callable[..., int]
    params_type: type[ctypes.Structure]
    meta: Mapping[str, Any]
    entry: Entry
    _library: ctypes.CDLL
    _runtime: Runtime

    def prepare(self) -> KernelAttributes:
        """Have the driver load the code object on the current device now, and return its attributes.

        Raises HipError if the driver refuses.
        """
        attributes = _CAttributes()
        code = self._library.fij_prepare(ctypes.byref(attributes))
        if code != 0:
            raise HipError(code, self._runtime.error_name(code), f"fij_prepare of {self.key}")
        return KernelAttributes(*(getattr(attributes, name) for name in KernelAttributes._fields))

    def describe(self) -> str:
        """Return a few lines for a person: configuration, tile, registers, origin."""
        meta = self.meta
        lines = [
            f"{self.name} on {self.key.arch.name}",
            "  config   " + " ".join(f"{name}={value}" for name, value in self.key.config.to_dict().items()),
            "  tile     " + " ".join(f"{name}={value}" for name, value in self.key.tile.to_dict().items()),
            f"  uses     {meta['vgpr']} VGPR, {meta['agpr']} AGPR, {meta['sgpr']} SGPR, {meta['lds_bytes']} B LDS, "
            f"{meta['scratch_bytes']} B scratch, {meta['vgpr_spills'] + meta['sgpr_spills']} spills",
            f"  compiled in {meta['compile_seconds']:.2f} s by {meta['toolchain']}",
            f"  from     {self.entry.directory}",
        ]
        return "\n".join(lines)


def load(entry: Entry, key: KernelKey, runtime: Runtime) -> Kernel:
    """Load the library of a cache entry.

    Raises
    ------
    ArchMismatchError
        If its code is for another GPU than ``key`` says.
    AbiMismatchError
        If it was built for another launch interface, parameter struct or configuration.
    KernelLoadError
        If it is no kernel library, or its HIP functions cannot be found.
    """
    _inspect(entry, key)
    runtime.prepare_for_loading()
    try:
        # RTLD_LOCAL (the default), because every kernel exports the same names.
        library = ctypes.CDLL(str(entry.library))
    except OSError as error:
        hint = ""
        if "undefined symbol" in str(error):
            hint = ". The HIP runtime of this process does not have that function: it is older than the kernels need"
        raise KernelLoadError(f"{key}: cannot load {entry.library}: {error}{hint}") from None
    library.fij_config_json.restype = ctypes.c_char_p
    library.fij_params_size.restype = ctypes.c_uint64
    params_type = table_of(key.config).struct
    _agree(entry, "launch interface", library.fij_abi_version(), ABI_VERSION)
    _agree(entry, "parameter size", library.fij_params_size(), ctypes.sizeof(params_type))
    _agree(entry, "configuration", library.fij_config_json().decode(), key.canonical_json())
    launch_fn = library.fij_launch
    launch_fn.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    launch_fn.restype = ctypes.c_int
    library.fij_prepare.argtypes = (ctypes.c_void_p,)
    meta = {
        **entry.meta["resources"],
        "compile_seconds": entry.meta["compile_seconds"],
        "toolchain": entry.meta["toolchain"]["title"],
    }
    return Kernel(key, key.kernel_name, launch_fn, params_type, meta, entry, library, runtime)


def _inspect(entry: Entry, key: KernelKey) -> None:
    """Look at the file before the dynamic linker does: its start-up code runs while it is being loaded."""
    try:
        archs = inspect_library(entry.library.read_bytes())
    except (OSError, FormatError) as error:
        raise KernelLoadError(f"{key}: {entry.library} is no kernel library: {error}") from None
    if key.arch.name not in archs:
        built_for = ", ".join(archs) or "no GPU"
        raise ArchMismatchError(f"{key}: {entry.library} was built for {built_for}, not for {key.arch.name}")


def _agree(entry: Entry, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AbiMismatchError(
            f"{entry.library}: its {what} is {found!r}, this version of flashinfer_jit needs {expected!r}; "
            f"remove {entry.directory} and call again"
        )
