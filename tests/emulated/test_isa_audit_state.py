"""AMD's audit (isa_audit.py): scalar instructions, the state of a wave, and memory operands."""

import numpy as np
import pytest

from emulated import isa_encoding as code
from emulated.assemble import assemble
from emulated.isa_lanes import PROLOGUE, program
from emulated.isa_machine import MODE
from emulated.isa_optable import decode
from flashinfer_jit import emulator
from flashinfer_jit.errors import HipError

SCC, EXECZ, VCCZ, IN_GROUP, VALID = 1, 1 << 9, 1 << 10, 1 << 11, 1 << 16


def longs(words: list[int]) -> str:
    return ".long " + ", ".join(f"{word:#x}" for word in words)


def refused(body: str, arch: str, message: str) -> None:
    blob = assemble(f"{PROLOGUE}{body}\ns_endpgm\n", arch, arguments=["ptr"], directives=MODE)
    with pytest.raises(HipError, match=message):
        emulator.run(blob, "kernel", 1, 64, [np.zeros(4, dtype=np.uint32)], arch=arch)


def test_status_register_summarises_scc_exec_and_vcc(arch: str) -> None:
    """Item 38. Bit 11 is for waves of groups of several."""
    body = """
    v_mov_b32_e32 v4, 0
    s_mov_b64 vcc, 0
    s_cmp_eq_u32 s6, s6
    s_getreg_b32 s20, hwreg(HW_REG_STATUS)
    s_mov_b64 vcc, 4
    s_mov_b64 exec, 0
    s_cmp_lg_u32 s6, s6
    s_getreg_b32 s21, hwreg(HW_REG_STATUS)
    s_getreg_b32 s22, hwreg(HW_REG_STATUS, 9, 2)
    """
    known = SCC | EXECZ | VCCZ | IN_GROUP | VALID
    first, second, field = program(body, "s20 s21 s22", arch)[:3]
    assert (first & known, second & known, field) == (SCC | VCCZ | VALID, EXECZ | VALID, 1)


def test_flags_as_operands_follow_every_write(arch: str) -> None:
    """Item 40: scalar writes to half of VCC or EXEC count, so do comparisons; the bits of lanes that are off are 0."""
    body = """
    v_mov_b32_e32 v4, 0
    s_mov_b64 vcc, 0
    s_mov_b32 s20, src_vccz
    s_mov_b32 vcc_hi, 0x100
    s_mov_b32 s21, src_vccz
    v_cmp_gt_u32_e32 vcc, v4, v0
    s_mov_b32 s22, src_vccz
    s_mov_b32 s23, src_execz
    s_mov_b64 exec, 0xff
    s_mov_b64 vcc, -1
    v_cmp_le_u32_e32 vcc, 0, v0
    s_mov_b64 s[24:25], vcc
    v_cmpx_lt_u32_e32 vcc, 100, v0
    s_mov_b32 s26, src_execz
    s_mov_b32 s27, src_vccz
    s_cmp_eq_u32 s26, 1
    s_mov_b32 s28, src_scc
    s_cmp_eq_u32 s26, 0
    s_mov_b32 s29, src_scc
    s_mov_b64 exec, -1
    s_cmp_eq_u32 s26, 1
    v_mov_b32_e32 v4, src_scc
    """
    *scalars, lane = program(body, "s20 s21 s22 s23 s24 s25 s26 s27 s28 s29", arch)[:11]
    assert scalars == [1, 0, 1, 0, 0xFF, 0, 1, 1, 1, 0]
    assert lane == 1


@pytest.mark.parametrize("source", [209, 234, 239, 249, 250, 254])
def test_reserved_scalar_sources_are_refused(arch: str, source: int) -> None:
    """Item 46."""
    refused(longs(code.sop1(0, 20, source)), arch, "s_mov_b32.*operand|s_mov_b32.*source")


