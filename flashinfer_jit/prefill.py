"""Prefill attention: many query tokens of a request against its keys and values."""

import functools
import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from flashinfer_jit import env, masks, merge, ops, runtime, scheduler, validation
from flashinfer_jit.attention_options import (
    LOG2_E,
    LogitsOptions,
    check_dtypes,
    check_logits_options,
    scale_factor,
    softmax_scale,
)
from flashinfer_jit.backends import aiter, aiter_prefill
from flashinfer_jit.batch_prefill import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.runtime.base import Runtime

__all__ = [
    "BatchPrefillWithPagedKVCacheWrapper",
    "BatchPrefillWithRaggedKVCacheWrapper",
    "single_prefill_with_kv_cache",
    "single_prefill_with_kv_cache_return_lse",
]


@dataclass(frozen=True, slots=True)
class _Problem:
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


# Calls that passed validation, by everything validation looks at except lengths and strides.
_problems: dict[tuple[Any, ...], _Problem] = {}


def single_prefill_with_kv_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale_q: float | torch.Tensor | None = None,
    scale_k: float | torch.Tensor | None = None,
    scale_v: float | torch.Tensor | None = None,
    o_dtype: torch.dtype | None = None,
    custom_mask: torch.Tensor | None = None,
    packed_custom_mask: torch.Tensor | None = None,
    causal: bool = False,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_fp16_qk_reduction: bool = False,
    sm_scale: float | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
    *,
    k_scale: float | torch.Tensor | None = None,
    v_scale: float | torch.Tensor | None = None,
    kv_cache_sf: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    r"""Return the attention of one request's query tokens over its keys and values.

    Computes ``softmax(q k^T * sm_scale + mask) v`` for every query head, with sums and softmax in float32. Query head
    ``h`` uses KV head ``h // (num_qo_heads // num_kv_heads)``. Forward only: no gradient flows through it.

    Parameters
    ----------
    q : torch.Tensor
        Queries, ``[qo_len, num_qo_heads, head_dim_qk]``, float16, bfloat16 or any of the four fp8 dtypes.
        As for ``k`` and ``v``, any strides will do whose last one is 1; rows that do not start at multiples of 16 bytes
        are copied first, with a warning.
    k : torch.Tensor
        Keys, ``[kv_len, num_kv_heads, head_dim_qk]`` for NHD, ``[num_kv_heads, kv_len, head_dim_qk]`` for HND, of the
        dtype of ``q`` or of any of the four fp8 dtypes; with fp8 queries, of any of all these. What is fp8 is converted
        exactly on both architectures, to the 16-bit dtype of the other operand, or float16 if there is none.
    v : torch.Tensor
        Values, ``[kv_len, num_kv_heads, head_dim_vo]`` or ``[num_kv_heads, kv_len, head_dim_vo]``.
    scale_q, scale_k, scale_v : float or torch.Tensor, optional
        Scales of quantised tensors, one number each: those of ``q`` and ``k`` multiply the softmax scale, that of ``v``
        the output. A tensor of one element is read on the host. Scales per head are refused.
    o_dtype : torch.dtype, optional
        The output's dtype, float16, bfloat16 or float32; the default is that of ``q``, or, if that is fp8, that of
        ``k`` and ``v``, or, if that is fp8 too, bfloat16.
    custom_mask : torch.Tensor, optional
        ``[qo_len, kv_len]`` bool, True where the query sees the key. It replaces ``causal``.
    packed_custom_mask : torch.Tensor, optional
        The same as bits, ``[ceil(qo_len * kv_len / 8)]`` uint8, the first in the lowest bit. It wins over
        ``custom_mask``.
    causal : bool
        Whether query ``i`` sees the keys ``j <= i + kv_len - qo_len`` only: the last query sees the last key.
    kv_layout : str
        ``NHD`` or ``HND``. Neither costs more than the other.
    pos_encoding_mode : str
        ``NONE``, ``ROPE_LLAMA`` (``q`` and ``k`` are rotated in the kernel: key ``j`` stands at position ``j``, query
        ``i`` at ``i + kv_len - qo_len``) or ``ALIBI`` (``slope * (j - i)`` is added; slopes as in arXiv 2108.12409).
    use_fp16_qk_reduction : bool
        Sums of ``q k^T`` in float16. Refused: the matrix instructions sum in float32 at no cost.
    sm_scale : float, optional
        The softmax scale, above 0; the default is ``1 / sqrt(head_dim_qk)``.
    window_left : int
        Keys to the left of its own position that a query sees; -1 is all. Tiles outside are not read.
    logits_soft_cap : float, optional
        ``cap * tanh(logit / cap)``, before the mask; None and 0 mean none.
    rope_scale, rope_theta : float, optional
        Interpolation factor and base of ``ROPE_LLAMA``; the defaults are 1 and 10000. With bfloat16 inputs, rotated
        queries and keys are rounded to bfloat16, which the log-sum-exp shows by up to about 5e-3.
    backend : str
        ``auto`` and ``fa2`` are this package's kernels; ``aiter`` is AITER's flash_attn_func, refused by name where
        that would not honour an argument. See ``FLASHINFER_JIT_BACKEND`` for what ``auto`` can mean.
    return_lse : bool
        Whether to return the log-sum-exp too.
    k_scale, v_scale : float or torch.Tensor, optional
        The same as ``scale_k`` and ``scale_v``; giving both is an error.
    kv_cache_sf : optional
        Block scales of FP4 caches. Refused: there is no FP4 kernel.

    Returns
    -------
    torch.Tensor or tuple of torch.Tensor
        The output, ``[qo_len, num_qo_heads, head_dim_vo]``; with ``return_lse`` also the log-sum-exp of the scaled
        logits to base 2, ``[qo_len, num_qo_heads]`` float32. A query that sees no key (``kv_len`` 0) has output 0 and
        log-sum-exp -inf.

    Raises
    ------
    UnsupportedConfigError
        For an argument, dtype or head dimension that no kernel is built for; it is a ValueError.
    ValueError
        For shapes, strides and devices that do not fit, head counts that do not divide, an unknown backend, and a
        causal mask with ``kv_len < qo_len``.
    KeyError
        For an unknown ``kv_layout`` or ``pos_encoding_mode``.
    TypeError
        If ``q``, ``k`` or ``v`` is no tensor.
    HipError
        If the launch fails.

    Examples
    --------
    >>> import torch, flashinfer_jit
    >>> device = flashinfer_jit.device()
    >>> q = torch.randn(77, 32, 128, dtype=torch.float16, device=device)
    >>> k, v = torch.randn(2, 300, 8, 128, dtype=torch.float16, device=device).unbind()
    >>> flashinfer_jit.single_prefill_with_kv_cache(q, k, v, causal=True).shape
    torch.Size([77, 32, 128])
    """
    if torch.compiler.is_compiling():
        return _traced(
            q,
            k,
            v,
            (scale_q, scale_k, scale_v, k_scale, v_scale),
            {"use_fp16_qk_reduction": use_fp16_qk_reduction or None, "kv_cache_sf": kv_cache_sf},
            o_dtype=o_dtype,
            custom_mask=custom_mask,
            packed_custom_mask=packed_custom_mask,
            causal=bool(causal),
            kv_layout=kv_layout,
            pos_encoding_mode=pos_encoding_mode,
            sm_scale=sm_scale,
            window_left=window_left,
            logits_soft_cap=logits_soft_cap,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
            backend=backend,
            return_lse=bool(return_lse),
        )
    active = runtime.current()
    has_custom_mask = custom_mask is not None or packed_custom_mask is not None
    options = (
        *(o_dtype, has_custom_mask, causal, kv_layout, pos_encoding_mode, use_fp16_qk_reduction, window_left),
        *(logits_soft_cap, rope_scale, rope_theta, backend),
    )
    problem = None
    try:
        token_dim = 1 if kv_layout == "HND" else 0
        arch = active.arch(q.device)
        signature = (
            *(active.kind, arch.name, q.device, k.device, v.device, q.dtype, k.dtype, v.dtype, q.ndim, k.ndim, v.ndim),
            *(q.shape[1:], k.shape[1 - token_dim], k.shape[2], v.shape[1 - token_dim], v.shape[2]),
            *(options, os.environ.get(env.BACKEND.name)),
        )
        problem = _problems.get(signature)
    except (AttributeError, IndexError, TypeError):
        # Something is no tensor, has too few dimensions, or is not hashable: validation says what.
        signature = None
    if problem is None:
        problem = _validate(active, q, k, v, *options)
        if signature is not None:
            _problems[signature] = problem
    if kv_cache_sf is not None:
        validation.refuse("kv_cache_sf", kv_cache_sf, "None")
    scale = problem.default_sm_scale
    output_scale = 1.0
    given = (sm_scale, scale_q, scale_k, scale_v, k_scale, v_scale)
    if any(value is not None for value in given):
        k_factor = scale_factor("scale_k", scale_k, "k_scale", k_scale)
        output_scale = scale_factor("scale_v", scale_v, "v_scale", v_scale)
        scale = softmax_scale(scale, sm_scale) * scale_factor("scale_q", scale_q) * k_factor
    mask = None
    if has_custom_mask:
        mask = masks.single_mask(custom_mask, packed_custom_mask, q.shape[0], k.shape[problem.kv_token_dim], q.device)
    return _run(active, problem, q, k, v, mask, scale, output_scale, return_lse)


