"""Small programs: vector ones over whole arrays, and ones of a single wave whose scalar registers count."""

from collections.abc import Sequence

import numpy as np

from emulated.assemble import assemble
from emulated.isa_machine import MODE
from flashinfer_jit import emulator

LANES = 64
FIRST_INPUT = 8  # inputs are v[8:9], v[10:11] ...; the result is v[4:5]


def run_lanes(body: str, inputs: Sequence[np.ndarray], arch: str) -> np.ndarray:
    """Results v[4:5] of every lane as uint64. Inputs: arrays of one length, a multiple of 64, of at most 64 bits."""
    count = len(inputs[0])
    assert count % LANES == 0
    wide = [np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64) for values in inputs]
    lines = ["s_load_dwordx2 s[4:5], s[0:1], 0x0", "s_load_dwordx2 s[6:7], s[0:1], 0x8", "s_waitcnt lgkmcnt(0)"]
    lines += [
        "v_and_b32_e32 v0, 63, v0",
        "s_lshl_b32 s3, s2, 6",
        "v_add_u32_e32 v0, s3, v0",
        "v_lshlrev_b32_e32 v1, 3, v0",
    ]
    for number in range(len(inputs)):
        first = FIRST_INPUT + 2 * number
        lines.append(f"global_load_dwordx2 v[{first}:{first + 1}], v1, s[4:5]")
        lines += [f"s_add_u32 s4, s4, {8 * count}", "s_addc_u32 s5, s5, 0"]
    lines += ["s_waitcnt vmcnt(0)", "v_mov_b32_e32 v4, 0", "v_mov_b32_e32 v5, 0", body, "s_mov_b64 exec, -1"]
    lines += ["global_store_dwordx2 v1, v[4:5], s[6:7]", "s_endpgm", ""]
    blob = assemble("\n".join(lines), arch, arguments=["ptr", "ptr"], directives=MODE)
    results = np.zeros(count, dtype=np.uint64)
    emulator.run(blob, "kernel", count // LANES, LANES, [np.stack(wide), results], arch=arch)
    return results


# s[6:7] is the result buffer.
PROLOGUE = """
s_load_dwordx2 s[6:7], s[0:1], 0x0
s_waitcnt lgkmcnt(0)
v_and_b32_e32 v0, 63, v0
"""


def program(body: str, results: str, arch: str) -> list[int]:
    """Runs `body` on one wave and returns the scalar registers that `results` names, and then v4 of all lanes."""
    lines = [PROLOGUE, body, "s_mov_b64 exec, -1", "v_lshlrev_b32_e32 v1, 2, v0", "global_store_dword v1, v4, s[6:7]"]
    for number, register in enumerate(results.split()):
        lines += ["v_mov_b32_e32 v2, 0", f"v_mov_b32_e32 v3, {register}"]
        lines.append(f"global_store_dword v2, v3, s[6:7] offset:{256 + 4 * number}")
    blob = assemble("\n".join([*lines, "s_endpgm", ""]), arch, arguments=["ptr"], directives=MODE)
    memory = np.zeros(64 + 32, dtype=np.uint32)
    emulator.run(blob, "kernel", 1, 64, [memory], arch=arch)
    return [*map(int, memory[64 : 64 + len(results.split())]), *map(int, memory[:64])]
