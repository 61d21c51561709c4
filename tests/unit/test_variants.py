"""Custom attention variants as part of a configuration: names, JSON, parameters, refusals."""

import dataclasses
import shlex

import pytest
import torch

from flashinfer_jit import jit
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig, config_from_dict
from flashinfer_jit.jit.kernels import warmup_command
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.params import TABLES, table_of
from flashinfer_jit.jit.render import render
from flashinfer_jit.jit.tiling import candidates
from flashinfer_jit.plan import parse_key
from flashinfer_jit.variant_binding import alibi_slopes, bind_variant, binding
from flashinfer_jit.variants import AttentionVariant, from_flashinfer, variant_from_json

VARIANT = AttentionVariant(
    "biased",
    logits_transform="return logits + bias[qo_head_idx] * strength;",
    tensors=(("bias", "float32"),),
    scalars=(("strength", "float"),),
)


def config(variant: str | None, phase: str = "prefill", mask_mode: str = "none") -> AttentionConfig:
    return AttentionConfig(phase, "float16", "float16", "float16", 64, 64, mask_mode=mask_mode, variant=variant)


def test_json_and_back() -> None:
    assert variant_from_json(VARIANT.to_json()) == VARIANT
    lists = AttentionVariant(
        "biased", VARIANT.logits_transform, tensors=[["bias", "float32"]], scalars=[["strength", "float"]]
    )  # type: ignore[arg-type]
    assert lists == VARIANT and hash(lists) == hash(VARIANT)
    whole = config(VARIANT.to_json())
    assert config_from_dict(whole.to_dict()) == whole


def test_parameters_come_after_those_of_the_table() -> None:
    table = table_of(config(VARIANT.to_json()))
    assert [field.name for field in table.fields[-2:]] == ["variant_bias", "variant_strength"]
    assert table.fields[:-2] == TABLES["prefill"].fields
    assert table_of(config(None)) is TABLES["prefill"]


def test_only_the_kernel_of_the_variant_has_it(arch: str) -> None:
    def text(variant: str | None) -> str:
        whole = config(variant)
        return render(KernelKey(whole, candidates(whole, ARCHS[arch])[-1], ARCHS[arch]))

    assert "bias[qo_head_idx] * strength" in text(VARIANT.to_json())
    assert "variant_" not in text(None)


def test_the_command_for_a_text_with_quotes() -> None:
    quoted = config(dataclasses.replace(VARIANT, logits_transform="return logits + (kv_idx == 'k');").to_json())
    key = KernelKey(quoted, candidates(quoted, ARCHS["gfx942"])[0], ARCHS["gfx942"])
    *_, option, text = shlex.split(warmup_command(key))
    assert option == "--key" and parse_key(text) == key


def test_long_names_give_names_of_folders() -> None:
    long = [dataclasses.replace(VARIANT, name="x" * 300 + end) for end in "ab"]
    slugs = {config(variant.to_json()).slug() for variant in long}
    assert len(slugs) == 2 and max(map(len, slugs)) < 150


def test_the_slug_tells_texts_apart() -> None:
    other = dataclasses.replace(VARIANT, logits_transform="return logits;")
    slugs = {config(variant.to_json()).slug() for variant in (VARIANT, other)}
    assert len(slugs) == 2 and all("variant_biased_" in slug for slug in slugs)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"name": "1st"}, "'1st'.*C identifier"),
        ({"tensors": (("a b", "float32"),)}, "'a b'.*C identifier"),
        ({"tensors": (("bias", "float8"),)}, "bias has dtype 'float8': expected one of float32"),
        ({"scalars": (("bias", "float"),)}, "two parameters 'bias'"),
        ({"scalars": (("scale", "half"),)}, "scale has type 'half': expected one of float"),
        ({"scalars": (("kv_idx", "float"),)}, "'kv_idx' is not allowed"),
        ({"logits_mask": "true"}, "logits_mask of variant biased has no return"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=message):
        dataclasses.replace(VARIANT, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["biased", "[]", '{"nam": "x"}', "{}"])
