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

from flashinfer_jit.emulator.build import build
from flashinfer_jit.errors import FlashInferJitError, InvalidSettingError

_INTEGERS = {
    f"{sign}{8 * size}": f"{letter}{size}" for sign, letter in (("i", "<i"), ("u", "<u")) for size in (1, 2, 4, 8)
}
_FLOATS = {f"f{8 * size}": f"<f{size}" for size in (2, 4, 8)}


def _show(done: int, total: int, name: str) -> None:
    print(f"[{done}/{total}] {name or 'up to date'}", file=sys.stderr, flush=True)


def _build(options: argparse.Namespace) -> None:
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
        raise InvalidSettingError(f"argument {text!r}: {error}") from None
    raise InvalidSettingError(
        f"argument {text!r}: expected ptr:BYTES, file:PATH, hex:DIGITS or NUMBER after one of "
        + ", ".join(f"{name}:" for name in (*_INTEGERS, *_FLOATS))
    )


def _run(options: argparse.Namespace) -> None:
    # The function, not the submodule of the same name.
    from flashinfer_jit.emulator.run import run

    arguments = [_argument(text) for text in options.arguments]
    report = run(
        Path(options.file),
        options.kernel,
        options.grid,
        options.block,
        arguments,
        arch=options.arch,
        dynamic_lds=options.dynamic_lds,
    )
    for place in options.save:
        index, _, path = place.partition(":")
        if not index.isdigit() or int(index) >= len(arguments) or not isinstance(arguments[int(index)], np.ndarray):
            raise InvalidSettingError(f"--save {place}: expected INDEX:PATH, where argument INDEX is a ptr: or file:")
        arguments[int(index)].tofile(path)
    if options.json:
        print(json.dumps(report.to_dict()))
        return
    print(f"{report.kernel} on the emulated {report.arch}: grid {report.grid}, block {report.block}")
    print(f"  {report.waves} waves, {report.total_instructions} instructions, {report.host_seconds:.3f} s on this host")
    print("  " + ", ".join(f"{name} {count}" for name, count in report.instructions.items() if count))
    for buffer in report.buffers:
        print(f"  {buffer.name}: {buffer.num_bytes} bytes, {buffer.read} read, {buffer.written} written")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flashinfer_jit.emulator", description="The emulated GPU.")
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
        metavar="kind:value",
        help="ptr:BYTES (zeroed memory), file:PATH (memory filled from a file), i8 to i64, u8 to u64, f16 to f64, hex",
    )
    command.add_argument("--grid", type=int, nargs="+", default=[1], metavar="N", help="workgroups in x, y, z")
    command.add_argument("--block", type=int, nargs="+", default=[64], metavar="N", help="work-items in x, y, z")
    command.add_argument("--arch", choices=("gfx942", "gfx950"), help="the GPU; default FLASHINFER_JIT_ARCH")
    command.add_argument("--dynamic-lds", type=int, default=0, metavar="BYTES", help="LDS beside the kernel's own")
    command.add_argument("--save", action="append", default=[], metavar="INDEX:PATH", help="write an argument's memory")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(function=_run)
    options = parser.parse_args(argv)
    try:
        options.function(options)
    except (FlashInferJitError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
