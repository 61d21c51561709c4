"""Finding a compiler for AMDGPU code and describing how to use it: hipcc, clang++ or the one in the ziglang wheel."""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashinfer_jit import env
from flashinfer_jit.errors import ToolchainNotFoundError
from flashinfer_jit.jit import process
from flashinfer_jit.jit.files import private_mkdir, write_whole

# Flags that decide what a kernel computes and how fast: the same for all compilers, part of the source key.
SEMANTIC_FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno")
# Not -O0, which keeps wave-uniform values in vector registers, where inline assembly cannot take them.
DEBUG_FLAGS = ("-g", "-O1", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno")
# Flags that only make it compile anywhere: no HIP headers, no device libraries, names that do not depend on paths.
PLUMBING_FLAGS = (
    "-nogpuinc",
    "-nogpulib",
    "-fPIC",
    "-fvisibility=hidden",
    "-cuid=0",
    "-Wno-unused-command-line-argument",
)
MIN_CLANG = 20
NEWEST_CLANG_TRIED = 30
PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Toolchain:
    """One usable compiler.

    Attributes
    ----------
    kind : str
        ``hipcc``, ``clang`` or ``zig``.
    driver : tuple of str
        How to call the compiler, with the flags that it always needs.
    device_linker : tuple of str
        How to call ld.lld for device code; empty if the compiler does that itself.
    host_linker : tuple of str
        How to call a linker for the shared library: ld.lld or ld, never the compiler's wrapper, which would add
        libraries and run paths of its own.
    version : str
        What it says of itself.
    """

    kind: str
    driver: tuple[str, ...]
    device_linker: tuple[str, ...]
    host_linker: tuple[str, ...]
    version: str

    @property
    def id(self) -> str:
        """12 hexadecimal digits: equal for equal versions and flags, whatever the paths."""
        # The first word of a command is a path; where a compiler lies does not change what it makes.
        text = json.dumps([self.kind, self.version, PLUMBING_FLAGS, self.kind == "zig"])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """One line for messages."""
        first = self.version.strip().splitlines()[0] if self.version.strip() else "unknown version"
        return f"{self.kind} ({first}) at {self.driver[0]}"


@dataclass
class Search:
    """The places looked at, in order, each with what was found there."""

    lines: list[str] = field(default_factory=list)

    def note(self, where: str, what: str) -> None:
        """Remember that ``where`` did not serve."""
        self.lines.append(f"  {where}: {what}")


class _NotUsable(Exception):
    """A program exists but cannot compile kernels; the text says why."""


def semantic_flags(arch_name: str) -> tuple[str, ...]:
    """Return the flags that belong to the source key, those of the environment included."""
    base = DEBUG_FLAGS if env.DEBUG.get() else SEMANTIC_FLAGS
    return (*base, f"--offload-arch={arch_name}", *env.EXTRA_HIPCCFLAGS.get())


def find_toolchain(memo_dir: Path | None = None) -> Toolchain:
    """Return the first usable compiler.

    Parameters
    ----------
    memo_dir : Path or None
        Directory for the answers of compilers about themselves, so that a later process need not ask again.

    Raises
    ------
    ToolchainNotFoundError
        With every place searched. Also if a compiler named in the environment cannot be used: another one is not
        taken silently.
    """
    state = tuple(os.environ.get(name) for name in _READS)
    known = _found.get(state)
    if known is None:
        known = _found[state] = _search(memo_dir)
    return known


def find_all(memo_dir: Path | None = None) -> tuple[Toolchain, ...]:
    """Return every usable compiler, one per kind and version, in the order in which find_toolchain would take them."""
    found: dict[str, Toolchain] = {}
    for _, _, program in _candidates():
        path = _locate(program)
        if path is not None:
            with contextlib.suppress(_NotUsable):
                toolchain = _describe(path, memo_dir)
                found.setdefault(toolchain.id, toolchain)
    return tuple(found.values())


_READS = (env.HIPCC.name, "HIPCC", "ROCM_PATH", "ROCM_HOME", "HIP_PATH", "PATH")
_found: dict[tuple[str | None, ...], Toolchain] = {}


def forget() -> None:
    """Forget the compiler found, for tests that change what there is to find."""
    _found.clear()


def _search(memo_dir: Path | None) -> Toolchain:
    search = Search()
    for origin, named, program in _candidates():
        path = _locate(program)
        if path is None:
            search.note(origin, f"no program {program}")
            if named:
                raise ToolchainNotFoundError(f"{origin}={program} is not a program; set it to a compiler or unset it")
            continue
        try:
            return _describe(path, memo_dir)
        except _NotUsable as reason:
            search.note(origin, f"{path}: {reason}")
            if named:
                raise ToolchainNotFoundError(f"{origin}={program} cannot be used: {reason}") from None
    raise ToolchainNotFoundError(
        "no compiler for AMDGPU code was found; searched, in this order:\n"
        + "\n".join(search.lines)
        + "\nInstall ROCm (hipcc), or clang++ and lld of version 20 or later, or run: pip install ziglang==0.17.1"
    )


def _candidates() -> Iterator[tuple[str, bool, str]]:
    """Yield (where from, whether the user named it, program)."""
    for variable in (env.HIPCC, env.HIPCC_PLAIN):
        program = variable.get()
        if program is not None:
            yield variable.name, True, program
    for root_variable in (env.ROCM_PATH, env.ROCM_HOME, env.HIP_PATH):
        root = root_variable.get()
        if root is not None:
            yield root_variable.name, False, str(root / "bin" / "hipcc")
    for package in ("_rocm_sdk_devel", "_rocm_sdk_core"):
        for folder in _package_folders(package):
            yield f"rocm_sdk ({package})", False, str(folder / "bin" / "hipcc")
    yield "PATH", False, "hipcc"
    yield "/opt/rocm", False, "/opt/rocm/bin/hipcc"
    for name in ("clang++", "amdclang++", *(f"clang++-{n}" for n in range(NEWEST_CLANG_TRIED, MIN_CLANG - 1, -1))):
        yield "PATH", False, name
    folders = _package_folders("ziglang")
    for folder in folders:
        yield "ziglang package", False, str(folder / "zig")
    if not folders:
        yield "ziglang package", False, "zig (not installed)"


def _package_folders(package: str) -> tuple[Path, ...]:
    spec = importlib.util.find_spec(package)
    return tuple(map(Path, spec.submodule_search_locations or ())) if spec is not None else ()


def _locate(program: str) -> Path | None:
    found = shutil.which(program)
    return Path(found).absolute() if found else None


def _describe(path: Path, memo_dir: Path | None) -> Toolchain:
    """Return the toolchain of a program, from the memo if the program has not changed since; raises _NotUsable."""
    real = path.resolve()
    status = real.stat()
    # Named by the path as given too: clang++ and clang are one file that behaves as it is called.
    stamp = json.dumps([str(path), str(real), status.st_ino, status.st_size, status.st_mtime_ns, PLUMBING_FLAGS])
    memo = memo_dir / f"{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.json" if memo_dir else None
    if memo is not None:
        toolchain = _read_memo(memo, stamp)
        if toolchain is not None:
            return toolchain
    toolchain = _probe(path)
    if memo is not None:
        _write_memo(memo, stamp, toolchain)
    return toolchain


def _read_memo(memo: Path, stamp: str) -> Toolchain | None:
    try:
        values: dict[str, Any] = json.loads(memo.read_text())
        if values.pop("stamp") != stamp:
            return None
        for name in ("driver", "device_linker", "host_linker"):
            values[name] = tuple(values[name])
        toolchain = Toolchain(**values)
        linkers = (toolchain.device_linker[:1], toolchain.host_linker[:1])
        return toolchain if all(os.access(linker[0], os.X_OK) for linker in linkers if linker) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _write_memo(memo: Path, stamp: str, toolchain: Toolchain) -> None:
    try:
        private_mkdir(memo.parent)
        write_whole(memo, json.dumps({"stamp": stamp, **asdict(toolchain)}))
    except OSError:
        pass  # It is only a memo: the next process asks the compiler again.


def _ask(*argv: str) -> str:
    try:
        outcome = process.run(argv, timeout=PROBE_SECONDS)
    except OSError as error:
        raise _NotUsable(f"cannot be run: {error.strerror or error}") from None
    if outcome.returncode is None:
        raise _NotUsable(f"{' '.join(argv[1:])} did not end within {PROBE_SECONDS:.0f} s")
    if outcome.returncode != 0:
        said = outcome.output.strip().splitlines()
        raise _NotUsable(f"{' '.join(argv[1:])} failed" + (f": {said[-1]}" if said else ""))
    return outcome.output


def _probe(path: Path) -> Toolchain:
    if "zig" in path.name:
        return _probe_zig(path)
    version = _ask(str(path), "--version")
    if "hipcc" in path.name:
        # hipcc brings its own lld for device code.
        return Toolchain("hipcc", (str(path),), (), (_linker_of(path, required=False),), version)
    match = re.search(r"clang version (\d+)", version)
    if match is None:
        raise _NotUsable("is not clang")
    if int(match[1]) < MIN_CLANG:
        raise _NotUsable(f"is clang {match[1]}; {MIN_CLANG} or later is needed")
    if "amdgcn" not in _ask(str(path), "--print-targets"):
        raise _NotUsable("was built without the AMDGPU target")
    linker = _linker_of(path, required=True)
    return Toolchain("clang", (str(path),), (linker,), (linker,), version)


def _probe_zig(path: Path) -> Toolchain:
    version = _ask(str(path), "clang", "--version")
    if "amdgcn" not in _ask(str(path), "clang", "--print-targets"):
        raise _NotUsable("was built without the AMDGPU target")
    resources = path.resolve().parent / "lib"
    if not (resources / "include").is_dir():
        raise _NotUsable(f"has no {resources}/include")
    driver = (str(path), "clang", "--target=x86_64-linux-gnu", "-resource-dir", str(resources))
    linker = (str(path), "ld.lld")
    # The installation path is no property of the compiler: two machines shall share a cache entry.
    version = "\n".join(line for line in version.splitlines() if not line.startswith("InstalledDir"))
    return Toolchain("zig", driver, linker, linker, version)


def _linker_of(compiler: Path, required: bool) -> str:
    """Return the ld.lld that belongs to a compiler; for hipcc any linker that makes x86-64 libraries serves."""
    printed = _ask(str(compiler), "--print-prog-name=ld.lld").strip().splitlines()
    root = compiler.resolve().parent.parent
    beside = [root / "llvm" / "bin" / "ld.lld", root / "lib" / "llvm" / "bin" / "ld.lld", root / "bin" / "ld.lld"]
    # A bare name is the compiler's way of saying that it has none.
    own = [name for name in (*printed[-1:], *map(str, beside)) if os.sep in name]
    for candidate in own if required else (*own, "ld.lld", "ld"):
        found = shutil.which(candidate)
        if found is not None:
            return str(found)
    raise _NotUsable("has no ld.lld beside it" if required else "has no ld.lld or ld to link with")
