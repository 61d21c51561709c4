"""Typed buffer loads and stores: every data format with every number format, packed and 16-bit forms, selectors."""

from dataclasses import replace

import numpy as np

from emulated.memory_machine import ADDRESS, ALL, DATA, LANES, RESULT, Case, State, registers, run_cases
from emulated.memory_reference import as_float, float_bits, load_bytes, store_bytes
from emulated.memory_resource import Resource, indices

MASKS = (ALL, 0x0F0F_F0F0_00FF_8001)

# Formats: widths of X, Y, Z, W from the least significant bit on, by data format number (manual table 41).
LAYOUTS = {
    1: (8,), 2: (16,), 3: (8, 8), 4: (32,), 5: (16, 16), 6: (11, 11, 10), 7: (10, 11, 11), 8: (2, 10, 10, 10),
    9: (10, 10, 10, 2), 10: (8, 8, 8, 8), 11: (32, 32), 12: (16, 16, 16, 16), 13: (32, 32, 32), 14: (32, 32, 32, 32),
}  # fmt: skip
UNORM, SNORM, USCALED, SSCALED, UINT, SINT, FLOAT = 0, 1, 2, 3, 4, 5, 7


def formats() -> list[tuple[int, int]]:
    found = []
    for data, widths in LAYOUTS.items():
        wide, small = widths[0] == 32, widths[0] in (10, 11) and data in (6, 7)
        numbers = (UINT, SINT, FLOAT) if wide else (FLOAT,) if small else (UNORM, SNORM, USCALED, SSCALED, UINT, SINT)
        found += [(data, number) for number in numbers + ((FLOAT,) if widths[0] == 16 else ())]
    return found


def decode(raw: int, bits: int, number: int) -> int:
    """One field to its register."""
    value = raw - (1 << bits) if raw >> (bits - 1) else raw
    if number == UINT:
        return raw
    if number == SINT:
        return value & 0xFFFFFFFF
    if number == FLOAT:
        if bits == 32:
            return raw
        return float_bits(
            np.array([raw << (15 - bits) if bits < 16 else raw], np.uint16).view(np.float16).astype(np.float32)[0]
        )
    with np.errstate(all="ignore"):
        top, half = (1 << bits) - 1, (1 << (bits - 1)) - 1
        scaled = {UNORM: raw / top, SNORM: max(value / half, -1.0), USCALED: float(raw), SSCALED: float(value)}[number]
    return float_bits(np.float32(scaled))


def encode(register: int, bits: int, number: int) -> int:
    """One register to its field: clamped, rounded to nearest even (scaled formats: towards zero)."""
    top, half = (1 << bits) - 1, (1 << (bits - 1)) - 1
    value = float(as_float(register, 32))
    if number == UINT:
        return min(register, top)
    if number == SINT:
        integer = register - (1 << 32) if register >> 31 else register
        return max(-half - 1, min(half, integer)) & top
    if number == UNORM:
        return int(np.rint(max(0.0, min(float(top), value * top))))
    if number == SNORM:
        return int(np.rint(max(-float(half), min(float(half), value * half)))) & top
    if number == USCALED:
        return max(0, min(top, int(value)))
    if number == SSCALED:
        return max(-half - 1, min(half, int(value))) & top
    if bits == 32:
        return register
    assert bits == 16
    return int(np.array([value], np.float32).astype(np.float16).view(np.uint16)[0])


def finite_values(state: State, data: int, number: int) -> None:
    """Clears one exponent bit of every float field in memory."""
    if number != FLOAT:
        return
    shift, keep = 0, 0xFFFFFFFF
    for bits in LAYOUTS[data]:
        keep &= ~(1 << (shift % 32 + bits - (1 if bits < 16 else 2)))
        shift += bits
    if LAYOUTS[data][0] == 16:
        keep &= keep << 16 | keep >> 16
    state.memory.view(np.uint32)[:] &= np.uint32(keep)


