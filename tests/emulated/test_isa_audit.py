"""AMD's audit of what its machine-readable ISA leaves out against the manual: vector instructions, and the account.

`isa_audit.py` lists the 92 items, each with the tests that pin it or why it is outside the emulator's coverage.
"""

import ast
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from emulated import isa_encoding as code
from emulated.isa_audit import ITEMS
from emulated.isa_lanes import program, run_lanes
from emulated.isa_reference import two_over_pi
from emulated.isa_registers import float16_pairs, float32_values
from emulated.test_isa_mode import DEFAULT, FORMATS, set_mode
from tests.emulated import one_wave

EDGES = np.array([0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF], np.uint32)


@cache
def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_item_has_its_tests_or_a_reason() -> None:
    assert sorted(ITEMS) == list(range(1, 93))
    here = Path(__file__).parent
    for number, item in ITEMS.items():
        assert item.tests or item.outside, f"item {number}"
        for name in item.tests:
            file, test = name.split("::")
            path = here / f"{file}.py"
            assert test in functions_of(path), f"item {number}: there is no {name}"


def longs(words: list[int]) -> str:
    return ".long " + ", ".join(f"{word:#x}" for word in words)


def random_words(seed: int, count: int = 256) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(count) < 0.3, rng.choice(EDGES, count), rng.integers(0, 1 << 32, count)).astype(
        np.uint32
    )


# v[8:9], v[10:11], v[12:13] hold the inputs and v[4:5] the result.


def test_only_the_destination_bit_moves_an_accumulator_under_register_indexing(arch: str) -> None:
    """Item 57: the manual's table of operands that take an unusual place."""
    bits = {n: int((np.float32(n).view(np.uint32)) | np.uint32(n)) for n in range(16, 48)}
    number = {n: np.uint32(b).view(np.float32) for n, b in bits.items()}

    def fma(a: int, b: float, c: float) -> int:
        exact = np.float64(number[a]) * np.float64(b) + np.float64(c)
        return int(np.float32(exact).view(np.uint32))

    shift = lambda count, value: bits[value] << (bits[count] & 31) & 0xFFFFFFFF  # noqa: E731
    byte = lambda old: bits[old] & 0xFFFF00FF | 16 << 8  # noqa: E731
    word = lambda old: bits[old] & 0xFFFF | (bits[16] + bits[20] & 0xFFFF) << 16  # noqa: E731
    k = 1.5
    cases: list[tuple[str, int, int, int]] = [  # text, mode, register written, its value; the index is 3
        ("v_fmac_f32_e32 v30, v16, v20", 4, 30, fma(16, number[20], number[30])),
        ("v_fmac_f32_e32 v30, v16, v20", 8, 33, fma(16, number[20], number[33])),
        ("v_fmac_f32_e32 v30, v16, v20", 1, 30, fma(19, number[20], number[30])),
        (f"v_fmamk_f32 v30, v16, {k}, v20", 4, 30, fma(16, k, number[23])),
        (f"v_fmamk_f32 v30, v16, {k}, v20", 2, 30, fma(16, k, number[20])),
        (f"v_fmaak_f32 v30, v16, v20, {k}", 2, 30, fma(16, number[23], k)),
        (f"v_fmaak_f32 v30, v16, v20, {k}", 4, 30, fma(16, number[20], k)),
        ("v_lshlrev_b32_e32 v30, v16, v20", 1, 30, shift(19, 20)),
        ("v_lshlrev_b32_e32 v30, v16, v20", 2, 30, shift(16, 23)),
        ("v_cvt_pkaccum_u8_f32 v30, v16, 1", 4, 30, byte(30)),
        ("v_cvt_pkaccum_u8_f32 v30, v16, 1", 8, 33, byte(33)),
        ("v_add_u16_sdwa v30, v16, v20 dst_sel:WORD_1 dst_unused:UNUSED_PRESERVE", 8, 33, word(33)),
        ("v_writelane_b32 v30, s22, 0", 8, 33, 77),
        ("v_writelane_b32 v30, s22, 0", 7, 30, 77),
    ]
    for text, mode, register, value in cases:
        body = "s_movk_i32 s20, 3\ns_movk_i32 s22, 77\n"
        body += "".join(f"v_mov_b32_e32 v{n}, {b:#x}\n" for n, b in bits.items())
        body += f"s_set_gpr_idx_on s20, {mode}\n{text}\ns_set_gpr_idx_off\nv_mov_b32_e32 v4, 0\n"
        body += "v_readfirstlane_b32 s24, v30\nv_readfirstlane_b32 s25, v33\n"
        found = program(body, "s24 s25", arch)
        expected = {30: bits[30], 33: bits[33], register: value}
        assert found[:2] == [expected[30], expected[33]], (text, mode)
    body = "v_mov_b32_e32 v16, 16\nv_mov_b32_e32 v19, 19\nv_mov_b32_e32 v4, 0\ns_movk_i32 s20, 3\n"
    body += "s_set_gpr_idx_on s20, 1\nv_readlane_b32 s24, v16, 9\nv_readfirstlane_b32 s25, v16\n"
    body += "s_set_gpr_idx_mode 0xe\nv_readlane_b32 s26, v16, 9\nv_readfirstlane_b32 s27, v16\ns_set_gpr_idx_off\n"
    assert program(body, "s24 s25 s26 s27", arch)[:4] == [19, 19, 16, 16]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("rounding", [0, 1, 2, 3])
