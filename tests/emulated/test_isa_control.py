"""Programme flow, program counters, register indexing and hardware registers, by programs with a known outcome."""

import numpy as np
import pytest

from emulated import isa_encoding as code
from emulated.assemble import assemble
from emulated.isa_lanes import PROLOGUE, program
from emulated.isa_machine import MODE
from emulated.isa_optable import rows
from emulated.isa_samples import samples
from flashinfer_jit import emulator
from flashinfer_jit.errors import HipError

BRANCHES = {  # set-up that makes the branch taken, and that makes it fall through
    "s_cbranch_scc0": ("s_cmp_eq_u32 s6, s7", "s_cmp_eq_u32 s6, s6"),
    "s_cbranch_scc1": ("s_cmp_eq_u32 s6, s6", "s_cmp_lg_u32 s6, s6"),
    "s_cbranch_vccz": ("s_mov_b64 vcc, 0", "s_mov_b32 vcc_lo, 0\ns_mov_b32 vcc_hi, 4"),
    "s_cbranch_vccnz": ("s_mov_b64 vcc, 1", "s_mov_b64 vcc, 0"),
    "s_cbranch_execz": ("s_mov_b64 exec, 0", "s_mov_b64 exec, 1"),
    "s_cbranch_execnz": ("s_mov_b64 exec, 2", "s_mov_b64 exec, 0"),
    "s_branch": ("s_nop 0", None),
    "s_cbranch_cdbgsys": (None, "s_nop 0"),
    "s_cbranch_cdbguser": (None, "s_nop 0"),
    "s_cbranch_cdbgsys_or_user": (None, "s_nop 0"),
    "s_cbranch_cdbgsys_and_user": (None, "s_nop 0"),
}


def test_branches_are_taken_and_not_taken(arch: str) -> None:
    body, expected = "s_mov_b32 s20, 0\n", 0
    for number, (name, set_ups) in enumerate(BRANCHES.items()):
        for taken, set_up in zip((True, False), set_ups, strict=True):
            if set_up is None:
                continue
            bit = 2 * number + (not taken)
            body += f"{set_up}\n{name} L{bit}\ns_bitset1_b32 s20, {bit}\nL{bit}:\n"
            expected |= (not taken) << bit
    assert program(body, "s20", arch)[0] == expected


def test_a_backward_branch_loops(arch: str) -> None:
    body = """
    s_movk_i32 s20, 0
    s_movk_i32 s21, 10
    again:
    s_add_u32 s20, s20, s21
    s_sub_u32 s21, s21, 1
    s_cmp_lg_u32 s21, 0
    s_cbranch_scc1 again
    """
    assert program(body, "s20 s21", arch)[:2] == [55, 0]


def test_program_counters_of_calls_and_returns(arch: str) -> None:
    body = """
    s_movk_i32 s20, 0
    s_getpc_b64 s[30:31]
    s_getpc_b64 s[32:33]
    s_sub_u32 s21, s32, s30
    s_call_b64 s[34:35], subroutine
    after_call:
    s_sub_u32 s22, s34, s32
    s_add_u32 s36, s30, subroutine - after_first
    s_addc_u32 s37, s31, 0
    s_swappc_b64 s[34:35], s[36:37]
    after_swap:
    s_sub_u32 s23, s34, s32
    s_add_u32 s36, s30, last - after_first
    s_addc_u32 s37, s31, 0
    s_setpc_b64 s[36:37]
    s_movk_i32 s20, 1000
    subroutine:
    s_add_u32 s20, s20, 7
    s_setpc_b64 s[34:35]
    last:
    """
    body = body.replace("s_getpc_b64 s[30:31]\n", "s_getpc_b64 s[30:31]\n    after_first:\n")
    body = body.replace("s_getpc_b64 s[32:33]\n", "s_getpc_b64 s[32:33]\n    after_second:\n")
    # The expected return addresses are the assembler's labels.
    body += "s_mov_b32 s24, after_call - after_second\ns_mov_b32 s25, after_swap - after_second\n"
    distance, call, swap, calls, want_call, want_swap, *_ = program(body, "s21 s22 s23 s20 s24 s25", arch)
    assert distance == 4
    assert (call, swap) == (want_call, want_swap)
    assert calls == 14


