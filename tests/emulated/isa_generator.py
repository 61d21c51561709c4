"""Chooses the cases of the differential test: each row in every encoding, with random operands and modifiers."""

import numpy as np

from emulated import isa_encoding as code
from emulated.isa_cases import DESTINATION, DWORD, SCALAR_DESTINATION, SCALAR_RESULT, Case, Source
from emulated.isa_modifiers import (
    DPP_CONTROLS,
    NEITHER_SDWA_NOR_DPP,
    NO_CLAMP,
    NO_SDWA,
    OP_SEL,
    SATURATING,
    SDWA_SELECTS,
    WHOLE_DWORDS,
)
from emulated.isa_operands import E64_BASE, Operand, signature
from emulated.isa_registers import PAIRS, SCALAR_POOLS, VECTOR_POOLS

# Both zeros, and a number on either side of them.
THIRD_OPERANDS = ((code.ZERO, False), (code.ZERO, True), (code.ONE_FLOAT, False), (code.ONE_FLOAT, True))
_SCALAR = ("SOP1", "SOP2", "SOPC", "SOPK")


class Generator:
    """Cases for the rows of an op table. The same row always gets the same cases."""

    def __init__(self, encoding: str, opcode: int, name: str) -> None:
        self.encoding, self.opcode, self.name = encoding, opcode, name
        self.rng = np.random.default_rng([ord(letter) for letter in name] + [opcode])

    @property
    def swaps(self) -> bool:
        return "swap_b32" in self.name

    # choices --------------------------------------------------------------------------------------------------
    def flag(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: object) -> int:
        options = list(options)  # type: ignore[call-overload]
        return int(options[int(self.rng.integers(len(options)))])

    def register(self, pools: dict[str, tuple[int, int]], operand: Operand, number: int) -> int:
        """A register that holds values of the operand's kind, aligned for its width."""
        dwords = max(1, operand.width // 32)
        if operand.kind == "M":
            pool = "MASK" if "MASK" in pools else "INT"
        elif self.name == "v_perm_b32" and number == 2:
            pool = "SELECT"
        elif operand.kind in ("F", "PKF") and operand.width == 64:
            pool = "F32" if operand.packed else "F64"
        elif operand.kind in ("F", "BF", "PKF", "PKBF"):
            pool = "F16" if operand.width == 16 or operand.kind == "PKF" else "F32"
            if "BF" in operand.kind and "BF16" in pools:
                pool = "BF16"
        else:
            pool = (
                "SHIFT"
                if "SHIFT" in pools
                and (("sh" in self.name or "bf" in self.name or "ldexp" in self.name) and self.flag(0.6))
                else "INT"
            )
            if operand.width == 64 and self.flag() and "F64" in pools:
                pool = "F64"
        first, count = pools[pool]
        return first + dwords * self.pick(range(count // dwords))

    def constant(self, operand: Operand, literal_allowed: bool) -> tuple[int, int]:
        """An inline constant code, or the literal marker and its value."""
        if literal_allowed and self.flag(0.4):
            return code.LITERAL, int(self.rng.integers(0, 1 << 32)) if self.flag() else self.pick(
                (0, 1, 0x3F800000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
            )
        if (operand.is_float or operand.kind == "PKF") and operand.kind != "BF" and self.flag(0.6):
            return self.pick(range(240, 249)), 0
        return self.pick(range(128, 209)), 0

    def source(
        self, operand: Operand, number: int, *, vector_only: bool, scalar_used: bool, literal_allowed: bool = False
    ) -> Source:
        plain = operand.width <= 64 and not (operand.packed and operand.width == 64)
        choice = self.rng.random()
        if not vector_only and not scalar_used and choice < 0.2 and operand.width <= 64:
            return Source(operand, self.register(SCALAR_POOLS, operand, number))
        if not vector_only and plain and choice < 0.4:
            return Source(operand, *self.constant(operand, literal_allowed and not scalar_used))
        return Source(operand, code.vgpr(self.register(VECTOR_POOLS, operand, number)))

    # cases ----------------------------------------------------------------------------------------------------
    def case(self, form: str, encoding: str | None = None, opcode: int | None = None) -> Case:
        described = signature(encoding or self.encoding, self.opcode if opcode is None else opcode)
        assert described is not None, (self.name, form)
        first, count = SCALAR_POOLS["MASK"]
        vectors, vector_count = VECTOR_POOLS["INT"]
        return Case(
            self.encoding, self.opcode, self.name, form, described, [None, None, None],
            exec_pair=first + 2 * self.pick(range(count // 2)) if self.flag(0.35) else None,
            vcc_pair=first + 2 * self.pick(range(count // 2)),
            old=vectors + 4 * self.pick(range(vector_count // 4)),
        )  # fmt: skip

    def lane_select(self, case: Case, literal_allowed: bool) -> bool:
        """The operands of readlane and writelane: scalars, inline constants and one vector."""
        if self.name not in ("v_readlane_b32", "v_writelane_b32", "v_readfirstlane_b32"):
            return False
        for number, operand in enumerate(case.signature.sources):
            if operand is None:
                continue
            if number == 0 and self.name != "v_writelane_b32":
                case.sources[0] = Source(operand, code.vgpr(self.register(VECTOR_POOLS, operand, 0)))
            elif number == 1 and self.flag():
                case.sources[1] = Source(operand, 128 + self.pick(range(64)))
            else:
                case.sources[number] = Source(operand, self.register(SCALAR_POOLS, operand, number))
        return True

    def fill(
        self,
        case: Case,
        *,
        vector_only: tuple[bool, bool, bool] = (False, False, False),
        literal_allowed: bool = False,
        scalars: int = 1,
    ) -> None:
        used = False
        if self.lane_select(case, literal_allowed):
            return
        for number, operand in enumerate(case.signature.sources):
            if operand is None:
                continue
            if operand.kind == "M":
                case.sources[number] = Source(operand, self.register(SCALAR_POOLS, operand, number))
                used = True
                continue
            source = self.source(
                operand, number, vector_only=vector_only[number], scalar_used=used, literal_allowed=literal_allowed
            )
            used = used or source.code < 128 or source.code == code.LITERAL
            case.sources[number] = source

    def modify(self, case: Case, *, output: bool = True) -> None:
        """Random source and output modifiers where the types have a meaning for them."""
        for source in case.sources:
            if source and source.operand.is_float:
                source.neg, source.abs = self.flag(0.3), self.flag(0.3)
            if source and self.name in OP_SEL and source.operand.width == 16:
                source.half = self.flag()
        if self.name in OP_SEL and case.signature.destination and case.signature.destination.width == 16:
            case.dst_half = self.flag()
        if "bitop3" in self.name:  # the modifiers are the truth table
            for source in case.sources:
                if source:
                    source.neg, source.abs = self.flag(), self.flag()
            case.omod = self.pick(range(4))
        destination = case.signature.destination
        if (
            output
            and destination
            and (destination.is_float or self.name in SATURATING)
            and not case.signature.mask_destination
        ):
            case.clamp = self.flag(0.3) and destination.kind != "BF" and self.name not in NO_CLAMP
            case.omod = self.pick((0, 1, 2, 3)) if destination.is_float and self.flag(0.3) else 0

    def destination(self, case: Case) -> int:
        if self.name in SCALAR_RESULT:
            case.mask_pair = SCALAR_DESTINATION
            return SCALAR_DESTINATION
        return DESTINATION

    def vop3_word(self, case: Case, opcode: int) -> None:
        sources = [source.code if source else 0 for source in case.sources]
        neg = sum(1 << number for number, source in enumerate(case.sources) if source and source.neg)
        abs_ = sum(1 << number for number, source in enumerate(case.sources) if source and source.abs)
        half = (
            sum(1 << number for number, source in enumerate(case.sources) if source and source.half)
            | case.dst_half << 3
        )
        if self.encoding == "VOPC":
            case.mask_pair = self.pick((code.VCC, SCALAR_DESTINATION))
            case.words = code.vop3(opcode, case.mask_pair, sources, neg=neg, abs_=abs_)
        elif case.signature.mask_destination:
            case.mask_pair = self.pick((code.VCC, SCALAR_DESTINATION))
            for source in case.sources:
                if source:
                    source.abs = False  # the scalar destination takes the field
            case.words = code.vop3sd(
                opcode, DESTINATION, case.mask_pair, sources, neg=neg, clamp=case.clamp, omod=case.omod
            )
        else:
            case.words = code.vop3(
                opcode,
                self.destination(case),
                sources,
                neg=neg,
                abs_=abs_,
                clamp=case.clamp,
                omod=case.omod,
                op_sel=half,
            )

    def e32(self) -> Case:
        case = self.case("e32")
        wide = self.name.endswith(("mk_f32", "ak_f32", "mk_f16", "ak_f16"))
        self.fill(case, vector_only=(False, True, True), literal_allowed=not wide)
        first, second = case.sources[0], case.sources[1]
        src0 = first.code if first else 0
        vsrc1 = second.code - code.VGPR if second else 0
        if self.encoding == "VOP1":
            case.words = code.vop1(self.opcode, self.destination(case), src0)
        elif self.encoding == "VOP2":
            case.words = code.vop2(self.opcode, DESTINATION, src0, vsrc1)
        else:
            case.words = code.vopc(self.opcode, src0, vsrc1)
        if wide:
            literal = self.pick((0x3FC00000, 0xC2280000, 0x00004200))
            assert first is not None
            first.literal = literal
            case.words.append(literal)
        elif first and first.code == code.LITERAL:
            case.words.append(first.literal)
        return case

    def e64(self) -> Case:
        opcode = self.opcode + E64_BASE.get(self.encoding, 0)
        case = self.case("e64", "VOP3", opcode)
        self.fill(case)
        if (
            "div_scale" in self.name and case.sources[0] and self.flag(0.9)
        ):  # it is the denominator or the numerator in every real use
            case.sources[0].code = case.sources[self.pick((1, 2))].code  # type: ignore[union-attr]
        self.modify(case)
        if "div_scale" in self.name and case.sources[0]:
            for source in case.sources:
                source.neg = False  # type: ignore[union-attr]
        self.vop3_word(case, opcode)
        return case

    def special(self, block: int, third: tuple[int, bool] | None = None) -> Case | None:
        """Every pair of special values as the first two operands of a float instruction, nothing modified.

        `third`: the code of a third operand and whether it is negated.
        """
        if self.encoding not in ("VOP2", "VOPC", "VOP3"):
            return None
        opcode = self.opcode + E64_BASE.get(self.encoding, 0)
        described = signature("VOP3", opcode)
        operands = described.sources[:2] if described else (None, None)
        if any(operand is None or not operand.is_float or operand.kind == "BF" for operand in operands):
            return None
        case = self.case("e64", "VOP3", opcode)
        self.fill(case)
        case.exec_pair = None
        for number, source in enumerate(case.sources[:2]):
            assert source is not None
            first, count = PAIRS[source.operand.width]
            source.code = code.vgpr(first + block * count + number * count // 2)
        if third:
            if case.sources[2] is None or not case.sources[2].operand.is_float:
                return None
            case.sources[2].code, case.sources[2].neg = third
        self.vop3_word(case, opcode)
        return case

    def packed(self) -> Case:
        case = self.case("vop3p")
        self.fill(case)
        fields = {"neg_lo": 0, "neg_hi": 0, "op_sel": 0, "op_sel_hi": 0}
        mix = "mad_mix" in self.name or "fma_mix" in self.name
        for number, source in enumerate(case.sources):
            if source is None:
                continue
            halves = (source.operand.packed or mix) and not any(word in self.name for word in WHOLE_DWORDS)
            source.half, source.half_hi = halves and self.flag(), not halves or self.flag()
            if source.code < 256 and source.operand.packed and source.operand.width == 64:
                source.half = source.half_hi = self.flag()  # a constant fills the pair in ways that only this hides
            if "pk_mov" in self.name:
                source.half_hi = True
            if (source.operand.kind == "PKF" and halves) or mix:
                source.neg, source.neg_hi = self.flag(0.3), self.flag(0.3)
            fields["neg_lo"] |= source.neg << number
            fields["neg_hi"] |= source.neg_hi << number
            fields["op_sel"] |= source.half << number
            fields["op_sel_hi"] |= source.half_hi << number
        case.clamp = (
            self.flag(0.3)
            and (self.name in SATURATING or (case.signature.destination or Operand("B", 32)).kind in ("PKF", "F"))
            and "dot2_f32" not in self.name
        )
        case.words = code.vop3p(
            self.opcode,
            DESTINATION,
            [source.code if source else 0 for source in case.sources],
            clamp=case.clamp,
            **fields,
        )
        return case

    def sdwa(self) -> Case:
        case = self.case("sdwa")
        self.fill(case, vector_only=(True, True, True))
        self.modify(case)
        for number, source in enumerate(case.sources[:2]):
            if source:
                source.select = self.pick(SDWA_SELECTS)
                source.sext = not source.operand.is_float and self.flag()
                if number == 0 and self.flag(0.2):
                    source.code = self.register(SCALAR_POOLS, source.operand, 0)
        first, second = case.sources[0], case.sources[1]
        vsrc1 = second.code - code.VGPR if second else 0
        common = {
            "selects": (first.select if first else DWORD, second.select if second else DWORD),
            "sext": sum(1 << n for n, source in enumerate(case.sources[:2]) if source and source.sext),
            "neg": sum(1 << n for n, source in enumerate(case.sources[:2]) if source and source.neg),
            "abs_": sum(1 << n for n, source in enumerate(case.sources[:2]) if source and source.abs),
        }
        src0 = first.code if first else code.VGPR
        if self.encoding == "VOPC":
            case.mask_pair = self.pick((code.VCC, SCALAR_DESTINATION))
            case.words = code.with_sdwa(code.vopc(self.opcode, 0, vsrc1), src0, sdst=case.mask_pair, **common)
            return case
        case.dst_sel, case.dst_unused = self.pick(SDWA_SELECTS), self.pick((0, 1, 2))
        base = (
            code.vop1(self.opcode, DESTINATION, 0)
            if self.encoding == "VOP1"
            else code.vop2(self.opcode, DESTINATION, 0, vsrc1)
        )
        case.words = code.with_sdwa(
            base, src0, dst_sel=case.dst_sel, dst_unused=case.dst_unused, clamp=case.clamp, omod=case.omod, **common
        )
        return case

    def dpp_case(self, control: int) -> Case:
        case = self.case("dpp")
        self.fill(case, vector_only=(True, True, True))
        self.modify(case, output=False)
        first, second = case.sources[0], case.sources[1]
        assert first is not None
        case.dpp = (control, int(self.flag()), self.pick((15, 15, 15, 5, 10, 12, 1)), self.pick((15, 15, 15, 5, 9, 14)))
        vsrc1 = second.code - code.VGPR if second else 0
        if self.encoding == "VOPC":
            base = code.vopc(self.opcode, 0, vsrc1)
        elif self.encoding == "VOP1":
            base = code.vop1(self.opcode, DESTINATION, 0)
        else:
            base = code.vop2(self.opcode, DESTINATION, 0, vsrc1)
        control, bound, rows, banks = case.dpp
        neg = sum(1 << n for n, source in enumerate(case.sources[:2]) if source and source.neg)
        abs_ = sum(1 << n for n, source in enumerate(case.sources[:2]) if source and source.abs)
        case.words = code.with_dpp(
            base, first.code, control, bound_ctrl=bound, row_mask=rows, bank_mask=banks, neg=neg, abs_=abs_
        )
        return case

    def scalar(self) -> Case:
        case = self.case("sop")
        first, count = SCALAR_POOLS["MASK"]
        case.exec_pair = first + 2 * self.pick(range(count // 2))
        case.scc_from = SCALAR_POOLS["INT"][0] + self.pick(range(16))
        literal_used = False
        for number, operand in enumerate(case.signature.sources):
            if operand is None:
                continue
            if self.flag(0.3):
                constant, literal = self.constant(operand, not literal_used)
                literal_used = literal_used or constant == code.LITERAL
                case.sources[number] = Source(operand, constant, literal)
            else:
                case.sources[number] = Source(
                    operand, self.register({key: SCALAR_POOLS[key] for key in ("INT", "F64", "MASK")}, operand, number)
                )
        codes = [source.code if source else 0 for source in case.sources]
        simm = int(self.rng.integers(0, 1 << 16)) if self.flag(0.7) else self.pick((0, 1, 0x7FFF, 0x8000, 0xFFFF))
        if self.encoding == "SOP1":
            case.words = code.sop1(self.opcode, SCALAR_DESTINATION, codes[0])
        elif self.encoding == "SOP2":
            case.words = code.sop2(self.opcode, SCALAR_DESTINATION, codes[0], codes[1])
        elif self.encoding == "SOPC":
            case.words = code.sopc(self.opcode, codes[0], codes[1])
        else:
            case.words = code.sopk(self.opcode, SCALAR_DESTINATION, simm)
        if literal_used:
            case.words.append(next(source.literal for source in case.sources if source and source.code == code.LITERAL))
        return case

    def swap(self, form: str) -> Case:
        """The swaps write both operands: the source is the register after the destination."""
        opcode = self.opcode + (E64_BASE["VOP1"] if form == "e64" else 0)
        case = self.case(form, "VOP3" if form == "e64" else "VOP1", opcode)
        if "permlane" in self.name:
            case.exec_pair = None
        operand = case.signature.sources[0]
        assert operand is not None
        case.sources[0] = Source(operand, code.vgpr(DESTINATION + 1))
        other = code.vgpr(DESTINATION + 1)
        case.words = code.vop1(opcode, DESTINATION, other) if form == "e32" else code.vop3(opcode, DESTINATION, [other])
        return case

    def accepts(self, form: str) -> bool:
        described = signature(self.encoding, self.opcode)
        assert described is not None
        operands = [operand for operand in (*described.sources, described.destination) if operand]
        if any(operand.width > 32 for operand in operands) or described.sources[0] is None:
            return False
        if any(word in self.name for word in NEITHER_SDWA_NOR_DPP):
            return False
        return form != "sdwa" or not any(word in self.name for word in NO_SDWA)

    def all(self, scale: int = 1) -> list[Case]:
        """The standard set for this row: every encoding form, several operand choices each."""
        specials = [self.special(block) for block in (0, 1)]
        specials += [self.special(block, third) for block in (0, 1) for third in THIRD_OPERANDS]
        return [case for case in specials if case] + self.forms(scale)

    def forms(self, scale: int) -> list[Case]:
        if self.encoding in _SCALAR:
            return [self.scalar() for _ in range(6 * scale)]
        if self.encoding == "VOP3P":
            return [self.packed() for _ in range(7 * scale)]
        if self.swaps:
            return [self.swap(form) for form in ("e32", "e64") for _ in range(3 * scale)]
        if self.encoding == "VOP3":
            return [self.e64() for _ in range(6 * scale)]
        cases = [self.e32() for _ in range(2 * scale)]
        if signature("VOP3", self.opcode + E64_BASE[self.encoding]) and not self.name.endswith(
            ("mk_f32", "ak_f32", "mk_f16", "ak_f16")
        ):
            cases += [self.e64() for _ in range(3 * scale)]
        if self.accepts("sdwa"):
            cases += [self.sdwa() for _ in range(3 * scale)]
        if self.accepts("dpp"):
            controls = self.rng.permutation(len(DPP_CONTROLS))[: 3 * scale]
            cases += [self.dpp_case(DPP_CONTROLS[number]) for number in controls]
        return cases