def test_packed_narrowing_rounds_to_nearest_even_in_every_mode(rounding: int, kind: str) -> None:
    """Item 55; v_cvt_f16_f32 is there for contrast: it does follow the mode."""
    x, y = (float32_values(np.random.default_rng(seed), (512,)).view(np.float32) for seed in (1, 2))
    body = set_mode(DEFAULT | rounding | rounding << 2)
    found = run_lanes(f"{body}\nv_cvt_pk_{kind}_f32 v4, v8, v10", [x, y], "gfx950").astype(np.uint32)
    for shift, values in ((0, x), (16, y)):
        half = found >> shift & 0xFFFF
        if kind == "f16":
            with np.errstate(over="ignore"):
                expected = values.astype(np.float16).view(np.uint16)
            nan = (half & 0x7FFF) > 0x7C00
        else:
            bits = values.view(np.uint32).astype(np.uint64)
            expected = bits + 0x7FFF + (bits >> 16 & 1) >> 16
            nan = (half & 0x7FFF) > 0x7F80
        np.testing.assert_array_equal(nan, np.isnan(values))
        np.testing.assert_array_equal(half[~nan], expected[~nan])
    if kind == "f16":
        value = np.full(64, 1 + 2.0**-11 + 2.0**-12, np.float32)
        plain = run_lanes(f"{body}\nv_cvt_f16_f32_e32 v4, v8", [value], "gfx950")
        toward_zero = run_lanes(f"{body}\nv_cvt_pkrtz_f16_f32 v4, v8, v8", [value], "gfx950")
        assert set(plain) == {0x3C01 if rounding in (0, 1) else 0x3C00}
        assert set(toward_zero) == {0x3C003C00}


SATURATING: dict[str, tuple[str, int, Callable]] = {  # kind, width, exact result of the operands and the carry
    "v_add_u32": ("U", 32, lambda a, b, c: a + b),
    "v_sub_u32": ("U", 32, lambda a, b, c: a - b),
    "v_subrev_u32": ("U", 32, lambda a, b, c: b - a),
    "v_add_i32": ("I", 32, lambda a, b, c: a + b),
    "v_sub_i32": ("I", 32, lambda a, b, c: a - b),
    "v_add_u16": ("U", 16, lambda a, b, c: a + b),
    "v_sub_u16": ("U", 16, lambda a, b, c: a - b),
    "v_add_i16": ("I", 16, lambda a, b, c: a + b),
    "v_sub_i16": ("I", 16, lambda a, b, c: a - b),
    "v_add_co_u32": ("U", 32, lambda a, b, c: a + b),
    "v_sub_co_u32": ("U", 32, lambda a, b, c: a - b),
    "v_subrev_co_u32": ("U", 32, lambda a, b, c: b - a),
    "v_addc_co_u32": ("U", 32, lambda a, b, c: a + b + c),
    "v_subb_co_u32": ("U", 32, lambda a, b, c: a - b - c),
    "v_subbrev_co_u32": ("U", 32, lambda a, b, c: b - a - c),
}


