"""The options of single_prefill_with_kv_cache on both emulated GPUs against attention computed in float64."""

import math

import numpy as np
import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator
from flashinfer_jit.attention_options import POSITION_ENCODINGS
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.masks import pack_bits
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance, attention_reference, rotate_llama
from flashinfer_jit.validation import DTYPE_NAMES

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
E4M3, E4M3_FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz
E5M2, E5M2_FNUZ = torch.float8_e5m2, torch.float8_e5m2fnuz
# Rotated queries and keys are rounded to the operand type: eight bits of bfloat16's mantissa show in the logits.
ROPE_LSE_TOLERANCE = {F16: LSE_TOLERANCE, BF16: Tolerance(6e-3, 0.0)}

# dtype of q, of k and v, of o (None: of q), head dims, heads, layout, lengths, options. Options meet both dtypes of
# q, both layouts, and lengths off every tile boundary.
CASES = (
    (F16, None, None, (64, 64), (6, 2), "NHD", (33, 97), {"window_left": 20}),
    (BF16, None, None, (128, 128), (4, 4), "HND", (65, 130), {"window_left": 64, "causal": True}),
    (BF16, None, F16, (64, 64), (8, 1), "HND", (5, 200), {"logits_soft_cap": 3.0}),
    (F16, None, torch.float32, (128, 128), (5, 1), "NHD", (17, 64), {"logits_soft_cap": 30.0, "causal": True}),
    (F16, None, None, (80, 80), (3, 3), "HND", (40, 61), {"pos_encoding_mode": "ROPE_LLAMA", "causal": True}),
    (
        *(BF16, None, None, (128, 128), (6, 3), "NHD", (31, 129)),
        {"pos_encoding_mode": "ROPE_LLAMA", "rope_scale": 2.0, "rope_theta": 5e5},
    ),
    (BF16, None, None, (64, 64), (12, 4), "NHD", (50, 77), {"pos_encoding_mode": "ALIBI", "causal": True}),
    (F16, None, BF16, (192, 128), (2, 1), "HND", (33, 65), {"pos_encoding_mode": "ALIBI", "window_left": 9}),
    (F16, E4M3, None, (128, 128), (8, 2), "NHD", (34, 99), {"causal": True, "scale_k": 0.5, "scale_v": 3.0}),
    (BF16, E4M3_FNUZ, None, (64, 64), (4, 2), "HND", (19, 70), {"k_scale": 1.5, "v_scale": torch.tensor(0.25)}),
    (BF16, E5M2, torch.float32, (64, 64), (4, 1), "NHD", (8, 40), {"scale_q": torch.tensor([0.5])}),
    (F16, E5M2_FNUZ, None, (128, 128), (2, 2), "HND", (70, 70), {"causal": True, "sm_scale": 0.2}),
)


def kernel_keys(arch):
    """Return the kernels that this file needs most, for the compile pass."""
    for dtype, dtype_kv, dtype_o, head_dims, heads, _, _, options in CASES:
        config = AttentionConfig(
            phase="prefill",
            dtype_q=DTYPE_NAMES[dtype],
            dtype_kv=DTYPE_NAMES[dtype_kv or dtype],
            dtype_o=DTYPE_NAMES[dtype_o or dtype],
            head_dim_qk=head_dims[0],
            head_dim_vo=head_dims[1],
            group_size=heads[0] // heads[1],
            mask_mode="causal" if options.get("causal") else "none",
            position_encoding=POSITION_ENCODINGS[options.get("pos_encoding_mode", "NONE")],
            has_window="window_left" in options,
            has_soft_cap="logits_soft_cap" in options,
        )
        yield KernelKey(config, tiling.candidates(config, arch)[0], arch)


