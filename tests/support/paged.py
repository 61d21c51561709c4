"""Paged KV caches for tests: shuffled pages, and NaN wherever no key is."""

import dataclasses
import math

import torch


@dataclasses.dataclass
class PagedBatch:
    """A batch of requests in a cache; ``keys[i]`` and ``values[i]`` are ``[kv_len, num_kv_heads, head_dim]``."""

    cache: torch.Tensor
    indptr: torch.Tensor
    indices: torch.Tensor
    last_page_len: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    @property
    def table(self):
        return self.indptr, self.indices, self.last_page_len


def make_batch(kv_lens, page_size, num_kv_heads, head_dim, dtype, layout="NHD", seed=0, spare_pages=3):
    """Return a batch whose pages are shuffled through a cache that has unused pages between them."""
    generator = torch.Generator().manual_seed(seed)
    num_pages = [-(-kv_len // page_size) for kv_len in kv_lens]
    order = torch.randperm(sum(num_pages) + spare_pages, generator=generator).to(torch.int32)
    indptr = torch.tensor([0, *torch.tensor(num_pages).cumsum(0).tolist()], dtype=torch.int32)
    last = [kv_len - (pages - 1) * page_size if pages else 0 for kv_len, pages in zip(kv_lens, num_pages, strict=True)]
    cache = torch.full((len(order), 2, page_size, num_kv_heads, head_dim), math.nan)
    keys, values = [], []
    for request, kv_len in enumerate(kv_lens):
        k, v = (torch.randn(kv_len, num_kv_heads, head_dim, generator=generator).to(dtype).float() for _ in range(2))
        for position in range(kv_len):
            page = order[indptr[request] + position // page_size]
            cache[page, 0, position % page_size], cache[page, 1, position % page_size] = k[position], v[position]
        keys.append(k)
        values.append(v)
    cache = cache.to(dtype)
    if layout == "HND":
        cache = cache.transpose(2, 3).contiguous()
    # Entries past the last are garbage that nothing may follow.
    indices = torch.cat([order[: indptr[-1]], torch.full((2,), 10**6, dtype=torch.int32)])
    return PagedBatch(cache, indptr, indices, torch.tensor(last, dtype=torch.int32), keys, values)
