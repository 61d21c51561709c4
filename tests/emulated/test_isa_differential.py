"""Every arithmetic opcode of the emulator against AMD's published pseudocode, or a reference of `isa_reference`.

One assembled kernel per GPU and encoding runs all opcodes in all their encodings on random and special values, partial
EXEC, source and output modifiers, SDWA and DPP. Results agree to the bit; what the hardware approximates (exp, log,
rcp, rsq, sqrt, sin, cos) within one unit of the last place; a NaN only has to be a NaN.
"""

from collections import defaultdict

import numpy as np
import pytest

from emulated import isa_coverage
from emulated.compare import mismatches, scalar_mismatch
from emulated.isa_cases import Case
from emulated.isa_generator import Generator
from emulated.isa_machine import run
from emulated.isa_model import Outcome, expected, expected_scalar
from emulated.isa_optable import rows
from emulated.isa_registers import Registers

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy on signalling NaNs

SEED = 20


def cases_of(encoding: str, arch: str) -> list[Case]:
    chosen = [row for row in rows() if row.encoding == encoding and arch in row.archs and isa_coverage.is_swept(row)]
    return [case for row in chosen for case in Generator(row.encoding, row.opcode, row.name).all()]


def grouped(cases: list[Case]) -> list[list[int]]:
    """Indices of the cases that one evaluation of the pseudocode serves: same instruction, same operand formats."""
    groups = defaultdict(list)
    for number, case in enumerate(cases):
        groups[case.name, id(case.signature)].append(number)
    return list(groups.values())


def outcomes_of(cases: list[Case], registers: Registers, scalar: bool) -> list[Outcome]:
    outcomes: list[Outcome | None] = [None] * len(cases)
    for numbers in grouped(cases):
        found = (expected_scalar if scalar else expected)([cases[number] for number in numbers], registers)
        for number, outcome in zip(numbers, found, strict=True):
            outcomes[number] = outcome
    return outcomes  # type: ignore[return-value]


@pytest.mark.parametrize("encoding", ["VOP1", "VOP2", "VOPC", "VOP3", "VOP3P"])
def test_vector_opcodes(arch: str, encoding: str) -> None:
    cases = cases_of(encoding, arch)
    registers = Registers(2, SEED)
    stored = run(cases, registers, arch)
    wrong = []
    for case, outcome, lanes in zip(cases, outcomes_of(cases, registers, False), stored, strict=True):
        difference = mismatches(case, outcome, lanes, registers)
        if difference:
            wrong.append(f"{case.describe()}: {difference}")
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize("encoding", ["SOP1", "SOP2", "SOPC", "SOPK"])
def test_scalar_opcodes(arch: str, encoding: str) -> None:
    cases = cases_of(encoding, arch)
    registers = Registers(24, SEED)
    stored = run(cases, registers, arch, scalar=True)
    wrong = []
    for case, outcome, waves in zip(cases, outcomes_of(cases, registers, True), stored, strict=True):
        difference = scalar_mismatch(case, outcome, waves)
        if difference:
            wrong.append(f"{case.describe()}: {difference}")
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong[:40])


def test_results_cover_the_special_values(arch: str) -> None:
    """The sweep is no test of zeros: each float opcode's inputs hold NaNs, infinities, denormals and both zeros."""
    registers = Registers(2, SEED)
    values = registers.vector(16, 1).astype(np.uint32)
    for first in range(16, 48):
        values = np.concatenate([values, registers.vector(first, 1).astype(np.uint32)])
    magnitude = values & 0x7FFFFFFF
    assert np.any(values == 0) and np.any(values == 0x80000000)
    assert np.any(magnitude == 0x7F800000) and np.any(magnitude > 0x7F800000)
    assert np.any((magnitude > 0) & (magnitude < 0x800000))
    cases = cases_of("VOP3", arch)
    assert {case.name for case in cases if case.exec_pair is not None} and {case.name for case in cases if case.clamp}
