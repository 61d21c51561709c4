"""``python -m flashinfer_jit.profile prefill --arch gfx942 ...``: how fast a call would be, by the timing model.

Everything it prints is modelled, nothing is measured on hardware; docs/timing_model.md says what the model knows.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import flashinfer_jit
from flashinfer_jit import command_line, emulator, env, runtime
from flashinfer_jit.emulator import disassembly, timing_plot
from flashinfer_jit.emulator.source_lines import LineTable
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.cache import SOURCE
from flashinfer_jit.jit.compiler import inspect_library
from flashinfer_jit.jit.config import FP8_DTYPES, OPERAND_DTYPES
from flashinfer_jit.jit.loader import Kernel
from flashinfer_jit.jit.toolchain import find_toolchain
from flashinfer_jit.runtime.base import Runtime
from flashinfer_jit.tables import format_table

LINE_FLAG = "-gline-tables-only"
DTYPES = {name: getattr(torch, name) for name in (*OPERAND_DTYPES, *FP8_DTYPES)}
# Beyond this the launch is sampled: some seconds of emulation on two cores.
LARGEST_WHOLE_FLOPS, LARGEST_WHOLE_BYTES = 4e9, 256e6
MOST_TENSOR_BYTES = 8 << 30
# What the workgroups that only tell how long a launch is may cost together.
SAMPLE_FLOPS, MOST_SAMPLES = 1e10, 16
HOT_LINES = 16
CAVEAT = (
    "at the maximum clock; under matrix load the GPU's power limit lowers the clock, so published TFLOP/s are "
    "power-capped and lower: compare kernels by cycles and MFMA efficiency"
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A call to profile.

    Attributes
    ----------
    phase : str
        ``prefill`` or ``decode``.
    dtype : str
        Of keys and values, and of queries unless it is an fp8 one; those then are bfloat16.
    head_dim, num_qo_heads, num_kv_heads, qo_len, kv_len, batch : int
        Sizes; lengths are those of each request.
    causal : bool
        Whether queries see only keys up to their own position.
    page_size : int
        Tokens of a page of the KV cache; 0 is a contiguous one.
    """

    phase: str
    dtype: str
    head_dim: int
    num_qo_heads: int
    num_kv_heads: int
    qo_len: int
    kv_len: int
    causal: bool
    page_size: int
    batch: int

    @property
    def flops(self) -> float:
        """Floating-point operations of the attention: two products of the pairs of query and key that count."""
        hidden = self.qo_len * (self.qo_len - 1) / 2 if self.causal else 0
        pairs = self.qo_len * self.kv_len - hidden
        return 4.0 * self.batch * self.num_qo_heads * pairs * self.head_dim

    @property
    def bytes(self) -> float:
        """Bytes of q, k, v and o, each once."""
        item = torch.empty((), dtype=DTYPES[self.dtype]).element_size()
        cached = 2 * self.kv_len * self.num_kv_heads * self.head_dim * item
        return float(self.batch * (cached + 2 * self.qo_len * self.num_qo_heads * self.head_dim * max(item, 2)))

    @property
    def title(self) -> str:
        """The workload in one line."""
        cache = f"pages of {self.page_size}" if self.page_size else "contiguous KV"
        return (
            f"{self.phase} {self.dtype} head_dim {self.head_dim}, {self.num_qo_heads}/{self.num_kv_heads} heads, batch "
            f"{self.batch}, qo_len {self.qo_len}, kv_len {self.kv_len}, {'causal' if self.causal else 'full'}, {cache}"
        )


