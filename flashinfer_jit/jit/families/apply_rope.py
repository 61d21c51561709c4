"""The kernel that rotates queries and keys by the positions of their tokens."""

from dataclasses import dataclass
from typing import ClassVar

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import params, tiling
from flashinfer_jit.jit.config import DTYPE_SLUGS, KernelConfig, register_config
from flashinfer_jit.jit.params import Field, ParamsTable

DTYPES = ("float16", "bfloat16", "float32")


@register_config
@dataclass(frozen=True)
class ApplyRopeConfig(KernelConfig):
    """One such kernel.

    Attributes
    ----------
    dtype : str
        Torch dtype name of queries and keys.
    interleave : bool
        Whether neighbouring columns are rotated together, instead of those half of the rotated columns apart.
    has_cache : bool
        Whether cosines and sines are read, instead of computed.

    Raises
    ------
    UnsupportedConfigError
        For a dtype that is not allowed.
    """

    kernel: ClassVar[str] = "apply_rope"

    dtype: str
    interleave: bool = False
    has_cache: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UnsupportedConfigError(f"dtype={self.dtype!r} is not allowed: expected one of {', '.join(DTYPES)}")

    def slug(self) -> str:
        """Return for example ``apply_rope-bf16-interleave``."""
        names = [name for name in ("interleave", "has_cache") if getattr(self, name)]
        return "-".join(["apply_rope", DTYPE_SLUGS[self.dtype], *(name.removeprefix("has_") for name in names)])


params.TABLES["apply_rope"] = ParamsTable(
    "apply_rope",
    (
        Field("q", "const void*", "[num_tokens, num_q_heads, head_dim]"),
        Field("k", "const void*", "[num_tokens, num_k_heads, head_dim]"),
        Field("q_out", "void*", "the same rotated; it may be q"),
        Field("k_out", "void*", "likewise"),
        Field("positions", "const void*", "[num_tokens]; with indptr [num_requests], of the first token of each"),
        Field("indptr", "const void*", "[num_requests + 1]: where a request's tokens begin; or null"),
        Field("cos_sin_cache", "const float*", "[max_position, rotary_dim]: cosines, then sines"),
        Field("q_stride_n", "int64_t", "elements between tokens of q"),
        Field("q_stride_h", "int64_t", "elements between heads of q"),
        Field("k_stride_n", "int64_t", "elements between tokens of k"),
        Field("k_stride_h", "int64_t", "elements between heads of k"),
        Field("q_out_stride_n", "int64_t", "elements between tokens of q_out"),
        Field("q_out_stride_h", "int64_t", "elements between heads of q_out"),
        Field("k_out_stride_n", "int64_t", "elements between tokens of k_out"),
        Field("k_out_stride_h", "int64_t", "elements between heads of k_out"),
        Field("cache_stride", "int64_t", "elements between positions of cos_sin_cache"),
        Field("rope_frequency", "double", "revolutions per token of the first pair: 1 / 2 pi"),
        Field("rope_decay", "double", "from one pair to the next: rope_theta^(-2 / rotary_dim)"),
        Field("inverse_scale", "double", "factor of frequencies that are not kept"),
        Field("kept_factor", "double", "frequency f is kept to the share f * kept_factor + kept_offset, 0 to 1"),
        Field("kept_offset", "double", "see kept_factor"),
        Field("has_wide_indices", "int32_t", "1 if positions and indptr are int64, 0 if int32"),
        Field("num_requests", "int32_t", "requests of indptr"),
        Field("num_tokens", "int32_t", "tokens"),
        Field("num_q_heads", "int32_t", "heads of q"),
        Field("num_k_heads", "int32_t", "heads of k"),
        Field("head_dim", "int32_t", "columns of a head, a multiple of 8"),
        Field("rotary_dim", "int32_t", "those that are rotated, a multiple of 16"),
    ),
)
# A workgroup to a token.
tiling.CANDIDATES["apply_rope"] = lambda config, arch: (tiling.TileConfig(1, 0, 4, waves_per_simd=8),)
