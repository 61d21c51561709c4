"""8-, 6- and 4-bit float conversions: all codes, both roundings, overflow, partial destinations, E8M0 scales."""

import ml_dtypes
import numpy as np
import pytest

from tests.emulated import one_wave, small_floats
from tests.emulated.one_wave import Case
from tests.emulated.small_floats import (
    BFLOAT,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    HALF,
    next_random,
    of_arch,
)

DEFAULT, SATURATE = 0x2F0, 0x2F0 | 1 << 23  # MODE without and with FP16_OVFL
ALL_CODES = (np.arange(256, dtype=np.uint32).reshape(64, 4) << np.arange(0, 32, 8)).sum(1).astype(np.uint32)[None]
OLD = np.full((1, 64), 0xA1B2C3D4, np.uint32)


@pytest.mark.parametrize("form", [E4M3, E5M2, E4M3FNUZ, E5M2FNUZ, E2M3, E3M2, E2M1], ids=lambda f: f.name)
def test_reference_agrees_with_ml_dtypes(form):
    dtype = getattr(ml_dtypes, form.name)
    codes = np.arange(2 * form.sign)
    theirs = codes.astype(np.uint8).view(dtype).astype(np.float64)
    np.testing.assert_array_equal(form.decode(codes), theirs)
    values = interesting(form, np.random.default_rng(0), 5000)
    np.testing.assert_array_equal(form.encode(values), values.astype(dtype).view(np.uint8))


def interesting(form: small_floats.Format, rng: np.random.Generator, count: int) -> np.ndarray:
    """f32 values of either sign: all codes, all midpoints and their neighbours, around the limits, random ones."""
    table = form.magnitudes[: form.largest + 2]
    middles = ((table[:-1] + table[1:]) / 2).astype(np.float32)
    edges = [
        middles,
        np.nextafter(middles, np.float32(0)),
        np.nextafter(middles, np.float32(np.inf)),
        table.astype(np.float32),
    ]
    random = rng.standard_normal(count) * 2.0 ** rng.integers(-form.bias - 6, int(np.log2(table[-1])) + 3, count)
    values = np.concatenate([*edges, random]).astype(np.float32)
    return np.concatenate([values, -values])


def lanes_of(values: np.ndarray, fill: float = 1.0) -> list[np.ndarray]:
    """Rows of 64 f32 values."""
    rows = -(-values.size // 64)
    padded = np.full(rows * 64, fill, np.float32)
    padded[: values.size] = values
    return list(padded.reshape(rows, 64))


def special_values() -> np.ndarray:
    return np.array([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, 1e-45, -1e-45, 1e-40, 3.4e38, -3.4e38], np.float32)


def same_floats(got: np.ndarray, want: np.ndarray, message: str) -> None:
    """Equal values with equal signs of zero; any NaN for a NaN."""
    np.testing.assert_array_equal(got, want, err_msg=message)
    real = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[real]), np.signbit(want[real]), err_msg=message)


@pytest.mark.parametrize("kind", ["fp8", "bf8"])
def test_every_code_widens_exactly_from_every_selected_byte_and_word(arch, kind):
    form = of_arch(arch, kind)
    cases = [Case(f"v_cvt_f32_{kind} v2, v1", {"v1": ALL_CODES}, ("v2", 1))]
    cases += [Case(f"v_cvt_f32_{kind}_sdwa v2, v1 src0_sel:BYTE_{b}", {"v1": ALL_CODES}, ("v2", 1)) for b in range(4)]
    cases += [Case(f"v_cvt_pk_f32_{kind} v[2:3], v1", {"v1": ALL_CODES}, ("v2", 2))]
    cases += [
        Case(f"v_cvt_pk_f32_{kind}_sdwa v[2:3], v1 src0_sel:WORD_{w}", {"v1": ALL_CODES}, ("v2", 2)) for w in range(2)
    ]
    shifts = [(0,), (0,), (8,), (16,), (24,), (0, 8), (0, 8), (16, 24)]
    for case, offsets, result in zip(cases, shifts, one_wave.run(arch, cases), strict=True):
        for row, shift in zip(result, offsets, strict=True):
            same_floats(row.view(np.float32), form.decode(ALL_CODES[0] >> shift).astype(np.float32), case.text)


