"""The evaluator of AMD's pseudocode against values worked out by hand and against exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from tinygrad.runtime.autogen.amd.cdna.str_pcode import PCODE

from emulated.isa_operands import text_of
from emulated.pseudocode import Machine, PseudocodeSyntaxError, Unsupported, Value, parse, run
from emulated.pseudocode.functions import fma, from_float64

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# The manual's prose in place of a text.
PROSE = {"S_WAITCNT", "S_SLEEP", "S_TRAP", "DS_SWIZZLE_B32"}


def evaluated(text: str, **sources: int | list[int]) -> Machine:
    values = {name: np.atleast_1d(np.array(bits, dtype=np.uint64)) for name, bits in sources.items()}
    lanes = max((len(bits) for bits in values.values()), default=1)
    state = {name: Value("B", 64, np.broadcast_to(bits, (lanes,))) for name, bits in values.items()}
    state.setdefault("D0", Value.constant("B", 64, 0))
    state["WAVE_MODE.IEEE"], state["ROUND_MODE"] = Value.constant("U", 1, 1), Value.constant("U", 32, 0)
    machine = Machine(lanes, state, text_of)
    run(parse(text), machine)
    return machine


def result(text: str, width: int = 32, **sources: int | list[int]) -> int | list[int]:
    numbers = [int(bits) for bits in evaluated(text, **sources).state["D0"].viewed("B", width).bits]
    return numbers[0] if len(numbers) == 1 else numbers


def test_every_text_parses_but_the_prose() -> None:
    failed = set()
    for operation, text in PCODE.items():
        try:
            parse(text)
        except PseudocodeSyntaxError:
            failed.add(operation.name)
    matrices = {name for name in failed if "MFMA" in name or "SMFMAC" in name}
    assert failed - matrices == PROSE
    assert len(matrices) == 66


@pytest.mark.parametrize(
    ("name", "sources", "expected"),
    [
        ("v_bfe_i32", {"S0": 0x00000F80, "S1": 7, "S2": 5}, 0xFFFFFFFF),
        ("v_bfe_u32", {"S0": 0xABCD1234, "S1": 8, "S2": 8}, 0x12),
        ("v_bfrev_b32", {"S0": 0x80000001}, 0x80000001),
        ("v_bfrev_b32", {"S0": 0x1}, 0x80000000),
        ("v_ffbh_u32", {"S0": 0x100000FF}, 3),
        ("v_ffbl_b32", {"S0": 0xFF000008}, 3),
        ("v_ffbh_i32", {"S0": 0xFFFF0000}, 16),
        ("v_ffbh_i32", {"S0": 0xFFFFFFFF}, 0xFFFFFFFF),
        ("v_mul_i32_i24", {"S0": 0x00FFFFFF, "S1": 5}, (-5) & 0xFFFFFFFF),
        ("v_perm_b32", {"S0": 0x44332211, "S1": 0x88776655, "S2": 0x0C0D0104}, 0x00FF6611),
        ("v_lerp_u8", {"S0": 0xFF000102, "S1": 0xFF010203, "S2": 0x01010000}, 0xFF010102),
        ("v_sad_u8", {"S0": 0x05040302, "S1": 0x01020304, "S2": 100}, 100 + 4 + 2 + 0 + 2),
        ("v_alignbit_b32", {"S0": 0x1, "S1": 0x80000000, "S2": 31}, 3),
        ("v_cvt_pkrtz_f16_f32", {"S0": 0x477FF000, "S1": 0x3F801FFF}, 0x3C007BFF),
        ("v_sat_pk_u8_i16", {"S0": 0x0123FFFF}, 0xFF00),
        ("v_max_f32", {"S0": 0x80000000, "S1": 0}, 0),
        ("v_max_f32", {"S0": 0, "S1": 0x80000000}, 0),
        ("v_min_f32", {"S0": 0x80000000, "S1": 0}, 0x80000000),
        ("v_min_f32", {"S0": 0, "S1": 0x80000000}, 0x80000000),
        ("v_min_f32", {"S0": 0x7FC00000, "S1": 0x3F800000}, 0x3F800000),
        ("v_cvt_i32_f32", {"S0": 0x4F800000}, 0x7FFFFFFF),
        ("v_cvt_u32_f32", {"S0": 0xBF800000}, 0),
        ("v_add_f16", {"S0": 0x7BFF, "S1": 0x7BFF}, 0x7C00),
        ("s_bitreplicate_b64_b32", {"S0": 0x80000001}, 0x00000003),
        ("s_bfe_i32", {"S0": 0xF0, "S1": 4 | 4 << 16}, 0xFFFFFFFF),
    ],
)
def test_texts_give_the_values_of_the_manual(name: str, sources: dict[str, int], expected: int) -> None:
    text = text_of(name)
    assert text is not None
    assert result(text, **sources) == expected


def test_a_carry_leaves_65_bits_of_a_product() -> None:
    text = text_of("v_mad_u64_u32")
    assert text is not None
    machine = evaluated(text, S0=0xFFFFFFFF, S1=0xFFFFFFFF, S2=0xFFFFFFFFFFFFFFFF, D1=0)
    assert int(machine.state["D0"].bits[0]) == (0xFFFFFFFF**2 + 0xFFFFFFFFFFFFFFFF) & (2**64 - 1)
    assert int(machine.state["D1"].bits[0]) == 1


def test_lanes_take_their_own_branches_and_leave_loops_on_their_own() -> None:
    text = "D0.i32 = -1; for i in 0 : 31 do if S0.u32[i] == 1'1U then D0.i32 = i; break endif endfor"
    assert result(text, S0=[0, 1, 0x10, 0x80000000]) == [0xFFFFFFFF, 0, 4, 31]
    text = "if S0.u32 == 0U then D0.u32 = 7U elsif S0.u32 == 1U then D0.u32 = 8U else D0.u32 = 9U endif"
    assert result(text, S0=[0, 1, 2]) == [7, 8, 9]


def test_a_lambda_returns_from_the_branch_that_each_lane_takes() -> None:
    text = "CLIP = lambda(n) (if n >= 16'255 then return 8'255U else return n[7 : 0].u8 endif); "
    text += "D0.u32 = 32'U(CLIP(S0.i16))"
    assert result(text, S0=[3, 254, 255, 400]) == [3, 254, 255, 255]


def test_integers_promote_and_wrap_as_in_c() -> None:
    assert result("D0.u32 = 32'U(S0.u8 + S1.u8)", S0=200, S1=100) == 300
    assert result("D0.u32 = S0.u32 - S1.u32", S0=0, S1=1) == 0xFFFFFFFF
    assert result("D0.u32 = 32'U(S0.i32 < S1.i32)", S0=0xFFFFFFFF, S1=1) == 1
    assert result("D0.u32 = 32'U(S0.u32 < S1.i32)", S0=0xFFFFFFFF, S1=1) == 0
    assert result("D0.u32 = S0.u32 << 32U", S0=1) == 0
    assert result("D0.i32 = S0.i32 >> S1.u32", S0=0x80000000, S1=31) == 0xFFFFFFFF


def test_signalling_nans_survive_the_widening_that_tests_them() -> None:
    text = "D0.u32 = isSignalNAN(64'F(S0.f32)) ? 1U : isQuietNAN(64'F(S0.f32)) ? 2U : 3U"
    assert result(text, S0=[0x7F800001, 0x7FC00000, 0x7F800000, 0xFF800001]) == [1, 2, 3, 1]


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, np.uint16), (np.float32, np.uint32), (np.float64, np.uint64)])
def test_fma_rounds_once(dtype: type, bits: type) -> None:
    rng = np.random.default_rng(1)
    width = np.dtype(dtype).itemsize * 8
    words = rng.integers(0, 1 << width, (3, 3000), dtype=bits)
    words[2, ::3] = words[0, ::3] ^ bits(1)  # near-cancelling and tiny addends
    numbers = words.view(dtype)
    got = fma(*(Value("F", width, row.astype(np.uint64)) for row in words)).floats()
    largest = Fraction(float(np.finfo(dtype).max))
    for x, y, z, found in zip(*numbers, got, strict=True):
        if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(z)):
            continue
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        if abs(exact) > largest:
            assert np.isinf(found) or abs(float(found)) == float(largest)
            continue
        error = abs(Fraction(float(found)) - exact)
        for neighbour in (np.nextafter(found, dtype(np.inf)), np.nextafter(found, dtype(-np.inf))):
            if np.isfinite(neighbour):
                assert error <= abs(Fraction(float(neighbour)) - exact)


def test_rounding_of_float64_agrees_with_numpy() -> None:
    rng = np.random.default_rng(2)
    numbers = np.concatenate(
        [rng.integers(0, 1 << 64, 20000, dtype=np.uint64).view(np.float64), rng.standard_normal(20000) * 1e-6]
    )
    numbers = numbers[~np.isnan(numbers)]
    for width, dtype in ((16, np.float16), (32, np.float32)):
        with np.errstate(all="ignore"):
            assert np.array_equal(from_float64(numbers, width).floats(), numbers.astype(dtype))


def test_what_is_not_modelled_is_named() -> None:
    with pytest.raises(Unsupported, match="frobnicate"):
        evaluated("D0.u32 = frobnicate(S0.u32)", S0=1)
    with pytest.raises(Unsupported, match="HW_REGISTERS"):
        evaluated("D0.u32 = HW_REGISTERS[3]")
    with pytest.raises(PseudocodeSyntaxError):
        parse("D = A (16x16) * B (16x16) + C (16x16)")
