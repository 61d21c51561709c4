"""Decode attention: one query token of a request, or a few, against its keys and values."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flashinfer_jit import env, head_scales, merge, ops, runtime, scheduler, validation
from flashinfer_jit.attention_options import (
    LOG2_E,
    LogitsOptions,
    check_dtypes,
    check_logits_options,
    softmax_scale,
)
from flashinfer_jit.backends import aiter
from flashinfer_jit.batch_decode import BatchDecodeWithPagedKVCacheWrapper
from flashinfer_jit.head_scales import NO_SCALES, HeadScales, Scale
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.attention import CustomModule
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.runtime.base import Runtime
from flashinfer_jit.variant_binding import VariantArguments, VariantBinding, bind_call, bind_variant
from flashinfer_jit.variants import AttentionVariant

__all__ = [
    "BatchDecodeWithPagedKVCacheWrapper",
    "CUDAGraphBatchDecodeWithPagedKVCacheWrapper",
    "fast_decode_plan",
    "single_decode_with_kv_cache",
    "single_decode_with_kv_cache_with_jit_module",
]


@dataclass(frozen=True, slots=True)
class _Problem:
    """All that a call depends on beside the number of keys and strides; kept for the next call like it."""

    key: KernelKey
    merge_key: KernelKey
    logits: LogitsOptions
    dtype_o: torch.dtype
    max_parts: int
    num_qo_heads: int
    num_kv_heads: int
    head_dim_vo: int
    default_sm_scale: float
    # Which dimension of k and v counts tokens, and which heads.
    kv_token_dim: int
    kv_head_dim: int
    variant: VariantBinding | None


# Calls that passed validation, by everything validation looks at except lengths and strides.
_problems: dict[tuple[Any, ...], _Problem] = {}


def single_decode_with_kv_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_layout: str = "NHD",
    pos_encoding_mode: str = "NONE",
    use_tensor_cores: bool = False,
    q_scale: Scale = None,
    k_scale: Scale = None,
    v_scale: Scale = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    sm_scale: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    return_lse: bool = False,
    *,
    variant: AttentionVariant | CustomModule | None = None,
    variant_args: Sequence[Any] = (),
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    r"""Return the attention of one request's newest token over its keys and values.

    Computes ``softmax(q k^T * sm_scale) v`` for every query head, with sums and softmax in float32. Query head ``h``
    uses KV head ``h // (num_qo_heads // num_kv_heads)``, any number of them to one; each key and value is read once
    for all of them, up to 64 heads (32 if the head dimension is above 128). Long caches are split
    over the GPU's compute units and the parts merged by a second kernel; nothing synchronises, so the call can be
    captured into a graph.

    Parameters
    ----------
    q : torch.Tensor
        Queries, ``[num_qo_heads, head_dim_qk]``, float16, bfloat16 or any of the four fp8 dtypes. As for ``k`` and
        ``v``, any strides will do whose last one is 1; rows that do not start at multiples of 16 bytes are copied
        first, with a warning.
    k : torch.Tensor
        Keys, ``[kv_len, num_kv_heads, head_dim_qk]`` for NHD, ``[num_kv_heads, kv_len, head_dim_qk]`` for HND, of the
        dtype of ``q`` or of any of the four fp8 dtypes; with fp8 queries, of any of all these. What is fp8 is converted
        exactly on both architectures, to the 16-bit dtype of the other operand, or float16 if there is none.
    v : torch.Tensor
        Values, ``[kv_len, num_kv_heads, head_dim_vo]`` or ``[num_kv_heads, kv_len, head_dim_vo]``, dtype as ``k``.
    kv_layout : str
        ``NHD`` or ``HND``. Neither costs more than the other.
    pos_encoding_mode : str
        ``NONE``, ``ROPE_LLAMA`` (``k`` holds unrotated keys, token ``i`` at position ``i``, the query at
        ``kv_len - 1``) or ``ALIBI`` (``slope * key index`` is added, after a soft cap; slopes as in arXiv 2108.12409).
    use_tensor_cores : bool
        Accepted for compatibility: matrix instructions are always used.
    q_scale, k_scale, v_scale : float or torch.Tensor, optional
        Scales of quantised tensors: those of ``q`` and ``k`` multiply the softmax scale, that of ``v`` the output. A
        number; or a tensor on the device with one element, or with one for each query head (``q_scale``) or KV head,
        which the kernel reads: nothing waits for it.
    window_left : int
        Keys to the left that the query sees beside its own; -1 is all. Keys outside are not read.
    logits_soft_cap : float, optional
        ``cap * tanh(logit / cap)``; None and 0 mean none.
    sm_scale : float, optional
        The softmax scale, above 0; the default is ``1 / sqrt(head_dim_qk)``.
    rope_scale, rope_theta : float, optional
        Interpolation factor and base of ``ROPE_LLAMA``; the defaults are 1 and 10000. With bfloat16 queries, rotated
        queries and keys are rounded to bfloat16, which the log-sum-exp shows by up to about 5e-3.
    return_lse : bool
        Whether to return the log-sum-exp too.
    variant : AttentionVariant or CustomModule, optional
        A custom variant; see ``flashinfer_jit.variants``. Not while ``torch.compile`` traces.
    variant_args : sequence
        Values of its tensors, then of its scalars.

    Returns
    -------
    torch.Tensor or tuple of torch.Tensor
        The output, ``[num_qo_heads, head_dim_vo]`` of the dtype of ``q``, or, if that is fp8, of that of ``k`` and
        ``v``, or, if that is fp8 too, bfloat16; with ``return_lse`` also the log-sum-exp of the logits to base 2,
        ``[num_qo_heads]`` float32. Without keys (``kv_len`` 0) they are 0 and -inf.

    Raises
    ------
    UnsupportedConfigError
        For a dtype or head dimension that no kernel is built for; it is a ValueError.
    ValueError
        For shapes, strides and devices that do not fit, head counts that do not divide, options out of range.
    KeyError
        For an unknown ``kv_layout`` or ``pos_encoding_mode``.
    TypeError
        If ``q``, ``k`` or ``v`` is no tensor.
    HipError
        If a launch fails.

    Examples
    --------
    >>> import torch, flashinfer_jit
    >>> device = flashinfer_jit.device()
    >>> q = torch.randn(32, 128, dtype=torch.float16, device=device)
    >>> k, v = torch.randn(2, 1000, 8, 128, dtype=torch.float16, device=device).unbind()
    >>> flashinfer_jit.single_decode_with_kv_cache(q, k, v).shape
    torch.Size([32, 128])
    """
    if torch.compiler.is_compiling():
        validation.refuse_given({"variant": variant})
        o, lse = _single_decode(
            q,
            k,
            v,
            kv_layout=kv_layout,
            pos_encoding_mode=pos_encoding_mode,
            **_split_scales(q_scale=q_scale, k_scale=k_scale, v_scale=v_scale),
            window_left=window_left,
            logits_soft_cap=logits_soft_cap,
            sm_scale=sm_scale,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
            return_lse=bool(return_lse),
        )
        return (o, lse) if return_lse else o
    active = runtime.current()
    options = (kv_layout, pos_encoding_mode, window_left, logits_soft_cap, rope_scale, rope_theta, variant)
    problem = None
    try:
        token_dim = 1 if kv_layout == "HND" else 0
        signature = (
            *(active.kind, active.arch(q.device).name, q.device, k.device, v.device, q.dtype, k.dtype, v.dtype),
            *(q.shape, k.ndim, v.ndim, k.shape[1 - token_dim], k.shape[2], v.shape[1 - token_dim], v.shape[2]),
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
    scale = problem.default_sm_scale if sm_scale is None else softmax_scale(1.0, sm_scale)
    scales = NO_SCALES
    if not (q_scale is k_scale is v_scale is None):
        scales = head_scales.read(q_scale, k_scale, v_scale, problem.num_qo_heads, problem.num_kv_heads, q.device)
    extra = None
    if problem.variant is not None or variant_args:
        factors = {"sm_scale": sm_scale, "q_scale": q_scale, "k_scale": k_scale}
        factors |= {"v_scale": v_scale} if isinstance(v_scale, torch.Tensor) else {}
        extra = bind_call(problem.variant, variant_args, q.device, problem.num_qo_heads, return_lse, **factors)
    return _run(active, problem, q, k, v, scale, scales, return_lse, extra)


# What torch.compile sees of a call. Operators have a fixed number of results: an empty log-sum-exp stands for none.
_SCHEMA = """single_decode(Tensor q, Tensor k, Tensor v, *, str kv_layout, str pos_encoding_mode, float? q_scale,
    float? k_scale, float? v_scale, Tensor? q_scale_tensor, Tensor? k_scale_tensor, Tensor? v_scale_tensor,
    int window_left, float? logits_soft_cap, float? sm_scale, float? rope_scale, float? rope_theta, bool return_lse)
    -> (Tensor, Tensor)"""


def _split_scales(**scales: Scale) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, scale in scales.items():
        arguments[name], arguments[f"{name}_tensor"] = ops.split_scale(scale)
    return arguments


def _operator(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    for name in head_scales.NAMES:
        options[name] = ops.join_scale(options[name], options.pop(f"{name}_tensor"))
    result = single_decode_with_kv_cache(q, k, v, **options)
    return result if isinstance(result, tuple) else (result, q.new_empty(0, dtype=torch.float32))


def _fake(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, return_lse: bool, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    dtypes = check_dtypes(q.dtype, k.dtype, None, ("q", "k", "o"))
    o = q.new_empty((q.shape[0], v.shape[2]), dtype=dtypes[2])
    return o, q.new_empty(q.shape[:1] if return_lse else 0, dtype=torch.float32)


_single_decode = ops.define(_SCHEMA, _operator, _fake)


def _validate(
    active: Runtime,
    q: Any,
    k: Any,
    v: Any,
    kv_layout: str,
    pos_encoding_mode: str,
    window_left: int,
    logits_soft_cap: float | None,
    rope_scale: float | None,
    rope_theta: float | None,
    variant: AttentionVariant | CustomModule | None,
) -> _Problem:
    """Check everything about a call that is not a length, a stride or a scale, and find its kernels."""
    validation.check_kv_layout(kv_layout)
    if aiter.is_wanted("auto"):
        aiter.decline("auto", aiter.NO_SINGLE_DECODE)
    bound = None if variant is None else bind_variant(variant, "single_decode")
    kv_dims = ("kv_len", "num_kv_heads") if kv_layout == "NHD" else ("num_kv_heads", "kv_len")
    validation.check_tensor("q", q, ("num_qo_heads", "head_dim_qk"))
    validation.check_tensor("k", k, (*kv_dims, "head_dim_qk"))
    validation.check_tensor("v", v, (*kv_dims, "head_dim_vo"))
    validation.check_device(active, {"q": q, "k": k, "v": v})
    dtypes = check_dtypes(q.dtype, k.dtype, None, ("q", "k", "o"))
    dtype_q, dtype_kv, dtype_o = (validation.DTYPE_NAMES[dtype] for dtype in dtypes)
    validation.check_dtype("v", v.dtype, (k.dtype,), " as that of k")
    num_qo_heads, head_dim_qk = q.shape
    if k.shape[2] != head_dim_qk:
        raise ValueError(f"Invalid shape of k: expected head_dim_qk {head_dim_qk} as that of q, got {k.shape[2]}")
    token_dim, head_dim = (0, 1) if kv_layout == "NHD" else (1, 0)
    num_kv_heads = k.shape[head_dim]
    if v.shape[head_dim] != num_kv_heads:
        raise ValueError(
            f"Invalid shape of v: expected num_kv_heads {num_kv_heads} as that of k, got {v.shape[head_dim]}"
        )
    group_size = validation.check_heads(num_qo_heads, num_kv_heads)
    logits = check_logits_options(
        pos_encoding_mode, window_left, logits_soft_cap, rope_scale, rope_theta, max(head_dim_qk, 1)
    )

    arch = active.arch(q.device)
    config = AttentionConfig(
        phase="decode",
        dtype_q=dtype_q,
        dtype_kv=dtype_kv,
        dtype_o=dtype_o,
        head_dim_qk=head_dim_qk,
        head_dim_vo=v.shape[2],
        group_size=group_size,
        mask_mode="causal",
        position_encoding=logits.position_encoding,
        has_window=logits.window_left >= 0,
        has_soft_cap=logits.logits_soft_cap > 0,
        variant=None if bound is None else bound.text,
    )
    if bound is not None:
        bound.check_config(config)
    tile = tiling.smallest_holding(tiling.candidates(config, arch), group_size)
    return _Problem(
        key=KernelKey(config, tile, arch),
        merge_key=merge.partials_key(arch, config),
        logits=logits,
        dtype_o=dtypes[2],
        # One for each compute unit: its waves have enough loads on their way, and every part more has to be merged.
        max_parts=max(int(tiling.units_of_a_part(arch, tile, group_size, num_kv_heads)), 1),
        num_qo_heads=num_qo_heads,
        num_kv_heads=num_kv_heads,
        head_dim_vo=v.shape[2],
        default_sm_scale=1.0 / math.sqrt(head_dim_qk),
        kv_token_dim=token_dim,
        kv_head_dim=head_dim,
        variant=bound,
    )


def _run(
    active: Runtime,
    problem: _Problem,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    scales: HeadScales,
    return_lse: bool,
    extra: VariantArguments | None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Check lengths and strides, split the keys, launch."""
    token_dim, head_dim = problem.kv_token_dim, problem.kv_head_dim
    num_heads, head_dim_vo = problem.num_qo_heads, problem.head_dim_vo
    kv_len = k.shape[token_dim]
    if v.shape[token_dim] != kv_len:
        raise ValueError(f"Invalid shape of v: expected kv_len {kv_len} as that of k, got {v.shape[token_dim]}")
    if kv_len > validation.INT32_MAX:
        raise ValueError(f"kv_len={kv_len} must be at most {validation.INT32_MAX}")
    q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
    addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
    # Sixteen elements are 16 bytes at least; one test of the common case, the careful ones when it fails.
    strides = q_strides[0] | k_strides[0] | k_strides[1] | v_strides[0] | v_strides[1]
    if (
        (strides | addresses[0] | addresses[1] | addresses[2]) & 15
        or strides > validation.MAX_TOKEN_STRIDE_BYTES // 2
        or not q_strides[1] == k_strides[2] == v_strides[2] == 1
    ):
        q, k, v = (validation.aligned_rows(name, tensor) for name, tensor in (("q", q), ("k", k), ("v", v)))
        q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
        addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
        validation.check_token_stride("k", k, token_dim)
        validation.check_token_stride("v", v, token_dim)

    kernel = kernels.get_kernel(problem.key, active)
    logits = problem.logits
    kv_begin = max(0, kv_len - 1 - logits.window_left) if logits.window_left >= 0 else 0
    parts, chunk = scheduler.split_one(kv_len - kv_begin, problem.max_parts)
    device = q.device
    o = torch.empty((num_heads, head_dim_vo), dtype=problem.dtype_o, device=device)
    lse = torch.empty((num_heads,), dtype=torch.float32, device=device) if return_lse else None
    tensors = {"q": q, "k": k, "v": v, "o": o}
    partial_o = partial_lse = None
    if parts > 1:
        partial_o = torch.empty((parts, num_heads, head_dim_vo), dtype=torch.float32, device=device)
        partial_lse = torch.empty((parts, num_heads), dtype=torch.float32, device=device)
        tensors.update(partial_o=partial_o, partial_lse=partial_lse)
    elif lse is not None:
        tensors["lse"] = lse
    params = kernel.params_type(
        q=addresses[0],
        k=addresses[1],
        v=addresses[2],
        o=o.data_ptr(),
        lse=None if lse is None else lse.data_ptr(),
        partial_o=None if partial_o is None else partial_o.data_ptr(),
        partial_lse=None if partial_lse is None else partial_lse.data_ptr(),
        q_stride_h=q_strides[0],
        k_stride_n=k_strides[token_dim],
        k_stride_h=k_strides[head_dim],
        v_stride_n=v_strides[token_dim],
        v_stride_h=v_strides[head_dim],
        o_stride_h=head_dim_vo,
        num_work_items=parts,
        qo_len=1,
        kv_begin=kv_begin,
        kv_len=kv_len,
        kv_chunk=chunk,
        num_qo_heads=num_heads,
        num_kv_heads=problem.num_kv_heads,
        window_left=logits.window_left,
        sm_scale_log2=scale * scales.logits * LOG2_E,
        output_scale=scales.output,
        logits_soft_cap=logits.logits_soft_cap,
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
            o[None],
            None if lse is None else lse[None],
            num_rows=1,
            num_states=parts,
            output_scale=scales.output,
            attention=(params, tensors),
        )
    return o if lse is None else (o, lse)


