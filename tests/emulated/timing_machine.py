"""Kernels of a few instructions, timed by the emulator's model: what one repetition of a text costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flashinfer_jit import emulator
from tests.emulated.assemble import assemble

# By shape: mnemonic and operand registers of A and B; every result is 32x32 (16 registers) or 16x16 (4).
MFMA = {
    "32x32x8": ("v_mfma_f32_32x32x8_f16", 2, 16),
    "16x16x16": ("v_mfma_f32_16x16x16_f16", 2, 4),
    "32x32x16": ("v_mfma_f32_32x32x16_f16", 4, 16),
    "16x16x32": ("v_mfma_f32_16x16x32_f16", 4, 4),
    "32x32x16_fp8": ("v_mfma_f32_32x32x16_fp8_fp8", 2, 16),
    "4x4x4": ("v_mfma_f32_4x4x4_16b_f16", 2, 4),
}
# Its clocks on the matrix pipe.
MFMA_CLOCKS = {"32x32x8": 32, "16x16x16": 16, "32x32x16": 32, "16x16x32": 16, "32x32x16_fp8": 32, "4x4x4": 8}
FULL_SHAPE = {"gfx942": "32x32x8", "gfx950": "32x32x16"}
EXP_CLOCKS = {"gfx942": 16, "gfx950": 8}

WAVE_OF_GROUP = "v_lshrrev_b32 v0, 6, v0\ns_nop 4\nv_readfirstlane_b32 s10, v0\ns_nop 4\n"


def mfma(shape: str, dst: int = 128, a: int = 64, b: int = 96, c: int | None = None) -> str:
    """Return a matrix instruction that accumulates in place, or reads its C from elsewhere."""
    name, operand, result = MFMA[shape]

    def registers(first: int, count: int) -> str:
        return f"v[{first}:{first + count - 1}]"

    accumulator = dst if c is None else c
    return (
        f"{name} {registers(dst, result)}, {registers(a, operand)}, {registers(b, operand)}, "
        f"{registers(accumulator, result)}"
    )


def valu(n: int) -> str:
    """Return a full-rate vector instruction that depends on nothing near."""
    return f"v_mov_b32 v{8 + n % 24}, 1.0"


def exp(n: int) -> str:
    """Return an exponential that depends on nothing near."""
    return f"v_exp_f32 v{32 + n % 24}, v4"


def packed(n: int) -> str:
    """Return a packed multiplication, which never runs beside the matrix pipe."""
    return f"v_pk_mul_f32 v[{8 + 2 * (n % 8)}:{9 + 2 * (n % 8)}], v[4:5], v[6:7]"


def run(
    text: str,
    arch: str,
    *,
    grid: int = 1,
    block: int = 64,
    args: Sequence[Any] = (),
    units: int = 1,
    timeline: int = 0,
    **assembly: Any,
) -> emulator.Report:
    """Run a kernel text, with s_endpgm added, under the timing model."""
    blob = assemble(text + "\ns_endpgm\n", arch, arguments=["ptr"] * len(args), **assembly)
    with emulator.timed_launches(units=units, timeline=timeline):
        return emulator.run(blob, "kernel", grid=grid, block=block, args=list(args), arch=arch)


def timing(text: str, arch: str, **options: Any) -> dict[str, Any]:
    """Return the timing part of ``run``."""
    found = run(text, arch, **options).timing
    assert found is not None
    return found


def clocks_each(body: str, arch: str, *, setup: str = "", repeats: int = 24, **options: Any) -> float:
    """Return what one more repetition of ``body`` costs, once it is under way."""
    few, many = (
        timing(f"{setup}\n.rept {count}\n{body}\n.endr", arch, **options)["cycles"] for count in (repeats, 3 * repeats)
    )
    return (many - few) / (2 * repeats)


@dataclass(frozen=True)
class Mix:
    """What one tile of a kernel issues.

    Attributes
    ----------
    shape : str
        The matrix instruction.
    mfma, valu, exp, packed : int
        How many of each; the packed ones come last, on their own.
    """

    shape: str
    mfma: int
    valu: int
    exp: int
    packed: int = 0

    def interleaved(self, exp_last: bool = False) -> str:
        """Return the tile with its vector instructions spread evenly under the matrix instructions."""
        lines: list[str] = []
        done_valu = done_exp = 0
        # Each matrix instruction gets its share of the demand; exponentials are dealt out first.
        for n in range(self.mfma):
            lines.append(mfma(self.shape, 128 + 16 * (n % 4)))
            exps = [exp(k) for k in range(done_exp, self.exp * (n + 1) // self.mfma)]
            done_exp += len(exps)
            # Full-rate instructions fill up to the same share, counting an exponential as four or two of them.
            wanted = (n + 1) * (self.valu + self.exp * self.weight) // self.mfma - done_exp * self.weight
            wanted = self.valu if n + 1 == self.mfma else max(done_valu, min(wanted, self.valu))
            plain = [valu(k) for k in range(done_valu, wanted)]
            done_valu = wanted
            lines += plain + exps if exp_last else exps + plain
        return "\n".join(lines + [packed(n) for n in range(self.packed)])

    @property
    def weight(self) -> int:
        """An exponential in full-rate instructions, as the shape's GPU runs it."""
        return 2 if self.shape in ("32x32x16", "16x16x32") else 4

    def serial(self) -> str:
        """Return the tile as code without overlap runs it: products, softmax, products."""
        half = self.mfma // 2
        products = [mfma(self.shape, 128 + 16 * (n % 4)) for n in range(self.mfma)]
        softmax = [valu(n) for n in range(self.valu)] + [exp(n) for n in range(self.exp)]
        softmax += [packed(n) for n in range(self.packed)]
        # The softmax reads the last product, and the next products read what it wrote.
        first = "v_mov_b32 v8, v128\nv_mov_b32 v9, v144\nv_mov_b32 v10, v160\nv_mov_b32 v11, v176"
        return "\n".join([*products[:half], first, *softmax, "v_mov_b32 v64, v8", *products[half:]])

    def efficiency(self, arch: str, text: str) -> float:
        """Return the share of clocks in which the matrix pipe is busy, in the steady state of one wave."""
        return self.mfma * MFMA_CLOCKS[self.shape] / clocks_each(text, arch, repeats=4)
