"""Runs instructions on the emulator, each on given registers of one wave, and returns the registers it leaves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from flashinfer_jit import emulator
from flashinfer_jit.emulator.report import Report
from flashinfer_jit.errors import HipError
from tests.emulated.assemble import assemble

LANES = 64
ALL = (1 << LANES) - 1
# Nearest even, all denormals kept, dx10_clamp, ieee: what compilers set.
DEFAULT_MODE = 0x3F0
_OFFSET = "v254"  # lane * 4; cases leave v250 .. v255 alone
_ROWS_PER_BASE = 16  # a global offset reaches 4095 bytes


@dataclass
class Case:
    """`text` runs with `registers` ("v16" or "a0": (count, 64) words from there) and leaves `results`: first, count."""

    text: str
    registers: dict[str, np.ndarray]
    results: tuple[str, int]
    exec_mask: int = ALL
    mode: int = DEFAULT_MODE
    scalars: dict[int, int] = field(default_factory=dict)


def run(arch: str, cases: Sequence[Case]) -> list[np.ndarray]:
    """(count, 64) words of each case's results."""
    return _execute(arch, cases)[0]


def report(arch: str, cases: Sequence[Case]) -> Report:
    """What the launch of all cases counted."""
    return _execute(arch, cases)[1]


@contextmanager
def refusal(said: str) -> Iterator[None]:
    """The launch inside must fail with a message that holds `said`."""
    with pytest.raises(HipError, match=said):
        yield


def _execute(arch: str, cases: Sequence[Case]) -> tuple[list[np.ndarray], Report]:
    lines = [
        "s_load_dwordx4 s[4:7], s[0:1], 0x0",
        f"v_and_b32 {_OFFSET}, 0x3ff, v0",
        f"v_lshlrev_b32 {_OFFSET}, 2, {_OFFSET}",
        "s_waitcnt lgkmcnt(0)",
    ]
    inputs: list[np.ndarray] = []
    for case in cases:
        lines += _case(case)
        inputs += [np.ascontiguousarray(rows, dtype=np.uint32).reshape(-1, LANES) for rows in case.registers.values()]
    code = assemble("\n".join([*lines, "s_endpgm", ""]), arch, arguments=("ptr", "ptr"))
    given = np.concatenate([*inputs, np.zeros((1, LANES), np.uint32)])
    results = np.zeros((sum(case.results[1] for case in cases), LANES), np.uint32)
    done = emulator.run(code, "kernel", 1, LANES, [given, results], arch=arch)
    ends = np.cumsum([case.results[1] for case in cases])
    return np.split(results, ends[:-1]), done


def _case(case: Case) -> list[str]:
    names = [f"{first[0]}{int(first[1:]) + n}" for first, rows in case.registers.items() for n in range(len(rows))]
    lines = _rows("global_load_dword {name}, {offset}, s[4:5]{at}", names, 4)
    lines.append("s_waitcnt vmcnt(0)")
    lines += [f"s_mov_b32 s{number}, {value:#x}" for number, value in case.scalars.items()]
    lines.append(f"s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 32), {case.mode:#x}")
    lines += [f"s_mov_b32 exec_lo, {case.exec_mask & 0xFFFFFFFF:#x}", f"s_mov_b32 exec_hi, {case.exec_mask >> 32:#x}"]
    # The wait states that hardware needs after a matrix instruction.
    lines += [case.text, "s_nop 15", "s_nop 7", "s_mov_b64 exec, -1"]
    first, count = case.results
    names = [f"{first[0]}{int(first[1:]) + n}" for n in range(count)]
    return lines + _rows("global_store_dword {offset}, {name}, s[6:7]{at}", names, 6)


def _rows(access: str, names: list[str], base: int) -> list[str]:
    """One access a register to consecutive rows of 256 bytes; the base moves behind them."""
    lines = []
    for begin in range(0, len(names), _ROWS_PER_BASE):
        chunk = names[begin : begin + _ROWS_PER_BASE]
        for n, name in enumerate(chunk):
            lines.append(access.format(name=name, offset=_OFFSET, at=f" offset:{256 * n}" if n else ""))
        lines += [f"s_add_u32 s{base}, s{base}, {256 * len(chunk)}", f"s_addc_u32 s{base + 1}, s{base + 1}, 0"]
    return lines
