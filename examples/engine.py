"""A serving engine in small: continuous batching over one paged KV cache, for any causal model of transformers.

Every step runs the model once, over the new tokens of all requests, one after the other in one row; each layer appends
their keys and values to the pages of the cache, and then attends, each kind of request with its own wrapper:

    a prompt of which nothing is cached         BatchPrefillWithRaggedKVCacheWrapper, over the new keys as they are
    a prompt whose beginning is in pages        BatchPrefillWithPagedKVCacheWrapper: a later chunk of a long prompt, or
                                                a prompt that begins like that of another request
    the next token of a request                 BatchDecodeWithPagedKVCacheWrapper
    of requests that share pages                MultiLevelCascadeAttentionWrapper: shared pages are read once for all

plan() is called once a step, run() once a layer. examples/serve.py runs it.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import accumulate, chain, count

import torch
import transformers

import flashinfer_jit

# transformers takes every name with "flash" in it for FlashAttention.
IMPLEMENTATION = "fij_paged_attention"
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


def int32(numbers):
    """Return numbers as the wrappers take them."""
    return torch.tensor(list(numbers), dtype=torch.int32)


def indptr_of(lengths):
    """Return where each of several pieces begins, and where the last one ends."""
    return int32([0, *accumulate(lengths)])


def groups_by_prefix(requests):
    """Return lists of requests that begin with the same page.

    A cascade of more levels could serve trees of them; and engines ask for so many requests and pages that reading them
    once is worth two launches more.
    """
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

    def __init__(self, config, num_pages, page_size, dtype):
        self.device, self.dtype = flashinfer_jit.device(), dtype
        self.heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.page_size = page_size
        shape = (config.num_hidden_layers, num_pages, 2, page_size, config.num_key_value_heads, config.head_dim)
        self.cache = torch.zeros(shape, dtype=dtype, device=self.device)
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
        return indptr_of(map(len, used)), int32(chain(*used)), int32(last_page_len)

    def _table_of(self, requests):
        return self.page_table([(request.pages, request.kv_len) for request in requests])

    def plan(self, fresh, cached, alone, groups):
        """Plan a step for requests of four kinds: their tokens follow each other in this order.

        ``fresh`` and ``cached`` are prompts without and with keys in the cache, ``alone`` gets a token each, and so
        does each request of ``groups``, lists of requests that share pages.
        """
        start = time.perf_counter()
        sharing = list(chain(*groups))
        self._plan_append([*fresh, *cached, *alone, *sharing])
        self.segments = []
        paged = (*self.heads, self.page_size)
        options = {"causal": True, "q_data_type": self.dtype}
        if fresh:
            indptr = indptr_of(request.num_new for request in fresh)
            self.ragged.plan(indptr, indptr, *self.heads, **options)
            self._add("ragged", fresh, lambda q, k, v, cache: self.ragged.run(q, k, v))
        if cached:
            qo_indptr = indptr_of(request.num_new for request in cached)
            self.paged.plan(qo_indptr, *self._table_of(cached), *paged, **options)
            self._add("paged", cached, lambda q, k, v, cache: self.paged.run(q, cache))
        if alone:
            self.decode.plan(*self._table_of(alone), *paged, q_data_type=self.dtype)
            self._add("decode", alone, lambda q, k, v, cache: self.decode.run(q, cache))
        if sharing:
            # Level 0: the queries of a group are one request over the shared pages. Level 1: each over its own.
            shared, own = [], []
            for group in groups:
                num_pages = num_shared_pages(group)
                num_keys = num_pages * self.page_size
                shared.append((group[0].pages[:num_pages], num_keys))
                own += [(request.pages[num_pages:], request.kv_len - num_keys) for request in group]
            qo_indptrs = [indptr_of(map(len, groups)), indptr_of(1 for _ in sharing)]
            tables = zip(self.page_table(shared), self.page_table(own), strict=True)
            self.cascade.plan(qo_indptrs, *map(list, tables), *paged, **options)
            self._add("cascade", sharing, lambda q, k, v, cache: self.cascade.run(q, cache))
        self.plan_seconds += time.perf_counter() - start

    def _plan_append(self, batch):
        """Say where the new tokens of all requests go; kernels read this, so it goes to the device."""
        qo_indptr = indptr_of(request.num_new for request in batch)
        kv_indptr, kv_indices, kv_last_page_len = self._table_of(batch)
        seq_lens = flashinfer_jit.get_seq_lens(kv_indptr, kv_last_page_len, self.page_size)
        places = flashinfer_jit.get_batch_indices_positions(
            qo_indptr.to(self.device), seq_lens.to(self.device), int(qo_indptr[-1])
        )
        self.places = places, [tensor.to(self.device) for tensor in (kv_indices, kv_indptr, kv_last_page_len)]

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
        q, k, v = (tensor[0].transpose(0, 1).to(self.device, self.dtype) for tensor in (query, key, value))
        cache = self.cache[module.layer_idx]
        # All tokens first: a prompt may attend to pages that another one fills in this very step.
        places, table = self.places
        flashinfer_jit.append_paged_kv_cache(k, v, *places, cache, *table)
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
    dtype : torch.dtype
        Of queries, keys and values in attention.
    stop_token : int, optional
        Ends a request.
    keep_logits : bool
        Whether requests keep what their tokens were chosen from.
    """

    def __init__(
        self,
        model,
        num_pages,
        page_size,
        max_batch,
        chunk,
        dtype=torch.float16,
        stop_token=None,
        keep_logits=False,
    ):
        self.model, self.max_batch, self.chunk = model, max_batch, chunk
        self.stop_token, self.keep_logits = stop_token, keep_logits
        self.pool = PagePool(num_pages, page_size)
        self.attention = PagedAttention(model.config, num_pages, page_size, dtype)
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

    def serve(self, requests):
        """Submit requests at the steps at which they arrive; yield the number of each step and who got a token."""
        coming = deque(sorted(requests, key=lambda request: request.arrival))
        for step in count():
            while coming and coming[0].arrival <= step:
                self.submit(coming.popleft())
            if not (coming or self.waiting or self.running):
                return
            yield step, self.step()
