"""Building the emulated device: its C++ sources are compiled once by the host's compiler and kept in the cache.

``<cache>/v1/emulator/<sources, flags and CPU level>/<compiler>/{libamdhip64.so, meta.json, build.log}``

Translation units are compiled separately, in parallel, and their objects are kept by content: after a change only the
files that see the change are compiled again.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flashinfer_jit import env
from flashinfer_jit.errors import CompilationError, NoDeviceError, ToolchainNotFoundError
from flashinfer_jit.jit import process
from flashinfer_jit.jit.cache import NOT_WRITABLE, Cache, check_safe, temporary_cache, temporary_caches, user_root
from flashinfer_jit.jit.files import private_mkdir
from flashinfer_jit.jit.lock import locked
from flashinfer_jit.log import logger

SOURCES = Path(__file__).resolve().parent / "src"
LIBRARY, META, LOG = "libamdhip64.so", "meta.json", "build.log"
# The x86-64-v3 instruction sets by name, which compilers older than that level's name know too.
CPU_LEVEL = "x86-64-v3"
CPU_FLAGS = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt", "-mmovbe")
CPU_NEEDS = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"})
# The lane loops must round as the hardware does: no contraction the instruction does not ask for. Host floating-point
# traps are never on; without saying so g++ keeps selections between floats as branches.
COMPILE_FLAGS = (
    *("-std=c++17", "-O3", "-fopenmp-simd", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-fvisibility=hidden", "-pthread", *CPU_FLAGS),
)
LINK_FLAGS = ("-shared", "-pthread", "-ldl", f"-Wl,-soname,{LIBRARY}", "-Wl,--no-undefined", "-Wl,--strip-debug")
EXPORTS = "exports.map"
NEWEST_CLANG_TRIED, OLDEST_CLANG = 30, 10
STALE_OBJECT_SECONDS = 14 * 86400.0
_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class HostCompiler:
    """A C++17 compiler for this machine.

    Attributes
    ----------
    argv : tuple of str
        How to call it.
    version : str
        What it says of itself.
    """

    argv: tuple[str, ...]
    version: str

    @property
    def id(self) -> str:
        """12 hexadecimal digits for the version."""
        return hashlib.sha256(self.version.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """One line for messages."""
        return f"{self.version.strip().splitlines()[0]} ({' '.join(self.argv[:2])})"


@dataclass(frozen=True)
class Built:
    """A built emulator library.

    Attributes
    ----------
    path : Path
        The shared library.
    compiler : str
        What it was built with.
    was_cached : bool
        Whether nothing had to be compiled or linked.
    compiled : int
        Translation units compiled now.
    units : int
        Translation units of the library.
    seconds : float
        Wall-clock time.
    """

    path: Path
    compiler: str
    was_cached: bool
    compiled: int
    units: int
    seconds: float


def library_path() -> Path | None:
    """Return the library built from these very sources for this CPU level, by whatever compiler, or None."""
    key = _sources_key()
    for cache in (Cache(user_root()), *temporary_caches()):
        found = _newest(cache.base / "emulator" / key)
        if found is not None:
            return found
    return None


def build(progress: Progress | None = None, compiler: HostCompiler | None = None) -> Built:
    """Build the emulator library unless it is there.

    Parameters
    ----------
    progress : callable, optional
        Called with (translation units done, all of them, the one just done).
    compiler : HostCompiler, optional
        The compiler to use; by default the first usable one, and a library built by any compiler serves.

    Raises
    ------
    NoDeviceError
        If the CPU has no AVX2.
    ToolchainNotFoundError
        If there is no C++17 compiler, with the places searched.
    CompilationError
        If the compiler fails, with the command that repeats it.
    """
    start = time.perf_counter()
    check_cpu()
    key = _sources_key()
    if compiler is None and (there := library_path()) is not None:
        return _cached(there, start)
    compiler = compiler or find_compiler()
    cache = Cache(user_root())
    try:
        return _build_in(cache, key, compiler, progress, start)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        logger.warning("%s cannot be written (%s): the emulator is built for this process alone", cache.root, error)
        return _build_in(temporary_cache(), key, compiler, progress, start)


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Raise NoDeviceError if this CPU cannot run the emulator."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return
    line = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if line is None:
        return
    missing = sorted(CPU_NEEDS - set(line[1].split()))
    if missing:
        raise NoDeviceError(
            f"the emulated GPU needs a CPU of level {CPU_LEVEL} (Intel Haswell, AMD Excavator or later); it lacks "
            + ", ".join(missing)
        )


def find_compiler() -> HostCompiler:
    """Return the first C++17 compiler that works: g++, clang++, then the one of the ziglang package.

    Raises
    ------
    ToolchainNotFoundError
        With every place searched and why it did not serve.
    """
    searched = []
    for argv in _candidates():
        try:
            if Path(argv[0]).name == "zig":
                # It brings its own headers, and would first build its C++ library only to be asked a question.
                version = process.run([argv[0], "version"])
                return HostCompiler(tuple(argv), f"zig {version.output}")
            version = process.run([*argv, "--version"])
            if version.returncode != 0:
                searched.append(f"  {argv[0]}: --version fails")
                continue
            probe = process.run([*argv, *COMPILE_FLAGS, "-fsyntax-only", "-x", "c++", str(SOURCES / "failure.h")])
        except OSError as error:
            searched.append(f"  {argv[0]}: {error.strerror or error}")
            continue
        if probe.returncode == 0:
            return HostCompiler(tuple(argv), version.output)
        said = [line for line in probe.output.splitlines() if "error" in line] or ["cannot compile C++17"]
        searched.append(f"  {argv[0]}: {said[0]}")
    raise ToolchainNotFoundError(
        "the emulated GPU is built by a C++17 compiler, and none works here; searched, in this order:\n"
        + "\n".join(searched or ["  g++, clang++, c++ on PATH, the ziglang package: none of them exists"])
        + "\nInstall g++ (Debian, Ubuntu: apt-get install g++), or run: pip install ziglang==0.17.1"
    )


def _candidates() -> Iterator[Sequence[str]]:
    versions = [f"clang++-{n}" for n in range(NEWEST_CLANG_TRIED, OLDEST_CLANG - 1, -1)]
    for name in ("g++", "clang++", *versions, "c++"):
        found = shutil.which(name)
        if found:
            yield (found,)
    spec = importlib.util.find_spec("ziglang")
    for folder in spec.submodule_search_locations or () if spec else ():
        # An old glibc as target: the library then also loads on older systems than this one.
        yield (str(Path(folder) / "zig"), "c++", "-target", "x86_64-linux-gnu.2.28")


def _newest(folder: Path) -> Path | None:
    try:
        choices = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return None
    for choice in choices:
        library = choice / LIBRARY
        try:
            meta = json.loads((choice / META).read_bytes())
            if meta["bytes"] != library.stat().st_size:
                raise ValueError("size differs")
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("damaged emulator library ignored (%s): %s", error, choice)
            continue
        check_safe(choice)
        check_safe(library)
        return library
    return None


def _cached(library: Path, start: float) -> Built:
    meta = json.loads((library.parent / META).read_bytes())
    return Built(library, meta["compiler"], True, 0, meta["units"], time.perf_counter() - start)


def _sources() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.suffix in (".cpp", ".h", ".map")}


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _sources_key() -> str:
    contents = {name: hashlib.sha256(data).hexdigest() for name, data in _sources().items()}
    return _digest(contents, COMPILE_FLAGS, LINK_FLAGS, CPU_LEVEL)


def _seen_by(name: str, sources: dict[str, bytes]) -> set[str]:
    """Return the sources that a translation unit includes, itself among them."""
    seen: set[str] = set()
    open_ends = [name]
    while open_ends:
        file = open_ends.pop()
        if file in seen or file not in sources:
            continue
        seen.add(file)
        open_ends += [match.decode() for match in _INCLUDE.findall(sources[file])]
    return seen


def _build_in(cache: Cache, key: str, compiler: HostCompiler, progress: Progress | None, start: float) -> Built:
    final = cache.base / "emulator" / key / compiler.id
    objects = cache.base / "emulator" / "objects"
    with locked(cache.base / "locks" / f"emulator-{key}-{compiler.id}.lock", "the emulator"):
        if (final / META).exists() and (there := _newest(final.parent)) is not None:
            return _cached(there, start)
        private_mkdir(objects)
        check_safe(objects)
        with cache.staging() as staged:
            compiled, paths = _compile_all(compiler, objects, staged, progress)
            library = staged / LIBRARY
            log = staged / LOG
            flags = [*LINK_FLAGS, f"-Wl,--version-script={SOURCES / EXPORTS}", "-o", str(library)]
            _run([*compiler.argv, *map(str, paths), *flags], log, "linking the emulator")
            meta = {"compiler": compiler.title, "units": len(paths), "bytes": library.stat().st_size, "cpu": CPU_LEVEL}
            (staged / META).write_text(json.dumps(meta, indent=1) + "\n")
            for path in staged.iterdir():
                path.chmod(0o600)
            private_mkdir(final.parent)
            if final.exists():
                shutil.rmtree(final)
            staged.rename(final)
        _sweep(objects)
    return Built(final / LIBRARY, compiler.title, False, compiled, len(paths), time.perf_counter() - start)


def _compile_all(
    compiler: HostCompiler, objects: Path, staged: Path, progress: Progress | None
) -> tuple[int, list[Path]]:
    sources = _sources()
    units = [name for name in sources if name.endswith(".cpp")]
    # The largest first, so that the last one to be compiled is a short one.
    units.sort(key=lambda name: -len(sources[name]))
    paths, todo = [], []
    for name in units:
        seen = {file: hashlib.sha256(sources[file]).hexdigest() for file in _seen_by(name, sources)}
        path = objects / f"{name.removesuffix('.cpp')}-{_digest(compiler.version, COMPILE_FLAGS, seen)}.o"
        paths.append(path)
        if path.exists():
            os.utime(path)
        else:
            todo.append((name, path))
    done = len(units) - len(todo)
    if progress:
        progress(done, len(units), "")

    def compile_one(unit: tuple[str, Path]) -> str:
        name, path = unit
        temporary = staged / path.name
        log = staged / f"{name}.log"
        argv = [*compiler.argv, *COMPILE_FLAGS, "-c", str(SOURCES / name), "-o", str(temporary)]
        _run(argv, log, f"compiling the emulator's {name}")
        log.unlink(missing_ok=True)
        temporary.replace(path)
        return name

    jobs = env.MAX_JOBS.get() or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(max(1, min(jobs, len(todo) or 1))) as pool:
        for name in pool.map(compile_one, todo):
            done += 1
            if progress:
                progress(done, len(units), name)
    return len(todo), paths


def _run(argv: Sequence[str], log: Path, what: str) -> None:
    outcome = process.run(argv, timeout=4 * env.COMPILE_TIMEOUT.get())
    command = " ".join(argv)
    log.write_text(f"{command}\n{outcome.output}")
    if outcome.returncode == 0:
        return
    if outcome.returncode is None:
        raise CompilationError(f"{what} did not end within {outcome.seconds:.0f} s: {command}", command=command)
    errors = [line for line in outcome.output.splitlines() if "error" in line or "undefined" in line]
    first = (errors or outcome.output.strip().splitlines() or ["the compiler said nothing"])[0]
    raise CompilationError(f"{what} failed: {first}\nTo see everything, run:\n  {command}", command=command)


def _sweep(objects: Path) -> None:
    """Remove the objects of old versions of the sources."""
    oldest = time.time() - STALE_OBJECT_SECONDS
    for path in objects.glob("*.o"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except OSError:
            pass