def format_load_case(
    components: int, data: int, number: int, *, typed: bool, half: str = "", select=(4, 5, 6, 7)
) -> Case:
    widths = LAYOUTS[data]
    size = sum(widths) // 8
    resource = Resource(idxen=True, stride=16, records=60, data=data, number=number, select=select, offset=16)

    def prepare(state: State) -> None:
        finite_values(state, data, number)
        indices(state)
        resource.prepare(state)

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = resource.place(state, lane, 0, size)
            raw = 0 if at is None else int.from_bytes(state.memory[at : at + size].tobytes(), "little")
            fields, shift = [0] * 4, 0
            for n, bits in enumerate(widths):
                fields[n] = decode(raw >> shift & ((1 << bits) - 1), bits, number) if at is not None else 0
                shift += bits
            one = 1 if number in (UINT, SINT) else 0x3F800000
            chosen = [fields[s - 4] if s >= 4 else one * (s == 1) for s in (select if not typed else (4, 5, 6, 7))]
            if not half:
                for c in range(components):
                    state.v[RESULT + c, lane] = chosen[c]
                continue
            with np.errstate(over="ignore"):
                halves = [
                    c & 0xFFFF if number in (UINT, SINT) else int(as_float(c, 32).astype(np.float16).view(np.uint16))
                    for c in chosen
                ]
            if half == "high":
                state.v[RESULT, lane] = halves[0] << 16
            else:
                padded = [*halves[:components], 0]
                for c in range(0, components, 2):
                    state.v[RESULT + c // 2, lane] = padded[c] | padded[c + 1] << 16

    registers_used = (components + 1) // 2 if half else components
    infix = {"": "", "low": "d16_", "high": "d16_hi_"}[half]
    name = f"{'t' if typed else ''}buffer_load_format_{infix}{'xyzw'[:components]}"
    text = f"{name} {registers(RESULT, registers_used)}, {resource.text()}"
    if typed:
        text = text.replace(" idxen", f" format:{data | number << 4} idxen")
    return Case(f"{text} data format {data}, number format {number}", [text], expect, prepare)


def test_format_loads(arch: str) -> None:
    cases = [format_load_case(4, data, number, typed=typed) for data, number in formats() for typed in (False, True)]
    for typed in (False, True):
        for components in (1, 2, 3):
            cases.append(format_load_case(components, 10, UNORM, typed=typed))
        for components in (1, 2, 3, 4):
            cases += [format_load_case(components, 12, n, typed=typed, half="low") for n in (FLOAT, SINT, UNORM)]
    cases += [format_load_case(1, data, number, typed=False, half="high") for data, number in ((2, FLOAT), (1, UINT))]
    cases += [format_load_case(4, 10, n, typed=False, select=(6, 1, 0, 4)) for n in (UNORM, UINT)]
    run_cases(cases, arch, exec_masks=MASKS)


def format_store_case(components: int, data: int, number: int, *, typed: bool, half: str = "") -> Case:
    widths = LAYOUTS[data]
    size = sum(widths) // 8
    resource = Resource(idxen=True, stride=16, records=60, data=data, number=number, offset=16)

    def prepare(state: State) -> None:
        rng = np.random.default_rng(int(state.v[31, 0]))
        indices(state)
        resource.prepare(state)
        if number in (UINT, SINT):
            for c in range(4):
                state.v[DATA + c] = rng.integers(0, 1 << 32, LANES, dtype=np.uint32) >> rng.integers(
                    0, 32, LANES, dtype=np.uint32
                )
        elif half:
            values = rng.standard_normal((2, LANES, 2)).astype(np.float16)
            for c in range(2):
                state.v[DATA + c] = values[c].view(np.uint32).ravel()
        else:
            for c in range(4):
                scale = np.float32(1 if number in (UNORM, SNORM, FLOAT) else 300)
                state.v[DATA + c] = (rng.standard_normal(LANES).astype(np.float32) * scale).view(np.uint32)

    def source(state: State, lane: int, c: int) -> int:
        if not half:
            return int(state.v[DATA + c, lane])
        raw = int(state.v[DATA + c // 2, lane]) >> (16 if half == "high" or c % 2 else 0) & 0xFFFF
        if number == SINT:
            return (raw - 0x10000 if raw >> 15 else raw) & 0xFFFFFFFF
        return raw if number == UINT else float_bits(np.array([raw], np.uint16).view(np.float16).astype(np.float32)[0])

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = resource.place(state, lane, 0, size)
            if at is None:
                continue
            raw, shift = 0, 0
            for c, bits in enumerate(widths):
                raw |= (encode(source(state, lane, c) if c < components else 0, bits, number)) << shift
                shift += bits
            state.memory[at : at + size] = np.frombuffer(raw.to_bytes(size, "little"), np.uint8)

    registers_used = (components + 1) // 2 if half else components
    infix = {"": "", "low": "d16_", "high": "d16_hi_"}[half]
    name = f"{'t' if typed else ''}buffer_store_format_{infix}{'xyzw'[:components]}"
    text = f"{name} {registers(DATA, registers_used)}, {resource.text()}"
    if typed:
        text = text.replace(" idxen", f" format:{data | number << 4} idxen")
    return Case(f"{text} data format {data}, number format {number}", [text], expect, prepare)


def test_format_stores(arch: str) -> None:
    exact = [(d, n) for d, n in formats() if d not in (6, 7)]
    cases = [format_store_case(4, data, number, typed=typed) for data, number in exact for typed in (False, True)]
    for typed in (False, True):
        cases += [format_store_case(components, 10, UNORM, typed=typed) for components in (1, 2, 3)]
        for components in (1, 2, 3, 4):
            cases += [format_store_case(components, 12, n, typed=typed, half="low") for n in (FLOAT, SINT, UINT)]
    cases += [format_store_case(1, 2, number, typed=False, half="high") for number in (FLOAT, UINT)]
    run_cases(cases, arch, exec_masks=MASKS)


def test_small_float_formats_round_trip(arch: str) -> None:
    """10_11_11 and 11_11_10: every finite field survives a load and a store."""
    cases = []
    for data in (6, 7):
        resource = Resource(idxen=True, stride=16, records=64, data=data, number=FLOAT)

        def prepare(state: State, resource: Resource = resource, data: int = data) -> None:
            state.v[ADDRESS] = np.arange(LANES)
            finite_values(state, data, FLOAT)
            resource.prepare(state)

        def expect(state: State, resource: Resource = resource, data: int = data) -> None:
            for lane in state.lanes():
                at = resource.place(state, lane, 0, 4)
                raw, shift = load_bytes(state.memory, at, 4), 0
                for c, bits in enumerate(LAYOUTS[data]):
                    state.v[RESULT + c, lane] = decode(raw >> shift & ((1 << bits) - 1), bits, FLOAT)
                    shift += bits
                store_bytes(state.memory, at + 8, 4, raw)

        lines = [f"buffer_load_format_xyz v[{RESULT}:{RESULT + 2}], {resource.text()}", "s_waitcnt vmcnt(0)"]
        lines += [f"buffer_store_format_xyz v[{RESULT}:{RESULT + 2}], {replace(resource, offset=8).text()}"]
        cases.append(Case(f"data format {data}", lines, expect, prepare))
    run_cases(cases, arch, exec_masks=(ALL,))


def test_format_x_into_lds(arch: str) -> None:
    resource = Resource(idxen=True, stride=16, records=60, data=2, number=FLOAT, offset=16)

    def prepare(state: State) -> None:
        finite_values(state, 2, FLOAT)
        indices(state)
        resource.prepare(state)
        state.m0 = 256

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = resource.place(state, lane, 0, 2)
            value = 0 if at is None else decode(load_bytes(state.memory, at, 2), 16, FLOAT)
            store_bytes(state.lds, 256 + 16 + 4 * lane, 4, value)

    text = f"buffer_load_format_x {resource.text()} lds"
    run_cases([Case(text, [text], expect, prepare)], arch)
