"""Published figures and bounds that follow from them, beside what the timing model predicts for the same mix."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.emulated.timing_machine import EXP_CLOCKS, FULL_SHAPE, Mix, clocks_each, exp, mfma, valu

HD128_942 = Mix("32x32x8", 32, 129, 16)
ROUNDING = {
    "RTZ": HD128_942,
    "RTNA": Mix("32x32x8", 32, 177, 16),
    "RTNE": Mix("32x32x8", 32, 201, 16),
}


@dataclass(frozen=True)
class Anchor:
    """One row of the table.

    Attributes
    ----------
    what, source : str
        What is compared, and where the published figure is from.
    published : tuple of float
        The range that was published; one number twice where it is one.
    derived : bool
        Whether the range is arithmetic from published rates and counts, not a measurement.
    predict : callable
        The model's figure.
    miss : str
        Why the model is off, where it is.
    """

    what: str
    source: str
    published: tuple[float, float]
    derived: bool
    predict: Callable[[], float]
    tolerance: float = 0.01
    miss: str = ""

    def hit(self, value: float) -> bool:
        """Return whether a prediction lies in the published range, widened by the tolerance."""
        low, high = self.published
        return low * (1 - self.tolerance) <= value <= high * (1 + self.tolerance)


def _slower(mode: str, exp_last: bool = False) -> float:
    def tile(name: str) -> float:
        return clocks_each(ROUNDING[name].interleaved(exp_last), "gfx942", repeats=4)

    return tile(mode) / tile("RTZ")


def _fit(arch: str, instruction: Callable[[int], str]) -> float:
    """Return how many instructions one full-shape MFMA hides completely."""
    product, count = mfma(FULL_SHAPE[arch]), 0
    while clocks_each("\n".join([product, *(instruction(n) for n in range(count + 1))]), arch, repeats=12) <= 32:
        count += 1
    return count


def _ceiling(arch: str, mix: Mix) -> float:
    return mix.efficiency(arch, mix.interleaved())


def _serial(arch: str, mix: Mix) -> float:
    return mix.efficiency(arch, mix.serial())


def _softmax(arch: str, shape: str, products: int, demand: int) -> Mix:
    """Return the mix of a 32 x 32 tile of softmax whose vector instructions take ``demand`` clocks."""
    return Mix(shape, products, round((demand - 16 * EXP_CLOCKS[arch]) / 4), 16)


def _halves(first: int, second: int) -> float:
    """Return the efficiency of 16 products over ``first`` clocks of softmax, then 16 over ``second``."""
    qk, pv = (_softmax("gfx950", "32x32x16", 16, demand) for demand in (first, second))
    return 1024 / clocks_each(qk.interleaved() + "\n" + pv.interleaved(), "gfx950", repeats=4)


_AITER = "AITER v3 on MI300X, moonmath-ai/amd-kernels table, five shapes"
_CALCULATOR = "AITER's hand-scheduled loops"
_TRITON = "instruction counts of Triton 3.9 attention, rates as above"
_BOUND = "demand of a lazily rescaled softmax over the co-issue window"
_GLUON = "Gluon attention tutorial, MI355X"

ANCHORS = (
    Anchor("VALU under a 32x32x8, gfx942", _CALCULATOR, (7, 7), False, lambda: _fit("gfx942", valu)),
    Anchor("exp under a 32x32x8, gfx942", _CALCULATOR, (2, 2), False, lambda: _fit("gfx942", exp)),
    Anchor("VALU under a 32x32x16, gfx950", _CALCULATOR, (6, 6), False, lambda: _fit("gfx950", valu)),
    Anchor("exp under a 32x32x16, gfx950", _CALCULATOR, (3, 3), False, lambda: _fit("gfx950", exp)),
    Anchor(
        "RTNA over RTZ, gfx942 hd128",
        _AITER,
        (1.07, 1.092),
        False,
        lambda: _slower("RTNA"),
    ),
    Anchor("RTNE over RTZ, gfx942 hd128", _AITER, (1.12, 1.163), False, lambda: _slower("RTNE")),
    Anchor(
        "RTNA over RTZ, exponentials last under each MFMA",
        _AITER,
        (1.07, 1.092),
        False,
        lambda: _slower("RTNA", exp_last=True),
        miss="an exponential's last clocks run under the next MFMA's head; AITER's order is not published",
    ),
    Anchor(
        "gfx942 bf16 RTNE hd64 ceiling",
        _BOUND,
        (0.75, 0.75),
        True,
        lambda: _ceiling("gfx942", _softmax("gfx942", "32x32x8", 16, 616)),
    ),
    Anchor(
        "gfx942 bf16 RTZ hd128 ceiling",
        _BOUND,
        (1.0, 1.0),
        True,
        lambda: _ceiling("gfx942", _softmax("gfx942", "32x32x8", 32, 488)),
    ),
    Anchor(
        "gfx942 fp8 hd64 ceiling",
        _BOUND,
        (0.49, 0.49),
        True,
        lambda: _ceiling("gfx942", _softmax("gfx942", "32x32x16_fp8", 8, 490)),
    ),
    Anchor(
        "gfx950 bf16 hd64 ceiling",
        _BOUND,
        (0.63, 0.63),
        True,
        lambda: _ceiling("gfx950", _softmax("gfx950", "32x32x16", 8, 340)),
    ),
    Anchor(
        "gfx950 bf16 hd128 ceiling",
        _BOUND,
        (1.0, 1.0),
        True,
        lambda: _ceiling("gfx950", _softmax("gfx950", "32x32x16", 16, 340)),
    ),
    Anchor(
        "gfx950 bf16 hd128 ceiling, eager rescale",
        _BOUND,
        (0.86, 0.86),
        True,
        lambda: _ceiling("gfx950", _softmax("gfx950", "32x32x16", 16, 468)),
    ),
    Anchor(
        "softmax 204 clk under QK, 484 under PV",
        _GLUON + " (ceiling of fav3, by its authors)",
        (0.914, 0.914),
        True,
        lambda: _halves(204, 484),
    ),
    Anchor(
        "softmax 348 clk under QK, 340 under PV",
        _GLUON + " (fav4, whole kernel)",
        (0.945, 0.945),
        False,
        lambda: _halves(348, 340),
        miss="the loop of this mix alone, without LDS, loads and barriers: a ceiling",
    ),
    Anchor(
        "Triton gfx942 128x64 tile, one wave a SIMD",
        _TRITON,
        (0.54, 0.54),
        True,
        lambda: _serial("gfx942", Mix("32x32x8", 64, 263, 33, 50)),
        0.03,
    ),
    Anchor(
        "Triton gfx950 128x64 tile, one wave a SIMD",
        _TRITON,
        (0.55, 0.55),
        True,
        lambda: _serial("gfx950", Mix("32x32x16", 32, 95, 33, 46)),
        0.03,
    ),
    Anchor(
        "Triton gfx950 128x64 tile, perfect overlap",
        _TRITON,
        (0.84, 0.84),
        True,
        lambda: _ceiling("gfx950", Mix("32x32x16", 32, 95, 33, 46)),
        0.03,
    ),
)
