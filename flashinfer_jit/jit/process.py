"""Running a compiler: in a session of its own, so that it and its children can be killed together."""

import atexit
import contextlib
import math
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What poll() takes as a number of milliseconds.
MAX_POLL_SECONDS = 2e6
KILL_SECONDS = 5.0


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


class _Session:
    """One program, run by one thread, killed by any."""

    def __init__(self, argv: Sequence[str], cwd: Path | None, timeout: float) -> None:
        self._argv, self._cwd, self._timeout = tuple(argv), cwd, timeout
        self._guard = threading.Lock()
        self._pid: int | None = None
        self._killed = False
        self._error: BaseException | None = None
        self._outcome: Outcome | None = None
        self.over = threading.Event()

    def kill(self) -> None:
        """Kill the program with all of its children, now or as soon as it has started."""
        with self._guard:
            self._killed = True
            if self._pid is not None:
                # The group may be gone although the program has not been reaped.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._pid, signal.SIGKILL)

    def run(self) -> None:
        """Run the program to its end; ``result`` tells how that was."""
        _running.add(self)
        try:
            self._outcome = self._run()
        except BaseException as error:
            self._error = error
        finally:
            _running.discard(self)
            self.over.set()

    def result(self) -> Outcome:
        """Return how the program ended, or raise what kept it from starting."""
        if self._error is not None:
            raise self._error
        assert self._outcome is not None
        return self._outcome

    def _run(self) -> Outcome:
        start = time.perf_counter()
        # A file, not a pipe: a pipe that a runaway grandchild keeps open would never end.
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                self._argv,
                cwd=self._cwd,
                # C locale: messages are parsed, and shown beside English text.
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with self._guard:
                self._pid = process.pid
            if self._killed:
                self.kill()
            ended = _wait(process.pid, self._timeout)
            if not ended:
                self.kill()
                _wait(process.pid, math.inf)
            with self._guard:
                # Once it is reaped its number may belong to another program.
                self._pid = None
                returncode = process.wait()
            output.seek(0)
            text = output.read().decode("utf-8", "replace")
        return Outcome(self._argv, returncode if ended else None, text, time.perf_counter() - start)


def _wait(pid: int, timeout: float) -> bool:
    """Return whether the child has ended within the time, leaving it to be reaped."""
    # Popen.wait with a timeout looks every 50 ms, a tenth of what a kernel takes to compile.
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return _wait_by_looking(pid, timeout)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(None if timeout > MAX_POLL_SECONDS else timeout * 1000))
    finally:
        os.close(handle)


def _wait_by_looking(pid: int, timeout: float) -> bool:
    """Do the same where the system has no handles of processes: Linux before 5.3."""
    end = time.monotonic() + timeout
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= end:
            return False
        time.sleep(0.01)
    return True


def run(argv: Sequence[str], cwd: Path | None = None, timeout: float = 60.0) -> Outcome:
    """Run a program and return how it ended.

    On a timeout, and on Ctrl-C, the program's whole process group is killed. Raises OSError if the program cannot be
    started.
    """
    session = _Session(argv, cwd, timeout)
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C interrupts the main thread anywhere, also between the start of a program and the moment when its
        # number is known; in another thread it interrupts nothing.
        worker = threading.Thread(target=session.run, name="flashinfer_jit compiler")
        worker.start()
        try:
            worker.join()
        except BaseException:
            session.kill()
            worker.join()
            raise
    else:
        session.run()
    return session.result()


_running: set[_Session] = set()
# A forked child must not end its parent's compilers.
os.register_at_fork(after_in_child=_running.clear)


@atexit.register
def _kill_all() -> None:
    sessions = tuple(_running)
    for session in sessions:
        session.kill()
    for session in sessions:
        # A daemon thread may be just starting its program: it is given the time to see that it must not.
        session.over.wait(KILL_SECONDS)
