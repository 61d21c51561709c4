"""Comparison of an expected outcome with what the emulator stored."""

import numpy as np

from emulated.isa_cases import Case
from emulated.isa_model import Outcome, fetch
from emulated.isa_operands import Operand
from emulated.isa_reference import ULPS
from emulated.isa_registers import LANES, Registers

_FLOATS = {16: (np.float16, np.uint16), 32: (np.float32, np.uint32), 64: (np.float64, np.uint64)}


def _numbers(bits: np.ndarray, kind: str, width: int) -> np.ndarray:
    if kind.endswith("BF"):
        return (bits << np.uint64(16)).astype(np.uint32).view(np.float32)
    numbers, words = _FLOATS[width]
    return np.ascontiguousarray(bits.astype(words)).view(numbers)


def _steps(bits: np.ndarray, width: int) -> np.ndarray:
    """Bit patterns as integers in the order of the numbers they stand for."""
    sign = 1 << (width - 1)
    plain = bits.astype(object) if width == 64 else bits.astype(np.int64)
    return np.where(plain >= sign, sign - plain, plain)


def _equal(expected: np.ndarray, got: np.ndarray, kind: str, width: int, ulps: int) -> np.ndarray:
    """Elements that agree: equal bits, both NaN, or at most `ulps` steps apart."""
    same = expected == got
    if not kind.endswith("F"):
        return same
    neither = ~np.isnan(_numbers(expected, kind, width)) & ~np.isnan(_numbers(got, kind, width))
    same |= np.isnan(_numbers(expected, kind, width)) & np.isnan(_numbers(got, kind, width))
    if ulps:
        same |= neither & (np.abs(_steps(expected, width) - _steps(got, width)) <= ulps)
    return same


def _agreement(expected: list[np.ndarray], got: list[np.ndarray], operand: Operand | None, ulps: int) -> np.ndarray:
    """Lanes on which the destination agrees, element by element of its type."""
    kind = operand.kind if operand else "B"
    width = 32 if operand is None or not kind.endswith("F") else operand.width // 2 if operand.packed else operand.width
    agree = np.ones(len(expected[0]), dtype=bool)
    if width == 64:
        both = [low | high << np.uint64(32) for low, high in (expected, got)]
        return _equal(both[0], both[1], kind, 64, ulps)
    for want, have in zip(expected, got, strict=True):
        for shift in range(0, 32, width):
            cut = np.uint64((1 << width) - 1)
            agree &= _equal(want >> np.uint64(shift) & cut, have >> np.uint64(shift) & cut, kind, width, ulps)
    return agree


def mismatches(case: Case, outcome: Outcome, stored: np.ndarray, registers: Registers) -> str | None:
    """What differs in a vector case, with the first lane's sources, or None. `stored` is ``[wave, 2, lane, 4]``."""
    if outcome.dwords:
        got = [stored[:, 0, :, step].reshape(-1).astype(np.uint64) for step in range(len(outcome.dwords))]
        agree = _agreement(
            [words.astype(np.uint64) for words in outcome.dwords],
            got,
            case.signature.destination,
            ULPS.get(case.name, 0),
        )
        if outcome.free is not None:
            agree |= outcome.free
        if not agree.all():
            lane = int(np.flatnonzero(~agree)[0])
            want, have = (
                " ".join(f"{int(words[lane]):08x}" for words in reversed(values)) for values in (outcome.dwords, got)
            )
            inputs = _inputs(case, registers, lane)
            return f"{int((~agree).sum())} of {agree.size} lanes; lane {lane}: want {want}, got {have}; {inputs}"
    for want_mask, column, what in ((outcome.mask, 0, "mask"), (outcome.exec, 2, "EXEC")):
        if want_mask is None:
            continue
        words = stored[:, 1, 0, column : column + 2].astype(np.uint64)
        got_mask = words[:, 0] | words[:, 1] << np.uint64(32)
        if (got_mask != want_mask).any():
            wave = int(np.flatnonzero(got_mask != want_mask)[0])
            wrong = int(want_mask[wave] ^ got_mask[wave])
            lane = wave * LANES + (wrong & -wrong).bit_length() - 1
            masks = f"want {int(want_mask[wave]):016x}, got {int(got_mask[wave]):016x}"
            return f"{what} of wave {wave}: {masks}; {_inputs(case, registers, lane)}"
    return None


def _inputs(case: Case, registers: Registers, lane: int) -> str:
    parts = []
    for number, source in enumerate(case.sources):
        if source and source.operand.kind != "M":
            parts.append(f"S{number} = {int(fetch(case, number, registers)[lane]):x}")
    return ", ".join(parts)


def scalar_mismatch(case: Case, outcome: Outcome, stored: np.ndarray) -> str | None:
    """As `mismatches`, for a scalar case; `stored` is ``[wave, 8]``."""
    columns = [
        ("sdst", outcome.dwords[0], 0),
        ("sdst high", outcome.dwords[1], 1),
        ("SCC", outcome.scc, 2),
        ("M0", outcome.m0, 3),
    ]
    if outcome.exec is not None:
        columns += [
            ("EXEC low", outcome.exec & np.uint64(0xFFFFFFFF), 4),
            ("EXEC high", outcome.exec >> np.uint64(32), 5),
        ]
    for what, want, column in columns:
        got = stored[:, column].astype(np.uint64)
        if want is not None and (got != want).any():
            wave = int(np.flatnonzero(got != want)[0])
            return f"{what} of wave {wave}: want {int(want[wave]):x}, got {int(got[wave]):x}"
    return None
