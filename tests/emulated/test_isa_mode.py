"""What the MODE register changes: rounding, denormals, minimum and maximum, clamp of NaN, the output multiplier.

And the division sequence, whose pieces only make sense together.
"""

from fractions import Fraction

import numpy as np
import pytest

from emulated.isa_lanes import run_lanes
from emulated.isa_registers import float16_pairs, float32_values, float64_values

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

ROUND_NEAREST, ROUND_UP, ROUND_DOWN, ROUND_TOWARD_ZERO = range(4)
DX10_CLAMP, IEEE = 1 << 8, 1 << 9
DEFAULT = 0xF0 | DX10_CLAMP | IEEE
FORMATS = {"f16": (np.float16, np.uint16), "f32": (np.float32, np.uint32), "f64": (np.float64, np.uint64)}
SMALLEST_NORMAL = {"f16": 2.0**-14, "f32": 2.0**-126, "f64": 2.0**-1022}


def set_mode(mode: int) -> str:
    return f"s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 10), {mode:#x}"


def numbers(kind: str, seed: int, count: int = 1024) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "f64":
        return float64_values(rng, (count,)).view(np.float64)
    if kind == "f32":
        return float32_values(rng, (count,)).view(np.float32)
    return float16_pairs(rng, (count,)).astype(np.uint16).view(np.float16)


def operation(name: str, kind: str, modifiers: str = "") -> str:
    """`name` with three operands of a format; f64 takes register pairs."""
    registers = [f"v[{n}:{n + 1}]" if kind == "f64" else f"v{n}" for n in (4, 8, 10, 12)]
    count = 4 if "fma" in name else 3
    suffix = "" if "fma" in name or kind == "f64" else "_e64"
    return f"{name}_{kind}{suffix} {', '.join(registers[:count])} {modifiers}"


def as_format(results: np.ndarray, kind: str) -> np.ndarray:
    dtype, bits = FORMATS[kind]
    return results.astype(bits).view(dtype)


def flushed(values: np.ndarray, kind: str) -> np.ndarray:
    return np.where(np.abs(values) < SMALLEST_NORMAL[kind], np.copysign(values.dtype.type(0), values), values)


def same(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    bits = f"u{expected.dtype.itemsize}"
    return (expected.view(bits) == found.view(bits)) | (np.isnan(expected) & np.isnan(found))


def directed(exact: Fraction, nearest: float, dtype: type, rounding: int) -> float:
    """The neighbour of an exact number in the direction that a rounding mode takes."""
    found = Fraction(float(nearest)) if np.isfinite(nearest) else None
    down, up = dtype(-np.inf), dtype(np.inf)
    low = nearest if found is not None and found <= exact else np.nextafter(nearest, down, dtype=dtype)
    high = nearest if found is not None and found >= exact else np.nextafter(nearest, up, dtype=dtype)
    if rounding == ROUND_UP:
        return high
    return low if rounding == ROUND_DOWN or exact > 0 else high


@pytest.mark.parametrize("rounding", [ROUND_UP, ROUND_DOWN, ROUND_TOWARD_ZERO])
@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
@pytest.mark.parametrize("name", ["v_add", "v_mul", "v_fma"])
def test_rounding_modes(arch: str, name: str, kind: str, rounding: int) -> None:
    dtype = FORMATS[kind][0]
    x, y, z = (numbers(kind, seed) for seed in (1, 2, 3))
    field = rounding if kind == "f32" else rounding << 2
    body = f"{set_mode(DEFAULT | field)}\n{operation(name, kind)}\n{set_mode(DEFAULT)}"
    found = as_format(run_lanes(body, [x, y, z], arch), kind)
    with np.errstate(all="ignore"):
        nearest = {"v_add": x + y, "v_mul": x * y, "v_fma": x * y + z}[name]
    checked = 0
    for lane in np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(z)):
        left, right, addend = (Fraction(float(values[lane])) for values in (x, y, z))
        exact = left + right if name == "v_add" else left * right + (addend if name == "v_fma" else 0)
        if exact == 0:
            continue
        try:
            start = dtype(float(exact))
        except OverflowError:
            start = dtype(np.inf if exact > 0 else -np.inf)
        if not np.isfinite(start) or not np.isfinite(nearest[lane]):
            largest = np.finfo(dtype).max
            toward_zero = rounding == ROUND_TOWARD_ZERO or (rounding == ROUND_UP) == (exact < 0)
            expected = np.copysign(largest if toward_zero else dtype(np.inf), dtype(1 if exact > 0 else -1))
            if abs(exact) <= Fraction(float(largest)):
                continue
        else:
            expected = directed(exact, start, dtype, rounding)
        assert found[lane] == expected, f"lane {lane}: {x[lane]!r} {y[lane]!r} {z[lane]!r} gave {found[lane]!r}"
        checked += 1
    assert checked > 500


