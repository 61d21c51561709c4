"""What memory instructions do, in plain Python: values as integers, lane by lane. From the CDNA4 ISA manual."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from emulated.memory_machine import State


def load_bytes(block: np.ndarray, offset: int, count: int) -> int:
    """Little-endian value; bytes of dwords beyond the block are zero."""
    value = 0
    for n in range(count):
        dword_end = offset + n - n % 4 + min(4, count)
        if offset + n >= 0 and dword_end <= len(block):
            value |= int(block[offset + n]) << (8 * n)
    return value


def store_bytes(block: np.ndarray, offset: int, count: int, value: int) -> None:
    """The same rule for stores: dwords beyond the block are dropped."""
    for n in range(count):
        dword_end = offset + n - n % 4 + min(4, count)
        if offset + n >= 0 and dword_end <= len(block):
            block[offset + n] = value >> (8 * n) & 0xFF


@dataclass(frozen=True)
class Format:
    """How a load or store moves one lane's value: bytes in memory, sign extension, register half of 16-bit forms."""

    bytes: int
    signed: bool = False
    half: str = ""  # "low" or "high" for the d16 forms

    @property
    def dwords(self) -> int:
        return max(1, self.bytes // 4)

    def to_register(self, raw: int) -> int:
        if self.signed and raw >> (8 * self.bytes - 1):
            raw -= 1 << (8 * self.bytes)
        if self.half == "high":
            return (raw & 0xFFFF) << 16
        return raw & 0xFFFF if self.half == "low" else raw & ((1 << (32 * self.dwords)) - 1)

    def to_memory(self, value: int) -> int:
        return value >> 16 if self.half == "high" else value


def get(state: State, register: int, lane: int, dwords: int) -> int:
    return sum(int(state.v[register + n, lane]) << (32 * n) for n in range(dwords))


def put(state: State, register: int, lane: int, dwords: int, value: int) -> None:
    for n in range(dwords):
        state.v[register + n, lane] = value >> (32 * n) & 0xFFFFFFFF


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def as_float(value: int, bits: int) -> np.floating:
    return np.array([value], np.uint32 if bits == 32 else np.uint64).view(np.float32 if bits == 32 else np.float64)[0]


def float_bits(value: np.floating) -> int:
    return int(np.array([value]).view(np.uint32 if isinstance(value, np.float32) else np.uint64)[0])


HALVES = {"f16": torch.float16, "bf16": torch.bfloat16}


def packed_add(memory: int, data: int, kind: str) -> int:
    """Two sums of f16 or bf16 numbers."""
    words = torch.tensor([memory, data], dtype=torch.int64).to(torch.int32)
    both = words.view(torch.int16).view(HALVES[kind]).reshape(2, 2)
    total = (both[0] + both[1]).view(torch.int16)
    return (int(total[0]) & 0xFFFF) | (int(total[1]) & 0xFFFF) << 16


def random_halves(count: int, kind: str, seed: int) -> np.ndarray:
    """Normal and denormal numbers, as bytes."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 100.0, 2.0**-14, 2.0**-20])
    values = torch.randn(count, generator=generator) * scale[torch.randint(0, 4, (count,), generator=generator)]
    return values.to(HALVES[kind]).view(torch.uint8).numpy()


Operation = Callable[[int, int, int], int]


def integer_operations(bits: int) -> dict[str, Operation]:
    """Atomics by the last word of their DS or memory names; operands: memory, first data, second data."""
    mask = (1 << bits) - 1
    return {
        "add": lambda m, d, _: m + d & mask,
        "sub": lambda m, d, _: m - d & mask,
        "rsub": lambda m, d, _: d - m & mask,
        "inc": lambda m, d, _: 0 if m >= d else m + 1,
        "dec": lambda m, d, _: d if m == 0 or m > d else m - 1,
        "smin": lambda m, d, _: min(m, d, key=lambda x: signed(x, bits)),
        "smax": lambda m, d, _: max(m, d, key=lambda x: signed(x, bits)),
        "umin": lambda m, d, _: min(m, d),
        "umax": lambda m, d, _: max(m, d),
        "and": lambda m, d, _: m & d,
        "or": lambda m, d, _: m | d,
        "xor": lambda m, d, _: m ^ d,
        "mskor": lambda m, d, e: m & ~d | e,
        "swap": lambda m, d, _: d,
        "cmpst": lambda m, d, e: e if m == d else m,
        "cmpswap": lambda m, d, e: d if m == e else m,
        "wrap": lambda m, d, e: m - d if m >= d else m + e & mask,
    }


def float_operations(bits: int) -> dict[str, Operation]:
    """Float atomics on values that are no NaN; numpy's sums round as the hardware does, to nearest even."""

    def both(op: Callable) -> Operation:
        def apply(m: int, d: int, _: int) -> int:
            with np.errstate(all="ignore"):
                return float_bits(op(as_float(m, bits), as_float(d, bits)))

        return apply

    def compare_store(m: int, d: int, e: int) -> int:
        return e if as_float(m, bits) == as_float(d, bits) else m

    def ordered(value: np.floating) -> tuple[float, bool]:
        return float(value), not bool(np.signbit(value))  # -0 below +0

    return {
        "add": both(lambda m, d: m + d),
        "min": both(lambda m, d: min(m, d, key=ordered)),
        "max": both(lambda m, d: max(m, d, key=ordered)),
        "cmpst": compare_store,
    }
