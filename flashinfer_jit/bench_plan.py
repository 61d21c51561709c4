"""``python -m flashinfer_jit.bench plan``: what planning a batch and launching it cost on the host."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from flashinfer_jit import batch_decode, batch_prefill, decode, runtime
from flashinfer_jit.bench_attention import host_microseconds

NUM_QO_HEADS, NUM_KV_HEADS, HEAD_DIM, PAGE_SIZE = 32, 8, 128, 16
WORKSPACE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """The host's cost of one wrapper method.

    Attributes
    ----------
    call : str
        Wrapper, method and batch.
    us : float
        CPU time, median of the calls; launches left out.
    best_us : float
        The fastest.
    goal_us : float or None
        What it should be at most.
    """

    call: str
    us: float
    best_us: float
    goal_us: float | None


def _timed(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    call()
    times = []
    for _ in range(calls):
        start = time.process_time()
        call()
        times.append(1e6 * (time.process_time() - start))
    return statistics.median(times), min(times)


def _batch(num_requests: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return qo_indptr and the page table of a mixed batch: most requests have one query token, the others a prompt."""
    generator = torch.Generator().manual_seed(0)
    kv_lens = torch.randint(1, 4096, (num_requests,), generator=generator)
    qo_lens = torch.where(torch.rand(num_requests, generator=generator) < 0.8, 1, kv_lens.clamp(max=512))
    pages = -(-kv_lens // PAGE_SIZE)
    zero = torch.zeros(1, dtype=torch.int64)
    qo_indptr = torch.cat([zero, qo_lens.cumsum(0)]).int()
    kv_indptr = torch.cat([zero, pages.cumsum(0)]).int()
    indices = torch.arange(int(kv_indptr[-1]), dtype=torch.int32)
    return qo_indptr, kv_indptr, indices, ((kv_lens - 1) % PAGE_SIZE + 1).int()


def measure() -> list[PlanRow]:
    """Time plan() of the batch wrappers, and run() with its launches left out."""
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=runtime.device())
    return [*_measure_batch(workspace, 256, 60, 300.0, 200.0), *_measure_batch(workspace, 4096, 15, 3000.0, None)]


def _measure_batch(
    workspace: torch.Tensor, num_requests: int, calls: int, prefill_goal: float, decode_goal: float | None
) -> list[PlanRow]:
    qo_indptr, *table = _batch(num_requests)
    heads = (NUM_QO_HEADS, NUM_KV_HEADS, HEAD_DIM, PAGE_SIZE)
    prefill = batch_prefill.BatchPrefillWithPagedKVCacheWrapper(workspace)
    decoder = batch_decode.BatchDecodeWithPagedKVCacheWrapper(workspace)
    of = f"{num_requests} requests"
    plan_prefill = functools.partial(prefill.plan, qo_indptr, *table, *heads, causal=True)
    plan_decode = functools.partial(decoder.plan, *table, *heads)
    rows = [
        PlanRow(f"paged prefill plan(), {of}", *_timed(plan_prefill, calls), prefill_goal),
        PlanRow(f"paged decode plan(), {of}", *_timed(plan_decode, calls), decode_goal),
    ]
    if decode_goal is None:
        return rows
    fast = functools.partial(decode.fast_decode_plan, decoder, *table, *heads, global_override_indptr_cpu=table[0])
    rows.append(PlanRow(f"fast_decode_plan(), {of}", *_timed(fast, calls), 120.0))
    cache = torch.zeros(
        *(len(table[1]), 2, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM), dtype=torch.float16, device=workspace.device
    )
    for name, run, tokens, goal in (
        ("prefill", prefill.run, int(qo_indptr[-1]), 25.0),
        ("decode", decoder.run, num_requests, 20.0),
    ):
        q = torch.zeros(tokens, NUM_QO_HEADS, HEAD_DIM, dtype=torch.float16, device=workspace.device)
        cost = host_microseconds(functools.partial(run, q, cache, out=torch.empty_like(q)), 100)
        rows.append(PlanRow(f"paged {name} run(), {of}", cost, cost, goal))
    return rows
