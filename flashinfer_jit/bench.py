"""``python -m flashinfer_jit.bench``: what compiling, loading and calling cost, and how fast the emulated GPU is.

Times are wall-clock times of this machine's CPU. What runs on the emulated GPU says nothing about a real one.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from flashinfer_jit import bench_attention, bench_plan, bench_warmup, command_line, emulator, env, prefill, runtime
from flashinfer_jit.emulator.assemble import assemble
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import kernels, tiling, toolchain
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey, key_from_dict
from flashinfer_jit.presets import check_names
from flashinfer_jit.tables import format_table

# The kernels whose compilation is timed: those of the common head dimensions.
CASES = tuple(
    (dtype, head_dim, mask_mode)
    for dtype in ("float16", "bfloat16")
    for head_dim in (64, 128)
    for mask_mode in ("none", "causal")
)


@dataclasses.dataclass(frozen=True)
class Measurement:
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
        ``s``, ``ms``, ``us`` or ``ns``.
    goal : float or None
        What it should be at most on two cores with AVX2, in ``unit``.
    samples : int
        The number of measurements behind ``value``: their median, for single instructions the fastest.
    """

    name: str
    title: str
    value: float
    unit: str
    goal: float | None
    samples: int


def prefill_key(arch_name: str, dtype: str, head_dim: int, mask_mode: str) -> KernelKey:
    """Return the key of a prefill kernel without GQA, with its largest tile."""
    config = AttentionConfig(
        phase="prefill",
        dtype_q=dtype,
        dtype_kv=dtype,
        dtype_o=dtype,
        head_dim_qk=head_dim,
        head_dim_vo=head_dim,
        mask_mode=mask_mode,
    )
    arch = ARCHS[arch_name]
    return KernelKey(config, tiling.candidates(config, arch)[-1], arch)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables within the ``with`` block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def seconds_of(call: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def load(key: KernelKey) -> kernels.Kernel:
    """Return the kernel as a process gets it that does not have it yet."""
    kernels.forget()
    return kernels.get_kernel(key, runtime.current())


def cpu_seconds_of(call: Callable[[], object]) -> float:
    """Return the CPU time of one call, for work of a single thread: other processes do not disturb it as much."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure_compilers(archs: Sequence[str]) -> list[Measurement]:
    """Time cold compilations, from rendering to the loaded kernel, with every compiler there is."""
    found = []
    for compiler in toolchain.find_all():
        with (
            tempfile.TemporaryDirectory(prefix="fij-bench-") as folder,
            environment(**{env.CACHE_DIR.name: folder, env.HIPCC.name: compiler.driver[0]}),
        ):
            # Imports, the emulator and the compiler's own first start are no part of a compilation.
            load(prefill_key(archs[0], *CASES[0]))
            for arch in archs:
                keys = [prefill_key(arch, *case) for case in CASES[1:]]
                times = [seconds_of(lambda key=key: load(key)) for key in keys]
                title = f"cold compile, render to loaded, {compiler.kind}, {arch}"
                found.append(
                    Measurement(f"cold_compile.{compiler.kind}.{arch}", title, median(times), "s", 1.0, len(times))
                )
    return found


def measure_loading(archs: Sequence[str]) -> list[Measurement]:
    """Time loading from the disk cache, in a process of its own, because a library is mapped only once in a process."""
    keys = [prefill_key(arch, *case) for arch in archs for case in CASES]
    for key in keys:
        kernels.build_kernel(key)
    argv = [sys.executable, "-m", "flashinfer_jit.bench", "_load", *(key.canonical_json() for key in keys)]
    times = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    # The first one also imports the templates and finds the compiler.
    return [
        Measurement("load_from_disk", "load from the disk cache", 1e3 * median(times[1:]), "ms", 5.0, len(times) - 1)
    ]


def _print_load_times(keys: Sequence[str]) -> None:
    runtime.current().prepare_for_loading()
    print(json.dumps([seconds_of(lambda key=key: load(key_from_dict(json.loads(key)))) for key in keys]))


@contextlib.contextmanager
def stubbed_launch(key: KernelKey) -> Iterator[None]:
    """Have the kernel's launch function do nothing within the ``with`` block; all before it stays as it is."""
    kernel = kernels.get_kernel(key, runtime.current())
    # A launch of no query tokens returns before it reaches the runtime: the foreign call itself is still made.
    nothing = kernel.params_type()
    stub = dataclasses.replace(kernel, launch_fn=lambda _, stream: kernel.launch_fn(ctypes.byref(nothing), stream))
    kernels._memo[key] = stub
    try:
        yield
    finally:
        kernels._memo[key] = kernel


def measure_call() -> list[Measurement]:
    """Time the host's part of a repeated call: validation, outputs, parameters, the foreign call; not the launch."""
    device = runtime.device()
    arch = runtime.current().arch(device)
    q, k, v = (torch.zeros(128, 8, 128, dtype=torch.float16, device=device) for _ in range(3))
    calls = 2000
    prefill.single_prefill_with_kv_cache(q, k, v, causal=True)
    with contextlib.ExitStack() as stack:
        for tile in tiling.candidates(prefill_key(arch.name, "float16", 128, "causal").config, arch):
            stack.enter_context(stubbed_launch(dataclasses.replace(prefill_key(arch.name, *CASES[3]), tile=tile)))

        def repeat() -> None:
            for _ in range(calls):
                prefill.single_prefill_with_kv_cache(q, k, v, causal=True)

        repeat()
        times = [cpu_seconds_of(repeat) / calls for _ in range(5)]
    title = "host cost of a repeated call, launch stubbed out"
    return [Measurement("repeated_call", title, 1e6 * median(times), "us", 25.0, len(times) * calls)]


# Instructions whose time on the emulated GPU is measured, with goals in nanoseconds for one core with AVX2.
INSTRUCTIONS = (
    ("v_fma_f32", "v_fma_f32 v{n}, v2, v3, v{n}", 15.0),
    ("v_mfma_f32_32x32x8_f16", "v_mfma_f32_32x32x8_f16 v[64:79], v[2:3], v[4:5], v[64:79]", 600.0),
    ("ds_read_b128", "ds_read_b128 v[{n}:{m}], v1", 300.0),
)
UNROLL, LDS_BYTES = 64, 4096
LOOP = """
v_and_b32 v1, 63, v0
v_lshlrev_b32 v1, 4, v1
{ones}
s_movk_i32 s8, {rounds}
again:
{body}
s_waitcnt lgkmcnt(0)
s_sub_u32 s8, s8, 1
s_cmp_lg_u32 s8, 0
s_cbranch_scc1 again
s_endpgm
"""


def _loop_seconds(arch: str, text: str, rounds: int) -> float:
    """Return the least CPU time of some runs of one wave that executes the instruction UNROLL times a round."""
    body = "\n".join(text.format(n=8 + 4 * (i % 8), m=11 + 4 * (i % 8)) for i in range(UNROLL))
    # Registers hold what they held before: left alone, the host would trip over denormal numbers.
    ones = "\n".join(f"v_mov_b32 v{n}, 1.0" for n in range(2, 80))
    code = assemble(LOOP.format(ones=ones, rounds=rounds, body=body), arch, lds=LDS_BYTES)
    return min(cpu_seconds_of(lambda: emulator.run(code, "kernel", 1, 64, (), arch=arch)) for _ in range(5))


def measure_instructions(archs: Sequence[str]) -> list[Measurement]:
    """Time wave instructions on the emulated GPU: one wave, one core, the loop's own cost taken off by a difference."""
    found = []
    few, many = 100, 2100
    for arch in archs:
        for name, text, goal in INSTRUCTIONS:
            seconds = _loop_seconds(arch, text, many) - _loop_seconds(arch, text, few)
            value = 1e9 * seconds / ((many - few) * UNROLL)
            found.append(
                Measurement(f"ns_per_instruction.{name}.{arch}", f"{name}, emulated, {arch}", value, "ns", goal, 5)
            )
    return found


def measure_prefill(archs: Sequence[str]) -> list[Measurement]:
    """Time a prefill on the emulated GPU: fp16, 256 queries, 1024 keys, 4 heads of 128."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(256, 4, 128, generator=generator).half()
    k, v = (torch.randn(1024, 4, 128, generator=generator).half() for _ in range(2))
    found = []
    for arch in archs:
        with emulator.use_arch(arch):
            prefill.single_prefill_with_kv_cache(q, k, v)
            times = [seconds_of(lambda: prefill.single_prefill_with_kv_cache(q, k, v)) for _ in range(5)]
        title = f"emulated prefill, fp16, q 256, kv 1024, 4 heads of 128, {arch}"
        found.append(Measurement(f"emulated_prefill.{arch}", title, median(times), "s", 0.4, len(times)))
    return found


def median(times: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(times)


def host() -> dict[str, Any]:
    """Return what the numbers depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": runtime.current().kind,
    }


