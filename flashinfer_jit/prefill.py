"""Prefill attention: many query tokens of a request against its keys and values."""

import functools
import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from flashinfer_jit import env, runtime, validation
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.runtime.base import Runtime

__all__ = ["single_prefill_with_kv_cache", "single_prefill_with_kv_cache_return_lse"]

LOG2_E = math.log2(math.e)
DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Problem:
    """All that a call's kernel depends on beside the lengths: found by validating, kept for the next call like it."""

    arch: Arch
    tiles: tuple[tiling.TileConfig, ...]
    keys: tuple[KernelKey, ...]
    dtype_o: torch.dtype
    num_qo_heads: int
    num_kv_heads: int
    group_size: int
    head_dim_vo: int
    default_sm_scale: float
    causal: bool
    # Which dimension of k and v counts tokens, and which heads.
    kv_token_dim: int
    kv_head_dim: int


# Calls that passed validation, by everything validation looks at except lengths and strides.
_problems: dict[tuple[Any, ...], _Problem] = {}


def single_prefill_with_kv_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale_q: torch.Tensor | None = None,
    scale_k: torch.Tensor | None = None,
    scale_v: torch.Tensor | None = None,
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
        Queries, ``[qo_len, num_qo_heads, head_dim_qk]``, float16 or bfloat16. As for ``k`` and ``v``, any strides will
        do whose last one is 1 and whose others are multiples of 16 bytes; nothing is copied.
    k : torch.Tensor
        Keys, ``[kv_len, num_kv_heads, head_dim_qk]`` for NHD, ``[num_kv_heads, kv_len, head_dim_qk]`` for HND.
    v : torch.Tensor
        Values, ``[kv_len, num_kv_heads, head_dim_vo]`` or ``[num_kv_heads, kv_len, head_dim_vo]``.
    scale_q, scale_k, scale_v : torch.Tensor, optional
        Scales of fp8 inputs. Not built yet.
    o_dtype : torch.dtype, optional
        The output's dtype; the default is that of ``q``, and no other is built yet.
    custom_mask, packed_custom_mask : torch.Tensor, optional
        Masks as tensors. Not built yet.
    causal : bool
        Whether query ``i`` sees the keys ``j <= i + kv_len - qo_len`` only: the last query sees the last key.
    kv_layout : str
        ``NHD`` or ``HND``. Neither costs more than the other.
    pos_encoding_mode : str
        ``NONE``; ``ROPE_LLAMA`` and ``ALIBI`` are not built yet.
    use_fp16_qk_reduction : bool
        Sums of ``q k^T`` in float16. Not built: the matrix instructions sum in float32 at no cost.
    sm_scale : float, optional
        The softmax scale, above 0; the default is ``1 / sqrt(head_dim_qk)``.
    window_left : int
        Keys to the left that a query sees; -1 is all. A window is not built yet.
    logits_soft_cap : float, optional
        Cap of the logits by tanh; None and 0 mean none. Not built yet.
    rope_scale, rope_theta : float, optional
        Parameters of ``ROPE_LLAMA``. Not built yet.
    backend : str
        ``auto`` and ``fa2`` are this package's kernels; ``aiter`` is not built yet.
    return_lse : bool
        Whether to return the log-sum-exp too.
    k_scale, v_scale, kv_cache_sf : optional
        Scales of quantised keys and values. Not built yet.

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
    active = runtime.current()
    options = (
        *(scale_q, scale_k, scale_v, o_dtype, custom_mask, packed_custom_mask, causal, kv_layout, pos_encoding_mode),
        *(use_fp16_qk_reduction, window_left, logits_soft_cap, rope_scale, rope_theta, backend),
        *(k_scale, v_scale, kv_cache_sf, os.environ.get(env.BACKEND.name)),
    )
    problem = None
    try:
        token_dim = 1 if kv_layout == "HND" else 0
        arch = active.arch(q.device)
        signature = (
            *(active.kind, arch.name, q.device, k.device, v.device, q.dtype, k.dtype, v.dtype, q.ndim, k.ndim, v.ndim),
            *(q.shape[1:], k.shape[1 - token_dim], k.shape[2], v.shape[1 - token_dim], v.shape[2]),
            options,
        )
        problem = _problems.get(signature)
    except (AttributeError, IndexError, TypeError):
        # Something is no tensor, has too few dimensions, or is not hashable: validation says what.
        signature = None
    if problem is None:
        problem = _validate(active, q, k, v, *options[:-1])
        if signature is not None:
            _problems[signature] = problem
    return _run(active, problem, q, k, v, sm_scale, return_lse)


single_prefill_with_kv_cache_return_lse = functools.partial(single_prefill_with_kv_cache, return_lse=True)


