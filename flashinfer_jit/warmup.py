"""``python -m flashinfer_jit.warmup``: compile kernels ahead of time. Needs neither torch nor a GPU.

Without a choice of kernels the default presets are compiled. A kernel that is there already costs milliseconds; after
Ctrl-C the next run goes on where this one ended.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from flashinfer_jit import plan
from flashinfer_jit.command_line import Parser, arch_list, argument, positive, run
from flashinfer_jit.errors import (
    FlashInferJitError,
    InvalidSettingError,
    ToolchainNotFoundError,
    UnsafeCacheError,
    UnsupportedConfigError,
)
from flashinfer_jit.jit.arch import ARCHS, Arch
from flashinfer_jit.jit.cache import NOT_WRITABLE, Cache, Entry, user_root
from flashinfer_jit.jit.config import KernelConfig
from flashinfer_jit.jit.files import public_mkdir
from flashinfer_jit.jit.kernels import KernelKey, build_kernel, find_entry, lookup_in
from flashinfer_jit.jit.machine import max_jobs
from flashinfer_jit.presets import DEFAULT_PRESETS, MODELS, check_names, preset_configs
from flashinfer_jit.progress import Progress, stream_for

DEFAULT_DTYPES = ("bfloat16",)
# In the order in which the last line counts them.
STATUSES = ("compiled", "cached", "missing", "failed", "not tried")


@dataclass(frozen=True)
class Outcome:
    """What became of one kernel.

    Attributes
    ----------
    key : KernelKey
        Which one.
    status : str
        ``cached``, ``compiled`` or ``failed``; ``missing`` where nothing was to be compiled.
    seconds : float
        Wall-clock time, waiting for other processes included.
    entry : Entry or None
        Where it is, unless it failed or is missing.
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


@dataclass(frozen=True)
class Choice:
    """The kernels that a command line asks for.

    Attributes
    ----------
    keys : list of KernelKey
        Each once.
    left_out : list of str
        What presets need and no kernel is built for.
    """

    keys: list[KernelKey]
    left_out: list[str]


def default_keys(archs: Sequence[Arch]) -> list[KernelKey]:
    """Return the kernels that common models need, with all tiles, for the architectures given."""
    return _of_presets(DEFAULT_PRESETS, DEFAULT_DTYPES, archs).keys


def _of_presets(
    names: Sequence[str], dtypes: Sequence[str], archs: Sequence[Arch], kv_dtypes: Sequence[str] = ("auto",)
) -> Choice:
    configs: dict[KernelConfig, None] = {}
    left_out: dict[str, None] = {}
    for name, dtype, kv_dtype in product(names, dtypes, kv_dtypes):
        built, missing = preset_configs(name, dtype, kv_dtype)
        configs.update(dict.fromkeys(built))
        left_out.update(dict.fromkeys(missing))
    keys = []
    for arch in archs:
        for config in configs:
            try:
                keys += plan.keys_of([config], [arch])
            except UnsupportedConfigError as error:
                left_out[f"{config.slug()}: {error}"] = None
    return Choice(keys, list(left_out))


def compile_all(
    keys: Sequence[KernelKey], jobs: int, work: Callable[[KernelKey], Outcome] | None = None
) -> Iterator[Outcome]:
    """Compile kernels, several at once, and yield each outcome as it is known; a failure does not stop the others."""
    work = work or _compile
    with ThreadPoolExecutor(jobs) as pool:
        waiting: list[Future[Outcome]] = [pool.submit(work, key) for key in dict.fromkeys(keys)]
        try:
            while waiting:
                done = wait(waiting, return_when=FIRST_COMPLETED).done
                # Several may have ended since: a set has no order, and one job's outcomes come in that of the keys.
                yield from (future.result() for future in waiting if future in done)
                waiting = [future for future in waiting if future not in done]
        finally:
            # On Ctrl-C: what runs is waited for, what has not begun is dropped.
            pool.shutdown(wait=False, cancel_futures=True)


def _compile(key: KernelKey, output: Cache | None = None) -> Outcome:
    start = time.perf_counter()

    def outcome(status: str, entry: Entry | None, error: str = "") -> Outcome:
        return Outcome(key, status, round(time.perf_counter() - start, 4), entry, error)

    try:
        found = find_entry(key)
        entry = found or build_kernel(key)
        if output is not None:
            entry = output.export(entry, key)
        elif found is None and not entry.directory.is_relative_to(user_root()):
            return outcome("failed", None, f"{user_root()} cannot be written: compiled, but lost when this ends")
        return outcome("compiled" if found is None else "cached", entry)
    except (ToolchainNotFoundError, UnsafeCacheError):
        # These hold for every kernel alike: said once, not once for each.
        raise
    except FlashInferJitError as error:
        return outcome("failed", None, str(error))
    except OSError as error:
        if output is None or error.errno not in NOT_WRITABLE:
            raise
        return outcome("failed", None, f"cannot write {output.root}: {error.strerror}")


