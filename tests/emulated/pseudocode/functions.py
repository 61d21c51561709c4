"""Built-in functions of the pseudocode, from the words of the manual.

Floats are computed exactly or in float64 and rounded once; a result that the hardware approximates (exp, log, sin, rcp
...) is the correctly rounded one, and the comparison allows for the approximation.
"""

import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from emulated.pseudocode.values import FLOAT_TYPES, Value, fit, mask, round_float64, to_bfloat16

_MANTISSA_BITS = {16: 10, 32: 23, 64: 52}
_ROUNDING_NEAREST = {16: (5, 10), 32: (8, 23)}


def from_float64(numbers: np.ndarray, width: int) -> Value:
    """Float64 numbers rounded once to a float of `width` bits."""
    if width == 64:
        return Value.of_float(np.ascontiguousarray(numbers, dtype=np.float64))
    return Value("F", width, round_float64(numbers, *_ROUNDING_NEAREST[width]))


def is_nan(x: Value) -> np.ndarray:
    return np.isnan(x.floats())


def is_signalling(x: Value) -> np.ndarray:
    quiet = np.uint64(1 << (_MANTISSA_BITS[x.width] - 1))
    return is_nan(x) & ((x.bits & quiet) == 0)


def exponent(x: Value) -> np.ndarray:
    """Biased exponent field."""
    mantissa_bits = _MANTISSA_BITS[x.width]
    return ((x.bits >> np.uint64(mantissa_bits)) & np.uint64(mask(x.width - 1 - mantissa_bits))).astype(np.int64)


def is_denormal(x: Value) -> np.ndarray:
    return (exponent(x) == 0) & (x.floats() != 0)


def fma(a: Value, b: Value, c: Value) -> Value:
    """a * b + c with one rounding."""
    with np.errstate(all="ignore"):
        if a.width == 64:
            return _fma64(a, b, c)
        left = a.floats().astype(np.float64) * b.floats().astype(np.float64)  # exact: twice 24 bits fit in 53
        right = c.floats().astype(np.float64)
        total = left + right
        back = total - left
        error = (left - (total - back)) + (right - back)
        # Round to odd: an inexact sum keeps its direction in the last bit, so that the next rounding is the only one.
        bits = total.view(np.uint64)
        inexact = (error != 0) & np.isfinite(total) & ((bits & np.uint64(1)) == 0)
        away = (error > 0) == (total > 0)
        bits = np.where(inexact, np.where(away, bits + np.uint64(1), bits - np.uint64(1)), bits)
        return from_float64(bits.view(np.float64), a.width)


def _fma64(a: Value, b: Value, c: Value) -> Value:
    x, y, z = np.broadcast_arrays(a.floats(), b.floats(), c.floats())
    result = x * y + z
    for lane in np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(z)):
        exact = Fraction(float(x[lane])) * Fraction(float(y[lane])) + Fraction(float(z[lane]))
        if exact:
            try:
                result[lane] = float(exact)
            except OverflowError:
                result[lane] = np.inf if exact > 0 else -np.inf
    return Value.of_float(result)


def float_to_integer(x: Value, kind: str, width: int) -> Value:
    """Toward zero, saturating, NaN to 0."""
    low, high = (0, mask(width)) if kind == "U" else (-(1 << (width - 1)), mask(width - 1))
    numbers = np.nan_to_num(np.trunc(x.floats().astype(np.float64)), nan=0.0, posinf=1e30, neginf=-1e30)
    integers = np.array([min(max(int(number), low), high) for number in numbers.flat], dtype=object)
    return Value(kind, width, fit(integers, width))


def to_normalised(x: Value, kind: str) -> Value:
    """[-1, 1] to int16 or [0, 1] to uint16, nearest even, NaN to 0."""
    scale, low = (32767.0, -1.0) if kind == "I" else (65535.0, 0.0)
    numbers = np.clip(np.nan_to_num(x.floats().astype(np.float64), nan=0.0), low, 1.0)
    return Value(kind, 16, fit(np.rint(numbers * scale).astype(np.int64).view(np.uint64), 16))


def float32_to_float16(x: Value, toward_zero: bool) -> Value:
    nearest = from_float64(x.floats().astype(np.float64), 16)
    if not toward_zero:
        return nearest
    too_far = (np.abs(nearest.floats().astype(np.float64)) > np.abs(x.floats().astype(np.float64))) & np.isfinite(
        x.floats()
    )
    return Value(
        "F", 16, nearest.bits - too_far.astype(np.uint64)
    )  # one step down in magnitude, infinity to the largest number


def saturate(x: Value, kind: str, width: int) -> Value:
    low, high = (0, mask(width)) if kind == "U" else (-(1 << (width - 1)), mask(width - 1))
    return Value(kind, width, fit(np.clip(x.integers(), low, high).astype(object), width))


def minimum_or_maximum(a: Value, b: Value, largest: bool) -> Value:
    """IEEE 754-2019 minimum and maximum: a NaN wins, and -0 is less than +0."""
    x, y = a.floats(), b.floats()
    signed_zero = (
        np.where(a.bits == 0, np.zeros_like(a.bits), b.bits) if largest else np.where(a.bits != 0, a.bits, b.bits)
    )
    with np.errstate(all="ignore"):
        first = x >= y if largest else x <= y
    bits = np.where(first, a.bits, b.bits)
    bits = np.where((x == 0) & (y == 0), signed_zero, bits)
    quiet = np.uint64(1 << (_MANTISSA_BITS[a.width] - 1))
    bits = np.where(np.isnan(y), b.bits | quiet, bits)
    return Value(a.kind, a.width, np.where(np.isnan(x), a.bits | quiet, bits))


