"""Queries of all four fp8 dtypes, on both emulated GPUs, against attention of the same values computed in float64."""

import math

import pytest
import torch

import flashinfer_jit
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.config import AttentionConfig, default_dtype_o
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference
from flashinfer_jit.validation import DTYPE_NAMES
from support.paged import make_batch

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
E4M3, E4M3_FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz
E5M2, E5M2_FNUZ = torch.float8_e5m2, torch.float8_e5m2fnuz
# Of q and of k and v: every flavour of q, with keys of either 16-bit dtype, of its own, and of another flavour.
PAIRS = ((E4M3, F16), (E4M3_FNUZ, E4M3_FNUZ), (E5M2, BF16), (E5M2_FNUZ, E4M3))
ROPE = {"pos_encoding_mode": "ROPE_LLAMA"}


def config_of(phase, dtypes, dtype_o=None, **axes):
    dtype_q, dtype_kv = (DTYPE_NAMES[dtype] for dtype in dtypes)
    return AttentionConfig(
        phase=phase,
        dtype_q=dtype_q,
        dtype_kv=dtype_kv,
        dtype_o=DTYPE_NAMES[dtype_o] if dtype_o else default_dtype_o(dtype_q, dtype_kv),
        **{"head_dim_qk": 64, "head_dim_vo": 64, "mask_mode": "causal" if phase == "decode" else "none", **axes},
    )


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    configs = [config_of(phase, pair, group_size=2) for pair in PAIRS for phase in ("prefill", "decode")]
    rope = {"position_encoding": "rope_llama", "mask_mode": "causal"}
    configs += [
        config_of("prefill", (E5M2, E5M2), group_size=2, kv_source="ragged", **rope),
        config_of("prefill", (E4M3, BF16), F32, group_size=4, kv_source="page_size_multiple", mask_mode="causal"),
        config_of("decode", (E4M3, E4M3), BF16, group_size=4, kv_source="page_size_any"),
        config_of("decode", (E5M2, F16), group_size=2, position_encoding="rope_llama"),
    ]
    for config in configs:
        yield KernelKey(config, tiling.candidates(config, arch)[0], arch)


def make(pair, qo_len, kv_len, num_qo_heads=4, num_kv_heads=2, head_dim=64):
    generator = torch.Generator().manual_seed(qo_len)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    q = normal(qo_len, num_qo_heads, head_dim).to(pair[0])
    k, v = (normal(kv_len, num_kv_heads, head_dim).to(pair[1]) for _ in range(2))
    return q, k, v


def check(result, reference, lse_tolerance=LSE_TOLERANCE):
    assert TOLERANCES[result[0].dtype].worst(result[0], reference[0]) <= 1
    assert lse_tolerance.worst(result[1], reference[1]) <= 1


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(DTYPE_NAMES[dtype] for dtype in pair))
def test_single_requests(pair):
    q, k, v = make(pair, 19, 70)
    expected_dtype = pair[1] if pair[1] in (F16, BF16) else BF16
    result = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, scale_q=0.5, scale_k=1.5, return_lse=True)
    assert result[0].dtype == expected_dtype
    check(result, attention_reference(q, k, v, sm_scale=0.75 / 8))
    o, lse = flashinfer_jit.single_decode_with_kv_cache(q[18], k, v, q_scale=3.0, v_scale=0.25, return_lse=True)
    assert o.dtype == expected_dtype
    reference_o, reference_lse = attention_reference(q[18:], k, v, sm_scale=3.0 / 8)
    check((o, lse), (0.25 * reference_o[0], reference_lse[0]))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: DTYPE_NAMES[pair[0]])
def test_every_code_is_its_value(pair):
    """One key of ones: the log-sum-exp is the only logit, the value of the one element that is not 0."""
    codes = torch.arange(256, dtype=torch.uint8).view(pair[0])
    q = torch.zeros(128, 2, 64, dtype=torch.uint8)
    q.view(256, 64)[torch.arange(256), torch.arange(256) % 64] = codes.view(torch.uint8)
    q = q.view(pair[0])
    k = v = torch.ones(1, 1, 64).to(pair[1])
    values = codes.double().view(128, 2)
    _, lse = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, sm_scale=1 / 64, return_lse=True)
    decoded = [flashinfer_jit.single_decode_with_kv_cache(row, k, v, sm_scale=1 / 64, return_lse=True)[1] for row in q]
    finite = values.isfinite()
    for result in (lse, torch.stack(decoded)):
        torch.testing.assert_close(result.double()[finite], values[finite] / 64 * math.log2(math.e), rtol=1e-6, atol=0)
        assert not result[~finite].isfinite().any()


