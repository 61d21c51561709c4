"""Custom attention variants through every public function, on both emulated GPUs, against float64."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import merge
from flashinfer_jit.errors import CompilationError
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.attention import gen_customize_single_decode_module, gen_customize_single_prefill_module
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.prefill import single_prefill_with_kv_cache_with_jit_module
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance
from flashinfer_jit.variants import AttentionVariant, from_flashinfer, variant_from_json
from support import paged
from support.batch_prefill import Batch, indptr
from support.batch_prefill import make_batch as make_prefill_batch
from support.variants import (
    BLOCK_SIZE,
    DUMP,
    EVERYTHING,
    GAIN,
    SLOPE,
    SOFTENED,
    attend,
    attend_softened,
    attend_with_everything,
    struct,
)

# Every test of this file runs on both GPUs.
pytestmark = pytest.mark.usefixtures("on_arch")

F16, BF16 = torch.float16, torch.bfloat16
HEAD_DIM = 64
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "writing-a-variant.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

SIGMOID_WINDOW = """
struct SigmoidWindow : AttentionVariantBase {
  static constexpr bool use_softmax = false;
  float scale;
  template <typename Params>
  __device__ __host__ SigmoidWindow(const Params& params, uint32_t batch_idx, uint8_t* smem_ptr) {
    scale = params.logits_scale * math::log2e;
  }
  REGISTER_LOGITS_TRANSFORM(params, logits, batch_idx, qo_idx, kv_idx, qo_head_idx, kv_head_idx, {
    return math::ptx_rcp(1.f + math::ptx_exp2(-float(logits * scale)));
  });
  REGISTER_LOGITS_MASK(params, batch_idx, qo_idx, kv_idx, qo_head_idx, kv_head_idx, {
    const uint32_t own_key = params.get_kv_len(batch_idx) - params.get_qo_len(batch_idx) + qo_idx;
    return kv_idx <= own_key && own_key - kv_idx < uint32_t(params.mask_window);
  })
};
"""
ALIBI = struct(
    "AlibiDecode",
    """
  REGISTER_LOGITS_TRANSFORM(params, logits, batch_idx, qo_idx, kv_idx, qo_head_idx, kv_head_idx, {
    // Products have no scale yet, and slopes are not to be scaled.
    return logits + params.maybe_alibi_slopes[qo_head_idx] * float(int(kv_idx) - int(kv_len) + 1) / params.sm_scale;
  });
""",
)
MASKED = struct(
    "MaskedDecode",
    """
  REGISTER_LOGITS_MASK(params, batch_idx, qo_idx, kv_idx, qo_head_idx, kv_head_idx, {
    return (mask[kv_idx / 8] >> (kv_idx % 8)) & 1;
  })
  REGISTER_OUTPUT_TRANSFORM(params, output, batch_idx, qo_idx, qo_head_idx, m, d, scale, {
    float d_rcp = (m != -math::inf) ? math::ptx_rcp(d) : 0.f;
    return output * d_rcp;
  })
""",
    more="mask = params.mask;",
    members="uint8_t* mask;",
)
KNOWN_MASK = struct(
    "KnownMask",
    """
  REGISTER_LOGITS_MASK(params, batch_idx, qo_idx, kv_idx, qo_head_idx, kv_head_idx, {
    const uint32_t offset = qo_idx * kv_len + kv_idx;
    return kv_idx % 2 == 0 || !((mask[offset / 8] >> (offset % 8)) & 1);
  })
""",
    scale="0.125f",
    more="mask = params.maybe_custom_mask + params.maybe_mask_indptr[batch_idx];",
    members="uint8_t* mask;",
)
VARIANTS = {
    "sigmoid_window": from_flashinfer(
        "SigmoidWindow", SIGMOID_WINDOW, [], [], ["logits_scale", "mask_window"], ["double"] * 2
    ),
    "alibi": from_flashinfer("AlibiDecode", ALIBI, ["maybe_alibi_slopes"], ["float"], ["sm_scale"], ["double"]),
    "masked": from_flashinfer("MaskedDecode", MASKED, ["mask"], ["uint8_t"], ["sm_scale"], ["double"]),
    "known_mask": from_flashinfer(
        "KnownMask", KNOWN_MASK, ["maybe_custom_mask", "maybe_mask_indptr"], ["uint8_t", "int32_t"]
    ),
    "dump": from_flashinfer("DumpLogits", DUMP, ["output_logits"], ["float"], ["sm_scale"], ["double"]),
}


def jit_args(name, dtype=F16):
    """Return what FlashInfer's wrappers take for a variant."""
    variant = VARIANTS[name]
    c_types = {"float32": "float", "uint8": "uint8_t", "int32": "int32_t"}
    texts = ([n for n, _ in variant.tensors], [c_types[kind] for _, kind in variant.tensors])
    texts += ([n for n, _ in variant.scalars], [kind for _, kind in variant.scalars], variant.name, variant.struct)
    return ["uri", dtype, dtype, dtype, torch.int32, HEAD_DIM, HEAD_DIM, *texts]


