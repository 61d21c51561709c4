"""SCRATCH instructions, and FLAT ones on the shared and private apertures, against references."""

import numpy as np

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
from emulated.memory_reference import Format, get, load_bytes, put, store_bytes
from emulated.test_memory_global import DIRECT, LOADS, STORES, store_direct

SCRATCH_BYTES = 256
SHARED_APERTURE, PRIVATE_APERTURE = 1 << 50, 1 << 51

# Scratch: offsets from an SGPR, a VGPR, both or neither (manual table 56); three forms write, one reads back.
SCRATCH_FORMS = {
    "off": ("off", "off"),
    "sgpr": ("off", "s40"),
    "vgpr": (f"v{ADDRESS}", "off"),
    "both": (f"v{ADDRESS}", "s40"),
}


def scratch_case(store: str, load: str, kind: str, stored: Format, loaded: Format) -> Case:
    vector, scalar = SCRATCH_FORMS[kind]

    def prepare(state: State) -> None:
        state.s[40] = 20
        state.v[ADDRESS] = np.random.default_rng(int(state.v[31, 0])).integers(0, 40, LANES)  # unaligned

    def expect(state: State) -> None:
        for lane in state.lanes():
            memory = np.zeros(SCRATCH_BYTES, np.uint8)  # the emulator starts with zeros; stores of one lane are its own
            for n in range(5):
                store_bytes(memory, 60 + 16 * n, 16, get(state, DATA, lane, 4))
            at = 64 + (20 if scalar != "off" else 0) + (int(state.v[ADDRESS, lane]) if vector != "off" else 0)
            store_bytes(memory, at, stored.bytes, stored.to_memory(get(state, DATA, lane, stored.dwords)))
            put(state, RESULT, lane, loaded.dwords, loaded.to_register(load_bytes(memory, at, loaded.bytes)))

    lines = [f"scratch_store_dwordx4 off, v[{DATA}:{DATA + 3}], off offset:{60 + 16 * n}" for n in range(5)]
    lines += [f"scratch_{store} {vector}, {registers(DATA, stored.dwords)}, {scalar} offset:64", "s_waitcnt vmcnt(0)"]
    lines += [f"scratch_{load} {registers(RESULT, loaded.dwords)}, {vector}, {scalar} offset:64"]
    return Case(" ".join(lines[5:]), lines, expect, prepare)


def test_scratch(arch: str) -> None:
    pairs = [
        (store, STORES[store], load, LOADS[load]) for store, load in zip(sorted(STORES), sorted(LOADS), strict=False)
    ]
    pairs += [("store_dwordx4", STORES["store_dwordx4"], load, form) for load, form in LOADS.items()]
    cases = [
        scratch_case(store, load, kind, stored, loaded)
        for store, stored, load, loaded in pairs
        for kind in SCRATCH_FORMS
    ]
    report = run_cases(cases, arch, scratch_bytes=SCRATCH_BYTES)
    assert report.scratch_read > 0 and report.scratch_written > 0


