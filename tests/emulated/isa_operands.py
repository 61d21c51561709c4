"""What AMD's published tables (in the tinygrad wheel) say about an opcode: operand formats and pseudocode."""

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache

from tinygrad.runtime.autogen.amd.cdna import enum as amd
from tinygrad.runtime.autogen.amd.cdna.operands import OPERANDS
from tinygrad.runtime.autogen.amd.cdna.str_pcode import PCODE

# VOP3 opcodes of the 32-bit encodings' instructions.
E64_BASE = {"VOPC": 0, "VOP2": 0x100, "VOP1": 0x140}
_ENUMS = {
    "SOP1": amd.SOP1Op, "SOP2": amd.SOP2Op, "SOPC": amd.SOPCOp, "SOPK": amd.SOPKOp, "SOPP": amd.SOPPOp,
    "VOP1": amd.VOP1Op, "VOP2": amd.VOP2Op, "VOPC": amd.VOPCOp, "VOP3": amd.VOP3Op, "VOP3P": amd.VOP3POp,
    "SMEM": amd.SMEMOp, "DS": amd.DSOp, "FLAT": amd.FLATOp, "GLOBAL": amd.GLOBALOp, "SCRATCH": amd.SCRATCHOp,
    "MUBUF": amd.MUBUFOp, "MTBUF": amd.MTBUFOp,
}  # fmt: skip


def names(text: str) -> frozenset[str]:
    """A set of instruction names from a list in a text."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Operand:
    """Kind U, I, F, BF, B (scalars), M (one bit per lane), or PK before the element's kind; `width` counts all bits."""

    kind: str
    width: int

    @property
    def packed(self) -> bool:
        return self.kind.startswith("PK")

    @property
    def is_float(self) -> bool:
        return self.kind in ("F", "BF")


@dataclass(frozen=True)
class Signature:
    """Operands of an opcode in one encoding. `sources` has None in places that the encoding does not use."""

    sources: tuple[Operand | None, ...]
    destination: Operand | None
    mask_destination: bool
    text: str | None


def member(encoding: str, opcode: int) -> Enum | None:
    """The name that AMD's tables give the opcode, or None."""
    enum = amd.VOP3SDOp if encoding == "VOP3" and opcode in amd.VOP3SDOp._value2member_map_ else _ENUMS[encoding]
    return enum._value2member_map_.get(opcode)


@cache
def _texts() -> dict[str, str]:
    texts = {}
    for operation, text in PCODE.items():
        name = operation.name.lower().removesuffix("_e32").removesuffix("_e64")
        texts.setdefault(name, text)
    return texts


def text_of(name: str) -> str | None:
    """Pseudocode of an instruction by its lower-case name without encoding suffix."""
    return _texts().get(name)


def _operand(fmt: str, width: int) -> Operand:
    name = fmt.removeprefix("FMT_NUM_")
    packed = re.match(r"PK\d*_(.*)", name)
    kind = re.match(r"[A-Z]+", packed.group(1) if packed else name).group(0)
    return Operand("PK" + kind if packed else kind, width)


def _refined(operand: Operand | None, number: int, text: str | None) -> Operand | None:
    """The kind under which the text reads the source: `S1.i16` of v_ldexp_f16 is an integer, its format says F16."""
    if operand is None or text is None or operand.packed or not operand.is_float:
        return operand
    views = set(re.findall(rf"\bS{number}(?:\[[^\]]*\])?\.(bf|[fiub])\d+", text))
    return Operand("I", operand.width) if views and not views & {"f", "bf"} else operand


@cache
def signature(encoding: str, opcode: int) -> Signature | None:
    """Operands and text of an opcode (`encoding` as in the emulator's op table), or None where AMD's tables lack it."""
    operation = member(encoding, opcode)
    if operation is None:
        return None
    fields = OPERANDS.get(operation, {})
    text = text_of(operation.name.lower().removesuffix("_e32").removesuffix("_e64"))
    sources = []
    for number, names in enumerate((("src0", "ssrc0"), ("src1", "vsrc1", "ssrc1"), ("src2",))):
        found = next((fields[name] for name in names if name in fields), None)
        sources.append(_refined(_operand(found[0].name, found[1]) if found else None, number, text))
    destination = next((fields[name] for name in ("vdst", "sdst") if name in fields), None)
    mask = encoding == "VOPC" or (encoding == "VOP3" and isinstance(operation, amd.VOP3SDOp))
    return Signature(tuple(sources), _operand(destination[0].name, destination[1]) if destination else None, mask, text)