@dataclasses.dataclass(frozen=True)
class Launch:
    """One kernel launch of the call."""

    kernel: Kernel
    report: emulator.Report

    @property
    def timing(self) -> dict[str, Any]:
        """The model's account."""
        assert self.report.timing is not None
        return self.report.timing


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is modelled: compute units, instructions of each, workgroups of a sampled launch that only run."""

    units: int
    instructions: int
    samples: int
    timeline: int


def _noise(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return normally distributed numbers, a block of them over and over where there are many."""
    count = 1
    for size in shape:
        count *= size
    block = torch.randn(min(count, 1 << 22), dtype=torch.float32).to(dtype)
    if count <= block.numel():
        return block.reshape(shape)
    # fp8 tensors cannot be repeated, their bytes can.
    raw = block.view(torch.uint8)
    return raw.repeat(-(-count // block.numel()))[: count * block.element_size()].view(dtype).reshape(shape)


def call(w: Workload) -> None:
    """Run the public function that computes the workload.

    Raises
    ------
    UnsupportedConfigError
        For what no function of this version computes, by name.
    """
    if w.bytes > MOST_TENSOR_BYTES:
        raise UnsupportedConfigError(
            f"q, k, v and o are {w.bytes / (1 << 30):.1f} GiB: at most {MOST_TENSOR_BYTES >> 30} GiB are emulated; "
            "use a smaller --batch or --kv-len"
        )
    if w.batch > 1 or w.page_size:
        name = {"prefill": "BatchPrefillWithPagedKVCacheWrapper", "decode": "BatchDecodeWithPagedKVCacheWrapper"}[
            w.phase
        ]
        wrapper = getattr(flashinfer_jit, name, None)
        if wrapper is None:
            raise UnsupportedConfigError(f"--batch and --page-size need {name}, which this version does not have")
        return _call_paged(wrapper, w)
    dtype = DTYPES[w.dtype]
    q = _noise((w.qo_len, w.num_qo_heads, w.head_dim), dtype if dtype.itemsize > 1 else torch.bfloat16)
    k, v = (_noise((w.kv_len, w.num_kv_heads, w.head_dim), dtype) for _ in range(2))
    if w.phase == "prefill":
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=w.causal)
        return
    decode = getattr(flashinfer_jit, "single_decode_with_kv_cache", None)
    if decode is None:
        raise UnsupportedConfigError(
            "profile decode needs single_decode_with_kv_cache, which this version does not have"
        )
    if w.qo_len != 1:
        raise UnsupportedConfigError(
            f"--qo-len {w.qo_len}: single_decode_with_kv_cache takes one query token; allowed: 1"
        )
    decode(q[0], k, v)


def _call_paged(wrapper_type: Any, w: Workload) -> None:
    dtype, page_size = DTYPES[w.dtype], w.page_size or 16
    pages = -(-w.kv_len // page_size)
    cache = tuple(_noise((w.batch * pages, page_size, w.num_kv_heads, w.head_dim), dtype) for _ in range(2))
    indptr = torch.arange(w.batch + 1, dtype=torch.int32) * pages
    indices = torch.randperm(w.batch * pages).to(torch.int32)
    last = torch.full((w.batch,), (w.kv_len - 1) % page_size + 1, dtype=torch.int32)
    q_dtype = dtype if dtype.itemsize > 1 else torch.bfloat16
    q = _noise((w.batch * w.qo_len, w.num_qo_heads, w.head_dim), q_dtype)
    wrapper = wrapper_type(torch.empty(256 << 20, dtype=torch.uint8), "NHD")
    heads = (w.num_qo_heads, w.num_kv_heads, w.head_dim, page_size)
    if w.phase == "decode":
        if w.qo_len != 1:
            raise UnsupportedConfigError(
                f"--qo-len {w.qo_len}: batch decode takes one query token a request; allowed: 1"
            )
        wrapper.plan(indptr, indices, last, *heads, q_data_type=q_dtype, kv_data_type=dtype)
    else:
        qo_indptr = torch.arange(w.batch + 1, dtype=torch.int32) * w.qo_len
        wrapper.plan(qo_indptr, indptr, indices, last, *heads, causal=w.causal, q_data_type=q_dtype, kv_data_type=dtype)
    wrapper.run(q, cache)


@contextlib.contextmanager
def recorded(active: Runtime) -> Iterator[list[Launch]]:
    """Collect the report of every launch within the ``with`` block."""
    launches: list[Launch] = []
    original = active.launch

    def launch(kernel: Kernel, *arguments: Any) -> None:
        original(kernel, *arguments)
        launches.append(Launch(kernel, emulator.last_report()))

    active.launch = launch  # type: ignore[method-assign]
    try:
        yield launches
    finally:
        del active.launch  # the class's own is visible again


@contextlib.contextmanager
def with_line_tables() -> Iterator[None]:
    """Compile with line tables within the ``with`` block: the flag is part of the cache key, the code is the same."""
    name = env.EXTRA_HIPCCFLAGS.name
    before = os.environ.get(name)
    os.environ[name] = f"{before or ''} {LINE_FLAG}".strip()
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def limits_for(w: Workload, units: int, instructions: int, timeline: int) -> Limits:
    """Return how much of the workload to model: all of it where that takes seconds, else a sample."""
    if w.flops <= LARGEST_WHOLE_FLOPS and w.bytes <= LARGEST_WHOLE_BYTES:
        return Limits(units, 0, 0, timeline)
    # A workgroup has at least 16 rows and at most 256; the guess only has to be of the right size.
    of_a_workgroup = 4.0 * min(128, w.qo_len * w.num_qo_heads // w.num_kv_heads) * w.kv_len * w.head_dim
    samples = int(min(MOST_SAMPLES, max(2.0, SAMPLE_FLOPS // max(of_a_workgroup, 1.0))))
    return Limits(units, instructions, samples, timeline)


def profile(w: Workload, arch: Arch, limits: Limits) -> list[Launch]:
    """Run the workload under the timing model and return its launches, in order."""
    active = runtime.current()
    if active.kind != "emulator":
        raise UnsupportedConfigError(
            f"profile models the GPU on the emulator, and {env.DEVICE.name} chose {active.kind}: set it to emulator"
        )
    torch.manual_seed(0)
    with (
        emulator.use_arch(arch.name),
        with_line_tables(),
        emulator.timed_launches(limits.units, limits.instructions, limits.timeline, limits.samples),
        recorded(active) as launches,
    ):
        call(w)
    return launches


def launch_cycles(timing: dict[str, Any]) -> float:
    """Return the modelled cycles of a whole launch.

    Where a unit's work was modelled in part, the instructions of the busiest unit at the rate of what was modelled.
    """
    units = timing["timed_units"]
    if not any(unit["truncated"] for unit in units):
        return float(timing["cycles"])
    rate = sum(unit["instructions"] for unit in units) / sum(unit["cycles"] for unit in units)
    groups = -(-timing["workgroups"] // timing["compute_units"])
    return float(groups * timing["launch_instructions"] / timing["workgroups"] / rate)


def whole_chip(w: Workload, arch: Arch, launches: Sequence[Launch]) -> dict[str, Any]:
    """Return time and rates of the call on all compute units at the maximum clock."""
    cycles = sum(launch_cycles(launch.timing) for launch in launches)
    seconds = cycles / (arch.max_clock_mhz * 1e6)
    peak = max(shape.m * shape.n * shape.k * 2 / (4 * shape.passes) for shape in arch.mfma[_peak_dtype(w)])
    return {
        "modelled": True,
        "cycles": cycles,
        "clock_mhz": arch.max_clock_mhz,
        "compute_units": arch.num_cus,
        "seconds": seconds,
        "tflops": w.flops / seconds / 1e12,
        "gbps": w.bytes / seconds / 1e9,
        "peak_tflops": peak * arch.simds_per_cu * arch.num_cus * arch.max_clock_mhz * 1e6 / 1e12,
        "peak_gbps": arch.hbm_bytes_per_second / 1e9,
        "flops_per_byte": w.flops / w.bytes,
        "extrapolated": any(launch.timing["sampled"] or launch.timing["truncated"] for launch in launches),
        "caveat": CAVEAT,
    }


def _peak_dtype(w: Workload) -> str:
    # fp8 keys and values are widened before they are multiplied.
    return w.dtype if DTYPES[w.dtype].itemsize > 1 else "bfloat16"


def hot_instructions(launch: Launch, arch: Arch) -> tuple[list[dict[str, Any]], str]:
    """Return the addresses at which waves spend most time, with instruction and source line, and who disassembled."""
    code_object = inspect_library(launch.kernel.entry.library.read_bytes())[arch.name]
    objdumps = disassembly.find_objdumps(find_toolchain().driver[:1])
    text, reader = disassembly.disassemble(code_object, arch.name, objdumps)
    lines = LineTable(code_object)
    source = (launch.kernel.entry.directory / SOURCE).read_text().splitlines()
    spent = sum(launch.timing["stall_cycles"].values()) + 4 * launch.timing["instructions"]
    rows = []
    for pc in launch.timing["hot_pcs"]:
        at = lines.at(pc["pc"])
        code = source[at.line - 1].strip() if at and at.file == SOURCE and 0 < at.line <= len(source) else ""
        row = {"share": (pc["stall_cycles"] + 4 * pc["issues"]) / spent, "instruction": text.get(pc["pc"], "?")}
        rows.append({**pc, **row, "file": at.file if at else None, "line": at.line if at else None, "source": code})
    return rows, reader


def sampling(timing: dict[str, Any]) -> str:
    """Return one sentence on which part of a launch was modelled."""
    units = ", ".join(str(unit["unit"]) for unit in timing["timed_units"])
    text = f"modelled: compute units {units} of the {timing['compute_units_used']} in use"
    truncated = any(unit["truncated"] for unit in timing["timed_units"])
    if timing["sampled"]:
        ran = sum(unit["workgroups"] for unit in timing["timed_units"])
        text += (
            f", {ran} of {timing['workgroups']} workgroups {'begun' if truncated else 'run'} on them, "
            f"{timing['instructions']} instructions of the slowest; {timing['sampled_workgroups']} others ran to tell "
            f"the length of the launch; {'scaled up' if truncated else 'every unit taken to be alike'}"
        )
    elif truncated:
        text += f", their first {timing['instructions']} instructions; scaled up"
    return text


def print_launch(launch: Launch, arch: Arch) -> None:
    """Print one launch for people."""
    t, report, meta = launch.timing, launch.report, launch.kernel.meta
    print(f"\n{launch.kernel.name} (modelled)")
    print(
        f"  grid {report.grid}, block {report.block}, {meta['vgpr']} VGPR, {report.lds_bytes} B LDS: "
        f"{t['waves_per_simd']} waves a SIMD, {t['resident_workgroups']} workgroups a CU"
    )
    print(f"  {sampling(t)}")
    print(
        f"  cycles {launch_cycles(t):.0f}, MFMA efficiency {t['mfma_efficiency']:.1%}; hottest loop: "
        f"{t['loop_cycles']:.0f} cycles an iteration, MFMA efficiency {t['loop_mfma_efficiency']:.1%}"
    )
    names = ("valu", "trans", "salu", "lds", "vmem")
    print("  busy: " + ", ".join(f"{name} {t[name + '_utilization']:.1%}" for name in names))
    print(
        f"  LDS bank conflicts {t['bank_conflict_cycles']} cycles; of the slowest unit {t['hbm_bytes']} B from HBM, "
        f"{t['l2_bytes']} B from L2; launch: {t['requested_bytes']:.3g} B asked for, at least "
        f"{t['minimum_bytes']:.3g} B needed"
    )
    stalls = sorted(t["stall_cycles"].items(), key=lambda item: -item[1])
    total = sum(t["stall_cycles"].values()) + 4 * t["instructions"]
    print("  waves wait: " + ", ".join(f"{name} {count / total:.1%}" for name, count in stalls if count))
    rows, reader = hot_instructions(launch, arch)
    table = [
        (
            f"{row['share']:.1%}",
            f"{row['pc']:#x}",
            row["issues"],
            row["stall_cycles"],
            row["instruction"][:52],
            _place(row),
        )
        for row in rows[:HOT_LINES]
    ]
    print(format_table(("share", "pc", "issues", "stalled", "instruction", "source"), table))
    print(f"disassembled by {reader}")


def _place(row: dict[str, Any]) -> str:
    return f"{row['file']}:{row['line']} {row['source'][:48]}" if row["line"] else "no line"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(lambda: _main(_parse(argv)))


def _parser() -> command_line.Parser:
    parser = command_line.Parser(prog="python -m flashinfer_jit.profile", description=__doc__)
    parser.add_argument("phase", choices=("prefill", "decode"))
    parser.add_argument("--arch", type=command_line.arch_list, required=True, help="gfx942, gfx950, or both")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float16", help="of k and v, and of q unless fp8")
    for name in ("head-dim", "num-qo-heads", "num-kv-heads", "kv-len"):
        parser.add_argument(f"--{name}", type=command_line.positive, required=True)
    parser.add_argument(
        "--qo-len", type=command_line.positive, help="queries of each request; needed for prefill, 1 for decode"
    )
    parser.add_argument("--causal", action="store_true")
    parser.add_argument(
        "--page-size", type=command_line.positive, default=0, help="tokens of a page; without it KV is contiguous"
    )
    parser.add_argument("--batch", type=command_line.positive, default=1, help="requests")
    parser.add_argument("--units", type=command_line.positive, default=2, help="compute units to model; default 2")
    parser.add_argument(
        "--instructions", type=command_line.positive, default=400_000, help="of a unit, where a launch is sampled"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a timeline of the waves and a roofline")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.qo_len is None and options.phase == "prefill":
        parser.error("--qo-len is needed for prefill")
    if options.causal and options.kv_len < (options.qo_len or 1):
        parser.error(f"--causal needs --kv-len of at least --qo-len {options.qo_len}")
    if options.plot is not None and len(options.arch) > 1:
        parser.error("--plot draws one GPU: give one --arch")
    return options


def _main(options: argparse.Namespace) -> int:
    names = (field.name for field in dataclasses.fields(Workload))
    w = Workload(**{name: getattr(options, name) for name in names} | {"qo_len": options.qo_len or 1})
    results = []
    for arch in options.arch:
        limits = limits_for(w, options.units, options.instructions, 200_000 if options.plot else 0)
        launches = profile(w, arch, limits)
        chip = whole_chip(w, arch, launches)
        if options.plot is not None:
            longest = max(launches, key=lambda launch: launch_cycles(launch.timing))
            timing_plot.plot(options.plot, f"{arch.name} {w.title}", longest.timing, chip)
        if options.json:
            results.append(_as_dict(w, arch, launches, chip))
            continue
        print(f"MODELLED, not measured: {arch.name} ({', '.join(arch.products)}), {w.title}")
        for launch in launches:
            print_launch(launch, arch)
        print(
            f"\nwhole chip (modelled{', extrapolated' if chip['extrapolated'] else ''}): "
            f"{chip['seconds'] * 1e6:.1f} us, {chip['tflops']:.1f} of {chip['peak_tflops']:.0f} TFLOP/s, "
            f"{chip['gbps']:.0f} of {chip['peak_gbps']:.0f} GB/s "
            f"with {arch.num_cus} CUs at {arch.max_clock_mhz} MHz, {CAVEAT}"
        )
    if options.json:
        print(json.dumps({"modelled": True, "profiles": results}))
    return 0


def _as_dict(w: Workload, arch: Arch, launches: Sequence[Launch], chip: dict[str, Any]) -> dict[str, Any]:
    kernels = []
    for launch in launches:
        rows, reader = hot_instructions(launch, arch)
        timing = {name: value for name, value in launch.timing.items() if name not in ("hot_pcs", "timeline")}
        about = {"kernel": launch.kernel.name, "grid": launch.report.grid, "block": launch.report.block}
        kernels.append(
            {**about, "launch_cycles": launch_cycles(launch.timing), "sampling": sampling(launch.timing), **timing}
            | {"hot_pcs": rows, "disassembled_by": reader}
        )
    return {"modelled": True, "arch": arch.name, **dataclasses.asdict(w), "launches": kernels, "whole_chip": chip}


if __name__ == "__main__":
    sys.exit(main())
