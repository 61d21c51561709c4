"""How a kernel cuts its work into workgroups and waves: a few candidates per configuration, one chosen by the work."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import AttentionConfig, KernelConfig

MAX_CANDIDATES = 3


@dataclass(frozen=True)
class TileConfig:
    """The tile of one workgroup.

    Attributes
    ----------
    block_q : int
        Rows of the output that a workgroup makes; query heads of one KV head are packed into rows.
    block_kv : int
        Keys of one step of its loop; 0 for kernels without such a loop.
    num_waves : int
        Waves of 64 lanes.
    waves_per_simd : int
        Waves that shall fit on a SIMD: the bound on vector registers.
    """

    block_q: int
    block_kv: int
    num_waves: int
    waves_per_simd: int

    def slug(self) -> str:
        """Return for example ``q128x64-w4``."""
        return f"q{self.block_q}x{self.block_kv}-w{self.num_waves}"

    @property
    def num_threads(self) -> int:
        """Threads of a workgroup."""
        return 64 * self.num_waves

    def to_dict(self) -> dict[str, int]:
        """Return the fields."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """The amount of work of one call, as far as the choice of a tile depends on it.

    Attributes
    ----------
    num_rows : int
        Packed query rows (``qo_len * group_size``) of the longest request.
    num_problems : int
        Requests times KV heads: what runs in parallel beside the rows.
    kv_len : int
        Keys of the longest request.
    """

    num_rows: int
    num_problems: int
    kv_len: int


def tile_from_dict(values: Mapping[str, Any]) -> TileConfig:
    """Return the tile that ``to_dict`` described; raises UnsupportedConfigError for other fields."""
    try:
        return TileConfig(**values)
    except TypeError as error:
        raise UnsupportedConfigError(f"tile: {error}") from None


def _attention_tiles(config: KernelConfig, arch: Arch) -> tuple[TileConfig, ...]:
    assert isinstance(config, AttentionConfig)
    # Two stages of K and V tiles for each of the two workgroups that share a CU have to fit into its LDS.
    bytes_per_key = 2 * (config.head_dim_qk + config.head_dim_vo)
    block_kv = next(n for n in (64, 32) if 2 * 2 * n * bytes_per_key <= arch.lds_bytes)
    # A wave owns 32 rows. Two workgroups of 4 waves are 2 waves on each of the 4 SIMDs; of 2 waves, one.
    return tuple(TileConfig(32 * waves, block_kv, waves, waves_per_simd=waves // 2) for waves in (2, 4))


# One entry per family of kernels.
CANDIDATES: dict[str, Callable[[KernelConfig, Arch], tuple[TileConfig, ...]]] = {"attention": _attention_tiles}


def candidates(config: KernelConfig, arch: Arch) -> tuple[TileConfig, ...]:
    """Return the tiles that ``config`` is compiled with on ``arch``, smallest first: at most three.

    Raises UnsupportedConfigError if the kernel does not exist on ``arch``.
    """
    config.validate(arch)
    tiles = CANDIDATES[config.kernel](config, arch)
    assert 0 < len(tiles) <= MAX_CANDIDATES
    return tiles


# Reading one tile of K and V keeps a workgroup busy about as long as the arithmetic of this many rows: an assumption
# from the ratio of L2 bandwidth to matrix rate, which the timing model can replace by measured tiles.
KV_READ_ROWS = 64


def choose(tiles: tuple[TileConfig, ...], work: Work, num_cus: int) -> TileConfig:
    """Return the tile that ends first: rounds of workgroups times the cost of one; among equals the larger."""

    def cost(tile: TileConfig) -> tuple[int, int]:
        num_blocks = -(-work.num_rows // tile.block_q) * work.num_problems
        return -(-num_blocks // num_cus) * (tile.block_q + KV_READ_ROWS), -tile.block_q

    return min(tiles, key=cost)
