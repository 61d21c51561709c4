"""GLOBAL (and FLAT on global memory) against references: widths, address forms, atomics, loads into LDS."""

import functools
from collections.abc import Callable

import numpy as np
import pytest

from emulated.memory_machine import (
    ADDRESS,
    DATA,
    LANES,
    LDS_BYTES,
    MEMORY_BYTES,
    RESULT,
    Case,
    State,
    registers,
    run_cases,
)
from emulated.memory_reference import (
    Format,
    Operation,
    float_operations,
    get,
    integer_operations,
    load_bytes,
    packed_add,
    put,
    random_halves,
    store_bytes,
)
from emulated.test_memory_lds import floats

LOADS = {
    "load_ubyte": Format(1),
    "load_sbyte": Format(1, signed=True),
    "load_ushort": Format(2),
    "load_sshort": Format(2, signed=True),
    "load_dword": Format(4),
    "load_dwordx2": Format(8),
    "load_dwordx3": Format(12),
    "load_dwordx4": Format(16),
    "load_ubyte_d16": Format(1, half="low"),
    "load_ubyte_d16_hi": Format(1, half="high"),
    "load_sbyte_d16": Format(1, signed=True, half="low"),
    "load_sbyte_d16_hi": Format(1, signed=True, half="high"),
    "load_short_d16": Format(2, half="low"),
    "load_short_d16_hi": Format(2, half="high"),
}
STORES = {
    "store_byte": Format(1),
    "store_byte_d16_hi": Format(1, half="high"),
    "store_short": Format(2),
    "store_short_d16_hi": Format(2, half="high"),
    "store_dword": Format(4),
    "store_dwordx2": Format(8),
    "store_dwordx3": Format(12),
    "store_dwordx4": Format(16),
}
SCALAR_BASE = 40


