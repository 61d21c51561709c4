"""Prefill attention: many query tokens of a request against its keys and values."""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import torch

from flashinfer_jit import env, head_scales, masks, merge, ops, runtime, validation
from flashinfer_jit.attention_options import (
    check_dtypes,
    check_logits_options,
    mask_mode,
    softmax_scale,
)
from flashinfer_jit.backends import aiter, aiter_prefill
from flashinfer_jit.batch_prefill import BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper
from flashinfer_jit.head_scales import NO_SCALES
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.attention import CustomModule
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.runtime.base import Runtime
from flashinfer_jit.single_prefill import SinglePrefillProblem, launch
from flashinfer_jit.variant_binding import bind_call, bind_variant
from flashinfer_jit.variants import AttentionVariant

__all__ = [
    "BatchPrefillWithPagedKVCacheWrapper",
    "BatchPrefillWithRaggedKVCacheWrapper",
    "single_prefill_with_kv_cache",
    "single_prefill_with_kv_cache_return_lse",
    "single_prefill_with_kv_cache_with_jit_module",
]


# Calls that passed validation, by everything validation looks at except lengths and strides.
_problems: dict[tuple[Any, ...], SinglePrefillProblem] = {}


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
    variant: AttentionVariant | CustomModule | None = None,
    variant_args: Sequence[Any] = (),
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
        Scales of quantised tensors: those of ``q`` and ``k`` multiply the softmax scale, that of ``v`` the output. A
        number; or a tensor on the device with one element, or with one for each query head (``scale_q``) or KV head,
        which the kernel reads; nothing waits for it.
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
        ``i`` at ``i + kv_len - qo_len``) or ``ALIBI`` (``slope * (j - i)`` is added, after a soft cap; slopes as in
        arXiv 2108.12409).
    use_fp16_qk_reduction : bool
        Sums of ``q k^T`` in float16. Refused: the matrix instructions sum in float32 at no cost.
    sm_scale : float, optional
        The softmax scale, above 0; the default is ``1 / sqrt(head_dim_qk)``.
    window_left : int
        Keys to the left of its own position that a query sees; -1 is all. Tiles outside are not read.
    logits_soft_cap : float, optional
        ``cap * tanh(logit / cap)``, before the mask; None and 0 mean none.
    rope_scale, rope_theta : float, optional
        Interpolation factor and base of ``ROPE_LLAMA``; the defaults are 1 and 10000. Angles are of float64, sines and
        products of float32, and the rotated ``q`` and ``k`` are rounded once to the 16-bit dtype of the products. With
        ``u`` half its epsilon, that moves a log-sum-exp by at most ``log2(e) * sm_scale * 2 u * |q| * max |k|``.
    backend : str
        ``auto`` and ``fa2`` are this package's kernels; ``aiter`` is AITER's flash_attn_func, refused by name where
        that would not honour an argument. See ``FLASHINFER_JIT_BACKEND`` for what ``auto`` can mean.
    return_lse : bool
        Whether to return the log-sum-exp too.
    k_scale, v_scale : float or torch.Tensor, optional
        The same as ``scale_k`` and ``scale_v``; giving both is an error.
    kv_cache_sf : optional
        Block scales of FP4 caches. Refused: there is no FP4 kernel.
    variant : AttentionVariant or CustomModule, optional
        A custom variant; see ``flashinfer_jit.variants``. Not while ``torch.compile`` traces.
    variant_args : sequence
        Values of its tensors, then of its scalars.

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
            {"use_fp16_qk_reduction": use_fp16_qk_reduction or None, "kv_cache_sf": kv_cache_sf, "variant": variant},
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
        *(logits_soft_cap, rope_scale, rope_theta, backend, variant),
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
    scales = NO_SCALES
    if sm_scale is not None:
        scale = softmax_scale(1.0, sm_scale)
    if not (scale_q is scale_k is scale_v is k_scale is v_scale is None):
        k_name, scale_k = head_scales.one_of("scale_k", scale_k, "k_scale", k_scale)
        v_name, scale_v = head_scales.one_of("scale_v", scale_v, "v_scale", v_scale)
        names = ("scale_q", k_name, v_name)
        heads = (problem.num_qo_heads, problem.num_kv_heads)
        scales = head_scales.read(scale_q, scale_k, scale_v, *heads, q.device, names)
    mask = None
    if has_custom_mask:
        mask = masks.single_mask(custom_mask, packed_custom_mask, q.shape[0], k.shape[problem.kv_token_dim], q.device)
    extra = None
    if problem.variant is not None or variant_args:
        factors = {"sm_scale": sm_scale, "scale_q": scale_q, "scale_k": scale_k}
        factors |= {"scale_v": scale_v} if isinstance(scale_v, torch.Tensor) else {}
        extra = bind_call(problem.variant, variant_args, q.device, problem.num_qo_heads, return_lse, **factors)
    return launch(active, problem, q, k, v, mask, scale, scales, return_lse, extra)


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


