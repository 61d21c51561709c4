"""Many processes that want the same kernels at once, some of them killed: what a server with one process a GPU does."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from flashinfer_jit.jit import inventory
from flashinfer_jit.jit.cache import Cache
from support import fake_hipcc, vector_add

RANK = """
import sys
from support.vector_add import vector_add_key
from flashinfer_jit.jit.kernels import build_kernel
print('ready', flush=True)
sys.stdin.readline()
for factor in range(int(sys.argv[1])):
    print(build_kernel(vector_add_key(factor=factor)).library, flush=True)
"""


@dataclass(frozen=True)
class Round:
    """How one round ended.

    Attributes
    ----------
    compiled : Counter
        Kernel name to how often the compiler ran for it.
    outputs : list of list of str
        What each process that was not killed got, in order.
    failed : list of str
        What processes that were not killed and did not succeed said.
    killed : int
        How many were killed before they were done.
    damaged : list of str
        What is wrong in the cache afterwards.
    seconds : float
        How long it took.
    """

    compiled: Counter[str]
    outputs: list[list[str]]
    failed: list[str]
    killed: int
    damaged: list[str]
    seconds: float

    def check(self, processes: int, kernels: int) -> None:
        """Raise AssertionError unless the round ended as it must."""
        assert not self.failed, self.failed[0]
        assert not self.damaged, self.damaged
        assert len(self.outputs) == processes - self.killed > 0
        assert len(set(map(tuple, self.outputs))) == 1 and len(set(self.outputs[0])) == kernels
        # A kernel is compiled again only if a process that compiled it was killed.
        assert len(self.compiled) == kernels
        assert sum(self.compiled.values()) <= kernels + self.killed, self.compiled


def _wait_for_compilations(counter: Path, number: int, ranks: list[subprocess.Popen]) -> None:
    """Return when so many kernels have been compiled, or somebody is done with all of them."""
    while len(counter.read_text().split()) < number and all(rank.poll() in (None, -9) for rank in ranks):
        time.sleep(0.005)


def _victim(ranks: list[subprocess.Popen], cache: Path, chance: random.Random) -> subprocess.Popen:
    """Return a process at random: every other time one that holds, or last held, the lock of a kernel."""
    alive = [rank for rank in ranks if rank.poll() is None] or ranks
    owners = sorted((cache / "v1" / "locks").glob("*.owner"), key=lambda path: path.stat().st_mtime)
    texts = [path.read_text() for path in owners[-2:]]
    pids = {json.loads(text)["pid"] for text in texts if text}
    compiling = [rank for rank in alive if rank.pid in pids]
    return chance.choice(compiling if compiling and chance.random() < 0.5 else alive)


def run_round(folder: Path, processes: int, kernels: int, kills: int, seed: int, timeout: float = 300.0) -> Round:
    """Let ``processes`` build ``kernels`` kernels in an empty cache, and kill ``kills`` of them at random moments.

    Raises subprocess.TimeoutExpired if one hangs.
    """
    chance = random.Random(seed)
    counter = folder / "compilations"
    counter.touch()
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(sys.path),
        "FLASHINFER_JIT_CACHE_DIR": str(folder / "cache"),
        "FLASHINFER_JIT_TEMPLATE_DIR": str(vector_add.TEMPLATES),
        "FLASHINFER_JIT_HIPCC": str(fake_hipcc.install(folder / "bin")),
        "FAKE_HIPCC_COUNTER": str(counter),
    }
    argv = [sys.executable, "-c", RANK, str(kernels)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(argv, env=environment, **pipes) for _ in range(processes)]
    try:
        for rank in ranks:
            assert rank.stdout.readline() == "ready\n", rank.stderr.read()
        start = time.monotonic()
        for rank in ranks:
            rank.stdin.write("go\n")
            rank.stdin.flush()
        for _ in range(kills):
            _wait_for_compilations(counter, chance.randrange(kernels), ranks)
            time.sleep(chance.uniform(0, 0.05))
            _victim(ranks, folder / "cache", chance).kill()
        said = [rank.communicate(timeout=timeout) for rank in ranks]
        seconds = time.monotonic() - start
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    done = [out.split() for rank, (out, _) in zip(ranks, said, strict=True) if rank.returncode == 0]
    failed = [error for rank, (_, error) in zip(ranks, said, strict=True) if rank.returncode not in (0, -9)]
    killed = sum(rank.returncode == -9 for rank in ranks)
    damaged = [text for item in inventory.items(Cache(folder / "cache")) if (text := inventory.problem(item))]
    return Round(Counter(counter.read_text().split()), done, failed, killed, damaged, seconds)