def make(dtype, dtype_kv, head_dims, heads, layout, lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(tokens, num_heads, head_dim):
        return torch.randn(tokens, num_heads, head_dim, generator=generator)

    q = normal(lengths[0], heads[0], head_dims[0]).to(dtype)
    k, v = (normal(lengths[1], heads[1], dim).to(dtype_kv or dtype) for dim in head_dims)
    return (q, k, v) if layout == "NHD" else (q, k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous())


def check(result, reference, dtype, lse_tolerance=LSE_TOLERANCE):
    o, lse = result
    assert TOLERANCES[dtype].worst(o, reference[0]) <= 1
    assert lse_tolerance.worst(lse, reference[1]) <= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[-1]))
def test_options(case):
    dtype, dtype_kv, dtype_o, head_dims, heads, layout, lengths, options = case
    q, k, v = make(dtype, dtype_kv, head_dims, heads, layout, lengths)
    result = flashinfer_jit.single_prefill_with_kv_cache(
        q, k, v, kv_layout=layout, o_dtype=dtype_o, return_lse=True, **options
    )
    assert result[0].dtype == (dtype_o or dtype)
    scales = {name: float(options.get(name, 1.0)) for name in ("scale_q", "scale_k", "scale_v", "k_scale", "v_scale")}
    asked = {name: value for name, value in options.items() if name not in scales and name != "sm_scale"}
    sm_scale = options.get("sm_scale", 1 / math.sqrt(head_dims[0]))
    sm_scale *= scales["scale_q"] * scales["scale_k"] * scales["k_scale"]
    reference_o, reference_lse = attention_reference(q, k, v, kv_layout=layout, sm_scale=sm_scale, **asked)
    rope = options.get("pos_encoding_mode") == "ROPE_LLAMA"
    reference = reference_o * scales["scale_v"] * scales["v_scale"], reference_lse
    # The output is rounded to its own dtype, P to that of the inputs.
    rounded_to = BF16 if BF16 in (dtype, dtype_o) else F16
    check(result, reference, rounded_to, ROPE_LSE_TOLERANCE[dtype] if rope else LSE_TOLERANCE)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_rotated_operands_are_rounded_once(dtype):
    """Angles, sines and products are of float32 or better: what is left is the rounding to the operand type."""
    q, k, v = make(dtype, None, (128, 128), (6, 3), "NHD", (31, 129))
    options = {"rope_scale": 2.0, "rope_theta": 5e5}
    o, lse = flashinfer_jit.single_prefill_with_kv_cache(
        q, k, v, pos_encoding_mode="ROPE_LLAMA", return_lse=True, **options
    )
    exact = [rotate_llama(x.double(), torch.arange(129 - len(x), 129), *options.values()) for x in (q, k)]
    # Attention of operands that are rounded like that: no other error than that of kernels without a rotation, except
    # where the last bit of an operand differs, because its sine does.
    check((o, lse), attention_reference(*(x.to(dtype) for x in exact), v), dtype)
    # Against exact operands: each product is off by 2 u of the norms' product, u half a unit of the operand type.
    u = torch.finfo(dtype).eps / 2
    norms = exact[0].norm(dim=-1) * exact[1].norm(dim=-1).max()
    bound = (2 * u + u * u) * norms / math.sqrt(128) * math.log2(math.e) + LSE_TOLERANCE.absolute
    assert bool(((lse - attention_reference(*exact, v)[1]).abs() <= bound).all())


# Few queries on many keys: these are split, and merged.
@pytest.mark.parametrize("lengths", [(34, 99), (3, 2500)])
def test_scales_per_head(lengths):
    q, k, v = make(F16, E4M3, (128, 128), (8, 2), "NHD", lengths)
    # One of them strided, one of another dtype.
    scale_q, scale_k = torch.linspace(0.5, 2, 16)[::2], torch.tensor([0.25, 1.5])
    scale_v = torch.tensor([3.0, 0.125], dtype=torch.float64)
    options = {"scale_q": scale_q, "k_scale": scale_k, "scale_v": scale_v, "causal": True}
    o, lse = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, return_lse=True, **options)
    scaled = (tensor.float() * scale[:, None] for tensor, scale in ((q, scale_q), (k, scale_k)))
    o_reference, lse_reference = attention_reference(*scaled, v, causal=True)
    per_query_head = scale_v.repeat_interleave(4)[:, None]
    check((o.double() / per_query_head, lse), (o_reference, lse_reference), F16)
    # One for all heads, read by the kernel too.
    scales = {"scale_q": torch.tensor([0.5]), "scale_k": torch.tensor(3.0), "scale_v": torch.full((1, 1), 0.25)}
    result = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=True, return_lse=True, **scales)
    o_reference, lse_reference = attention_reference(q, k, v, causal=True, sm_scale=1.5 / math.sqrt(128))
    check((result[0] * 4, result[1]), (o_reference, lse_reference), F16)