def single_prefill_with_kv_cache_with_jit_module(
    jit_module: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *args: Any,
    kv_layout: str = "NHD",
    mask_mode: int = 0,
    window_left: int = -1,
    return_lse: bool = False,
    custom_mask: torch.Tensor | None = None,
    packed_custom_mask: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Return ``single_prefill_with_kv_cache`` with a custom variant, in FlashInfer's form.

    Parameters
    ----------
    jit_module : CustomModule or AttentionVariant
        From ``flashinfer_jit.jit.gen_customize_single_prefill_module``, or a variant.
    q, k, v, kv_layout, window_left, return_lse, custom_mask, packed_custom_mask
        As for ``single_prefill_with_kv_cache``.
    *args
        Values of the variant's tensors, then of its scalars.
    mask_mode : int
        A ``flashinfer_jit.utils.MaskMode`` or its number: 0 for none, 1 for causal, 2 for that of the variant, which is
        in force with all of them.

    Returns
    -------
    torch.Tensor or tuple of torch.Tensor
        As for ``single_prefill_with_kv_cache``.

    Raises
    ------
    TypeError
        If ``jit_module`` is neither.
    ValueError
        For tensors that the module was not declared for, an unknown mask mode, and what
        ``single_prefill_with_kv_cache`` refuses.
    """
    bound = bind_variant(jit_module, "single_prefill")
    number = getattr(mask_mode, "value", mask_mode)
    if number not in (0, 1, 2):
        validation.refuse("mask_mode", mask_mode, "0 (none), 1 (causal) or 2 (that of the variant)")
    options: dict[str, Any] = {"kv_layout": kv_layout, "pos_encoding_mode": bound.pos_encoding_mode}
    options |= {"window_left": window_left, "return_lse": return_lse, "causal": number == 1}
    options |= {"custom_mask": custom_mask, "packed_custom_mask": packed_custom_mask}
    if bound.dtype_o is not None:
        options["o_dtype"] = getattr(torch, bound.dtype_o)
    return single_prefill_with_kv_cache(q, k, v, **options, variant=jit_module, variant_args=args)


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
    variant: AttentionVariant | CustomModule | None,
) -> SinglePrefillProblem:
    """Check everything about a call that is not a length, a stride or a scale, and find its kernels."""
    validation.check_kv_layout(kv_layout)
    validation.check_pos_encoding_mode(pos_encoding_mode)
    bound = None if variant is None else bind_variant(variant, "single_prefill")
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
        mask_mode=mask_mode(has_custom_mask, causal),
        position_encoding=logits.position_encoding,
        has_window=logits.window_left >= 0,
        has_soft_cap=logits.logits_soft_cap > 0,
        variant=None if bound is None else bound.text,
    )
    if bound is not None:
        bound.check_config(config)
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
                variant=config.variant,
            ),
        )
    return SinglePrefillProblem(
        arch=arch,
        tiles=tiles,
        keys=tuple(KernelKey(config, tile, arch) for tile in tiles),
        merge_key=merge.partials_key(arch, config),
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
        variant=bound,
    )