# What torch.compile sees of a call. Operators have a fixed number of results: an empty log-sum-exp stands for none.
_SCHEMA = """single_prefill(Tensor q, Tensor k, Tensor v, *, ScalarType? o_dtype, Tensor? custom_mask,
    Tensor? packed_custom_mask, bool causal, str kv_layout, str pos_encoding_mode, float? sm_scale, int window_left,
    float? logits_soft_cap, float? rope_scale, float? rope_theta, str backend, bool return_lse, float? q_scale,
    float? k_scale, float? v_scale, Tensor? q_scale_tensor, Tensor? k_scale_tensor, Tensor? v_scale_tensor)
    -> (Tensor, Tensor)"""


def _operator(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    q_scale: float | None,
    k_scale: float | None,
    v_scale: float | None,
    q_scale_tensor: torch.Tensor | None,
    k_scale_tensor: torch.Tensor | None,
    v_scale_tensor: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    scales = {
        "scale_q": ops.join_scale(q_scale, q_scale_tensor),
        "scale_k": ops.join_scale(k_scale, k_scale_tensor),
        "scale_v": ops.join_scale(v_scale, v_scale_tensor),
    }
    result = single_prefill_with_kv_cache(q, k, v, **scales, **options)
    return result if isinstance(result, tuple) else (result, q.new_empty(0, dtype=torch.float32))


def _fake(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, o_dtype: torch.dtype | None, return_lse: bool, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    dtypes = check_dtypes(q.dtype, k.dtype, o_dtype, ("q", "k", "o_dtype"))
    o = q.new_empty((*q.shape[:2], v.shape[2]), dtype=dtypes[2])
    return o, q.new_empty(q.shape[:2] if return_lse else 0, dtype=torch.float32)


_single_prefill = ops.define(_SCHEMA, _operator, _fake)


def _traced(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scales: tuple[Any, ...], unbuilt: dict[str, Any], **options: Any
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Put the call into the graph that is being traced."""
    validation.refuse_given(unbuilt)
    scale_q, scale_k, scale_v, k_scale, v_scale = scales
    for name, scale, other in (("scale_k", scale_k, k_scale), ("scale_v", scale_v, v_scale)):
        if scale is not None and other is not None:
            raise ValueError(f"{name} and {name[-1]}_scale are the same scale: give one of them")
    q_number, q_tensor = ops.split_scale(scale_q)
    k_number, k_tensor = ops.split_scale(scale_k if k_scale is None else k_scale)
    v_number, v_tensor = ops.split_scale(scale_v if v_scale is None else v_scale)
    numbers = {"q_scale": q_number, "k_scale": k_number, "v_scale": v_number}
    tensors = {"q_scale_tensor": q_tensor, "k_scale_tensor": k_tensor, "v_scale_tensor": v_tensor}
    o, lse = _single_prefill(q, k, v, **options, **numbers, **tensors)
    return (o, lse) if options["return_lse"] else o


single_prefill_with_kv_cache_return_lse = functools.partial(single_prefill_with_kv_cache, return_lse=True)


def _validate(
    active: Runtime,
    q: Any,
    k: Any,
    v: Any,
    o_dtype: Any,
    has_custom_mask: bool,
    causal: bool,
    kv_layout: str,
    pos_encoding_mode: str,
    use_fp16_qk_reduction: bool,
    window_left: int,
    logits_soft_cap: float | None,
    rope_scale: float | None,
    rope_theta: float | None,
    backend: str,
) -> _Problem:
    """Check everything about a call that is not a length, a stride or a scale, and find its kernels."""
    validation.check_kv_layout(kv_layout)
    validation.check_pos_encoding_mode(pos_encoding_mode)
    kv_dims = ("kv_len", "num_kv_heads") if kv_layout == "NHD" else ("num_kv_heads", "kv_len")
    validation.check_tensor("q", q, ("qo_len", "num_qo_heads", "head_dim_qk"))
    validation.check_tensor("k", k, (*kv_dims, "head_dim_qk"))
    validation.check_tensor("v", v, (*kv_dims, "head_dim_vo"))
    validation.check_device(active, {"q": q, "k": k, "v": v})

    dtypes = check_dtypes(q.dtype, k.dtype, o_dtype, ("q", "k", "o_dtype"))
    dtype_q, dtype_kv, dtype_o = (validation.DTYPE_NAMES[dtype] for dtype in dtypes)
    validation.check_dtype("v", v.dtype, (k.dtype,), " as that of k")
    if use_fp16_qk_reduction:
        validation.refuse("use_fp16_qk_reduction", use_fp16_qk_reduction, "False")
    logits = check_logits_options(
        pos_encoding_mode, window_left, logits_soft_cap, rope_scale, rope_theta, max(q.shape[2], 1)
    )

    head_dim_qk, head_dim_vo = q.shape[2], v.shape[2]
    if k.shape[2] != head_dim_qk:
        raise ValueError(f"Invalid shape of k: expected head_dim_qk {head_dim_qk} as that of q, got {k.shape[2]}")
    token_dim, head_dim = (0, 1) if kv_layout == "NHD" else (1, 0)
    if v.shape[head_dim] != k.shape[head_dim]:
        raise ValueError(
            f"Invalid shape of v: expected num_kv_heads {k.shape[head_dim]} as that of k, got {v.shape[head_dim]}"
        )
    group_size = validation.check_heads(q.shape[1], k.shape[head_dim])

    arch = active.arch(q.device)
    config = AttentionConfig(
        phase="prefill",
        dtype_q=dtype_q,
        dtype_kv=dtype_kv,
        dtype_o=dtype_o,
        head_dim_qk=head_dim_qk,
        head_dim_vo=head_dim_vo,
        group_size=group_size,
        mask_mode="custom" if has_custom_mask else "causal" if causal else "none",
        position_encoding=logits.position_encoding,
        has_window=window_left >= 0,
        has_soft_cap=logits.logits_soft_cap > 0,
    )
    tiles = tiling.candidates(config, arch)
    theirs = None
    if aiter.is_wanted(backend):
        theirs = aiter_prefill.single(
            backend,
            aiter.Call(
                operation=aiter.SINGLE,
                device_type=q.device.type,
                dtype_q=q.dtype,
                dtype_kv=k.dtype,
                dtype_o=q.dtype if o_dtype is None else o_dtype,
                head_dim_qk=head_dim_qk,
                head_dim_vo=head_dim_vo,
                group_size=group_size,
                mask_mode=config.mask_mode,
                position_encoding=logits.position_encoding,
                kv_layout=kv_layout,
                window_left=window_left,
                logits_soft_cap=logits.logits_soft_cap,
            ),
        )
    return _Problem(
        arch=arch,
        tiles=tiles,
        keys=tuple(KernelKey(config, tile, arch) for tile in tiles),
        merge_key=merge.merge_key(arch, "float32", dtype_o, head_dim_vo),
        logits=logits,
        dtype_o=dtypes[2],
        num_qo_heads=q.shape[1],
        num_kv_heads=k.shape[head_dim],
        group_size=group_size,
        head_dim_vo=head_dim_vo,
        default_sm_scale=1.0 / math.sqrt(head_dim_qk),
        causal=bool(causal) and not has_custom_mask,
        has_custom_mask=has_custom_mask,
        kv_token_dim=token_dim,
        kv_head_dim=head_dim,
        aiter=theirs,
    )


def _run(
    active: Runtime,
    problem: _Problem,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    output_scale: float,
    return_lse: bool,
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
        result = problem.aiter.run(q, *tokens_first, scale, output_scale, return_lse)
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
        sm_scale_log2=scale * LOG2_E,
        output_scale=1.0 if num_chunks > 1 else output_scale,
        logits_soft_cap=logits.logits_soft_cap,
        window_left=logits.window_left,
        num_chunks=num_chunks,
        kv_chunk_len=chunk_len,
        rope_frequency=logits.rope_frequency,
        rope_decay=logits.rope_decay,
    )
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
            output_scale=output_scale,
        )
    return o if lse is None else (o, lse)


def _split(problem: _Problem, tile: tiling.TileConfig, num_rows: int, qo_len: int, kv_len: int) -> tuple[int, int]:
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
