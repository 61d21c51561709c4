"""Typed bit vectors over lanes: the values of the pseudocode.

A value is raw bits plus a kind (U, I, F, BF, B, FP) and a width. Up to 64 bits it is a uint64 array, above that an
object array of Python integers. Integer arithmetic follows C: narrower operands are promoted to 32 bits, the wider
operand decides, unsigned wins a tie.
"""

from dataclasses import dataclass

import numpy as np

FLOAT_TYPES = {16: np.float16, 32: np.float32, 64: np.float64}
_BITS_TYPES = {16: np.uint16, 32: np.uint32, 64: np.uint64}
_MANTISSA_BITS = {16: 10, 32: 23, 64: 52}


def mask(width: int) -> int:
    return (1 << width) - 1


def fit(bits: np.ndarray, width: int) -> np.ndarray:
    """Bits cut to `width`, in the array type that the width wants."""
    if width > 64:
        wide = bits if bits.dtype == object else bits.astype(object)
        return wide & mask(width)
    if bits.dtype == object:
        return (bits & mask(width)).astype(np.uint64)
    return bits & np.uint64(mask(width))


@dataclass
class Value:
    """Bits of `width` under `kind`, one entry per lane (or one entry for all)."""

    kind: str
    width: int
    bits: np.ndarray

    @staticmethod
    def constant(kind: str, width: int, bits: int) -> "Value":
        return Value(kind, width, fit(np.array([bits], dtype=object), width))

    @staticmethod
    def of_float(numbers: np.ndarray) -> "Value":
        width = numbers.dtype.itemsize * 8
        return Value("F", width, numbers.view(_BITS_TYPES[width]).astype(np.uint64))

    @staticmethod
    def of_bool(flags: np.ndarray) -> "Value":
        return Value("U", 1, flags.astype(np.uint64))

    def signed(self) -> np.ndarray:
        """The bits as numbers: sign-extended for I, zero-extended for U and B (int64, uint64 or object arrays)."""
        if self.width > 64:
            if self.kind != "I":
                return self.bits
            sign = 1 << (self.width - 1)
            return (self.bits ^ sign) - sign
        if self.kind != "I":
            return self.bits
        spare = np.uint64(64 - self.width)
        return (self.bits << spare).view(np.int64) >> spare.view(np.int64)

    def integers(self) -> np.ndarray:
        """As `signed`, but always an object array: exact arithmetic at any width."""
        return self.signed().astype(object)

    def floats(self) -> np.ndarray:
        """The bits as numpy floats of their own width (bfloat16 as float32, exact)."""
        if self.kind == "BF":
            return (self.bits << np.uint64(16)).astype(np.uint32).view(np.float32)
        if self.width not in FLOAT_TYPES:
            raise TypeError(f"a {self.width}-bit value is no float")
        return np.ascontiguousarray(self.bits.astype(_BITS_TYPES[self.width])).view(FLOAT_TYPES[self.width])

    def true(self) -> np.ndarray:
        return np.asarray(self.bits != 0, dtype=bool)

    def scalar(self) -> int:
        """The number that all lanes share."""
        numbers = self.signed()
        first = int(numbers.flat[0])
        if numbers.size > 1 and not np.all(numbers == first):
            raise TypeError("lanes differ where the pseudocode needs one number")
        return first

    def viewed(self, kind: str, width: int) -> "Value":
        """`.f32` and friends: the low bits under another type; a float seen as another float is converted."""
        if self.kind in ("F", "BF") and kind in ("F", "BF") and (self.kind, self.width) != (kind, width):
            return self.converted(kind, width)
        return Value(kind, width, fit(self.bits, width))

    def converted(self, kind: str, width: int) -> "Value":
        """`32'F(x)` and assignment: the same number under another type. Raw bits (kind B) stay as they are."""
        if kind == self.kind and width == self.width:
            return self
        if self.kind == "B" or kind in ("B", "FP"):
            return Value(kind, width, fit(self.bits, width))
        if self.kind in ("F", "BF"):
            if kind not in ("F", "BF"):
                raise TypeError(f"no implicit conversion of a float to {kind}{width}")
            return _float_to_float(self, kind, width)
        if kind == "F":
            return Value.of_float(self.integers().astype(FLOAT_TYPES[width]))
        if kind == "BF":
            return to_bfloat16(self.integers().astype(np.float64))
        return Value(kind, width, _resize(self, width))


