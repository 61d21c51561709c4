"""v_mfma_f32_*_f8f6f4 and the scaled forms of gfx950: all format pairs, order of k, scales, byte selection."""

import itertools

import numpy as np
import pytest

from tests.emulated import one_wave
from tests.emulated.matrices import pack, registers_text, unpack
from tests.emulated.one_wave import Case

ARCH = "gfx950"
FORMATS = ("fp8", "bf8", "fp6", "bf6", "fp4")
REGISTERS = {"fp8": 8, "bf8": 8, "fp6": 6, "bf6": 6, "fp4": 4}
SHAPES = ((16, 128), (32, 64))
A, B, C, D = 8, 16, 32, 64


def order_of_k(kind: str, size: int) -> np.ndarray:
    """(lane group, item): which k a lane's item is."""
    groups = 64 // size
    group, item = np.indices((groups, 32))
    if kind in ("fp8", "bf8"):
        return item // 16 * (16 * groups) + 16 * group + item % 16
    return 32 * group + item


def to_matrix(items: np.ndarray, kind: str, size: int) -> np.ndarray:
    """(size, k) from (lane, item)."""
    groups = 64 // size
    matrix = np.empty((size, groups * 32))
    lanes = items.reshape(groups, size, 32)
    for group in range(groups):
        matrix[:, order_of_k(kind, size)[group]] = lanes[group]
    return matrix


