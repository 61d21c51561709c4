"""Attention over one long sequence whose keys and values are split over several processes: context parallelism.

Every process holds a part of the keys, attends all queries to it, and gets outputs and log-sum-exps. From these alone
the attention over all keys follows, so the processes exchange [num_tokens, num_qo_heads] states instead of keys:

    prefill     each process attends its keys, states are gathered and merged one by one with merge_state_in_place
    decode      likewise for one query, and merge_states merges all states in one launch

Every process compares with the attention of a single process over all keys. Here processes talk by gloo and each has an
emulated GPU; on hardware each takes a GPU, and they talk by what PyTorch calls "nccl" there too.

    python examples/context_parallel.py                     two processes, on both emulated GPUs
    python examples/context_parallel.py --world-size 3
    torchrun --nproc-per-node 2 examples/context_parallel.py
"""

import argparse
import contextlib
import os
import socket
import sys
from dataclasses import dataclass

# The emulators of all processes share the cores: threads that spin while they wait would take them away.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.distributed as dist

import flashinfer_jit
from flashinfer_jit import command_line, emulator
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES

NUM_QO_HEADS, NUM_KV_HEADS, HEAD_DIM = 8, 2, 128
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
WORKSPACE_BYTES = 32 << 20


@dataclass(frozen=True)
class Part:
    """The keys that one process holds, ``begin`` up to ``end`` of ``kv_len``."""

    begin: int
    end: int
    kv_len: int


def part_of(rank, world_size, kv_len):
    """Return a process's part: all are equally long within one key."""
    return Part(rank * kv_len // world_size, (rank + 1) * kv_len // world_size, kv_len)


def prefill_part(wrapper, q, k, v, part):
    """Attend causal queries, the last tokens of the sequence, to the keys of one part.

    Parameters
    ----------
    wrapper : BatchPrefillWithRaggedKVCacheWrapper
        Planned here.
    q : torch.Tensor
        ``[qo_len, num_qo_heads, head_dim]``: query ``i`` sees the keys up to ``kv_len - qo_len + i``.
    k, v : torch.Tensor
        ``[part.end - part.begin, num_kv_heads, head_dim]``.
    part : Part
        Where these keys are in the sequence.

    Returns
    -------
    tuple of torch.Tensor
        Outputs, and log-sum-exps ``[qo_len, num_qo_heads]`` float32. Queries whose position is before the part see none
        of it: their output is 0 and their log-sum-exp -inf, which merging takes for what it is.
    """
    qo_len = q.shape[0]
    o = torch.empty_like(q)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    # The query at the part's last key is where causality ends: those after it see the whole part. A causal mask is
    # aligned to the last query and the last key, so the queries up to there are a causal problem of their own, in which
    # those before the part are the rows without keys.
    boundary = max(part.end - (part.kv_len - qo_len), 0)
    for rows, causal in ((slice(0, boundary), True), (slice(boundary, qo_len), False)):
        num_rows = rows.stop - rows.start
        if num_rows:
            qo_indptr, kv_indptr = (torch.tensor([0, n], dtype=torch.int32) for n in (num_rows, k.shape[0]))
            wrapper.plan(qo_indptr, kv_indptr, NUM_QO_HEADS, NUM_KV_HEADS, HEAD_DIM, causal=causal, q_data_type=q.dtype)
            wrapper.run(q[rows], k, v, out=o[rows], lse=lse[rows], return_lse=True)
    return o, lse


def gather(tensor):
    """Return the tensors of all processes."""
    tensors = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(tensors, tensor.contiguous())
    return tensors


def prefill(wrapper, q, k, v, part):
    """Return the attention over the keys of all processes, and its log-sum-exp."""
    states = list(zip(*map(gather, prefill_part(wrapper, q, k, v, part)), strict=True))
    o, lse = states[0]
    for state in states[1:]:
        flashinfer_jit.merge_state_in_place(o, lse, *state)
    return o, lse


def decode(q, k, v):
    """Return the attention of one query, ``[num_qo_heads, head_dim]``, over the keys of all processes, and the lse."""
    o, lse = flashinfer_jit.single_decode_with_kv_cache(q, k, v, return_lse=True)
    # One row, a state of each process.
    o, lse = flashinfer_jit.merge_states(torch.stack(gather(o))[None], torch.stack(gather(lse))[None])
    return o[0], lse[0]


def compare(name, dtype, found, expected):
    """Print how far a result is from that of a single process; return whether it is within the dtype's tolerance."""
    # Both sides of the comparison are rounded, and so are the partial outputs that are merged.
    worst = max(
        tolerance.worst(x, y)
        for tolerance, x, y in zip((TOLERANCES[dtype], LSE_TOLERANCE), found, expected, strict=True)
    )
    error, lse_error = ((x.double() - y.double()).abs().max().item() for x, y in zip(found, expected, strict=True))
    good = worst <= 1
    # Every process must have come to the same result; one says so.
    all_good = torch.tensor(int(good), device=found[0].device)
    dist.all_reduce(all_good, dist.ReduceOp.MIN)
    if dist.get_rank() == 0:
        print(
            f"{'ok    ' if all_good else 'FAILED'} {name:36} {str(dtype).removeprefix('torch.'):9} largest error "
            f"{error:.2e} ({worst:.2f} of what is allowed), of the log-sum-exp {lse_error:.2e}",
            flush=True,
        )
    return bool(all_good)


def run(options):
    """Do what every process does; return whether all results were right."""
    device = flashinfer_jit.device()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    part = part_of(rank, world_size, options.kv_len)
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(workspace)
    results = []
    for dtype in options.dtypes:
        # The same sequence everywhere, of which each process then looks at its part; so there is something to compare.
        generator = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(n, heads, HEAD_DIM, generator=generator).to(device, dtype)
            for n, heads in (
                (options.kv_len, NUM_QO_HEADS),
                (options.kv_len, NUM_KV_HEADS),
                (options.kv_len, NUM_KV_HEADS),
            )
        )
        k_part, v_part = k[part.begin : part.end], v[part.begin : part.end]
        # All queries: those of the first part lie before all others. Then only the last ones, as of a later chunk.
        for qo_len in dict.fromkeys((options.kv_len, min(options.qo_len, options.kv_len))):
            found = prefill(wrapper, q[-qo_len:], k_part, v_part, part)
            expected = flashinfer_jit.single_prefill_with_kv_cache(q[-qo_len:], k, v, causal=True, return_lse=True)
            results.append(compare(f"prefill, {qo_len} queries, {options.kv_len} keys", dtype, found, expected))
        found = decode(q[-1], k_part, v_part)
        expected = flashinfer_jit.single_decode_with_kv_cache(q[-1], k, v, return_lse=True)
        results.append(compare(f"decode, {options.kv_len} keys", dtype, found, expected))
    return all(results)


