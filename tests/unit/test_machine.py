"""How many compilers a machine bears, and that many processes together run no more."""

import os
import threading
import time

import pytest

from flashinfer_jit.jit import lock, machine
from flashinfer_jit.jit.lock import compile_slot


@pytest.fixture
def texts(monkeypatch):
    """The system's files, as a test writes them; the machine has 8 cores."""
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   16777216 kB\n"}
    monkeypatch.setattr(machine, "_text", lambda path: files.get(str(path), ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("MAX_JOBS", raising=False)
    return files


@pytest.mark.parametrize(
    "name, text, jobs",
    [
        (None, "", 8),
        ("/proc/meminfo", "MemAvailable: 1048576 kB\n", 2),
        ("/proc/meminfo", "MemAvailable: 1024 kB\n", 1),
        ("/sys/fs/cgroup/cpu.max", "300000 100000\n", 3),
        ("/sys/fs/cgroup/cpu.max", "50000 100000\n", 1),
        ("/sys/fs/cgroup/cpu.max", "max 100000\n", 8),
        ("/sys/fs/cgroup/memory.max", "max\n", 8),
        ("/sys/fs/cgroup/memory.max", f"{3 << 30}\n", 4),
    ],
)
def test_jobs_are_bounded_by_cores_memory_and_containers(texts, name, text, jobs) -> None:
    texts["/sys/fs/cgroup/memory.current"] = f"{1 << 30}\n"
    if name:
        texts[name] = text
    assert machine.max_jobs() == jobs


def test_max_jobs_lowers_and_never_raises(texts, monkeypatch) -> None:
    monkeypatch.setenv("MAX_JOBS", "3")
    assert machine.max_jobs() == 3
    monkeypatch.setenv("MAX_JOBS", "300")
    assert machine.max_jobs() == 8


def test_this_machine_can_be_asked() -> None:
    assert machine.usable_cores() >= 1 and machine.available_bytes() > 0


def test_no_more_work_at_once_than_slots(tmp_path) -> None:
    inside, most = [], []

    def work() -> None:
        with compile_slot(tmp_path / "slots", 2, "work"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.03)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 8 and max(most) == 2


def test_a_slot_that_never_comes_free_is_waited_for_and_then_done_without(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_LOCK_TIMEOUT", "0.1")
    with compile_slot(tmp_path, 1, "first"), compile_slot(tmp_path, 1, "second"):
        assert "second: no free slot after 0 s, going on without one" in caplog.text


def test_a_wait_for_a_slot_is_announced(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(lock, "ANNOUNCE_SECONDS", 0.05)
    monkeypatch.setenv("FLASHINFER_JIT_LOCK_TIMEOUT", "0.3")
    caplog.set_level("INFO", "flashinfer_jit")
    with compile_slot(tmp_path, 1, "first"), compile_slot(tmp_path, 1, "second"):
        assert "second: waiting for one of 1 compile slots of this machine" in caplog.text


def test_a_file_system_without_locks_has_no_slots(tmp_path, monkeypatch, caplog) -> None:
    import errno
    import fcntl

    def refuse(*_) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr("flashinfer_jit.log._said", set())
    with compile_slot(tmp_path, 1, "work"):
        assert "the number of compilers is not bounded" in caplog.text