def flat_places(state: State, size: int) -> None:
    """A third of the lanes in global memory, in the LDS and in scratch; lanes that are off point nowhere."""
    rng = np.random.default_rng(int(state.v[31, 0]))
    addresses = np.zeros(LANES, np.uint64)
    globally = rng.permutation(MEMORY_BYTES // 16 - 2)[:LANES] * 16
    shared = rng.permutation(LDS_BYTES // 16 - 2)[:LANES] * 16
    for lane in range(LANES):
        choice = lane % 3
        addresses[lane] = [
            state.base + int(globally[lane]),
            SHARED_APERTURE + int(shared[lane]),
            PRIVATE_APERTURE + 16 * (lane % 13),
        ][choice]
        if not state.exec >> lane & 1:
            addresses[lane] = 0x1234_5678_9ABC
    if state.exec >> 1 & 1:
        addresses[1] = SHARED_APERTURE + LDS_BYTES - size + 4  # its last dword is outside
    state.set_pointers(ADDRESS, addresses)


def flat_case(store: str, stored: Format, load: str, loaded: Format) -> Case:
    offset = 3

    def expect(state: State) -> None:
        for lane in state.lanes():
            value = stored.to_memory(get(state, DATA, lane, stored.dwords))
            address = (int(state.v[ADDRESS, lane]) | int(state.v[ADDRESS + 1, lane]) << 32) + offset
            private = np.zeros(SCRATCH_BYTES, np.uint8)
            if address >= PRIVATE_APERTURE:
                block, at = private, address - PRIVATE_APERTURE
                for n in range(0, SCRATCH_BYTES, 16):
                    store_bytes(private, n, 16, get(state, DATA, lane, 4))
            elif address >= SHARED_APERTURE:
                block, at = state.lds, address - SHARED_APERTURE
            else:
                block, at = state.memory, address - state.base
            for n in range(stored.bytes):  # byte by byte: the hardware splits unaligned accesses
                if at + n < len(block):
                    block[at + n] = value >> (8 * n) & 0xFF
            raw = sum(int(block[at + n]) << (8 * n) for n in range(loaded.bytes) if at + n < len(block))
            put(state, RESULT, lane, loaded.dwords, loaded.to_register(raw))

    lines = [f"scratch_store_dwordx4 off, v[{DATA}:{DATA + 3}], off offset:{n}" for n in range(0, SCRATCH_BYTES, 16)]
    lines += [
        f"flat_{store} {registers(ADDRESS, 2)}, {registers(DATA, stored.dwords)} offset:{offset}",
        "s_waitcnt vmcnt(0) lgkmcnt(0)",
    ]
    lines += [f"flat_{load} {registers(RESULT, loaded.dwords)}, {registers(ADDRESS, 2)} offset:{offset}"]
    return Case(lines[-3], lines, expect, lambda state: flat_places(state, max(stored.bytes, loaded.bytes) + offset))


def test_flat_apertures(arch: str) -> None:
    cases = [flat_case(store, form, "load_dwordx4", LOADS["load_dwordx4"]) for store, form in STORES.items()]
    cases += [flat_case("store_dwordx4", STORES["store_dwordx4"], load, form) for load, form in LOADS.items()]
    run_cases(cases, arch, scratch_bytes=SCRATCH_BYTES)


def test_the_aperture_registers_give_flat_pointers(arch: str) -> None:
    """src_shared_base and src_private_base, as the compiler uses them for generic pointers."""

    def prepare(state: State) -> None:
        state.v[ADDRESS] = np.arange(LANES) * 4 + 512

    def expect(state: State) -> None:
        for lane in state.lanes():
            store_bytes(state.lds, 512 + 4 * lane, 4, int(state.v[DATA, lane]))
            state.v[RESULT, lane] = state.v[DATA + 1, lane]
            state.v[ADDRESS + 1, lane] = PRIVATE_APERTURE >> 32
            state.v[ADDRESS, lane] = 16

    lines = [
        "s_mov_b64 s[20:21], src_shared_base",
        f"v_mov_b32_e32 v{ADDRESS + 1}, s21",
        f"flat_store_dword {registers(ADDRESS, 2)}, v{DATA}",
    ]
    lines += [
        "s_mov_b64 s[20:21], src_private_base",
        f"v_mov_b32_e32 v{ADDRESS + 1}, s21",
        f"v_mov_b32_e32 v{ADDRESS}, 16",
    ]
    lines += [
        f"flat_store_dword {registers(ADDRESS, 2)}, v{DATA + 1}",
        f"scratch_load_dword v{RESULT}, off, off offset:16",
    ]
    run_cases([Case("apertures", lines, expect, prepare)], arch, scratch_bytes=64)


def test_flat_atomics_on_lds(arch: str) -> None:
    def prepare(state: State) -> None:
        state.set_pointers(ADDRESS, np.uint64(SHARED_APERTURE) + np.arange(LANES, dtype=np.uint64) * np.uint64(8))

    def expect(state: State) -> None:
        for lane in state.lanes():
            old = load_bytes(state.lds, 8 * lane, 8)
            put(state, RESULT, lane, 2, old)
            store_bytes(state.lds, 8 * lane, 8, old + get(state, DATA, lane, 2) & (1 << 64) - 1)

    text = f"flat_atomic_add_x2 {registers(RESULT, 2)}, {registers(ADDRESS, 2)}, {registers(DATA, 2)} sc0"
    run_cases([Case(text, [text], expect, prepare)], arch)


def test_scratch_loads_into_lds(arch: str) -> None:
    cases = []
    for name, size, signed in DIRECT[:5]:

        def expect(state: State, size: int = size, signed: bool = signed) -> None:
            for lane in state.lanes():
                raw = get(state, DATA, lane, 4) >> 32 & ((1 << 8 * size) - 1)
                store_direct(state, 512 + 36, lane, size, signed, raw)

        def prepare(state: State) -> None:
            state.m0 = 512

        lines = [
            f"scratch_store_dwordx4 off, v[{DATA}:{DATA + 3}], off offset:32",
            "s_waitcnt vmcnt(0)",
            f"scratch_load_lds_{name} off, off offset:36",
        ]
        cases.append(Case(lines[-1], lines, expect, prepare))
    run_cases(cases, arch, scratch_bytes=64)
