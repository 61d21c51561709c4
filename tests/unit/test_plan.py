"""Which kernels a person or a recorded run asks for."""

import json

import pytest

from flashinfer_jit import presets, warmup
from flashinfer_jit.errors import InvalidSettingError, UnsupportedConfigError
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.config import CONFIG_TYPES, AttentionConfig, MergeStatesConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.tiling import candidates
from flashinfer_jit.plan import keys_of, parse_config, read_plan, read_record

DECODE = AttentionConfig("decode", "bfloat16", "bfloat16", "bfloat16", 128, 128, 8, "causal")
SHORT = "phase=decode, dtype=bfloat16, head_dim=128, group_size=8, mask_mode=causal"


# One configuration


@pytest.mark.parametrize(
    "text, config",
    [
        (SHORT, DECODE),
        (DECODE.canonical_json(), DECODE),
        (KernelKey(DECODE, candidates(DECODE, ARCHS["gfx942"])[0], ARCHS["gfx942"]).canonical_json(), DECODE),
        (
            "phase=prefill,dtype=float16,dtype_o=float32,head_dim_qk=192,head_dim_vo=128,has_window=true",
            AttentionConfig("prefill", "float16", "float16", "float32", 192, 128, has_window=True),
        ),
        (
            "kernel=merge_states,dtype_in=float32,dtype_out=bfloat16,head_dim=128",
            MergeStatesConfig("float32", "bfloat16", 128),
        ),
    ],
)
def test_a_configuration_is_written_by_its_fields(text, config) -> None:
    assert parse_config(text) == config


@pytest.mark.parametrize(
    "text, said",
    [
        (SHORT + ",groups=2", "attention has no field 'groups': its fields are phase, "),
        (SHORT.replace("128", "127"), "head_dim_qk=127 with head_dim_vo=127 is not allowed: expected equal sizes"),
        (SHORT.replace("causal", "diagonal"), "mask_mode='diagonal' is not allowed: expected one of 'none'"),
        (SHORT.replace("=8", "=eight"), "group_size='eight' is not allowed"),
        ("kernel=softmax", "kernel='softmax' is unknown: expected one of append_paged_kv, apply_rope, attention"),
        ("phase=decode", "missing"),
    ],
)
def test_a_wrong_configuration_names_the_field(text, said) -> None:
    with pytest.raises(UnsupportedConfigError, match=said):
        parse_config(text)


# Plans

PLAN = """
preset = "qwen2.5-7b"
arch = ["gfx950"]
dtype = ["float16"]

[[kernel]]
phase = ["prefill", "decode"]
dtype = "bfloat16"
head_dim = [64, 128]
group_size = 8
mask_mode = "causal"

[[kernel]]
kernel = "merge_states"
dtype_in = "float32"
dtype_out = "bfloat16"
head_dim = 128
"""


