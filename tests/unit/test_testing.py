"""The reference that everything else is compared with, against PyTorch's own attention; tolerances; tables."""

import math

import pytest
import torch

from flashinfer_jit.tables import format_table
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("causal", [False, True])
def test_reference_agrees_with_pytorch(layout, causal):
    torch.manual_seed(0)
    q = torch.randn(7, 6, 16, dtype=torch.float64)
    k, v = torch.randn(2, 11, 2, 16, dtype=torch.float64).unbind()
    mask = torch.ones(7, 11, dtype=torch.bool).tril(11 - 7) if causal else None
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask, scale=0.3, enable_gqa=True
    ).transpose(0, 1)
    if layout == "HND":
        k, v = k.transpose(0, 1), v.transpose(0, 1)
    o, lse = attention_reference(q, k, v, causal=causal, kv_layout=layout, sm_scale=0.3)
    assert torch.allclose(o, expected, atol=1e-12)
    # The first query of the first head, by hand.
    keys = (k if layout == "NHD" else k.transpose(0, 1))[: 5 if causal else 11, 0]
    by_hand = math.log2(sum(math.exp(0.3 * float(q[0, 0] @ key)) for key in keys))
    assert lse[0, 0] == pytest.approx(by_hand)


def test_reference_of_rows_without_keys():
    q, k = torch.randn(2, 1, 8), torch.randn(0, 1, 8)
    o, lse = attention_reference(q, k, k)
    assert torch.equal(o, torch.zeros(2, 1, 8, dtype=torch.float64))
    assert torch.equal(lse, torch.full((2, 1), -math.inf, dtype=torch.float64))


def test_tolerance_counts_errors_in_units_of_what_is_allowed():
    tolerance = TOLERANCES[torch.float16]
    reference = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert tolerance.worst(reference, reference) == 0
    assert tolerance.worst(reference + torch.tensor([0.0, 0.004]), reference) == pytest.approx(1.0, rel=1e-6)
    assert tolerance.worst(reference + 0.006, reference) == pytest.approx(2.0, rel=1e-6)


def test_tolerance_lets_no_nan_and_no_infinity_through():
    infinity = torch.tensor([-math.inf], dtype=torch.float64)
    assert LSE_TOLERANCE.worst(infinity, infinity) == 0
    assert LSE_TOLERANCE.worst(torch.tensor([0.0]), infinity) == math.inf
    assert LSE_TOLERANCE.worst(infinity, torch.tensor([0.0], dtype=torch.float64)) == math.inf
    assert LSE_TOLERANCE.worst(torch.tensor([math.nan]), torch.tensor([0.0], dtype=torch.float64)) == math.inf
    assert LSE_TOLERANCE.worst(torch.tensor([]), torch.tensor([], dtype=torch.float64)) == 0


def test_table_aligns_numbers_to_the_right():
    assert format_table(["name", "ms"], [("a", "9.5"), ("long", "10.25")]).splitlines() == [
        "name     ms",
        "----  -----",
        "a       9.5",
        "long  10.25",
    ]
