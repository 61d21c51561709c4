"""What the hardware does around an operation: operand fetch, modifiers, lane permutation, write-back (ISA manual).

The operation itself is AMD's pseudocode (`pseudocode`) or an entry of `isa_reference`. Default MODE: nearest even,
denormals kept, IEEE on, DX10_CLAMP on; then the output multiplier is ignored (manual, 6.2.2).
"""

from dataclasses import dataclass

import numpy as np

from emulated import isa_encoding as code
from emulated.isa_cases import DESTINATION, DWORD, SCALAR_DESTINATION, SCALAR_RESULT, Case, Source
from emulated.isa_operands import Operand, names, text_of
from emulated.isa_reference import TEXT_OF_ANOTHER
from emulated.isa_reference_integer import REFERENCES
from emulated.isa_registers import LANES, Registers
from emulated.pseudocode import Machine, Value, parse, run
from emulated.pseudocode.values import fit, mask

# 16-bit results of these keep the other half of the register; all others clear it. LLVM's zeroesHigh16BitsOfDest,
# "derived from experimentation", lists what clears; the op_sel instructions of GFX9 and the mixed-precision ones are
# not in it, and they name the half that they write.
MERGES_HIGH_HALF = names(
    """
    v_mad_f16 v_mad_u16 v_mad_i16 v_fma_f16 v_div_fixup_f16 v_min3_f16 v_min3_i16 v_min3_u16 v_max3_f16 v_max3_i16
    v_max3_u16 v_med3_f16 v_med3_i16 v_med3_u16 v_add_i16 v_sub_i16 v_mad_mixlo_f16 v_mad_mixhi_f16 v_fma_mixlo_f16
    v_fma_mixhi_f16 v_bitop3_b16 v_ashr_pk_i8_i32 v_ashr_pk_u8_i32 v_cvt_sr_f16_f32 v_cvt_sr_bf16_f32
    """
)
_INLINE_FLOATS = (0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0)
_INVERSE_TWO_PI = {16: 0x3118, 32: 0x3E22F983, 64: 0x3FC45F306DC9C882}
_FLOATS = {16: (np.float16, np.uint16), 32: (np.float32, np.uint32), 64: (np.float64, np.uint64)}


@dataclass
class Outcome:
    """Expected registers after one case: destination dwords ``[n, lanes]``; masks as one 64-bit word per wave."""

    dwords: list[np.ndarray]
    mask: np.ndarray | None = None
    exec: np.ndarray | None = None
    free: np.ndarray | None = None  # lanes whose result nobody specifies: part of a NaN's payload, see isa_reference
    scc: np.ndarray | None = None
    m0: np.ndarray | None = None


def inline_constant(number: int, operand: Operand) -> int:
    """Bits of an inline constant as an operand of this type sees it."""
    if number < 240:
        value = number - 128 if number <= 192 else 192 - number
        return value & mask(max(32, operand.width))
    width = 16 if operand.kind == "PKF" and operand.width == 32 else 32 if operand.packed else operand.width
    if number == 248:
        return _INVERSE_TWO_PI[width]
    numbers, bits = _FLOATS[width]
    return int(np.array([_INLINE_FLOATS[number - 240]], dtype=numbers).view(bits)[0])


def _literal(literal: int, operand: Operand) -> int:
    if operand.width != 64:
        return literal
    if operand.is_float:
        return literal << 32
    return literal | (mask(32) << 32 if operand.kind == "I" and literal >> 31 else 0)