def test_text_that_is_no_variant_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedConfigError, match="expected the JSON of an AttentionVariant"):
        config(text)


TEXT = """
struct Scaled : AttentionVariantBase {
  float sm_scale_log2;  // printf("a comment may say anything")
  template <typename Params>
  __device__ __host__ Scaled(const Params& params, uint32_t batch_idx, uint8_t* smem_ptr) {
    sm_scale_log2 = params.sm_scale * math::log2e;
  }
};
"""
SCALAR = (["sm_scale"], ["double"])


def test_what_a_text_says_of_merging() -> None:
    scaled = from_flashinfer("Scaled", TEXT, ["bias"], ["nv_bfloat16"], *SCALAR)
    assert scaled.tensors == (("bias", "bfloat16"),) and scaled.use_softmax and scaled.has_plain_merge
    output = TEXT.replace(
        "};", "REGISTER_OUTPUT_TRANSFORM(params, output, b, q, h, m, d, scale, { return output; }) };"
    )
    assert not from_flashinfer("Scaled", output, (), (), *SCALAR).has_plain_merge
    weights = TEXT.replace("float sm", "static constexpr bool use_softmax = false; float sm")
    assert not from_flashinfer("Scaled", weights, (), (), *SCALAR).use_softmax
    assert not AttentionVariant("linear", use_softmax=False).has_plain_merge and VARIANT.has_plain_merge


@pytest.mark.parametrize(
    "change, message",
    [
        (("struct Scaled", "struct Other"), "declares no struct of that name"),
        (
            ("struct", "#include <flashinfer/attention/variants.cuh>\nstruct"),
            "'#include', which is not supported: kern",
        ),
        (("};", "REGISTER_QUERY_TRANSFORM(params, q, { return q; }) };"), "REGISTER_QUERY_TRANSFORM.*query_transform"),
        (("};", "REGISTER_M_D_UPDATE(params, t, h, m, d, scale, {}) };"), "REGISTER_M_D_UPDATE.*sinks"),
        (("sm_scale_log2 =", 'printf("%d", batch_idx); sm_scale_log2 ='), "printf"),
        (("sm_scale_log2 =", "sm_scale_log2 = threadIdx.x *"), "'threadIdx'.*laid out otherwise"),
        (("sm_scale_log2 =", "sm_scale_log2 = smem_ptr[0] *"), "uses smem_ptr"),
        (("sm_scale_log2", "scale_log2"), "no member sm_scale_log2"),
    ],
    ids=lambda change: change[1] if isinstance(change, tuple) else None,
)
def test_texts_that_these_kernels_have_no_place_for(change: tuple[str, str], message: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=message):
        from_flashinfer("Scaled", TEXT.replace(*change), (), (), *SCALAR)


def test_names_and_types_of_texts() -> None:
    with pytest.raises(UnsupportedConfigError, match="2 additional_tensor_names and 1 additional_tensor_dtypes"):
        from_flashinfer("Scaled", TEXT, ["a", "b"], ["float"])
    with pytest.raises(UnsupportedConfigError, match="tensor a has type 'float4': expected one of"):
        from_flashinfer("Scaled", TEXT, ["a"], ["float4"])
    with pytest.raises(UnsupportedConfigError, match="DefaultAttention<false> *.*calls without jit_args"):
        from_flashinfer("DefaultAttention<false>", TEXT)
    with pytest.raises(UnsupportedConfigError, match="has a struct and a logits_mask"):
        AttentionVariant("Scaled", logits_mask="return true;", struct=TEXT)


@pytest.mark.parametrize(
    "variant, options, message",
    [
        (from_flashinfer("Scaled", TEXT, (), (), *SCALAR), {"has_soft_cap": True}, "has_soft_cap=True.*Scaled"),
        (from_flashinfer("Scaled", TEXT, (), (), *SCALAR), {"position_encoding": "alibi"}, "'alibi'.*Scaled"),
        (AttentionVariant("linear", use_softmax=False), {"has_sinks": True}, "has_sinks=True.*linear"),
    ],
)
def test_options_that_a_variant_leaves_no_place_for(variant, options, message) -> None:
    with pytest.raises(UnsupportedConfigError, match=message):
        dataclasses.replace(config(variant.to_json()), **options)


