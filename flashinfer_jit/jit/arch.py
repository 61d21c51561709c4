"""The GPUs kernels are made for, as data: templates, tiling and the emulator read these numbers and no others.

Sources: LLVM's AMDGPU target tables (register file, MFMA shapes, machine codes), AMD's CDNA3 and CDNA4 ISA manuals
(LDS, direct global-to-LDS loads, fp8 formats), AMD's data sheets of MI300X and MI355X (units, clocks, bandwidth).
"""

from dataclasses import dataclass, field
from types import MappingProxyType

from flashinfer_jit.errors import UnsupportedConfigError


@dataclass(frozen=True)
class MfmaShape:
    """One matrix instruction D[m, n] += A[m, k] B[k, n] of a wave of 64 lanes.

    Attributes
    ----------
    m, n, k : int
        The matrix sizes.
    builtin : str
        The compiler builtin.
    passes : int
        Passes of 4 clocks that the matrix pipe of a SIMD is busy.
    """

    m: int
    n: int
    k: int
    builtin: str
    passes: int

    @property
    def elements_per_lane(self) -> int:
        """Elements of A (and of B) that one lane holds."""
        return self.m * self.k // 64


@dataclass(frozen=True)
class Arch:
    """One GPU architecture, as far as kernels and their schedules depend on it.

    Attributes
    ----------
    name : str
        The LLVM target, for example ``gfx942``.
    products : tuple of str
        The GPUs that have it.
    num_cus : int
        Compute units of the largest product.
    num_xcds : int
        Dies; consecutive workgroups go to consecutive dies.
    elf_machine : int
        Low byte of the ELF ``e_flags`` of its code objects.
    lds_bytes, lds_banks, lds_read_bytes_per_clock : int
        Local data share of one compute unit.
    global_to_lds_bytes : int
        Bytes a lane moves with one direct global-to-LDS load, at most.
    has_transposing_lds_read : bool
        Whether ds_read_b64_tr_b16 exists.
    has_packed_bf16_convert : bool
        Whether v_cvt_pk_bf16_f32 exists.
    fp8_flavour : str
        ``fnuz`` or ``ocp``: what the fp8 instructions mean by an fp8 value.
    mfma : mapping
        dtype name to the matrix instructions for it, widest tile first.
    max_clock_mhz, hbm_bytes_per_second : int
        Of the fastest product with this architecture.
    """

    name: str
    products: tuple[str, ...]
    num_cus: int
    num_xcds: int
    elf_machine: int
    lds_bytes: int
    lds_banks: int
    lds_read_bytes_per_clock: int
    global_to_lds_bytes: int
    has_transposing_lds_read: bool
    has_packed_bf16_convert: bool
    fp8_flavour: str
    max_clock_mhz: int
    hbm_bytes_per_second: int
    mfma: MappingProxyType[str, tuple[MfmaShape, ...]] = field(hash=False, compare=False)
    wave_size: int = 64
    simds_per_cu: int = 4
    vgprs_per_lane: int = 512
    vgpr_granule: int = 8
    max_waves_per_simd: int = 8

    def waves_per_simd(self, vgprs: int) -> int:
        """Return how many waves fit on a SIMD when each holds ``vgprs`` vector registers (arch and acc together)."""
        allocated = max(-(-vgprs // self.vgpr_granule) * self.vgpr_granule, self.vgpr_granule)
        return min(self.max_waves_per_simd, self.vgprs_per_lane // allocated)

    def mfma_shape(self, dtype: str, m: int) -> MfmaShape:
        """Return the matrix instruction for ``dtype`` with ``m`` rows of A."""
        for shape in self.mfma.get(dtype, ()):
            if shape.m == m:
                return shape
        raise UnsupportedConfigError(f"{self.name} has no matrix instruction with {m} rows for dtype {dtype!r}")


GFX942 = Arch(
    name="gfx942",
    products=("MI300A", "MI300X", "MI325X"),
    num_cus=304,
    num_xcds=8,
    elf_machine=0x4C,
    lds_bytes=65536,
    lds_banks=32,
    lds_read_bytes_per_clock=128,
    global_to_lds_bytes=4,
    has_transposing_lds_read=False,
    has_packed_bf16_convert=False,
    fp8_flavour="fnuz",
    max_clock_mhz=2100,
    hbm_bytes_per_second=5_300_000_000_000,
    mfma=MappingProxyType(
        {
            "float16": (
                MfmaShape(32, 32, 8, "__builtin_amdgcn_mfma_f32_32x32x8f16", 8),
                MfmaShape(16, 16, 16, "__builtin_amdgcn_mfma_f32_16x16x16f16", 4),
            ),
            "bfloat16": (
                MfmaShape(32, 32, 8, "__builtin_amdgcn_mfma_f32_32x32x8bf16_1k", 8),
                MfmaShape(16, 16, 16, "__builtin_amdgcn_mfma_f32_16x16x16bf16_1k", 4),
            ),
            "float8_e4m3fnuz": (
                MfmaShape(32, 32, 16, "__builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8", 8),
                MfmaShape(16, 16, 32, "__builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8", 4),
            ),
            "float8_e5m2fnuz": (
                MfmaShape(32, 32, 16, "__builtin_amdgcn_mfma_f32_32x32x16_bf8_bf8", 8),
                MfmaShape(16, 16, 32, "__builtin_amdgcn_mfma_f32_16x16x32_bf8_bf8", 4),
            ),
        }
    ),
)

GFX950 = Arch(
    name="gfx950",
    products=("MI350X", "MI355X"),
    num_cus=256,
    num_xcds=8,
    elf_machine=0x4F,
    lds_bytes=163840,
    lds_banks=64,
    lds_read_bytes_per_clock=256,
    global_to_lds_bytes=16,
    has_transposing_lds_read=True,
    has_packed_bf16_convert=True,
    fp8_flavour="ocp",
    max_clock_mhz=2400,
    hbm_bytes_per_second=8_000_000_000_000,
    mfma=MappingProxyType(
        {
            "float16": (
                MfmaShape(32, 32, 16, "__builtin_amdgcn_mfma_f32_32x32x16_f16", 8),
                MfmaShape(16, 16, 32, "__builtin_amdgcn_mfma_f32_16x16x32_f16", 4),
            ),
            "bfloat16": (
                MfmaShape(32, 32, 16, "__builtin_amdgcn_mfma_f32_32x32x16_bf16", 8),
                MfmaShape(16, 16, 32, "__builtin_amdgcn_mfma_f32_16x16x32_bf16", 4),
            ),
            "float8_e4m3fn": (
                MfmaShape(32, 32, 16, "__builtin_amdgcn_mfma_f32_32x32x16_fp8_fp8", 8),
                MfmaShape(16, 16, 32, "__builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8", 4),
            ),
            "float8_e5m2": (
                MfmaShape(32, 32, 16, "__builtin_amdgcn_mfma_f32_32x32x16_bf8_bf8", 8),
                MfmaShape(16, 16, 32, "__builtin_amdgcn_mfma_f32_16x16x32_bf8_bf8", 4),
            ),
        }
    ),
)

ARCHS: MappingProxyType[str, Arch] = MappingProxyType({arch.name: arch for arch in (GFX942, GFX950)})


def get_arch(name: str) -> Arch:
    """Return the Arch called ``name``; features after a colon, as in ``gfx942:sramecc+:xnack-``, are ignored.

    Raises UnsupportedConfigError for a GPU that no kernel is made for.
    """
    arch = ARCHS.get(name.split(":", 1)[0])
    if arch is None:
        raise UnsupportedConfigError(f"arch={name!r} is not supported: kernels exist for {', '.join(sorted(ARCHS))}")
    return arch
