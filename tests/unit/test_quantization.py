"""Booleans as bits, against NumPy's packing."""

import numpy as np
import pytest
import torch

from flashinfer_jit import packbits, segment_packbits


@pytest.mark.parametrize("bitorder", ["big", "little"])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
def test_packbits(size, bitorder):
    x = torch.rand(size, generator=torch.Generator().manual_seed(size)) > 0.5
    for values in (x, x.to(torch.uint8) * 3):
        assert packbits(values, bitorder).numpy().tolist() == np.packbits(x.numpy(), bitorder=bitorder).tolist()


@pytest.mark.parametrize("bitorder", ["big", "little"])
def test_segments_begin_with_bytes_of_their_own(bitorder):
    x = torch.rand(40, generator=torch.Generator().manual_seed(0)) > 0.5
    indptr = torch.tensor([0, 3, 3, 19, 40])
    packed, new_indptr = segment_packbits(x, indptr, bitorder)
    parts = [np.packbits(x[a:b].numpy(), bitorder=bitorder) for a, b in ((0, 3), (3, 3), (3, 19), (19, 40))]
    assert packed.tolist() == np.concatenate(parts).tolist()
    assert new_indptr.tolist() == [0, 1, 1, 3, 6]
    assert new_indptr.dtype == torch.int32


def test_bad_input():
    x = torch.ones(8, dtype=torch.bool)
    with pytest.raises(ValueError, match="bitorder='middle' is unknown"):
        packbits(x, "middle")
    with pytest.raises(ValueError, match=r"Invalid dtype of x: .* got torch.float32"):
        packbits(x.float())
    with pytest.raises(ValueError, match="Invalid shape of x"):
        packbits(x[None])
    for indptr in ([1, 8], [0, 9], [0, 5, 3, 8]):
        with pytest.raises(ValueError, match="indptr must rise from 0 to the 8 elements of x"):
            segment_packbits(x, torch.tensor(indptr))
