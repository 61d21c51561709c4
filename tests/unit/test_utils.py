"""Names of FlashInfer's utils that programs choose their calls by."""

import pytest
import torch

from flashinfer_jit import utils
from flashinfer_jit.testing import alibi_slopes


def test_nothing_of_another_maker_is_promised() -> None:
    device = torch.device("cpu")
    assert not utils.is_sm90a_supported(device)
    assert not utils.is_sm100a_supported(device)
    assert not utils.has_flashinfer_jit_cache()
    assert utils.determine_attention_backend(device, 0, False, False, torch.float16, torch.float16) == "fa2"


def test_fp8_dtypes() -> None:
    assert utils.is_float8(torch.zeros(2).to(torch.float8_e5m2fnuz))
    assert not utils.is_float8(torch.zeros(2, dtype=torch.uint8))


@pytest.mark.parametrize("num_heads", [1, 2, 6, 8, 12, 71])
def test_slopes_of_alibi(num_heads: int) -> None:
    torch.testing.assert_close(utils.get_alibi_slopes(num_heads), alibi_slopes(num_heads).float(), rtol=1e-6, atol=0)
