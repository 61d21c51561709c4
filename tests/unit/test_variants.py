"""Custom attention variants as part of a configuration: names, JSON, parameters, refusals."""

import dataclasses

import pytest

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import AttentionConfig, config_from_dict
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.params import TABLES, table_of
from flashinfer_jit.jit.render import render
from flashinfer_jit.jit.tiling import candidates
from flashinfer_jit.variants import AttentionVariant, variant_from_json

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


def test_decode_refuses_variants_by_name() -> None:
    with pytest.raises(UnsupportedConfigError, match="variant is not built yet for decode"):
        config(VARIANT.to_json(), "decode", "causal")
