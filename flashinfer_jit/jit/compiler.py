"""From HIP source to a shared library: compile, pack, link without the compiler's wrapper, and verify what came out."""

import re
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flashinfer_jit import env
from flashinfer_jit.jit import codeobject, process
from flashinfer_jit.jit.cache import LIBRARY, LOG, SOURCE
from flashinfer_jit.jit.codeobject import Elf, FormatError
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.toolchain import PLUMBING_FLAGS, Toolchain, semantic_flags

_DEVICE_OBJECT, _CODE_OBJECT, _BUNDLE, _HOST_OBJECT = "device.o", "device.hsaco", "device.hipfb", "host.o"
_EXPORTS = "exports.map"
INTERMEDIATE = (_DEVICE_OBJECT, _CODE_OBJECT, _BUNDLE, _HOST_OBJECT, _EXPORTS)

# Functions that every kernel library exports; see partials/launcher.hip.j2.
EXPORTS = ("fij_launch", "fij_prepare", "fij_abi_version", "fij_params_size", "fij_config_json")
# Anything else would tie a cached library to the machine that compiled it.
ALLOWED_NEEDED = re.compile(r"(libc|libm|libgcc_s|ld-linux-x86-64)\.so(\.\d+)*")
_DYNAMIC_NAMES = {codeobject.DT_NEEDED: "NEEDED", codeobject.DT_RPATH: "RPATH", codeobject.DT_RUNPATH: "RUNPATH"}


class StepFailed(Exception):
    """A step of a compilation failed.

    Attributes
    ----------
    key : KernelKey
        What was being compiled.
    reason : str
        What went wrong, in a few words.
    command : str
        The step, as a shell command to run in the directory; empty if it was no command.
    output : str
        What the step printed.
    """

    def __init__(self, key: KernelKey, reason: str, command: str = "", output: str = "") -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason
        self.command = command
        self.output = output


@dataclass(frozen=True)
class Compiled:
    """What a compilation made.

    Attributes
    ----------
    resources : dict
        Registers, LDS, scratch and spills; see codeobject.kernel_resources.
    seconds : float
        Time in compiler and linker.
    """

    resources: dict[str, int]
    seconds: float


def compile_kernel(key: KernelKey, source: str, toolchain: Toolchain, directory: Path) -> Compiled:
    """Compile ``source`` in ``directory``, leaving the source, the library and the log there.

    Raises
    ------
    StepFailed
        If a step fails, takes longer than FLASHINFER_JIT_COMPILE_TIMEOUT, or makes something that is no kernel.
    """
    (directory / SOURCE).write_text(source)
    # One version node hides the kernel's own symbol: all libraries of one process would otherwise share such names.
    (directory / _EXPORTS).write_text("{ global: fij_*; local: *; };\n")
    log: list[str] = []
    seconds = 0.0
    try:
        for argv, makes in _steps(toolchain, key.arch.name):
            if argv:
                seconds += _run(key, argv, directory, log)
            else:
                _pack(key, directory)
            if not (directory / makes).is_file():
                raise StepFailed(key, f"{argv[0]} reported success but wrote no {makes}", shlex.join(argv))
        resources = verify(key, directory / LIBRARY)
    finally:
        (directory / LOG).write_text("\n".join(log))
    for name in INTERMEDIATE:
        (directory / name).unlink(missing_ok=True)
    return Compiled(resources, seconds)


def editor_command(driver: tuple[str, ...], source: str, arch_name: str) -> list[str]:
    """Return the command that an editor's compilation database gives for a rendered kernel: its device code."""
    flags = (*semantic_flags(arch_name), *PLUMBING_FLAGS, "--offload-device-only", "-fsyntax-only")
    return [*driver, "-x", "hip", source, *flags]