def test_rotated_queries():
    """Where all is e5m2, rotation is in bfloat16, which large values do not leave."""
    workspace = torch.empty(1 << 20, dtype=torch.uint8)
    wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(workspace)
    indptr = torch.tensor([0, 17, 50], dtype=torch.int32)
    options = {"causal": True, **ROPE, "q_data_type": E5M2, "o_data_type": "float16"}
    wrapper.plan(indptr, indptr, 4, 2, 64, **options, sm_scale=2.0**-20)
    q, k, v = make((E5M2, E5M2), 50, 50)
    q = torch.where(q.float() > 1.5, torch.tensor(57344.0), q.float()).to(E5M2)
    o, lse = wrapper.run(q, k, v, return_lse=True)
    for first, end in ((0, 17), (17, 50)):
        part = slice(first, end)
        reference = attention_reference(q[part], k[part], v[part], causal=True, **ROPE, sm_scale=2.0**-20)
        assert TOLERANCES[BF16].worst(o[part], reference[0]) <= 1
        assert float((lse[part] - reference[1]).abs().max()) < 1e-2
    q, k, v = make((E5M2, F16), 1, 40)
    result = flashinfer_jit.single_decode_with_kv_cache(q[0], k, v, **ROPE, return_lse=True)
    reference = attention_reference(q, k, v, **ROPE)
    check(result, (reference[0][0], reference[1][0]))


def test_batches_with_pages():
    workspace = torch.empty(1 << 20, dtype=torch.uint8)
    wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace, "HND")
    batch = make_batch((20, 65), 16, 2, 64, BF16, "HND")
    qo_indptr = torch.tensor([0, 20, 25], dtype=torch.int32)
    options = {"causal": True, "q_data_type": E4M3, "kv_data_type": BF16, "o_data_type": F32}
    wrapper.plan(qo_indptr, *batch.table, 8, 2, 64, 16, **options)
    q = make((E4M3, BF16), 25, 1, 8)[0]
    o, lse = wrapper.run(q, batch.cache, q_scale=torch.tensor(0.5), v_scale=2.0, return_lse=True)
    assert o.dtype == F32
    # FlashInfer's form for fp8: the scales of q, k and v by position.
    assert torch.equal(wrapper.run(q, batch.cache, torch.tensor([0.5]), torch.tensor([1.0]), 2.0), o)
    per_head = torch.linspace(0.3, 0.9, 8), torch.tensor([0.5, 1.5]), torch.tensor([1.0, 3.0])
    scaled = (q.float() * per_head[0][:, None]).double(), per_head[1][:, None], per_head[2][:, None]
    result = wrapper.run(q, batch.cache, *per_head, return_lse=True)
    for i, (first, end) in enumerate(((0, 20), (20, 25))):
        k, v = batch.keys[i].double() * scaled[1], batch.values[i].double() * scaled[2]
        reference_o, reference_lse = attention_reference(scaled[0][first:end], k, v, causal=True)
        assert TOLERANCES[BF16].worst(result[0][first:end] / 3, reference_o / 3) <= 1
        assert LSE_TOLERANCE.worst(result[1][first:end], reference_lse) <= 1
    with pytest.raises(ValueError, match="by position, and some of them by name"):
        wrapper.run(q, batch.cache, 0.5, 1.0, 2.0, q_scale=0.5)
    with pytest.raises(ValueError, match="2 extra positional arguments"):
        wrapper.run(q, batch.cache, 0.5, 1.0)
    for i, (first, end) in enumerate(((0, 20), (20, 25))):
        k, v = batch.keys[i], batch.values[i]
        reference_o, reference_lse = attention_reference(q[first:end], k, v, causal=True, sm_scale=0.5 / 8)
        assert TOLERANCES[BF16].worst(o[first:end], 2 * reference_o) <= 1
        assert LSE_TOLERANCE.worst(lse[first:end], reference_lse) <= 1

    decode = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(workspace)
    batch = make_batch((1, 40, 7), 5, 1, 64, E4M3)
    decode.plan(*batch.table, 4, 1, 64, 5, data_type=E4M3, q_data_type=E4M3, o_data_type=BF16)
    q = make((E4M3, E4M3), 3, 1, 4)[0]
    result = decode.run(q, batch.cache, q_scale=2.0, k_scale=0.5, return_lse=True)
    assert result[0].dtype == BF16
    for i, (k, v) in enumerate(zip(batch.keys, batch.values, strict=True)):
        reference_o, reference_lse = attention_reference(q[i : i + 1], k, v)
        assert TOLERANCES[BF16].worst(result[0][i : i + 1], reference_o) <= 1
        assert LSE_TOLERANCE.worst(result[1][i : i + 1], reference_lse) <= 1


def test_what_does_not_go_together_is_refused():
    q, k, v = make((F16, BF16), 3, 5)
    with pytest.raises(
        UnsupportedConfigError, match=r"dtype of k: expected torch.float16 .* with torch.float16 queries"
    ):
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v)
    q, k, v = make((E4M3, E4M3), 3, 5)
    with pytest.raises(UnsupportedConfigError, match="o_dtype"):
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v, o_dtype=E4M3)
    wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(torch.empty(1 << 20, dtype=torch.uint8))
    indptr = torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(UnsupportedConfigError, match="kv_data_type"):
        wrapper.plan(indptr, indptr, 4, 2, 64, q_data_type=BF16, kv_data_type=F16)
