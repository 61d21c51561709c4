import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit import config as config_module
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import ALLOWED, BUILT, HEAD_DIMS, AttentionConfig, config_from_dict
from flashinfer_jit.jit.key import KernelKey, key_from_dict
from flashinfer_jit.jit.tiling import candidates

BASE = {
    "phase": "prefill", "dtype_q": "bfloat16", "dtype_kv": "bfloat16", "dtype_o": "bfloat16", "head_dim_qk": 128,
    "head_dim_vo": 128, "group_size": 4, "mask_mode": "causal",
}  # fmt: skip


@pytest.fixture
def everything_built(monkeypatch):
    """Lets configurations of every allowed value exist, whether there is a kernel for them yet or not."""
    monkeypatch.setattr(config_module, "BUILT", {phase: {} for phase in BUILT})


def configs():
    """All configurations that the axes allow."""

    def build(values):
        qk, vo = values.pop("head_dims")
        if values["dtype_kv"] in ("float16", "bfloat16"):
            values["dtype_kv"] = values["dtype_q"]
        return AttentionConfig(head_dim_qk=qk, head_dim_vo=vo, **values)

    axes = {axis: st.sampled_from(values) for axis, values in ALLOWED.items()}
    axes |= {"head_dims": st.sampled_from(HEAD_DIMS), "group_size": st.integers(1, 128)}
    return st.fixed_dictionaries(axes).map(build)


def test_json_and_slug_name_a_configuration_uniquely(everything_built) -> None:
    seen_slugs, seen_json = {}, {}

    @settings(deadline=None)
    @given(configs())
    def check(config):
        assert config_from_dict(config.to_dict()) == config
        assert seen_slugs.setdefault(config.slug(), config) == config
        assert seen_json.setdefault(config.canonical_json(), config) == config
        assert config.slug().replace("-", "_").isidentifier()

    check()


WRONG = [
    (axis, wrong)
    for axis in (*ALLOWED, "group_size", "head_dim_qk", "head_dim_vo", "variant")
    for wrong in ("sideways", 7.5, -1, None, b"causal")
    if (axis, wrong) != ("variant", None)
]


@pytest.mark.parametrize("axis, wrong", WRONG)
def test_a_value_that_is_not_allowed_is_named(axis, wrong) -> None:
    with pytest.raises(UnsupportedConfigError) as caught:
        AttentionConfig(**{**BASE, axis: wrong})
    assert axis in str(caught.value) and repr(wrong) in str(caught.value) and "expected" in str(caught.value)


def test_what_is_not_built_is_refused_by_name() -> None:
    for phase, axes in BUILT.items():
        for axis in ("mask_mode", "kv_source", "position_encoding"):
            for value in set(ALLOWED[axis]) - set(axes.get(axis, ALLOWED[axis])):
                with pytest.raises(UnsupportedConfigError, match=f"{axis}='{value}'|phase"):
                    AttentionConfig(**{**BASE, "phase": phase, axis: value})


def test_a_value_equal_in_python_but_not_in_json_is_refused() -> None:
    with pytest.raises(UnsupportedConfigError, match="has_window=0"):
        AttentionConfig(**{**BASE, "has_window": 0})
    with pytest.raises(UnsupportedConfigError, match="group_size=True"):
        AttentionConfig(**{**BASE, "group_size": True})
    with pytest.raises(UnsupportedConfigError, match=r"head_dim_qk=128\.0"):
        AttentionConfig(**{**BASE, "head_dim_qk": 128.0})


def test_unknown_names_in_a_description_are_refused() -> None:
    with pytest.raises(UnsupportedConfigError, match="kernel='atention' is unknown"):
        config_from_dict({**BASE, "kernel": "atention"})
    with pytest.raises(UnsupportedConfigError, match="no field 'head_dim'"):
        config_from_dict({**BASE, "head_dim": 128})
    with pytest.raises(UnsupportedConfigError, match="phase"):
        config_from_dict({name: value for name, value in BASE.items() if name != "phase"})


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AttentionConfig(**BASE).group_size = 8


def test_keys_are_equal_when_their_parts_are(arch: str) -> None:
    config = AttentionConfig(**BASE)
    tile = candidates(config, ARCHS[arch])[0]
    key, same = KernelKey(config, tile, ARCHS[arch]), KernelKey(AttentionConfig(**BASE), tile, ARCHS[arch])
    assert key == same and hash(key) == hash(same) and key is not same
    assert key_from_dict(key.to_dict()) == key
    for other in ({"group_size": 2}, {"mask_mode": "none"}, {"head_dim_qk": 64, "head_dim_vo": 64}):
        assert KernelKey(AttentionConfig(**{**BASE, **other}), tile, ARCHS[arch]) != key
    other_arch = next(a for name, a in ARCHS.items() if name != arch)
    assert KernelKey(config, tile, other_arch) != key
    assert key != "a string"


def test_all_built_prefill_kernels_have_distinct_symbols(arch: str) -> None:
    symbols = []
    for dtype, (qk, vo), mask in itertools.product(("float16", "bfloat16"), ((64, 64), (128, 128)), ("none", "causal")):
        config = AttentionConfig("prefill", dtype, dtype, dtype, qk, vo, 4, mask)
        symbols += [KernelKey(config, tile, ARCHS[arch]).kernel_name for tile in candidates(config, ARCHS[arch])]
    assert len(set(symbols)) == len(symbols) >= 8
