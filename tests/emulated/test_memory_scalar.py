"""SMEM against references: loads, stores, buffer ranges, atomics, clocks."""

import numpy as np
import pytest

from emulated.memory_machine import ALL, MEMORY_BYTES, Case, State, run_cases
from emulated.memory_reference import integer_operations, load_bytes, store_bytes
from emulated.test_memory_global import INTEGER_NAMES

BASE, SRSRC, SOFFSET, DATA, RESULT = 36, 40, 44, 48, 48
WIDTHS = {"dword": 1, "dwordx2": 2, "dwordx4": 4, "dwordx8": 8, "dwordx16": 16}
ONE_MASK = (ALL,)


def scalars(first: int, count: int) -> str:
    """Assembly text of `count` scalar registers."""
    return f"s{first}" if count == 1 else f"s[{first}:{first + count - 1}]"


def read(state: State, first: int, count: int) -> int:
    return sum(int(state.s[first + n]) << (32 * n) for n in range(count))


def write(state: State, first: int, count: int, value: int) -> None:
    for n in range(count):
        state.s[first + n] = value >> (32 * n) & 0xFFFFFFFF


# Address forms: text of the operands, the position they mean, scale of the register offset for s_scratch.
FORMS = {
    "immediate": (0, 0x24),
    "register": (72, 0),
    "both": (84, 0x104),
    "negative": (256, -64),
    "unaligned": (3, 0x12),
}


def memory_case(name: str, dwords: int, form: str, *, store: bool, scale: int = 1, m0: bool = False) -> Case:
    register, offset = FORMS[form]
    position = 512 + register * scale + offset & ~3

    def prepare(state: State) -> None:
        state.set_scalar_pointer(BASE, state.base + 512)
        state.s[SOFFSET] = state.m0 = register

    def expect(state: State) -> None:
        if store:
            store_bytes(state.memory, position, 4 * dwords, read(state, DATA, dwords))
        else:
            write(state, RESULT, dwords, load_bytes(state.memory, position, 4 * dwords))

    soffset = "m0" if m0 else f"s{SOFFSET}"
    tail = {"immediate": f"{offset:#x}", "register": soffset}.get(form, f"{soffset} offset:{offset:#x}")
    text = f"{name} {scalars(DATA, dwords)}, {scalars(BASE, 2)}, {tail}"
    return Case(text, [text, "s_waitcnt lgkmcnt(0)"], expect, prepare, scalar=True)


def test_loads_and_stores(arch: str) -> None:
    cases = [memory_case(f"s_load_{n}", d, form, store=False) for n, d in WIDTHS.items() for form in FORMS]
    for name, dwords in list(WIDTHS.items())[:3]:
        cases += [
            memory_case(f"s_store_{name}", dwords, form, store=True, m0=True) for form in ("immediate", "register")
        ]
        cases += [
            memory_case(f"s_scratch_load_{name}", dwords, form, store=False, scale=64) for form in ("immediate", "both")
        ]
        cases.append(memory_case(f"s_scratch_store_{name}", dwords, "register", store=True, scale=64, m0=True))
    run_cases(cases, arch, exec_masks=(ALL, 0))  # EXEC does not matter


def buffer_case(name: str, dwords: int, *, store: bool, stride: int, records: int, offset: int) -> Case:
    """Dwords beyond num_records (times the stride, if any) are not accessed and read as zero (manual 8.4)."""
    size = records * (stride or 1)

    def prepare(state: State) -> None:
        address = state.base + 258  # the two low bits of the base are ignored
        state.s[SRSRC : SRSRC + 4] = [address & 0xFFFFFFFF, address >> 32 | stride << 16, records, 0x27000]

    def expect(state: State) -> None:
        for n in range(dwords):
            inside = (offset & ~3) + 4 * n + 4 <= size
            at = 256 + (offset & ~3) + 4 * n
            if store and inside:
                store_bytes(state.memory, at, 4, int(state.s[DATA + n]))
            elif not store:
                state.s[RESULT + n] = load_bytes(state.memory, at, 4) if inside else 0

    text = f"{name} {scalars(DATA, dwords)}, {scalars(SRSRC, 4)}, {offset:#x}"
    return Case(
        f"{text} stride {stride}, {records} records", [text, "s_waitcnt lgkmcnt(0)"], expect, prepare, scalar=True
    )


