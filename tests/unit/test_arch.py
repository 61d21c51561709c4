import pytest

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import ARCHS, get_arch


def test_features_behind_the_name_are_ignored() -> None:
    assert get_arch("gfx942:sramecc+:xnack-") is ARCHS["gfx942"]


def test_an_unknown_gpu_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedConfigError, match="'gfx90a'.*gfx942, gfx950"):
        get_arch("gfx90a")


def test_matrix_rates_are_the_published_ones(arch: str) -> None:
    # flop per clock and SIMD, dense: AMD's CDNA3 and CDNA4 white papers.
    expected = {"gfx942": (512, 1024), "gfx950": (1024, 1024)}[arch]
    fp8 = {"gfx942": "float8_e4m3fnuz", "gfx950": "float8_e4m3fn"}[arch]
    for dtype, rate in zip(("bfloat16", fp8), expected, strict=True):
        for shape in get_arch(arch).mfma[dtype]:
            assert 2 * shape.m * shape.n * shape.k // (4 * shape.passes) == rate
            assert shape.elements_per_lane * 64 == shape.m * shape.k


# The occupancy table of AMD's CDNA3 ISA manual for the unified register file.
@pytest.mark.parametrize(
    "vgprs, waves", [(1, 8), (64, 8), (65, 7), (72, 7), (80, 6), (96, 5), (128, 4), (168, 3), (256, 2)]
)
def test_waves_per_simd(arch: str, vgprs: int, waves: int) -> None:
    assert get_arch(arch).waves_per_simd(vgprs) == waves
    assert get_arch(arch).waves_per_simd(512) == 1


def test_a_missing_instruction_is_an_error_not_a_guess(arch: str) -> None:
    with pytest.raises(UnsupportedConfigError, match="64 rows"):
        get_arch(arch).mfma_shape("float16", 64)