def test_fork_and_join_run_both_sides_the_smaller_first(arch: str) -> None:
    body = """
    s_mov_b64 s[40:41], s[0:1]
    s_movk_i32 s46, 0
    s_mov_b64 exec, -1
    v_mov_b32_e32 v4, 0
    s_mov_b64 s[42:43], 0xf0
    s_mov_b32 s44, 0
    s_cbranch_i_fork s[42:43], pass_side
    v_or_b32_e32 v4, 1, v4
    s_lshl_b32 s46, s46, 4
    s_or_b32 s46, s46, 1
    s_branch meet
    pass_side:
    v_or_b32_e32 v4, 2, v4
    s_lshl_b32 s46, s46, 4
    s_or_b32 s46, s46, 2
    meet:
    s_cbranch_join s44
    s_getpc_b64 s[48:49]
    s_add_u32 s48, s48, g_pass - here
    s_addc_u32 s49, s49, 0
    """
    body = body.replace("s_getpc_b64 s[48:49]\n", "s_getpc_b64 s[48:49]\n    here:\n")
    body += """
    s_mov_b64 exec, -1
    s_not_b64 s[42:43], s[42:43]
    s_cbranch_g_fork s[42:43], s[48:49]
    v_or_b32_e32 v4, 4, v4
    s_lshl_b32 s46, s46, 4
    s_or_b32 s46, s46, 4
    s_branch g_meet
    g_pass:
    v_or_b32_e32 v4, 8, v4
    s_lshl_b32 s46, s46, 4
    s_or_b32 s46, s46, 8
    g_meet:
    s_cbranch_join s44
    """
    order, *lanes = program(body, "s46", arch)
    # Lanes 4..7 pass the first fork and fail the second one; the side with fewer lanes runs first.
    assert order == 0x2148
    assert lanes == [2 | 4 if 4 <= lane < 8 else 1 | 8 for lane in range(64)]


def test_register_indexing_moves_the_operands_that_its_mode_names(arch: str) -> None:
    body = """
    v_mov_b32_e32 v4, 0
    s_movk_i32 s20, 3
    v_mov_b32_e32 v16, 10
    v_mov_b32_e32 v19, 13
    v_mov_b32_e32 v20, 20
    v_mov_b32_e32 v23, 23
    s_set_gpr_idx_on s20, 0x1
    v_add_u32_e32 v30, v16, v20
    s_set_gpr_idx_off
    s_set_gpr_idx_on s20, 0x2
    v_add_u32_e32 v31, v16, v20
    s_set_gpr_idx_mode 0x8
    v_add_u32_e32 v32, v16, v20
    s_mov_b32 s21, m0
    s_movk_i32 s20, 4
    s_set_gpr_idx_idx s20
    v_add_u32_e32 v32, v16, v20
    s_set_gpr_idx_off
    v_add_u32_e32 v33, v16, v20
    v_readfirstlane_b32 s22, v30
    v_readfirstlane_b32 s23, v31
    v_readfirstlane_b32 s24, v35
    v_readfirstlane_b32 s25, v36
    v_readfirstlane_b32 s26, v33
    """
    found = program(body, "s22 s23 s24 s25 s26 s21", arch)[:6]
    assert found[:5] == [13 + 20, 10 + 23, 30, 30, 30]
    assert found[5] & 0xF0FF == 0x8003


def test_movrel_adds_m0_to_the_register_number(arch: str) -> None:
    body = """
    s_mov_b32 s20, 100
    s_mov_b32 s22, 102
    s_mov_b32 s23, 103
    s_mov_b32 m0, 2
    s_movrels_b32 s30, s20
    s_movrels_b64 s[32:33], s[20:21]
    s_movreld_b32 s34, s20
    s_movreld_b64 s[38:39], s[22:23]
    """
    assert program(body, "s30 s32 s33 s36 s40 s41", arch)[:6] == [102, 102, 103, 100, 102, 103]


def test_accumulation_registers_are_copied_by_active_lanes(arch: str) -> None:
    body = """
    v_mov_b32_e32 v4, 5
    v_accvgpr_write_b32 a4, 7
    v_accvgpr_write_b32 a8, v0
    s_mov_b64 exec, 0xff
    v_accvgpr_mov_b32 a4, a8
    s_mov_b64 exec, 0xffff
    v_accvgpr_read_b32 v4, a4
    """
    lanes = program(body, "", arch)
    assert lanes == [lane if lane < 8 else 7 if lane < 16 else 5 for lane in range(64)]


