"""LDS bank conflicts in the report, against a count that follows the published phases lane by lane."""

import numpy as np
import pytest

from emulated.assemble import assemble
from flashinfer_jit import emulator

LANES = range(64)


def phases(arch: str, size: int, write: bool) -> list[list[int]]:
    """Lanes that are served together."""
    if size > 8 and not write:
        eight = [
            [*range(4), *range(20, 24)],
            [*range(4, 8), *range(16, 20)],
            [*range(8, 12), *range(28, 32)],
            [*range(12, 16), *range(24, 28)],
        ]
        half = eight if arch == "gfx942" else [eight[0] + eight[3], eight[1] + eight[2]]
        return half + [[lane + 32 for lane in phase] for phase in half]
    clock = 256 if arch == "gfx950" and not write else 128
    together = min(64, clock // (16 if size > 8 else max(4, size)))
    return [list(range(first, first + together)) for first in range(0, 64, together)]


def conflict_cycles(arch: str, addresses: np.ndarray, size: int, write: bool) -> int:
    banks, cycles = 64 if arch == "gfx950" else 32, 0
    for phase in phases(arch, size, write):
        asked: dict[int, set[int]] = {}
        for lane in phase:
            for dword in range(int(addresses[lane]) // 4, (int(addresses[lane]) + max(4, size)) // 4):
                asked.setdefault(dword % banks, set()).add(dword)
        cycles += max(len(dwords) for dwords in asked.values()) - 1
    return cycles


PATTERNS = {
    "linear": lambda lane, size: lane * size,
    "rows of 128 bytes": lambda lane, size: lane * 128,
    "rows of 256 bytes": lambda lane, size: lane * 256,
    "rows of 272 bytes": lambda lane, size: lane * 272,
    "rows of 136 bytes": lambda lane, size: lane * 136 // size * size,
    "one address": lambda lane, size: np.zeros_like(lane),
    "pairs": lambda lane, size: lane // 2 * size,
    "xor swizzle": lambda lane, size: lane % 16 * 128 + ((lane // 16 ^ lane % 8) * 16) % 128,
    "random": lambda lane, size: np.random.default_rng(7).integers(0, 1024, 64) * size,
}
INSTRUCTIONS = {
    "ds_read_u16 v4, v3": (2, False),
    "ds_read_b32 v4, v3": (4, False),
    "ds_read_b64 v[4:5], v3": (8, False),
    "ds_read_b96 v[4:6], v3": (12, False),
    "ds_read_b128 v[4:7], v3": (16, False),
    "ds_write_b32 v3, v4": (4, True),
    "ds_write_b64 v3, v[4:5]": (8, True),
    "ds_write_b128 v3, v[4:7]": (16, True),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_conflict_cycles(arch: str, pattern: str) -> None:
    for instruction, (size, write) in INSTRUCTIONS.items():
        addresses = np.asarray(PATTERNS[pattern](np.arange(64), size), np.uint32)
        text = f"""
          s_load_dwordx2 s[4:5], s[0:1], 0x0
          v_lshlrev_b32_e32 v2, 2, v0
          s_waitcnt lgkmcnt(0)
          global_load_dword v3, v2, s[4:5]
          s_waitcnt vmcnt(0)
          {instruction}
          s_endpgm"""
        report = emulator.run(
            assemble(text, arch, arguments=("ptr",), lds=32768), "kernel", 1, 64, [addresses], arch=arch
        )
        assert report.lds_conflict_cycles == conflict_cycles(arch, addresses, size, write), instruction


def test_known_layouts() -> None:
    """Rows of 256 bytes collide in a b128 read on both archs, 16 bytes of padding cure it."""
    lane = np.arange(64)
    for arch in ("gfx942", "gfx950"):
        assert conflict_cycles(arch, lane % 32 * 256, 16, False) > 0
        assert conflict_cycles(arch, lane * 272, 16, False) == 0
        assert conflict_cycles(arch, lane * 16, 16, False) == 0
