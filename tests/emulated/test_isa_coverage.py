"""Every opcode that the emulator implements has a test against a reference; the page in docs/ counts them."""

import pytest

from emulated import isa_coverage
from emulated.isa_reference import TEXT_OF_ANOTHER
from emulated.isa_reference_integer import REFERENCES


def test_every_implemented_opcode_is_tested(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    working = {row.name for row in isa_coverage.implemented(arch)}
    groups = isa_coverage.tested(arch, monkeypatch)
    covered = set().union(*groups.values())
    assert len(working) > 1000
    assert not working - covered, f"on {arch} without a test against a reference: {sorted(working - covered)}"
    # Each group carries its part: a dry run that finds nothing must not pass for coverage.
    assert len(groups["test_isa_differential"]) > 600
    assert len(groups["test_memory_*"] & working) > 430
    assert len(groups["test_mfma, test_mfma_scaled, test_fp8, test_vop3p"] & working) > 60


def test_page_is_up_to_date() -> None:
    assert isa_coverage.PAGE.read_text() == isa_coverage.page(), "run `make isa-coverage`"


def test_references_replace_texts_for_a_reason_and_are_used() -> None:
    swept = {row.name for row in isa_coverage.rows() if isa_coverage.is_swept(row)}
    for name, reference in REFERENCES.items():
        assert len(reference.reason) > 20, name
    unused = set(REFERENCES) - swept
    assert not unused, f"references for opcodes that the sweep does not run: {sorted(unused)}"
    assert set(TEXT_OF_ANOTHER) <= swept