def _look(key: KernelKey, output: Cache | None = None) -> Outcome:
    """Do as ``_compile`` would, without compiling."""
    start = time.perf_counter()
    found = find_entry(key) if output is None else lookup_in(output, key)
    return Outcome(key, "missing" if found is None else "cached", round(time.perf_counter() - start, 4), found)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _presets(text: str) -> tuple[str, ...]:
    names = check_names(_words(text))
    if not names:
        raise UnsupportedConfigError(f"{text!r} is not allowed: expected names of presets joined by commas, or all")
    return names


def _dtypes(text: str) -> tuple[str, ...]:
    return _named_dtypes("dtype", text)


def _kv_dtypes(text: str) -> tuple[str, ...]:
    return _named_dtypes("kv_dtype", text)


def _named_dtypes(name: str, text: str) -> tuple[str, ...]:
    if not _words(text):
        raise UnsupportedConfigError(f"{text!r} is not allowed: expected {', '.join(plan.PRESET_DTYPES[name])}")
    return plan.check_dtypes(name, _words(text))


def _line(number: int, total: int, outcome: Outcome) -> str:
    text = f"[{number}/{total}] {outcome.status} {outcome.key}"
    if outcome.entry is None:
        return f"{text}: {outcome.error}" if outcome.error else text
    resources = outcome.entry.meta["resources"]
    spills = resources["vgpr_spills"] + resources["sgpr_spills"]
    return f"{text}: {outcome.seconds:.2f} s, {resources['vgpr']} VGPR, {spills} spills"


def _chosen(arguments: argparse.Namespace) -> Choice:
    """Return what the options ask for together; the default presets if they name nothing."""
    plans = arguments.from_file or []
    archs = arguments.arch or tuple(dict.fromkeys(arch for p in plans for arch in p.archs)) or tuple(ARCHS.values())
    dtypes = arguments.dtype or tuple(dict.fromkeys(d for p in plans for d in p.dtypes)) or DEFAULT_DTYPES
    presets = [name for names in arguments.preset or () for name in names] + [n for p in plans for n in p.presets]
    configs = [*(arguments.config or ()), *(config for p in plans for config in p.configs)]
    recorded = [key for keys in arguments.from_log or () for key in keys]
    if arguments.arch:
        recorded = [key for key in recorded if key.arch in arguments.arch]
    named = arguments.preset or arguments.config or plans or arguments.from_log or arguments.key
    kv_dtypes = arguments.kv_dtype or tuple(dict.fromkeys(d for p in plans for d in p.kv_dtypes)) or ("auto",)
    if (arguments.dtype or arguments.kv_dtype) and named and not presets:
        raise InvalidSettingError("--dtype and --kv-dtype are those of presets, and no preset is named")
    for key in arguments.key or ():
        if arguments.arch and key.arch not in arguments.arch:
            raise InvalidSettingError(f"--key is for {key.arch.name}, which --arch does not name")
    choice = _of_presets(presets if named else DEFAULT_PRESETS, dtypes, archs, kv_dtypes)
    keys = [*(arguments.key or ()), *recorded, *plan.keys_of(configs, archs), *choice.keys]
    return Choice(list(dict.fromkeys(keys)), choice.left_out)


def _warm_up(arguments: argparse.Namespace) -> int:
    choice = _chosen(arguments)
    output = Cache(arguments.output.absolute()) if arguments.output else None
    only_look = arguments.check or arguments.dry_run
    # Looking is no work for several: in order, then.
    most = max_jobs()
    jobs = 1 if only_look else min(arguments.jobs or most, most)
    if not only_look and not arguments.quiet and (arguments.jobs or 0) > most:
        print(f"--jobs {arguments.jobs}: cores, memory and MAX_JOBS allow {most}", file=sys.stderr)
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    with Progress(len(choice.keys), stream_for(arguments.json), arguments.quiet) as progress:
        if not arguments.quiet:
            for line in choice.left_out:
                print(f"left out: {line}", file=sys.stderr)
        work = (lambda key: _look(key, output)) if only_look else (lambda key: _compile(key, output))
        for outcome in compile_all(choice.keys, jobs, work):
            outcomes.append(outcome)
            important = outcome.status in ("failed", "missing")
            # Only what is missing is news where nothing is compiled.
            if important or not only_look:
                progress.step(_line(len(outcomes), len(choice.keys), outcome), important=important)
            if outcome.status == "failed" and arguments.fail_fast:
                break
    if output is not None and not only_look:
        _finish(output)
    return _sum_up(arguments, choice, outcomes, time.perf_counter() - start)