def test_buffers(arch: str) -> None:
    settings = [(0, 4096, 64), (0, 72, 64), (0, 70, 66), (16, 5, 64), (0, 0, 0), (4, 100, 0)]
    cases = []
    for stride, records, offset in settings:
        shape = {"stride": stride, "records": records, "offset": offset}
        cases += [buffer_case(f"s_buffer_load_{n}", d, store=False, **shape) for n, d in WIDTHS.items()]
        cases += [buffer_case(f"s_buffer_store_{n}", d, store=True, **shape) for n, d in list(WIDTHS.items())[:3]]
    run_cases(cases, arch, exec_masks=ONE_MASK)


def atomic_case(name: str, bits: int, *, buffer: bool, returns: bool, matches: bool) -> Case:
    dwords, size, position = bits // 32, bits // 8, 512 + 40
    operation = integer_operations(bits)[name]

    def prepare(state: State) -> None:
        state.set_scalar_pointer(BASE, state.base + 512)
        state.s[SRSRC : SRSRC + 4] = [state.s[BASE], state.s[BASE + 1], MEMORY_BYTES - 512, 0x27000]
        if matches:  # the second data operand of cmpswap
            write(state, DATA + dwords, dwords, load_bytes(state.memory, position, size))

    def expect(state: State) -> None:
        old = load_bytes(state.memory, position, size)
        new = operation(old, read(state, DATA, dwords), read(state, DATA + dwords, dwords))
        store_bytes(state.memory, position, size, new)
        if returns:
            write(state, DATA, dwords, old)

    data = scalars(DATA, dwords * (2 if name == "cmpswap" else 1))
    base = scalars(SRSRC, 4) if buffer else scalars(BASE, 2)
    head = f"s_{'buffer_' if buffer else ''}atomic_{name}{'_x2' if bits == 64 else ''}"
    text = f"{head} {data}, {base}, 0x28{' glc' if returns else ''}"
    return Case(text, [text, "s_waitcnt lgkmcnt(0)"], expect, prepare, scalar=True)


@pytest.mark.parametrize("buffer", [False, True])
def test_atomics(arch: str, buffer: bool) -> None:
    cases = []
    for name in INTEGER_NAMES:
        for bits in (32, 64):
            for returns in (False, True):
                cases += [atomic_case(name, bits, buffer=buffer, returns=returns, matches=m) for m in (False, True)]
    run_cases(cases, arch, exec_masks=ONE_MASK)


def test_clocks_advance_and_are_deterministic(arch: str) -> None:
    from emulated.assemble import assemble
    from flashinfer_jit import emulator

    text = """
      s_load_dwordx2 s[4:5], s[0:1], 0x0
      s_memtime s[8:9]
      s_memrealtime s[12:13]
      s_movk_i32 s20, 2000
    again:
      s_sub_u32 s20, s20, 1
      s_cmp_lg_u32 s20, 0
      s_cbranch_scc1 again
      s_memtime s[10:11]
      s_memrealtime s[14:15]
      s_waitcnt lgkmcnt(0)
      v_mov_b32_e32 v9, 0
    """
    for quad in range(2):
        text += "".join(f"v_mov_b32_e32 v{4 + n}, s{8 + 4 * quad + n}\n" for n in range(4))
        text += f"global_store_dwordx4 v9, v[4:7], s[4:5] offset:{16 * quad}\n"
    code = assemble(text + "s_endpgm", arch, arguments=("ptr",))
    runs = []
    for _ in range(2):
        out = np.zeros(4, np.uint64)
        emulator.run(code, "kernel", 1, 64, [out], arch=arch)
        runs.append(out.tolist())
    first, second, real_first, real_second = runs[0]
    assert second > first and real_second >= real_first
    assert runs[0] == runs[1]


def test_cache_instructions_do_nothing(arch: str) -> None:
    lines = ["s_dcache_inv", "s_dcache_wb", "s_dcache_inv_vol", "s_dcache_wb_vol"]
    lines += [f"s_dcache_discard {scalars(BASE, 2)}, 0x40", f"s_dcache_discard_x2 {scalars(BASE, 2)}, 0x40"]
    lines += [f"s_atc_probe 7, {scalars(BASE, 2)}, 0x40", f"s_atc_probe_buffer 7, {scalars(SRSRC, 4)}, 0x40"]
    run_cases([Case("cache", lines, lambda state: None, scalar=True)], arch, exec_masks=ONE_MASK)