@pytest.mark.parametrize("mode", [DEFAULT, SATURATE])
@pytest.mark.parametrize("kind", ["fp8", "bf8"])
def test_narrowing_rounds_to_nearest_even_and_overflows_by_the_mode(arch, kind, mode):
    """Overflow and infinity: NaN (infinity in OCP bf8), or the largest number under FP16_OVFL."""
    form, rng = of_arch(arch, kind), np.random.default_rng(1)
    rows = lanes_of(np.concatenate([special_values(), interesting(form, rng, 200)]))
    if len(rows) % 2:
        rows.append(rows[0])
    cases, wanted = [], []
    for low, high in zip(rows[::2], rows[1::2], strict=True):
        codes = form.encode(low, saturate=mode == SATURATE) | form.encode(-high, saturate=mode == SATURATE) << 8
        registers = {"v1": np.stack([low, high]).view(np.uint32), "v3": OLD}
        cases.append(Case(f"v_cvt_pk_{kind}_f32 v3, v1, -v2", registers, ("v3", 1), mode=mode))
        wanted.append(OLD[0] & 0xFFFF0000 | codes)
        cases.append(Case(f"v_cvt_pk_{kind}_f32 v3, v1, -v2 op_sel:[0,0,1]", registers, ("v3", 1), mode=mode))
        wanted.append(OLD[0] & 0xFFFF | codes << 16)
    for case, want, result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        np.testing.assert_array_equal(result[0], want, err_msg=case.text)


def test_narrowing_ignores_the_rounding_mode(arch):
    values = np.linspace(0.5, 2.0, 64, dtype=np.float32)
    for kind in ("fp8", "bf8"):
        codes = of_arch(arch, kind).encode(values)
        for rounding in (1, 2, 3):
            case = Case(
                f"v_cvt_pk_{kind}_f32 v3, v1, v1",
                {"v1": values.view(np.uint32)[None]},
                ("v3", 1),
                mode=DEFAULT | rounding | rounding << 2,
            )
            np.testing.assert_array_equal(one_wave.run(arch, [case])[0][0] & 0xFFFF, codes | codes << 8)


@pytest.mark.parametrize("mode", [DEFAULT, SATURATE])
@pytest.mark.parametrize("kind", ["fp8", "bf8"])
def test_stochastic_rounding_adds_the_top_random_bits_and_keeps_the_other_bytes(arch, kind, mode):
    form, rng = of_arch(arch, kind), np.random.default_rng(2)
    cases, wanted = [], []
    for n, values in enumerate(lanes_of(np.concatenate([special_values(), interesting(form, rng, 200)]))):
        random = rng.integers(0, 1 << 32, 64, dtype=np.uint32)
        random[:8] = [0, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF] * 2
        byte = n % 4
        text = f"v_cvt_sr_{kind}_f32 v3, v1, v2 op_sel:[0,0,{byte & 1},{byte >> 1}]"
        cases.append(Case(text, {"v1": np.stack([values.view(np.uint32), random]), "v3": OLD}, ("v3", 1), mode=mode))
        codes = form.encode(values, saturate=mode == SATURATE, random=random).astype(np.uint32)
        wanted.append(OLD[0] & np.uint32(~(0xFF << 8 * byte) & 0xFFFFFFFF) | codes << np.uint32(8 * byte))
    for case, want, result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        np.testing.assert_array_equal(result[0], want, err_msg=case.text)


@pytest.mark.parametrize("mode", [DEFAULT, SATURATE])
def test_stochastic_rounding_to_16_bits_on_gfx950(mode):
    rng = np.random.default_rng(3)
    for name, form in (("f16", HALF), ("bf16", BFLOAT)):
        values = np.concatenate(
            [
                special_values(),
                [65519.0, 65520.0, -70000.0, 1e-6, 3.39e38],
                rng.standard_normal(48) * 2.0 ** rng.integers(-30, 30, 48),
            ]
        )
        values = values.astype(np.float32)[:64]
        random = rng.integers(0, 1 << 32, 64, dtype=np.uint32)
        codes = form.encode(values, saturate=mode == SATURATE, random=random)
        registers = {"v1": np.stack([values.view(np.uint32), random]), "v3": OLD}
        low, high = one_wave.run(
            "gfx950",
            [
                Case(f"v_cvt_sr_{name}_f32 v3, v1, v2{half}", registers, ("v3", 1), mode=mode)
                for half in ("", " op_sel:[0,0,1]")
            ],
        )
        np.testing.assert_array_equal(low[0], OLD[0] & 0xFFFF0000 | codes, err_msg=name)
        np.testing.assert_array_equal(high[0], OLD[0] & 0xFFFF | codes << 16, err_msg=name)


