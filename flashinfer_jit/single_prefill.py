"""Launching the attention of one request's query tokens: tile, split of the keys, kernels."""

from dataclasses import dataclass

import torch

from flashinfer_jit import merge, scheduler, validation
from flashinfer_jit.attention_options import LOG2_E, LogitsOptions
from flashinfer_jit.backends import aiter_prefill
from flashinfer_jit.head_scales import HeadScales
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.runtime.base import Runtime
from flashinfer_jit.variant_binding import VariantArguments, VariantBinding


@dataclass(frozen=True, slots=True)
class SinglePrefillProblem:
    """All that a call's kernel depends on beside the lengths: found by validating, kept for the next call like it."""

    arch: Arch
    tiles: tuple[tiling.TileConfig, ...]
    keys: tuple[KernelKey, ...]
    merge_key: KernelKey
    logits: LogitsOptions
    dtype_o: torch.dtype
    num_qo_heads: int
    num_kv_heads: int
    group_size: int
    head_dim_vo: int
    default_sm_scale: float
    causal: bool
    has_custom_mask: bool
    # Which dimension of k and v counts tokens, and which heads.
    kv_token_dim: int
    kv_head_dim: int
    # None unless AITER was asked for and honours all of the above.
    aiter: aiter_prefill.SinglePrefill | None
    variant: VariantBinding | None