@pytest.mark.parametrize(("name", "function"), [("add", int.__add__), ("sub", int.__sub__)])
def test_signed_scalar_sums_report_overflow_and_unsigned_ones_the_carry(arch: str, name: str, function) -> None:
    """Item 47."""
    values = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    body, expected = "v_mov_b32_e32 v4, 0\ns_mov_b32 s20, 0\ns_mov_b32 s21, 0\n", [0, 0]
    for number, (x, y) in enumerate((x, y) for x in values for y in values):
        body += f"s_mov_b32 s22, {x:#x}\ns_mov_b32 s23, {y:#x}\n"
        signed = [v - (1 << 32) if v >> 31 else v for v in (x, y)]
        for bit, kind in enumerate(("i32", "u32")):
            body += f"s_{name}_{kind} s24, s22, s23\ns_cselect_b32 s25, {1 << number:#x}, 0\n"
            body += f"s_or_b32 s{20 + bit}, s{20 + bit}, s25\n"
        expected[0] |= (not -(1 << 31) <= function(*signed) < 1 << 31) << number
        expected[1] |= (not 0 <= function(x, y) < 1 << 32) << number
    assert program(body, "s20 s21", arch)[:2] == expected


def test_scalar_maximum_of_equal_operands_sets_scc_and_the_minimum_clears_it(arch: str) -> None:
    """Item 48."""
    body = "v_mov_b32_e32 v4, 0\ns_movk_i32 s30, 7\ns_movk_i32 s31, 7\n"
    for number, name in enumerate(("max_i32", "max_u32", "min_i32", "min_u32")):
        body += f"s_{name} s32, s30, s31\ns_cselect_b32 s{20 + number}, 1, 0\n"
    assert program(body, "s20 s21 s22 s23", arch)[:4] == [1, 1, 0, 0]


@pytest.mark.parametrize("register", [8, 9, 10, 11, 12, 13, 14, 21, 40])
def test_reserved_hardware_registers_are_refused(arch: str, register: int) -> None:
    """Item 50."""
    for opcode, name in ((17, "s_getreg_b32"), (18, "s_setreg_b32")):
        refused(longs(code.sopk(opcode, 20, 31 << 11 | register)), arch, name)


@pytest.mark.parametrize("register", ["STATUS", "HW_ID", "GPR_ALLOC", "LDS_ALLOC", "IB_STS"])
def test_writes_to_read_only_hardware_registers_are_dropped(arch: str, register: str) -> None:
    """Item 51."""
    body = f"""
    v_mov_b32_e32 v4, 0
    s_cmp_lg_u32 s6, s6
    s_mov_b64 vcc, 5
    s_getreg_b32 s20, hwreg(HW_REG_{register})
    s_setreg_imm32_b32 hwreg(HW_REG_{register}), -1
    s_getreg_b32 s21, hwreg(HW_REG_{register})
    s_cselect_b32 s22, 1, 0
    """
    before, after, scc, vcc = program(body, "s20 s21 s22 vcc_lo", arch)[:4]
    assert before == after and scc == 0 and vcc == 5


def test_index_mode_is_four_raw_bits_and_the_index_may_be_a_literal(arch: str) -> None:
    """Item 61."""
    literal = [*code.sopc(17, code.LITERAL, 0xB), 0x12345678]
    body = f"v_mov_b32_e32 v4, 0\ns_mov_b32 m0, -1\n{longs(literal)}\ns_mov_b32 s20, m0\ns_set_gpr_idx_off\n"
    body += f"s_mov_b32 m0, 0\ns_movk_i32 s30, 5\n{longs(code.sopc(17, 30, code.LITERAL))}\ns_mov_b32 s21, m0\n"
    assert program(body + "s_set_gpr_idx_off\n", "s20 s21", arch)[:2] == [0xFFFFBF78, 0xF005]
    words = np.array([*code.sopc(17, 30, code.LITERAL), *code.sopp(0)], np.uint32)
    assert [found.name for found in decode(words.tobytes(), arch)] == ["s_set_gpr_idx_on", "s_nop"]


