import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flashinfer_jit.errors import CacheLockTimeout
from flashinfer_jit.jit import lock
from flashinfer_jit.jit.lock import locked

HOLDER = """
import sys, time, pathlib
from flashinfer_jit.jit.lock import locked
with locked(pathlib.Path(sys.argv[1]), 'compiling a kernel'):
    print('held', flush=True)
    {then}
"""


def hold(path, then: str) -> subprocess.Popen:
    """Start a process that holds the lock, and return when it does."""
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    argv = [sys.executable, "-c", HOLDER.format(then=then), str(path)]
    holder = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_one_holder_at_a_time_also_between_threads(tmp_path) -> None:
    inside, most = [], []

    def work() -> None:
        with locked(tmp_path / "x.lock", "work"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 6 and max(most) == 1


def test_the_lock_file_stays(tmp_path) -> None:
    with locked(tmp_path / "x.lock", "work"):
        inode = (tmp_path / "x.lock").stat().st_ino
    with locked(tmp_path / "x.lock", "work"):
        assert (tmp_path / "x.lock").stat().st_ino == inode


def test_a_killed_holder_frees_the_lock(tmp_path) -> None:
    holder = hold(tmp_path / "x.lock", "time.sleep(1000)")
    holder.send_signal(signal.SIGKILL)
    start = time.monotonic()
    with locked(tmp_path / "x.lock", "work"):
        assert time.monotonic() - start < 5
    holder.wait()


def test_a_compiler_that_outlives_its_caller_does_not_keep_the_lock(tmp_path) -> None:
    then = "import os, signal, threading; from flashinfer_jit.jit import process\n"
    then += "    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
    then += "    process.run(['sh', '-c', f'echo $$ > {sys.argv[1]}.pid; exec sleep 1000'], timeout=1000)"
    holder = hold(tmp_path / "x.lock", then)
    holder.wait()
    compiler = int((tmp_path / "x.lock.pid").read_text())
    try:
        os.kill(compiler, 0)
        start = time.monotonic()
        with locked(tmp_path / "x.lock", "work"):
            assert time.monotonic() - start < 5
    finally:
        os.kill(compiler, signal.SIGKILL)


def test_a_wait_that_is_too_long_names_the_holder(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_LOCK_TIMEOUT", "0.5")
    monkeypatch.setattr(lock, "ANNOUNCE_SECONDS", 0.2)
    holder = hold(tmp_path / "x.lock", "time.sleep(1000)")
    try:
        with pytest.raises(CacheLockTimeout) as caught, locked(tmp_path / "x.lock", "compiling Y"):
            pytest.fail("two processes hold one lock")
        assert f"process {holder.pid} on " in str(caught.value)
        assert str(tmp_path / "x.lock") in str(caught.value)
        assert "FLASHINFER_JIT_LOCK_TIMEOUT" in str(caught.value)
        assert f"compiling Y: waiting for process {holder.pid}" in caplog.text
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_worked_on_with_a_warning(tmp_path, monkeypatch, caplog, code) -> None:
    import fcntl

    def refuse(*_) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr("flashinfer_jit.log._said", set())
    done = []
    for _ in range(2):
        with locked(tmp_path / "x.lock", "work"):
            done.append(1)
    assert done == [1, 1]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path} has no file locks ({os.strerror(code)}): processes may compile twice"
    ]


def test_an_error_inside_is_passed_on_and_frees_the_lock(tmp_path) -> None:
    with pytest.raises(OSError, match="inside"), locked(tmp_path / "x.lock", "work"):
        raise OSError(errno.ENOLCK, "inside")
    with locked(tmp_path / "x.lock", "work"):
        pass
