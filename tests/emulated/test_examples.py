"""The examples of batches: an engine with a small random model, and one sequence over several processes."""

import importlib
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flashinfer_jit
from flashinfer_jit import emulator
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.config import AppendPagedKvConfig, AttentionConfig, MergeStatesConfig
from flashinfer_jit.jit.families.batch_indices import BatchIndicesConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, attention_reference

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
F16 = "float16"


def serving_keys(arch):
    """Return what the engine of examples/engine.py needs for small batches."""

    def attention(phase, mask_mode, kv_source):
        return AttentionConfig(phase, F16, F16, F16, 64, 64, 3, mask_mode, kv_source)

    configs = [
        attention("prefill", "causal", "ragged"),
        attention("prefill", "causal", "page_size_multiple"),
        attention("prefill", "none", "page_size_multiple"),
        attention("decode", "causal", "page_size_multiple"),
        MergeStatesConfig(F16, F16, 64),
        AppendPagedKvConfig(F16, F16, 64, 64),
        BatchIndicesConfig(),
    ]
    return [KernelKey(config, tiling.candidates(config, arch)[0], arch) for config in configs]


def kernel_keys(arch):
    """Return the kernels that this file needs, for the compile pass."""
    yield from serving_keys(arch)
    for mask_mode in ("causal", "none"):
        config = AttentionConfig("prefill", F16, F16, F16, 128, 128, 4, mask_mode, "ragged")
        yield KernelKey(config, tiling.candidates(config, arch)[0], arch)
    config = AttentionConfig("decode", F16, F16, F16, 128, 128, 4, "causal")
    yield KernelKey(config, tiling.candidates(config, arch)[0], arch)


def load_example(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


def test_an_engine_gives_every_request_pytorchs_tokens(arch, monkeypatch) -> None:
    """Requests come and go, share pages, wait for room and are prefilled in chunks; nothing is compiled meanwhile."""
    transformers = pytest.importorskip("transformers")
    serve = load_example("serve", monkeypatch)
    torch.manual_seed(0)
    numbers, page_size = random.Random(1), 16
    # Heads as those of SmolLM2; weights so large that tokens differ.
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=144,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        initializer_range=0.1,
    )
    model = transformers.LlamaForCausalLM(config).eval()

    def tokens(count):
        return [numbers.randrange(3, 256) for _ in range(count)]

    system = tokens(2 * page_size + 3)
    # When they arrive, and what they are: some begin alike, one of them is nothing but pages that others have, of which
    # the last is computed again, and one needs several chunks.
    begins = [(0, system + tokens(5)), (1, system + tokens(1)), (1, system + tokens(64)), (1, system[:32])]
    arrivals = [*begins, (0, tokens(17)), (2, tokens(16)), (2, tokens(130)), (40, system + tokens(9))]
    with emulator.use_arch(arch):
        for key in serving_keys(emulator.current_arch()):
            kernels.build_kernel(key)
        engine = serve.Engine(model, 256 // page_size, page_size, max_batch=4, chunk=48, stop_token=0, keep_logits=True)
        requests = [serve.Request(n, prompt, 6, step) for n, (step, prompt) in enumerate(arrivals)]
        with flashinfer_jit.freeze():
            steps = [step for step, _ in engine.serve(requests)]
    assert serve.check(engine, requests, serve.smollm.References(model)) == 0
    assert all(len(request.tokens) == 6 or request.tokens[-1] == 0 for request in requests)
    planned = engine.attention.num_planned
    assert min(planned[name] for name in ("ragged", "paged", "decode", "cascade")) > 0 and len(steps) > 10
    assert [request.num_found for request in requests] == [0, 32, 32, 16, 0, 0, 0, 32]
    assert engine.num_waits["batch"] > 0 and engine.num_waits["cache"] > 0
    with pytest.raises(ValueError, match="request 9 needs"):
        engine.submit(serve.Request(9, tokens(300), 6))


@pytest.mark.parametrize(("qo_len", "kv_len", "world_size"), [(70, 70, 2), (9, 100, 3), (40, 41, 4), (1, 3, 4)])
def test_parts_of_a_sequence_merge_to_the_whole(arch, qo_len, kv_len, world_size, monkeypatch) -> None:
    """Queries before a part see none of its keys; merged, all parts are the attention over the whole sequence."""
    example = load_example("context_parallel", monkeypatch)
    generator = torch.Generator().manual_seed(kv_len)
    q, k, v = (
        torch.randn(n, heads, example.HEAD_DIM, generator=generator).half()
        for n, heads in ((qo_len, example.NUM_QO_HEADS), (kv_len, example.NUM_KV_HEADS), (kv_len, example.NUM_KV_HEADS))
    )
    states = []
    with emulator.use_arch(arch):
        wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(torch.empty(1 << 22, dtype=torch.uint8))
        for rank in range(world_size):
            part = example.part_of(rank, world_size, kv_len)
            o, lse = example.prefill_part(wrapper, q, k[part.begin : part.end], v[part.begin : part.end], part)
            positions = torch.arange(qo_len) + kv_len - qo_len
            sees_none = (positions < part.begin) | (part.begin == part.end)
            assert torch.equal(lse == -math.inf, sees_none[:, None].expand_as(lse))
            assert not o[sees_none].any()
            states.append((o, lse))
        assert part.end == kv_len
        o, lse = states[0]
        for state in states[1:]:
            flashinfer_jit.merge_state_in_place(o, lse, *state)
    expected_o, expected_lse = attention_reference(q, k, v, causal=True)
    assert TOLERANCES[torch.float16].worst(o, expected_o) <= 1 and LSE_TOLERANCE.worst(lse, expected_lse) <= 1


def test_two_processes_share_a_sequence(pytestconfig) -> None:
    arch = pytestconfig.getoption("--arch")
    command = [sys.executable, EXAMPLES / "context_parallel.py", "--dtype", F16, "--kv-len", "65", "--qo-len", "20"]
    command += ["--arch", arch] if arch else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    archs = [arch] if arch else ["gfx942", "gfx950"]
    assert [line for line in done.stdout.splitlines() if "emulated" in line] == [
        f"2 processes, emulated {name}" for name in archs
    ]
    assert done.stdout.count("ok ") == 3 * len(archs) and "FAILED" not in done.stdout
