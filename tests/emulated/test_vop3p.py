"""Packed 16-bit and packed f32 arithmetic, mixed fma, dot products and AccVGPR moves against numpy."""

import itertools

import numpy as np
import pytest

from tests.emulated import one_wave
from tests.emulated.one_wave import Case

HALVES = np.array(
    [0, 1, 0x3FF, 0x400, 0x3555, 0x3800, 0x3C00, 0x3C01, 0x6400, 0x7BFF, 0x7C00, 0x7C01, 0x7D55, 0x7E00, 0x7FFF],
    np.uint32,
)
RESULT = ("v20", 1)


def halves(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 64) halves as integers: random bits, ordinary numbers and special values of either sign."""
    shape = (count, 64)
    ordinary = (rng.standard_normal(shape) * 2.0 ** rng.integers(-4, 5, shape)).astype(np.float16).view(np.uint16)
    special = rng.choice(HALVES, shape) | rng.integers(0, 2, shape).astype(np.uint32) << 15
    kind = rng.random(shape)
    bits = np.where(kind < 0.3, rng.integers(0, 1 << 16, shape), np.where(kind < 0.65, ordinary, special))
    return bits.astype(np.uint32)


def pairs(rng: np.random.Generator, count: int) -> np.ndarray:
    return halves(rng, count) | halves(rng, count) << np.uint32(16)


def f16(bits: np.ndarray) -> np.ndarray:
    return bits.astype(np.uint16).view(np.float16).astype(np.float64)


def assert_halves(got: np.ndarray, want: np.ndarray, message: str) -> None:
    """Bit-exact but for the payload of NaNs. `want`: float64, rounded here once to f16."""
    with np.errstate(over="ignore", invalid="ignore"):
        want = np.asarray(want).astype(np.float16)
    got = got.astype(np.uint16)
    is_nan = (got & 0x7FFF) > 0x7C00
    np.testing.assert_array_equal(is_nan, np.isnan(want), err_msg=message)
    np.testing.assert_array_equal(got[~is_nan], want.view(np.uint16)[~is_nan], err_msg=message)


def assert_floats(got: np.ndarray, want: np.ndarray, message: str) -> None:
    """As assert_halves, for f32."""
    with np.errstate(over="ignore", invalid="ignore"):
        want = np.asarray(want).astype(np.float32)
    is_nan = np.isnan(got.view(np.float32))
    np.testing.assert_array_equal(is_nan, np.isnan(want), err_msg=message)
    np.testing.assert_array_equal(got[~is_nan], want.view(np.uint32)[~is_nan], err_msg=message)


def run_one(arch: str, text: str, registers: dict[str, np.ndarray], results=RESULT, **case) -> np.ndarray:
    return one_wave.run(arch, [Case(text, registers, results, **case)])[0]


HALF_OPERATIONS = {
    "v_pk_add_f16": (2, lambda a, b, c: a + b),
    "v_pk_mul_f16": (2, lambda a, b, c: a * b),
    # Exact to 53 bits; no f16 fma has a longer result that would round differently.
    "v_pk_fma_f16": (3, lambda a, b, c: a * b + c),
}


def selected(registers: np.ndarray, k: int, high_result: bool, op_sel, op_sel_hi, neg_lo, neg_hi) -> np.ndarray:
    """The half of source k that feeds the low or the high result, as float64."""
    high = (op_sel_hi if high_result else op_sel)[k]
    negate = (neg_hi if high_result else neg_lo)[k]
    value = f16(registers[k] >> (16 if high else 0) & 0xFFFF)
    return -value if negate else value


@pytest.mark.parametrize("name", HALF_OPERATIONS)
def test_packed_halves_round_once_under_every_selection(arch, name):
    rng = np.random.default_rng(1)
    sources, operation = HALF_OPERATIONS[name]
    cases, wanted = [], []
    for trial in range(40):
        registers = pairs(rng, 3)
        op_sel, op_sel_hi, neg_lo, neg_hi = (rng.integers(0, 2, sources).tolist() for _ in range(4))
        if trial == 0:
            op_sel, op_sel_hi, neg_lo, neg_hi = [0] * sources, [1] * sources, [0] * sources, [0] * sources
        clamp = trial % 4 == 3
        operands = ", ".join(f"v{k}" for k in range(sources))
        text = (
            f"{name} v20, {operands} op_sel:{op_sel} op_sel_hi:{op_sel_hi} neg_lo:{neg_lo} neg_hi:{neg_hi}"
            f"{' clamp' if clamp else ''}"
        ).replace(", ", ",")
        halves_wanted = []
        for high in (False, True):
            values = [selected(registers, k, high, op_sel, op_sel_hi, neg_lo, neg_hi) for k in range(sources)] + [0]
            with np.errstate(invalid="ignore", over="ignore"):
                value = operation(*values[:3])
            # Clamp: NaN and everything from zero down is +0.
            halves_wanted.append(np.where(value > 0, np.minimum(value, 1.0), 0.0) if clamp else value)
        cases.append(Case(text, {"v0": registers}, RESULT))
        wanted.append(halves_wanted)
    for case, (low, high), result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        assert_halves(result[0] & 0xFFFF, low, case.text)
        assert_halves(result[0] >> 16, high, case.text)


ROUND_UP, ROUND_DOWN, ROUND_TO_ZERO = 1, 2, 3


@pytest.mark.parametrize("rounding", [ROUND_UP, ROUND_DOWN, ROUND_TO_ZERO])
def test_packed_halves_follow_the_rounding_mode(arch, rounding):
    """MODE bits 3:2 round f16."""
    rng = np.random.default_rng(2)
    registers = (rng.standard_normal((3, 64)) * 3).astype(np.float16).view(np.uint16).astype(np.uint32)
    exact = {
        "v_pk_add_f16 v20, v0, v1": f16(registers[0]) + f16(registers[1]),
        "v_pk_mul_f16 v20, v0, v1": f16(registers[0]) * f16(registers[1]),
        "v_pk_fma_f16 v20, v0, v1, v2": f16(registers[0]) * f16(registers[1]) + f16(registers[2]),
    }
    cases = [Case(text, {"v0": registers}, RESULT, mode=0x2F0 | rounding << 2) for text in exact]
    for (text, want), result in zip(exact.items(), one_wave.run(arch, cases), strict=True):
        got = f16(result[0] & 0xFFFF)
        ulp = np.spacing(np.abs(got).astype(np.float16)).astype(np.float64)
        assert np.all(np.abs(got - want) < ulp), text
        if rounding == ROUND_UP:
            assert np.all(got >= want), text
        if rounding == ROUND_DOWN:
            assert np.all(got <= want), text
        if rounding == ROUND_TO_ZERO:
            assert np.all(np.abs(got) <= np.abs(want)), text


def extreme(a: np.ndarray, b: np.ndarray, maximum: bool, ieee: bool) -> np.ndarray:
    """v_min_f16/v_max_f16 on bits: numbers before NaNs, -0 below +0, a signalling NaN first in IEEE mode."""
    out = np.empty_like(a)
    for k in range(a.size):
        x, y = int(a.flat[k]), int(b.flat[k])
        is_nan = [v & 0x7FFF > 0x7C00 for v in (x, y)]
        signalling = [n and not v & 0x200 for n, v in zip(is_nan, (x, y), strict=True)]
        if ieee and any(signalling):
            out.flat[k] = (x if signalling[0] else y) | 0x200
        elif any(is_nan):
            out.flat[k] = y if is_nan[0] else x
        else:
            key = [-(v & 0x7FFF) - 1 if v & 0x8000 else v for v in (x, y)]
            out.flat[k] = x if (key[0] > key[1]) == maximum else y
    return out


@pytest.mark.parametrize("ieee", [True, False])
def test_packed_minimum_and_maximum_of_halves(arch, ieee):
    rng = np.random.default_rng(3)
    registers = pairs(rng, 2)
    grid = list(itertools.product([*HALVES, *(HALVES | 0x8000)], repeat=2))[:: 900 // 64][:64]
    registers[:, :32] = np.array(grid[:32]).T
    mode = 0x2F0 if ieee else 0xF0
    for name, maximum in (("v_pk_min_f16", False), ("v_pk_max_f16", True)):
        result = run_one(arch, f"{name} v20, v0, v1", {"v0": registers}, mode=mode)[0]
        for shift in (0, 16):
            want = extreme(registers[0] >> shift & 0xFFFF, registers[1] >> shift & 0xFFFF, maximum, ieee)
            np.testing.assert_array_equal(result >> shift & 0xFFFF, want, err_msg=name)


def test_minimum3_and_maximum3_propagate_nans_on_gfx950():
    rng = np.random.default_rng(4)
    registers = pairs(rng, 3)
    for name, pick in (("v_pk_minimum3_f16", np.minimum), ("v_pk_maximum3_f16", np.maximum)):
        result = run_one("gfx950", f"{name} v20, v0, v1, v2", {"v0": registers})[0]
        for shift in (0, 16):
            a, b, c = (f16(registers[k] >> shift & 0xFFFF) for k in range(3))
            got = f16(result >> shift & 0xFFFF)
            np.testing.assert_array_equal(got, pick(pick(a, b), c), err_msg=name)


def signed(x: np.ndarray, bits: int) -> np.ndarray:
    return np.where(x >> (bits - 1) & 1, x - (1 << bits), x)


def integer_operations():
    s = lambda x: signed(x, 16)  # noqa: E731
    return {
        "v_pk_mad_i16": (3, lambda a, b, c: s(a) * s(b) + s(c)),
        "v_pk_mul_lo_u16": (2, lambda a, b, c: a * b),
        "v_pk_add_i16": (2, lambda a, b, c: s(a) + s(b)),
        "v_pk_sub_i16": (2, lambda a, b, c: s(a) - s(b)),
        "v_pk_lshlrev_b16": (2, lambda a, b, c: b << (a & 15) & 0xFFFF),
        "v_pk_lshrrev_b16": (2, lambda a, b, c: b >> (a & 15)),
        "v_pk_ashrrev_i16": (2, lambda a, b, c: s(b) >> (a & 15)),
        "v_pk_max_i16": (2, lambda a, b, c: np.maximum(s(a), s(b))),
        "v_pk_min_i16": (2, lambda a, b, c: np.minimum(s(a), s(b))),
        "v_pk_mad_u16": (3, lambda a, b, c: a * b + c),
        "v_pk_add_u16": (2, lambda a, b, c: a + b),
        "v_pk_sub_u16": (2, lambda a, b, c: a - b),
        "v_pk_max_u16": (2, lambda a, b, c: np.maximum(a, b)),
        "v_pk_min_u16": (2, lambda a, b, c: np.minimum(a, b)),
    }


def test_packed_integers_wrap_and_saturate_under_clamp(arch):
    rng = np.random.default_rng(5)
    edges = (
        rng.choice([0, 1, 0x7FFF, 0x8000, 0xFFFF], (3, 64)) | rng.choice([0, 1, 0x7FFF, 0x8000, 0xFFFF], (3, 64)) << 16
    )
    registers = np.where(rng.random((3, 64)) < 0.4, edges, rng.integers(0, 1 << 32, (3, 64))).astype(np.uint32)
    cases, wanted = [], []
    for (name, (sources, operation)), clamp in itertools.product(integer_operations().items(), (False, True)):
        operands = ",".join(f"v{k}" for k in range(sources))
        cases.append(Case(f"{name} v20, {operands}{' clamp' if clamp else ''}", {"v0": registers}, RESULT))
        parts = []
        for shift in (0, 16):
            exact = operation(*(registers[k].astype(np.int64) >> shift & 0xFFFF for k in range(3)))
            limits = (-0x8000, 0x7FFF) if name.endswith("i16") else (0, 0xFFFF)
            parts.append(np.clip(exact, *limits) & 0xFFFF if clamp else exact & 0xFFFF)
        wanted.append(parts[0] | parts[1] << 16)
    for case, want, result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        np.testing.assert_array_equal(result[0], want.astype(np.uint32), err_msg=case.text)


def test_packed_f32_select_registers_of_the_pairs(arch):
    rng = np.random.default_rng(6)
    operations = {
        "v_pk_fma_f32": (3, lambda a, b, c: a * b + c),
        "v_pk_mul_f32": (2, lambda a, b, c: a * b),
        "v_pk_add_f32": (2, lambda a, b, c: a + b),
    }
    cases, wanted = [], []
    for name, (sources, operation) in operations.items():
        for trial in range(16):
            values = (rng.standard_normal((6, 64)) * 2.0 ** rng.integers(-40, 40, (6, 64))).astype(np.float32)
            values[:, :4] = [np.inf, np.nan, -0.0, 2.0**-149]
            op_sel, op_sel_hi, neg_lo, neg_hi = (rng.integers(0, 2, sources).tolist() for _ in range(4))
            if trial == 0:
                op_sel, op_sel_hi, neg_lo, neg_hi = [0] * sources, [1] * sources, [0] * sources, [0] * sources
            text = (
                f"{name} v[20:21], {', '.join(f'v[{2 * k}:{2 * k + 1}]' for k in range(sources))} "
                f"op_sel:{op_sel} op_sel_hi:{op_sel_hi} neg_lo:{neg_lo} neg_hi:{neg_hi}"
            ).replace(", ", ",")
            both = []
            for select, negate in ((op_sel, neg_lo), (op_sel_hi, neg_hi)):
                chosen = [
                    values[2 * k + select[k]].astype(np.float64) * (-1 if negate[k] else 1) for k in range(sources)
                ] + [0]
                with np.errstate(invalid="ignore", over="ignore"):
                    both.append(operation(*chosen[:3]))
            cases.append(Case(text, {"v0": values.view(np.uint32)}, ("v20", 2)))
            wanted.append(both)
    for case, both, result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        for got, want in zip(result, both, strict=True):
            assert_floats(got, want, case.text)


@pytest.mark.parametrize("bit, input_kept, output_kept", [(0, True, False), (1, False, True), (None, False, False)])
def test_packed_floats_flush_denormals_by_the_mode(arch, bit, input_kept, output_kept):
    """MODE bits 4 and 5 keep denormal f32 inputs and results, bits 6 and 7 those of f16. Moves never flush."""
    mode = 0x300 | (0 if bit is None else 0x50 << bit)
    tiny, half = 2.0**-127, 2.0**-20
    f32 = np.stack([np.full(64, tiny), np.full(64, 2.0**-126), np.full(64, 4.0), np.full(64, 0.5)]).astype(np.float32)
    f16_pair = np.full(64, half, np.float16).view(np.uint16).astype(np.uint32)
    scales = np.full(64, 2.0**10, np.float16).view(np.uint16).astype(np.uint32)
    registers = {"v0": f32.view(np.uint32), "v8": np.stack([f16_pair * 0x10001, scales * 0x10001])}
    cases = [
        Case("v_pk_mul_f32 v[20:21], v[0:1], v[2:3]", registers, ("v20", 2), mode=mode),
        Case("v_pk_mul_f16 v20, v8, v9", registers, RESULT, mode=mode),
        Case("v_pk_mul_f16 v20, v8, 1.0 op_sel_hi:[1,0]", registers, RESULT, mode=mode),
        Case("v_pk_mov_b32 v[20:21], v[0:1], v[0:1] op_sel:[0,0]", registers, ("v20", 2), mode=mode),
    ]
    scaled, halves_scaled, halves_kept, moved = one_wave.run(arch, cases)
    np.testing.assert_array_equal(scaled[0].view(np.float32), np.float32(4 * tiny if input_kept else 0))
    np.testing.assert_array_equal(scaled[1].view(np.float32), np.float32(tiny if output_kept else 0))
    for shift in (0, 16):
        np.testing.assert_array_equal(f16(halves_scaled[0] >> shift & 0xFFFF), half * 2.0**10 if input_kept else 0)
        np.testing.assert_array_equal(f16(halves_kept[0] >> shift & 0xFFFF), 0)
    np.testing.assert_array_equal(moved.view(np.float32), np.float32(tiny))


def test_packed_move_takes_one_register_of_each_pair(arch):
    registers = np.random.default_rng(7).integers(0, 1 << 32, (4, 64), dtype=np.uint32)
    cases, wanted = [], []
    for first, second in itertools.product((0, 1), repeat=2):
        for high in ("", " op_sel_hi:[0,0]"):
            cases.append(
                Case(
                    f"v_pk_mov_b32 v[20:21], v[0:1], v[2:3] op_sel:[{first},{second}]{high}",
                    {"v0": registers},
                    ("v20", 2),
                )
            )
            wanted.append(registers[[first, 2 + second]])
    for case, want, result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        np.testing.assert_array_equal(result, want, err_msg=case.text)


def mixed_case(rng: np.random.Generator, name: str, clamp: bool):
    """A random v_fma_mix: text, registers and the float64 operands it must see."""
    registers = pairs(rng, 3)
    text, values = [], []
    op_sel, op_sel_hi = rng.integers(0, 2, 3).tolist(), rng.integers(0, 2, 3).tolist()
    for k in range(3):
        if not op_sel_hi[k]:
            registers[k] = (
                (rng.standard_normal(64) * 2.0 ** rng.integers(-10, 10, 64)).astype(np.float32).view(np.uint32)
            )
            value = registers[k].view(np.float32).astype(np.float64)
        else:
            value = f16(registers[k] >> (16 if op_sel[k] else 0) & 0xFFFF)
        absolute, negate = rng.integers(0, 2, 2)
        value = np.abs(value) if absolute else value
        values.append(-value if negate else value)
        text.append(f"{'-' if negate else ''}{'|' if absolute else ''}v{k}{'|' if absolute else ''}")
    selectors = f"op_sel:{op_sel} op_sel_hi:{op_sel_hi}".replace(", ", ",")
    return f"{name} v20, {', '.join(text)} {selectors}{' clamp' if clamp else ''}", registers, values


def test_fma_mix_selectors_modifiers_and_partial_destinations(arch):
    """op_sel_hi says f16, op_sel which half, |x| is neg_hi; mixlo and mixhi keep the other half."""
    rng = np.random.default_rng(8)
    cases, wanted = [], []
    old = np.full((1, 64), 0xABCD1234, np.uint32)
    for name in ("v_fma_mix_f32", "v_fma_mixlo_f16", "v_fma_mixhi_f16"):
        for trial in range(24):
            clamp = trial % 3 == 2
            text, registers, values = mixed_case(rng, name, clamp)
            with np.errstate(invalid="ignore", over="ignore"):
                value = (values[0] * values[1] + values[2]).astype(np.float32)
            cases.append(Case(text, {"v0": registers, "v20": old}, RESULT))
            wanted.append((name, np.where(value > 0, np.minimum(value, 1), 0).astype(np.float32) if clamp else value))
    for case, (name, want), result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        if name == "v_fma_mix_f32":
            assert_floats(result[0], want, case.text)
        elif name == "v_fma_mixlo_f16":
            assert_halves(result[0] & 0xFFFF, want, case.text)
            assert np.all(result[0] >> 16 == 0xABCD), case.text
        else:
            assert_halves(result[0] >> 16, want, case.text)
            assert np.all(result[0] & 0xFFFF == 0x1234), case.text


def test_fma_mix_honours_exec(arch):
    registers = np.ones((3, 64), np.float32).view(np.uint32)
    old = np.full((1, 64), 7, np.uint32)
    result = run_one(arch, "v_fma_mix_f32 v20, v0, v1, v2", {"v0": registers, "v20": old}, exec_mask=0xFF00)
    written = np.zeros(64, bool)
    written[8:16] = True
    np.testing.assert_array_equal(result[0], np.where(written, np.float32(2).view(np.uint32), 7))


def test_fma_mix_reads_constants_as_the_selected_type(arch):
    registers = np.full((1, 64), 0x44003C00, np.uint32)  # halves 1.0 and 4.0
    for text, want in (
        ("v_fma_mix_f32 v20, v0, 2.0, 1.0 op_sel_hi:[1,0,0]", 3.0),
        ("v_fma_mix_f32 v20, v0, 2.0, 1.0 op_sel:[1,0,0] op_sel_hi:[1,1,1]", 9.0),
        ("v_fma_mix_f32 v20, v0, s20, 1.0 op_sel:[1,1,0] op_sel_hi:[1,1,0]", 17.0),
    ):
        result = run_one(arch, text, {"v0": registers}, scalars={20: 0x44003C00})
        np.testing.assert_array_equal(result[0].view(np.float32), np.float32(want), err_msg=text)


def fields(x: np.ndarray, bits: int, is_signed: bool) -> np.ndarray:
    parts = np.stack([x.astype(np.int64) >> shift & ((1 << bits) - 1) for shift in range(0, 32, bits)])
    return signed(parts, bits) if is_signed else parts


@pytest.mark.parametrize(
    "name, bits, is_signed",
    [
        ("v_dot2_i32_i16", 16, True), ("v_dot2_u32_u16", 16, False), ("v_dot4_i32_i8", 8, True),
        ("v_dot4_u32_u8", 8, False), ("v_dot8_i32_i4", 4, True), ("v_dot8_u32_u4", 4, False),
    ],
)  # fmt: skip
def test_integer_dot_products_wrap_and_saturate(arch, name, bits, is_signed):
    rng = np.random.default_rng(9)
    registers = rng.integers(0, 1 << 32, (3, 64), dtype=np.uint32)
    registers[2, :32] = rng.choice([0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0], 32)
    registers[:2, :16] = 0x80008000
    registers[:2, 16:24] = 0xFFFFFFFF
    addend = signed(registers[2].astype(np.int64), 32) if is_signed else registers[2].astype(np.int64)
    exact = (fields(registers[0], bits, is_signed) * fields(registers[1], bits, is_signed)).sum(0) + addend
    limits = (-(1 << 31), (1 << 31) - 1) if is_signed else (0, (1 << 32) - 1)
    for clamp in (False, True):
        result = run_one(arch, f"{name} v20, v0, v1, v2{' clamp' if clamp else ''}", {"v0": registers})
        want = np.clip(exact, *limits) if clamp else exact
        np.testing.assert_array_equal(result[0], (want & 0xFFFFFFFF).astype(np.uint32))


def flushed(x: np.ndarray, smallest: float) -> np.ndarray:
    """Denormals as zeros of their sign."""
    return np.where(np.abs(x) < smallest, np.copysign(x.dtype.type(0), x), x)


def test_float_dot_products_add_in_the_published_order_and_flush_denormals(arch):
    rng = np.random.default_rng(10)
    f32 = np.float32
    addend = (rng.standard_normal(64) * 100).astype(f32)
    addend[:4] = [2.0**-149, -(2.0**-127), 2.0**-126, -0.0]
    registers = np.stack([*pairs(rng, 2), addend.view(np.uint32)])
    registers[:2, :4] = 0x00010001
    addend = flushed(addend, 2.0**-126)
    with np.errstate(invalid="ignore"):
        (a0, a1), (b0, b1) = (
            [flushed(f16(registers[k] >> s & 0xFFFF).astype(f32), 2.0**-14) for s in (0, 16)] for k in range(2)
        )
    for text, first, third in (
        ("v_dot2_f32_f16 v20, v0, v1, v2", a0, addend),
        ("v_dot2_f32_f16 v20, v0, v1, v2 neg_lo:[1,0,1]", -a0, -addend),
    ):
        with np.errstate(invalid="ignore", over="ignore"):
            want = (third + first * b0) + a1 * b1
        assert_floats(run_one(arch, text, {"v0": registers})[0], flushed(want, 2.0**-126), text)
    if arch == "gfx950":
        words = rng.standard_normal((4, 64)).astype(f32).view(np.uint32) & np.uint32(0xFFFF0000)
        registers[:2] = words[:2] >> 16 | words[2:]
        a0, b0 = (words[k].view(f32) for k in (0, 1))
        a1, b1 = (words[k].view(f32) for k in (2, 3))
        want = (a0 * b0 + a1 * b1) + addend
        assert_floats(run_one(arch, "v_dot2_f32_bf16 v20, v0, v1, v2", {"v0": registers})[0], want, "v_dot2_f32_bf16")


def test_accvgpr_moves_honour_exec_and_constants(arch):
    registers = np.random.default_rng(11).integers(0, 1 << 32, (1, 64), dtype=np.uint32)
    old = np.full((1, 64), 9, np.uint32)
    written = np.arange(64) < 20
    mask = (1 << 20) - 1
    for text, inputs, where, value in (
        ("v_accvgpr_write_b32 a20, v0", {"v0": registers, "a20": old}, "a20", registers[0]),
        ("v_accvgpr_read_b32 v20, a0", {"a0": registers, "v20": old}, "v20", registers[0]),
        ("v_accvgpr_write_b32 a20, 1.0", {"a20": old}, "a20", np.float32(1).view(np.uint32)),
        ("v_accvgpr_write_b32 a20, -3", {"a20": old}, "a20", np.uint32(0xFFFFFFFD)),
    ):
        result = run_one(arch, text, inputs, (where, 1), exec_mask=mask)
        np.testing.assert_array_equal(result[0], np.where(written, value, 9), err_msg=text)