def test_conversions_honour_exec(arch):
    values = np.full((2, 64), 1.0, np.float32).view(np.uint32)
    case = Case("v_cvt_pk_fp8_f32 v3, v1, v2", {"v1": values, "v3": OLD}, ("v3", 1), exec_mask=0xF0)
    result = one_wave.run(arch, [case])[0][0]
    one = int(of_arch(arch, "fp8").encode(np.array(1.0)))
    want = OLD[0].copy()
    want[4:8] = OLD[0, 0] & 0xFFFF0000 | one << 8 | one
    np.testing.assert_array_equal(result, want)


# ---- gfx950: conversions with a scale ----

KINDS = {"fp8": E4M3, "bf8": E5M2, "fp6": E2M3, "bf6": E3M2, "fp4": E2M1}


def scales(rng: np.random.Generator, spread: int = 6) -> np.ndarray:
    """f32 scales whose exponents lie around 1, with the extremes, NaN and signs and mantissas that must not matter."""
    exponent = rng.integers(127 - spread, 128 + spread, 64)
    exponent[:4] = [0, 254, 255, 1]
    return (
        exponent.astype(np.uint32) << 23
        | rng.integers(0, 1 << 23, 64, dtype=np.uint32)
        | rng.integers(0, 2, 64).astype(np.uint32) << 31
    ).astype(np.uint32)


def factor(scale: np.ndarray) -> np.ndarray:
    exponent = (scale >> 23 & 0xFF).astype(np.int64)
    return np.where(exponent == 255, np.nan, np.ldexp(1.0, exponent - 127))


