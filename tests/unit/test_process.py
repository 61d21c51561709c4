import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashinfer_jit.jit import process


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits for its parent does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


# A shell with a child that would outlive it.
FAMILY = 'sleep 1000 & echo "$$ $!" > pids; wait'


def pids_in(folder: Path) -> list[int]:
    assert wait_until(lambda: (folder / "pids").exists() and (folder / "pids").read_text().strip())
    return [int(pid) for pid in (folder / "pids").read_text().split()]


@pytest.fixture(params=["handles", "no handles"])
def process_handles(request, monkeypatch) -> None:
    """Linux with and without handles of processes."""

    def refuse(*_) -> int:
        raise OSError(38, "Function not implemented")

    if request.param == "no handles":
        monkeypatch.setattr(os, "pidfd_open", refuse)


def test_output_and_status(process_handles) -> None:
    outcome = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (outcome.returncode, outcome.output) == (3, "out\nerr\n")
    assert outcome.seconds > 0


def test_a_program_killed_by_a_signal_is_told_apart() -> None:
    assert process.run(["sh", "-c", "kill -9 $$"]).returncode == -9


def test_a_missing_program_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        process.run(["/nonexistent/compiler"])


def test_a_timeout_kills_the_whole_group(tmp_path, process_handles) -> None:
    start = time.monotonic()
    outcome = process.run(["sh", "-c", FAMILY], cwd=tmp_path, timeout=0.5)
    assert outcome.returncode is None
    assert time.monotonic() - start < 5
    assert wait_until(lambda: not any(map(is_alive, pids_in(tmp_path))))


def test_a_grandchild_that_left_the_group_does_not_hold_us_up(tmp_path) -> None:
    start = time.monotonic()
    outcome = process.run(["sh", "-c", "setsid sleep 3 & echo said"], cwd=tmp_path, timeout=10)
    assert (outcome.returncode, outcome.output) == (0, "said\n")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("how", ["ctrl-c", "exit"])
def test_compilers_end_with_us(tmp_path, how) -> None:
    script = "import sys, threading; from flashinfer_jit.jit import process\n"
    run = f"process.run(['sh', '-c', {FAMILY!r}], timeout=1000)"
    if how == "ctrl-c":
        script += run
    else:
        script += f"threading.Thread(target=lambda: {run}, daemon=True).start(); input()"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    user = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pids = pids_in(tmp_path)
    assert all(map(is_alive, pids))
    if how == "ctrl-c":
        user.send_signal(signal.SIGINT)
    user.communicate(b"\n")
    assert wait_until(lambda: not any(map(is_alive, pids)))


def test_a_forked_child_leaves_its_parents_compilers_alone(tmp_path) -> None:
    script = """
import os, sys, threading, time
from flashinfer_jit.jit import process
worker = threading.Thread(target=lambda: print(process.run(['sh', '-c', 'sleep 1; echo done']).output.strip()))
worker.start()
while not process._running:
    time.sleep(0.01)
child = os.fork()
if child == 0:
    process._kill_all()
    os._exit(0)
os.waitpid(child, 0)
worker.join()
"""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stderr
