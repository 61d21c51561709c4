"""Every memory opcode that the emulator implements is run by a test with a reference, on every GPU that has it."""

import importlib
import inspect
import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

from emulated.isa_optable import rows

MODULES = ("lds", "lanes", "global", "flat", "buffer", "format", "scalar")
MEMORY_ENCODINGS = ("SMEM", "DS", "FLAT", "GLOBAL", "SCRATCH", "MUBUF", "MTBUF")
# These write the clock, which has no reference but a test of its own in test_memory_scalar.py.
CLOCKS = {"s_memtime", "s_memrealtime"}


def parameter_sets(function: Any) -> Iterator[dict[str, Any]]:
    """Arguments of a test function beside `arch`, from its parametrize marks."""
    axes = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args[0], mark.args[1]
            names = (names,) if isinstance(names, str) else names
            axes.append([dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in values])
    for choice in itertools.product(*axes):
        yield {name: value for part in choice for name, value in part.items()}


def instructions_of(module: ModuleType, arch: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Mnemonics in the cases that a module's tests would run on an arch."""
    found: set[str] = set()

    def collect(cases: Any, on: str, **_: Any) -> MagicMock:
        if on == arch:
            found.update(line.split()[0] for case in cases for line in case.lines)
        report = MagicMock()
        for counter in (
            "out_of_range_lds_lanes",
            "out_of_range_buffer_lanes",
            "lds_dma",
            "scratch_read",
            "scratch_written",
        ):
            setattr(report, counter, 1)
        return report

    monkeypatch.setattr(module, "run_cases", collect)
    for name, function in vars(module).items():
        if name.startswith("test_") and "run_cases(" in inspect.getsource(function):
            for parameters in parameter_sets(function):
                takes_arch = "arch" in inspect.signature(function).parameters
                function(**parameters, **({"arch": arch} if takes_arch else {}))
    return found


def test_every_row_is_tested(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = set(CLOCKS)
    for name in MODULES:
        tested |= instructions_of(importlib.import_module(f"emulated.test_memory_{name}"), arch, monkeypatch)
    wanted = {row.name for row in rows() if row.encoding in MEMORY_ENCODINGS and arch in row.archs and not row.refused}
    assert len(wanted) > 430
    assert not wanted - tested, f"without a test on {arch}: {sorted(wanted - tested)}"
