"""Command line of the emulated GPU.

``python -m flashinfer_jit.emulator build`` builds it, or says where it is;
``python -m flashinfer_jit.emulator run FILE KERNEL --grid 4 --block 256 ptr:1024 i32:7`` runs a kernel of a file.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from flashinfer_jit import command_line
from flashinfer_jit.command_line import Parser, argument, positive, whole_number
from flashinfer_jit.emulator.build import build
from flashinfer_jit.errors import InvalidSettingError

_INTEGERS = {
    f"{sign}{8 * size}": f"{letter}{size}" for sign, letter in (("i", "<i"), ("u", "<u")) for size in (1, 2, 4, 8)
}
_FLOATS = {f"f{8 * size}": f"<f{size}" for size in (2, 4, 8)}


def _show(done: int, total: int, name: str) -> None:
    print(f"[{done}/{total}] {name or 'up to date'}", file=sys.stderr, flush=True)


def _build(options: argparse.Namespace) -> int:
    built = build(progress=_show)
    if options.json:
        print(json.dumps({**asdict(built), "path": str(built.path)}))
    elif built.was_cached:
        print(f"emulator: {built.path} (built before, with {built.compiler})")
    else:
        print(
            f"emulator: {built.path} ({built.compiled} of {built.units} files compiled in {built.seconds:.1f} s, "
            f"with {built.compiler})"
        )
    return 0


def _argument(text: str) -> Any:
    """Return the value of one ``kind:value`` of the command line."""
    kind, _, value = text.partition(":")
    try:
        if kind == "ptr":
            return np.zeros(int(value, 0), np.uint8)
        if kind == "file":
            return np.fromfile(value, np.uint8)
        if kind in _INTEGERS:
            return np.array(int(value, 0), _INTEGERS[kind]).tobytes()
        if kind in _FLOATS:
            return np.array(float(value), _FLOATS[kind]).tobytes()
        if kind == "hex":
            return bytes.fromhex(value)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidSettingError(f"{text!r} is not allowed: {error}") from None
    raise InvalidSettingError(
        f"{text!r} is not allowed: expected ptr:BYTES, file:PATH, hex:DIGITS or NUMBER after one of "
        + ", ".join(f"{name}:" for name in (*_INTEGERS, *_FLOATS))
    )


def _place(text: str) -> tuple[int, Path]:
    """Return index and file of one INDEX:PATH of the command line."""
    index, _, path = text.partition(":")
    if not index.isdecimal() or not path:
        raise InvalidSettingError(f"{text!r} is not allowed: expected INDEX:PATH, as in 0:out.bin")
    return int(index), Path(path)


def _run(options: argparse.Namespace) -> int:
    from flashinfer_jit.emulator.run_kernel import run

    arguments = options.arguments
    for name in ("grid", "block"):
        if len(getattr(options, name)) > 3:
            raise InvalidSettingError(
                f"--{name} has {len(getattr(options, name))} numbers: expected x, y and z at most"
            )
    for index, _ in options.save:
        if index >= len(arguments) or not isinstance(arguments[index], np.ndarray):
            raise InvalidSettingError(
                f"--save {index}: expected the number of a ptr: or file: argument, counted from 0"
            )
    report = run(
        Path(options.file),
        options.kernel,
        options.grid,
        options.block,
        arguments,
        arch=options.arch,
        dynamic_lds=options.dynamic_lds,
    )
    for index, path in options.save:
        arguments[index].tofile(path)
    if options.json:
        print(json.dumps(report.to_dict()))
        return 0
    print(f"{report.kernel} on the emulated {report.arch}: grid {report.grid}, block {report.block}")
    print(f"  {report.waves} waves, {report.total_instructions} instructions, {report.host_seconds:.3f} s on this host")
    print("  " + ", ".join(f"{name} {count}" for name, count in report.instructions.items() if count))
    for buffer in report.buffers:
        print(f"  {buffer.name}: {buffer.num_bytes} bytes, {buffer.read} read, {buffer.written} written")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m flashinfer_jit.emulator", description="The emulated GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="build the emulator library unless it is in the cache")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(function=_build)
    command = commands.add_parser("run", help="run a kernel of a code object")
    command.add_argument("file", help="an ELF code object or an offload bundle")
    command.add_argument("kernel", help="the kernel's name in it")
    command.add_argument(
        "arguments",
        nargs="*",
        type=argument(_argument),
        metavar="kind:value",
        help="ptr:BYTES (zeroed memory), file:PATH (memory filled from a file), i8 to i64, u8 to u64, f16 to f64, hex",
    )
    command.add_argument("--grid", type=positive, nargs="+", default=[1], metavar="N", help="workgroups in x, y, z")
    command.add_argument("--block", type=positive, nargs="+", default=[64], metavar="N", help="work-items in x, y, z")
    command.add_argument("--arch", choices=("gfx942", "gfx950"), help="the GPU; default FLASHINFER_JIT_ARCH")
    command.add_argument(
        "--dynamic-lds", type=whole_number, default=0, metavar="BYTES", help="LDS beside the kernel's own"
    )
    command.add_argument(
        "--save",
        type=argument(_place),
        action="append",
        default=[],
        metavar="INDEX:PATH",
        help="write an argument's memory",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(function=_run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(argv)
    return command_line.run(lambda: int(options.function(options)))


if __name__ == "__main__":
    raise SystemExit(main())
