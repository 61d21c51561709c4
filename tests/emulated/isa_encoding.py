"""Instruction words from their fields, by the microcode formats of the CDNA ISA manual (chapter 13).

The differential test writes instructions as `.long` words: every field combination is reachable, and no assembler has a
say in the operands.
"""

VGPR = 256
VCC, M0, EXEC, ZERO, ONE_FLOAT, LITERAL = 106, 124, 126, 128, 242, 255
_SDWA, _DPP = 249, 250


def vgpr(number: int) -> int:
    """Operand code of a vector register."""
    return VGPR + number


def sop1(opcode: int, sdst: int, ssrc0: int) -> list[int]:
    return [0x17D << 23 | sdst << 16 | opcode << 8 | ssrc0]


def sop2(opcode: int, sdst: int, ssrc0: int, ssrc1: int) -> list[int]:
    return [0b10 << 30 | opcode << 23 | sdst << 16 | ssrc1 << 8 | ssrc0]


def sopc(opcode: int, ssrc0: int, ssrc1: int) -> list[int]:
    return [0x17E << 23 | opcode << 16 | ssrc1 << 8 | ssrc0]


def sopk(opcode: int, sdst: int, simm16: int) -> list[int]:
    return [0xB << 28 | opcode << 23 | sdst << 16 | simm16 & 0xFFFF]


def sopp(opcode: int, simm16: int = 0) -> list[int]:
    return [0x17F << 23 | opcode << 16 | simm16 & 0xFFFF]


def vop1(opcode: int, vdst: int, src0: int) -> list[int]:
    return [0x3F << 25 | vdst << 17 | opcode << 9 | src0]


def vop2(opcode: int, vdst: int, src0: int, vsrc1: int) -> list[int]:
    return [opcode << 25 | vdst << 17 | vsrc1 << 9 | src0]


def vopc(opcode: int, src0: int, vsrc1: int) -> list[int]:
    return [0x3E << 25 | opcode << 17 | vsrc1 << 9 | src0]


def vop3(
    opcode: int,
    vdst: int,
    sources: list[int],
    *,
    neg: int = 0,
    abs_: int = 0,
    omod: int = 0,
    clamp: int = 0,
    op_sel: int = 0,
) -> list[int]:
    return [0x34 << 26 | opcode << 16 | clamp << 15 | op_sel << 11 | abs_ << 8 | vdst, _vop3_high(sources, omod, neg)]


def vop3sd(
    opcode: int, vdst: int, sdst: int, sources: list[int], *, neg: int = 0, omod: int = 0, clamp: int = 0
) -> list[int]:
    return [0x34 << 26 | opcode << 16 | clamp << 15 | sdst << 8 | vdst, _vop3_high(sources, omod, neg)]


def vop3p(
    opcode: int,
    vdst: int,
    sources: list[int],
    *,
    neg_lo: int = 0,
    neg_hi: int = 0,
    clamp: int = 0,
    op_sel: int = 0,
    op_sel_hi: int = 7,
) -> list[int]:
    low = 0x1A7 << 23 | opcode << 16 | clamp << 15 | (op_sel_hi >> 2 & 1) << 14 | op_sel << 11 | neg_hi << 8 | vdst
    return [low, _vop3_high(sources, op_sel_hi & 3, neg_lo)]


def _vop3_high(sources: list[int], omod: int, neg: int) -> int:
    first, second, third = (*sources, 0, 0, 0)[:3]
    return neg << 29 | omod << 27 | third << 18 | second << 9 | first


def with_sdwa(
    words: list[int],
    src0: int,
    *,
    dst_sel: int = 6,
    dst_unused: int = 0,
    clamp: int = 0,
    omod: int = 0,
    sdst: int | None = None,
    selects: tuple[int, int] = (6, 6),
    sext: int = 0,
    neg: int = 0,
    abs_: int = 0,
    scalar1: bool = False,
) -> list[int]:
    """The word with SDWA as source 0, and the SDWA word. `src0` is an operand code; `sdst` is for VOPC."""
    word = src0 & 0xFF | int(src0 < VGPR) << 23 | selects[0] << 16 | selects[1] << 24 | int(scalar1) << 31
    word |= (
        (sext & 1) << 19
        | (sext >> 1 & 1) << 27
        | (neg & 1) << 20
        | (neg >> 1 & 1) << 28
        | (abs_ & 1) << 21
        | (abs_ >> 1 & 1) << 29
    )
    if sdst is None:
        word |= dst_sel << 8 | dst_unused << 11 | clamp << 13 | omod << 14
    elif sdst != VCC:
        word |= 1 << 15 | sdst << 8
    return [words[0] & ~0x1FF | _SDWA, word]


def with_dpp(
    words: list[int],
    src0: int,
    control: int,
    *,
    bound_ctrl: int = 0,
    row_mask: int = 15,
    bank_mask: int = 15,
    neg: int = 0,
    abs_: int = 0,
) -> list[int]:
    """The word with DPP as source 0, and the DPP word. `src0` is a vector register's operand code."""
    word = src0 & 0xFF | control << 8 | bound_ctrl << 19 | bank_mask << 24 | row_mask << 28
    word |= (neg & 1) << 20 | (abs_ & 1) << 21 | (neg >> 1 & 1) << 22 | (abs_ >> 1 & 1) << 23
    return [words[0] & ~0x1FF | _DPP, word]