def key(arch, variant, phase, group_size, dtype="float16", mask_mode="none", kv_source="contiguous", rows=1):
    if phase == "decode":
        mask_mode = "causal"
    dims = (HEAD_DIM, HEAD_DIM, group_size)
    config = AttentionConfig(phase, dtype, dtype, dtype, *dims, mask_mode, kv_source, variant=variant.to_json())
    return KernelKey(config, tiling.smallest_holding(tiling.candidates(config, arch), rows), arch)


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass; those of the document compile with it."""
    keys = list(attention_keys(arch))
    yield from keys
    for one in keys:
        if not variant_from_json(one.config.variant).has_plain_merge:
            yield merge.partials_key(arch, one.config)


def attention_keys(arch):
    yield key(arch, EVERYTHING, "prefill", 2, "bfloat16", "causal", "page_size_multiple")
    yield key(arch, EVERYTHING, "decode", 3, kv_source="page_size_any", rows=6)
    yield key(arch, SOFTENED, "decode", 4)
    yield key(arch, VARIANTS["sigmoid_window"], "prefill", 2, kv_source="ragged")
    yield key(arch, VARIANTS["alibi"], "decode", 2, kv_source="page_size_1")
    yield key(arch, VARIANTS["masked"], "decode", 4)
    yield key(arch, VARIANTS["known_mask"], "prefill", 2, mask_mode="custom", kv_source="page_size_any")
    yield key(arch, VARIANTS["dump"], "prefill", 2)


@pytest.fixture
def workspace():
    return torch.empty(8 << 20, dtype=torch.uint8)


def random(*shape, dtype=F16, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(o, o_reference, lse=None, lse_reference=None):
    assert TOLERANCES[o.dtype].worst(o, o_reference) <= 1
    if lse is not None:
        assert LSE_TOLERANCE.worst(lse, lse_reference) <= 1


PREFILL = Batch(
    variant=EVERYTHING.to_json(), dtype=BF16, head_dim=HEAD_DIM, group_size=2, page_size=16, mask_mode="causal"
)


def everything_values(num_heads):
    return random(num_heads, dtype=torch.float32, seed=1), random(HEAD_DIM, seed=2)


@pytest.mark.parametrize("split", [{"fixed_split_size": 4}, {"disable_split_kv": True}], ids=str)
def test_every_body_in_prefill_from_pages(workspace, split):
    inputs = make_prefill_batch(PREFILL)
    bias, gate = everything_values(inputs.q.shape[1])
    wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace, variant=EVERYTHING)
    table = [inputs.index[name] for name in ("paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len")]
    heads = (inputs.q.shape[1], PREFILL.num_kv_heads)
    wrapper.plan(indptr(PREFILL.qo_lens), *table, *heads, HEAD_DIM, 16, causal=True, q_data_type=BF16, **split)
    assert wrapper._plan_made.has_merge == ("fixed_split_size" in split)
    o, lse = wrapper.run(
        inputs.q, (inputs.k, inputs.v), bias, gate, SLOPE, BLOCK_SIZE, GAIN, return_lse=True, v_scale=2.0
    )
    expected = [
        attend_with_everything(q, k, 2 * v, bias, gate, i, causal=True)
        for i, (q, k, v) in enumerate(zip(inputs.q.split(PREFILL.qo_lens), inputs.keys, inputs.values, strict=True))
    ]
    check(o, torch.cat([x for x, _ in expected]), lse, torch.cat([x for _, x in expected]))
    resources = kernels.build_kernel(key_of(wrapper)).meta["resources"]
    assert resources["scratch_bytes"] == resources["vgpr_spills"] == resources["sgpr_spills"] == 0
    with pytest.raises(ValueError, match=r"takes 5 extra arguments \(bias \(float32 tensor\), gate .*got 1"):
        wrapper.run(inputs.q, (inputs.k, inputs.v), bias)


def key_of(wrapper):
    return wrapper._cached_module.key


@pytest.mark.parametrize("split", [{"fixed_split_size": 11}, {}], ids=str)
def test_every_body_in_batch_decode(workspace, split):
    batch = paged.make_batch((130, 0, 17, 1), 6, 2, HEAD_DIM, F16)
    q = random(8, 6, HEAD_DIM)
    bias, gate = everything_values(6)
    wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(workspace, variant=EVERYTHING)
    wrapper.plan(*batch.table, 6, 2, HEAD_DIM, 6, q_data_type=F16, q_len_per_req=2, **split)
    assert bool(len(wrapper._plan_info.merge_rows)) == bool(split)
    o, lse = wrapper.run(q, batch.cache, bias, gate, SLOPE, BLOCK_SIZE, GAIN, return_lse=True)
    expected = [
        attend_with_everything(q[2 * i : 2 * i + 2], k, v, bias, gate, i, causal=True)
        for i, (k, v) in enumerate(zip(batch.keys, batch.values, strict=True))
    ]
    check(o, torch.cat([x for x, _ in expected]), lse, torch.cat([x for _, x in expected]))
    resources = kernels.build_kernel(key_of(wrapper)).meta["resources"]
    assert resources["scratch_bytes"] == resources["vgpr_spills"] == resources["sgpr_spills"] == 0
    with pytest.raises(ValueError, match=r"Invalid dtype of gate of variant gated_blocks: expected torch.float16"):
        wrapper.run(q, batch.cache, bias, gate.float(), SLOPE, BLOCK_SIZE, GAIN)


@pytest.mark.parametrize("kv_len", [0, 63, 1500])
def test_split_and_whole_keys_in_single_decode(kv_len):
    q, k, v = random(8, HEAD_DIM), random(kv_len, 2, HEAD_DIM, seed=1), random(kv_len, 2, HEAD_DIM, seed=2)
    bias = random(8 * kv_len, dtype=BF16, seed=3)
    o, lse = flashinfer_jit.single_decode_with_kv_cache(
        q, k, v, return_lse=True, variant=SOFTENED, variant_args=(bias, 3.0)
    )
    o_reference, lse_reference = attend_softened(q[None], k, v, bias.reshape(8, kv_len), 3.0)
    check(o, o_reference[0], lse, lse_reference[0])


@pytest.mark.parametrize("split", [{"fixed_split_size": 64}, {}], ids=str)
def test_weights_without_a_softmax_and_a_mask_of_the_text(workspace, split):
    qo_lens, kv_lens = (70, 5), (200, 90)
    q, k, v = random(75, 4, HEAD_DIM), random(290, 2, HEAD_DIM, seed=1), random(290, 2, HEAD_DIM, seed=2)
    wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(
        workspace, backend="fa2", jit_args=jit_args("sigmoid_window"), variant_owns_mask=True
    )
    wrapper.plan(indptr(qo_lens), indptr(kv_lens), 4, 2, HEAD_DIM, q_data_type=F16, kv_data_type=F16, **split)
    assert wrapper._plan_made.has_merge == bool(split)
    o = wrapper.run(q, k, v, 0.125, 20.0)

    def mask(shift):
        return lambda heads, queries, keys: (keys <= queries + shift) & (queries + shift - keys < 20)

    expected = [
        attend(x, a, b, change=lambda logits, *_: logits.sigmoid(), mask=mask(len(a) - len(x)), use_softmax=False)[0]
        for x, a, b in zip(q.split(qo_lens), k.split(kv_lens), v.split(kv_lens), strict=True)
    ]
    # The weights, rounded to 16 bits, are not divided by their sum, which is about 10 here.
    assert Tolerance(5e-3, 1e-3).worst(o, torch.cat(expected)) <= 1
    with pytest.raises(ValueError, match="return_lse=True is not supported with variant SigmoidWindow"):
        wrapper.run_return_lse(q, k, v, 0.125, 20.0)
    with pytest.raises(ValueError, match="q_scale is not supported with variant SigmoidWindow"):
        wrapper.run(q, k, v, 0.125, 20.0, q_scale=2.0)


def test_slopes_that_the_wrapper_knows(workspace):
    batch = paged.make_batch((900, 3), 1, 2, HEAD_DIM, F16)
    q = random(2, 4, HEAD_DIM)
    wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(workspace, jit_args=jit_args("alibi"), backend="fa2")
    wrapper.plan(*batch.table, 4, 2, HEAD_DIM, 1, q_data_type=F16, kv_data_type=F16)
    assert len(wrapper._plan_info.merge_rows)
    o, lse = wrapper.run(q, batch.cache, 0.25, return_lse=True)
    slopes = torch.tensor([2.0 ** (-2 * head - 2) for head in range(4)], dtype=torch.float64)[:, None, None]
    for i, (k, v) in enumerate(zip(batch.keys, batch.values, strict=True)):

        def change(logits, heads, queries, keys):
            return logits + slopes * (keys - logits.shape[2] + 1)

        o_reference, lse_reference = attend(q[i : i + 1], k, v, scale=0.25, change=change)
        check(o[i], o_reference[0], lse[i], lse_reference[0])
    with pytest.raises(ValueError, match="sm_scale is not supported with variant AlibiDecode"):
        wrapper.plan(*batch.table, 4, 2, HEAD_DIM, 1, q_data_type=F16, sm_scale=0.25)
    with pytest.raises(ValueError, match="dtype_q is bfloat16, and the module of variant AlibiDecode was declared for"):
        wrapper.plan(*batch.table, 4, 2, HEAD_DIM, 1, q_data_type=BF16)


def test_an_output_transform_of_the_text_sees_the_whole_row():
    """1500 keys are split; and a row without keys has no maximum."""
    module = gen_customize_single_decode_module("uri", *jit_args("masked")[1:4], *jit_args("masked")[5:])
    run = flashinfer_jit.decode.single_decode_with_kv_cache_with_jit_module
    q, k, v = random(8, HEAD_DIM), random(1500, 2, HEAD_DIM, seed=1), random(1500, 2, HEAD_DIM, seed=2)
    seen = random(1500, dtype=torch.float32, seed=3) > 0
    mask = flashinfer_jit.packbits(seen, bitorder="little")
    o, lse = run(module.build_and_load(), q, k, v, mask, 0.125, return_lse=True)
    o_reference, lse_reference = attend(q[None], k, v, scale=0.125, mask=lambda *_: seen)
    check(o, o_reference[0], lse, lse_reference[0])
    assert not run(module, q, k, v, torch.zeros_like(mask), 0.125).any()
    with pytest.raises(ValueError, match="dtype_q is bfloat16"):
        run(module, q.bfloat16(), k.bfloat16(), v.bfloat16(), mask, 0.125)
    with pytest.raises(ValueError, match="made for single_decode: expected one made for single_prefill"):
        single_prefill_with_kv_cache_with_jit_module(module, q[None], k, v, mask, 0.125)


def test_masks_that_the_wrapper_knows(workspace):
    batch = dataclasses.replace(PREFILL, dtype=F16, page_size=5, mask_mode="custom", variant=None)
    inputs = make_prefill_batch(batch)
    wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace, jit_args=jit_args("known_mask"))
    table = [inputs.index[name] for name in ("paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len")]
    heads = (inputs.q.shape[1], batch.num_kv_heads)
    mask = torch.cat([x.flatten() for x in inputs.masks])
    wrapper.plan(indptr(batch.qo_lens), *table, *heads, HEAD_DIM, 5, custom_mask=mask)
    o, lse = wrapper.run(inputs.q, (inputs.k, inputs.v), return_lse=True)
    expected = []
    for i, q in enumerate(inputs.q.split(batch.qo_lens)):
        # The plan's mask hides keys, and the text then hides those of them with odd numbers that it leaves.
        def seen(heads, queries, keys, mask=inputs.masks[i]):
            return mask & (keys % 2 == 0)

        expected.append(attend(q, inputs.keys[i], inputs.values[i], scale=0.125, mask=seen))
    check(o, torch.cat([x for x, _ in expected]), lse, torch.cat([x for _, x in expected]))


def test_texts_write_to_tensors_of_split_keys():
    module = gen_customize_single_prefill_module("fa2", "uri", *jit_args("dump")[1:4], *jit_args("dump")[5:])
    q, k, v = random(5, 4, HEAD_DIM), random(1111, 2, HEAD_DIM, seed=1), random(1111, 2, HEAD_DIM, seed=2)
    logits = torch.full((4, 5, 1111), math.nan)
    o = single_prefill_with_kv_cache_with_jit_module(module.build_and_load(), q, k, v, logits, 0.125)
    check(o, attend(q, k, v, scale=0.125)[0])
    expected = torch.einsum("qhd,khd->hqk", q.double(), k.double().repeat_interleave(2, 1)) * 0.125
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_document(number):
    """What docs/writing-a-variant.md shows runs as it is written."""
    exec(compile(EXAMPLES[number], f"{DOCUMENT.name}, example {number + 1}", "exec"), {})


def test_two_texts_of_one_name_are_two_kernels():
    q, k, v = random(3, 4, HEAD_DIM), random(20, 2, HEAD_DIM, seed=1), random(20, 2, HEAD_DIM, seed=2)
    logits = torch.zeros(4, 3, 20)
    bodies = (DUMP, DUMP.replace("= logits * params.sm_scale", "= 2.0f * logits * params.sm_scale"))
    results = []
    for body in bodies:
        variant = from_flashinfer("DumpLogits", body, ["output_logits"], ["float"], ["sm_scale"], ["double"])
        single_prefill_with_kv_cache_with_jit_module(variant, q, k, v, logits, 0.125)
        results.append(logits.clone())
    torch.testing.assert_close(2 * results[0], results[1])


def test_an_error_in_the_text_shows_its_line():
    wrong = AttentionVariant("wrong", logits_transform="return logits + nothing;")
    q, k, v = random(3, 4, HEAD_DIM), random(20, 2, HEAD_DIM, seed=1), random(20, 2, HEAD_DIM, seed=2)
    with pytest.raises(CompilationError, match=r"undeclared identifier 'nothing'[\s\S]*return logits \+ nothing;"):
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v, variant=wrong)