def test_hardware_registers_are_read_and_written_by_field(arch: str) -> None:
    body = """
    s_getreg_b32 s20, hwreg(HW_REG_MODE)
    s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 4), 0xf
    s_getreg_b32 s21, hwreg(HW_REG_MODE, 0, 8)
    s_mov_b32 s30, 0x2
    s_setreg_b32 hwreg(HW_REG_MODE, 4, 2), s30
    s_getreg_b32 s22, hwreg(HW_REG_MODE, 0, 8)
    s_getreg_b32 s23, hwreg(HW_REG_MODE, 4, 4)
    s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 8), 0xf0
    s_getreg_b32 s24, hwreg(HW_REG_MODE)
    s_getreg_b32 s25, hwreg(HW_REG_TRAPSTS)
    """
    mode, rounded, denormal, part, restored, _, *_ = program(body, "s20 s21 s22 s23 s24 s25", arch)
    assert mode & 0xFF == 0xF0 and mode >> 8 & 3 == 3, "nearest even, denormals kept, DX10_CLAMP and IEEE on"
    assert (rounded, denormal, part, restored) == (0xFF, 0xEF, 0xE, mode)


QUIET = (
    "s_nop 7", "s_sleep 3", "s_setprio 2", "s_wakeup", "s_icache_inv", "s_incperflevel 1", "s_decperflevel 1",
    "s_ttracedata",
    "s_waitcnt 0", "s_barrier", "s_sendmsg sendmsg(MSG_INTERRUPT)", "s_setkill 0", "s_sethalt 0", "s_trap 3",
)  # fmt: skip


def test_waits_and_messages_change_no_register(arch: str) -> None:
    body = "s_mov_b32 s20, 0x1234\ns_mov_b64 vcc, 0x55\ns_mov_b32 m0, 77\ns_cmp_eq_u32 s20, s20\nv_mov_b32_e32 v4, 9\n"
    body += "\n".join(QUIET) + "\n.long " + ", ".join(f"{word:#x}" for word in code.sopc(16, code.ZERO, code.ZERO))
    body += "\ns_cselect_b32 s21, 1, 0\ns_mov_b32 s22, m0\n"
    values = program(body, "s20 s21 s22 vcc_lo", arch)
    assert values[:4] == [0x1234, 1, 77, 0x55] and values[4:] == [9] * 64


@pytest.mark.parametrize("ending", ["s_endpgm", "s_endpgm_saved", "s_endpgm_ordered_ps_done", "s_setkill 1"])
def test_programmes_end_where_they_say(arch: str, ending: str) -> None:
    body = f"v_mov_b32_e32 v1, 0\nv_mov_b32_e32 v3, 5\nglobal_store_dword v1, v3, s[6:7]\n{ending}\n"
    body += "v_mov_b32_e32 v3, 6\nglobal_store_dword v1, v3, s[6:7]\ns_endpgm\n"
    if ending == "s_endpgm_ordered_ps_done":
        body = body.replace(ending, f".long {code.sopp(30)[0]:#x}")
    blob = assemble(PROLOGUE + body, arch, arguments=["ptr"], directives=MODE)
    memory = np.zeros(4, dtype=np.uint32)
    emulator.run(blob, "kernel", 1, 64, [memory], arch=arch)
    assert memory[0] == 5


def test_refused_instructions_name_themselves(arch: str) -> None:
    refused = [row for row in rows() if row.refused and arch in row.archs]
    assert refused
    for row in refused:
        words = ", ".join(f"{word:#x}" for word in samples(row.encoding, row.opcode, row.name)[0])
        blob = assemble(f"{PROLOGUE}.long {words}\ns_endpgm\n", arch, arguments=["ptr"], directives=MODE)
        with pytest.raises(HipError, match=row.name):
            emulator.run(blob, "kernel", 1, 64, [np.zeros(4, dtype=np.uint32)], arch=arch)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("s_trap 2", "s_trap"),
        ("s_sethalt 1", "s_sethalt"),
        ("s_setvskip -1, 0", "VSKIP"),
        ("s_getreg_b32 s8, hwreg(63)", "s_getreg"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_here_is_an_error(arch: str, body: str, message: str) -> None:
    if "vskip" in body:
        body = f".long {code.sopc(16, 193, code.ZERO)[0]:#x}"
    blob = assemble(f"{PROLOGUE}{body}\ns_endpgm\n", arch, arguments=["ptr"], directives=MODE)
    with pytest.raises(HipError, match=message):
        emulator.run(blob, "kernel", 1, 64, [np.zeros(4, dtype=np.uint32)], arch=arch)
