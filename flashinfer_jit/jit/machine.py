"""How many compilers this machine bears at once: bounded by cores, by memory, by containers and by the user."""

import os
from pathlib import Path

from flashinfer_jit import env

# Room for one compilation. The largest kernels took 146 MB with clang 22 and 131 MB with zig 0.17; hipcc may take more.
COMPILER_BYTES = 512 << 20


def usable_cores() -> int:
    """Return the cores that this process may use: its affinity, and the share of a container."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdecimal() and quota[1].isdecimal() and int(quota[1]) > 0:
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def available_bytes() -> int:
    """Return the memory that can still be taken: of the machine and of the container, whichever is less."""
    return min(_machine_bytes(), _container_bytes())


def _machine_bytes() -> int:
    for line in _text(Path("/proc/meminfo")).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_bytes() -> int:
    limit, used = _cgroup("memory.max").strip(), _cgroup("memory.current").strip()
    return max(0, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else 1 << 62


def _cgroup(name: str) -> str:
    return _text(Path("/sys/fs/cgroup") / name)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def max_jobs() -> int:
    """Return how many compilers to run at once: one per usable core and 512 MB of free memory, at most MAX_JOBS."""
    jobs = max(1, min(usable_cores(), available_bytes() // COMPILER_BYTES))
    limit = env.MAX_JOBS.get()
    return jobs if limit is None else min(jobs, limit)
