"""What all command lines share: errors of one line, and exit statuses that scripts can rely on.

0: done. 1: the work failed. 2: an option or an environment variable has a value that is not allowed.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from flashinfer_jit.errors import FlashInferJitError, InvalidSettingError, UnsupportedConfigError
from flashinfer_jit.jit.arch import ARCHS, Arch, get_arch

INTERRUPTED = 130
T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)


def run(main: Callable[[], int]) -> int:
    """Return the exit status of ``main``, turning the package's errors and Ctrl-C into a message and a status."""
    try:
        status = main()
        sys.stdout.flush()
        return status
    except (InvalidSettingError, UnsupportedConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FlashInferJitError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has seen enough; Python would complain once more when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def arch_list(text: str) -> tuple[Arch, ...]:
    """Argument type: names of GPU architectures joined by commas."""
    try:
        archs = tuple(get_arch(name.strip()) for name in text.split(",") if name.strip())
    except UnsupportedConfigError:
        archs = ()
    if not archs:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: expected {', '.join(ARCHS)}, or several with commas"
        )
    return archs


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return an argument type that calls ``parse`` and tells argparse of the package's errors."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except (UnsupportedConfigError, InvalidSettingError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


_UNITS = {"": 1, **{f"{letter}B": 1000**n for n, letter in enumerate("kMGT", 1)}}
_UNITS |= {f"{letter}iB": 1024**n for n, letter in enumerate("KMGT", 1)}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def byte_size(text: str) -> int:
    """Argument type: a number of bytes, with a unit or without."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(\w*)", text)
    unit = {name.lower(): factor for name, factor in _UNITS.items()}.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: expected a size such as 500MB or 2GiB")
    return int(float(match[1]) * unit)


def age(text: str) -> float:
    """Argument type: a length of time in seconds, minutes, hours, days or weeks."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: expected a time such as 12h, 30d or 4w")
    return float(match[1]) * _AGES[match[2]]


def whole_number(text: str) -> int:
    """Argument type: a whole number, zero or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: expected a number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    """Argument type: a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: expected a number of 1 or more")
    return int(text)