JIT_ARGS = ["uri", *[torch.float16] * 3, torch.int32, 64, 64, ["mask"], ["uint8_t"], *SCALAR, "Scaled", TEXT]


def test_jit_args_and_what_is_wrong_with_them() -> None:
    bound = binding("batch_prefill", None, JIT_ARGS, {"pos_encoding_mode": 1, "use_sliding_window": True})
    assert bound is not None and bound.module is not None and bound.pos_encoding_mode == "ROPE_LLAMA"
    assert bound.module == jit.gen_customize_batch_prefill_module("fa2", *JIT_ARGS, pos_encoding_mode=1)
    assert binding("batch_decode", None) is None
    for arguments, message in (
        ((None, JIT_ARGS[:-1]), "13 values.*got 12"),
        ((None, [*JIT_ARGS[:4], torch.int64, *JIT_ARGS[5:]]), "idtype=torch.int64"),
        ((None, JIT_ARGS, {"use_fp16_qk_reduction": True}), "use_fp16_qk_reduction=True"),
        ((None, JIT_ARGS, {"pos_encoding_mode": 2}), "pos_encoding_mode=2"),
        ((None, JIT_ARGS, {"wavefronts": 3}), "wavefronts is not an option"),
        ((None, None, {"pos_encoding_mode": 1}), "jit_kwargs needs jit_args"),
        ((None, None, None, True), "variant_owns_mask requires jit_args"),
        ((VARIANT, JIT_ARGS), "two forms of the same"),
    ):
        with pytest.raises(ValueError, match=message):
            binding("batch_prefill", *arguments)
    with pytest.raises(TypeError, match="variant must be an AttentionVariant, got str"):
        binding("batch_prefill", "Scaled")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend='fa3' is not supported"):
        jit.gen_customize_single_prefill_module("fa3", "uri", *JIT_ARGS[1:4], *JIT_ARGS[5:])


@pytest.mark.parametrize(
    "args, error, message",
    [
        ((), ValueError, r"takes 3 extra arguments \(bias \(float32 tensor\), strength \(float\), count \(int32_t\)\)"),
        (("bias", 1.0, 2), TypeError, "bias of variant bound must be a torch.Tensor, got str"),
        ((torch.zeros(2, dtype=torch.float64), 1.0, 2), ValueError, "dtype of bias.*torch.float32, got torch.float64"),
        ((torch.zeros(4, 2).T, 1.0, 2), ValueError, r"strides of bias.*pass bias.contiguous\(\)"),
        ((torch.zeros(2, device="meta"), 1.0, 2), ValueError, "device of bias.*expected cpu as that of q, got meta"),
        ((torch.zeros(2), torch.tensor(1.0), 2), TypeError, r"strength.*must be a number \(float\), got Tensor"),
        ((torch.zeros(2), 1.0, 2.5), TypeError, "count.*whole number"),
        ((torch.zeros(2), 1.0, 2**31), ValueError, "count=2147483648 of variant bound does not fit a int32_t"),
    ],
    ids=str,
)
def test_values_that_do_not_fit(args, error, message) -> None:
    variant = AttentionVariant(
        "bound", tensors=[("bias", "float32")], scalars=[("strength", "float"), ("count", "int32_t")]
    )
    with pytest.raises(error, match=message):
        bind_variant(variant).bind(args, torch.device("cpu"), 8)


def test_slopes_are_those_of_the_kernels() -> None:
    assert alibi_slopes(8, torch.device("cpu")).tolist() == [2.0**-n for n in range(1, 9)]
    expected = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    assert alibi_slopes(6, torch.device("cpu")).tolist() == expected
