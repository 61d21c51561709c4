import pytest

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.tiling import MAX_CANDIDATES, TileConfig, Work, candidates, choose, tile_from_dict

SMALL, MIDDLE, LARGE = (TileConfig(rows, 64, waves, 2) for rows, waves in ((16, 1), (128, 4), (256, 8)))
TILES = (SMALL, MIDDLE, LARGE)


@pytest.mark.parametrize(
    "rows, problems, tile",
    [
        (1, 8, SMALL),  # a short query fits the smallest tile
        (16, 8, SMALL),
        (64, 1, SMALL),  # four workgroups side by side beat one
        (128 * 304, 1, MIDDLE),  # one full round
        (256 * 304, 1, LARGE),  # one round instead of two
        (100_000, 64, LARGE),
    ],
)
def test_choice(rows: int, problems: int, tile: TileConfig) -> None:
    assert choose(TILES, Work(rows, problems, 4096), num_cus=304) == tile


def test_one_candidate_is_always_chosen() -> None:
    assert choose((LARGE,), Work(1, 1, 1), 304) == LARGE


def test_candidates_fit_the_gpu(arch: str) -> None:
    for head_dim in (64, 128):
        config = AttentionConfig("prefill", "float16", "float16", "float16", head_dim, head_dim)
        tiles = candidates(config, ARCHS[arch])
        assert 0 < len(tiles) <= MAX_CANDIDATES
        assert [tile.block_q for tile in tiles] == sorted(tile.block_q for tile in tiles)
        for tile in tiles:
            assert tile.num_threads <= 1024
            assert tile_from_dict(tile.to_dict()) == tile


def test_an_unknown_tile_field_is_refused() -> None:
    with pytest.raises(UnsupportedConfigError, match="block_m"):
        tile_from_dict({"block_m": 64})