def _validate(
    active: Runtime,
    q: Any,
    k: Any,
    v: Any,
    scale_q: Any,
    scale_k: Any,
    scale_v: Any,
    o_dtype: Any,
    custom_mask: Any,
    packed_custom_mask: Any,
    causal: bool,
    kv_layout: str,
    pos_encoding_mode: str,
    use_fp16_qk_reduction: bool,
    window_left: int,
    logits_soft_cap: float | None,
    rope_scale: float | None,
    rope_theta: float | None,
    backend: str,
    k_scale: Any,
    v_scale: Any,
    kv_cache_sf: Any,
) -> _Problem:
    """Check everything about a call that is not a length or a stride, and find its configuration."""
    validation.check_kv_layout(kv_layout)
    validation.check_pos_encoding_mode(pos_encoding_mode)
    validation.resolve_backend(backend)
    kv_dims = ("kv_len", "num_kv_heads") if kv_layout == "NHD" else ("num_kv_heads", "kv_len")
    validation.check_tensor("q", q, ("qo_len", "num_qo_heads", "head_dim_qk"))
    validation.check_tensor("k", k, (*kv_dims, "head_dim_qk"))
    validation.check_tensor("v", v, (*kv_dims, "head_dim_vo"))
    validation.check_device(active, {"q": q, "k": k, "v": v})

    dtype_q = validation.check_dtype("q", q.dtype, DTYPES)
    dtype_kv = validation.check_dtype("k", k.dtype, (q.dtype,), " as that of q")
    validation.check_dtype("v", v.dtype, (k.dtype,), " as that of k")
    dtype_o = validation.check_dtype("o_dtype", q.dtype if o_dtype is None else o_dtype, (q.dtype,), " as that of q")

    validation.check_window_left(window_left)
    cap = validation.check_logits_soft_cap(logits_soft_cap)
    validation.refuse_given({"scale_q": scale_q, "scale_k": scale_k, "scale_v": scale_v})
    validation.refuse_given({"k_scale": k_scale, "v_scale": v_scale, "kv_cache_sf": kv_cache_sf})
    validation.refuse_given({"custom_mask": custom_mask, "packed_custom_mask": packed_custom_mask})
    if pos_encoding_mode != "NONE":
        validation.refuse("pos_encoding_mode", pos_encoding_mode, "'NONE'")
    validation.refuse_given({"rope_scale": rope_scale, "rope_theta": rope_theta})
    if use_fp16_qk_reduction:
        validation.refuse("use_fp16_qk_reduction", use_fp16_qk_reduction, "False")
    if window_left >= 0:
        validation.refuse("window_left", window_left, "-1")
    if cap > 0:
        validation.refuse("logits_soft_cap", logits_soft_cap, "None or 0")

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
        mask_mode="causal" if causal else "none",
    )
    tiles = tiling.candidates(config, arch)
    return _Problem(
        arch=arch,
        tiles=tiles,
        keys=tuple(KernelKey(config, tile, arch) for tile in tiles),
        dtype_o=q.dtype if o_dtype is None else o_dtype,
        num_qo_heads=q.shape[1],
        num_kv_heads=k.shape[head_dim],
        group_size=group_size,
        head_dim_vo=head_dim_vo,
        default_sm_scale=1.0 / math.sqrt(head_dim_qk),
        causal=bool(causal),
        kv_token_dim=token_dim,
        kv_head_dim=head_dim,
    )


def _run(
    active: Runtime,
    problem: _Problem,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sm_scale: float | None,
    return_lse: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Check lengths and strides, choose the tile, launch."""
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
    scale = problem.default_sm_scale if sm_scale is None else validation.check_scale("sm_scale", sm_scale)

    q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
    token_dim, head_dim = problem.kv_token_dim, problem.kv_head_dim
    addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
    # Eight elements of two bytes are 16 bytes; one test of the common case, the careful ones when it fails.
    strides = q_strides[0] | q_strides[1] | k_strides[0] | k_strides[1] | v_strides[0] | v_strides[1]
    address_bits = addresses[0] | addresses[1] | addresses[2]
    if (
        (strides & 7 or address_bits & 15 or strides > validation.MAX_TOKEN_STRIDE_BYTES // 2)
        or not q_strides[2] == k_strides[2] == v_strides[2] == 1
    ):  # fmt: skip
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            validation.check_rows(name, tensor)
        validation.check_token_stride("k", k, token_dim)
        validation.check_token_stride("v", v, token_dim)

    o = torch.empty((qo_len, problem.num_qo_heads, problem.head_dim_vo), dtype=problem.dtype_o, device=q.device)
    lse = torch.empty((qo_len, problem.num_qo_heads), dtype=torch.float32, device=q.device) if return_lse else None
    if qo_len > 0:
        work = tiling.Work(num_rows=num_rows, num_problems=problem.num_kv_heads, kv_len=kv_len)
        tile = tiling.choose(problem.tiles, work, problem.arch.num_cus)
        kernel = kernels.get_kernel(problem.keys[problem.tiles.index(tile)], active)
        params = kernel.params_type(
            q=addresses[0],
            k=addresses[1],
            v=addresses[2],
            o=o.data_ptr(),
            lse=None if lse is None else lse.data_ptr(),
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
            output_scale=1.0,
            num_chunks=1,
            kv_chunk_len=kv_len,
        )
        tensors = {"q": q, "k": k, "v": v, "o": o}
        if lse is not None:
            tensors["lse"] = lse
        active.launch(kernel, params, tensors, None)
    return o if lse is None else (o, lse)
