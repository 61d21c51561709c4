"""Every environment variable the package reads, in one table. Values are read when asked for, never at import."""

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from flashinfer_jit.errors import InvalidSettingError

T = TypeVar("T")
PREFIX = "FLASHINFER_JIT_"


@dataclass(frozen=True)
class EnvVar(Generic[T]):
    """One environment variable.

    Attributes
    ----------
    name : str
        Its full name.
    group : str
        The heading under which the documentation lists it.
    allowed : str
        What a value may be, for error messages and documentation.
    default : T
        The value when the variable is unset or empty.
    parse : callable
        Text to value; raises ValueError for text that is not allowed.
    help : str
        One line for the documentation.
    """

    name: str
    group: str
    allowed: str
    default: T
    parse: Callable[[str], T]
    help: str

    def get(self) -> T:
        """Return the value in force now; raises InvalidSettingError with the allowed values."""
        text = os.environ.get(self.name, "")
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError:
            raise InvalidSettingError(f"{self.name}={text!r} is not allowed: expected {self.allowed}") from None


def _flag(text: str) -> bool:
    values = {"0": False, "false": False, "no": False, "off": False, "1": True, "true": True, "yes": True, "on": True}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(text)
        return text.lower()

    return parse


def _choices(*choices: str) -> Callable[[str], frozenset[str]]:
    def parse(text: str) -> frozenset[str]:
        words = frozenset(word.strip().lower() for word in text.split(",") if word.strip())
        if not words <= set(choices):
            raise ValueError(text)
        return words

    return parse


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(_path(part) for part in text.split(os.pathsep) if part)


def _words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


_FLAG = "0 or 1"
LOG_LEVELS = ("debug", "info", "warning", "error")
CHECKS = ("indices",)

CACHE_DIR = EnvVar[Path | None](
    PREFIX + "CACHE_DIR",
    "cache",
    "a directory",
    None,
    _path,
    "where compiled kernels are kept; wins over everything else",
)
PREBUILT_PATH = EnvVar[tuple[Path, ...]](
    PREFIX + "PREBUILT_PATH",
    "cache",
    "directories joined by ':'",
    (),
    _paths,
    "read-only folders written by warmup --output",
)
TRUST_CACHE = EnvVar[bool](
    PREFIX + "TRUST_CACHE",
    "cache",
    _FLAG,
    False,
    _flag,
    "load kernels from a cache directory that other users can write",
)
LOCK_TIMEOUT = EnvVar[float](
    PREFIX + "LOCK_TIMEOUT",
    "cache",
    "seconds",
    600.0,
    _seconds,
    "longest wait for another process that compiles the same kernel",
)
DISABLE = EnvVar[bool](
    PREFIX + "DISABLE", "compile", _FLAG, False, _flag, "never compile: a kernel that is not cached is an error"
)
HIPCC = EnvVar[str | None](
    PREFIX + "HIPCC", "compile", "a compiler's path or name", None, str, "the compiler to use, before any other"
)
EXTRA_HIPCCFLAGS = EnvVar[tuple[str, ...]](
    PREFIX + "EXTRA_HIPCCFLAGS", "compile", "flags", (), _words, "more compiler flags; they take part in the cache key"
)
TEMPLATE_DIR = EnvVar[Path | None](
    PREFIX + "TEMPLATE_DIR",
    "compile",
    "a directory",
    None,
    _path,
    "templates found here are used before the packaged ones",
)
COMPILE_TIMEOUT = EnvVar[float](
    PREFIX + "COMPILE_TIMEOUT", "compile", "seconds", 300.0, _seconds, "a compiler that runs longer is killed"
)
DEBUG = EnvVar[bool](
    PREFIX + "DEBUG", "compile", _FLAG, False, _flag, "compile with -g -O1; takes part in the cache key"
)
DEVICE = EnvVar[str](
    PREFIX + "DEVICE",
    "device",
    "auto, hip or emulator",
    "auto",
    _choice("auto", "hip", "emulator"),
    "where kernels run",
)
ARCH = EnvVar[str](
    PREFIX + "ARCH", "device", "gfx942 or gfx950", "gfx942", _choice("gfx942", "gfx950"), "the GPU that the emulator is"
)
BACKEND = EnvVar[str](
    PREFIX + "BACKEND",
    "device",
    "auto, fa2 or aiter",
    "auto",
    _choice("auto", "fa2", "aiter"),
    'what backend="auto" means; `aiter`: AITER where it honours every argument (docs/aiter.md)',
)
CHECK = EnvVar[frozenset[str]](
    PREFIX + "CHECK",
    "checks",
    " and ".join(CHECKS),
    frozenset(),
    _choices(*CHECKS),
    "what plan() reads back from a GPU to check it; on the emulated one it is always checked, and so is every access",
)
RECORD = EnvVar[Path | None](
    PREFIX + "RECORD", "checks", "a file", None, _path, "append every kernel used, for warmup --from-log"
)
LOG_LEVEL = EnvVar[str | None](
    PREFIX + "LOG_LEVEL", "checks", ", ".join(LOG_LEVELS), None, _choice(*LOG_LEVELS), "write the log to standard error"
)

HIPCC_PLAIN = EnvVar[str | None](
    "HIPCC", "honoured", "a compiler's path or name", None, str, "the compiler to use, as other HIP tools read it"
)
ROCM_PATH = EnvVar[Path | None]("ROCM_PATH", "honoured", "a directory", None, _path, "the ROCm installation")
ROCM_HOME = EnvVar[Path | None]("ROCM_HOME", "honoured", "a directory", None, _path, "the same, as PyTorch reads it")
HIP_PATH = EnvVar[Path | None]("HIP_PATH", "honoured", "a directory", None, _path, "the same, as HIP reads it")
MAX_JOBS = EnvVar[int | None](
    "MAX_JOBS", "honoured", "a positive number", None, _count, "upper bound of concurrent compilers"
)
XDG_CACHE_HOME = EnvVar[Path | None](
    "XDG_CACHE_HOME", "honoured", "a directory", None, _path, "the user's cache directory"
)

TABLE: tuple[EnvVar[object], ...] = tuple(value for value in list(globals().values()) if isinstance(value, EnvVar))


def unknown() -> list[str]:
    """Return the FLASHINFER_JIT_ variables that are set and that nothing reads: most likely misspelt ones."""
    known = {var.name for var in TABLE}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
