"""A kernel small enough to reason about, made through the same mechanism as the product's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flashinfer_jit.jit import params, tiling
from flashinfer_jit.jit.arch import get_arch
from flashinfer_jit.jit.config import KernelConfig, register_config
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.tiling import TileConfig

TEMPLATES = Path(__file__).resolve().parent / "templates"
TILE = TileConfig(block_q=256, block_kv=0, num_waves=4, waves_per_simd=8)


@register_config
@dataclass(frozen=True)
class VectorAddConfig(KernelConfig):
    """c = a + b, times a factor that only serves to make distinct kernels."""

    kernel: ClassVar[str] = "vector_add"
    factor: int = 1

    def slug(self) -> str:
        return f"vector_add-x{self.factor}"


params.TABLES["vector_add"] = params.ParamsTable(
    "vector_add",
    (
        params.Field("a", "const float*", "[n]"),
        params.Field("b", "const float*", "[n]"),
        params.Field("c", "float*", "[n]"),
        params.Field("n", "int32_t", "elements"),
    ),
)
tiling.CANDIDATES["vector_add"] = lambda config, arch: (TILE,)


def vector_add_key(arch: str = "gfx942", factor: int = 1) -> KernelKey:
    """Return the key of one of these kernels."""
    return KernelKey(VectorAddConfig(factor), TILE, get_arch(arch))
