"""MUBUF against a reference of the buffer resource: ranges, strides, swizzles, atomics, loads into LDS."""

from dataclasses import replace

import numpy as np
import pytest

from emulated.memory_machine import (
    ADDRESS,
    ALL,
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
    store_bytes,
)
from emulated.memory_resource import Resource, indices
from emulated.test_memory_global import (
    DIRECT,
    INTEGER_NAMES,
    LOADS,
    STORES,
    float_memory,
    half_memory,
    store_direct,
)

MASKS = (ALL, 0x0F0F_F0F0_00FF_8001)


def raw_offsets(state: State) -> None:
    rng = np.random.default_rng(int(state.v[31, 0]))
    state.v[ADDRESS] = rng.permutation(MEMORY_BYTES // 32 - 8)[:LANES] * 32
    state.v[ADDRESS, ::7] += 2  # unaligned
    state.v[ADDRESS, 9], state.v[ADDRESS, 33] = 0x8000_0000, 0xFFFF_FFF8


def tail_offsets(state: State) -> None:
    """Around num_records = 4000."""
    state.v[ADDRESS] = np.random.default_rng(2).permutation(LANES) * 16 + 4000 - 32 * 16 - 40


RAW = Resource(offen=True, soffset=32, offset=16)
RESOURCES = {
    "raw": (RAW, raw_offsets),
    "raw, no offset": (Resource(offset=40, soffset=96), raw_offsets),
    "raw tail": (replace(RAW, records=4000), tail_offsets),
    "raw, empty": (replace(RAW, records=0), raw_offsets),
    "structured": (Resource(idxen=True, stride=48, records=64, offset=8), indices),
    "structured, offset": (Resource(idxen=True, offen=True, stride=64, records=60, soffset=16), indices),
    "structured, no stride": (Resource(idxen=True, records=4000, offset=16), indices),
    "swizzled": (Resource(idxen=True, offen=True, stride=64, records=64, swizzled=True), indices),
    "swizzled by 16": (Resource(idxen=True, offen=True, stride=32, records=60, swizzled=True, index_stride=1), indices),
    "thread": (Resource(add_thread=True, stride=32, soffset=8, records=0), indices),
    "thread, swizzled": (
        Resource(add_thread=True, stride=64, swizzled=True, index_stride=3, offen=True, records=0),
        lambda state: state.v.__setitem__(ADDRESS, np.uint32(8)),
    ),
    "unbound": (replace(RAW, data=0), raw_offsets),
}


def setting(name: str):
    resource, addresses = RESOURCES[name]

    def prepare(state: State) -> None:
        addresses(state)
        resource.prepare(state)

    return resource, prepare


def pieces(form: Format) -> list[tuple[int, int]]:
    return [(k, min(4, form.bytes)) for k in range(0, form.bytes, 4)]


def load_case(name: str, form: Format, kind: str) -> Case:
    resource, prepare = setting(kind)

    def expect(state: State) -> None:
        places = {lane: [resource.place(state, lane, k, n) for k, n in pieces(form)] for lane in state.lanes()}
        for lane, found in places.items():
            raw = 0
            for (k, size), at in zip(pieces(form), found, strict=True):
                raw |= (0 if at is None else load_bytes(state.memory, at, size)) << (8 * k)
            put(state, RESULT, lane, form.dwords, form.to_register(raw))

    text = f"buffer_{name} {registers(RESULT, form.dwords)}, {resource.text()}"
    return Case(f"{text} ({kind})", [text], expect, prepare)


def store_case(name: str, form: Format, kind: str) -> Case:
    resource, prepare = setting(kind)

    def expect(state: State) -> None:
        for lane in state.lanes():
            value = form.to_memory(get(state, DATA, lane, form.dwords))
            for k, size in pieces(form):
                at = resource.place(state, lane, k, size)
                if at is not None:
                    store_bytes(state.memory, at, size, value >> (8 * k))

    text = f"buffer_{name} {registers(DATA, form.dwords)}, {resource.text()}"
    return Case(f"{text} ({kind})", [text], expect, prepare)


def test_loads(arch: str) -> None:
    report = run_cases([load_case(n, f, kind) for n, f in LOADS.items() for kind in RESOURCES], arch, exec_masks=MASKS)
    assert report.out_of_range_buffer_lanes > 0


# Lanes of these write places of their own; others would race.
DISJOINT = (
    "raw", "raw tail", "raw, empty", "structured", "structured, offset", "swizzled", "swizzled by 16",
    "thread, swizzled", "unbound",
)  # fmt: skip


def test_stores(arch: str) -> None:
    kinds = [kind for kind in DISJOINT if "swizzled" not in kind]
    cases = [store_case(n, f, kind) for n, f in STORES.items() for kind in kinds]
    # A swizzled buffer holds elements of four bytes next to those of other lanes.
    cases += [store_case(n, STORES[n], kind) for n in ("store_dword", "store_byte", "store_short") for kind in DISJOINT]
    run_cases(cases, arch, exec_masks=MASKS)


def atomic_case(
    name: str, bits: int, operation: Operation, *, operands: int = 1, returns: bool = False, prepare=None
) -> Case:
    resource, size, dwords = replace(RAW, records=4000), bits // 8, bits // 32

    def set_up(state: State) -> None:
        if prepare:
            prepare(state)
        rng = np.random.default_rng(int(state.v[31, 0]))
        state.v[ADDRESS] = rng.permutation(4400 // size)[:LANES] * size  # some beyond the end
        state.v[ADDRESS, 3] = 0x8000_0000
        resource.prepare(state)
        if operands == 2:
            for lane in range(0, LANES, 3):
                at = resource.place(state, lane, 0, size)
                put(state, DATA + dwords, lane, dwords, 0 if at is None else load_bytes(state.memory, at, size))

    def expect(state: State) -> None:
        for lane in state.lanes():
            at, old = resource.place(state, lane, 0, size), 0
            if at is not None:
                old = load_bytes(state.memory, at, size)
                new = operation(old, get(state, DATA, lane, dwords), get(state, DATA + dwords, lane, dwords))
                store_bytes(state.memory, at, size, new)
            if returns:  # out of range: zero
                put(state, DATA, lane, dwords, old)

    tail = " sc0" if returns else ""
    text = f"buffer_atomic_{name} {registers(DATA, operands * dwords)}, {resource.text()}{tail}"
    return Case(text, [text], expect, set_up)


def test_integer_atomics(arch: str) -> None:
    cases = []
    for bits, suffix in ((32, ""), (64, "_x2")):
        for name in INTEGER_NAMES:
            operands = 2 if name == "cmpswap" else 1
            operation = integer_operations(bits)[name]
            cases += [atomic_case(name + suffix, bits, operation, operands=operands, returns=r) for r in (False, True)]
    run_cases(cases, arch, exec_masks=MASKS)


def test_float_atomics(arch: str) -> None:
    doubles = float_operations(64)
    table = [
        ("add_f32", 32, float_operations(32)["add"]),
        *((f"{o}_f64", 64, doubles[o]) for o in ("add", "min", "max")),
    ]
    cases = []
    for name, bits, operation in table:
        for returns in (False, True):
            cases.append(
                atomic_case(name, bits, operation, returns=returns, prepare=lambda s, b=bits: float_memory(s, b))
            )
    for suffix in ("f16", "bf16") if arch == "gfx950" else ("f16",):
        for returns in (False, True):
            cases.append(
                atomic_case(
                    f"pk_add_{suffix}",
                    32,
                    lambda m, d, _, suffix=suffix: packed_add(m, d, suffix),
                    returns=returns,
                    prepare=lambda s, suffix=suffix: half_memory(s, suffix),
                )
            )
    run_cases(cases, arch, exec_masks=MASKS)


def direct_case(name: str, size: int, signed: bool, kind: str, m0: int) -> Case:
    resource, prepare_resource = setting(kind)
    form = Format(size, signed=signed)

    def prepare(state: State) -> None:
        prepare_resource(state)
        state.m0 = m0

    def expect(state: State) -> None:
        base = (m0 & (0x3FFFF if state.arch == "gfx950" else 0xFFFF)) + resource.offset
        for lane in state.lanes():
            raw = 0
            for k, n in pieces(form):
                at = resource.place(state, lane, k, n)
                raw |= (0 if at is None else load_bytes(state.memory, at, n)) << (8 * k)
            store_direct(state, base, lane, size, signed, raw)

    text = f"buffer_load_{name} {resource.text()} lds"
    return Case(f"{text} m0={m0:#x} ({kind})", [text], expect, prepare)


def test_loads_into_lds(arch: str) -> None:
    """LDS address: M0, the instruction's offset, 4 or 16 bytes a lane; lanes out of range write zeros (9.1.9)."""
    widths = [d for d in DIRECT if d[1] <= 4 or arch == "gfx950"]
    kinds = ("raw", "raw tail", "structured", "thread, swizzled", "raw, no offset")
    cases = [direct_case(*d, kind, m0) for d in widths for kind in kinds for m0 in (0, 1024, LDS_BYTES - 90)]
    report = run_cases(cases, arch, exec_masks=MASKS)
    assert report.lds_dma > 0 and report.out_of_range_lds_lanes > 0


def test_cache_control_does_nothing(arch: str) -> None:
    lines = ["buffer_wbl2 sc0 sc1", "buffer_inv sc1"]
    run_cases([Case("buffer_wbl2, buffer_inv", lines, lambda state: None)], arch)


@pytest.mark.parametrize("records", [1, 2, 3, 5])
def test_a_dword_that_is_partly_in_range_counts_as_outside(arch: str, records: int) -> None:
    resource = Resource(offen=True, records=records)

    def prepare(state: State) -> None:
        state.v[ADDRESS] = np.arange(LANES) % 8
        resource.prepare(state)

    def expect(state: State) -> None:
        for lane in state.lanes():
            at = resource.place(state, lane, 0, 4)
            state.v[RESULT, lane] = 0 if at is None else load_bytes(state.memory, at, 4)

    text = f"buffer_load_dword v{RESULT}, {resource.text()}"
    run_cases([Case(text, [text], expect, prepare)], arch)