def bench_jit(archs: Sequence[str]) -> list[Measurement]:
    """Return the measurements of ``bench jit``."""
    on_emulator = runtime.current().kind == "emulator"
    return [
        *measure_compilers(archs),
        *measure_loading(archs),
        *measure_call(),
        *(measure_instructions(archs) if on_emulator else []),
        *(measure_prefill(archs) if on_emulator else []),
    ]


def _presets(text: str) -> tuple[str, ...]:
    return check_names([name.strip() for name in text.split(",") if name.strip()])


def _parser() -> command_line.Parser:
    parser = command_line.Parser(prog="python -m flashinfer_jit.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    jit = commands.add_parser("jit", help="compile times, host cost, speed of the emulated GPU")
    jit.add_argument("--arch", type=command_line.arch_list, default=tuple(ARCHS.values()), help="default: all")
    jit.add_argument("--json", action="store_true", help="for machines")
    for kind in ("prefill", "decode"):
        attention = commands.add_parser(kind, help=f"{kind} calls on the emulated GPU: time, bytes, host cost")
        attention.add_argument(
            "--arch", type=command_line.arch_list, default=tuple(ARCHS.values()), help="default: all"
        )
        attention.add_argument("--json", action="store_true", help="for machines")
    plan = commands.add_parser("plan", help="host cost of planning and launching batches")
    plan.add_argument("--json", action="store_true", help="for machines")
    warmup = commands.add_parser(
        "warmup", help="compiling ahead: one compiler at a time against several, and all cached"
    )
    warmup.add_argument("--arch", type=command_line.arch_list, default=tuple(ARCHS.values()), help="default: all")
    warmup.add_argument(
        "--preset",
        type=command_line.argument(_presets),
        default=(),
        metavar="NAME,...",
        help="models; default: warmup's",
    )
    warmup.add_argument("--jobs", type=command_line.positive, default=2, help="compilers at once; default 2")
    warmup.add_argument("--json", action="store_true", help="for machines")
    hidden = commands.add_parser("_load")
    hidden.add_argument("keys", nargs="+")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(argv)
    if options.command == "_load":
        _print_load_times(options.keys)
        return 0
    if options.command == "plan":
        return command_line.run(lambda: _plan(options.json))
    archs = [arch.name for arch in options.arch]
    if options.command == "jit":
        return command_line.run(lambda: _jit(archs, options.json))
    if options.command == "warmup":
        return command_line.run(lambda: _warmup(archs, options.preset, options.jobs, options.json))
    return command_line.run(lambda: _attention(options.command, archs, options.json))


def _jit(archs: Sequence[str], as_json: bool) -> int:
    measurements = bench_jit(archs)
    if as_json:
        print(json.dumps({"host": host(), "measurements": [dataclasses.asdict(m) for m in measurements]}, indent=2))
        return 0
    rows = [
        (m.title, f"{m.value:.3g}", m.unit, "" if m.goal is None else f"{m.goal:g}", m.samples) for m in measurements
    ]
    print(format_table(["what", "value", "unit", "goal", "samples"], rows))
    about = host()
    print(f"\n{about['cpu']}, {about['cores']} cores. Emulated times are the emulator's, never a GPU's.")
    return 0


def _warmup(archs: Sequence[str], presets: Sequence[str], jobs: int, as_json: bool) -> int:
    rows = bench_warmup.measure(archs, presets, jobs)
    if as_json:
        print(json.dumps({"host": host(), "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return 0
    print(format_table(["what", "value", "unit", "goal"], [(r.title, f"{r.value:.4g}", r.unit, r.goal) for r in rows]))
    about = host()
    print(f"\n{about['cpu']}, {about['cores']} cores. Wall-clock times: only those of an idle machine mean anything.")
    return 0


def _plan(as_json: bool) -> int:
    rows = bench_plan.measure()
    if as_json:
        print(json.dumps({"host": host(), "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return 0
    cells = [
        (row.call, f"{row.us:.1f}", f"{row.best_us:.1f}", "" if row.goal_us is None else f"{row.goal_us:g}")
        for row in rows
    ]
    print(format_table(["call", "median us", "best us", "goal us"], cells))
    print("\nCPU time of this machine, launches left out.")
    return 0


def _attention(kind: str, archs: Sequence[str], as_json: bool) -> int:
    if runtime.current().kind != "emulator":
        raise UnsupportedConfigError(
            "bench prefill and decode count bytes on the emulated GPU: set FLASHINFER_JIT_DEVICE=emulator"
        )
    rows = bench_attention.measure(kind, archs)
    if as_json:
        print(json.dumps({"host": host(), "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
        return 0
    header = ["call", "arch", "kernels", "emulated ms", "host us", "K+V bytes", "of minimum"]
    cells = [
        (
            *(row.call, row.arch, row.kernels, f"{1e3 * row.emulated_seconds:.1f}", f"{row.host_us:.1f}", row.kv_bytes),
            f"{row.kv_bytes / row.kv_bytes_minimum:.3f}",
        )
        for row in rows
    ]
    print(format_table(header, cells))
    print("\nEmulated times are this machine's CPU's, never a GPU's. Host: CPU time of a call without its launches.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
