"""Cases of the differential test: one tested instruction with its operands, modifiers and encoding."""

from dataclasses import dataclass, field

from emulated import isa_encoding as code
from emulated.isa_operands import Operand, Signature
from emulated.isa_registers import SCALAR_POOLS, VECTOR_POOLS

# Registers of the test kernel that the cases use: the vector destination, and the scalar destination pair.
DESTINATION, SCALAR_DESTINATION = 4, 8

DWORD = 6
# Vector instructions whose destination is a scalar register.
SCALAR_RESULT = ("v_readfirstlane_b32", "v_readlane_b32")


@dataclass
class Source:
    """One source operand: its code (and literal), and what the instruction does to it."""

    operand: Operand
    code: int
    literal: int = 0
    neg: bool = False
    abs: bool = False
    half: bool = False
    half_hi: bool = True
    neg_hi: bool = False
    select: int = DWORD
    sext: bool = False


@dataclass
class Case:
    encoding: str
    opcode: int
    name: str
    form: str
    signature: Signature
    sources: list[Source | None]
    words: list[int] = field(default_factory=list)
    clamp: bool = False
    omod: int = 0
    dst_half: bool = False
    dst_sel: int = DWORD
    dst_unused: int = 0
    dpp: tuple[int, int, int, int] | None = None
    exec_pair: int | None = None
    vcc_pair: int = SCALAR_POOLS["MASK"][0]
    mask_pair: int = code.VCC
    scc_from: int = 0
    old: int = VECTOR_POOLS["INT"][0]

    def describe(self) -> str:
        parts = [f"{self.name} {self.form} [{' '.join(f'{word:08x}' for word in self.words)}]"]
        for number, source in enumerate(self.sources):
            if source:
                on = [flag for flag in ("neg", "abs", "half", "half_hi", "neg_hi") if getattr(source, flag)]
                select = f" select {source.select}" if source.select != DWORD else ""
                parts.append(f"S{number}={source.code} ({' '.join(on)}{select})")
        parts += [f"{key}={getattr(self, key)}" for key in ("clamp", "omod", "dpp", "dst_half") if getattr(self, key)]
        return " ".join(parts)
