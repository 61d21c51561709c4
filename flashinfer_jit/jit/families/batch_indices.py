"""The kernel that says of every new token which request it belongs to, and at which position."""

from dataclasses import dataclass
from typing import ClassVar

from flashinfer_jit.jit import params, tiling
from flashinfer_jit.jit.config import KernelConfig, register_config
from flashinfer_jit.jit.params import Field, ParamsTable


@register_config
@dataclass(frozen=True)
class BatchIndicesConfig(KernelConfig):
    """There is one such kernel."""

    kernel: ClassVar[str] = "batch_indices"

    def slug(self) -> str:
        """Return ``batch_indices``."""
        return "batch_indices"


params.TABLES["batch_indices"] = ParamsTable(
    "batch_indices",
    (
        Field("append_indptr", "const int32_t*", "[num_requests + 1]: where a request's new tokens begin"),
        Field("seq_lens", "const int32_t*", "[num_requests]: keys of a request, the new ones included"),
        Field("batch_indices", "int32_t*", "[num_tokens]: the request of each; -1 for tokens past the last"),
        Field("positions", "int32_t*", "[num_tokens]: where in its request; -1 likewise"),
        Field("num_requests", "int32_t", "requests"),
        Field("num_tokens", "int32_t", "tokens"),
    ),
)
# A thread to a token.
tiling.CANDIDATES["batch_indices"] = lambda config, arch: (tiling.TileConfig(1, 0, 4, waves_per_simd=8),)
