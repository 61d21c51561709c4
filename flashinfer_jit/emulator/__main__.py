"""``python -m flashinfer_jit.emulator build``: build the emulated GPU, or say where it is."""

import argparse
import json
import sys
from dataclasses import asdict

from flashinfer_jit.emulator.build import Built, build
from flashinfer_jit.errors import FlashInferJitError


def _show(done: int, total: int, name: str) -> None:
    print(f"[{done}/{total}] {name or 'up to date'}", file=sys.stderr, flush=True)


def _build(as_json: bool) -> Built:
    built = build(progress=_show)
    if as_json:
        print(json.dumps({**asdict(built), "path": str(built.path)}))
    elif built.was_cached:
        print(f"emulator: {built.path} (built before, with {built.compiler})")
    else:
        print(
            f"emulator: {built.path} ({built.compiled} of {built.units} files compiled in {built.seconds:.1f} s, "
            f"with {built.compiler})"
        )
    return built


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flashinfer_jit.emulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="build the emulator library unless it is in the cache")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        _build(arguments.json)
    except FlashInferJitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
