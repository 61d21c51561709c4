"""DS instructions that move data between lanes: permute, bpermute, all modes of swizzle, gfx950's transposing reads."""

import numpy as np
import pytest

from emulated.memory_machine import (
    ADDRESS,
    ALL,
    DATA,
    LANES,
    LDS_BYTES,
    RESULT,
    Case,
    State,
    registers,
    run_cases,
)
from emulated.memory_reference import get, load_bytes, put

OFFSETS = (0, 4, 252, 1000)


def lane_addresses(state: State) -> None:
    rng = np.random.default_rng(int(state.v[31, 0]))
    state.v[ADDRESS] = (
        rng.integers(0, 64, LANES) * 4 + rng.integers(0, 4, LANES) + rng.integers(0, 1 << 20, LANES) * 256
    )


def permute_case(offset: int) -> Case:
    def expect(state: State) -> None:
        row = np.zeros(LANES, np.uint32)
        for lane in state.lanes():
            row[(int(state.v[ADDRESS, lane]) + offset) // 4 % 64] = state.v[DATA, lane]
        for lane in state.lanes():
            state.v[RESULT, lane] = row[lane]

    text = f"ds_permute_b32 v{RESULT}, v{ADDRESS}, v{DATA} offset:{offset}"
    return Case(text, [text], expect, lane_addresses)


def bpermute_case(offset: int, result: int) -> Case:
    def expect(state: State) -> None:
        data, on = state.v[DATA].copy(), set(state.lanes())
        sources = [(int(a) + offset) // 4 % 64 for a in state.v[ADDRESS]]
        for lane in state.lanes():
            state.v[result, lane] = data[sources[lane]] if sources[lane] in on else 0

    text = f"ds_bpermute_b32 v{result}, v{ADDRESS}, v{DATA} offset:{offset}"
    return Case(text, [text], expect, lane_addresses)


def test_permutes(arch: str) -> None:
    run_cases(
        [permute_case(offset) for offset in OFFSETS]
        + [bpermute_case(o, r) for o in OFFSETS for r in (RESULT, DATA, ADDRESS)],
        arch,
    )


def swizzle_source(offset: int, lane: int) -> int:
    """Lane that `lane` reads, from the pseudocode of the ISA manual (section 12.12, DS_SWIZZLE_B32)."""
    if offset >= 0xE000:
        mask = offset & 31
        source = int(f"{lane & 31:05b}"[::-1], 2) >> bin(mask).count("1")
        return source | lane & mask | lane & 32
    if offset >= 0xC000:
        by, mask = offset >> 5 & 31, offset & 31
        moved = lane - by if offset >> 10 & 1 else lane + by
        return (lane & mask | moved & ~mask) & 31 | lane & 32
    if offset >= 0x8000:
        return lane // 4 * 4 + (offset >> 2 * (lane % 4) & 3)
    return ((lane & 31 & offset) | (offset >> 5 & 31)) ^ (offset >> 10 & 31) | lane & 32


def swizzle_case(offset: int) -> Case:
    def expect(state: State) -> None:
        data, on = state.v[DATA].copy(), set(state.lanes())
        for lane in state.lanes():
            source = swizzle_source(offset, lane)
            state.v[RESULT, lane] = data[source] if source in on else 0

    text = f"ds_swizzle_b32 v{RESULT}, v{DATA} offset:{offset:#x}"
    return Case(text, [text], expect)


def test_swizzle_modes(arch: str) -> None:
    masks = [0x041F, 0x401F, 0x7C1F, 0x0000 | 7 << 5, 0x00F8 | 0x18, 0x1C15]
    quads = [0x8000 | 0b11_10_01_00, 0x8000 | 0b00_01_10_11, 0x8000 | 0b01_01_01_01]
    rotates = [
        0xC000 | by << 5 | right << 10 | mask for by, mask in ((1, 0), (1, 1), (7, 3), (31, 0)) for right in (0, 1)
    ]
    run_cases([swizzle_case(o) for o in (*masks, *quads, *rotates, 0xE000, 0xE010, 0xE01F, 0xE003)], arch)


def test_swizzle_examples_of_the_manual() -> None:
    """The lists that the manual prints, 1-based, for the first 32 lanes."""
    fft = "1 11 9 19 5 15 d 1d 3 13 b 1b 7 17 f 1f 2 12 a 1a 6 16 e 1e 4 14 c 1c 8 18 10 20"
    assert [swizzle_source(0xE000, lane) + 1 for lane in range(32)] == [int(x, 16) for x in fft.split()]
    rotated = "1 4 3 6 5 8 7 a 9 c b e d 10 f 12 11 14 13 16 15 18 17 1a 19 1c 1b 1e 1d 20 1f 2"
    assert [swizzle_source(0xC000 | 1 << 5 | 1, lane) + 1 for lane in range(32)] == [
        int(x, 16) for x in rotated.split()
    ]


TRANSPOSES = {
    "ds_read_b64_tr_b16": (16, 2),
    "ds_read_b64_tr_b8": (8, 2),
    "ds_read_b64_tr_b4": (4, 2),
    "ds_read_b96_tr_b6": (6, 3),
}
BLOCKS_OFF = ALL & ~(0xFFFF << 16)


def transpose_case(name: str, bits: int, dwords: int, offset: int) -> Case:
    """16 lanes hold a tile of 16 columns, row after row; lane i receives column i."""

    def prepare(state: State) -> None:
        rng = np.random.default_rng(int(state.v[31, 0]))
        state.v[ADDRESS] = rng.permutation(LDS_BYTES // 8 - 32)[:LANES] * 8
        state.v[ADDRESS, 20] = LDS_BYTES - 8

    def expect(state: State) -> None:
        on = set(state.lanes())
        columns = dwords * 32 // bits  # elements a lane
        for block in range(0, LANES, 16):
            if block not in on:
                continue
            data = 0  # the tile as one number, row-major
            for lane in range(16):
                raw = load_bytes(state.lds, int(state.v[ADDRESS, block + lane]) + offset, dwords * 4)
                data |= raw << (lane * dwords * 32)
            for lane in range(16):
                column = sum(
                    (data >> ((row * 16 + lane) * bits) & ((1 << bits) - 1)) << (row * bits) for row in range(columns)
                )
                put(state, RESULT, block + lane, dwords, column)

    text = f"{name} {registers(RESULT, dwords)}, v{ADDRESS} offset:{offset}"
    return Case(text, [text], expect, prepare)


def test_transposing_reads() -> None:
    cases = [
        transpose_case(name, bits, dwords, offset) for name, (bits, dwords) in TRANSPOSES.items() for offset in (0, 128)
    ]
    run_cases(cases, "gfx950", exec_masks=(ALL, BLOCKS_OFF, 0))


@pytest.mark.parametrize(
    ("name", "bits", "dwords"), [(name, *TRANSPOSES[name]) for name in ("ds_read_b64_tr_b4", "ds_read_b96_tr_b6")]
)
def test_transposing_a_square_tile_twice_changes_nothing(name: str, bits: int, dwords: int) -> None:
    """16 x 16 elements: read transposed, written back, read transposed again."""

    def prepare(state: State) -> None:
        state.v[ADDRESS] = np.arange(LANES) * dwords * 4

    def expect(state: State) -> None:
        before = state.lds.copy()
        for lane in range(LANES):
            put(state, RESULT, lane, dwords, load_bytes(before, lane * dwords * 4, dwords * 4))
        # The first read's result, which the second undid.
        for lane in range(LANES):
            put(state, DATA, lane, dwords, 0)
            value = 0
            for row in range(16):
                source = load_bytes(before, (lane // 16 * 16 + row) * dwords * 4, dwords * 4)
                value |= (source >> (lane % 16 * bits) & ((1 << bits) - 1)) << (row * bits)
            put(state, DATA, lane, dwords, value)
            for n in range(dwords * 4):
                state.lds[lane * dwords * 4 + n] = value >> (8 * n) & 0xFF

    write = "ds_write_b64" if dwords == 2 else "ds_write_b96"
    lines = [
        f"{name} {registers(DATA, dwords)}, v{ADDRESS}",
        "s_waitcnt lgkmcnt(0)",
        f"{write} v{ADDRESS}, {registers(DATA, dwords)}",
    ]
    lines += ["s_waitcnt lgkmcnt(0)", f"{name} {registers(RESULT, dwords)}, v{ADDRESS}"]
    run_cases([Case(name, lines, expect, prepare)], "gfx950", exec_masks=(ALL,))


def test_the_16_bit_transpose_feeds_an_mfma_operand() -> None:
    """A row-major 4 x 16 tile in LDS, 8 bytes a lane: lane i gets rows 0 to 3 of column i, as the A operand wants."""

    def prepare(state: State) -> None:
        state.lds[:512] = np.arange(256, dtype=np.uint16).view(np.uint8)
        state.v[ADDRESS] = np.arange(LANES) * 8

    def expect(state: State) -> None:
        for lane in range(LANES):
            elements = [lane // 16 * 64 + row * 16 + lane % 16 for row in range(4)]
            put(state, RESULT, lane, 2, sum(e << (16 * n) for n, e in enumerate(elements)))
        assert get(state, RESULT, 1, 2) == 1 | 17 << 16 | 33 << 32 | 49 << 48

    run_cases(
        [Case("ds_read_b64_tr_b16", [f"ds_read_b64_tr_b16 {registers(RESULT, 2)}, v{ADDRESS}"], expect, prepare)],
        "gfx950",
        exec_masks=(ALL,),
    )