def wide_values(
    rng: np.random.Generator, wide: str, form: small_floats.Format, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 64) values as float64 and as bits of f32, f16 or bf16."""
    values = rng.choice(np.concatenate([interesting(form, rng, 500), special_values()]), (count, 64))
    with np.errstate(over="ignore"):
        if wide == "f32":
            return values.astype(np.float64), values.view(np.uint32)
        dtype = np.float16 if wide == "f16" else ml_dtypes.bfloat16
        values = values.astype(dtype)
    return values.astype(np.float64), values.view(np.uint16).astype(np.uint32)


def paired(bits: np.ndarray) -> np.ndarray:
    """(count, 64) 16-bit values to (count / 2, 64) registers."""
    return bits[::2] | bits[1::2] << np.uint32(16)


@pytest.mark.parametrize("mode", [DEFAULT, SATURATE])
@pytest.mark.parametrize("wide", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("kind", ["fp8", "bf8", "fp4"])
def test_scaled_narrowing_of_two_divides_and_rounds_once(kind, wide, mode):
    form, rng = KINDS[kind], np.random.default_rng(4)
    cases, wanted = [], []
    for place in range(4):
        values, bits = wide_values(rng, wide, form, 2)
        scale = scales(rng)
        sources, registers = ("v1, v2, v4", bits) if wide == "f32" else ("v1, v4", paired(bits))
        place = place if kind == "fp4" else place % 2
        op_sel = f"[0,0,{place & 1},{place >> 1}]" if kind == "fp4" else f"[0,0,0,{place}]"
        if wide != "f32" and kind != "fp4":
            op_sel = f"[0,0,{place}]"
        text = f"v_cvt_scalef32_pk_{kind}_{wide} v3, {sources} op_sel:{op_sel}"
        cases.append(Case(text, {"v1": registers, "v4": scale[None], "v3": OLD}, ("v3", 1), mode=mode))
        with np.errstate(invalid="ignore", over="ignore"):
            codes = form.encode(values / factor(scale), saturate=mode == SATURATE)
        width = 2 * form.bits
        joined = (codes[0] | codes[1] << form.bits) << width * place
        wanted.append(OLD[0] & (~(((1 << width) - 1) << width * place) & 0xFFFFFFFF) | joined)
    for case, want, result in zip(cases, wanted, one_wave.run("gfx950", cases), strict=True):
        np.testing.assert_array_equal(result[0], want, err_msg=case.text)


@pytest.mark.parametrize("wide", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("kind", ["fp8", "bf8", "fp4"])
def test_scaled_stochastic_narrowing(kind, wide):
    """One fp8/bf8, or two fp4 with the generator advanced between them."""
    form, rng = KINDS[kind], np.random.default_rng(5)
    cases, wanted = [], []
    for byte in range(4):
        count = 2 if kind == "fp4" else 1
        values, bits = wide_values(rng, wide, form, count)
        scale, random = scales(rng), rng.integers(0, 1 << 32, 64, dtype=np.uint32)
        op_sel = f"op_sel:[0,0,{byte & 1},{byte >> 1}]"
        registers = bits if wide == "f32" or count == 1 else paired(bits)
        source = "v[8:9]" if kind == "fp4" and wide == "f32" else "v8"
        text = f"v_cvt_scalef32_sr_{'pk_' if count == 2 else ''}{kind}_{wide} v3, {source}, v4, v5 {op_sel}"
        cases.append(Case(text, {"v8": registers, "v4": np.stack([random, scale]), "v3": OLD}, ("v3", 1)))
        with np.errstate(invalid="ignore", over="ignore"):
            codes = form.encode(values[0] / factor(scale), random=random)
            if count == 2:
                codes = codes | form.encode(values[1] / factor(scale), random=next_random(random)) << 4
        wanted.append(OLD[0] & (~(0xFF << 8 * byte) & 0xFFFFFFFF) | codes << 8 * byte)
    for case, want, result in zip(cases, wanted, one_wave.run("gfx950", cases), strict=True):
        np.testing.assert_array_equal(result[0], want, err_msg=case.text)


def rounded(values: np.ndarray, wide: str) -> np.ndarray:
    """Bits of float64 values in f32, f16 or bf16; NaN as one bit pattern."""
    with np.errstate(over="ignore"):
        if wide == "f32":
            return np.where(np.isnan(values), np.uint32(0x7FC00000), values.astype(np.float32).view(np.uint32))
        dtype = np.float16 if wide == "f16" else ml_dtypes.bfloat16
        bits = values.astype(np.float32).astype(dtype).view(np.uint16).astype(np.uint32)
    return np.where(np.isnan(values), np.uint32(0x7E00 if wide == "f16" else 0x7FC0), bits)


def quiet(bits: np.ndarray, wide: str) -> np.ndarray:
    """Every NaN as the bit pattern of `rounded`."""
    infinity = {"f32": 0x7F800000, "f16": 0x7C00, "bf16": 0x7F80}[wide]
    nan = {"f32": 0x7FC00000, "f16": 0x7E00, "bf16": 0x7FC0}[wide]
    magnitude = bits & np.uint32(0x7FFFFFFF if wide == "f32" else 0x7FFF)
    return np.where(magnitude > infinity, np.uint32(nan), bits)


@pytest.mark.parametrize("wide", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("kind", ["fp8", "bf8", "fp4"])
def test_scaled_widening_multiplies_every_code(kind, wide):
    form, rng = KINDS[kind], np.random.default_rng(6)
    scale = scales(rng, 20)
    cases, wanted = [], []
    places = range(4) if kind == "fp4" else range(2)
    for place in places:
        op_sel = f"op_sel:[{place & 1},{place >> 1},0]"
        count = 2 if wide == "f32" else 1
        destination = "v[2:3]" if wide == "f32" else "v2"
        text = f"v_cvt_scalef32_pk_{wide}_{kind} {destination}, v1, v4 {op_sel}"
        cases.append(Case(text, {"v1": ALL_CODES, "v4": scale[None]}, ("v2", count)))
        shift = 2 * form.bits * place
        wanted.append(
            [rounded(form.decode(ALL_CODES[0] >> (shift + form.bits * n)) * factor(scale), wide) for n in range(2)]
        )
    for case, (low, high), result in zip(cases, wanted, one_wave.run("gfx950", cases), strict=True):
        got = result if wide == "f32" else np.stack([result[0] & 0xFFFF, result[0] >> 16])
        np.testing.assert_array_equal(quiet(got, wide), np.stack([low, high]), err_msg=case.text)


@pytest.mark.parametrize("wide", ["f32", "f16"])
@pytest.mark.parametrize("kind", ["fp8", "bf8"])
def test_scaled_widening_of_one_selects_byte_and_half(kind, wide):
    form, scale = KINDS[kind], scales(np.random.default_rng(7), 20)
    cases, wanted = [], []
    for byte in range(4):
        for high in (0, 1) if wide == "f16" else (0,):
            op_sel = f"op_sel:[{byte & 1},{byte >> 1},{high}]"
            cases.append(
                Case(
                    f"v_cvt_scalef32_{wide}_{kind} v3, v1, v4 {op_sel}",
                    {"v1": ALL_CODES, "v4": scale[None], "v3": OLD},
                    ("v3", 1),
                )
            )
            wanted.append((high, rounded(form.decode(ALL_CODES[0] >> 8 * byte) * factor(scale), wide)))
    for case, (high, want), result in zip(cases, wanted, one_wave.run("gfx950", cases), strict=True):
        if wide == "f32":
            np.testing.assert_array_equal(quiet(result[0], wide), want, err_msg=case.text)
            continue
        np.testing.assert_array_equal(quiet(result[0] >> 16 * high & 0xFFFF, wide), want, err_msg=case.text)
        np.testing.assert_array_equal(
            result[0] >> 16 * (1 - high) & 0xFFFF, OLD[0] >> 16 * (1 - high) & 0xFFFF, err_msg=case.text
        )


def packed6(codes: np.ndarray) -> np.ndarray:
    """(32, 64) codes to (6, 64) registers."""
    bits = (codes[:, :, None] >> np.arange(6) & 1).astype(np.uint8).transpose(1, 0, 2).reshape(64, 192)
    return np.ascontiguousarray(np.packbits(bits, axis=1, bitorder="little").view(np.uint32).T)


@pytest.mark.parametrize("wide", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("kind", ["fp6", "bf6"])
def test_32_values_widen_from_six_registers(kind, wide):
    form, rng = KINDS[kind], np.random.default_rng(8)
    codes, scale = rng.integers(0, 64, (32, 64)), scales(rng, 20)
    codes[:, :2] = np.arange(64).reshape(32, 2)
    count = 32 if wide == "f32" else 16
    text = f"v_cvt_scalef32_pk32_{wide}_{kind} v[32:{31 + count}], v[8:13], v4"
    result = one_wave.run("gfx950", [Case(text, {"v8": packed6(codes), "v4": scale[None]}, ("v32", count))])[0]
    got = result if wide == "f32" else np.stack([result & 0xFFFF, result >> 16], 1).reshape(32, 64)
    np.testing.assert_array_equal(quiet(got, wide), rounded(form.decode(codes) * factor(scale), wide))


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("wide", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("kind", ["fp6", "bf6"])
def test_32_values_narrow_to_six_registers(kind, wide, stochastic):
    """f32 to nearest comes as two sources of 16, interleaved. The generator advances once per element."""
    form, rng = KINDS[kind], np.random.default_rng(9)
    values, bits = wide_values(rng, wide, form, 32)
    scale, random = scales(rng), rng.integers(0, 1 << 32, 64, dtype=np.uint32)
    registers = {"v4": np.stack([random, scale])}
    if wide == "f32" and not stochastic:
        text = f"v_cvt_scalef32_2xpk16_{kind}_f32 v[8:13], v[32:47], v[48:63], v5"
        registers["v32"] = np.concatenate([bits[::2], bits[1::2]])
    else:
        count = 32 if wide == "f32" else 16
        name, random_text = ("sr_pk32", "v4, ") if stochastic else ("pk32", "")
        text = f"v_cvt_scalef32_{name}_{kind}_{wide} v[8:13], v[32:{31 + count}], {random_text}v5"
        registers["v32"] = bits if wide == "f32" else paired(bits)
    codes = []
    with np.errstate(invalid="ignore", over="ignore"):
        for row in values / factor(scale):
            codes.append(form.encode(row, random=random if stochastic else None))
            random = next_random(random)
    result = one_wave.run("gfx950", [Case(text, registers, ("v8", 6))])[0]
    np.testing.assert_array_equal(result, packed6(np.array(codes)), err_msg=text)


def test_wide_conversions_may_replace_their_source_and_honour_exec():
    rng = np.random.default_rng(10)
    codes = rng.integers(0, 64, (32, 64))
    old = rng.integers(0, 1 << 32, (32, 64), dtype=np.uint32)
    old[:6] = packed6(codes)
    case = Case("v_cvt_scalef32_pk32_f32_fp6 v[32:63], v[32:37], 1.0", {"v32": old}, ("v32", 32), exec_mask=0xFFFF)
    result = one_wave.run("gfx950", [case])[0]
    want = np.where(np.arange(64) < 16, E2M3.decode(codes).astype(np.float32).view(np.uint32), old)
    np.testing.assert_array_equal(result, want)