@pytest.mark.parametrize("form", ["global", "flat", "buffer", "scratch"])
def test_memory_data_may_be_in_accumulation_registers(arch: str, form: str) -> None:
    """Item 31; test_memory_lds has it for DS."""
    where = {
        "global": ("v5, {}, s[6:7]", "{}, v5, s[6:7]"),
        "flat": ("v[8:9], {}", "{}, v[8:9]"),
        "buffer": ("{}, v5, s[8:11], 0 offen", "{}, v5, s[8:11], 0 offen"),
        "scratch": ("off, {}, off", "{}, off, off"),
    }[form]
    body = f"""
    v_lshlrev_b32_e32 v5, 2, v0
    v_mov_b32_e32 v9, s7
    v_add_co_u32_e32 v8, vcc, s6, v5
    v_addc_co_u32_e32 v9, vcc, 0, v9, vcc
    s_mov_b64 s[8:9], s[6:7]
    s_movk_i32 s10, 256
    s_mov_b32 s11, 0x27000
    v_mul_u32_u24_e32 v10, 0x11, v0
    v_accvgpr_write_b32 a3, v10
    {form}_store_dword {where[0].format("a3")}
    s_waitcnt vmcnt(0)
    {form}_load_dword {where[1].format("a4")}
    s_waitcnt vmcnt(0)
    v_accvgpr_read_b32 v4, a4
    """
    if form == "scratch":
        text = f"{PROLOGUE}{body}\nglobal_store_dword v5, v4, s[6:7]\ns_endpgm\n"
        blob = assemble(text, arch, arguments=["ptr"], directives=MODE, scratch=16)
        memory = np.zeros(64, np.uint32)
        emulator.run(blob, "kernel", 1, 64, [memory], arch=arch)
        found = memory.tolist()
    else:
        found = program(body, "", arch)
    assert found == [0x11 * lane for lane in range(64)]


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("unit", ["", "st64"])
def test_equal_offsets_of_a_pair_write_once(arch: str, width: int, unit: str) -> None:
    """Item 33: one access, and it uses the first data operand."""
    first, second = ("v10", "v12") if width == 1 else ("v[10:11]", "v[12:13]")
    text = f"""
    v_mov_b32_e32 v10, 7
    v_mov_b32_e32 v11, 7
    v_mov_b32_e32 v12, 9
    v_mov_b32_e32 v13, 9
    v_lshlrev_b32_e32 v5, {1 + width}, v0
    ds_write2{unit}_b{32 * width} v5, {first}, {second} offset0:3 offset1:3
    s_waitcnt lgkmcnt(0)
    ds_read_b32 v4, v5 offset:{3 * 4 * width * (64 if unit else 1)}
    s_waitcnt lgkmcnt(0)
    v_lshlrev_b32_e32 v6, 2, v0
    global_store_dword v6, v4, s[6:7]
    s_endpgm
    """
    blob = assemble(PROLOGUE + text, arch, arguments=["ptr"], directives=MODE, lds=4096)
    memory = np.zeros(64, np.uint32)
    emulator.run(blob, "kernel", 1, 64, [memory], arch=arch)
    assert set(memory.tolist()) == {7}


def test_a_scalar_call_returns_to_the_word_after_it_and_sixteen_waves_form_a_group(arch: str) -> None:
    """Items 42, 43 and 89: 1024 work-items are the most."""
    text = """
    s_load_dwordx2 s[6:7], s[0:1], 0x0
    s_getpc_b64 s[10:11]
    s_call_b64 s[8:9], target
    target:
    s_sub_u32 s8, s8, s10
    v_mov_b32_e32 v1, 0
    v_mov_b32_e32 v2, s8
    s_barrier
    s_waitcnt lgkmcnt(0)
    global_store_dword v1, v2, s[6:7]
    s_endpgm
    """
    blob = assemble(text, arch, arguments=["ptr"], directives=MODE)
    memory = np.zeros(4, np.uint32)
    assert emulator.run(blob, "kernel", 1, 1024, [memory], arch=arch).waves == 16
    assert memory[0] == 4
    with pytest.raises(HipError, match="1025|block"):
        emulator.run(blob, "kernel", 1, 1025, [memory], arch=arch)