def single_decode_with_kv_cache_with_jit_module(
    jit_module: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *args: Any,
    kv_layout: str = "NHD",
    window_left: int = -1,
    return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Return ``single_decode_with_kv_cache`` with a custom variant, in FlashInfer's form.

    Parameters
    ----------
    jit_module : CustomModule or AttentionVariant
        From ``flashinfer_jit.jit.gen_customize_single_decode_module``, or a variant.
    q, k, v, kv_layout, window_left, return_lse
        As for ``single_decode_with_kv_cache``.
    *args
        Values of the variant's tensors, then of its scalars.

    Returns
    -------
    torch.Tensor or tuple of torch.Tensor
        As for ``single_decode_with_kv_cache``.

    Raises
    ------
    TypeError
        If ``jit_module`` is neither.
    ValueError
        For tensors that the module was not declared for, and what ``single_decode_with_kv_cache`` refuses.
    """
    mode = bind_variant(jit_module, "single_decode").pos_encoding_mode
    options = {"kv_layout": kv_layout, "pos_encoding_mode": mode, "window_left": window_left, "return_lse": return_lse}
    return single_decode_with_kv_cache(q, k, v, **options, variant=jit_module, variant_args=args)


class CUDAGraphBatchDecodeWithPagedKVCacheWrapper(BatchDecodeWithPagedKVCacheWrapper):
    """The wrapper for captured graphs; see ``BatchDecodeWithPagedKVCacheWrapper`` with ``use_cuda_graph=True``."""

    def __init__(
        self,
        workspace_buffer: torch.Tensor,
        indptr_buffer: torch.Tensor,
        indices_buffer: torch.Tensor,
        last_page_len_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_tensor_cores: bool = False,
    ) -> None:
        super().__init__(
            workspace_buffer,
            kv_layout,
            use_cuda_graph=True,
            use_tensor_cores=use_tensor_cores,
            paged_kv_indptr_buffer=indptr_buffer,
            paged_kv_indices_buffer=indices_buffer,
            paged_kv_last_page_len_buffer=last_page_len_buffer,
        )


def fast_decode_plan(
    self: BatchDecodeWithPagedKVCacheWrapper,
    indptr: torch.Tensor,
    indices: torch.Tensor,
    last_page_len: torch.Tensor,
    num_qo_heads: int,
    num_kv_heads: int,
    head_dim: int,
    page_size: int,
    pos_encoding_mode: str = "NONE",
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    q_data_type: str | torch.dtype | None = None,
    kv_data_type: str | torch.dtype | None = None,
    data_type: str | torch.dtype | None = None,
    sm_scale: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    non_blocking: bool = True,
    fixed_split_size: int | None = None,
    disable_split_kv: bool = False,
    q_len_per_req: int = 1,
    global_override_indptr_cpu: torch.Tensor | None = None,
) -> None:
    """Plan a batch decode without a copy from the device, if ``indptr`` is given on the host too.

    Engines bind it as ``wrapper.begin_forward = functools.partial(fast_decode_plan, wrapper)``.

    Parameters
    ----------
    self : BatchDecodeWithPagedKVCacheWrapper
        The wrapper to plan.
    global_override_indptr_cpu : torch.Tensor, optional
        ``indptr`` on the host.
    indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, pos_encoding_mode, window_left, \
    logits_soft_cap, q_data_type, kv_data_type, data_type, sm_scale, rope_scale, rope_theta, non_blocking, \
    fixed_split_size, disable_split_kv, q_len_per_req
        As for ``BatchDecodeWithPagedKVCacheWrapper.plan``, whose errors this raises too.
    """
    BatchDecodeWithPagedKVCacheWrapper.plan(
        self,
        *(indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, pos_encoding_mode),
        *(window_left, logits_soft_cap, q_data_type, kv_data_type, data_type, sm_scale, rope_scale, rope_theta),
        fixed_split_size=fixed_split_size,
        disable_split_kv=disable_split_kv,
        q_len_per_req=q_len_per_req,
        indptr_host=global_override_indptr_cpu,
    )


_ranges: dict[torch.device, torch.Tensor] = {}


def _get_range_buf(seq_len: int, device: torch.device) -> torch.Tensor:
    """Return 0, 1, ... as int32 on ``device``, a view of one tensor that grows by powers of two: engines call this."""
    numbers = _ranges.get(torch.device(device))
    if numbers is None or numbers.shape[0] < seq_len:
        size = 1 << max(seq_len - 1, 0).bit_length()
        numbers = _ranges[torch.device(device)] = torch.arange(size, dtype=torch.int32, device=device)
    return numbers[:seq_len]
