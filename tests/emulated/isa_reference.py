"""References where the published pseudocode is missing, incomplete or not the hardware's arithmetic, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from emulated.isa_operands import text_of
from emulated.pseudocode import Machine, parse, run
from emulated.pseudocode.functions import exponent, fma, from_float64, is_denormal, is_nan
from emulated.pseudocode.values import Value, fit, mask, round_float64

State = dict[str, Value]


@dataclass(frozen=True)
class Reference:
    function: Callable[[State], None]
    reason: str


REFERENCES: dict[str, Reference] = {}


def reference(*names: str, reason: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a reference for one or more instructions; a function with a second parameter gets the name."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        for name in names:
            takes_name = function.__code__.co_argcount == 2
            REFERENCES[name] = Reference(
                (lambda state, name=name: function(state, name)) if takes_name else function, reason
            )
        return function

    return register


def _width(name: str) -> int:
    return int(name.rsplit("_", 1)[1][1:])


def put(state: State, value: Value) -> None:
    """Writes a result of its own width into the low bits of D0."""
    old = state["D0"]
    low = np.uint64(mask(value.width)) if value.width < 64 else np.uint64(mask(64))
    state["D0"] = Value(old.kind, old.width, fit(old.bits & ~low | value.bits, old.width))


def _float(value: Value, width: int) -> Value:
    return value.viewed("F", width)


@reference("v_nop", "v_clrexcp", reason="no text: nothing is written")
def _nothing(state: State) -> None:
    pass


@reference(
    "v_ldexp_f16", "v_ldexp_f32", "v_ldexp_f64", reason="2.0 ** S1 of the text overflows before the product would"
)
def _ldexp(state: State, name: str) -> None:
    width = _width(name)
    steps = np.clip(state["S1"].viewed("I", 16 if width == 16 else 32).signed().astype(np.int64), -5000, 5000)
    x = _float(state["S0"], width).floats().astype(np.float64)
    with np.errstate(all="ignore"):
        put(state, from_float64(np.ldexp(x, steps), width))


@reference(
    "v_frexp_mant_f16",
    "v_frexp_mant_f32",
    "v_frexp_mant_f64",
    reason="mantissa() of the text does not say what denormals give",
)
def _frexp_mant(state: State, name: str) -> None:
    x = _float(state["S0"], _width(name))
    numbers = x.floats().astype(np.float64)
    with np.errstate(all="ignore"):
        parts = np.where(np.isfinite(numbers), np.frexp(numbers)[0], numbers)
    put(state, from_float64(parts, x.width))


@reference(
    "v_frexp_exp_i16_f16",
    "v_frexp_exp_i32_f32",
    "v_frexp_exp_i32_f64",
    reason="the text's exponent field is wrong for zero and denormals",
)
def _frexp_exp(state: State, name: str) -> None:
    numbers = _float(state["S0"], _width(name)).floats().astype(np.float64)
    exponents = np.where(np.isfinite(numbers), np.frexp(np.where(np.isfinite(numbers), numbers, 0))[1], 0).astype(
        np.int64
    )
    width = 16 if "i16" in name else 32
    put(state, Value("I", width, fit(exponents.view(np.uint64), width)))


@reference(
    "v_rndne_f16",
    "v_rndne_f32",
    "v_rndne_f64",
    reason="floor(x + 0.5) of the text rounds large odd numbers and 0.49999997 wrongly",
)
def _rndne(state: State, name: str) -> None:
    x = _float(state["S0"], _width(name))
    with np.errstate(all="ignore"):
        put(state, Value.of_float(np.rint(x.floats())))


@reference(
    "v_ceil_f16",
    "v_ceil_f32",
    "v_ceil_f64",
    reason="the text adds 1.0 to -0.0-rounded numbers only by accident; IEEE roundToIntegralTowardPositive",
)
def _ceil(state: State, name: str) -> None:
    with np.errstate(all="ignore"):
        put(state, Value.of_float(np.ceil(_float(state["S0"], _width(name)).floats())))


@reference(
    "v_sin_f16",
    "v_cos_f16",
    "v_sin_f32",
    "v_cos_f32",
    reason="the argument counts turns: S0 * 2 * PI in the format would lose the fraction",
)
def _turns(state: State, name: str) -> None:
    width = _width(name)
    turns = _float(state["S0"], width).floats().astype(np.float64)
    with np.errstate(all="ignore"):
        fraction = turns - np.rint(turns)
        angle = 2 * np.pi * fraction
        result = np.sin(angle) if "sin" in name else np.cos(angle)
        quarter = np.abs(fraction) * 4 % 2
        exact = quarter == (0 if "sin" in name else 1)  # sin(pi) and cos(pi / 2) are zero, not the rounding error of pi
        result = np.where(exact, 0.0, result)  # manual: sin(-MaxFloat) is +0
        result = np.where(turns == 0, turns if "sin" in name else 1.0, result)
        put(state, from_float64(result, width))


def _flushed(value: Value) -> Value:
    sign = np.uint64(1 << (value.width - 1))
    return Value(value.kind, value.width, np.where(exponent(value) == 0, value.bits & sign, value.bits))


_APPROXIMATIONS = {
    "exp": np.exp2,
    "exp_legacy": np.exp2,
    "log": np.log2,
    "log_legacy": np.log2,
    "rcp": np.reciprocal,
    "rcp_iflag": np.reciprocal,
    "rsq": lambda x: 1.0 / np.sqrt(x),
    "sqrt": np.sqrt,
}


@reference(*(f"v_{stem}_f32" for stem in _APPROXIMATIONS), reason="manual, notes of each: denormals are flushed")
def _approximation(state: State, name: str) -> None:
    x = _flushed(_float(state["S0"], 32)).floats().astype(np.float64)
    with np.errstate(all="ignore"):
        result = from_float64(_APPROXIMATIONS[name[2:-4]](x), 32)
    put(state, _flushed(result))


@reference(
    "v_fract_f16",
    "v_fract_f32",
    "v_fract_f64",
    reason="manual, notes: the result is clamped to the largest number below one",
)
def _fract(state: State, name: str) -> None:
    x = _float(state["S0"], _width(name)).floats()
    with np.errstate(all="ignore"):
        put(state, Value.of_float(np.minimum(x - np.floor(x), np.nextafter(x.dtype.type(1), x.dtype.type(0)))))


@reference("v_readfirstlane_b32", "v_readlane_b32", reason="kept to one register: the text's D0 is scalar")
def _readlane(state: State, name: str) -> None:
    lanes = np.broadcast_to(state["S0"].bits, state["EXEC"].bits.shape).reshape(-1, 64)
    exec_ = state["EXEC"].bits.reshape(-1, 64)[:, 0]
    if "first" in name:
        chosen = np.array([(int(mask_) & -int(mask_)).bit_length() - 1 if mask_ else 0 for mask_ in exec_])
    else:
        chosen = (
            np.broadcast_to(state["S1"].bits, state["EXEC"].bits.shape).reshape(-1, 64)[:, 0] & np.uint64(63)
        ).astype(np.int64)
    put(state, Value("B", 32, np.repeat(lanes[np.arange(len(lanes)), chosen], 64)))


@reference("v_cvt_off_f32_i4", reason="CVT_OFF_TABLE is not printed: (i4 value) / 16")
def _cvt_off(state: State) -> None:
    put(state, Value.of_float((state["S0"].viewed("I", 4).signed() / 16).astype(np.float32)))


@reference("v_pk_mov_b32", reason="S0.u32[63 : 32] of the text is beyond the view: op_sel picks the dword of each pair")
def _pk_mov(state: State) -> None:
    def dword(number: int) -> np.ndarray:
        high = state["OPSEL"].bits >> np.uint64(number) & np.uint64(1)
        return state[f"S{number}"].bits >> (np.uint64(32) * high) & np.uint64(mask(32))

    state["D0"] = Value("B", 64, dword(0) | dword(1) << np.uint64(32))


def _mix_sources(state: State) -> list[Value]:
    sources = []
    for number in range(3):
        bit = np.uint64(number)
        flags = {name: (state[name].bits >> bit & np.uint64(1)) != 0 for name in ("OPSEL", "OPSEL_HI", "NEG", "NEG_HI")}
        source = state[f"S{number}"]
        half = Value(
            "F", 16, source.bits >> np.where(flags["OPSEL"], np.uint64(16), np.uint64(0)) & np.uint64(0xFFFF)
        ).converted("F", 32)
        bits = np.where(flags["OPSEL_HI"], half.bits, source.bits & np.uint64(mask(32)))
        sign = np.uint64(1 << 31)
        bits = np.where(flags["NEG_HI"], bits & ~sign, bits)
        sources.append(Value("F", 32, np.where(flags["NEG"], bits ^ sign, bits)))
    return sources


@reference(
    "v_fma_mix_f32", "v_fma_mixlo_f16", "v_fma_mixhi_f16",
    reason="manual 6.7: performed as an FMA, and neg_hi is the absolute value; the text shows neither",
)  # fmt: skip
def _mix(state: State, name: str) -> None:
    result = fma(*_mix_sources(state))
    if name.endswith("f16"):
        result = from_float64(result.floats().astype(np.float64), 16)
    put(state, result)


def _div_scale(state: State, name: str) -> None:
    width = _width(name)
    big, near, small = (96, 64, 23) if width == 32 else (768, 128, 53)
    smallest_normal = np.longdouble(2.0) ** (-126 if width == 32 else -1022)
    s0, s1, s2 = (_float(state[f"S{number}"], width) for number in range(3))
    e1, e2 = exponent(s1), exponent(s2)
    with np.errstate(all="ignore"):
        x1, x2 = s1.floats(), s2.floats()
        reciprocal_tiny = (np.abs(1 / x1.astype(np.longdouble)) < smallest_normal) & np.isfinite(x1) & (x1 != 0)
        quotient_tiny = exponent(Value.of_float(x2 / x1)) == 0  # one that rounds to zero is a denormal one too
    up, down = _scaled(s0, near), _scaled(s0, -near)
    nan = np.uint64(0x7FC00000 if width == 32 else 0x7FF8000000000000)
    numerator, denominator = s0.bits == s2.bits, s0.bits == s1.bits
    choices = [  # condition, result, VCC
        ((x1 == 0) | (x2 == 0), np.full_like(s0.bits, nan), 0),
        (e2 - e1 >= big, np.where(denominator, up, s0.bits), 1),
        (is_denormal(s1), up, 0),
        (reciprocal_tiny & quotient_tiny, np.where(denominator, down, s0.bits), 1),
        (reciprocal_tiny, down, 0),
        (quotient_tiny, np.where(numerator, up, s0.bits), 1),
        (e2 <= small, up, 0),
    ]
    result, flag = s0.bits.copy(), np.zeros_like(s0.bits)
    for condition, bits, scaled in reversed(choices):
        result = np.where(condition, bits, result)
        flag = np.where(condition, np.uint64(scaled), flag)
    put(state, Value("F", width, result))
    state["VCC"] = Value("B", 64, flag << np.arange(len(flag), dtype=np.uint64) % np.uint64(64))


def _scaled(x: Value, steps: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return from_float64(np.ldexp(x.floats().astype(np.float64), steps), x.width).bits


reference(
    "v_div_scale_f32", "v_div_scale_f64",
    reason="the text tests the reciprocal of an f32 in float64 (never denormal), scales a denominator above 2^126 up "
    "to infinity, and writes the whole of VCC where each lane has a bit; read as what makes division right "
    "(test_division_sequence)",
)(_div_scale)  # fmt: skip


@reference(
    "v_div_fixup_f32", "v_div_fixup_f64",
    reason="as the text, but for the NaN that the residuals of an overflowing quotient leave: the division is infinite",
)  # fmt: skip
def _div_fixup(state: State, name: str) -> None:
    width, bias = _width(name), 127 if name.endswith("32") else 1023
    quotient, denominator, numerator = (_float(state[f"S{number}"], width) for number in range(3))
    run(parse(text_of(name) or ""), Machine(len(quotient.bits), state, text_of))
    operands_nan = is_nan(denominator) | is_nan(numerator)
    finite = np.isfinite(denominator.floats()) & np.isfinite(numerator.floats())
    nonzero = (denominator.floats() != 0) & (numerator.floats() != 0)
    overflows = exponent(numerator) - exponent(denominator) > bias + 1
    infinite = is_nan(quotient) & overflows & ~operands_nan & finite & nonzero
    sign = (denominator.bits ^ numerator.bits) & np.uint64(1 << (width - 1))
    infinity = np.uint64(0x7F800000 if width == 32 else 0x7FF0000000000000)
    put(state, Value("F", width, np.where(infinite, sign | infinity, fit(state["D0"].bits, width))))


@reference(
    "v_div_fmas_f32", "v_div_fmas_f64",
    reason="the text's 2 ** 32 (2 ** 64) does not undo v_div_scale's 2 ** +-64 (128); the RDNA3 manual prints the "
    "rule by the exponent of S2",
)  # fmt: skip
def _div_fmas(state: State, name: str) -> None:
    width = _width(name)
    sources = [_float(state[f"S{number}"], width) for number in range(3)]
    result = fma(*sources)
    lane = np.arange(len(result.bits), dtype=np.uint64) % np.uint64(64)
    flag = (np.broadcast_to(state["VCC"].bits, result.bits.shape) >> lane & np.uint64(1)) != 0
    steps, bias = (64, 127) if width == 32 else (128, 1023)
    down = _scaled(result, -steps)
    for n in np.flatnonzero(
        flag & (exponent(Value("F", width, down)) == 0) & np.isfinite(result.floats())
    ):  # one rounding to a denormal
        x, y, z = (Fraction(float(np.broadcast_to(source.floats(), result.bits.shape)[n])) for source in sources)
        exact = (x * y + z) / 2**steps
        if exact:
            down[n] = _denormal(exact, width) | (down[n] & np.uint64(1 << (width - 1)))
    scaled = np.where(exponent(sources[2]) > bias, _scaled(result, steps), down)
    put(state, Value("F", width, np.where(flag, scaled, result.bits)))


def _denormal(number: Fraction, width: int) -> np.uint64:
    """Magnitude bits of a number below the normal range, nearest even."""
    return np.uint64(round(abs(number) * 2 ** (149 if width == 32 else 1074)))


_TWO_OVER_PI_BITS = 1201


def two_over_pi() -> int:
    """2 / pi as an integer of 1201 fractional bits (Machin's formula in integers)."""
    one = 1 << (_TWO_OVER_PI_BITS + 64)

    def arctan_inverse(n: int) -> int:
        total, term, k = 0, one // n, 1
        while term:
            total += term // k if k % 4 == 1 else -(term // k)
            term //= n * n
            k += 2
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    return (2 * one * one // pi) >> 64


@reference("v_trig_preop_f64", reason="needs the 1201 bits of 2 / pi that the text only names")
def _trig_preop(state: State) -> None:
    table, exponents = two_over_pi(), exponent(_float(state["S0"], 64))
    results = []
    for biased, select in zip(exponents, state["S1"].bits & np.uint64(31), strict=True):
        shift = int(select) * 53 + max(0, int(biased) - 1077)
        bits = (table << shift) >> (1201 - 53) & ((1 << 53) - 1) if shift < 1201 else 0
        results.append(np.ldexp(float(bits), -53 - shift + (128 if biased >= 1968 else 0)))
    put(state, Value.of_float(np.array(results)))


def _flush_small(numbers: np.ndarray, smallest: float) -> np.ndarray:
    return np.where(np.abs(numbers) < smallest, np.copysign(np.float32(0), numbers), numbers).astype(np.float32)


@reference(
    "v_dot2_f32_f16", "v_dot2c_f32_f16", "v_dot2_f32_bf16", "v_dot2c_f32_bf16",
    reason="manual 6.4: float dot products flush input and output denormals; the order of additions is the text's",
)  # fmt: skip
def _float_dot(state: State, name: str) -> None:
    kind, smallest = ("BF", 2.0**-126) if "bf16" in name else ("F", 2.0**-14)
    products = []
    for shift in (0, 16):
        halves = [
            Value(kind, 16, state[f"S{n}"].bits >> np.uint64(shift) & np.uint64(0xFFFF)).floats().astype(np.float32)
            for n in range(2)
        ]
        with np.errstate(all="ignore"):
            products.append(_flush_small(halves[0], smallest) * _flush_small(halves[1], smallest))
    addend = _flush_small(state["D0" if "dot2c" in name else "S2"].viewed("F", 32).floats(), 2.0**-126)
    with np.errstate(all="ignore"):
        total = (
            (products[0] + products[1]) + addend if name == "v_dot2_f32_bf16" else (addend + products[0]) + products[1]
        )
    put(state, Value.of_float(_flush_small(total, 2.0**-126)))


@reference(
    "v_cvt_sr_f16_f32",
    "v_cvt_sr_bf16_f32",
    reason="f32_to_f16_SR of the text is not defined: random bits below the kept ones, then truncation",
)
def _stochastic(state: State, name: str) -> None:
    exponent_bits, mantissa_bits = (8, 7) if "bf16" in name else (5, 10)
    smallest = 2 - (1 << (exponent_bits - 1)) - mantissa_bits  # log2 of the smallest denormal
    largest = 1 << (exponent_bits - 1)  # log2 of the first power of two that is infinite
    x = _float(state["S0"], 32)
    results = []
    for number, random in zip(
        x.floats().astype(np.float64), np.broadcast_to(state["S1"].bits, x.bits.shape), strict=True
    ):
        magnitude = abs(float(number))
        if not np.isfinite(magnitude):
            code = (1 << exponent_bits) - 1 << mantissa_bits | (1 << (mantissa_bits - 1) if np.isnan(magnitude) else 0)
        elif magnitude == 0:
            code = 0
        else:
            unit = max(int(np.floor(np.log2(magnitude))) - mantissa_bits, smallest)
            steps = int(Fraction(magnitude) / Fraction(2) ** unit + Fraction(int(random), 1 << 32))
            rounded = Fraction(steps) * Fraction(2) ** unit
            if rounded >= Fraction(2) ** largest:
                code = (1 << exponent_bits) - 1 << mantissa_bits
            else:
                code = int(round_float64(np.array([float(rounded)]), exponent_bits, mantissa_bits)[0])
        results.append(code | int(np.signbit(number)) << 15)
    put(state, Value("F", 16, np.array(results, dtype=np.uint64)))
    # How many random bits reach a denormal result is nowhere said.
    state["FREE"] = Value.of_bool(np.abs(x.floats()) < (2.0**-14 if exponent_bits == 5 else 2.0**-126))


# Approximations of the hardware: allowed distance in units of the last place.
ULPS = {
    name: 1
    for stem in ("exp", "log", "rcp", "rsq", "sqrt", "sin", "cos", "rcp_iflag", "exp_legacy", "log_legacy")
    for name in (f"v_{stem}_f16", f"v_{stem}_f32", f"v_{stem}_f64")
}

# Instructions evaluated by the text of another one.
TEXT_OF_ANOTHER = {
    "v_div_fixup_legacy_f16": (
        "v_div_fixup_f16",
        "the legacy text keeps float64 and float16 results in one untyped variable; the arithmetic is the same",
    ),
}