def positions(state: State, size: int, *, disjoint: bool) -> np.ndarray:
    """Byte positions in the memory block, unaligned; inside [64, 8192 - 64)."""
    rng = np.random.default_rng(int(state.v[31, 0]))
    if disjoint:
        return rng.permutation((MEMORY_BYTES - 256) // 16)[:LANES] * 16 + 64 + rng.integers(0, 17 - size, LANES)
    return rng.integers(64, MEMORY_BYTES - 64, LANES)


class Form:
    """How a global address is made: "pair" (VGPR pair + offset) or "saddr" (SGPR pair + VGPR + offset)."""

    def __init__(self, kind: str, offset: int) -> None:
        self.kind, self.offset = kind, offset

    def prepare(self, state: State, places: np.ndarray) -> None:
        # Lanes that are off point nowhere: touching them would fault.
        off = [lane for lane in range(LANES) if not state.exec >> lane & 1]
        if self.kind == "pair":
            addresses = (state.base + places.astype(np.int64) - self.offset).astype(np.uint64)
            addresses[off] = 0xDEAD_BEEF_0000
            state.set_pointers(ADDRESS, addresses)
        else:
            state.set_scalar_pointer(SCALAR_BASE, state.base - self.offset)
            state.v[ADDRESS] = places.astype(np.uint32)
            state.v[ADDRESS, off] = 0xFFFF_0000

    def text(self, head: str, data: str | None) -> str:
        address = registers(ADDRESS, 2) if self.kind == "pair" else f"v{ADDRESS}"
        operands = (
            [address]
            + ([data] if data else [])
            + [f"s[{SCALAR_BASE}:{SCALAR_BASE + 1}]" if self.kind == "saddr" else "off"]
        )
        return f"{head}{', '.join(operands)} offset:{self.offset}"


FORMS = [Form("pair", 0), Form("pair", -64), Form("saddr", 4095), Form("saddr", -4096)]


def place(state: State, form: Form, lane: int) -> int:
    """Position in the block, from the registers."""
    if form.kind == "pair":
        return (int(state.v[ADDRESS, lane]) | int(state.v[ADDRESS + 1, lane]) << 32) + form.offset - state.base
    return (
        (int(state.s[SCALAR_BASE]) | int(state.s[SCALAR_BASE + 1]) << 32)
        + int(state.v[ADDRESS, lane])
        + form.offset
        - state.base
    )


def load_case(name: str, form: Format, where: Form, result: int = RESULT) -> Case:
    def expect(state: State) -> None:
        for lane in state.lanes():
            put(
                state,
                result,
                lane,
                form.dwords,
                form.to_register(load_bytes(state.memory, place(state, where, lane), form.bytes)),
            )

    text = where.text(f"global_{name} {registers(result, form.dwords)}, ", None)
    return Case(text, [text], expect, lambda state: where.prepare(state, positions(state, form.bytes, disjoint=False)))


def store_case(name: str, form: Format, where: Form) -> Case:
    def expect(state: State) -> None:
        for lane in state.lanes():
            store_bytes(
                state.memory, place(state, where, lane), form.bytes, form.to_memory(get(state, DATA, lane, form.dwords))
            )

    text = where.text(f"global_{name} ", registers(DATA, form.dwords))
    return Case(text, [text], expect, lambda state: where.prepare(state, positions(state, form.bytes, disjoint=True)))


def test_global_loads(arch: str) -> None:
    cases = [load_case(name, form, where) for name, form in LOADS.items() for where in FORMS]
    # Loads over their own address.
    cases += [
        load_case(name, LOADS[name], where, ADDRESS)
        for name in ("load_dword", "load_dwordx2", "load_dwordx4")
        for where in FORMS[1:3]
    ]
    run_cases(cases, arch)


def test_global_stores(arch: str) -> None:
    run_cases([store_case(name, form, where) for name, form in STORES.items() for where in FORMS], arch)


def atomic_case(
    name: str,
    bits: int,
    operation: Operation,
    where: Form | None,
    *,
    operands: int,
    returns: bool,
    prepare: Callable | None = None,
) -> Case:
    """`where` is None for FLAT."""
    dwords, size = bits // 32, bits // 8
    used = where or Form("pair", 0)

    def set_up(state: State) -> None:
        if prepare:
            prepare(state)
        places = np.random.default_rng(int(state.v[31, 0])).permutation(MEMORY_BYTES // size - 64)[:LANES] * size
        used.prepare(state, places)
        for lane in range(0, LANES, 3):  # comparisons that hold
            if operands == 2:
                put(state, DATA + dwords, lane, dwords, load_bytes(state.memory, int(places[lane]), size))

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = place(state, used, lane)
            old = load_bytes(state.memory, at, size)
            store_bytes(
                state.memory,
                at,
                size,
                operation(old, get(state, DATA, lane, dwords), get(state, DATA + dwords, lane, dwords)),
            )
            if returns:
                put(state, RESULT, lane, dwords, old)

    result = f"{registers(RESULT, dwords)}, " if returns else ""
    data, tail = registers(DATA, operands * dwords), " sc0" if returns else ""
    if where:
        text = where.text(f"global_atomic_{name} {result}", data) + tail
    else:
        text = f"flat_atomic_{name} {result}{registers(ADDRESS, 2)}, {data}{tail}"
    return Case(text, [text], expect, set_up)


INTEGER_NAMES = ("swap", "cmpswap", "add", "sub", "smin", "umin", "smax", "umax", "and", "or", "xor", "inc", "dec")


@pytest.mark.parametrize("flat", [False, True])
def test_integer_atomics(arch: str, flat: bool) -> None:
    cases = []
    for bits, suffix in ((32, ""), (64, "_x2")):
        operations = integer_operations(bits)
        for name in INTEGER_NAMES:
            for returns in (False, True):
                where = None if flat else Form("saddr" if returns else "pair", 0)
                operands = 2 if name == "cmpswap" else 1
                cases.append(
                    atomic_case(name + suffix, bits, operations[name], where, operands=operands, returns=returns)
                )
    run_cases(cases, arch)


def float_memory(state: State, bits: int) -> None:
    floats(state, bits)
    state.memory[: LDS_BYTES // 16 * 16] = state.lds[: LDS_BYTES // 16 * 16]
    state.memory[LDS_BYTES // 16 * 16 :] = 0


@pytest.mark.parametrize("flat", [False, True])
def test_float_atomics(arch: str, flat: bool) -> None:
    singles, doubles = float_operations(32), float_operations(64)
    table = [("add_f32", 32, singles["add"]), *((f"{op}_f64", 64, doubles[op]) for op in ("add", "min", "max"))]
    cases = []
    for name, bits, operation in table:
        for returns in (False, True):
            where = None if flat else Form("pair", 0)
            cases.append(
                atomic_case(
                    name,
                    bits,
                    operation,
                    where,
                    operands=1,
                    returns=returns,
                    prepare=lambda s, b=bits: float_memory(s, b),
                )
            )
    run_cases(cases, arch)


def half_memory(state: State, kind: str) -> None:
    state.memory[:] = random_halves(MEMORY_BYTES // 2, kind, int(state.v[31, 3]))
    state.v[DATA] = random_halves(2 * LANES, kind, int(state.v[31, 4])).view(np.uint32)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_packed_float_atomics(arch: str, flat: bool, kind: str) -> None:
    def operation(memory: int, data: int, _: int) -> int:
        return packed_add(memory, data, kind)

    def case(returns: bool) -> Case:
        where = None if flat else Form("pair", 0)
        prepare = functools.partial(half_memory, kind=kind)
        return atomic_case(f"pk_add_{kind}", 32, operation, where, operands=1, returns=returns, prepare=prepare)

    run_cases([case(False), case(True)], arch)


def test_workgroups_share_atomics(arch: str) -> None:
    """Integer sums are exact whatever the order in which the groups run."""
    from emulated.assemble import assemble
    from flashinfer_jit import emulator

    text = """
      s_load_dwordx2 s[8:9], s[0:1], 0x0
      v_mov_b32_e32 v1, 0
      v_mov_b32_e32 v2, 1
      v_and_b32_e32 v3, 7, v0
      v_lshlrev_b32_e32 v3, 2, v3
      s_waitcnt lgkmcnt(0)
      global_atomic_add v1, v2, s[8:9]
      global_atomic_add v4, v3, v2, s[8:9] offset:64 sc0
      s_waitcnt vmcnt(0)
      s_endpgm"""
    counters = np.zeros(32, np.uint32)
    emulator.run(assemble(text, arch, arguments=("ptr",)), "kernel", 64, 256, [counters], arch=arch)
    assert counters[0] == 64 * 256
    assert (counters[16:24] == 64 * 32).all()


# Loads into LDS: name, bytes, signed, archs.
DIRECT = [
    ("ubyte", 1, False),
    ("sbyte", 1, True),
    ("ushort", 2, False),
    ("sshort", 2, True),
    ("dword", 4, False),
    ("dwordx3", 12, False),
    ("dwordx4", 16, False),
]


def store_direct(state: State, base: int, lane: int, size: int, signed: bool, raw: int) -> None:
    """Manual 10.3: one dword a lane, or 16 bytes for three and four dwords; the fourth dword of x3 is skipped."""
    step = 16 if size > 8 else 4
    value = Format(size, signed=signed).to_register(raw)
    at = base + lane * step
    if at + max(4, size) <= LDS_BYTES:
        store_bytes(state.lds, at, max(4, size), value)


def direct_case(name: str, size: int, signed: bool, where: Form, m0: int) -> Case:
    def prepare(state: State) -> None:
        state.m0 = m0
        where.prepare(state, positions(state, size, disjoint=False))

    def expect(state: State) -> None:
        base = (m0 & (0x3FFFC if state.arch == "gfx950" else 0xFFFC)) + where.offset
        for lane in state.lanes():
            store_direct(state, base, lane, size, signed, load_bytes(state.memory, place(state, where, lane), size))

    text = where.text(f"global_load_lds_{name} ", None)
    return Case(f"{text} m0={m0:#x}", [text], expect, prepare)


def test_global_loads_into_lds(arch: str) -> None:
    """LDS address: M0 without its two low bits, the offset, the lane; lanes beyond the LDS are masked off."""
    cases = []
    for name, size, signed in DIRECT:
        if size > 4 and arch == "gfx942":
            continue
        for where in (Form("pair", 0), Form("saddr", 16), Form("saddr", -16)):
            cases += [
                direct_case(name, size, signed, where, m0) for m0 in (0, 1024 + 3, LDS_BYTES - 100, 1 << 16 | 256)
            ]
    report = run_cases(cases, arch)
    assert report.lds_dma > 0 and report.out_of_range_lds_lanes > 0