@pytest.mark.parametrize("name", SATURATING)
def test_clamp_saturates_integers(arch: str, name: str) -> None:
    """Item 56, and 79: the carry comes from an SGPR pair and goes to another."""
    kind, width, function = SATURATING[name]
    x, y = random_words(3), random_words(4)
    carry_mask, all_lanes = 0x5555_0000_FFFF_3333, np.arange(256) % 64
    carries = carry_mask >> all_lanes.astype(np.uint64) & np.uint64(1)

    def number(words: np.ndarray) -> np.ndarray:
        narrow = words & np.uint32((1 << width) - 1)
        return narrow.view(f"{'u' if kind == 'U' else 'i'}4").astype(np.int64) if width == 32 else (
            narrow.astype(np.uint16).view(np.uint16 if kind == "U" else np.int16).astype(np.int64)
        )  # fmt: skip

    low, high = (0, (1 << width) - 1) if kind == "U" else (-(1 << width - 1), (1 << width - 1) - 1)
    exact = function(number(x), number(y), carries.astype(np.int64) if "_co_" in name else 0)
    suffix = "" if name.endswith(("i32", "i16")) else "_e64"
    operands = "v4, v8, v10"
    if "_co_" in name:
        operands = "v4, s[20:21], v8, v10" + ("" if name.split("_")[1] in ("add", "sub", "subrev") else ", s[22:23]")
    set_up = f"s_mov_b32 s22, {carry_mask & 0xFFFFFFFF:#x}\ns_mov_b32 s23, {carry_mask >> 32:#x}\n"
    for clamp in ("", " clamp"):
        body = f"{set_up}{name}{suffix} {operands}{clamp}"
        if "_co_" in name:
            body += "\nv_cndmask_b32_e64 v5, 0, 1, s[20:21]"
        found = run_lanes(body, [x, y], arch)
        expected = np.clip(exact, low, high) if clamp else exact
        np.testing.assert_array_equal(found & np.uint64((1 << width) - 1), expected & (1 << width) - 1, err_msg=body)
        if "_co_" in name:
            np.testing.assert_array_equal(found >> np.uint64(32), (exact < low) | (exact > high), err_msg=body)


def test_clamp_does_not_change_comparisons(arch: str) -> None:
    """Item 56: it lets them signal."""
    x, y = float32_values(np.random.default_rng(5), (2, 256)).view(np.float32)
    words = code.vop3(0x41, code.VCC, [code.vgpr(8), code.vgpr(10)], clamp=1)  # v_cmp_lt_f32
    found = run_lanes(f"{longs(words)}\nv_cndmask_b32_e64 v4, 0, 1, vcc", [x, y], arch)
    np.testing.assert_array_equal(found, x < y)


