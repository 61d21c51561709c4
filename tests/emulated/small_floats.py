"""Independent reference of the 8-, 6-, 4- and 16-bit floating-point formats, in float64 and by table search."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Format:
    """A sign bit, `exponent_bits`, `mantissa_bits`. `special` is what the last codes mean.

    `special`: "none" (all codes are numbers), "nan" (all ones is NaN: E4M3), "ieee" (infinity and NaNs: E5M2) or
    "fnuz" (minus zero is the only NaN).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    special: str

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)

    @cached_property
    def magnitudes(self) -> np.ndarray:
        """Values of the codes without sign, and of one code more, as if the range went on."""
        code = np.arange(self.sign + 1)
        exponent, mantissa = code >> self.mantissa_bits, code & ((1 << self.mantissa_bits) - 1)
        fraction = mantissa / (1 << self.mantissa_bits)
        normal = np.ldexp(1.0 + fraction, exponent - self.bias)
        return np.where(exponent == 0, np.ldexp(fraction, 1 - self.bias), normal)

    @property
    def largest(self) -> int:
        """Code of the largest finite magnitude."""
        if self.special == "ieee":
            return (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1
        return self.sign - 2 if self.special == "nan" else self.sign - 1

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values of codes as float64."""
        codes = np.asarray(codes).astype(np.int64) & (2 * self.sign - 1)
        magnitude = codes & (self.sign - 1)
        value = self.magnitudes[magnitude]
        if self.special == "ieee":
            value = np.where(
                magnitude == self.largest + 1, np.inf, np.where(magnitude > self.largest + 1, np.nan, value)
            )
        if self.special == "nan":
            value = np.where(magnitude == self.sign - 1, np.nan, value)
        value = np.where(codes & self.sign, -value, value)
        return np.where(codes == self.sign, np.nan, value) if self.special == "fnuz" else value

    def encode(self, values: np.ndarray, *, saturate: bool = False, random: np.ndarray | None = None) -> np.ndarray:
        """Codes of float64 values, rounded to nearest even, or stochastically by the top bits of 32-bit `random`."""
        values = np.asarray(values, dtype=np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            finite = np.where(np.isfinite(values), np.abs(values), 0.0)
            code = self._nearest(finite) if random is None else self._stochastic(finite, random)
        beyond = (code > self.largest) | np.isinf(values)
        outcome = self.largest if saturate or self.special == "none" else self.largest + 1
        code = np.where(beyond, outcome, code)
        if self.bits == 16:
            code = np.where(np.isinf(values), self.largest + 1, code)
        negative = np.signbit(values)
        if self.special == "fnuz":
            code = np.where(negative & (code > 0), code | self.sign, code)
            absent = np.isnan(values) | (beyond & (not saturate))
            return np.where(absent, self.sign, code)
        signed = code | np.where(negative, self.sign, 0)
        if self.special == "none":
            return np.where(np.isnan(values), 0, signed)
        return np.where(np.isnan(values), self.sign - 1 | np.where(negative, self.sign, 0), signed)

    def _nearest(self, magnitude: np.ndarray) -> np.ndarray:
        table = self.magnitudes[: self.largest + 2]
        upper = np.searchsorted(table, magnitude).clip(1, self.largest + 1)
        lower = upper - 1
        middle = (table[lower] + table[upper]) / 2
        return np.where(magnitude > middle, upper, np.where(magnitude < middle, lower, lower + (lower & 1)))

    def _stochastic(self, magnitude: np.ndarray, random: np.ndarray) -> np.ndarray:
        dropped = 23 - self.mantissa_bits
        exponent = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, 1 - self.bias).clip(1 - self.bias)
        scaled = np.ldexp(magnitude, self.mantissa_bits - exponent)
        kept = np.floor(scaled)
        fraction = np.floor(np.ldexp(scaled - kept, dropped)).astype(np.int64)
        kept = kept.astype(np.int64) + ((fraction + (random.astype(np.int64) >> (32 - dropped))) >> dropped)
        return ((exponent - (1 - self.bias)).astype(np.int64) << self.mantissa_bits) + kept


E4M3 = Format("float8_e4m3fn", 4, 3, 7, "nan")
E5M2 = Format("float8_e5m2", 5, 2, 15, "ieee")
E4M3FNUZ = Format("float8_e4m3fnuz", 4, 3, 8, "fnuz")
E5M2FNUZ = Format("float8_e5m2fnuz", 5, 2, 16, "fnuz")
E2M3 = Format("float6_e2m3fn", 2, 3, 1, "none")
E3M2 = Format("float6_e3m2fn", 3, 2, 3, "none")
E2M1 = Format("float4_e2m1fn", 2, 1, 1, "none")
HALF = Format("float16", 5, 10, 15, "ieee")
BFLOAT = Format("bfloat16", 8, 7, 127, "ieee")


def of_arch(arch: str, kind: str) -> Format:
    """What "fp8" and "bf8" mean on an arch."""
    if arch == "gfx942":
        return {"fp8": E4M3FNUZ, "bf8": E5M2FNUZ}[kind]
    return {"fp8": E4M3, "bf8": E5M2, "fp6": E2M3, "bf6": E3M2, "fp4": E2M1}[kind]


def next_random(x: np.ndarray) -> np.ndarray:
    """v_prng_b32."""
    x = x.astype(np.uint32)
    return (x << np.uint32(1)) ^ np.where(x >> np.uint32(31), np.uint32(197), np.uint32(0))
