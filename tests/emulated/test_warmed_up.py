"""What warmup compiles is what calls ask for: after it, nothing is compiled."""

import json

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator, presets
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.plan import keys_of, read_record


def _calls(model: presets.Model) -> None:
    num_kv_heads = 1
    heads = model.num_qo_heads // model.num_kv_heads
    q = torch.randn(3, heads, model.head_dim_qk, dtype=torch.bfloat16)
    k = torch.randn(20, num_kv_heads, model.head_dim_qk, dtype=torch.bfloat16)
    v = torch.randn(20, num_kv_heads, model.head_dim_vo, dtype=torch.bfloat16)
    for causal in (True, False):
        flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=causal)
    flashinfer_jit.single_decode_with_kv_cache(q[0], k, v)
    lse = torch.zeros(3, heads)
    flashinfer_jit.merge_state(q, lse, q, lse)


@pytest.mark.parametrize("name", ["llama-3-8b"])
def test_calls_of_a_preset_use_kernels_of_the_preset(arch, name, monkeypatch, tmp_path) -> None:
    kernels.forget()
    monkeypatch.setenv("FLASHINFER_JIT_RECORD", str(tmp_path / "record"))
    with emulator.use_arch(arch):
        _calls(presets.MODELS[name])
    used = read_record(tmp_path / "record")
    assert len(used) >= 4
    configs, _ = presets.preset_configs(name, "bfloat16")
    assert set(used) <= set(keys_of(configs, [ARCHS[arch]]))
    # The file is what --from-log reads: one JSON object a line.
    assert all(json.loads(line)["arch"] == arch for line in (tmp_path / "record").read_text().splitlines())