def _steps(toolchain: Toolchain, arch_name: str) -> list[tuple[tuple[str, ...], str]]:
    """Return the commands and what each makes; the empty command stands for packing the fat binary."""
    # Names relative to the directory keep its path out of what the compiler writes.
    compile_ = (*toolchain.driver, "-x", "hip", SOURCE, *semantic_flags(arch_name), *PLUMBING_FLAGS)
    device = (*compile_, "--offload-device-only", "--no-gpu-bundle-output")
    steps: list[tuple[tuple[str, ...], str]]
    if toolchain.device_linker:
        # -emit-obj overrides -S in the compiler proper, so that the driver does not go looking for its own lld.
        steps = [
            ((*device, "-S", "-Xclang", "-emit-obj", "-o", _DEVICE_OBJECT), _DEVICE_OBJECT),
            (
                (
                    *toolchain.device_linker,
                    "-m",
                    "elf64_amdgpu",
                    "--no-undefined",
                    "-shared",
                    "-o",
                    _CODE_OBJECT,
                    _DEVICE_OBJECT,
                ),
                _CODE_OBJECT,
            ),
        ]
    else:
        steps = [((*device, "-c", "-o", _CODE_OBJECT), _CODE_OBJECT)]
    include = ("-Xclang", "-fcuda-include-gpubinary", "-Xclang", _BUNDLE)
    link = ("-shared", "-s", "-z", "relro", "-z", "now", f"--version-script={_EXPORTS}", "-o", LIBRARY, _HOST_OBJECT)
    return [
        *steps,
        ((), _BUNDLE),
        ((*compile_, "--offload-host-only", *include, "-c", "-o", _HOST_OBJECT), _HOST_OBJECT),
        ((*toolchain.host_linker, *link), LIBRARY),
    ]


def _pack(key: KernelKey, directory: Path) -> None:
    code_object = (directory / _CODE_OBJECT).read_bytes()
    try:
        # Before it is wrapped: a compiler that writes garbage is told apart from a linker that does.
        codeobject.kernel_resources(code_object, key.kernel_name)
    except FormatError as error:
        raise StepFailed(key, f"the compiler wrote no usable code object: {error}") from None
    (directory / _BUNDLE).write_bytes(codeobject.pack_bundle({key.arch.name: code_object}))


def _run(key: KernelKey, argv: Sequence[str], directory: Path, log: list[str]) -> float:
    command = shlex.join(argv)
    timeout = env.COMPILE_TIMEOUT.get()
    try:
        outcome = process.run(argv, cwd=directory, timeout=timeout)
    except OSError as error:
        raise StepFailed(key, f"cannot run {argv[0]}: {error.strerror or error}", command) from None
    log.append(f"$ {command}\n{outcome.output}# exit status {outcome.returncode}, {outcome.seconds:.3f} s\n")
    if outcome.returncode is None:
        reason = f"killed after {timeout:g} s; if this machine is only slow, raise {env.COMPILE_TIMEOUT.name}"
    elif outcome.returncode < 0:
        reason = f"killed by signal {-outcome.returncode} ({_signal_name(-outcome.returncode)})"
    elif outcome.returncode > 0:
        reason = f"exit status {outcome.returncode}"
    else:
        return outcome.seconds
    raise StepFailed(key, reason, command, outcome.output)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def verify(key: KernelKey, library: Path) -> dict[str, int]:
    """Return the resources of the kernel in ``library``, having checked that it is what the loader will want.

    Raises StepFailed naming what is wrong.
    """
    data = library.read_bytes()
    try:
        code_object = inspect_library(data).get(key.arch.name)
        for tag, value in Elf(data).dynamic:
            if tag != codeobject.DT_NEEDED or not ALLOWED_NEEDED.fullmatch(value):
                raise FormatError(f"{_DYNAMIC_NAMES[tag]} {value} ties it to this machine")
        if code_object is None:
            raise FormatError(f"there is no code for {key.arch.name} in it")
        return codeobject.kernel_resources(code_object, key.kernel_name)
    except FormatError as error:
        raise StepFailed(key, f"the compiler made a library that cannot be used: {error}") from None


def inspect_library(data: bytes) -> dict[str, bytes]:
    """Return the code objects in a kernel library by architecture.

    Raises FormatError if it is not a shared library for this kind of machine that exports the launch interface.
    """
    elf = Elf(data)
    if (elf.type, elf.machine) != (codeobject.ET_DYN, codeobject.EM_X86_64):
        raise FormatError("not a shared library for x86-64")
    missing = [name for name in EXPORTS if name not in elf.exports]
    if missing:
        raise FormatError(f"it does not export {', '.join(missing)}")
    return codeobject.unpack_bundle(data)
