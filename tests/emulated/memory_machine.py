"""Runs memory instructions on the emulator, each on a known state, and compares what they leave with a reference.

A case is a few lines of assembly with a state to start from (vector registers 16 to 31, scalar registers 32 to 63, LDS,
a block of global memory, EXEC, M0) and a Python function that does to the state what the instruction should. One kernel
runs many cases in a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from emulated.assemble import assemble

LANES = 64
LDS_BYTES = 5120  # a multiple of both parts' allocation granules, 512 and 1280 bytes
MEMORY_BYTES = 8192
FIRST, LAST = 16, 32  # vector registers of a case
FIRST_SCALAR, LAST_SCALAR = 32, 64
ALL = (1 << LANES) - 1
# Whole, halves of bytes, every third lane, the last lane alone, nobody.
EXEC_MASKS = (ALL, 0x0F0F_F0F0_00FF_8001, 0x9249_2492_4924_9249, 1 << 63, 0)

_ADDRESS, _DATA, _SECOND, _RESULT = 16, 18, 22, 26
ADDRESS, DATA, SECOND, RESULT = _ADDRESS, _DATA, _SECOND, _RESULT


def lanes(mask: int) -> list[int]:
    """Numbers of the lanes that are on."""
    return [lane for lane in range(LANES) if mask >> lane & 1]


def registers(first: int, count: int) -> str:
    """Assembly text of `count` vector registers."""
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


@dataclass
class State:
    """All that a case may read or change. `base` is the address of `memory[0]`."""

    v: np.ndarray
    s: np.ndarray
    lds: np.ndarray
    memory: np.ndarray
    base: int = 0
    exec: int = ALL
    m0: int = 0
    arch: str = ""

    def copy(self) -> "State":
        return State(
            self.v.copy(), self.s.copy(), self.lds.copy(), self.memory.copy(), self.base, self.exec, self.m0, self.arch
        )

    def lanes(self) -> list[int]:
        return lanes(self.exec)

    def set_pointers(self, register: int, addresses: np.ndarray) -> None:
        """64-bit addresses, one a lane, into a register pair."""
        self.v[register] = (addresses & 0xFFFFFFFF).astype(np.uint32)
        self.v[register + 1] = (addresses >> np.uint64(32)).astype(np.uint32)

    def set_scalar_pointer(self, register: int, address: int) -> None:
        self.s[register], self.s[register + 1] = address & 0xFFFFFFFF, address >> 32


def random_state(rng: np.random.Generator) -> State:
    """Random contents everywhere."""
    words = rng.integers(0, 1 << 32, (LAST, LANES), dtype=np.uint32)
    scalars = rng.integers(0, 1 << 32, LAST_SCALAR, dtype=np.uint32)
    return State(
        words,
        scalars,
        rng.integers(0, 256, LDS_BYTES, dtype=np.uint8),
        rng.integers(0, 256, MEMORY_BYTES, dtype=np.uint8),
    )


@dataclass
class Case:
    """`prepare` sets the inputs in the state (its `base` is known by then), `expect` applies the instruction."""

    name: str
    lines: Sequence[str]
    expect: Callable[[State], None]
    prepare: Callable[[State], None] = field(default=lambda state: None)
    scalar: bool = False  # compare scalar registers too


_QUADS = (LAST - FIRST) // 4
_LDS_QUADS = LDS_BYTES // 1024
_LDS_AREA = 8192
_IN_BYTES = 4096 + _LDS_AREA + 256  # vector registers, LDS, scalar registers with EXEC and M0 behind them
_OUT_BYTES = 4096 + _LDS_AREA + 8192  # vector registers, LDS, scalar registers (every lane stores them)


def _advance(pair: int, by: int) -> list[str]:
    return [f"s_add_u32 s{pair}, s{pair}, {by}", f"s_addc_u32 s{pair + 1}, s{pair + 1}, 0"]


def _subroutines() -> list[str]:
    """`before` puts a state in place, EXEC last; `after` stores what the case left. s_call_b64 s[20:21] enters both."""
    text = ["before:", "s_mov_b64 exec, -1"]
    text += [f"global_load_dwordx4 {registers(FIRST + 4 * k, 4)}, v0, s[4:5] offset:{1024 * k}" for k in range(_QUADS)]
    text += _advance(4, 4096)
    for k in range(_LDS_QUADS):
        text += [f"global_load_dwordx4 v[4:7], v0, s[4:5] offset:{1024 * (k % 4)}", "s_waitcnt vmcnt(0)"]
        text += [f"ds_write_b128 v0, v[4:7] offset:{1024 * k}", *(_advance(4, 4096) if k % 4 == 3 else [])]
    text += _advance(4, _LDS_AREA - 4096 * (_LDS_QUADS // 4))
    text += [
        "s_load_dwordx16 s[32:47], s[4:5], 0x0",
        "s_load_dwordx16 s[48:63], s[4:5], 0x40",
        "s_load_dwordx4 s[16:19], s[4:5], 0x80",
    ]
    text += [
        "s_waitcnt vmcnt(0) lgkmcnt(0)",
        *_advance(4, 256),
        "s_mov_b32 m0, s18",
        "s_mov_b64 exec, s[16:17]",
        "s_setpc_b64 s[20:21]",
    ]
    text += ["after:", "s_waitcnt vmcnt(0) lgkmcnt(0)", "s_mov_b64 exec, -1"]
    text += [f"global_store_dwordx4 v0, {registers(FIRST + 4 * k, 4)}, s[6:7] offset:{1024 * k}" for k in range(_QUADS)]
    text += _advance(6, 4096)
    for k in range(_LDS_QUADS):
        text += [f"ds_read_b128 v[4:7], v0 offset:{1024 * k}", "s_waitcnt lgkmcnt(0)"]
        text += [
            f"global_store_dwordx4 v0, v[4:7], s[6:7] offset:{1024 * (k % 4)}",
            *(_advance(6, 4096) if k % 4 == 3 else []),
        ]
    text += _advance(6, _LDS_AREA - 4096 * (_LDS_QUADS // 4))
    for k in range(8):
        text += [f"v_mov_b32_e32 v{4 + n}, s{FIRST_SCALAR + 4 * k + n}" for n in range(4)]
        text += [
            f"global_store_dwordx4 v0, v[4:7], s[6:7] offset:{1024 * (k % 4)}",
            *(_advance(6, 4096) if k % 4 == 3 else []),
        ]
    return [*text, "s_setpc_b64 s[20:21]"]


def _kernel_text(cases: Sequence[Case], rounds: int) -> str:
    """All cases in a row, `rounds` times."""
    text = [
        "s_load_dwordx4 s[4:7], s[0:1], 0x0",
        "v_and_b32_e32 v0, 63, v0",
        "v_lshlrev_b32_e32 v0, 4, v0",
        f"s_movk_i32 s24, {rounds}",
    ]
    text += ["s_waitcnt lgkmcnt(0)", "round:"]
    for case in cases:
        text += ["s_call_b64 s[20:21], before", *case.lines, "s_call_b64 s[20:21], after"]
    text += ["s_sub_u32 s24, s24, 1", "s_cmp_lg_u32 s24, 0", "s_cbranch_scc1 round", "s_endpgm"]
    return "\n".join([*text, *_subroutines()])


def _input_block(state: State) -> np.ndarray:
    block = np.zeros(_IN_BYTES // 4, np.uint32)
    block[:1024] = state.v[FIRST:LAST].reshape(_QUADS, 4, LANES).transpose(0, 2, 1).ravel()
    block[1024 : 1024 + LDS_BYTES // 4] = state.lds.view(np.uint32)
    block[3072 : 3072 + 32] = state.s[FIRST_SCALAR:LAST_SCALAR]
    block[3104:3107] = state.exec & 0xFFFFFFFF, state.exec >> 32, state.m0
    return block


def _check(case: Case, expected: State, before: State, out: np.ndarray, memory: np.ndarray) -> None:
    got = out[:1024].reshape(_QUADS, LANES, 4).transpose(0, 2, 1).reshape(LAST - FIRST, LANES)
    wrong = np.argwhere(got != expected.v[FIRST:LAST])
    where = f"{case.name} (exec {before.exec:#x})"
    if len(wrong):
        register, lane = wrong[0]
        words = (got[register, lane], *(s.v[register + FIRST, lane] for s in (expected, before)))
        values = [f"{word:#010x}" for word in words]
        what = f"v{register + FIRST}[{lane}] is {values[0]}, expected {values[1]}, before {values[2]}"
        raise AssertionError(f"{where}: {what}; {len(wrong)} differ")
    lds = out[1024 : 1024 + LDS_BYTES // 4].view(np.uint8)
    blocks = (("LDS", lds, expected.lds), ("memory", memory, expected.memory))
    for what, actual, wanted in blocks:
        places = np.flatnonzero(actual != wanted)
        if len(places):
            at = places[0]
            text = f"{what} byte {at} is {actual[at]:#x}, expected {wanted[at]:#x}"
            raise AssertionError(f"{where}: {text}; {len(places)} differ")
    if case.scalar:
        actual = out[3072:].reshape(8, LANES, 4)[:, 0, :].ravel()
        places = np.flatnonzero(actual != expected.s[FIRST_SCALAR:LAST_SCALAR])
        if len(places):
            at = places[0]
            raise AssertionError(
                f"{case.name}: s{at + FIRST_SCALAR} is {actual[at]:#x}, expected {expected.s[at + FIRST_SCALAR]:#x}"
            )


def run_cases(
    cases: Sequence[Case], arch: str, *, exec_masks: Sequence[int] = EXEC_MASKS, seed: int = 1, scratch_bytes: int = 0
):
    """Runs every case with every EXEC mask on random states, checks the results, returns the launch's report."""
    from flashinfer_jit import emulator

    rng = np.random.default_rng(seed)
    planned = [(case, mask) for mask in exec_masks for case in cases]
    arena = np.zeros(len(planned) * MEMORY_BYTES + 256, np.uint8)
    start = -arena.ctypes.data % 256
    arena = arena[start : start + len(planned) * MEMORY_BYTES]
    image = np.zeros(len(planned) * (_IN_BYTES // 4), np.uint32)
    out = np.zeros(len(planned) * (_OUT_BYTES // 4), np.uint32)
    before, expected = [], []
    for n, (case, mask) in enumerate(planned):
        state = random_state(rng)
        state.base, state.exec, state.arch = arena.ctypes.data + n * MEMORY_BYTES, mask, arch
        case.prepare(state)
        image[n * (_IN_BYTES // 4) : (n + 1) * (_IN_BYTES // 4)] = _input_block(state)
        arena[n * MEMORY_BYTES : (n + 1) * MEMORY_BYTES] = state.memory
        after = state.copy()
        if mask or case.scalar:
            case.expect(after)
        before.append(state)
        expected.append(after)
    text = _kernel_text(cases, len(exec_masks))
    blob = assemble(
        text,
        arch,
        arguments=("ptr", "ptr"),
        lds=LDS_BYTES,
        scratch=scratch_bytes,
        directives=".amdhsa_float_denorm_mode_32 3",
    )
    report = emulator.run(blob, "kernel", 1, LANES, [image, out], buffers=[arena], arch=arch)
    for n, (case, _) in enumerate(planned):
        piece = out[n * (_OUT_BYTES // 4) : (n + 1) * (_OUT_BYTES // 4)]
        _check(case, expected[n], before[n], piece, arena[n * MEMORY_BYTES : (n + 1) * MEMORY_BYTES])
    return report
