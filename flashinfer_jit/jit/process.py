"""Running a compiler: in a session of its own, so that it and its children can be killed together."""

import atexit
import contextlib
import os
import select
import signal
import subprocess
import tempfile
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
    # A file, not a pipe: a pipe that a runaway grandchild keeps open would never end.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _running.add(process.pid)
        returncode: int | None = None
        try:
            returncode = _wait(process, timeout)
        finally:
            if returncode is None:
                _kill_group(process.pid)
                process.wait()
            _running.discard(process.pid)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    return Outcome(tuple(argv), returncode, text, time.perf_counter() - start)


def _wait(process: "subprocess.Popen[bytes]", timeout: float) -> int | None:
    """Return the exit status, or None if the time is over first."""
    try:
        # Popen.wait with a timeout looks every 50 ms, a tenth of what a kernel takes to compile.
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout)
        return None
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        return process.wait() if ended.poll(min(timeout * 1000, 2**31 - 1)) else None
    finally:
        os.close(handle)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


# A forked child must not end its parent's compilers.
os.register_at_fork(after_in_child=_running.clear)


@atexit.register
def _kill_all() -> None:
    for pid in tuple(_running):
        _kill_group(pid)
