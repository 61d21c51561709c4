"""DS instructions against references: reads, writes, two-address forms, atomics, counters."""

from collections.abc import Callable

import numpy as np
import pytest

from emulated.memory_machine import (
    ADDRESS,
    ALL,
    DATA,
    LANES,
    LDS_BYTES,
    RESULT,
    SECOND,
    Case,
    State,
    registers,
    run_cases,
)
from emulated.memory_reference import (
    Format,
    Operation,
    float_bits,
    float_operations,
    get,
    integer_operations,
    load_bytes,
    packed_add,
    put,
    random_halves,
    store_bytes,
)

READS = {
    "ds_read_u8": Format(1),
    "ds_read_i8": Format(1, signed=True),
    "ds_read_u16": Format(2),
    "ds_read_i16": Format(2, signed=True),
    "ds_read_u8_d16": Format(1, half="low"),
    "ds_read_u8_d16_hi": Format(1, half="high"),
    "ds_read_i8_d16": Format(1, signed=True, half="low"),
    "ds_read_i8_d16_hi": Format(1, signed=True, half="high"),
    "ds_read_u16_d16": Format(2, half="low"),
    "ds_read_u16_d16_hi": Format(2, half="high"),
    "ds_read_b32": Format(4),
    "ds_read_b64": Format(8),
    "ds_read_b96": Format(12),
    "ds_read_b128": Format(16),
}
WRITES = {
    "ds_write_b8": Format(1),
    "ds_write_b16": Format(2),
    "ds_write_b8_d16_hi": Format(1, half="high"),
    "ds_write_b16_d16_hi": Format(2, half="high"),
    "ds_write_b32": Format(4),
    "ds_write_b64": Format(8),
    "ds_write_b96": Format(12),
    "ds_write_b128": Format(16),
}