def bfloats(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (words << np.uint32(16)).view(np.float32), (words & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("accumulates", [True, False])
@pytest.mark.parametrize("neg", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("high", [0, 1, 2, 4, 7])
def test_modifiers_of_bf16_dot_products_do_not_reach_the_addend(accumulates: bool, neg: int, high: int) -> None:
    """Items 65 and 76. In the VOP3 form of v_dot2c, abs negates the high halves."""
    rng = np.random.default_rng(6)
    values = rng.integers(1, 9, (4, 64)).astype(np.float32).view(np.uint32)
    x, y = values[0] >> np.uint32(16) | values[1], values[2] >> np.uint32(16) | values[3]
    z = rng.integers(-9, 9, 64).astype(np.float32)
    sources = [code.vgpr(8), code.vgpr(10)]
    if accumulates:
        body = "v_mov_b32_e32 v4, v12\n" + longs(code.vop3(256 + 22, 4, sources, neg=neg, abs_=high))
    else:
        body = longs(code.vop3p(26, 4, [*sources, code.vgpr(12)], neg_lo=neg, neg_hi=high))
    found = run_lanes(body, [x, y, z], "gfx950").astype(np.uint32).view(np.float32)
    total = z.copy()
    for left, right, flips in zip(bfloats(x), bfloats(y), (neg, high), strict=True):
        total += left * right * (-1.0) ** (flips & 1) * (-1.0) ** (flips >> 1 & 1)
    np.testing.assert_array_equal(found, total)


HALF_WRITES = {  # VOP3 opcode; native opcodes keep the other half both ways, the older ones zero the high half
    "v_mac_f16": (256 + 35, False),
    "v_mad_legacy_f16": (490, False),
    "v_mad_legacy_u16": (491, False),
    "v_mad_legacy_i16": (492, False),
    "v_fma_legacy_f16": (494, False),
    "v_div_fixup_legacy_f16": (495, False),
    "v_mad_f16": (515, True),
    "v_mad_u16": (516, True),
    "v_mad_i16": (517, True),
    "v_fma_f16": (518, True),
    "v_div_fixup_f16": (519, True),
    "v_add_i16": (670, True),
    "v_min3_f16": (500, True),
}


@pytest.mark.parametrize("name", HALF_WRITES)
def test_16_bit_results_keep_or_clear_the_other_half(arch: str, name: str) -> None:
    """Items 66 and 83."""
    opcode, keeps = HALF_WRITES[name]
    sources = [code.vgpr(n) for n in (8, 10, 12)]
    one = np.full(64, 0x3C00 if "f16" in name else 1, np.uint32)
    old = 0xA1B20000 if name == "v_mac_f16" else 0xA1B2C3D4  # v_mac adds its low half
    set_up = f"v_mov_b32_e32 v4, {old:#x}\n"
    bits = program(
        "v_mov_b32_e32 v8, {0}\nv_mov_b32_e32 v10, {0}\nv_mov_b32_e32 v12, {0}\n".format(int(one[0]))
        + f"v_mov_b32_e32 v4, 0\n{longs(code.vop3(opcode, 4, sources))}",
        "",
        arch,
    )[0]
    assert bits, "the result is a number"
    low = run_lanes(set_up + longs(code.vop3(opcode, 4, sources)), [one] * 3, arch)
    high = run_lanes(set_up + longs(code.vop3(opcode, 4, sources, op_sel=8)), [one] * 3, arch)
    assert set(low) == {(old & 0xFFFF0000 if keeps else 0) | bits}
    assert set(high) == {bits << 16 | old & 0xFFFF}


@pytest.mark.parametrize("text", ["v_madmk_f16 v4, v8, 0x3c00, v10", "v_madak_f16 v4, v8, v10, 0x3c00"])
def test_half_literal_forms_clear_the_high_half(arch: str, text: str) -> None:
    """Item 66."""
    one = np.full(64, 0x3C00, np.uint32)
    assert set(run_lanes(f"v_mov_b32_e32 v4, -1\n{text}", [one, one], arch)) == {0x4000}


def test_swaps_read_and_write_both_registers(arch: str) -> None:
    """Item 71."""
    x, y = random_words(7), random_words(8)
    body = "s_mov_b64 exec, 0xff00ff\nv_swap_b32 v8, v10\ns_mov_b64 exec, -1\n"
    found = run_lanes(body + "v_mov_b32_e32 v4, v8\nv_mov_b32_e32 v5, v10", [x, y], arch)
    on = 0xFF00FF >> (np.arange(256) % 64) & 1 == 1
    np.testing.assert_array_equal(found & np.uint64(0xFFFFFFFF), np.where(on, y, x))
    np.testing.assert_array_equal(found >> np.uint64(32), np.where(on, x, y))


@pytest.mark.parametrize("width", [16, 32])
def test_row_swaps_exchange_odd_rows_with_even_ones(width: int) -> None:
    """Item 71: the odd rows of vdst and the even rows of src0 change places."""
    x, y = random_words(9, 64), random_words(10, 64)
    body = f"v_permlane{width}_swap_b32_e32 v8, v10\nv_mov_b32_e32 v4, v8\nv_mov_b32_e32 v5, v10"
    found = run_lanes(body, [x, y], "gfx950")
    left, right = x.reshape(-1, 2, width).copy(), y.reshape(-1, 2, width).copy()
    left[:, 1], right[:, 0] = right[:, 0].copy(), left[:, 1].copy()
    np.testing.assert_array_equal(found & np.uint64(0xFFFFFFFF), left.reshape(-1))
    np.testing.assert_array_equal(found >> np.uint64(32), right.reshape(-1))


def test_lookup_table_fraction_and_random_numbers(arch: str) -> None:
    """Item 72."""
    codes = np.arange(64, dtype=np.uint32) | np.uint32(0xABCD00)
    table = run_lanes("v_cvt_off_f32_i4_e32 v4, v8", [codes], arch).astype(np.uint32).view(np.float32)
    nibble = (codes & 15).astype(np.int64)
    np.testing.assert_array_equal(table, np.where(nibble > 7, nibble - 16, nibble) / 16)
    x = np.tile(np.array([-1e-30, -(2.0**-149), -0.25, 3.75, -8.0, 1e9, 2.0**-149, 0.0], np.float32), 8)
    fraction = run_lanes("v_fract_f32_e32 v4, v8", [x], arch).astype(np.uint32)
    assert list(fraction[:5]) == [0x3F7FFFFF, 0x3F7FFFFF, 0x3F400000, 0x3F400000, 0]
    assert (fraction < 0x3F800000).all()
    if arch == "gfx950":
        words = random_words(11)
        found = run_lanes("v_prng_b32_e32 v4, v8", [words], arch)
        feedback = np.where(words >> np.uint32(31), np.uint32(0xC5), np.uint32(0))
        np.testing.assert_array_equal(found, words << np.uint32(1) ^ feedback)


@pytest.mark.parametrize("bound", [0, 1])
def test_comparisons_take_dpp_operands(arch: str, bound: int) -> None:
    """Item 73: in GFX9's encoding, although assemblers and AMD's tables lack it."""
    x, y = random_words(12, 64), random_words(13, 64)
    base = code.vopc(0xC9, 0, 10)  # v_cmp_lt_u32
    words = code.with_dpp(base, code.vgpr(8), 0x111, bound_ctrl=bound, row_mask=0b1011)  # row_shr:1
    found = run_lanes(f"s_mov_b64 vcc, -1\n{longs(words)}\nv_cndmask_b32_e64 v4, 0, 1, vcc", [x, y], arch)
    lane = np.arange(64)
    shifted = np.where(lane % 16, np.roll(x, 1), 0)
    chosen = (lane // 16 != 2) & ((lane % 16 > 0) | bool(bound))
    np.testing.assert_array_equal(found, (shifted < y) & chosen)


CLASSES = ("snan", "qnan", "-inf", "-normal", "-denormal", "-0", "+0", "+denormal", "+normal", "+inf")


@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_class_bits(arch: str, kind: str) -> None:
    """Item 74."""
    dtype, bits = FORMATS[kind]
    mantissa, width = np.finfo(dtype).nmant, 8 * np.dtype(dtype).itemsize
    infinity, sign = ((1 << width - 1 - mantissa) - 1) << mantissa, 1 << width - 1
    positive = {"0": 0, "denormal": 3, "normal": 1 << mantissa, "inf": infinity}
    values = {name: positive[name[1:]] | (sign if name[0] == "-" else 0) for name in CLASSES[2:]}
    values |= {"snan": infinity | 1, "qnan": infinity | 1 << mantissa - 1 | sign}
    x = np.repeat(np.array([values[name] for name in CLASSES], bits), 32)
    masks = np.tile(np.array([*(1 << n for n in range(10)), 0, 0x3FF, *(0x3FF ^ 1 << n for n in range(10))] + [0] * 10, np.uint32), 10)  # fmt: skip  # noqa: E501
    source = "v[8:9]" if kind == "f64" else "v8"
    body = f"v_cmp_class_{kind}_e64 s[20:21], {source}, v10\nv_cndmask_b32_e64 v4, 0, 1, s[20:21]"
    found = run_lanes(body, [x, masks], arch)
    np.testing.assert_array_equal(found, masks >> np.repeat(np.arange(10, dtype=np.uint32), 32) & 1)


@pytest.mark.parametrize("text, chosen", [
    ("v_cmp_lt_f32", lambda x, y: x < y), ("v_cmp_nge_f32", lambda x, y: ~(x >= y)),
    ("v_cmp_gt_f32", lambda x, y: x > y), ("v_cmp_nle_f32", lambda x, y: ~(x <= y)),
    ("v_cmp_lg_f32", lambda x, y: (x < y) | (x > y)), ("v_cmp_nlg_f32", lambda x, y: ~((x < y) | (x > y))),
    ("v_cmp_o_f32", lambda x, y: ~np.isnan(x) & ~np.isnan(y)), ("v_cmp_u_f32", lambda x, y: np.isnan(x) | np.isnan(y)),
    ("v_cmp_neq_f32", lambda x, y: ~(x == y)), ("v_cmp_eq_f32", lambda x, y: x == y),
])  # fmt: skip
def test_negated_comparisons_are_true_for_nans(arch: str, text: str, chosen: Callable) -> None:
    """Item 74."""
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-42], np.float32)
    x, y = np.repeat(special, 8), np.tile(special, 8)
    found = run_lanes(f"{text}_e32 vcc, v8, v10\nv_cndmask_b32_e64 v4, 0, 1, vcc", [x, y], arch)
    np.testing.assert_array_equal(found, chosen(x, y))


def test_accumulators_are_sources(arch: str) -> None:
    """Items 78 and 82: v_fmac, v_pk_fmac and v_cvt_pkaccum read their destination."""
    three, old = np.full(64, 3.0, np.float32), np.full(64, 0x44332211, np.uint32)
    found = run_lanes("v_mov_b32_e32 v4, 1.0\nv_fmac_f32_e32 v4, v8, v8", [three], arch)
    assert set(found) == {int(np.float32(10).view(np.uint32))}
    halves = np.full(64, 0x42004000, np.uint32)  # 3, 2
    found = run_lanes("v_mov_b32_e32 v4, 0x3c003800\nv_pk_fmac_f16 v4, v8, v8", [halves], arch)
    assert set(found) == {0x49004480}  # 3 * 3 + 1, 2 * 2 + 0.5
    for byte in range(4):
        body = f"v_mov_b32_e32 v4, v10\nv_cvt_pkaccum_u8_f32 v4, v8, {byte}"
        expected = 0x44332211 & ~(0xFF << 8 * byte) | 3 << 8 * byte
        assert set(run_lanes(body, [three, old], arch)) == {expected}


@pytest.mark.parametrize("clamp, dx10", [("", True), (" clamp", True), (" clamp", False)])
@pytest.mark.parametrize("name", ["v_minimum3_f32", "v_maximum3_f32", "v_pk_minimum3_f16", "v_pk_maximum3_f16"])
def test_minimum3_propagates_nans_whatever_ieee_says(name: str, clamp: str, dx10: bool) -> None:
    """Items 77 and 81. DX10_CLAMP concerns the clamp, as everywhere: LLVM's minimum relies on the NaN without one."""
    packed = "pk" in name
    generator = np.random.default_rng(14)
    x, y, z = float16_pairs(generator, (3, 512)) if packed else float32_values(generator, (3, 512))
    pick = np.minimum if "minimum" in name else np.maximum
    for ieee in (0, 1 << 9):
        mode = 0xF0 | ieee | (1 << 8 if dx10 else 0)
        found = run_lanes(f"{set_mode(mode)}\n{name} v4, v8, v10, v12{clamp}", [x, y, z], "gfx950").astype(np.uint32)
        for shift in (0, 16) if packed else (0,):
            dtype, bits = FORMATS["f16" if packed else "f32"]
            a, b, c, result = ((w >> np.uint32(shift)).astype(bits).view(dtype) for w in (x, y, z, found))
            expected = pick(pick(a, b), c)
            if clamp:
                expected = np.clip(expected, dtype(0), dtype(1))
                expected = np.where(np.isnan(expected), dtype(0), expected) if dx10 else expected
            np.testing.assert_array_equal(result, expected)


def test_every_truth_table_of_bitop3() -> None:
    """Item 84."""
    words = [random_words(seed, 64) for seed in (15, 16, 17)]
    x, y, z = (np.unpackbits(source.view(np.uint8)) for source in words)
    cases = []
    for half in (0, 128):
        lines = []
        for table in range(half, half + 128):
            fields = {"neg": table & 7, "abs_": table >> 3 & 7, "omod": table >> 6}
            lines.append(longs(code.vop3(564, 64 + table - half, [code.vgpr(n) for n in range(3)], **fields)))
        cases.append(one_wave.Case("\n".join(lines), {"v0": np.stack(words)}, ("v64", 128)))
    found = np.concatenate(one_wave.run("gfx950", cases))
    for table in range(256):
        expected = np.packbits(table >> (x << 2 | y << 1 | z) & 1).view(np.uint32)
        np.testing.assert_array_equal(found[table], expected, err_msg=f"{table:#x}")


def test_shift_counts_above_four_count_as_zero(arch: str) -> None:
    """Item 85: v_lshl_add_u64."""
    rng = np.random.default_rng(18)
    x, z = rng.integers(0, 1 << 64, (2, 64), dtype=np.uint64)
    count = np.arange(64, dtype=np.uint32) % 8
    found = run_lanes("v_lshl_add_u64 v[4:5], v[8:9], v10, v[12:13]", [x, count, z], arch)
    np.testing.assert_array_equal(found, (x << np.where(count > 4, 0, count).astype(np.uint64)) + z)


def test_lane_moves_ignore_exec_and_the_high_bits_of_the_lane(arch: str) -> None:
    """Items 70 and 87."""
    body = """
    v_mov_b32_e32 v4, v0
    v_mov_b32_e32 v5, 9
    s_mov_b64 exec, 0
    v_readfirstlane_b32 s20, v5
    v_readfirstlane_b32 s21, v0
    s_movk_i32 s30, 0x7c5
    v_readlane_b32 s22, v0, s30
    v_mov_b32_e32 v4, 5
    s_mov_b32 m0, s30
    v_writelane_b32 v4, 63, m0
    s_mov_b64 exec, 0x50
    v_readfirstlane_b32 s23, v0
    """
    results = program(body, "s20 s21 s22 s23", arch)
    assert results[:4] == [9, 0, 5, 4]
    assert results[4:] == [lane if lane != 5 else 63 for lane in range(64)]


def test_sdwa_comparisons_write_vcc_or_an_sgpr_pair(arch: str) -> None:
    """Item 90."""
    for target, other in (("vcc", "s[20:21]"), ("s[20:21]", "vcc")):
        body = "s_mov_b64 vcc, 0\ns_mov_b64 s[20:21], 0\nv_mov_b32_e32 v4, 0\n"
        body += f"v_cmp_gt_u32_sdwa {target}, v0, v4 src0_sel:BYTE_0 src1_sel:DWORD\n"
        body += f"v_cndmask_b32_e64 v4, 0, 1, {target}\ns_mov_b64 s[22:23], {other}\n"
        found = program(body, "s22 s23", arch)
        assert found == [0, 0, 0, *[1] * 63], target


def test_bit_counts_start_from_the_second_operand(arch: str) -> None:
    """Item 91."""
    x, y = random_words(19), random_words(20)
    found = run_lanes("v_bcnt_u32_b32 v4, v8, v10", [x, y], arch).astype(np.uint32)
    np.testing.assert_array_equal(found, np.array([int(v).bit_count() for v in x], np.uint32) + y)


def test_segments_of_two_over_pi(arch: str) -> None:
    """Item 92: the segments of v_trig_preop_f64 add up to 2 / pi, shifted by large exponents, scaled by the largest."""
    segments = np.arange(64, dtype=np.uint32) % 16
    for exponent, skipped, scale in ((0, 0, 0), (54, 0, 0), (55, 1, 0), (300, 246, 0), (944, 890, 0), (945, 891, 128)):
        x = np.full(64, np.ldexp(1.0, exponent))
        found = run_lanes("v_trig_preop_f64 v[4:5], v[8:9], v10", [x, segments], arch).view(np.float64)[:16]
        total = sum(Fraction(float(value)) for value in found) / 2**scale
        exact = Fraction(two_over_pi() % (1 << 1201 - skipped), 1 << 1201)
        # Segments below the smallest denormal are lost.
        assert abs(exact - total) < Fraction(2, 2 ** min(16 * 53 + skipped, 1070)), exponent