def raw(source: Source, registers: Registers) -> np.ndarray:
    """The operand's bits per lane, before any modifier."""
    dwords = max(1, source.operand.width // 32)
    if source.code >= code.VGPR:
        return registers.vector(source.code - code.VGPR, dwords)
    if source.code < 128:
        return registers.scalar(source.code, 2 if source.operand.kind == "M" else dwords)
    constant = (
        _literal(source.literal, source.operand)
        if source.code == code.LITERAL
        else inline_constant(source.code, source.operand)
    )
    if source.operand.packed and source.operand.width == 64:
        constant |= constant << 32
    return np.full(registers.waves * LANES, constant, dtype=np.uint64)


def _selected(bits: np.ndarray, select: int, sext: bool) -> np.ndarray:
    if select == DWORD:
        return bits
    width, shift = (8, 8 * select) if select < 4 else (16, 16 * (select - 4))
    chosen = (bits >> np.uint64(shift)) & np.uint64(mask(width))
    return np.where(sext & (chosen >> np.uint64(width - 1) != 0), chosen | np.uint64(mask(32) & ~mask(width)), chosen)


def _signs(bits: np.ndarray, width: int, negate: bool, absolute: bool) -> np.ndarray:
    sign = np.uint64(1 << (width - 1))
    if absolute:
        bits = bits & ~sign
    return bits ^ sign if negate else bits


def _packed(bits: np.ndarray, source: Source) -> np.ndarray:
    width = source.operand.width // 2
    element = np.uint64(mask(width))
    low = bits >> np.uint64(width if source.half else 0) & element
    high = bits >> np.uint64(width if source.half_hi else 0) & element
    low, high = _signs(low, width, source.neg, False), _signs(high, width, source.neg_hi, False)
    return low | high << np.uint64(width)


def fetch(case: Case, number: int, registers: Registers) -> np.ndarray:
    """Source `number` as the operation receives it."""
    source = case.sources[number]
    assert source is not None
    bits = registers.vector(case.old + 1, 1) if "swap_b32" in case.name else raw(source, registers)
    if number == 0 and case.dpp:
        bits = permuted(bits, case, registers)[0]
    bits = _selected(bits, source.select, source.sext) if source.operand.width <= 32 else bits
    if case.form == "vop3p":
        whole = "mix" in case.name or "pk_mov" in case.name or "dot" in case.name
        return _packed(bits, source) if source.operand.packed and not whole else bits
    if source.operand.width == 16 and not source.operand.packed:
        bits = bits >> np.uint64(16 if source.half else 0) & np.uint64(0xFFFF)
    return _signs(bits, source.operand.width, source.neg, source.abs) if source.operand.is_float else bits


def source_lane(control: int, lane: int) -> int | None:
    """The lane that a DPP control makes `lane` read, or None beyond its row (manual, table 94)."""
    row, place, count = lane & ~15, lane & 15, control & 15
    match control >> 4:
        case 0x10:
            return lane + count if place + count < 16 else None
        case 0x11:
            return lane - count if place >= count else None
        case 0x12:
            return row | (place - count) % 16
        case 0x15:
            return row | count
    match control:
        case 0x130:
            return lane + 1 if lane < 63 else None
        case 0x134:
            return (lane + 1) % 64
        case 0x138:
            return lane - 1 if lane else None
        case 0x13C:
            return (lane - 1) % 64
        case 0x140:
            return row | 15 - place
        case 0x141:
            return lane & ~7 | 7 - (lane & 7)
        case 0x142:
            return row - 1 if row else None
        case 0x143:
            return 31 if lane >= 32 else None
    return lane & ~3 | control >> 2 * (lane & 3) & 3


def permuted(bits: np.ndarray, case: Case, registers: Registers) -> tuple[np.ndarray, np.ndarray]:
    """Source 0 through DPP, and the lanes that may write."""
    assert case.dpp is not None
    control, bound, rows, banks = case.dpp
    active = exec_lanes(case, registers)
    lanes, values = np.zeros((registers.waves, LANES), dtype=bool), bits.reshape(-1, LANES).copy()
    origin = bits.reshape(-1, LANES)
    for lane in range(LANES):
        enabled = rows >> lane // 16 & 1 and banks >> lane % 16 // 4 & 1
        other = source_lane(control, lane)
        valid = active[:, other] if other is not None else np.zeros(registers.waves, dtype=bool)
        values[:, lane] = np.where(valid, origin[:, other or 0], np.uint64(0))
        lanes[:, lane] = bool(enabled) & (valid | bool(bound))
    return values.reshape(-1), lanes


def exec_lanes(case: Case, registers: Registers) -> np.ndarray:
    """EXEC as flags ``[waves, 64]``."""
    if case.exec_pair is None:
        return np.ones((registers.waves, LANES), dtype=bool)
    pair = registers.s[:, case.exec_pair].astype(np.uint64) | registers.s[:, case.exec_pair + 1].astype(
        np.uint64
    ) << np.uint64(32)
    return (pair[:, None] >> np.arange(LANES, dtype=np.uint64) & np.uint64(1)).astype(bool)


def _field(case: Case, name: str) -> int:
    return sum(1 << number for number, source in enumerate(case.sources) if source and getattr(source, name))


def _old(case: Case, registers: Registers) -> np.ndarray:
    dwords = max(1, case.signature.destination.width // 32) if case.signature.destination else 1
    return registers.vector(case.old, dwords)


def _state(cases: list[Case], registers: Registers) -> dict[str, Value]:
    """The pseudocode's variables for all cases of one instruction, their lanes in a row."""
    lanes = registers.waves * LANES
    described = cases[0].signature
    state: dict[str, Value] = {}

    def per_case(values: list[int], width: int) -> Value:
        return Value("U", width, np.repeat(np.array(values, dtype=np.uint64), lanes))

    for number, operand in enumerate(described.sources):
        if operand is None or operand.kind == "M":
            continue
        width = max(32, operand.width) if operand.width != 24 else 32
        state[f"S{number}"] = Value(
            "B", width, fit(np.concatenate([fetch(case, number, registers) for case in cases]), width)
        )
    old = np.concatenate([_old(case, registers) for case in cases])
    width = max(32, described.destination.width) if described.destination and not described.mask_destination else 64
    state["D0"] = Value("B", width, fit(old, width))
    state["D1"] = Value.constant("B", 1, 0)
    masks = []
    for case in cases:
        source = next((source for source in case.sources if source and source.operand.kind == "M"), None)
        masks.append(raw(source, registers) if source else registers.scalar(case.vcc_pair, 2))
    state["VCC"] = Value("B", 64, np.concatenate(masks))
    full = np.full(lanes, mask(64), dtype=np.uint64)
    state["EXEC"] = Value(
        "B",
        64,
        np.concatenate([full if case.exec_pair is None else registers.scalar(case.exec_pair, 2) for case in cases]),
    )
    literals = [case.sources[0].literal if case.sources[0] else 0 for case in cases]
    state["SIMM32"] = per_case(literals, 32)
    state["SIMM16"] = per_case([literal & 0xFFFF for literal in literals], 16)
    state["OPSEL"] = per_case([_field(case, "half") | case.dst_half << 3 for case in cases], 4)
    state["OPSEL_HI"] = per_case([_field(case, "half_hi") for case in cases], 3)
    state["NEG"] = state["INST.NEG"] = per_case([_field(case, "neg") for case in cases], 3)
    state["NEG_HI"] = per_case([_field(case, "neg_hi") for case in cases], 3)
    state["INST.ABS"] = per_case([_field(case, "abs") for case in cases], 3)
    state["INST.OMOD"] = per_case([case.omod for case in cases], 2)
    state["CLAMP"] = per_case([int(case.clamp) for case in cases], 1)
    state["WAVE_MODE.IEEE"] = Value.constant("U", 1, 1)
    state["ROUND_MODE"] = Value.constant("U", 32, 0)
    state["D"] = state["D0"]
    return state


def _operate(name: str, text: str | None, state: dict[str, Value], lanes: int) -> None:
    reference = REFERENCES.get(name)
    if reference:
        reference.function(state)
        return
    if name in TEXT_OF_ANOTHER:
        text = text_of(TEXT_OF_ANOTHER[name][0])
    if text is None:
        raise LookupError(f"{name}: no pseudocode and no reference in isa_reference.py")
    run(parse(text), Machine(lanes, state, text_of))
    if "D.b" in text:  # v_bitop3 writes D, not D0
        state["D0"] = state["D"]
    if "D1." in text:  # v_mad_u64_u32: bit 64 of the sum is the lane's carry
        state["VCC"] = Value("B", 64, state["D1"].bits << np.arange(lanes, dtype=np.uint64) % np.uint64(LANES))


def _clamped(bits: np.ndarray, operand: Operand) -> np.ndarray:
    width = operand.width // 2 if operand.packed else operand.width
    numbers, words = _FLOATS[width]
    result = np.zeros_like(bits)
    for shift in range(0, operand.width, width):
        element = (bits >> np.uint64(shift) & np.uint64(mask(width))).astype(words).view(numbers)
        with np.errstate(invalid="ignore"):
            bounded = np.where(element > 0, np.minimum(element, numbers(1)), numbers(0)).astype(
                numbers
            )  # a NaN becomes 0 (DX10_CLAMP)
        result |= bounded.view(words).astype(np.uint64) << np.uint64(shift)
    return result


def _placed(bits: np.ndarray, old: np.ndarray, case: Case) -> np.ndarray:
    """The destination register: half and sub-dword writes into its old contents."""
    destination = case.signature.destination
    assert destination is not None
    narrow = destination.width <= 16
    if narrow:
        bits = bits & np.uint64(mask(destination.width))
    if case.form == "sdwa":
        if case.dst_sel == DWORD:
            return bits
        width, shift = (8, 8 * case.dst_sel) if case.dst_sel < 4 else (16, 16 * (case.dst_sel - 4))
        hole = np.uint64(mask(width) << shift)
        placed = bits << np.uint64(shift) & hole
        if case.dst_unused == 2:
            return placed | old & ~hole
        negative = placed >> np.uint64(shift + width - 1) & np.uint64(1) != 0
        above = np.uint64(mask(32) & ~mask(shift + width))
        return np.where((case.dst_unused == 1) & negative, placed | above, placed)
    if case.dst_half or case.name.endswith("mixhi_f16"):
        return old & np.uint64(0xFFFF) | bits << np.uint64(16)
    if narrow and case.name in MERGES_HIGH_HALF:
        return old & np.uint64(mask(32) & ~mask(destination.width)) | bits
    return bits


def _pack_mask(flags: np.ndarray) -> np.ndarray:
    return (flags.astype(np.uint64) << np.arange(LANES, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


def expected(cases: list[Case], registers: Registers) -> list[Outcome]:
    """Outcomes of vector cases that share one instruction (name and encoding of the signature)."""
    lanes = registers.waves * LANES
    state = _state(cases, registers)
    described = cases[0].signature
    _operate(cases[0].name, described.text, state, lanes * len(cases))
    total = lanes * len(cases)
    result = np.broadcast_to(state["D0"].bits, (total,)).reshape(len(cases), lanes)
    carry = np.broadcast_to(state["VCC"].bits, (total,)).reshape(len(cases), registers.waves, LANES)
    free = state["FREE"].true().reshape(len(cases), lanes) if "FREE" in state else None
    outcomes = []
    for number, case in enumerate(cases):
        active = exec_lanes(case, registers)
        writable = active if not case.dpp else active & permuted(np.zeros(lanes, dtype=np.uint64), case, registers)[1]
        bit = np.arange(LANES, dtype=np.uint64)
        if case.encoding == "VOPC":
            flags = (result[number].reshape(-1, LANES) >> bit & np.uint64(1)).astype(bool) & writable
            packed = _pack_mask(flags)
            writes_exec = case.name.startswith("v_cmpx")
            outcomes.append(Outcome([], packed, packed if writes_exec else None))
            continue
        old = _old(case, registers)
        bits = result[number]
        destination = described.destination
        if case.name in SCALAR_RESULT:
            kept = registers.scalar(case.vcc_pair, 2)[::LANES] & np.uint64(0xFFFFFFFF00000000)
            outcomes.append(Outcome([], bits[::LANES] | kept))
            continue
        if case.clamp and destination and (destination.is_float or destination.kind == "PKF"):
            bits = _clamped(fit(bits, destination.width), destination)
        merged = _placed(bits, old, case) if destination else old
        merged = np.where(writable.reshape(-1) | _ignores_exec(case), merged, old)
        dwords = max(1, destination.width // 32) if destination else 1
        words = [
            fit(merged >> (32 * step) if merged.dtype == object else merged >> np.uint64(32 * step), 32)
            for step in range(dwords)
        ]
        outcome = Outcome(words)
        if "swap_b32" in case.name:
            other = np.broadcast_to(state["S0"].bits, (total,)).reshape(len(cases), lanes)[number]
            outcome.dwords.append(np.where(active.reshape(-1), other, registers.vector(case.old + 1, 1)))
        if case.form == "sdwa" and case.dst_sel != DWORD and destination and destination.kind == "F":
            numbers, integers = _FLOATS[destination.width]
            outcome.free = np.isnan(fit(bits, destination.width).astype(integers).view(numbers))
        if free is not None:
            outcome.free = free[number] if outcome.free is None else outcome.free | free[number]
        if described.mask_destination or (case.encoding == "VOP2" and "_co_" in case.name):
            outcome.mask = _pack_mask((carry[number] >> bit & np.uint64(1)).astype(bool) & writable)
        outcomes.append(outcome)
    return outcomes


def _ignores_exec(case: Case) -> bool:
    return case.name == "v_writelane_b32"


def expected_scalar(cases: list[Case], registers: Registers) -> list[Outcome]:
    """Outcomes of scalar cases that share one instruction; one lane per wave."""
    waves = registers.waves

    def pair(number: int) -> np.ndarray:
        return registers.s[:, number].astype(np.uint64) | registers.s[:, number + 1].astype(np.uint64) << np.uint64(32)

    described = cases[0].signature
    state: dict[str, Value] = {}
    for number, operand in enumerate(described.sources):
        if operand is None:
            continue
        columns = []
        for case in cases:
            source = case.sources[number]
            assert source is not None
            columns.append(raw(source, registers)[::LANES])
        state[f"S{number}"] = Value("B", max(32, operand.width), np.concatenate(columns))
    old = np.concatenate([pair(case.vcc_pair) for case in cases])
    simm = np.repeat(np.array([case.words[0] & 0xFFFF for case in cases], dtype=np.uint64), waves)
    if cases[0].encoding == "SOPK":
        compares = "cmpk" in cases[0].name
        state["S1" if compares else "S0"] = Value("B", 16, simm)
        if compares:
            state["S0"] = Value("B", 32, fit(old, 32))
    width = described.destination.width if described.destination else 64
    state["D0"] = Value("B", width, fit(old, width))
    state["SCC"] = Value(
        "U", 1, np.concatenate([registers.s[:, case.scc_from].astype(np.uint64) & np.uint64(1) for case in cases])
    )
    state["EXEC"] = Value("B", 64, np.concatenate([pair(case.exec_pair or 0) for case in cases]))
    state["M0"] = Value("B", 32, np.concatenate([registers.s[:, case.scc_from].astype(np.uint64) for case in cases]))
    total = waves * len(cases)
    _operate(cases[0].name, described.text, state, total)

    def split(value: Value) -> np.ndarray:
        return np.broadcast_to(value.bits, (total,)).reshape(len(cases), waves)

    results, scc, exec_, m0 = split(state["D0"]), split(state["SCC"]), split(state["EXEC"]), split(state["M0"])
    outcomes = []
    for n in range(len(cases)):
        high = results[n] >> np.uint64(32) if width == 64 else old.reshape(len(cases), waves)[n] >> np.uint64(32)
        outcomes.append(Outcome([fit(results[n], 32), high], exec=exec_[n], scc=fit(scc[n], 1), m0=m0[n]))
    return outcomes


__all__ = ["DESTINATION", "SCALAR_DESTINATION", "Outcome", "expected", "expected_scalar"]
