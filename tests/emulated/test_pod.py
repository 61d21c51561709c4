"""Prefills and decodes by one call, on both emulated GPUs, against the calls that they stand for."""

import pytest
import torch

import flashinfer_jit
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference
from support.paged import make_batch

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16 = torch.float16
SIZES = (4, 2, 64, 16)


@pytest.fixture
def workspace():
    return torch.empty(4 << 20, dtype=torch.uint8)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(F16)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def check(result, reference):
    assert TOLERANCES[F16].worst(result[0], reference[0]) <= 1
    assert LSE_TOLERANCE.worst(result[1], reference[1]) <= 1


def check_requests(o, lse, q, lens, batch, **options):
    first = 0
    for i, qo_len in enumerate(lens):
        part = slice(first, first + qo_len)
        check((o[part], lse[part]), attention_reference(q[part], batch.keys[i], batch.values[i], **options))
        first += qo_len


def test_one_prefill_with_decodes(workspace):
    batch = make_batch((40, 70), 16, 2, 64, F16)
    wrapper = flashinfer_jit.PODWithPagedKVCacheWrapper(workspace)
    wrapper.plan(*batch.table, *SIZES, sm_scale=0.1, data_type=F16)
    q_p, q_d = random(20, 4, 64), random(2, 4, 64, seed=1)
    k_p, v_p = random(33, 2, 64, seed=2), random(33, 2, 64, seed=3)
    options = {"return_lse_p": True, "return_lse_d": True, "sm_scale_d": 0.1, "kv_layout_d": "NHD"}
    prefill, decode = wrapper.run(q_p, k_p, v_p, q_d, batch.cache, causal_p=True, **options)
    check(prefill, attention_reference(q_p, k_p, v_p, causal=True))
    check_requests(*decode, q_d, (1, 1), batch, sm_scale=0.1)
    o_p, o_d = wrapper.run(q_p, k_p, v_p, q_d, batch.cache, causal_p=True)
    assert torch.equal(o_p, prefill[0])
    assert torch.equal(o_d, decode[0])
    with pytest.raises(ValueError, match=r"sm_scale_d=0.2 is not the planned one, 0.1"):
        wrapper.run(q_p, k_p, v_p, q_d, batch.cache, sm_scale_d=0.2)
    with pytest.raises(UnsupportedConfigError, match="custom_mask_d"):
        wrapper.run(q_p, k_p, v_p, q_d, batch.cache, custom_mask_d=torch.ones(1))


def test_prefills_with_decodes(workspace):
    prefills, decodes = make_batch((40, 70), 16, 2, 64, F16), make_batch((33, 5, 80), 16, 2, 64, F16, seed=1)
    wrapper = flashinfer_jit.BatchPODWithPagedKVCacheWrapper(workspace)
    q_p, q_d = random(25, 4, 64), random(3, 4, 64, seed=1)
    with pytest.raises(RuntimeError, match="call plan"):
        wrapper.run(q_p, prefills.cache, q_d, decodes.cache)
    tables = (int32(0, 20, 25), *prefills.table, int32(0, 1, 2, 3), *decodes.table)
    wrapper.plan(*tables, *SIZES)
    masks = [torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.3 for shape in ((20, 40), (5, 70))]
    flat = torch.cat([mask.flatten() for mask in masks])
    # Masks change from call to call, and back.
    for options in ({"causal_p": True}, {}, {"custom_mask_p": flat}, {"causal_p": True}):
        (o_p, o_d), (lse_p, lse_d) = wrapper.run(q_p, prefills.cache, q_d, decodes.cache, return_lse=True, **options)
        check_requests(o_d, lse_d, q_d, (1, 1, 1), decodes)
        for i, (first, end) in enumerate(((0, 20), (20, 25))):
            mask = masks[i] if "custom_mask_p" in options else None
            reference = attention_reference(
                q_p[first:end],
                prefills.keys[i],
                prefills.values[i],
                causal=options.get("causal_p", False),
                custom_mask=mask,
            )
            check((o_p[first:end], lse_p[first:end]), reference)
    with pytest.raises(ValueError, match=r"equally many query tokens, got requests of \[1, 2\]"):
        wrapper.plan(*tables[:4], int32(0, 1, 2, 4), *tables[5:], *SIZES)
