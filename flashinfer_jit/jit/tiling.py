"""How a kernel cuts its work into workgroups and waves: a few candidates per configuration, one chosen by the work."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import FP8_DTYPES, AttentionConfig, KernelConfig

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


# Vector registers beside the accumulators that a prefill kernel keeps alive, found by compiling all head dims: above
# this many of its own, two waves no longer fit on a SIMD.
MAX_OWN_REGISTERS_OF_TWO_WAVES = 180
WAVE_ROWS = 32


def prefill_stage_bytes(config: AttentionConfig, arch: Arch, block_kv: int) -> int:
    """Return the bytes of LDS that a tile of K and a tile of V take, laid out as partials/lds.hip.j2 does."""

    def pitch(head_dim: int, unit: int) -> int:
        chunks = head_dim // 8
        return 16 * (chunks if chunks & (chunks - 1) == 0 else (-(-chunks // unit) | 1) * unit)

    v_pitch = pitch(config.head_dim_vo, 4) if arch.has_transposing_lds_read else 64 * -(-config.head_dim_vo // 32)
    return block_kv * (pitch(config.head_dim_qk, 1) + v_pitch)


def _prefill_tiles(config: AttentionConfig, arch: Arch) -> tuple[TileConfig, ...]:
    def fits(block_kv: int, blocks_per_cu: int) -> bool:
        return blocks_per_cu * 2 * prefill_stage_bytes(config, arch, block_kv) <= arch.lds_bytes

    # o_acc and q_frag; s_tile counts twice, for P and what it is made with.
    registers = 16 * -(-config.head_dim_vo // 32) + config.head_dim_qk // 4
    registers += 16 if config.position_encoding != "none" else 0
    is_paged = config.kv_source.startswith("page")
    # Addresses of pages, what is on its way to be rotated or widened, bits of a mask: one of these fits, each further
    # one takes registers.
    is_rope = config.position_encoding == "rope_llama"
    registers += 16 * max(0, is_paged + is_rope + (config.dtype_kv in FP8_DTYPES) + (config.mask_mode == "custom") - 1)
    # What a variant keeps is not known; bodies of a few lines take this many.
    registers += 32 if config.variant is not None else 0
    two_waves = [n for n in (64, 32) if fits(n, 2) and registers + n <= MAX_OWN_REGISTERS_OF_TWO_WAVES]
    one_wave = [n for n in (64, 32) if fits(n, 1)]
    tiles = [TileConfig(128, (two_waves or one_wave)[0], 4, waves_per_simd=2 if two_waves else 1)]
    # Fewer rows: then waves share the keys of a tile instead, 32 for each, so that a workgroup still fills a CU.
    for row_waves, num_waves in ((2, 4), (2, 2), (1, 4), (1, 2)):
        block_kv = WAVE_ROWS * num_waves // row_waves
        # Two waves that load 64 wide rows from pages or to rotate them have no registers left.
        if ((is_paged and config.head_dim_qk > 240) or (is_rope and config.head_dim_qk > 208)) and (
            row_waves,
            num_waves,
        ) == (1, 2):
            continue
        if fits(block_kv, 1) and tiles[-1].block_q != WAVE_ROWS * row_waves:
            tiles.append(TileConfig(WAVE_ROWS * row_waves, block_kv, num_waves, waves_per_simd=1))
    return tuple(reversed(tiles))


def _decode_tiles(config: AttentionConfig) -> tuple[TileConfig, ...]:
    # Registers that a wave keeps alive: a tile of K, one of V, and the output. Found by compiling all of them: within
    # these bounds, nothing is spilled.
    head_dim = max(config.head_dim_qk, config.head_dim_vo)
    waves_per_simd = 4 if head_dim <= 128 else 2
    if config.position_encoding == "rope_llama":
        waves_per_simd = 2 if head_dim <= 160 else 1
    elif waves_per_simd == 4 and config.kv_source in ("page_size_1", "page_size_any"):
        # An address for each key: beside a wide head's, or what makes elements of fp8, it is too much for four waves.
        is_wide = head_dim > 96 and (config.kv_source == "page_size_any" or config.position_encoding == "alibi")
        if is_wide or config.dtype_kv != config.dtype_compute:
            waves_per_simd = 3
    if config.variant is not None:
        waves_per_simd = min(waves_per_simd, 3)
    one_row_tile = TileConfig(16, 64, 4, waves_per_simd)
    # Every further row tile has an output of its own; K and V are read once for all of them.
    rows = 64 if head_dim <= 128 else 32
    wide = TileConfig(rows, 64, 4, 2 if head_dim <= 80 else 1)
    return (wide,) if config.group_size > 16 else (one_row_tile, wide)


def _attention_tiles(config: KernelConfig, arch: Arch) -> tuple[TileConfig, ...]:
    assert isinstance(config, AttentionConfig)
    return _decode_tiles(config) if config.phase == "decode" else _prefill_tiles(config, arch)


def _merge_tiles(config: KernelConfig, arch: Arch) -> tuple[TileConfig, ...]:
    # A wave to a row and head.
    return (TileConfig(1, 0, 4, waves_per_simd=8),)


def _element_tiles(config: KernelConfig, arch: Arch) -> tuple[TileConfig, ...]:
    # A thread to a few elements.
    return (TileConfig(1, 0, 4, waves_per_simd=8),)


# One entry per family of kernels; a family with a module of its own (families/) adds itself.
CANDIDATES: dict[str, Callable[[KernelConfig, Arch], tuple[TileConfig, ...]]] = {
    "attention": _attention_tiles,
    "merge_states": _merge_tiles,
    "merge_variant": _merge_tiles,
    "append_paged_kv": _element_tiles,
}


def candidates(config: KernelConfig, arch: Arch) -> tuple[TileConfig, ...]:
    """Return the tiles that ``config`` is compiled with on ``arch``, smallest first: at most three.

    Prefill has tiles of 32 to 128 rows, decode of 16 and more: up to 16 rows belong to decode. Prefill with so few is
    bound by memory, so that empty rows of its smallest tile cost little, and 256 rows were modelled slower than twice
    128; docs/timing_model.md has the numbers.

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


def smallest_holding(tiles: tuple[TileConfig, ...], num_rows: int) -> TileConfig:
    """Return the smallest of ``tiles`` that holds ``num_rows`` rows, or else the largest, which reads K least often."""
    return next((tile for tile in tiles if num_rows <= tile.block_q), tiles[-1])


def units_of_a_part(arch: Arch, tile: TileConfig, num_rows: int, num_kv_heads: int) -> float:
    """Return how many parts of requests give each compute unit of ``arch`` one workgroup."""
    return arch.num_cus / (num_kv_heads * -(-num_rows // tile.block_q))


def concurrent_parts(arch: Arch, tile: TileConfig, num_rows: int, num_kv_heads: int) -> int:
    """Return how many parts of requests ``arch`` attends at the same time: its workgroups over those of one part."""
    blocks_per_cu = 4 * tile.waves_per_simd // tile.num_waves
    return max(1, arch.num_cus * blocks_per_cu // (num_kv_heads * -(-num_rows // tile.block_q)))