@pytest.mark.parametrize("denormals", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
@pytest.mark.parametrize("name", ["v_add", "v_mul"])
def test_denormal_modes_flush_inputs_and_outputs(arch: str, name: str, kind: str, denormals: int) -> None:
    x, y = (numbers(kind, seed) for seed in (4, 5))
    if name == "v_mul":
        y = np.where(np.arange(len(y)) % 2 == 0, y, y.dtype.type(1))  # denormal inputs that give denormal results
    field = denormals << (4 if kind == "f32" else 6)
    mode = DEFAULT & ~(3 << (4 if kind == "f32" else 6)) | field
    found = as_format(run_lanes(f"{set_mode(mode)}\n{operation(name, kind)}", [x, y], arch), kind)
    left, right = (x, y) if denormals & 1 else (flushed(x, kind), flushed(y, kind))
    with np.errstate(all="ignore"):
        expected = left + right if name == "v_add" else left * right
    if not denormals & 2:
        expected = flushed(expected, kind)
    assert same(expected, found).all()
    assert (flushed(x, kind) != x).any()


@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_output_multiplier_applies_only_without_ieee_and_denormals(arch: str, kind: str) -> None:
    x, y = (numbers(kind, seed) for seed in (6, 7))
    flush = DEFAULT & ~IEEE & ~(0x20 if kind == "f32" else 0x80)
    for modifier, factor in (("mul:2", 2), ("mul:4", 4), ("div:2", 0.5)):
        with np.errstate(all="ignore"):
            plain = x + y
            scaled = flushed(flushed(plain, kind) * plain.dtype.type(factor), kind)
        scaled = np.where(scaled == 0, plain.dtype.type(0), scaled)  # -0 becomes +0
        for mode, expected in (
            (flush, scaled),
            (flush | IEEE, flushed(plain, kind)),
            (DEFAULT & ~IEEE, plain),
            (DEFAULT, plain),
        ):
            body = f"{set_mode(mode)}\n{operation('v_add', kind, modifier)}"
            found = as_format(run_lanes(body, [x, y], arch), kind)
            assert same(expected, found).all(), (modifier, hex(mode))


@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_clamp_makes_nan_zero_only_under_dx10_clamp(arch: str, kind: str) -> None:
    x, y = (numbers(kind, seed) for seed in (8, 9))
    with np.errstate(all="ignore"):
        total = x + y
        bounded = np.clip(total, total.dtype.type(0), total.dtype.type(1))
    bounded = np.where(bounded == 0, total.dtype.type(0), bounded)
    assert np.isnan(total).any()
    for mode, expected in ((DEFAULT, np.where(np.isnan(total), 0, bounded)), (DEFAULT & ~DX10_CLAMP, bounded)):
        body = f"{set_mode(mode)}\n{operation('v_add', kind, 'clamp')}"
        found = as_format(run_lanes(body, [x, y], arch), kind)
        assert same(expected.astype(total.dtype), found).all(), hex(mode)


@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
@pytest.mark.parametrize("name", ["v_min", "v_max"])
def test_ieee_mode_quiets_signalling_nans_of_minimum_and_maximum(arch: str, name: str, kind: str) -> None:
    dtype, bits = FORMATS[kind]
    x, y = (numbers(kind, seed) for seed in (10, 11))
    mantissa = np.finfo(dtype).nmant

    def signalling(values: np.ndarray) -> np.ndarray:
        return np.isnan(values) & (values.view(bits) >> bits(mantissa - 1) & bits(1) == 0)

    for mode, ieee in ((DEFAULT, True), (DEFAULT & ~IEEE, False)):
        found = as_format(run_lanes(f"{set_mode(mode)}\n{operation(name, kind)}", [x, y], arch), kind)
        either = signalling(x) | signalling(y)
        assert either.any()
        if ieee:
            assert np.isnan(found[either]).all()
        lanes = either if not ieee else ~either
        other = np.where(
            np.isnan(x), y, np.where(np.isnan(y), x, np.minimum(x, y) if name == "v_min" else np.maximum(x, y))
        )
        ordered = lanes & ~((x == 0) & (y == 0))
        assert same(other[ordered], found[ordered]).all()


def division(kind: str) -> str:
    """The sequence that compilers emit for a correctly rounded x / y: v[8] by v[10]."""
    if kind == "f32":
        return """
        v_div_scale_f32 v20, s[10:11], v10, v10, v8
        v_div_scale_f32 v21, vcc, v8, v10, v8
        v_rcp_f32_e32 v22, v20
        v_fma_f32 v23, -v20, v22, 1.0
        v_fma_f32 v22, v23, v22, v22
        v_mul_f32_e32 v24, v21, v22
        v_fma_f32 v25, -v20, v24, v21
        v_fma_f32 v24, v25, v22, v24
        v_fma_f32 v25, -v20, v24, v21
        v_div_fmas_f32 v26, v25, v22, v24
        v_div_fixup_f32 v4, v26, v10, v8
        """
    return """
    v_div_scale_f64 v[20:21], s[10:11], v[10:11], v[10:11], v[8:9]
    v_rcp_f64_e32 v[22:23], v[20:21]
    v_fma_f64 v[24:25], -v[20:21], v[22:23], 1.0
    v_fma_f64 v[22:23], v[22:23], v[24:25], v[22:23]
    v_fma_f64 v[24:25], -v[20:21], v[22:23], 1.0
    v_fma_f64 v[22:23], v[22:23], v[24:25], v[22:23]
    v_div_scale_f64 v[24:25], vcc, v[8:9], v[10:11], v[8:9]
    v_mul_f64 v[26:27], v[24:25], v[22:23]
    v_fma_f64 v[28:29], -v[20:21], v[26:27], v[24:25]
    v_div_fmas_f64 v[28:29], v[28:29], v[22:23], v[26:27]
    v_div_fixup_f64 v[4:5], v[28:29], v[10:11], v[8:9]
    """


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_division_sequence(arch: str, kind: str) -> None:
    rng = np.random.default_rng(12)
    dtype, bits = FORMATS[kind]
    x, y = (numbers(kind, seed, 16384) for seed in (13, 14))
    wild = rng.integers(0, 1 << (8 * np.dtype(dtype).itemsize), (2, 16384), dtype=bits).view(dtype)
    x, y = np.concatenate([x, wild[0]]), np.concatenate([y, wild[1]])
    found = as_format(run_lanes(division(kind), [x, y], arch), kind)
    with np.errstate(all="ignore"):
        expected = x / y
    agree = same(expected, found)
    lane = int(np.flatnonzero(~agree)[0]) if not agree.all() else 0
    assert agree.all(), (
        f"{(~agree).sum()} lanes, such as {x[lane]!r} / {y[lane]!r}: {found[lane]!r}, not {expected[lane]!r}"
    )


def rounded_once(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x * y + z of halves: the exact product, the sum rounded to odd, so that rounding it to f16 rounds once."""
    product, addend = x.astype(np.float64) * y, z.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64)
    away = (error != 0) & np.isfinite(error) & (np.signbit(error) != np.signbit(total))
    odd = np.where((error != 0) & np.isfinite(error), (bits - away) | 1, bits)
    return odd.view(np.float64).astype(np.float16)


@pytest.mark.parametrize("name", ["v_fma_f16", "v_fma_legacy_f16", "v_pk_fma_f16", "v_pk_fmac_f16"])
def test_fused_halves_round_once(arch: str, name: str) -> None:
    """Products next to the middle of two halves, and addends too small to show in f32. (v_fma_mixlo rounds twice.)"""
    rng = np.random.default_rng(15)
    count = 16384
    x, y = (rng.integers(0x400, 0x7800, count).astype(np.uint16).view(np.float16) for _ in range(2))
    x[: count // 2] = (1 + rng.integers(0, 32, count // 2) / 32).astype(np.float16)  # short products that end in a tie
    y[: count // 2] = (1 + rng.integers(0, 64, count // 2) * 2 / 128 + 1 / 128).astype(np.float16)
    z = rng.integers(0, 0x7800, count).astype(np.uint16).view(np.float16)
    z[: count // 2] = (2.0 ** rng.integers(-24, -13, count // 2)).astype(np.float16)
    z = z * np.where(rng.random(count) < 0.5, np.float16(-1), np.float16(1))
    body = f"v_mov_b32_e32 v4, v12\n{name} v4, v8, v10{'' if 'fmac' in name else ', v12'}"
    with np.errstate(all="ignore"):
        expected = rounded_once(x, y, z)
        twice = (x.astype(np.float32) * y + z).astype(np.float16)
    assert (expected != twice).sum() > 20, "the inputs tell one rounding from two"
    found = as_format(run_lanes(body, [x, y, z], arch) & np.uint64(0xFFFF), "f16")
    agree = same(expected, found)
    lane = int(np.argmin(agree))
    assert agree.all(), f"{(~agree).sum()} lanes, such as {x[lane]!r} * {y[lane]!r} + {z[lane]!r}: {found[lane]!r}"