def addresses(state: State, *, step: int = 1, below: int = LDS_BYTES, wild: bool = True) -> None:
    """Random addresses in units of `step`; some lanes at and beyond the end, one at the top of the 32-bit range."""
    rng = np.random.default_rng(int(state.v[31, 0]))
    state.v[ADDRESS] = rng.integers(0, below // step, LANES) * step
    if wild:
        state.v[ADDRESS, ::9] = LDS_BYTES - rng.integers(0, 5, len(state.v[ADDRESS, ::9])) * 4
        state.v[ADDRESS, 5], state.v[ADDRESS, 40] = 0xFFFF_FFF0, 1 << 20


def separate_addresses(state: State, size: int) -> None:
    """Every lane its own element, shuffled."""
    rng = np.random.default_rng(int(state.v[31, 0]))
    state.v[ADDRESS] = rng.permutation(LDS_BYTES // size - 16)[:LANES] * size


def read_case(name: str, form: Format, offset: int, wild: bool, result: int = RESULT) -> Case:
    def expect(state: State) -> None:
        for lane in state.lanes():
            at = int(state.v[ADDRESS, lane]) + offset & 0xFFFFFFFF
            put(state, result, lane, form.dwords, form.to_register(load_bytes(state.lds, at, form.bytes)))

    text = f"{name} {registers(result, form.dwords)}, v{ADDRESS} offset:{offset}"
    return Case(text, [text], expect, lambda state: addresses(state, below=LDS_BYTES - 200, wild=wild))


def write_case(name: str, form: Format, offset: int, wild: bool) -> Case:
    def prepare(state: State) -> None:
        separate_addresses(state, 16)
        state.v[ADDRESS] += np.uint32(int(state.v[31, 1]) % 4)  # unaligned on purpose
        if wild:
            state.v[ADDRESS, 3], state.v[ADDRESS, 60] = LDS_BYTES - 8, 0xFFFF_0000

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = int(state.v[ADDRESS, lane]) + offset & 0xFFFFFFFF
            store_bytes(state.lds, at, form.bytes, form.to_memory(get(state, DATA, lane, form.dwords)))

    text = f"{name} v{ADDRESS}, {registers(DATA, form.dwords)} offset:{offset}"
    return Case(text, [text], expect, prepare)


def test_reads(arch: str) -> None:
    cases = [
        read_case(name, form, offset, wild)
        for name, form in READS.items()
        for offset, wild in ((0, False), (136, True))
    ]
    # A read into its own address register.
    cases += [
        read_case(name, READS[name], 16, True, ADDRESS)
        for name in ("ds_read_b32", "ds_read_b64", "ds_read_b128", "ds_read_u8")
    ]
    report = run_cases(cases, arch)
    assert report.out_of_range_lds_lanes > 0


def test_writes(arch: str) -> None:
    run_cases(
        [
            write_case(name, form, offset, wild)
            for name, form in WRITES.items()
            for offset, wild in ((0, False), (64, True))
        ],
        arch,
    )


def two_address_case(name: str, size: int, unit: int, write: bool) -> Case:
    first, second = (3, 100) if unit == 1 else (1, 2)  # the two pieces of 64 consecutive lanes do not meet
    dwords = size // 4
    offsets = (first * size * unit, second * size * unit)

    def prepare(state: State) -> None:
        state.v[ADDRESS] = np.random.default_rng(3).permutation(LANES) * size
        state.v[ADDRESS, 7] = LDS_BYTES - second * size * unit  # the second piece is just outside

    def expect(state: State) -> None:
        for lane in state.lanes():
            address = int(state.v[ADDRESS, lane])
            if write:
                for offset, source in zip(offsets, (DATA, SECOND), strict=True):
                    store_bytes(state.lds, address + offset, size, get(state, source, lane, dwords))
            else:
                for k, offset in enumerate(offsets):
                    put(state, RESULT + k * dwords, lane, dwords, load_bytes(state.lds, address + offset, size))

    if write:
        data = f"{registers(DATA, dwords)}, {registers(SECOND, dwords)}"
        text = f"{name} v{ADDRESS}, {data} offset0:{first} offset1:{second}"
    else:
        text = f"{name} {registers(RESULT, 2 * dwords)}, v{ADDRESS} offset0:{first} offset1:{second}"
    return Case(text, [text], expect, prepare)


def test_two_address_forms(arch: str) -> None:
    cases = []
    for size, unit, suffix in ((4, 1, "2_b32"), (4, 64, "2st64_b32"), (8, 1, "2_b64"), (8, 64, "2st64_b64")):
        cases += [
            two_address_case(f"ds_read{suffix}", size, unit, False),
            two_address_case(f"ds_write{suffix}", size, unit, True),
        ]
    run_cases(cases, arch)


def exchange_case(name: str, size: int, unit: int) -> Case:
    dwords, offsets = size // 4, (2 * size * unit, 5 * size * unit)

    def expect(state: State) -> None:
        for lane in state.lanes():
            address = int(state.v[ADDRESS, lane])
            old = [load_bytes(state.lds, address + offset, size) for offset in offsets]
            for offset, source in zip(offsets, (DATA, SECOND), strict=True):
                store_bytes(state.lds, address + offset, size, get(state, source, lane, dwords))
            for k in range(2):
                put(state, RESULT + k * dwords, lane, dwords, old[k])

    def prepare(state: State) -> None:
        state.v[ADDRESS] = np.random.default_rng(5).permutation(LANES) * (8 * size if unit == 1 else size)
        state.v[ADDRESS, 9] = LDS_BYTES - 3 * size if unit == 1 else LDS_BYTES + 64

    data = f"{registers(DATA, dwords)}, {registers(SECOND, dwords)}"
    text = f"{name} {registers(RESULT, 2 * dwords)}, v{ADDRESS}, {data} offset0:2 offset1:5"
    return Case(text, [text], expect, prepare)


def test_exchanges(arch: str) -> None:
    forms = ((4, 1, "2_rtn_b32"), (4, 64, "2st64_rtn_b32"), (8, 1, "2_rtn_b64"), (8, 64, "2st64_rtn_b64"))
    run_cases([exchange_case(f"ds_wrxchg{suffix}", size, unit) for size, unit, suffix in forms], arch)


def floats(state: State, bits: int) -> None:
    """Finite values of all magnitudes, zeros of both signs and infinities, in the data register and in the LDS."""
    rng = np.random.default_rng(int(state.v[31, 2]))
    kind = np.float32 if bits == 32 else np.float64
    special = np.array([0.0, -0.0, np.inf, -1.5, 1e-40, -1e-42], kind)
    pool = np.concatenate(
        [rng.standard_normal(122).astype(kind) * kind(10.0) ** rng.integers(-30, 30, 122).astype(kind), special]
    )
    state.lds[: LDS_BYTES // 16 * 16] = rng.choice(pool, LDS_BYTES // (bits // 8)).view(np.uint8)
    chosen = rng.choice(pool[:-3], LANES)  # no inf - inf
    chosen[np.isinf(chosen)] = 1
    words = chosen.view(np.uint32).reshape(LANES, bits // 32)
    for k in range(bits // 32):
        state.v[DATA + k] = words[:, k]


def atomic_case(
    name: str,
    bits: int,
    operation: Operation,
    *,
    returns: bool,
    operands: int,
    prepare: Callable[[State], None] | None = None,
) -> Case:
    dwords, size = bits // 32, bits // 8

    def set_up(state: State) -> None:
        separate_addresses(state, size)
        for lane in range(0, LANES, 4):  # comparisons that hold
            at = int(state.v[ADDRESS, lane]) + 32
            put(state, DATA, lane, dwords, load_bytes(state.lds, at, size))
        if prepare:
            prepare(state)
        state.v[ADDRESS, 11] = LDS_BYTES + 1024

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = int(state.v[ADDRESS, lane]) + 32
            old = load_bytes(state.lds, at, size)
            store_bytes(
                state.lds, at, size, operation(old, get(state, DATA, lane, dwords), get(state, SECOND, lane, dwords))
            )
            if returns:
                put(state, RESULT, lane, dwords, old)

    result = f"{registers(RESULT, dwords)}, " if returns else ""
    sources = ", ".join(registers(first, dwords) for first in (DATA, SECOND)[:operands])
    text = f"{name} {result}v{ADDRESS}, {sources} offset:32"
    return Case(text, [text], expect, set_up)


def with_return(name: str) -> str:
    head, _, kind = name.rpartition("_")
    return f"{head}_rtn_{kind}"


def test_integer_atomics(arch: str) -> None:
    cases = []
    for bits in (32, 64):
        operations = integer_operations(bits)
        names = {f"{op}_u{bits}": op for op in ("add", "sub", "rsub", "inc", "dec")} | {
            f"{op}_b{bits}": op for op in ("and", "or", "xor", "mskor", "cmpst")
        }
        names |= {f"min_i{bits}": "smin", f"max_i{bits}": "smax", f"min_u{bits}": "umin", f"max_u{bits}": "umax"}
        for name, op in names.items():
            operands = 2 if op in ("mskor", "cmpst") else 1
            cases.append(atomic_case(f"ds_{name}", bits, operations[op], returns=False, operands=operands))
            cases.append(atomic_case(with_return(f"ds_{name}"), bits, operations[op], returns=True, operands=operands))
        cases.append(atomic_case(f"ds_wrxchg_rtn_b{bits}", bits, operations["swap"], returns=True, operands=1))
    cases.append(atomic_case("ds_wrap_rtn_b32", 32, integer_operations(32)["wrap"], returns=True, operands=2))
    run_cases(cases, arch)


def test_float_atomics(arch: str) -> None:
    cases = []
    for bits in (32, 64):
        for op, operation in float_operations(bits).items():
            operands = 2 if op == "cmpst" else 1
            for returns in (False, True):
                name = f"ds_{op}_f{bits}"
                cases.append(
                    atomic_case(
                        with_return(name) if returns else name,
                        bits,
                        operation,
                        returns=returns,
                        operands=operands,
                        prepare=lambda s, b=bits: floats(s, b),
                    )
                )
    run_cases(cases, arch)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_packed_float_atomics(arch: str, kind: str) -> None:
    def prepare(state: State) -> None:
        state.lds[:] = random_halves(LDS_BYTES // 2, kind, int(state.v[31, 3]))
        state.v[DATA] = random_halves(2 * LANES, kind, int(state.v[31, 4])).view(np.uint32)

    def operation(memory: int, data: int, _: int) -> int:
        return packed_add(memory, data, kind)

    names = ((f"ds_pk_add_{kind}", False), (f"ds_pk_add_rtn_{kind}", True))
    run_cases([atomic_case(n, 32, operation, returns=r, operands=1, prepare=prepare) for n, r in names], arch)


QUIET, SIGNALING, INFINITY = 0x7FC12345, 0x7F812345, 0x7F800000
# memory, data, result of: add, min, max (manual 9.2.3)
SPECIAL_FLOATS = [
    (QUIET, 0x3F800000, QUIET, 0x3F800000, 0x3F800000),
    (0x3F800000, QUIET, QUIET, 0x3F800000, 0x3F800000),
    (SIGNALING, 0x3F800000, QUIET, QUIET, QUIET),
    (0x3F800000, SIGNALING, QUIET, QUIET, QUIET),
    (0xFFC00001, QUIET, 0xFFC00001, None, None),
    (INFINITY, 0xFF800000, 0x7FC00000, 0xFF800000, INFINITY),
    (0x80000000, 0x00000000, 0x00000000, 0x80000000, 0x00000000),
    (0x00000000, 0x80000000, 0x00000000, 0x80000000, 0x00000000),
    (0x80000000, 0x80000000, 0x80000000, 0x80000000, 0x80000000),
    (0x00000001, 0x00000002, 0x00000003, 0x00000001, 0x00000002),
]


@pytest.mark.parametrize(("name", "column"), [("add", 2), ("min", 3), ("max", 4)])
def test_float_atomic_special_values(arch: str, name: str, column: int) -> None:
    table = {(row[0], row[1]): row[column] for row in SPECIAL_FLOATS if row[column] is not None}

    def prepare(state: State) -> None:
        state.v[ADDRESS] = np.arange(LANES) * 4
        pairs = list(table)
        for lane in range(LANES):
            memory, data = pairs[lane % len(pairs)]
            store_bytes(state.lds, lane * 4 + 32, 4, memory)
            state.v[DATA, lane] = data

    case = atomic_case(f"ds_{name}_rtn_f32", 32, lambda m, d, _: table[m, d], returns=True, operands=1, prepare=prepare)
    original = case.prepare

    def in_range(state: State) -> None:
        original(state)
        state.v[ADDRESS, 11] = 44

    case.prepare = in_range
    run_cases([case], arch, exec_masks=(ALL,))


def test_denormals_follow_the_mode_register(arch: str) -> None:
    """Manual 9.2.2: adds flush inputs and result where MODE says so; min and max only flush what they compare."""

    def flushing(name: str, expect: Callable[[int, int], int]) -> Case:
        def prepare(state: State) -> None:
            state.v[ADDRESS] = np.arange(LANES) * 4
            for lane in range(LANES):
                store_bytes(state.lds, lane * 4, 4, (0x00400000, 0x00800001, 0x3F800000)[lane % 3])
                state.v[DATA, lane] = (0x80200000, 0x80800000, 0x00000005)[lane % 3]

        def apply(state: State) -> None:
            for lane in state.lanes():
                old = load_bytes(state.lds, lane * 4, 4)
                store_bytes(state.lds, lane * 4, 4, expect(old, int(state.v[DATA, lane])))

        lines = [
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 0",
            f"{name} v{ADDRESS}, v{DATA}",
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 3",
        ]
        return Case(f"{name}, denormals flushed", lines, apply, prepare)

    def flush(bits: int) -> int:
        return bits & 0x80000000 if not bits & 0x7F800000 else bits

    def add(m: int, d: int) -> int:
        total = np.array([flush(m), flush(d)], np.uint32).view(np.float32).sum(dtype=np.float32)
        return flush(float_bits(total))

    def least(m: int, d: int) -> int:
        values = np.array([flush(m), flush(d)], np.uint32).view(np.float32)
        keys = [(float(values[k]), not np.signbit(values[k])) for k in range(2)]
        return m if keys[0] <= keys[1] else d

    run_cases([flushing("ds_add_f32", add), flushing("ds_min_f32", least)], arch, exec_masks=(ALL,))


def test_all_lanes_on_one_counter(arch: str) -> None:
    def expect(state: State) -> None:
        old, count = load_bytes(state.lds, 40, 4), len(state.lanes())
        store_bytes(state.lds, 40, 4, old + count & 0xFFFFFFFF)

    def prepare(state: State) -> None:
        state.v[ADDRESS], state.v[DATA] = 40, 1

    run_cases([Case("ds_add_u32", [f"ds_add_u32 v{ADDRESS}, v{DATA}"], expect, prepare)], arch)


@pytest.mark.parametrize(("name", "sign"), [("ds_append", 1), ("ds_consume", -1)])
def test_append_and_consume(arch: str, name: str, sign: int) -> None:
    def prepare(state: State) -> None:
        state.m0 = 128

    def expect(state: State) -> None:
        old = load_bytes(state.lds, 128 + 16, 4)
        store_bytes(state.lds, 144, 4, old + sign * len(state.lanes()) & 0xFFFFFFFF)
        for lane in state.lanes():
            state.v[RESULT, lane] = old

    run_cases([Case(name, [f"{name} v{RESULT} offset:16"], expect, prepare)], arch)


def test_addtid(arch: str) -> None:
    def prepare(state: State) -> None:
        state.m0 = 0xABCD0000 | 512  # only 16 bits count

    def expect_read(state: State) -> None:
        for lane in state.lanes():
            state.v[RESULT, lane] = load_bytes(state.lds, 512 + 64 + lane * 4, 4)

    def expect_write(state: State) -> None:
        for lane in state.lanes():
            store_bytes(state.lds, 512 + 64 + lane * 4, 4, int(state.v[DATA, lane]))

    read = Case("ds_read_addtid_b32", [f"ds_read_addtid_b32 v{RESULT} offset:64"], expect_read, prepare)
    write = Case("ds_write_addtid_b32", [f"ds_write_addtid_b32 v{DATA} offset:64"], expect_write, prepare)
    run_cases([read, write, Case("ds_nop", ["ds_nop"], lambda state: None)], arch)


def test_conditional_exchange(arch: str) -> None:
    def prepare(state: State) -> None:
        separate_addresses(state, 8)
        state.v[ADDRESS] += 3  # the low three bits are ignored

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = int(state.v[ADDRESS, lane]) + 24 & 0xFFF8
            for k in range(2):
                put(state, RESULT + k, lane, 1, load_bytes(state.lds, at + 4 * k, 4))
                data = int(state.v[DATA + k, lane])
                if data >> 31:
                    store_bytes(state.lds, at + 4 * k, 4, data & 0x7FFFFFFF)

    text = f"ds_condxchg32_rtn_b64 {registers(RESULT, 2)}, v{ADDRESS}, {registers(DATA, 2)} offset:24"
    run_cases([Case(text, [text], expect, prepare)], arch)


def test_accumulation_registers(arch: str) -> None:
    """DS data may be in AccVGPRs."""

    def prepare(state: State) -> None:
        separate_addresses(state, 16)

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = int(state.v[ADDRESS, lane])
            value = get(state, DATA, lane, 2)
            store_bytes(state.lds, at, 8, value)
        for lane in state.lanes():
            put(state, RESULT, lane, 2, load_bytes(state.lds, int(state.v[ADDRESS, lane]), 8))

    lines = [f"v_accvgpr_write_b32 a{k}, v{DATA + k}" for k in range(2)] + [
        f"ds_write_b64 v{ADDRESS}, a[0:1]",
        f"ds_read_b64 a[2:3], v{ADDRESS}",
        "s_nop 0",
    ]
    lines += [f"v_accvgpr_read_b32 v{RESULT + k}, a{2 + k}" for k in range(2)]
    run_cases([Case("a[0:1]", lines, expect, prepare)], arch)
