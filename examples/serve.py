"""Serve several prompts at once with SmolLM2-135M-Instruct: continuous batching over one paged KV cache.

Requests arrive while others run. Every step runs the model once, over the new tokens of all requests, one after the
other in one row; each layer appends their keys and values to the pages of the cache, and then attends, each kind of
request with its own wrapper:

    a prompt of which nothing is cached         BatchPrefillWithRaggedKVCacheWrapper, over the new keys as they are
    a prompt whose beginning is in pages        BatchPrefillWithPagedKVCacheWrapper: a later chunk of a long prompt, or
                                                a prompt that begins like that of another request
    the next token of a request                 BatchDecodeWithPagedKVCacheWrapper
    of requests that share pages                MultiLevelCascadeAttentionWrapper: shared pages are read once for all

plan() is called once a step, run() once a layer. Without an AMD GPU the kernels run on the emulated one.

    python examples/serve.py
    python examples/serve.py --prompts "Why is the sky blue?" "Who was Ada Lovelace?"
    python examples/serve.py --check    every token must be that of PyTorch's own run, on both GPUs
"""

import argparse
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import accumulate, chain, count

# Before torch, which reads what this sets.
import smollm
import torch
import transformers
from smollm import ATTENTION_DTYPE

import flashinfer_jit
from flashinfer_jit import command_line, emulator, presets, warmup
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.kv_cache import kv_source

# transformers takes every name with "flash" in it for FlashAttention.
IMPLEMENTATION = "fij_paged_attention"
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
    (4, False, "Say hello."),
    (
        6,
        True,
        "Here is a story. A fisherman went out to sea before dawn. His net came up empty three times. The fourth time "
        "there was a small golden fish in it, and it spoke: let me go, and I will grant you a wish. What did the "
        "fisherman find in his net?",
    ),
)
WORKSPACE_BYTES = 32 << 20