def _resize(value: Value, width: int) -> np.ndarray:
    numbers = value.signed()
    if width > 64:
        return numbers.astype(object) & mask(width)
    return fit(numbers if numbers.dtype == object else numbers.view(np.uint64), width)


def _float_to_float(value: Value, kind: str, width: int) -> Value:
    if kind == "BF":
        return to_bfloat16(value.floats().astype(np.float64))
    numbers = value.floats()
    with np.errstate(all="ignore"):
        result = Value.of_float(numbers.astype(FLOAT_TYPES[width]))
    nan = np.isnan(numbers)
    if nan.any():
        # A hardware conversion would quiet a signalling NaN; 64'F(x) inside isSignalNAN must not.
        source = 7 if value.kind == "BF" else _MANTISSA_BITS[value.width]
        target = _MANTISSA_BITS[width]
        payload = value.bits & np.uint64(mask(source))
        sign = (value.bits >> np.uint64(value.width - 1)) << np.uint64(width - 1)
        payload = payload << np.uint64(target - source) if target >= source else payload >> np.uint64(source - target)
        exponent = np.uint64(mask(width - 1) & ~mask(target))
        result.bits = np.where(nan, sign | exponent | payload, result.bits)
    return result


def to_bfloat16(numbers: np.ndarray) -> Value:
    """Float64 numbers to bfloat16, nearest even, by exact integer arithmetic on the float64 bits."""
    return Value("BF", 16, round_float64(numbers, 8, 7))


def round_float64(numbers: np.ndarray, exponent_bits: int, mantissa_bits: int) -> np.ndarray:
    """Float64 to a smaller IEEE format, nearest even, denormals kept, a NaN to the quiet NaN with its sign."""
    bits = np.ascontiguousarray(numbers, dtype=np.float64).view(np.uint64)
    sign = bits >> np.uint64(63)
    magnitude = bits & np.uint64(mask(63))
    bias = (1 << (exponent_bits - 1)) - 1
    exponent = (magnitude >> np.uint64(52)).astype(np.int64) - 1023
    significand = (magnitude & np.uint64(mask(52))) | np.where(
        magnitude >> np.uint64(52), np.uint64(1 << 52), np.uint64(0)
    )
    # A denormal result loses one more bit for each step below the smallest normal exponent.
    shift = 52 - mantissa_bits + np.maximum(0, (1 - bias) - np.maximum(exponent, -1022))
    shift = np.minimum(shift, 60).astype(np.uint64)
    kept = significand >> shift
    rest = significand & ((np.uint64(1) << shift) - np.uint64(1))
    half = np.uint64(1) << (shift - np.uint64(1))
    kept = kept + ((rest > half) | ((rest == half) & ((kept & np.uint64(1)) == 1))).astype(np.uint64)
    biased = np.maximum(exponent + bias, 1).astype(np.uint64)
    result = np.where(exponent + bias >= 1, ((biased - np.uint64(1)) << np.uint64(mantissa_bits)) + kept, kept)
    infinity = np.uint64(mask(exponent_bits) << mantissa_bits)
    result = np.where((result > infinity) | (magnitude == np.uint64(0x7FF << 52)), infinity, result)
    result = np.where(magnitude > np.uint64(0x7FF << 52), infinity | np.uint64(1 << (mantissa_bits - 1)), result)
    return result | (sign << np.uint64(exponent_bits + mantissa_bits))