def process(rank, options, address):
    """Join the others, check, and leave with status 1 if something was wrong."""
    on_gpu = flashinfer_jit.device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    dist.init_process_group("nccl" if on_gpu else "gloo", init_method=address, rank=rank, world_size=options.world_size)
    good = True
    try:
        for arch in [None] if on_gpu else options.archs:
            if rank == 0:
                where = "GPUs" if arch is None else f"emulated {arch}"
                print(f"{options.world_size} processes, {where}", flush=True)
            with contextlib.nullcontext() if arch is None else emulator.use_arch(arch):
                good &= run(options)
    finally:
        dist.destroy_process_group()
    if not good:
        sys.exit(1)


def main():
    parser = command_line.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=sorted(ARCHS), help="one emulated GPU instead of both")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="one dtype instead of both")
    parser.add_argument("--world-size", type=command_line.positive, default=2, help="processes (%(default)s)")
    parser.add_argument("--kv-len", type=command_line.positive, default=301, help="keys of the sequence (%(default)s)")
    parser.add_argument(
        "--qo-len", type=command_line.positive, default=100, help="queries of the shorter prefill (%(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="accepted: the check is what this program does")
    options = parser.parse_args()
    options.dtypes = [DTYPES[options.dtype]] if options.dtype else list(DTYPES.values())
    options.archs = [options.arch] if options.arch else list(ARCHS)
    if "RANK" in os.environ:
        # Under torchrun, which has started the processes and says in the environment how they find each other.
        options.world_size = int(os.environ["WORLD_SIZE"])
        process(int(os.environ["RANK"]), options, "env://")
        return 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        torch.multiprocessing.spawn(process, (options, f"tcp://127.0.0.1:{port}"), nprocs=options.world_size, join=True)
    except torch.multiprocessing.ProcessExitedException as failure:
        return failure.exit_code
    print("\nequal to the attention of a single process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