@pytest.mark.parametrize(("qo_len", "kv_len"), [(1, 1), (3, 5), (33, 97), (64, 64)])
def test_custom_masks(qo_len, kv_len):
    q, k, v = make(F16, None, (64, 64), (4, 2), "NHD", (qo_len, kv_len), seed=qo_len)
    mask = torch.rand(qo_len, kv_len, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[qo_len // 2] = False
    reference = attention_reference(q, k, v, custom_mask=mask)
    # A custom mask replaces the causal one; the packed form wins over the other.
    check(
        flashinfer_jit.single_prefill_with_kv_cache_return_lse(q, k, v, custom_mask=mask, causal=True), reference, F16
    )
    packed = pack_bits(mask)[: -(-qo_len * kv_len // 8)]
    result = flashinfer_jit.single_prefill_with_kv_cache_return_lse(
        q, k, v, custom_mask=torch.ones_like(mask), packed_custom_mask=packed
    )
    check(result, reference, F16)


@pytest.mark.parametrize(("causal", "window_left"), [(False, -1), (True, -1), (True, 3000)])
def test_few_queries_on_many_keys_are_split(causal, window_left):
    q, k, v = make(F16, None, (64, 64), (4, 2), "NHD", (3, 2500))
    options = {"causal": causal, "window_left": window_left}
    result = flashinfer_jit.single_prefill_with_kv_cache_return_lse(q, k, v, **options)
    assert "merge_states" in emulator.last_report().kernel
    check(result, attention_reference(q, k, v, **options), F16)


def test_a_window_is_all_that_is_read():
    q, k, v = make(F16, None, (64, 64), (4, 2), "NHD", (3, 2500))
    result = flashinfer_jit.single_prefill_with_kv_cache_return_lse(q, k, v, window_left=100)
    check(result, attention_reference(q, k, v, window_left=100), F16)
    # Without a causal mask every key from the window's first on is seen; with it, the window alone.
    flashinfer_jit.single_prefill_with_kv_cache(q, k, v, window_left=100, causal=True)
    read = {buffer.name: buffer.read for buffer in emulator.last_report().buffers}
    assert read["k"] <= (100 + 3 + 2 * 128) * k.stride(0) * k.element_size()


@pytest.mark.parametrize("window_left", [2**31 - 1, 2**32 + 3, np.int64(40)])
def test_large_windows_hide_nothing(window_left):
    """Models say no window by large numbers, and queries before the first key have positions below 0."""
    q, k, v = make(F16, None, (64, 64), (2, 1), "NHD", (40, 30))
    expected = flashinfer_jit.single_prefill_with_kv_cache(q, k, v, window_left=1000)
    assert torch.equal(flashinfer_jit.single_prefill_with_kv_cache(q, k, v, window_left=window_left), expected)
    of_one = flashinfer_jit.single_decode_with_kv_cache(q[0], k, v, window_left=window_left)
    assert torch.equal(of_one, flashinfer_jit.single_decode_with_kv_cache(q[0], k, v, window_left=1000))
    wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(torch.empty(1 << 20, dtype=torch.uint8))
    starts = [torch.tensor([0, n], dtype=torch.int32) for n in (40, 30)]
    wrapper.plan(*starts, 2, 1, 64, window_left=window_left)
    assert torch.equal(wrapper.run(q, k, v, window_left=window_left), expected)


def test_pack_bits():
    mask = torch.tensor([[True, False, False], [False, True, True], [True, True, True]])
    assert pack_bits(mask)[:2].tolist() == [0b11110001, 0b1]
