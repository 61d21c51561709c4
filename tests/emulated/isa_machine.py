"""Runs cases on the emulator: one assembled kernel per batch, every case in a row, results stored per lane.

Kernel arguments: the image of the register pools (`isa_registers.Registers.image`) and the result buffer. One wave per
workgroup.
"""

from collections.abc import Sequence

import numpy as np

from emulated import isa_encoding as code
from emulated.assemble import assemble
from emulated.isa_cases import DESTINATION, SCALAR_DESTINATION, Case
from emulated.isa_registers import FIRST_SCALAR, LANES, LAST_SCALAR, SCALARS, VECTORS, Registers
from flashinfer_jit import emulator

_POOL, _OUT, _EXEC, _SCC = "s[4:5]", "s[6:7]", "s[10:11]", "s12"
_AUX = 12  # v[12:15] holds a case's mask results; v0 the store address
# The modes that compilers set; the assembler's default flushes f32 denormals.
MODE = ".amdhsa_float_denorm_mode_32 3\n.amdhsa_float_denorm_mode_16_64 3"
_WAVE_BYTES = (VECTORS * LANES + SCALARS) * 4


def _prologue(bytes_per_wave: int) -> list[str]:
    lines = [
        "s_load_dwordx4 s[4:7], s[0:1], 0x0",
        "s_waitcnt lgkmcnt(0)",
        f"s_mul_i32 s8, s2, {_WAVE_BYTES}",
        "s_add_u32 s4, s4, s8",
        "s_addc_u32 s5, s5, 0",
        f"s_mul_i32 s8, s2, {bytes_per_wave}",
        "s_add_u32 s6, s6, s8",
        "s_addc_u32 s7, s7, 0",
        "v_and_b32_e32 v0, 63, v0",
        "v_lshlrev_b32_e32 v0, 4, v0",
        "s_mov_b64 s[14:15], s[4:5]",
    ]
    for first in range(0, VECTORS, 4):
        if first >= 16:
            lines.append(f"global_load_dwordx4 v[{first}:{first + 3}], v0, s[14:15]")
        lines += ["s_add_u32 s14, s14, 1024", "s_addc_u32 s15, s15, 0"]
    for first in range(FIRST_SCALAR, LAST_SCALAR, 8):
        lines.append(f"s_load_dwordx8 s[{first}:{first + 7}], s[4:5], {(VECTORS * LANES + first) * 4:#x}")
    return [*lines, "s_waitcnt vmcnt(0) lgkmcnt(0)"]


def _pair(number: int) -> str:
    return f"s[{number}:{number + 1}]"


def _longs(case: Case) -> str:
    return ".long " + ", ".join(f"{word:#x}" for word in case.words)


def _vector_case(case: Case) -> list[str]:
    first = DESTINATION
    old = case.old
    lines = [f"v_mov_b32_e32 v{first + step}, v{old + step}" for step in range(4)]
    lines += [
        f"s_mov_b64 vcc, {_pair(case.vcc_pair)}",
        f"s_mov_b64 {_pair(SCALAR_DESTINATION)}, {_pair(case.vcc_pair)}",
    ]
    if case.exec_pair is not None:
        lines.append(f"s_mov_b64 exec, {_pair(case.exec_pair)}")
    lines += [_longs(case), f"s_mov_b64 {_EXEC}, exec", "s_mov_b64 exec, -1"]
    mask = "vcc" if case.mask_pair == code.VCC else _pair(case.mask_pair)
    low, high = ("vcc_lo", "vcc_hi") if mask == "vcc" else (f"s{case.mask_pair}", f"s{case.mask_pair + 1}")
    lines += [f"v_mov_b32_e32 v{_AUX}, {low}", f"v_mov_b32_e32 v{_AUX + 1}, {high}"]
    lines += [f"v_mov_b32_e32 v{_AUX + 2}, s10", f"v_mov_b32_e32 v{_AUX + 3}, s11"]
    lines += [
        f"global_store_dwordx4 v0, v[{first}:{first + 3}], {_OUT}",
        f"global_store_dwordx4 v0, v[{_AUX}:{_AUX + 3}], {_OUT} offset:1024",
    ]
    return [*lines, "s_add_u32 s6, s6, 2048", "s_addc_u32 s7, s7, 0"]


def _scalar_case(case: Case) -> list[str]:
    lines = [
        f"s_mov_b64 {_pair(SCALAR_DESTINATION)}, {_pair(case.vcc_pair)}",
        f"s_mov_b32 m0, s{case.scc_from}",
        f"s_and_b32 {_SCC}, s{case.scc_from}, 1",
        f"s_cmp_lg_u32 {_SCC}, 0",
        f"s_mov_b64 exec, {_pair(case.exec_pair or 0)}",
        _longs(case),
        f"s_cselect_b32 {_SCC}, 1, 0",
        f"s_mov_b64 {_EXEC}, exec",
        "s_mov_b64 exec, 1",
    ]
    moves = (f"s{SCALAR_DESTINATION}", f"s{SCALAR_DESTINATION + 1}", _SCC, "m0", "s10", "s11", "vcc_lo", "vcc_hi")
    lines += [f"v_mov_b32_e32 v{DESTINATION + n if n < 4 else _AUX + n - 4}, {name}" for n, name in enumerate(moves)]
    lines += [
        f"global_store_dwordx4 v0, v[{DESTINATION}:{DESTINATION + 3}], {_OUT}",
        f"global_store_dwordx4 v0, v[{_AUX}:{_AUX + 3}], {_OUT} offset:16",
    ]
    return [*lines, "s_add_u32 s6, s6, 32", "s_addc_u32 s7, s7, 0"]


def kernel_text(cases: Sequence[Case], scalar: bool) -> tuple[list[str], int]:
    """Instructions of the batch, and the bytes that each wave stores."""
    stride = (32 if scalar else 2048) * len(cases)
    lines = _prologue(stride)
    for case in cases:
        lines += _scalar_case(case) if scalar else _vector_case(case)
    return [*lines, "s_endpgm"], stride


def run(cases: Sequence[Case], registers: Registers, arch: str, *, scalar: bool = False) -> np.ndarray:
    """Results, uint32: vector ``[case, wave, 2, lane, 4]`` (destination; mask, EXEC), scalar ``[case, wave, 8]``."""
    lines, stride = kernel_text(cases, scalar)
    blob = assemble("\n".join(lines) + "\n", arch, name="isa_cases", arguments=("ptr", "ptr"), directives=MODE)
    image = registers.image()
    results = np.zeros(registers.waves * stride // 4, dtype=np.uint32)
    emulator.run(blob, "isa_cases", grid=registers.waves, block=LANES, args=[image, results], arch=arch)
    if scalar:
        return results.reshape(registers.waves, len(cases), 8).transpose(1, 0, 2)
    return results.reshape(registers.waves, len(cases), 2, LANES, 4).transpose(1, 0, 2, 3, 4)
