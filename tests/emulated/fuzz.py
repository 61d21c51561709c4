"""Damaged code objects and kernargs: whatever is in them, the emulated device neither crashes nor hangs.

``python tests/emulated/fuzz.py [count] [seed]`` runs the full number; the suite runs a sample.
"""

import random
import struct
import sys
import time
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulated.assemble import assemble
from flashinfer_jit import emulator
from flashinfer_jit.errors import HipError

# Stores its second argument to the address in its first.
STORE = """
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  s_load_dword s10, s[0:1], 0x8
  v_mov_b32 v1, 0
  s_waitcnt lgkmcnt(0)
  v_mov_b32 v2, s10
  global_store_dword v1, v2, s[8:9]
  s_endpgm
"""


def store(arch: str, **options) -> bytes:
    return assemble(STORE, arch, arguments=("ptr", 4), **options)


def bundle(entries: list[tuple[str, bytes]], alignment: int = 4096) -> bytes:
    header = b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", len(entries))
    at = len(header) + sum(24 + len(name) for name, _ in entries)
    table, body = b"", b""
    for name, data in entries:
        at = -(-at // alignment) * alignment
        table += struct.pack("<QQQ", at, len(data), len(name)) + name.encode()
        at += len(data)
    out = bytearray(header + table)
    for _, data in entries:
        out += bytes(-len(out) % alignment) + data
    return bytes(out + body)


def mutated(rng: random.Random, image: bytes) -> bytes:
    """Return a copy with some damage: bits, bytes, whole words of extreme values, cuts, moved pieces."""
    data = bytearray(image)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            at &= ~7
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 0xFFFFFFFFFFFFFFFF, 1 << 63, 0x7FFFFFFF, 4096)))
        elif kind == 3:
            at &= ~3
            data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 0xFFFFFFFF, 0x80000000, 0xFFFF)))
        elif kind == 4 and rng.randrange(4) == 0:
            del data[at:]
        else:
            size = rng.randrange(1, 64)
            other = rng.randrange(len(data))
            data[at : at + size] = data[other : other + size]
        if not data:
            return b""
    return bytes(data)


def fuzz(arch: str, images: list[bytes], seed: int, count: int) -> tuple[int, int]:
    """Load and launch ``count`` mutants; returns how many ran to their end and how many were refused."""
    rng = random.Random(seed)
    emulator.load().fij_emu_set_budget(20_000)
    out = np.zeros(4096, np.int32)
    ran = refused = 0
    for _ in range(count):
        image = mutated(rng, rng.choice(images))
        kernarg = struct.pack("<QI", out.ctypes.data, 5) + bytes(52)
        if rng.randrange(4) == 0:
            kernarg = mutated(rng, kernarg)
        try:
            emulator.run(image, "kernel", rng.choice((1, 3)), rng.choice((64, 256)), kernarg, buffers=[out], arch=arch)
            ran += 1
        except HipError:
            refused += 1
    return ran, refused


def fuzz_images(arch: str) -> list[bytes]:
    busy = """
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  v_and_b32 v0, 0x3ff, v0
  v_lshlrev_b32 v1, 2, v0
  s_movk_i32 s10, 3
  s_waitcnt lgkmcnt(0)
1:
  global_load_dword v2, v1, s[8:9]
  s_waitcnt vmcnt(0)
  v_mfma_f32_32x32x8_f16 v[16:31], v[2:3], v[4:5], v[16:31]
  ds_write_b32 v1, v2
  s_barrier
  ds_read_b64 v[4:5], v1
  buffer_load_dword v6, v1, s[8:11], 0 offen
  scratch_store_dword off, v2, off offset:8
  flat_load_dword v7, v[8:9]
  v_add_f32_dpp v3, v2, v2 row_shr:1 row_mask:0xf bank_mask:0xf
  s_sub_u32 s10, s10, 1
  s_cmp_lg_u32 s10, 0
  s_cbranch_scc1 1b
  global_store_dword v1, v2, s[8:9]
  s_endpgm
"""
    return [
        store(arch),
        store(arch, metadata=False),
        assemble(busy, arch, arguments=("ptr", 4), lds=4096, scratch=64),
        bundle([(f"hipv4-amdgcn-amd-amdhsa--{arch}", store(arch))], alignment=64),
    ]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for arch in ("gfx942", "gfx950"):
        start = time.perf_counter()
        ran, refused = fuzz(arch, fuzz_images(arch), seed, count // 2)
        print(f"{arch}: {ran} ran, {refused} refused, none crashed, in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
