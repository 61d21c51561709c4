"""The register contents that the differential test runs on: pools of random and special values, one pool per wave."""

import numpy as np

LANES = 64
VECTORS, SCALARS = 176, 128

# Register ranges by the type of value they hold: (first, count).
VECTOR_POOLS = {
    "F32": (16, 32),
    "F16": (48, 24),
    "F64": (72, 32),
    "INT": (104, 32),
    "BF16": (136, 8),
    "SHIFT": (144, 8),
    "SELECT": (168, 8),
}
# Registers in which the lanes hold every pair of special values: the first operands and the second ones, twice.
PAIRS = {16: (152, 2), 32: (156, 2), 64: (160, 4)}
SCALAR_POOLS = {"F32": (16, 16), "INT": (32, 16), "F64": (48, 16), "MASK": (64, 16), "F16": (80, 8), "SELECT": (88, 8)}
FIRST_SCALAR, LAST_SCALAR = 16, 96

FLOAT32 = np.array(
    [
        *(0, 1, 0x7FFFFF, 0x800000, 0x3F000000, 0x3F800000, 0x3FC00000, 0x40000000, 0x40200000, 0x3E22F983, 0x43800000),
        *(0x477FF000, 0x47800000, 0x4B000000, 0x4B800001, 0x4F000000, 0x4EFFFFFF, 0x4F800000, 0x5F000000, 0x7F7FFFFF),
        *(0x33800000, 0x38800000, 0x387FC000, 0x33000001, 0x42FC0000, 0x42FE0000, 0x7F800000, 0x7FC00123, 0x7F800001),
    ],
    dtype=np.uint32,
)
FLOAT16 = np.array(
    [
        *(0, 1, 0x3FF, 0x400, 0x3800, 0x3C00, 0x3E00, 0x4000, 0x4100, 0x4400, 0x3118, 0x6400, 0x6800, 0x7800, 0x77FF),
        *(0x7BFF, 0x7C00, 0x7E01, 0x7C01),
    ],
    dtype=np.uint32,
)
FLOAT64 = np.array(
    [
        *(0, 1, 0xFFFFFFFFFFFFF, 0x10000000000000, 0x3FE0000000000000, 0x3FF0000000000000, 0x3FF8000000000000),
        *(0x4000000000000000, 0x4004000000000000, 0x41DFFFFFFFC00000, 0x41E0000000000000, 0x41F0000000000000),
        *(0x47EFFFFFE0000000, 0x47EFFFFFF0000000, 0x36A0000000000000, 0x3690000000000000, 0x4330000000000000),
        *(0x7FEFFFFFFFFFFFFF, 0x7FF0000000000000, 0x7FF8000000000012, 0x7FF0000000000001),
    ],
    dtype=np.uint64,
)
BFLOAT16 = np.array([0, 1, 0x7F, 0x80, 0x3F80, 0x3F00, 0x4000, 0x7F7F, 0x7F80, 0x7FC1, 0x7F81], dtype=np.uint32)
INTEGERS = np.array(
    [
        *(0, 1, 2, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFF, 0x800000),
        *(0xFFFFFF, 0x1000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFF80, 0xFFFF8000, 0xFFFFFFFE, 0x80008000),
        *(0x7FFF7FFF, 0x55555555),
    ],
    dtype=np.uint32,
)


def _mixed(
    rng: np.random.Generator, shape: tuple[int, ...], specials: np.ndarray, ordinary: np.ndarray, sign: int
) -> np.ndarray:
    """Ordinary values with a third replaced by special ones of either sign."""
    chosen = specials[rng.integers(0, len(specials), shape)] ^ (
        rng.integers(0, 2, shape).astype(specials.dtype) * specials.dtype.type(sign)
    )
    return np.where(rng.random(shape) < 1 / 3, chosen, ordinary)


