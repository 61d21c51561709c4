"""Dense matrix instructions against matrix products: every opcode, operand files, constants, broadcasts, specials."""

import numpy as np
import pytest

from tests.emulated import matrices, one_wave
from tests.emulated.matrices import Shape, pack, product, registers_text, unpack
from tests.emulated.one_wave import Case

A, B, C, D = 0, 32, 64, 128


def operands(
    name: str, a: str = f"v{A}", b: str = f"v{B}", c: str = f"v{C}", d: str = f"v{D}", modifiers: str = ""
) -> str:
    """Assembly text of an instruction; `c` may be a constant."""
    shape = Shape.of(name)
    addend = registers_text(c, shape.result_registers) if c[0] in "va" else c
    return (
        f"{name} {registers_text(d, shape.result_registers)}, "
        f"{registers_text(a, shape.operand_registers(shape.a_type))}, "
        f"{registers_text(b, shape.operand_registers(shape.b_type))}, {addend} {modifiers}"
    )


def small_integers(rng: np.random.Generator, shape: Shape, arch: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, B and C registers of values whose product is exact whatever the order of the sums."""
    a = pack(rng.integers(-4, 5, (64, shape.per_lane)).astype(float), shape.a_type, arch)
    b = pack(rng.integers(-4, 5, (64, shape.per_lane)).astype(float), shape.b_type, arch)
    c = rng.integers(-1000, 1000, (shape.result_registers, 64))
    return a, b, c.astype(np.int32).view(np.uint32) if shape.integer else c.astype(np.float32).view(np.uint32)


def expected(
    shape: Shape, arch: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, a_lanes=None, b_lanes=None
) -> np.ndarray:
    """D as float64, (blocks, size, size)."""
    left = shape.gather(unpack(a, shape.a_type, arch), a_lanes)
    right = shape.gather(unpack(b, shape.b_type, arch), b_lanes)
    return product(left, right) + shape.result(c.view(np.int32 if shape.integer else np.float32)).astype(np.float64)


def actual(shape: Shape, result: np.ndarray) -> np.ndarray:
    return shape.result(result.view(np.int32 if shape.integer else np.float32)).astype(np.float64)


def check_variants(arch: str, seed: int, variants) -> None:
    """Compares exactly, for every opcode, the cases of `variants(name, shape, rng)`.

    A case is (arguments of `operands`, arguments of `Case`, lanes that A and B are read from).
    """
    rng = np.random.default_rng(seed)
    cases, wanted = [], []
    for name in matrices.names(arch):
        shape = Shape.of(name)
        for text, case, lanes in variants(name, shape, rng):
            a, b, c = small_integers(rng, shape, arch)
            places = {"a": f"v{A}", "b": f"v{B}", "c": f"v{C}", "d": f"v{D}"} | {
                k: v for k, v in text.items() if k != "modifiers"
            }
            registers = {places["a"]: a, places["b"]: b}
            if places["c"][0] in "va":
                registers[places["c"]] = c
            else:
                c = np.full_like(c, case.pop("constant"))
            cases.append(Case(operands(name, **text), registers, (places["d"], shape.result_registers), **case))
            wanted.append((name, shape, expected(shape, arch, a, b, c, *lanes)))
    for case, (name, shape, want), result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        np.testing.assert_array_equal(actual(shape, result), want, err_msg=f"{arch} {name}: {case.text}")


def test_integers_multiply_exactly_from_vgprs_and_accvgprs_in_every_combination(arch):
    def variants(name, shape, rng):
        yield {}, {}, ()
        yield {"a": "a0", "b": "a32", "c": "a64", "d": "a128"}, {}, ()
        yield {"a": "a0", "b": "v32"}, {}, ()
        yield {"a": "v0", "b": "a32", "c": "a64", "d": "a128"}, {}, ()

    check_variants(arch, 1, variants)


def test_result_replaces_the_addend_in_place_and_may_overlap_it(arch):
    def variants(name, shape, rng):
        yield {"c": f"v{D}"}, {}, ()
        yield {"c": "a128", "d": "a128"}, {}, ()

    check_variants(arch, 2, variants)


def test_result_may_replace_its_own_operands(arch):
    def variants(name, shape, rng):
        yield {"a": f"v{D}", "b": f"v{D + 4}"}, {}, ()

    check_variants(arch, 3, variants)


def test_inline_constants_stand_for_every_element_of_c(arch):
    def variants(name, shape, rng):
        yield {"c": "0"}, {"constant": 0}, ()
        if shape.integer:
            yield {"c": "-7"}, {"constant": np.array(-7).astype(np.int32).view(np.uint32)}, ()
        else:
            yield {"c": "1.0"}, {"constant": np.float32(1).view(np.uint32)}, ()
            yield {"c": "-4.0"}, {"constant": np.float32(-4).view(np.uint32)}, ()

    check_variants(arch, 4, variants)


def test_exec_is_ignored(arch):
    def variants(name, shape, rng):
        yield {}, {"exec_mask": 0x5}, ()

    check_variants(arch, 5, variants)


def test_cbsz_and_abid_read_a_from_one_chunk_of_lanes(arch):
    def variants(name, shape, rng):
        for cbsz in range(1, shape.blocks.bit_length()):
            for abid in {0, 1, (1 << cbsz) - 1}:
                chunk = 64 >> cbsz
                yield {"modifiers": f"cbsz:{cbsz} abid:{abid}"}, {}, (np.arange(64) % chunk + chunk * abid,)

    check_variants(arch, 6, variants)


def test_blgp_permutes_the_lane_groups_of_b(arch):
    lane = np.arange(64)
    patterns = {
        1: lane % 32, 2: lane % 32 + 32, 3: (lane + 16) % 64,
        4: lane % 16, 5: lane % 16 + 16, 6: lane % 16 + 32, 7: lane % 16 + 48,
    }  # fmt: skip

    def variants(name, shape, rng):
        for blgp, lanes in patterns.items():
            yield {"modifiers": f"blgp:{blgp}"}, {}, (None, lanes)

    check_variants(arch, 7, variants)


def test_random_values_agree_with_float64(arch):
    rng = np.random.default_rng(8)
    cases, wanted = [], []
    for name in matrices.names(arch):
        shape = Shape.of(name)
        if shape.integer:
            continue
        a = pack(rng.standard_normal((64, shape.per_lane)), shape.a_type, arch)
        b = pack(rng.standard_normal((64, shape.per_lane)), shape.b_type, arch)
        c = rng.standard_normal((shape.result_registers, 64)).astype(np.float32).view(np.uint32)
        cases.append(Case(operands(name), {f"v{A}": a, f"v{B}": b, f"v{C}": c}, (f"v{D}", shape.result_registers)))
        wanted.append((name, shape, expected(shape, arch, a, b, c)))
    for (name, shape, want), result in zip(wanted, one_wave.run(arch, cases), strict=True):
        # At most k + 1 roundings of partial sums below about 2 sqrt(k).
        bound = (shape.k + 1) * 2.0**-24 * 4 * max(1.0, shape.k**0.5)
        np.testing.assert_allclose(actual(shape, result), want, rtol=0, atol=bound, err_msg=f"{arch} {name}")


def test_bytes_wrap_around_in_32_bits(arch):
    rng = np.random.default_rng(9)
    cases, wanted = [], []
    for name in matrices.names(arch):
        shape = Shape.of(name)
        if not shape.integer:
            continue
        a = rng.integers(0, 1 << 32, (shape.operand_registers("i8"), 64), dtype=np.uint32)
        b = rng.integers(0, 1 << 32, (shape.operand_registers("i8"), 64), dtype=np.uint32)
        a[:, :8] = b[:, :16] = 0x80808080
        c = np.where(rng.random((shape.result_registers, 64)) < 0.5, 0x7FFFFFFF, 0x80000000).astype(np.uint32)
        cases.append(Case(operands(name), {f"v{A}": a, f"v{B}": b, f"v{C}": c}, (f"v{D}", shape.result_registers)))
        wanted.append((name, shape, expected(shape, arch, a, b, c)))
    for (name, shape, want), result in zip(wanted, one_wave.run(arch, cases), strict=True):
        wrapped = (want.astype(np.int64) + (1 << 31)) % (1 << 32) - (1 << 31)
        np.testing.assert_array_equal(actual(shape, result), wrapped, err_msg=f"{arch} {name}")


SPECIAL = {
    "f32": [np.inf, -np.inf, np.nan, 0.0, -0.0, 2.0**-149, -(2.0**-127), 1.0, -2.0],
    "f16": [np.inf, -np.inf, np.nan, 0.0, -0.0, 2.0**-24, -(2.0**-15), 1.0, -2.0],
    "bf16": [np.inf, -np.inf, np.nan, 0.0, -0.0, 2.0**-133, -(2.0**-127), 1.0, -2.0],
}


def test_infinities_nans_zeros_and_denormals_follow_ieee(arch):
    """One special A against one special B, all other terms zero: the product alone decides, and denormals are kept."""
    rng = np.random.default_rng(10)
    cases, wanted = [], []
    for name in matrices.names(arch):
        shape = Shape.of(name)
        if shape.integer:
            continue
        values = []
        for kind in (shape.a_type, shape.b_type):
            if kind in SPECIAL:
                pool = np.array(SPECIAL[kind])
            else:
                # Every code of the 8-bit format.
                pool = unpack(np.arange(256, dtype=np.uint32).reshape(4, 64), kind, arch)[:, 0].reshape(-1)
                pool = np.concatenate([pool, matrices.small_floats.of_arch(arch, kind).decode(np.arange(256))])
            values.append(rng.choice(pool, (64, shape.per_lane)))
        # Only the first item of the first lane group takes part, so that one product reaches each sum.
        a_items, b_items = np.ones_like(values[0]), np.zeros_like(values[1])
        a_items[:, 0], b_items[:, 0] = values[0][:, 0], values[1][:, 0]
        if shape.blocks == 1:
            b_items[shape.size :] = 0.0
            a_items[shape.size :] = 1.0
        a, b = pack_exact(a_items, shape.a_type, arch), pack_exact(b_items, shape.b_type, arch)
        c = np.zeros((shape.result_registers, 64), np.uint32)
        cases.append(Case(operands(name), {f"v{A}": a, f"v{B}": b, f"v{C}": c}, (f"v{D}", shape.result_registers)))
        wanted.append((name, shape, expected(shape, arch, a, b, c)))
    for (name, shape, want), result in zip(wanted, one_wave.run(arch, cases), strict=True):
        with np.errstate(over="ignore"):
            rounded = want.astype(np.float32).astype(np.float64)
        np.testing.assert_array_equal(actual(shape, result), rounded, err_msg=f"{arch} {name}")


def pack_exact(values: np.ndarray, kind: str, arch: str) -> np.ndarray:
    """`pack` with infinities and NaNs kept where the type has them."""
    if kind in SPECIAL:
        return pack(values, kind, arch)
    codes = matrices.small_floats.of_arch(arch, kind).encode(values)
    return np.ascontiguousarray(codes.astype(np.uint8).view(np.uint32).T)


@pytest.mark.parametrize("mode, kept", [(0x2F0, True), (0x2E0, False), (0x2C0, False)])
def test_only_f32_inputs_honour_the_denormal_mode(arch, mode, kept):
    """MODE bit 4 keeps f32 inputs; C, D and narrower inputs are never flushed."""
    cases, wanted = [], []
    for name, tiny in (
        ("v_mfma_f32_16x16x4_f32", 2.0**-130),
        ("v_mfma_f32_16x16x16_f16", 2.0**-20),
        ("v_mfma_f32_16x16x16_bf16", 2.0**-130),
    ):
        shape = Shape.of(name)
        a = pack(np.full((64, shape.per_lane), tiny), shape.a_type, arch)
        b = pack(np.full((64, shape.per_lane), 4.0), shape.b_type, arch)
        c = np.full((shape.result_registers, 64), 2.0**-140, np.float32).view(np.uint32)
        cases.append(
            Case(operands(name), {f"v{A}": a, f"v{B}": b, f"v{C}": c}, (f"v{D}", shape.result_registers), mode=mode)
        )
        flushed = shape.a_type == "f32" and not kept
        wanted.append(np.float32((0.0 if flushed else 4.0 * tiny * shape.k) + 2.0**-140))
    for want, result in zip(wanted, one_wave.run(arch, cases), strict=True):
        np.testing.assert_array_equal(result.view(np.float32), want)


def test_flops_are_counted(arch):
    cases = []
    for name in matrices.names(arch):
        shape = Shape.of(name)
        a, b, c = small_integers(np.random.default_rng(11), shape, arch)
        cases.append(Case(operands(name), {f"v{A}": a, f"v{B}": b, f"v{C}": c}, (f"v{D}", shape.result_registers)))
    assert one_wave.report(arch, cases).mfma_flops == sum(Shape.of(name).flops for name in matrices.names(arch))


@pytest.mark.parametrize(
    "text, said",
    [
        ("v_mfma_f32_16x16x16_f16 v[0:3], v[4:5], v[6:7], v[0:3] cbsz:1", "cbsz"),
        ("v_mfma_f32_32x32x4_2b_f16 v[0:31], v[32:33], v[34:35], v[0:31] cbsz:1 abid:2", "abid"),
    ],
)
def test_undefined_broadcasts_are_refused(arch, text, said):
    with one_wave.refusal(said):
        one_wave.run(arch, [Case(text, {}, ("v0", 1))])


def f64_registers(values: np.ndarray) -> np.ndarray:
    """(pair, lane) f64 to (2 * pair, lane) words."""
    words = np.ascontiguousarray(values).view(np.uint32).reshape(*values.shape, 2)
    return words.transpose(0, 2, 1).reshape(-1, values.shape[1])


@pytest.mark.parametrize("name, size, blocks", [("v_mfma_f64_16x16x4_f64", 16, 1), ("v_mfma_f64_4x4x4_4b_f64", 4, 4)])
def test_f64_products_with_negation_and_constants(arch, name, size, blocks):
    """Rows of D go round the lane groups one by one, and blgp negates A, B and C."""
    rng = np.random.default_rng(12)
    groups = 64 // (size * blocks)
    pairs = size // groups
    block, row, k = np.indices((blocks, size, 4))
    places = k * size * blocks + block * size + row
    block, row, column = np.indices((blocks, size, size))
    result_places = (row // groups, row % groups * size * blocks + block * size + column)
    cases, wanted = [], []
    for trial in range(6):
        a, b = rng.integers(-9, 10, (2, 64)).astype(float)
        c = rng.integers(-99, 100, (pairs, 64)).astype(float)
        negate = [trial & 1, trial >> 1 & 1, trial >> 2 & 1]
        addend = registers_text(f"v{C}", 2 * pairs) if trial < 5 else "2.0"
        if trial == 5:
            c = np.full_like(c, 2.0)
        text = (
            f"{name} {registers_text(f'v{D}', 2 * pairs)}, v[0:1], v[2:3], {addend} neg:[{','.join(map(str, negate))}]"
        )
        registers = {"v0": f64_registers(a[None]), "v2": f64_registers(b[None]), f"v{C}": f64_registers(c)}
        cases.append(Case(text, registers, (f"v{D}", 2 * pairs)))
        signs = [-1.0 if n else 1.0 for n in negate]
        wanted.append(product(signs[0] * a[places], signs[1] * b[places]) + signs[2] * c[result_places])
    for case, want, result in zip(cases, wanted, one_wave.run(arch, cases), strict=True):
        values = np.ascontiguousarray(result.reshape(pairs, 2, 64).transpose(0, 2, 1)).view(np.float64)[..., 0]
        np.testing.assert_array_equal(values[result_places], want, err_msg=case.text)


@pytest.mark.parametrize(
    "text, archs",
    [
        ("v_mfma_f32_16x16x8_xf32 v[0:3], v[4:5], v[6:7], v[0:3]", ("gfx942",)),
        ("v_smfmac_f32_16x16x32_f16 v[0:3], v[4:5], v[8:11], v12", ("gfx942", "gfx950")),
        ("v_smfmac_f32_32x32x64_fp8_fp8 v[0:15], v[16:19], v[24:31], v32", ("gfx950",)),
    ],
)
def test_unimplemented_matrix_instructions_are_refused_by_name(arch, text, archs):
    if arch not in archs:
        pytest.skip(f"{arch} has no such instruction")
    with one_wave.refusal(text.split()[0]):
        one_wave.run(arch, [Case(text, {}, ("v0", 1))])