def test_a_plan_is_read(tmp_path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    plan = read_plan(tmp_path / "plan.toml")
    assert (plan.presets, plan.dtypes) == (("qwen2.5-7b",), ("float16",))
    assert [arch.name for arch in plan.archs] == ["gfx950"]
    assert len(plan.configs) == 5 and DECODE in plan.configs
    assert MergeStatesConfig("float32", "bfloat16", 128) in plan.configs


def test_a_plan_decides_and_options_win(tmp_path, capsys, cache_dir) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    assert warmup.main(["--from-file", str(tmp_path / "plan.toml"), "--dry-run", "--json"]) == 0
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert {kernel["arch"] for kernel in kernels} == {"gfx950"}
    assert {kernel["config"].get("dtype_q") for kernel in kernels} == {None, "bfloat16", "float16"}
    options = ["--from-file", str(tmp_path / "plan.toml"), "--arch", "gfx942", "--dry-run", "--json"]
    assert warmup.main(options) == 0
    assert {kernel["arch"] for kernel in json.loads(capsys.readouterr().out)["kernels"]} == {"gfx942"}


@pytest.mark.parametrize(
    "before, after, line, said",
    [
        ('"qwen2.5-7b"', '"qwen2.5"', 2, "preset 'qwen2.5' is unknown: expected all, or any of llama-3-8b"),
        ('["gfx950"]', '["gfx90a"]', 3, "arch='gfx90a' is not supported"),
        ('["float16"]', "3", 4, "dtype = 3 is not allowed: expected a string or a list of strings"),
        ('["float16"]', '["half"]', 4, "dtype = 'half' is not allowed: expected float16, bfloat16, or several"),
        ('dtype = ["float16"]', 'kv_dtype = "int8"', 4, "kv_dtype = 'int8' is not allowed: expected auto, float8_"),
        ("dtype = [", "dtypes = [", 4, "'dtypes' is not allowed: expected preset, arch, dtype, kv_dtype, kernel"),
        ('["prefill", "decode"]', '["prefill", "train"]', 7, "phase='train' is not allowed"),
        ("[64, 128]", "[64, 100]", 9, "head_dim_qk=100 with head_dim_vo=100 is not allowed"),
        ("group_size = 8", "groups = 8", 10, "attention has no field 'groups'"),
        ('"float32"', '"float64"', 15, "dtype_in='float64' is not allowed"),
        ("head_dim = 128\n", "", 13, "missing 1 required positional argument"),
        ("[[kernel]]\nkernel", "[kernel]\nkernel", 13, ""),
        ('"causal"', '"causal', 11, ""),
    ],
)
def test_a_plan_that_is_wrong_names_the_line(tmp_path, before, after, line, said) -> None:
    assert before in PLAN
    (tmp_path / "plan.toml").write_text(PLAN.replace(before, after))
    with pytest.raises(InvalidSettingError) as caught:
        read_plan(tmp_path / "plan.toml")
    assert str(tmp_path / "plan.toml") in str(caught.value) and f"line {line}" in str(caught.value)
    assert said in str(caught.value) and "\n" not in str(caught.value)


# Records


def test_a_record_is_read_and_a_line_cut_short_is_left_out(tmp_path) -> None:
    keys = keys_of([DECODE], list(ARCHS.values()))
    text = "".join(key.canonical_json() + "\n" for key in [*keys, *keys]) + keys[0].canonical_json()[:40]
    (tmp_path / "record").write_text(text)
    assert read_record(tmp_path / "record") == keys
    assert len(keys) == sum(len(candidates(DECODE, arch)) for arch in ARCHS.values())


def test_a_record_of_one_arch_can_be_chosen(tmp_path, capsys, cache_dir) -> None:
    keys = keys_of([DECODE], list(ARCHS.values()))
    (tmp_path / "record").write_text("".join(key.canonical_json() + "\n" for key in keys))
    options = ["--from-log", str(tmp_path / "record"), "--arch", "gfx950", "--dry-run", "--json"]
    assert warmup.main(options) == 0
    assert [kernel["arch"] for kernel in json.loads(capsys.readouterr().out)["kernels"]] == (
        ["gfx950"] * len(candidates(DECODE, ARCHS["gfx950"]))
    )


def test_a_record_with_a_wrong_line_names_it(tmp_path) -> None:
    key = keys_of([DECODE], [ARCHS["gfx942"]])[0].canonical_json()
    (tmp_path / "record").write_text(f"{key}\n{key.replace('causal', 'diagonal')}\n")
    with pytest.raises(InvalidSettingError, match=r"record, line 2: mask_mode='diagonal' is not allowed"):
        read_record(tmp_path / "record")


# Presets


@pytest.mark.parametrize("name", presets.MODELS)
def test_every_preset_has_a_source_and_kernels_for_both_archs(name) -> None:
    model = presets.MODELS[name]
    assert model.source.count("/") == 1 and model.num_qo_heads % model.num_kv_heads == 0
    for dtype in ("float16", "bfloat16"):
        configs, missing = presets.preset_configs(name, dtype)
        keys = keys_of(configs, list(ARCHS.values()))
        assert {key.arch.name for key in keys} == set(ARCHS)
        phases = {config.phase for config in configs if isinstance(config, AttentionConfig)}
        wanted = {"prefill"} if model.is_latent else {"prefill", "decode"}
        # What is left out is always said, with the reason.
        assert phases == wanted or missing
        assert all(line.startswith(f"{name}: ") for line in missing)


def test_the_default_presets_leave_contiguous_attention_whole() -> None:
    for name in presets.DEFAULT_PRESETS:
        assert not [line for line in presets.preset_configs(name, "bfloat16")[1] if " contiguous: " in line]


def test_names_of_presets_are_checked() -> None:
    assert presets.check_names(["all"]) == tuple(presets.MODELS)
    assert presets.check_names(["phi-4", "phi-4"]) == ("phi-4",)
    with pytest.raises(UnsupportedConfigError, match="preset 'phi' is unknown"):
        presets.check_names(["phi"])


def test_no_family_of_kernels_is_forgotten_by_the_presets() -> None:
    product = {name for name, kind in CONFIG_TYPES.items() if kind.__module__.startswith("flashinfer_jit.")}
    # No model has custom variants.
    product -= {"merge_variant"}
    warmed = {c.kernel for name in presets.DEFAULT_PRESETS for c in presets.preset_configs(name, "bfloat16")[0]}
    assert warmed == product, "add the new family to presets.preset_configs: warmup would leave it to the first call"