def float32_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A third near one, a third any bit pattern, a third special."""
    near = (rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 9, shape)).astype(np.float32).view(np.uint32)
    wild = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    return _mixed(rng, shape, FLOAT32, np.where(rng.random(shape) < 0.6, near, wild), 1 << 31)


def float16_pairs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    def halves() -> np.ndarray:
        near = (
            (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 7, shape))
            .astype(np.float16)
            .view(np.uint16)
            .astype(np.uint32)
        )
        wild = rng.integers(0, 1 << 16, shape, dtype=np.uint32)
        return _mixed(rng, shape, FLOAT16, np.where(rng.random(shape) < 0.6, near, wild), 1 << 15)

    return halves() | halves() << np.uint32(16)


def bfloat16_pairs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    def halves() -> np.ndarray:
        near = (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 7, shape)).astype(np.float32).view(
            np.uint32
        ) >> np.uint32(16)
        return _mixed(rng, shape, BFLOAT16, near, 1 << 15)

    return halves() | halves() << np.uint32(16)


def float64_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    near = (rng.standard_normal(shape) * 2.0 ** rng.integers(-40, 41, shape)).view(np.uint64)
    wild = rng.integers(0, 1 << 64, shape, dtype=np.uint64)
    return _mixed(rng, shape, FLOAT64, np.where(rng.random(shape) < 0.7, near, wild), 1 << 63)


def integer_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    wild = rng.integers(0, 1 << 32, shape, dtype=np.uint32) >> rng.integers(0, 24, shape, dtype=np.uint32)
    return _mixed(rng, shape, INTEGERS, np.where(rng.random(shape) < 0.3, ~wild, wild), 0)


def mask_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    dense = rng.integers(0, 1 << 64, shape, dtype=np.uint64)
    sparse = dense & rng.integers(0, 1 << 64, shape, dtype=np.uint64) & rng.integers(0, 1 << 64, shape, dtype=np.uint64)
    return np.where(rng.random(shape) < 0.3, sparse, dense)


_MAKERS = {
    "F32": float32_values,
    "F16": float16_pairs,
    "INT": integer_values,
    "BF16": bfloat16_pairs,
    "SHIFT": lambda rng, shape: (
        rng.integers(0, 72, shape, dtype=np.uint32) * rng.choice(np.array([1, 0x10001], dtype=np.uint32), shape)
    ),
    "SELECT": lambda rng, shape: rng.integers(0, 15, (*shape, 4), dtype=np.uint8).view(np.uint32)[..., 0],
}


# Zeros, denormals, one, the largest number, infinity and NaNs: their pairs are what float opcodes get wrong.
_PAIRED = {
    16: (0, 1, 0x400, 0x3C00, 0x7BFF, 0x7C00, 0x7E01),
    32: (0, 1, 0x800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00123, 0x7F800001),
    64: (0, 1, 1 << 52, 0x3FF << 52, (0x7FF << 52) - 1, 0x7FF << 52, 0x7FF8000000000012, (0x7FF << 52) + 1),
}


def special_pairs(width: int, waves: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second operands ``[waves, 64]``: pairs of special values of either sign, a block of them per wave."""
    values = [number | sign << (width - 1) for number in _PAIRED[width] for sign in (0, 1)]
    lanes = np.arange(LANES * waves) + block * LANES * waves
    first = np.array([values[lane // len(values) % len(values)] for lane in lanes], dtype=np.uint64)
    second = np.array([values[lane % len(values)] for lane in lanes], dtype=np.uint64)
    return first.reshape(waves, LANES), second.reshape(waves, LANES)


class Registers:
    """Vector registers `v` of shape ``[waves, 176, 64]`` and scalar registers `s` of shape ``[waves, 128]``, uint32."""

    def __init__(self, waves: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.waves = waves
        self.v = np.zeros((waves, VECTORS, LANES), dtype=np.uint32)
        self.s = np.zeros((waves, SCALARS), dtype=np.uint32)
        for name, (first, count) in VECTOR_POOLS.items():
            if name == "F64":
                pairs = float64_values(rng, (waves, count // 2, LANES))
                self.v[:, first : first + count : 2] = pairs & np.uint64(0xFFFFFFFF)
                self.v[:, first + 1 : first + count : 2] = pairs >> np.uint64(32)
            else:
                self.v[:, first : first + count] = _MAKERS[name](rng, (waves, count, LANES))
        for width, (first, count) in PAIRS.items():
            for block in range(2):
                for operand, values in enumerate(special_pairs(width, waves, block)):
                    number = first + block * count + operand * count // 2
                    self.v[:, number] = values & np.uint64(0xFFFFFFFF)
                    if width == 64:
                        self.v[:, number + 1] = values >> np.uint64(32)
        for name, (first, count) in SCALAR_POOLS.items():
            if name in ("F64", "MASK"):
                make = float64_values if name == "F64" else mask_values
                self.s[:, first : first + count] = make(rng, (waves, count // 2)).view(np.uint32)
            else:
                self.s[:, first : first + count] = _MAKERS[name](rng, (waves, count))

    def image(self) -> np.ndarray:
        """The pools as the kernel loads them: per wave, four vector registers lane by lane at a time, then scalars."""
        groups = self.v.reshape(self.waves, VECTORS // 4, 4, LANES).transpose(0, 1, 3, 2).reshape(self.waves, -1)
        return np.ascontiguousarray(np.concatenate([groups, self.s], axis=1))

    def vector(self, number: int, dwords: int) -> np.ndarray:
        """`dwords` registers from `number` on as one value per lane, lanes of all waves in a row."""
        return _joined([self.v[:, number + step].reshape(-1) for step in range(dwords)])

    def scalar(self, number: int, dwords: int) -> np.ndarray:
        return _joined([np.repeat(self.s[:, number + step], LANES) for step in range(dwords)])


def _joined(words: list[np.ndarray]) -> np.ndarray:
    if len(words) > 2:
        return sum(word.astype(object) << (32 * step) for step, word in enumerate(words))
    low = words[0].astype(np.uint64)
    return low if len(words) == 1 else low | words[1].astype(np.uint64) << np.uint64(32)
