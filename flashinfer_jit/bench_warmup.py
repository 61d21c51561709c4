"""``python -m flashinfer_jit.bench warmup``: what compiling ahead costs, with one compiler at a time and with several.

Every run is the command line in a process of its own with a cache of its own, as a user starts it.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashinfer_jit import env
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.cache import Cache
from flashinfer_jit.jit.inventory import items
from flashinfer_jit.jit.machine import max_jobs

CACHED_RUNS = 3


@dataclasses.dataclass(frozen=True)
class WarmupRow:
    """One line of the table.

    Attributes
    ----------
    name : str
        What was measured, the same in every run: for machines.
    title : str
        The same for people.
    value : float
        In ``unit``.
    unit : str
        ``s``, ``x``, ``kB``, or empty for a count.
    goal : str
        What it should be.
    """

    name: str
    title: str
    value: float
    unit: str
    goal: str = ""


def measure(archs: Sequence[str], presets: Sequence[str], jobs: int) -> list[WarmupRow]:
    """Compile presets into empty caches, and look at the full one again.

    Parameters
    ----------
    archs, presets : list of str
        GPUs and models; no presets are the default set.
    jobs : int
        Compilers at once, compared with one.

    Raises
    ------
    UnsupportedConfigError
        If this machine bears fewer compilers at once.
    """
    if jobs > max_jobs():
        raise UnsupportedConfigError(
            f"--jobs {jobs} is not allowed: this machine's cores and memory, and MAX_JOBS, allow {max_jobs()}"
        )
    options = ["--arch", ",".join(archs), *(["--preset", ",".join(presets)] if presets else [])]
    with (
        tempfile.TemporaryDirectory(prefix="fij-bench-") as one,
        tempfile.TemporaryDirectory(prefix="fij-bench-") as many,
    ):
        alone, said = _warm_up(one, [*options, "--jobs", "1"])
        together, _ = _warm_up(many, [*options, "--jobs", str(jobs)])
        again = [_warm_up(many, options) for _ in range(CACHED_RUNS)]
        found = items(Cache(Path(many)))
    largest = max(item.num_bytes for item in found)
    spilling = sum(item.meta["resources"][name] > 0 for item in found for name in ("vgpr_spills", "sgpr_spills"))
    compiled = said["compiled"]
    if said["failed"] or any(looked["cached"] != compiled for _, looked in again):
        raise UnsupportedConfigError(
            f"of {compiled} kernels not all were compiled and found again: run warmup to see why"
        )
    return [
        WarmupRow("kernels", "kernels compiled", compiled, ""),
        WarmupRow("one_job", "one compiler at a time", alone, "s"),
        WarmupRow("jobs", f"{jobs} compilers", together, "s"),
        WarmupRow("ratio", f"{jobs} compilers against one", alone / together, "x", "1.6" if jobs == 2 else ""),
        WarmupRow(
            "cached", "all of them cached, best of 3", min(seconds for seconds, _ in again), "s", "1 for 200 kernels"
        ),
        WarmupRow("spilling", "kernels that spill registers", spilling, "", "0"),
        WarmupRow("entry", "largest entry of the cache", largest / 1e3, "kB", "120"),
    ]


def _warm_up(cache: str, options: Sequence[str]) -> tuple[float, dict[str, Any]]:
    """Return the wall-clock seconds of one run of the command line, and what it printed."""
    argv = [sys.executable, "-m", "flashinfer_jit.warmup", *options, "--json", "--quiet"]
    start = time.perf_counter()
    done = subprocess.run(argv, env={**os.environ, env.CACHE_DIR.name: cache}, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1) or not done.stdout:
        raise UnsupportedConfigError(f"{' '.join(argv[1:])} failed: {done.stderr.strip()}")
    said: dict[str, Any] = json.loads(done.stdout)
    return seconds, said
