"""Matrix instructions as matrix products: layouts, element types and a float64 reference, from the ISA manuals."""

import re
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np

from tests.emulated import small_floats

LANES = 64
_SIMPLE = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "i8": np.int8}
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "i8": 8, "fp8": 8, "bf8": 8, "fp6": 6, "bf6": 6, "fp4": 4}

BOTH = (
    "v_mfma_f32_32x32x1_2b_f32", "v_mfma_f32_16x16x1_4b_f32", "v_mfma_f32_4x4x1_16b_f32", "v_mfma_f32_32x32x2_f32",
    "v_mfma_f32_16x16x4_f32", "v_mfma_f32_32x32x4_2b_f16", "v_mfma_f32_16x16x4_4b_f16", "v_mfma_f32_4x4x4_16b_f16",
    "v_mfma_f32_32x32x8_f16", "v_mfma_f32_16x16x16_f16", "v_mfma_f32_32x32x4_2b_bf16", "v_mfma_f32_16x16x4_4b_bf16",
    "v_mfma_f32_4x4x4_16b_bf16", "v_mfma_f32_32x32x8_bf16", "v_mfma_f32_16x16x16_bf16", "v_mfma_i32_32x32x4_2b_i8",
    "v_mfma_i32_16x16x4_4b_i8", "v_mfma_i32_4x4x4_16b_i8", "v_mfma_i32_32x32x16_i8", "v_mfma_i32_16x16x32_i8",
    "v_mfma_f32_16x16x32_bf8_bf8", "v_mfma_f32_16x16x32_bf8_fp8", "v_mfma_f32_16x16x32_fp8_bf8",
    "v_mfma_f32_16x16x32_fp8_fp8", "v_mfma_f32_32x32x16_bf8_bf8", "v_mfma_f32_32x32x16_bf8_fp8",
    "v_mfma_f32_32x32x16_fp8_bf8", "v_mfma_f32_32x32x16_fp8_fp8",
)  # fmt: skip
GFX950 = (
    "v_mfma_f32_16x16x32_bf16", "v_mfma_i32_16x16x64_i8", "v_mfma_f32_32x32x16_bf16", "v_mfma_i32_32x32x32_i8",
    "v_mfma_f32_16x16x32_f16", "v_mfma_f32_32x32x16_f16",
)  # fmt: skip


def names(arch: str) -> tuple[str, ...]:
    """Dense matrix instructions of an arch, as LLVM spells them; f8f6f4, f64, xf32 and sparse ones excluded."""
    return BOTH + GFX950 if arch == "gfx950" else BOTH


def registers_text(first: str, count: int) -> str:
    """`v16`, or `v[16:19]`."""
    file, number = first[0], int(first[1:])
    return first if count == 1 else f"{file}[{number}:{number + count - 1}]"


@dataclass(frozen=True)
class Shape:
    """`blocks` products of a `size` x `k` with a `k` x `size` matrix."""

    size: int
    k: int
    blocks: int
    a_type: str
    b_type: str
    integer: bool = False

    @staticmethod
    def of(name: str) -> "Shape":
        match = re.fullmatch(r"v_mfma_([fi])32_(\d+)x\d+x(\d+)(?:_(\d+)b)?_(\w+)", name)
        assert match, name
        types = match[5].split("_") * 2
        return Shape(int(match[2]), int(match[3]), int(match[4] or 1), types[0], types[1], match[1] == "i")

    @property
    def per_lane(self) -> int:
        return self.k * self.size * self.blocks // LANES

    @property
    def result_registers(self) -> int:
        return self.size * self.size * self.blocks // LANES

    def operand_registers(self, kind: str) -> int:
        return self.per_lane * _BITS[kind] // 32

    @property
    def flops(self) -> int:
        return 2 * self.size * self.size * self.k * self.blocks

    @cached_property
    def _operand_places(self) -> np.ndarray:
        """(blocks, size, k, 2): lane and item of A[block, row, k] and of B[block, k, column]."""
        block, row, k = np.indices((self.blocks, self.size, self.k))
        return np.stack([block * self.size + k // self.per_lane * self.size * self.blocks + row, k % self.per_lane], -1)

    @cached_property
    def result_places(self) -> np.ndarray:
        """(blocks, size, size, 2): register and lane of D[block, row, column]."""
        block, row, column = np.indices((self.blocks, self.size, self.size))
        groups = LANES // self.size
        side_by_side = -(-LANES // (self.size * self.size // 4))
        register = block * (self.size * self.size // LANES) + row // (4 * groups) * 4 + row % 4
        lane = block % side_by_side * self.size + row // 4 % groups * side_by_side * self.size + column
        return np.stack([register, lane], -1)

    def gather(self, items: np.ndarray, lanes: np.ndarray | None = None) -> np.ndarray:
        """(blocks, size, k) matrix from items (lane, item), each lane read from `lanes[lane]`."""
        lane, item = self._operand_places[..., 0], self._operand_places[..., 1]
        return items[lane if lanes is None else lanes[lane], item]

    def result(self, registers: np.ndarray) -> np.ndarray:
        """(blocks, size, size) matrix from (register, lane)."""
        return registers[self.result_places[..., 0], self.result_places[..., 1]]


def unpack(registers: np.ndarray, kind: str, arch: str) -> np.ndarray:
    """(lane, item) float64 from (register, lane) of an element type."""
    words = np.ascontiguousarray(registers.T)
    if kind in _SIMPLE:
        return words.view(_SIMPLE[kind]).astype(np.float64)
    bits = _BITS[kind]
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    codes = stream.reshape(LANES, -1, bits) @ (1 << np.arange(bits))
    return small_floats.of_arch(arch, kind).decode(codes)


def pack(values: np.ndarray, kind: str, arch: str) -> np.ndarray:
    """(register, lane) words from (lane, item) values that the element type holds exactly or to nearest."""
    if kind in _SIMPLE:
        raw = np.ascontiguousarray(values.astype(_SIMPLE[kind]))
        return np.ascontiguousarray(raw.view(np.uint32).T)
    bits = _BITS[kind]
    codes = small_floats.of_arch(arch, kind).encode(values, saturate=True)
    stream = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(LANES, -1)
    return np.ascontiguousarray(np.packbits(stream, axis=1, bitorder="little").view(np.uint32).T)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """D[block, i, j] = sum over k of a[block, i, k] * b[block, j, k], in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.einsum("bik,bjk->bij", a, b)