def launch(
    active: Runtime,
    problem: SinglePrefillProblem,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    scales: HeadScales,
    return_lse: bool,
    extra: VariantArguments | None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Check lengths and strides, choose tile and split, launch."""
    qo_len, kv_len = q.shape[0], k.shape[problem.kv_token_dim]
    if v.shape[problem.kv_token_dim] != kv_len:
        raise ValueError(
            f"Invalid shape of v: expected kv_len {kv_len} as that of k, got {v.shape[problem.kv_token_dim]}"
        )
    if problem.causal and kv_len < qo_len:
        raise ValueError(
            f"kv_len must be greater than or equal to qo_len with causal=True, got kv_len={kv_len} and "
            f"qo_len={qo_len}: the last query is aligned to the last key, so the first queries would see none"
        )
    num_rows = qo_len * problem.group_size
    if max(kv_len, qo_len * problem.num_qo_heads) > validation.INT32_MAX:
        raise ValueError(
            f"kv_len={kv_len} and qo_len * num_qo_heads={qo_len * problem.num_qo_heads} must be at most "
            f"{validation.INT32_MAX}"
        )

    q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
    token_dim, head_dim = problem.kv_token_dim, problem.kv_head_dim
    addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
    # Sixteen elements are 16 bytes at least; one test of the common case, the careful ones when it fails.
    strides = q_strides[0] | q_strides[1] | k_strides[0] | k_strides[1] | v_strides[0] | v_strides[1]
    address_bits = addresses[0] | addresses[1] | addresses[2]
    if (
        (strides & 15 or address_bits & 15 or strides > validation.MAX_TOKEN_STRIDE_BYTES // 2)
        or not q_strides[2] == k_strides[2] == v_strides[2] == 1
    ):  # fmt: skip
        q, k, v = (validation.aligned_rows(name, tensor) for name, tensor in (("q", q), ("k", k), ("v", v)))
        q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
        addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
        validation.check_token_stride("k", k, token_dim)
        validation.check_token_stride("v", v, token_dim)

    if problem.aiter is not None and qo_len > 0:
        tokens_first = (k, v) if token_dim == 0 else (k.transpose(0, 1), v.transpose(0, 1))
        result = problem.aiter.run(q, *tokens_first, scale, scales, return_lse)
        if result is not None:
            return result
    o = torch.empty((qo_len, problem.num_qo_heads, problem.head_dim_vo), dtype=problem.dtype_o, device=q.device)
    lse = torch.empty((qo_len, problem.num_qo_heads), dtype=torch.float32, device=q.device) if return_lse else None
    if qo_len == 0:
        return o if lse is None else (o, lse)
    work = tiling.Work(num_rows=num_rows, num_problems=problem.num_kv_heads, kv_len=kv_len)
    tile = tiling.choose(problem.tiles, work, problem.arch.num_cus)
    num_chunks, chunk_len = _split(problem, tile, num_rows, qo_len, kv_len)
    kernel = kernels.get_kernel(problem.keys[problem.tiles.index(tile)], active)
    tensors = {"q": q, "k": k, "v": v, "o": o}
    partial_o = partial_lse = None
    if num_chunks > 1:
        partial_rows = (qo_len * num_chunks, problem.num_qo_heads)
        partial_o = torch.empty((*partial_rows, problem.head_dim_vo), dtype=torch.float32, device=q.device)
        partial_lse = torch.empty(partial_rows, dtype=torch.float32, device=q.device)
        tensors.update(partial_o=partial_o, partial_lse=partial_lse)
    elif lse is not None:
        tensors["lse"] = lse
    if mask is not None:
        tensors["custom_mask"] = mask
    logits = problem.logits
    params = kernel.params_type(
        q=addresses[0],
        k=addresses[1],
        v=addresses[2],
        o=o.data_ptr(),
        lse=None if lse is None else lse.data_ptr(),
        custom_mask=None if mask is None else mask.data_ptr(),
        partial_o=None if partial_o is None else partial_o.data_ptr(),
        partial_lse=None if partial_lse is None else partial_lse.data_ptr(),
        q_stride_n=q_strides[0],
        q_stride_h=q_strides[1],
        k_stride_n=k_strides[token_dim],
        k_stride_h=k_strides[head_dim],
        v_stride_n=v_strides[token_dim],
        v_stride_h=v_strides[head_dim],
        o_stride_n=problem.num_qo_heads * problem.head_dim_vo,
        o_stride_h=problem.head_dim_vo,
        qo_len=qo_len,
        kv_len=kv_len,
        num_qo_heads=problem.num_qo_heads,
        num_kv_heads=problem.num_kv_heads,
        sm_scale_log2=scale * scales.logits * LOG2_E,
        output_scale=scales.output,
        logits_soft_cap=logits.logits_soft_cap,
        window_left=logits.window_left,
        num_chunks=num_chunks,
        kv_chunk_len=chunk_len,
        rope_frequency=logits.rope_frequency,
        rope_decay=logits.rope_decay,
    )
    if scales.tensors:
        tensors.update(scales.tensors)
        scales.fill(params)
    if extra is not None:
        extra.apply(params, tensors)
    active.launch(kernel, params, tensors, None)
    if partial_o is not None and partial_lse is not None:
        merge.merge_partials(
            active,
            problem.merge_key,
            partial_o,
            partial_lse,
            o,
            lse,
            num_rows=qo_len,
            num_states=num_chunks,
            output_scale=scales.output,
            attention=(params, tensors),
        )
    return o if lse is None else (o, lse)


def _split(
    problem: SinglePrefillProblem, tile: tiling.TileConfig, num_rows: int, qo_len: int, kv_len: int
) -> tuple[int, int]:
    """Return how many chunks the keys are cut into, so that few queries on many keys fill the GPU, and their length."""
    num_tiles = -(-num_rows // tile.block_q) * problem.num_kv_heads
    blocks_per_cu = max(4 * tile.waves_per_simd // tile.num_waves, 1)
    max_parts = problem.arch.num_cus * blocks_per_cu // num_tiles
    window = problem.logits.window_left
    # Chunks are counted from key 0: those that a window hides from every query would only cost partial results.
    if max_parts < 2 or 0 <= window < kv_len - qo_len:
        return 1, kv_len
    chunk_len = -(-scheduler.split_one(kv_len, max_parts)[1] // tile.block_kv) * tile.block_kv
    num_chunks = -(-kv_len // chunk_len)
    return (num_chunks, chunk_len) if num_chunks > 1 else (1, kv_len)
