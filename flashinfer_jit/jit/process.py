"""Running a compiler: in a session of its own, so that it and its children can be killed together."""

import atexit
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_running: set[int] = set()


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes
    ----------
    argv : tuple of str
        What was run.
    returncode : int or None
        Exit status, negative for a signal; None if it was killed because the time was over.
    output : str
        Standard output and standard error together.
    seconds : float
        Wall-clock time.
    """

    argv: tuple[str, ...]
    returncode: int | None
    output: str
    seconds: float


def run(argv: Sequence[str], cwd: Path | None = None, timeout: float = 60.0) -> Outcome:
    """Run a program and return how it ended.

    On a timeout, and on Ctrl-C or any other exception, the program's whole process group is killed. Raises OSError if
    the program cannot be started.
    """
    start = time.perf_counter()
    # C locale: messages are parsed, and shown beside English text.
    environment = {**os.environ, "LC_ALL": "C"}
    with subprocess.Popen(
        argv,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        _running.add(process.pid)
        returncode: int | None
        try:
            output, _ = process.communicate(timeout=timeout)
            returncode = process.returncode
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            output, _ = process.communicate()
            returncode = None
        except BaseException:
            _kill_group(process.pid)
            raise
        finally:
            _running.discard(process.pid)
    return Outcome(tuple(argv), returncode, output.decode("utf-8", "replace"), time.perf_counter() - start)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@atexit.register
def _kill_all() -> None:
    for pid in tuple(_running):
        _kill_group(pid)
