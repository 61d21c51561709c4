"""``python -m flashinfer_jit.warmup``: compile kernels ahead of time. Needs neither torch nor a GPU."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import product
from typing import Any

from flashinfer_jit import env
from flashinfer_jit.command_line import Parser, arch_list, positive, run
from flashinfer_jit.errors import FlashInferJitError, UnsupportedConfigError
from flashinfer_jit.jit.arch import ARCHS, Arch
from flashinfer_jit.jit.cache import Entry
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.kernels import KernelKey, build_kernel, find_entry, key_from_dict
from flashinfer_jit.jit.tiling import candidates

# Query heads per KV head of current open models, by head dim: Llama 3 (4, 8), Qwen 2.5 and 3 (4 to 8), SmolLM2 (3).
DEFAULT_GROUP_SIZES = {64: (1, 3, 4, 8), 128: (1, 4, 5, 7, 8)}


@dataclass(frozen=True)
class Outcome:
    """What became of one kernel.

    Attributes
    ----------
    key : KernelKey
        Which one.
    status : str
        ``cached``, ``compiled`` or ``failed``.
    seconds : float
        Wall-clock time, waiting for other processes included.
    entry : Entry or None
        Where it is, unless it failed.
    error : str
        Why it failed.
    """

    key: KernelKey
    status: str
    seconds: float
    entry: Entry | None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {"kernel": self.key.slug(), **self.key.to_dict(), "status": self.status, "seconds": self.seconds}
        if self.entry is not None:
            values |= {"directory": str(self.entry.directory), "resources": self.entry.meta["resources"]}
        return values | ({"error": self.error} if self.error else {})


def default_keys(archs: Sequence[Arch]) -> list[KernelKey]:
    """Return the kernels that common models need, with all tiles, for the architectures given."""
    keys = []
    for arch, dtype, head_dim in product(archs, ("bfloat16", "float16"), DEFAULT_GROUP_SIZES):
        for group_size, mask_mode in product(DEFAULT_GROUP_SIZES[head_dim], ("causal", "none")):
            config = AttentionConfig("prefill", dtype, dtype, dtype, head_dim, head_dim, group_size, mask_mode)
            keys += [KernelKey(config, tile, arch) for tile in candidates(config, arch)]
    return keys


def default_jobs() -> int:
    """Return how many compilers to run at once: one per usable core, at most MAX_JOBS."""
    cores = len(os.sched_getaffinity(0))
    limit = env.MAX_JOBS.get()
    return cores if limit is None else min(cores, limit)


def compile_all(keys: Sequence[KernelKey], jobs: int) -> Iterator[Outcome]:
    """Compile kernels, several at once, and yield each outcome as it is known; a failure does not stop the others."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting: set[Future[Outcome]] = {pool.submit(_compile, key) for key in dict.fromkeys(keys)}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            # On Ctrl-C: what runs is waited for, what has not begun is dropped.
            pool.shutdown(wait=False, cancel_futures=True)


def _compile(key: KernelKey) -> Outcome:
    start = time.perf_counter()

    def outcome(status: str, entry: Entry | None, error: str = "") -> Outcome:
        return Outcome(key, status, round(time.perf_counter() - start, 4), entry, error)

    try:
        found = find_entry(key)
        return outcome("cached", found) if found is not None else outcome("compiled", build_kernel(key))
    except FlashInferJitError as error:
        return outcome("failed", None, str(error))


def _key(text: str) -> KernelKey:
    try:
        return key_from_dict(json.loads(text))
    except UnsupportedConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed: expected a JSON object with arch, config and tile, as error messages give it"
        ) from None


def _line(number: int, total: int, outcome: Outcome) -> str:
    text = f"[{number}/{total}] {outcome.status} {outcome.key}"
    if outcome.entry is None:
        return f"{text}: {outcome.error}"
    resources = outcome.entry.meta["resources"]
    spills = resources["vgpr_spills"] + resources["sgpr_spills"]
    return f"{text}: {outcome.seconds:.2f} s, {resources['vgpr']} VGPR, {spills} spills"


def _warm_up(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    keys = list(dict.fromkeys(arguments.key or default_keys(arguments.arch)))
    start = time.perf_counter()
    outcomes = []
    for outcome in compile_all(keys, arguments.jobs or default_jobs()):
        outcomes.append(outcome)
        say(_line(len(outcomes), len(keys), outcome))
    counts = {status: sum(o.status == status for o in outcomes) for status in ("compiled", "cached", "failed")}
    seconds = round(time.perf_counter() - start, 3)
    if arguments.json:
        print(json.dumps({**counts, "seconds": seconds, "kernels": [outcome.to_dict() for outcome in outcomes]}))
    else:
        print(", ".join(f"{count} {status}" for status, count in counts.items()) + f" in {seconds:.1f} s")
    return 1 if counts["failed"] else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m flashinfer_jit.warmup", description=__doc__)
    parser.add_argument("--arch", type=arch_list, default=tuple(ARCHS.values()), help="GPUs, joined by commas: all")
    parser.add_argument("--jobs", type=positive, help="compilers at once: one per core, at most MAX_JOBS")
    parser.add_argument("--key", type=_key, action="append", help="compile just this kernel; may be given repeatedly")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    arguments = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    return run(lambda: _warm_up(arguments, say))


if __name__ == "__main__":
    raise SystemExit(main())