def result_matrix(registers: np.ndarray, size: int) -> np.ndarray:
    row, column = np.indices((size, size))
    groups = 64 // size
    return registers[row // (4 * groups) * 4 + row % 4, row // 4 % groups * size + column]


def instruction(
    size: int, k: int, a: str, b: str, *, scales: str | None = None, c: str | None = None, modifiers: str = ""
) -> str:
    count = size * size // 64
    formats = f"cbsz:{FORMATS.index(a)} blgp:{FORMATS.index(b)}"
    operands = (
        f"{registers_text(f'v{D}', count)}, {registers_text(f'v{A}', REGISTERS[a])}, "
        f"{registers_text(f'v{B}', REGISTERS[b])}, "
        f"{c or registers_text(f'v{C}', count)}"
    )
    name = f"v_mfma_{'scale_' if scales else ''}f32_{size}x{size}x{k}_f8f6f4"
    return f"{name} {operands}{f', {scales}' if scales else ''} {modifiers} {formats}"


def random_operands(rng: np.random.Generator, size: int, a: str, b: str, integers: bool):
    draw = (
        (lambda: rng.integers(-3, 4, (64, 32)).astype(float)) if integers else (lambda: rng.standard_normal((64, 32)))
    )
    a_registers, b_registers = pack(draw(), a, ARCH), pack(draw(), b, ARCH)
    c = rng.integers(-50, 50, (size * size // 64, 64)).astype(np.float32)
    left = to_matrix(unpack(a_registers, a, ARCH), a, size)
    right = to_matrix(unpack(b_registers, b, ARCH), b, size)
    return a_registers, b_registers, c, left, right


@pytest.mark.parametrize("size, k", SHAPES)
def test_every_pair_of_formats_multiplies_exactly(size, k):
    rng = np.random.default_rng(1)
    cases, wanted = [], []
    for a, b in itertools.product(FORMATS, FORMATS):
        a_registers, b_registers, c, left, right = random_operands(rng, size, a, b, integers=True)
        registers = {f"v{A}": a_registers, f"v{B}": b_registers, f"v{C}": c.view(np.uint32)}
        cases.append(Case(instruction(size, k, a, b), registers, (f"v{D}", size * size // 64)))
        wanted.append(left @ right.T + result_matrix(c, size))
    for case, want, result in zip(cases, wanted, one_wave.run(ARCH, cases), strict=True):
        np.testing.assert_array_equal(result_matrix(result.view(np.float32), size), want, err_msg=case.text)


@pytest.mark.parametrize("size, k", SHAPES)
def test_scales_belong_to_32_values_of_k_of_one_row_or_column(size, k):
    """A byte of lane l scales row l % size over k block l / size; op_sel picks the byte."""
    rng = np.random.default_rng(2)
    cases, wanted = [], []
    for n, (a, b) in enumerate(itertools.product(FORMATS, FORMATS)):
        a_registers, b_registers, c, left, right = random_operands(rng, size, a, b, integers=True)
        words = rng.integers(0, 1 << 32, (2, 64), dtype=np.uint32)
        bytes_ = (n % 4, n // 4 % 4)
        exponents = []
        for source, byte in enumerate(bytes_):
            exponent = rng.integers(124, 131, 64)
            words[source] = words[source] & np.uint32(~(0xFF << 8 * byte) & 0xFFFFFFFF) | exponent.astype(
                np.uint32
            ) << np.uint32(8 * byte)
            exponents.append(exponent.reshape(64 // size, size).T - 127)
        op_sel = f"op_sel:[{bytes_[0] & 1},{bytes_[1] & 1},0] op_sel_hi:[{bytes_[0] >> 1},{bytes_[1] >> 1},0]"
        registers = {f"v{A}": a_registers, f"v{B}": b_registers, f"v{C}": c.view(np.uint32), "v1": words}
        text = instruction(size, k, a, b, scales="v1, v2", modifiers=op_sel)
        cases.append(Case(text, registers, (f"v{D}", size * size // 64)))
        scaled = [m * np.repeat(np.ldexp(1.0, e), 32, axis=1) for m, e in zip((left, right), exponents, strict=True)]
        wanted.append(scaled[0] @ scaled[1].T + result_matrix(c, size))
    for case, want, result in zip(cases, wanted, one_wave.run(ARCH, cases), strict=True):
        np.testing.assert_array_equal(result_matrix(result.view(np.float32), size), want, err_msg=case.text)


@pytest.mark.parametrize("size, k", SHAPES)
def test_extreme_scales_do_not_overflow_before_they_meet(size, k):
    """2^127 on one side and 2^-127 on the other cancel; 0xff is NaN for its row or column alone."""
    rng = np.random.default_rng(3)
    a_registers, b_registers, c, left, right = random_operands(rng, size, "fp8", "fp4", integers=True)
    row_scale, column_scale = np.full(64, 254, np.uint32), np.zeros(64, np.uint32)
    row_scale[3] = 255
    registers = {
        f"v{A}": a_registers,
        f"v{B}": b_registers,
        f"v{C}": c.view(np.uint32),
        "v1": np.stack([row_scale, column_scale]),
    }
    case = Case(instruction(size, k, "fp8", "fp4", scales="v1, v2"), registers, (f"v{D}", size * size // 64))
    got = result_matrix(one_wave.run(ARCH, [case])[0].view(np.float32), size)
    want = left @ right.T + result_matrix(c, size)
    want[3] = np.nan
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size, k", SHAPES)
def test_random_values_agree_with_float64_and_scale_one_changes_nothing(size, k):
    rng = np.random.default_rng(4)
    cases, wanted = [], []
    for a, b in (("fp8", "fp8"), ("bf8", "fp6"), ("fp4", "bf6")):
        a_registers, b_registers, c, left, right = random_operands(rng, size, a, b, integers=False)
        registers = {
            f"v{A}": a_registers,
            f"v{B}": b_registers,
            f"v{C}": c.view(np.uint32),
            "v1": np.full((2, 64), 127, np.uint32),
        }
        for scales in (None, "v1, v2"):
            cases.append(Case(instruction(size, k, a, b, scales=scales), registers, (f"v{D}", size * size // 64)))
            wanted.append(left @ right.T + result_matrix(c, size))
    results = one_wave.run(ARCH, cases)
    for case, want, result in zip(cases, wanted, results, strict=True):
        bound = np.abs(want).max() * k * 2.0**-24
        np.testing.assert_allclose(
            result_matrix(result.view(np.float32), size), want, rtol=0, atol=bound, err_msg=case.text
        )
    for plain, scaled in zip(results[::2], results[1::2], strict=True):
        np.testing.assert_array_equal(plain, scaled)


def test_special_codes_of_8_bit_formats_reach_the_result():
    """E4M3 NaN, E5M2 infinity and NaN; 6- and 4-bit formats have neither."""
    a = np.zeros((8, 64), np.uint32)
    b = np.full((8, 64), 0x38383838, np.uint32)  # 1.0 in E4M3
    a[0, 1], a[0, 2], a[0, 3] = 0x7F, 0x01, 0x7E
    case = Case(instruction(16, 128, "fp8", "fp8", c="0"), {f"v{A}": a, f"v{B}": b}, (f"v{D}", 4))
    got = result_matrix(one_wave.run(ARCH, [case])[0].view(np.float32), 16)
    assert np.isnan(got[1]).all() and (got[2] == 2.0**-9).all() and (got[3] == 448).all() and (got[0] == 0).all()
    a[0, 1], a[0, 2], a[0, 3] = 0x7C, 0xFC, 0x7D
    case = Case(instruction(16, 128, "bf8", "fp8", c="1.0"), {f"v{A}": a, f"v{B}": b}, (f"v{D}", 4))
    got = result_matrix(one_wave.run(ARCH, [case])[0].view(np.float32), 16)
    assert (got[1] == np.inf).all() and (got[2] == -np.inf).all() and np.isnan(got[3]).all() and (got[4] == 1).all()


@pytest.mark.parametrize("negate, absolute", [(1, 0), (0, 1), (1, 1)])
def test_prefix_modifiers_of_c(negate, absolute):
    """The prefix may negate C or take its absolute value; assemblers write neither, so the words are given."""
    rng = np.random.default_rng(6)
    a_registers, b_registers, c, left, right = random_operands(rng, 16, "fp8", "fp8", integers=True)
    # v_mfma_scale_f32_16x16x128_f8f6f4 v[64:67], v[8:15], v[16:23], v[32:35], v1, v2
    words = [0xD3AC0000 | absolute << 10, 0x00020501 | negate << 31, 0xD3AD0840, 0x04822108]
    registers = {f"v{A}": a_registers, f"v{B}": b_registers, f"v{C}": c.view(np.uint32)}
    registers["v1"] = np.full((2, 64), 127, np.uint32)
    case = Case(".long " + ", ".join(f"{word:#x}" for word in words), registers, (f"v{D}", 4))
    addend = np.abs(c) if absolute else c
    want = left @ right.T + result_matrix(-addend if negate else addend, 16)
    np.testing.assert_array_equal(result_matrix(one_wave.run(ARCH, [case])[0].view(np.float32), 16), want)


def test_operands_in_accvgprs_in_place_and_under_any_exec():
    rng = np.random.default_rng(5)
    a_registers, b_registers, c, left, right = random_operands(rng, 32, "fp6", "fp8", integers=True)
    text = "v_mfma_f32_32x32x64_f8f6f4 a[64:79], a[8:13], a[16:23], a[64:79] cbsz:2 blgp:0"
    registers = {"a8": a_registers, "a16": b_registers, "a64": c.view(np.uint32)}
    result = one_wave.run(ARCH, [Case(text, registers, ("a64", 16), exec_mask=1)])[0]
    want = left @ right.T + result_matrix(c, 32)
    np.testing.assert_array_equal(result_matrix(result.view(np.float32), 32), want)


def test_flops_are_counted():
    for size, k in SHAPES:
        registers = {f"v{A}": np.zeros((8, 64), np.uint32), f"v{B}": np.zeros((8, 64), np.uint32)}
        case = Case(instruction(size, k, "fp8", "fp8", c="0"), registers, (f"v{D}", size * size // 64))
        assert one_wave.report(ARCH, [case]).mfma_flops == 2 * size * size * k


def test_reserved_formats_are_refused():
    with one_wave.refusal("cbsz and blgp"):
        # v_mfma_f32_16x16x128_f8f6f4 v[64:67], v[8:15], v[16:23], 0 with cbsz 5, which no assembler writes.
        one_wave.run(ARCH, [Case(".long 0xd3ad0540, 0x02022108", {}, (f"v{D}", 4))])
