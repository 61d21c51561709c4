"""Serve several prompts at once with SmolLM2-135M-Instruct, with the engine of examples/engine.py.

Requests arrive while others run; their tokens are printed as they come, each after its request's number. Without an AMD
GPU the kernels run on the emulated one.

    python examples/serve.py
    python examples/serve.py --prompts "Why is the sky blue?" "Who was Ada Lovelace?"
    python examples/serve.py --check    every token must be that of PyTorch's own run, on both GPUs
"""

import argparse
import sys
import time

# Before torch, which reads what this sets.
import smollm
import torch
from engine import Engine, Request

import flashinfer_jit
from flashinfer_jit import command_line, emulator, presets, warmup
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.kv_cache import kv_source

SYSTEM = (
    "You are a helpful assistant. Answer in plain English, in one short sentence, without lists and without any "
    "introduction. If you do not know the answer, say so instead of guessing."
)
# When each prompt arrives, in steps, and whether it begins with SYSTEM or with the model's own shorter system prompt.
PROMPTS = (
    (0, True, "What is the capital of France?"),
    (0, True, "What is 2 + 3?"),
    (1, False, "Write one sentence about the sea."),
    (3, True, "Which planet is the largest one?"),
    (4, False, "How many days are in a week?"),
    (
        6,
        True,
        "Here is a story. A fisherman went out to sea before dawn. His net came up empty three times. The fourth time "
        "there was a small golden fish in it, and it spoke: let me go, and I will grant you a wish. What did the "
        "fisherman find in his net?",
    ),
)


def warm_up(arch, page_size):
    """Compile what serving can need, and return the context in which nothing else may be compiled."""
    name = arch or flashinfer_jit.runtime.current().arch(flashinfer_jit.device()).name
    warmup.main(["--preset", smollm.PRESET, "--dtype", "float16", "--arch", name, "--quiet"])
    # Pages of other sizes have kernels that are in no preset: those are compiled when they are first used.
    return flashinfer_jit.freeze("error" if kv_source(page_size) in presets.PAGED else "off")


def make_requests(tokenizer, options):
    prompts = PROMPTS
    if options.prompts:
        prompts = [(2 * number, True, text) for number, text in enumerate(options.prompts)]
    return [
        Request(
            number,
            smollm.encode(tokenizer, text, SYSTEM if with_system else None)[0].tolist(),
            options.max_tokens,
            step,
        )
        for number, (step, with_system, text) in enumerate(prompts)
    ]


def stream(engine, tokenizer, requests):
    """Serve, and print tokens as they come, each after its request's number; return the number of steps."""
    start = time.perf_counter()
    known = set()
    for step, answered in engine.serve(requests):
        for request in engine.running:
            if request.number not in known:
                known.add(request.number)
                print(
                    f"step {step:3}  [{request.number}] begins: {request.num_found} of {len(request.prompt)} prompt "
                    f"tokens are in pages already"
                )
        pieces = (f"[{request.number}] {tokenizer.decode([request.tokens[-1]])!r}" for request in answered)
        print(f"step {step:3}  {'  '.join(pieces)}", flush=True)
        for request in answered:
            if request not in engine.running:
                text = tokenizer.decode(request.tokens, skip_special_tokens=True)
                print(f"step {step:3}  [{request.number}] ends: {text!r}")
    seconds = time.perf_counter() - start
    attention = engine.attention
    num_tokens = sum(len(request.tokens) for request in requests)
    planned = ", ".join(f"{number} {name}" for name, number in attention.num_planned.items())
    waits = engine.num_waits
    print(
        f"{num_tokens} tokens in {step + 1} steps and {seconds:.1f} s, {attention.seconds:.1f} s of it attention and "
        f"{1e3 * attention.plan_seconds / (step + 1):.2f} ms a step for plans ({planned}); "
        f"a request waited {waits['batch']} steps because the batch was full, {waits['cache']} because the cache was"
    )


def check(engine, requests, references):
    """Compare every token with PyTorch's own run; print a line for each request, and return how many failed."""
    failures = 0
    for request in requests:
        ids = torch.tensor([request.prompt + request.tokens], device=engine.model.device)
        tokens = ids[0, len(request.prompt) :]
        reference = references.of(ids, len(tokens))
        error = reference.error(torch.stack(request.logits))
        good = error <= reference.bound and reference.accepts(tokens)
        failures += not good
        print(
            f"{'ok    ' if good else 'FAILED'} [{request.number}] {int((tokens == reference.tokens).sum())} of "
            f"{len(tokens)} tokens PyTorch's, {int(reference.decided.sum())} decided; largest logit difference "
            f"{error:.4f}, bound {reference.bound:.4f}"
        )
    if len(engine.pool.free) != engine.pool.num_pages:
        print(f"FAILED {len(engine.pool.free)} of {engine.pool.num_pages} pages are free in the end")
        failures += 1
    return failures


def main():
    parser = command_line.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=sorted(ARCHS), help="the emulated GPU; with --check both, if none is named")
    parser.add_argument("--check", action="store_true", help="compare every token with PyTorch's own run")
    parser.add_argument("--prompts", nargs="+", metavar="TEXT", help="instead of those in this file")
    parser.add_argument("--max-tokens", type=command_line.positive, default=16, help="of each answer (%(default)s)")
    parser.add_argument("--page-size", type=command_line.positive, default=16, help="tokens of a page (%(default)s)")
    parser.add_argument("--num-pages", type=command_line.positive, default=16, help="of the KV cache (%(default)s)")
    parser.add_argument(
        "--max-batch", type=command_line.positive, default=4, help="requests at the same time (%(default)s)"
    )
    parser.add_argument(
        "--chunk", type=command_line.positive, default=64, help="tokens of prompts in one step (%(default)s)"
    )
    options = parser.parse_args()

    archs = smollm.archs()
    if options.arch and archs == [None]:
        parser.error("--arch is for the emulated GPU, and there is a real one")
    if options.arch:
        archs = [options.arch]
    elif not options.check and archs != [None]:
        archs = [emulator.current_arch().name]
    tokenizer, model = smollm.load()
    failures, references = 0, smollm.References(model)
    for arch in archs:
        print(f"on {smollm.device_name(arch)}: ", end="", flush=True)
        with smollm.on_device(arch), warm_up(arch, options.page_size):
            requests = make_requests(tokenizer, options)
            engine = Engine(
                model,
                num_pages=options.num_pages,
                page_size=options.page_size,
                max_batch=options.max_batch,
                chunk=options.chunk,
                dtype=smollm.ATTENTION_DTYPE,
                stop_token=model.config.eos_token_id,
                keep_logits=options.check,
            )
            stream(engine, tokenizer, requests)
        if options.check:
            failures += check(engine, requests, references)
    if options.check:
        print("\nthe check failed" if failures else "\nthe check passed: every decided token is PyTorch's")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