def _elementary(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Value], Value]:
    def apply(x: Value) -> Value:
        with np.errstate(all="ignore"):
            return from_float64(function(x.floats().astype(np.float64)), x.width)

    return apply


def _native(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Value], Value]:
    def apply(x: Value) -> Value:
        with np.errstate(all="ignore"):
            return Value.of_float(function(x.floats()))

    return apply


def _flag(function: Callable[[Value], np.ndarray]) -> Callable[[Value], Value]:
    return lambda x: Value.of_bool(function(x))


def _quiet(x: Value) -> Value:
    return Value(x.kind, x.width, np.where(is_nan(x), x.bits | np.uint64(1 << (_MANTISSA_BITS[x.width] - 1)), x.bits))


def _power(base: Value, power: Value) -> Value:
    with np.errstate(all="ignore"):
        numbers = base.floats().astype(np.float64) ** (power.floats() if power.kind == "F" else power.signed()).astype(
            np.float64
        )
    return from_float64(numbers, base.width)


def _ldexp(x: Value, power: Value) -> Value:
    steps = np.clip(power.signed().astype(np.int64), -4000, 4000)
    with np.errstate(all="ignore"):
        if x.width < 64:  # exact in float64 for every exponent that does not over- or underflow there as well
            return from_float64(np.ldexp(x.floats().astype(np.float64), steps), x.width)
        return Value.of_float(np.ldexp(x.floats(), steps))


def _sign_extend(x: Value) -> Value:
    return Value("I", x.width, x.bits).converted("I", 64)


def _sign_extend_from_bit(x: Value, bits: Value) -> Value:
    width = np.minimum(bits.bits, np.uint64(x.width))
    spare = np.uint64(64) - np.where(width == 0, np.uint64(64), width)
    extended = ((x.bits << spare).view(np.int64) >> spare.view(np.int64)).view(np.uint64)
    return Value("I", x.width, fit(np.where(width == 0, np.uint64(0), extended), x.width))


def _count_ones(x: Value) -> Value:
    return Value("U", 32, np.array([int(bits).bit_count() for bits in x.bits.flat], dtype=np.uint64))


def _is_even(x: Value) -> Value:
    with np.errstate(all="ignore"):
        return Value.of_bool(np.fmod(x.floats(), 2) == 0)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "fma": fma,
    "abs": lambda x: Value(x.kind, x.width, x.bits & np.uint64(mask(x.width - 1))),
    "sign": lambda x: Value("U", 1, x.bits >> np.uint64(x.width - 1)),
    "exponent": lambda x: Value("I", 32, exponent(x).view(np.uint64)),
    "isNAN": _flag(is_nan),
    "isSignalNAN": _flag(is_signalling),
    "isQuietNAN": _flag(lambda x: is_nan(x) & ~is_signalling(x)),
    "cvtToQuietNAN": _quiet,
    "floor": _native(np.floor),
    "trunc": _native(np.trunc),
    "fract": _native(lambda x: x - np.floor(x)),
    "isEven": _is_even,
    "sqrt": _elementary(np.sqrt),
    "log2": _elementary(np.log2),
    "sin": _elementary(np.sin),
    "cos": _elementary(np.cos),
    "pow": _power,
    "ldexp": _ldexp,
    "signext": _sign_extend,
    "signext_from_bit": _sign_extend_from_bit,
    "bitCount": _count_ones,
    "f32_to_bf16": lambda x: to_bfloat16(x.floats().astype(np.float64)),
    "f32_to_snorm": lambda x: to_normalised(x, "I"),
    "f16_to_snorm": lambda x: to_normalised(x, "I"),
    "f32_to_unorm": lambda x: to_normalised(x, "U"),
    "f16_to_unorm": lambda x: to_normalised(x, "U"),
    "v_minimum_f32": lambda a, b: minimum_or_maximum(a, b, largest=False),
    "v_maximum_f32": lambda a, b: minimum_or_maximum(a, b, largest=True),
    "v_minimum3_f16": lambda a, b, c: minimum_or_maximum(minimum_or_maximum(a, b, False), c, False),
    "v_maximum3_f16": lambda a, b, c: minimum_or_maximum(minimum_or_maximum(a, b, True), c, True),
}

_CONVERSION = re.compile(r"(bf|[uif])(\d+)_to_(bf|[uif])(\d+)$")


def conversion(name: str) -> Callable[[Value], Value] | None:
    """`u32_to_f32`, `f64_to_i32`, `i4_to_i32`, `u32_to_u16` ...: the function of that name, or None."""
    match = _CONVERSION.match(name)
    if not match:
        return None
    source, source_width, kind, width = match[1].upper(), int(match[2]), match[3].upper(), int(match[4])
    if source in ("F", "BF"):
        if kind in ("U", "I"):
            return lambda x: float_to_integer(x, kind, width)
        return lambda x: _quiet(x.viewed(source, source_width)).converted(kind, width)
    if kind in ("U", "I"):
        return lambda x: saturate(x.viewed(source, source_width), kind, width)
    return lambda x: _integer_to_float(x.viewed(source, source_width), width)


def _integer_to_float(x: Value, width: int) -> Value:
    return (
        Value.of_float(x.signed().astype(np.float64))
        if width == 64
        else Value.of_float(x.signed().astype(FLOAT_TYPES[width]))
    )
