"""What the emulator implements and refuses, and which test checks each opcode; writes docs/isa_coverage.md.

``make isa-coverage`` writes the page anew; a test compares it.
"""

import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from emulated.isa_operands import names
from emulated.isa_optable import Row, rows
from flashinfer_jit.jit.arch import ARCHS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "isa_coverage.md"
# Encodings whose rows the differential sweep runs.
SWEPT = ("VOP1", "VOP2", "VOPC", "VOP3", "VOP3P", "SOP1", "SOP2", "SOPC", "SOPK")
# Instructions of these encodings that need a program around them, or whose operands are matrices or small floats.
_NOT_SWEPT = names(
    """
    mfma smfmac fp8 bf8 fp6 bf6 fp4 accvgpr getpc setpc swappc movrel cbranch gpr_idx getreg setreg s_call setvskip
    """
)
MEMORY = ("SMEM", "DS", "FLAT", "GLOBAL", "SCRATCH", "MUBUF", "MTBUF")
# Test modules whose cases name the instructions that they run.
MEMORY_TESTS = tuple(f"test_memory_{part}" for part in ("lds", "lanes", "global", "flat", "buffer", "format", "scalar"))
MATRIX_TESTS = ("test_mfma", "test_mfma_scaled", "test_fp8", "test_vop3p")
CONTROL_TEST = "test_isa_control"
# The clocks have no reference but that they advance: test_memory_scalar.py.
CLOCKS = {"s_memtime", "s_memrealtime"}


def is_swept(row: Row) -> bool:
    """Whether `test_isa_differential` runs the row on random operands."""
    return row.encoding in SWEPT and not row.refused and not any(part in row.name for part in _NOT_SWEPT)


def implemented(arch: str) -> list[Row]:
    """Rows of a GPU that do something."""
    return [row for row in rows() if arch in row.archs and not row.refused]


def refused(arch: str) -> list[Row]:
    """Rows of a GPU that are known by name and always an error."""
    return [row for row in rows() if arch in row.archs and row.refused]


def parameter_sets(function: Any) -> Iterator[dict[str, Any]]:
    """Arguments of a test function beside `arch`, from its parametrize marks."""
    axes = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            given, values = mark.args[0], mark.args[1]
            parameters = [part.strip() for part in given.split(",")] if isinstance(given, str) else list(given)
            rows_of_values = [value if len(parameters) > 1 else (value,) for value in values]
            axes.append([dict(zip(parameters, value, strict=True)) for value in rows_of_values])
    for choice in itertools.product(*axes):
        yield {name: value for part in choice for name, value in part.items()}


def _call_tests(module: ModuleType, arch: str) -> None:
    """Calls every test function of a module whose runs are recorded: what they find on no results does not matter."""
    for name, function in list(vars(module).items()):
        if not name.startswith("test_") or not callable(function):
            continue
        wanted = inspect.signature(function).parameters
        if "monkeypatch" in wanted or "tmp_path" in wanted:
            continue
        for parameters in parameter_sets(function):
            try:
                function(**parameters, **({"arch": arch} if "arch" in wanted else {}))
            except (Exception, pytest.fail.Exception, pytest.skip.Exception):
                continue


def named_by(modules: tuple[str, ...], arch: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Instructions in the cases that the tests of some modules would run on a GPU, by a dry run of the tests."""
    found: set[str] = set()

    def collect(cases: Any, on: str) -> None:
        if on == arch:
            for case in cases:
                lines = case.lines if hasattr(case, "lines") else case.text.splitlines()
                found.update(line.split()[0] for line in lines if line.strip())

    def run_cases(cases: Any, on: str, **_: Any) -> MagicMock:
        collect(cases, on)
        return MagicMock()

    def execute(on: str, cases: Any) -> tuple[list[np.ndarray], MagicMock]:
        collect(cases, on)
        return [np.zeros((case.results[1], 64), np.uint32) for case in cases], MagicMock()

    with monkeypatch.context() as patch:
        for name in modules:
            module = importlib.import_module(f"emulated.{name}")
            if hasattr(module, "run_cases"):
                patch.setattr(module, "run_cases", run_cases)
            if hasattr(module, "one_wave"):
                patch.setattr(module.one_wave, "_execute", execute)
            _call_tests(module, arch)
    return {re.sub(r"_(e32|e64|sdwa|dpp)$", "", name) for name in found}


def tested(arch: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Names of the implemented opcodes that each group of tests runs against a reference."""
    control = (Path(__file__).parent / f"{CONTROL_TEST}.py").read_text()
    names_in_control = set(re.findall(r"\b[sv]_[a-z0-9_]+\b", control))
    return {
        "test_isa_differential": {row.name for row in implemented(arch) if is_swept(row)},
        CONTROL_TEST: names_in_control,
        "test_memory_*": named_by(MEMORY_TESTS, arch, monkeypatch) | CLOCKS,
        "test_mfma, test_mfma_scaled, test_fp8, test_vop3p": named_by(MATRIX_TESTS, arch, monkeypatch),
    }


def page() -> str:
    """The coverage page: one table per GPU, and what is refused by name."""
    lines = [
        "# Instructions of the emulated GPUs",
        "",
        "Written by `make isa-coverage` from the emulator's op table. An instruction counts as implemented when a wave",
        "can execute it, as tested when a test compares it with a reference that is not the emulator's handler: AMD's",
        "published pseudocode evaluated on its own (`tests/emulated/pseudocode`), or numpy where the tests say why.",
        "Refused instructions are known by name and end the launch with an error that says so.",
        "",
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for arch in sorted(ARCHS):
            covered = set().union(*tested(arch, monkeypatch).values())
            lines += [f"## {arch}", "", "| encoding | implemented | tested | refused |", "|---|---|---|---|"]
            total = [0, 0, 0]
            for encoding in dict.fromkeys(row.encoding for row in sorted(rows(), key=lambda row: row.encoding)):
                working = [row.name for row in implemented(arch) if row.encoding == encoding]
                counts = [len(working), sum(name in covered for name in working)]
                counts.append(sum(row.encoding == encoding for row in refused(arch)))
                total = [sum(pair) for pair in zip(total, counts, strict=True)]
                lines.append(f"| {encoding} | {counts[0]} | {counts[1]} | {counts[2]} |")
            lines += [f"| all | {total[0]} | {total[1]} | {total[2]} |", "", "Refused:", ""]
            lines += [textwrap.fill(", ".join(f"`{row.name}`" for row in refused(arch)), 120), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