class PagePool:
    """The pages of a KV cache: which are free, how many requests use the others, and which hold known beginnings.

    A full page of a prompt can be found by all tokens up to its end. It stays known when its last user is gone, until
    it is needed for something else: of the free pages, the one that was used least recently is taken first.
    """

    def __init__(self, num_pages, page_size):
        self.num_pages, self.page_size = num_pages, page_size
        # A dictionary keeps its order: here, that in which pages became free.
        self.free = dict.fromkeys(range(num_pages))
        self.num_users = [0] * num_pages
        self.page_of = {}
        self.tokens_of = {}

    def pages_for(self, num_tokens):
        """Return how many pages ``num_tokens`` take."""
        return -(-num_tokens // self.page_size)

    def find(self, prompt):
        """Return the pages that hold the beginning of ``prompt`` already."""
        pages = []
        # Not all of it: the last token has to be computed, or there would be no logits.
        for end in range(self.page_size, len(prompt), self.page_size):
            page = self.page_of.get(tuple(prompt[:end]))
            if page is None:
                break
            pages.append(page)
        return pages

    def remember(self, prompt, num_tokens, pages):
        """Let others find the full pages among the first ``num_tokens`` of ``prompt``."""
        for end, page in zip(range(self.page_size, num_tokens + 1, self.page_size), pages, strict=False):
            if self.page_of.setdefault(tuple(prompt[:end]), page) == page:
                self.tokens_of[page] = tuple(prompt[:end])

    def take(self, num_new, shared):
        """Return the ``shared`` pages and ``num_new`` others, each with one user more; None if there are too few."""
        unused = [page for page in shared if self.num_users[page] == 0]
        if num_new > len(self.free) - len(unused):
            return None
        for page in unused:
            del self.free[page]
        pages = [*shared, *(self._take_oldest() for _ in range(num_new))]
        for page in pages:
            self.num_users[page] += 1
        return pages

    def _take_oldest(self):
        page = next(iter(self.free))
        del self.free[page]
        if page in self.tokens_of:
            del self.page_of[self.tokens_of.pop(page)]
        return page

    def release(self, pages):
        """Take one user from ``pages``; those without users are free, the ends of prompts before their beginnings."""
        for page in reversed(pages):
            self.num_users[page] -= 1
            if self.num_users[page] == 0:
                self.free[page] = None


@dataclass(eq=False)
class Request:
    """One prompt and what has become of it."""

    number: int
    prompt: list
    max_tokens: int
    arrival: int = 0
    tokens: list = field(default_factory=list)
    pages: list = field(default_factory=list)
    # Tokens whose keys and values are in pages before this step, and those that this step adds.
    num_cached: int = 0
    num_new: int = 0
    # Tokens whose keys and values were in pages when the request began.
    num_found: int = 0
    # What each token was chosen from, if that is to be checked.
    logits: list = field(default_factory=list)

    @property
    def is_prefill(self):
        """Whether tokens of the prompt are still to be computed."""
        return self.num_cached < len(self.prompt)

    @property
    def kv_len(self):
        """Keys that the new tokens attend to, their own included."""
        return self.num_cached + self.num_new

    def new_tokens(self):
        """Return the tokens of this step: a piece of the prompt, or the token that the last step gave."""
        return (self.prompt + self.tokens)[self.num_cached : self.kv_len]


def indptr_of(lengths):
    """Return where each of several pieces begins, and where the last one ends."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def groups_by_prefix(requests):
    """Return lists of requests that begin with the same page; a cascade of more levels could serve trees of them."""
    groups = {}
    for request in requests:
        groups.setdefault(request.pages[0], []).append(request)
    return list(groups.values())


def num_shared_pages(requests):
    """Return how many pages all of ``requests`` begin with."""
    columns = zip(*(request.pages for request in requests), strict=False)
    return next(number for number, column in enumerate(columns) if len(set(column)) > 1)


class PagedAttention:
    """This package as a transformers attention implementation over one paged KV cache; counts launches by wrapper."""

    def __init__(self, config, num_pages, page_size):
        self.device = flashinfer_jit.device()
        self.heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.page_size = page_size
        shape = (config.num_hidden_layers, num_pages, 2, page_size, config.num_key_value_heads, config.head_dim)
        self.cache = torch.zeros(shape, dtype=ATTENTION_DTYPE, device=self.device)
        # One workspace for all: they run one after the other.
        workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=self.device)
        self.ragged = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(workspace)
        self.paged = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace)
        self.decode = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(workspace)
        self.cascade = flashinfer_jit.MultiLevelCascadeAttentionWrapper(2, workspace)
        self.segments = []
        self.num_planned = Counter()
        self.seconds = self.plan_seconds = 0.0

    def page_table(self, rows):
        """Return kv_indptr, kv_indices and kv_last_page_len of pairs of pages and a number of keys in them.

        They stay on the host, where plan() reads them without waiting for the GPU.
        """
        used = [pages[: -(-kv_len // self.page_size)] for pages, kv_len in rows]
        last_page_len = [(kv_len - 1) % self.page_size + 1 for _, kv_len in rows]
        indices, last_page_len = (torch.tensor(x, dtype=torch.int32) for x in (list(chain(*used)), last_page_len))
        return indptr_of(map(len, used)), indices, last_page_len

    def plan(self, fresh, cached, alone, groups):
        """Plan a step for requests of four kinds: their tokens follow each other in this order.

        ``fresh`` and ``cached`` are prompts without and with keys in the cache, ``alone`` gets a token each, and so
        does each request of ``groups``, lists of requests that share pages.
        """
        start = time.perf_counter()
        sharing = list(chain(*groups))
        batch = [*fresh, *cached, *alone, *sharing]
        qo_indptr = indptr_of(request.num_new for request in batch)
        table = self.page_table([(request.pages, request.kv_len) for request in batch])
        seq_lens = flashinfer_jit.get_seq_lens(table[0], table[2], self.page_size)
        self.places = flashinfer_jit.get_batch_indices_positions(
            qo_indptr.to(self.device), seq_lens.to(self.device), int(qo_indptr[-1])
        )
        kv_indptr, *others = (tensor.to(self.device) for tensor in table)
        self.table = others[0], kv_indptr, others[1]

        self.segments = []
        options = {"causal": True, "q_data_type": ATTENTION_DTYPE}
        if fresh:
            indptr = indptr_of(request.num_new for request in fresh)
            self.ragged.plan(indptr, indptr, *self.heads, **options)
            self._add("ragged", fresh, lambda q, k, v, cache: self.ragged.run(q, k, v))
        if cached:
            indptr = indptr_of(request.num_new for request in cached)
            table = self.page_table([(request.pages, request.kv_len) for request in cached])
            self.paged.plan(indptr, *table, *self.heads, self.page_size, **options)
            self._add("paged", cached, lambda q, k, v, cache: self.paged.run(q, cache))
        if alone:
            table = self.page_table([(request.pages, request.kv_len) for request in alone])
            self.decode.plan(*table, *self.heads, self.page_size, q_data_type=ATTENTION_DTYPE)
            self._add("decode", alone, lambda q, k, v, cache: self.decode.run(q, cache))
        if sharing:
            # Level 0: the queries of a group are one request over the shared pages. Level 1: each over its own.
            shared, own = [], []
            for group in groups:
                num_pages = num_shared_pages(group)
                num_keys = num_pages * self.page_size
                shared.append((group[0].pages[:num_pages], num_keys))
                own += [(request.pages[num_pages:], request.kv_len - num_keys) for request in group]
            levels = zip(self.page_table(shared), self.page_table(own), strict=True)
            qo_indptrs = [indptr_of(map(len, groups)), indptr_of(1 for _ in sharing)]
            self.cascade.plan(qo_indptrs, *map(list, levels), *self.heads, self.page_size, **options)
            self._add("cascade", sharing, lambda q, k, v, cache: self.cascade.run(q, cache))
        self.plan_seconds += time.perf_counter() - start

    def _add(self, name, requests, run):
        """Have ``run`` attend the tokens of ``requests``, which follow those of the segment before."""
        begin = self.segments[-1][0].stop if self.segments else 0
        end = begin + sum(request.num_new for request in requests)
        self.segments.append((slice(begin, end), run))
        self.num_planned[name] += 1

    def __call__(self, module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        """Append and attend in one layer; query is [1, num_qo_heads, nnz, head_dim], key and value likewise."""
        if attention_mask is not None or dropout or scaling != self.heads[2] ** -0.5:
            raise ValueError("this example is for inference, with causal masks and the usual scale of logits")
        start = time.perf_counter()
        q, k, v = (tensor[0].transpose(0, 1).to(self.device, ATTENTION_DTYPE) for tensor in (query, key, value))
        cache = self.cache[module.layer_idx]
        # All tokens first: a prompt may attend to pages that another one fills in this very step.
        flashinfer_jit.append_paged_kv_cache(k, v, *self.places, cache, *self.table)
        o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for rows, run in self.segments:
            o[rows] = run(q[rows], k[rows], v[rows], cache)
        self.seconds += time.perf_counter() - start
        return o.to(query.device, query.dtype)[None], None


class Engine:
    """Requests on their way through the model.

    Parameters
    ----------
    model
        Any model of transformers whose layers attend to all tokens before.
    num_pages, page_size : int
        Of the KV cache.
    max_batch : int
        Requests that run at the same time.
    chunk : int
        Tokens of prompts in one step: longer prompts take several, so that the others' next tokens need not wait.
    stop_token : int, optional
        Ends a request.
    keep_logits : bool
        Whether requests keep what their tokens were chosen from.
    """

    def __init__(self, model, num_pages, page_size, max_batch, chunk, stop_token=None, keep_logits=False):
        self.model, self.max_batch, self.chunk = model, max_batch, chunk
        self.stop_token, self.keep_logits = stop_token, keep_logits
        self.pool = PagePool(num_pages, page_size)
        self.attention = PagedAttention(model.config, num_pages, page_size)
        transformers.AttentionInterface.register(IMPLEMENTATION, self.attention)
        model.set_attn_implementation(IMPLEMENTATION)
        self.waiting, self.running = deque(), []
        # How often a request had to wait, by what was full.
        self.num_waits = Counter()

    def submit(self, request):
        """Take a request, which waits until there is room for it."""
        needed = self._pages_needed(request)
        if needed > self.pool.num_pages:
            raise ValueError(
                f"request {request.number} needs {needed} pages of {self.pool.page_size} tokens, and there are "
                f"{self.pool.num_pages}: give it fewer tokens, or the cache more pages"
            )
        self.waiting.append(request)

    def _pages_needed(self, request):
        """Return the pages that a request can come to need; its last token is given out and never attended to."""
        return self.pool.pages_for(len(request.prompt) + request.max_tokens - 1)

    def _admit(self, request):
        """Give a request all pages at once, so that it never has to stop half-way; return whether there was room."""
        if len(self.running) == self.max_batch:
            self.num_waits["batch"] += 1
            return False
        shared = self.pool.find(request.prompt)
        pages = self.pool.take(self._pages_needed(request) - len(shared), shared)
        if pages is None:
            self.num_waits["cache"] += 1
            return False
        request.pages = pages
        request.num_cached = request.num_found = len(shared) * self.pool.page_size
        return True

    def _prefills(self):
        """Yield requests whose prompts have tokens left: those begun, then those waiting for which there is room."""
        yield from [request for request in self.running if request.is_prefill]
        while self.waiting and self._admit(self.waiting[0]):
            self.running.append(self.waiting.popleft())
            yield self.running[-1]

    def _schedule(self):
        """Say what this step computes; return requests as ``PagedAttention.plan`` takes them."""
        fresh, cached, budget = [], [], self.chunk
        decoding = [request for request in self.running if not request.is_prefill]
        for request in decoding:
            request.num_new = 1
        for request in self._prefills():
            request.num_new = min(len(request.prompt) - request.num_cached, budget)
            (cached if request.num_cached else fresh).append(request)
            # The next request to be admitted can share what this step computes.
            self.pool.remember(request.prompt, request.kv_len, request.pages)
            budget -= request.num_new
            if budget == 0:
                break
        groups = groups_by_prefix(decoding)
        alone = [group[0] for group in groups if len(group) == 1]
        return fresh, cached, alone, [group for group in groups if len(group) > 1]

    @torch.inference_mode()
    def step(self):
        """Run the model once; return the requests that got a token, in ``tokens[-1]``."""
        fresh, cached, alone, groups = self._schedule()
        batch = [*fresh, *cached, *alone, *chain(*groups)]
        if not batch:
            if self.waiting:
                raise RuntimeError(f"request {self.waiting[0].number} waits, and nothing runs that could make room")
            return []
        self.attention.plan(fresh, cached, alone, groups)

        def on_device(values):
            return torch.tensor(list(values), device=self.model.device)

        ids = on_device(chain(*(request.new_tokens() for request in batch)))
        positions = on_device(chain(*(range(request.num_cached, request.kv_len) for request in batch)))
        # Logits of the last token of each request, unless that is in the middle of its prompt.
        complete = [request.kv_len >= len(request.prompt) for request in batch]
        ends = accumulate(request.num_new for request in batch)
        last = on_device(end - 1 for end, is_complete in zip(ends, complete, strict=True) if is_complete)
        logits = self.model(
            ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=last.to(torch.int64)
        ).logits[0]

        for request in batch:
            request.num_cached, request.num_new = request.kv_len, 0
        answered = [request for request, is_complete in zip(batch, complete, strict=True) if is_complete]
        for request, row, token in zip(answered, logits, logits.argmax(-1).tolist(), strict=True):
            request.tokens.append(token)
            if self.keep_logits:
                request.logits.append(row)
            if token == self.stop_token or len(request.tokens) == request.max_tokens:
                self.running.remove(request)
                self.pool.release(request.pages)
                request.pages = []
        return sorted(answered, key=lambda request: request.number)


def serve(engine, requests):
    """Submit requests at the steps at which they arrive; yield the number of each step and the requests with tokens."""
    coming = deque(sorted(requests, key=lambda request: request.arrival))
    for step in count():
        while coming and coming[0].arrival <= step:
            engine.submit(coming.popleft())
        if not (coming or engine.waiting or engine.running):
            return
        yield step, engine.step()


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
    for step, answered in serve(engine, requests):
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


def check(model, engine, requests, references):
    """Compare every token with PyTorch's own run; print a line for each request, and return how many failed."""
    failures = 0
    for request in requests:
        ids = (*request.prompt, *request.tokens)
        if ids not in references:
            references[ids] = smollm.reference(model, torch.tensor([ids], device=model.device), len(request.tokens))
        reference = references[ids]
        tokens = torch.tensor(request.tokens, device=model.device)
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
    failures, references = 0, {}
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
                stop_token=model.config.eos_token_id,
                keep_logits=options.check,
            )
            stream(engine, tokenizer, requests)
        if options.check:
            failures += check(model, engine, requests, references)
    if options.check:
        print("\nthe check failed" if failures else "\nthe check passed: every decided token is PyTorch's")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