def _finish(output: Cache) -> None:
    """Leave nothing in a folder to be shipped but kernels, readable by all."""
    with contextlib.suppress(OSError):
        (output.base / "staging").rmdir()
    with contextlib.suppress(OSError):
        public_mkdir(output.base, output.root)


def _sum_up(arguments: argparse.Namespace, choice: Choice, outcomes: list[Outcome], seconds: float) -> int:
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in STATUSES}
    counts["not tried"] = len(choice.keys) - len(outcomes)
    if arguments.json:
        kernels = [outcome.to_dict() for outcome in outcomes]
        said = {**counts, "seconds": round(seconds, 3), "left_out": choice.left_out, "kernels": kernels}
        print(json.dumps(said))
    else:
        shown = [f"{counts[s]} {s}" for s in STATUSES if counts[s] or s in STATUSES[:2] or s == "failed"]
        where = f" in {arguments.output}" if arguments.output else ""
        print(", ".join(shown) + f"{where} in {seconds:.1f} s")
    failed = counts["failed"] or (arguments.check and counts["missing"])
    return 1 if failed else 0


def _parser() -> Parser:
    parser = Parser(prog="python -m flashinfer_jit.warmup", description=__doc__)
    what = parser.add_argument_group("which kernels (several together; without any, the default presets)")
    what.add_argument(
        "--preset",
        type=argument(_presets),
        action="append",
        metavar="NAME,...",
        help="models whose attention to compile, or all; --list-presets shows them",
    )
    what.add_argument(
        "--config",
        type=argument(plan.parse_config),
        action="append",
        metavar="CONFIG",
        help="one configuration: phase=decode,dtype=bfloat16,head_dim=128,group_size=8, or its JSON",
    )
    what.add_argument(
        "--from-file",
        type=argument(lambda text: plan.read_plan(Path(text))),
        action="append",
        metavar="PLAN.toml",
        help="a file that names presets and configurations",
    )
    what.add_argument(
        "--from-log",
        type=argument(lambda text: plan.read_record(Path(text))),
        action="append",
        metavar="FILE",
        help="what a program used that ran with FLASHINFER_JIT_RECORD=FILE",
    )
    what.add_argument("--key", type=argument(plan.parse_key), action="append", help="one kernel with one tile, as JSON")
    what.add_argument("--arch", type=arch_list, help="GPUs, joined by commas: all")
    what.add_argument(
        "--dtype", type=argument(_dtypes), metavar="DTYPE,...", help="of presets, joined by commas: bfloat16"
    )
    what.add_argument(
        "--kv-dtype",
        type=argument(_kv_dtypes),
        metavar="DTYPE,...",
        help="of the paged caches of presets, joined by commas: fp8 dtypes, or auto, that of --dtype",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--jobs", type=positive, help="compilers at once; never more than cores, memory and MAX_JOBS allow"
    )
    how.add_argument("--output", type=Path, metavar="DIR", help="also copy the kernels to a folder that can be shipped")
    how.add_argument("--fail-fast", action="store_true", help="stop at the first kernel that cannot be compiled")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="compile nothing; exit 1 if kernels are missing")
    instead.add_argument("--dry-run", action="store_true", help="compile nothing; say what would be compiled")
    instead.add_argument("--list-presets", action="store_true", help="show the presets and their sources")
    said = parser.add_argument_group("what is said")
    said.add_argument("--json", action="store_true", help="print one JSON object at the end")
    said.add_argument("--quiet", action="store_true", help="only failures, what is missing, and the last line")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list_presets and vars(arguments) != {
        **vars(parser.parse_args(["--list-presets"])),
        "json": arguments.json,
    }:
        parser.error("--list-presets goes with --json only")
    return run(lambda: _list_presets(arguments.json) if arguments.list_presets else _warm_up(arguments))


def _list_presets(as_json: bool) -> int:
    if as_json:
        print(json.dumps({name: asdict(model) for name, model in MODELS.items()}))
        return 0
    for name, model in MODELS.items():
        dims = sorted({model.head_dim_qk, model.head_dim_vo}, reverse=True)
        heads = f"{model.num_qo_heads}/{model.num_kv_heads} heads of {'/'.join(map(str, dims))}"
        default = " (default)" if name in DEFAULT_PRESETS else ""
        print(f"{name:18} {heads:24} {', '.join(model.features()):25} {model.source}{default}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
