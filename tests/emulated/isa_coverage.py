"""What the emulator implements and refuses, and which test checks each opcode; writes docs/isa_coverage.md."""

from emulated.isa_operands import names
from emulated.isa_optable import Row

# Encodings whose rows the differential sweep runs.
SWEPT = ("VOP1", "VOP2", "VOPC", "VOP3", "VOP3P", "SOP1", "SOP2", "SOPC", "SOPK")
# Instructions of these encodings that need a program around them, or whose operands are matrices or small floats.
_NOT_SWEPT = names(
    """
    mfma smfmac fp8 bf8 fp6 bf6 fp4 accvgpr getpc setpc swappc movrel cbranch gpr_idx getreg setreg s_call setvskip
    """
)


def is_swept(row: Row) -> bool:
    """Whether `test_isa_differential` runs the row on random operands."""
    return row.encoding in SWEPT and not row.refused and not any(part in row.name for part in _NOT_SWEPT)
