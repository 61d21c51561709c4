"""FlashInfer's ``attention`` module: mixed batches of prefills and decodes, and batches with attention sinks."""

from collections.abc import Sequence
from typing import Any

import torch

from flashinfer_jit import runtime, validation
from flashinfer_jit.batch_prefill import BatchPrefillWithPagedKVCacheWrapper
from flashinfer_jit.prefill_launch import Attention

__all__ = ["BatchAttention", "BatchAttentionWithAttentionSinkWrapper"]

Cache = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
WORKSPACE_BYTES = 128 << 20


class BatchAttention:
    """Attention of a batch of requests with any numbers of query tokens over a paged cache, in one launch.

    ``BatchPrefillWithPagedKVCacheWrapper`` with a workspace of its own and lengths instead of last pages.

    Parameters
    ----------
    kv_layout : str
        ``NHD`` or ``HND``.
    device : torch.device or str, optional
        Where the workspace is; the default is ``flashinfer_jit.device()``.
    """

    def __init__(self, kv_layout: str = "NHD", device: torch.device | str | None = None) -> None:
        device = runtime.device() if device is None else device
        workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._paged = BatchPrefillWithPagedKVCacheWrapper(workspace, kv_layout)
        self._logits_soft_cap = 0.0

    def plan(
        self,
        qo_indptr: torch.Tensor,
        kv_indptr: torch.Tensor,
        kv_indices: torch.Tensor,
        kv_len_arr: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        head_dim_vo: int,
        page_size: int,
        causal: bool = False,
        sm_scale: float | None = None,
        logits_soft_cap: float | None = None,
        q_data_type: str | torch.dtype = torch.bfloat16,
        kv_data_type: str | torch.dtype = torch.bfloat16,
        use_profiler: bool = False,
    ) -> None:
        """Say what the batch looks like, find the kernels and distribute the work over the GPU.

        Parameters
        ----------
        qo_indptr, kv_indptr, kv_indices
            As ``qo_indptr``, ``paged_kv_indptr`` and ``paged_kv_indices`` of
            ``BatchPrefillWithPagedKVCacheWrapper.plan``.
        kv_len_arr : torch.Tensor
            ``[batch_size]`` int32: keys of each request. On a GPU it is copied to the host, which waits for the stream.
        num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo, page_size, causal, sm_scale, logits_soft_cap, \
        q_data_type, kv_data_type
            As for ``BatchPrefillWithPagedKVCacheWrapper.plan``.
        use_profiler : bool
            FlashInfer's profiler in the kernel. Refused: ``python -m flashinfer_jit.profile`` is ours.

        Raises
        ------
        UnsupportedConfigError
            For a dtype, head dimension or option that no kernel is built for; it is a ValueError.
        ValueError
            For sizes, shapes and contents that do not fit.
        """
        if use_profiler:
            validation.refuse("use_profiler", use_profiler, "False")
        lens, pages = kv_len_arr.cpu(), kv_indptr.cpu().diff()
        if len(lens) != len(pages) or bool((lens > pages * page_size).any() or (lens <= (pages - 1) * page_size).any()):
            raise ValueError(
                f"kv_len_arr does not agree with kv_indptr: requests have {pages.tolist()} pages of {page_size} and "
                f"{lens.tolist()} keys"
            )
        self._paged.plan(
            *(qo_indptr, kv_indptr, kv_indices, (lens - (pages - 1).clamp(min=0) * page_size).to(torch.int32)),
            *(num_qo_heads, num_kv_heads, head_dim_qk, page_size, head_dim_vo),
            causal=causal,
            sm_scale=sm_scale,
            logits_soft_cap=logits_soft_cap,
            q_data_type=q_data_type,
            kv_data_type=kv_data_type,
        )
        self._logits_soft_cap = self._paged._logits_soft_cap

    def run(
        self,
        q: torch.Tensor,
        kv_cache: Cache,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        k_scale: float | torch.Tensor | None = None,
        v_scale: float | torch.Tensor | None = None,
        logits_soft_cap: float = 0.0,
        profiler_buffer: torch.Tensor | None = None,
        kv_cache_sf: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Launch the planned attention.

        Parameters
        ----------
        q, kv_cache, out, lse, k_scale, v_scale
            As for ``BatchPrefillWithPagedKVCacheWrapper.run``.
        logits_soft_cap : float
            0 or the planned one.
        profiler_buffer, kv_cache_sf : optional
            Not built.

        Returns
        -------
        tuple of torch.Tensor
            The output, ``[nnz, num_qo_heads, head_dim_vo]``, and the log-sum-exp to base 2, ``[nnz, num_qo_heads]``.

        Raises
        ------
        RuntimeError
            If ``plan()`` has not been called.
        ValueError
            For tensors that do not fit the plan.
        """
        validation.refuse_given({"profiler_buffer": profiler_buffer, "kv_cache_sf": kv_cache_sf})
        if logits_soft_cap not in (0.0, self._logits_soft_cap):
            raise ValueError(f"logits_soft_cap={logits_soft_cap} is not the planned one, {self._logits_soft_cap}")
        result = self._paged.run(q, kv_cache, k_scale=k_scale, v_scale=v_scale, out=out, lse=lse, return_lse=True)
        assert isinstance(result, tuple)
        return result


class BatchAttentionWithAttentionSinkWrapper(BatchPrefillWithPagedKVCacheWrapper):
    """``BatchPrefillWithPagedKVCacheWrapper`` whose ``run()`` takes the sinks, and the softmax scale, by position.

    Parameters
    ----------
    float_workspace_buffer, kv_layout, use_cuda_graph, qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf, \
    paged_kv_last_page_len_buf, custom_mask_buf, mask_indptr_buf, backend
        As for ``BatchPrefillWithPagedKVCacheWrapper``.
    pos_encoding_mode, use_fp16_qk_reduction, q_data_type, kv_data_type, head_dim_qk, head_dim_vo, window_left
        What FlashInfer compiles its kernel for. Here ``plan()`` decides, and takes from these what it is not given.
    """

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: torch.Tensor | None = None,
        paged_kv_indptr_buf: torch.Tensor | None = None,
        paged_kv_indices_buf: torch.Tensor | None = None,
        paged_kv_last_page_len_buf: torch.Tensor | None = None,
        custom_mask_buf: torch.Tensor | None = None,
        mask_indptr_buf: torch.Tensor | None = None,
        backend: str = "auto",
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        q_data_type: str | torch.dtype = torch.bfloat16,
        kv_data_type: str | torch.dtype = torch.bfloat16,
        head_dim_qk: int = 128,
        head_dim_vo: int = 128,
        window_left: int = -1,
    ) -> None:
        buffers: Sequence[torch.Tensor | None] = (
            *(qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf, paged_kv_last_page_len_buf),
            *(custom_mask_buf, mask_indptr_buf),
        )
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph, *buffers, backend)
        self._defaults = {
            "head_dim_vo": head_dim_vo,
            "pos_encoding_mode": pos_encoding_mode,
            "use_fp16_qk_reduction": use_fp16_qk_reduction,
            "window_left": window_left,
            "q_data_type": q_data_type,
            "kv_data_type": kv_data_type,
            "use_sinks": True,
        }
        self._head_dim_qk = head_dim_qk

    def plan(self, *args: Any, **kwargs: Any) -> None:
        """Plan as ``BatchPrefillWithPagedKVCacheWrapper`` does; options not given are the constructor's.

        Raises
        ------
        UnsupportedConfigError, ValueError, KeyError
            As there; ValueError also for another ``head_dim_qk`` than the constructor's.
        """
        by_position = _PLAN_ARGUMENTS[: len(args)]
        head_dim = kwargs.get("head_dim_qk", args[6] if len(args) > 6 else self._head_dim_qk)
        if head_dim != self._head_dim_qk:
            raise ValueError(f"head_dim_qk={head_dim} is not that of the wrapper, {self._head_dim_qk}")
        super().plan(*args, **{k: v for k, v in self._defaults.items() if k not in by_position} | kwargs)

    begin_forward = plan

    def run(  # type: ignore[override]
        self,
        q: torch.Tensor,
        paged_kv_cache: Cache,
        sink: torch.Tensor | None = None,
        sm_scale: float | None = None,
        **kwargs: Any,
    ) -> Attention:
        """Launch the planned attention with sinks.

        Parameters
        ----------
        q, paged_kv_cache
            As for ``BatchPrefillWithPagedKVCacheWrapper.run``, as are all others.
        sink : torch.Tensor, optional
            ``[num_qo_heads]`` float32: logits of a key whose value is 0, one per head.
        sm_scale : float, optional
            The softmax scale instead of the planned one.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            As there.

        Raises
        ------
        RuntimeError, KeyError, ValueError
            As there.
        """
        if sm_scale is not None:
            self._replan(False, sm_scale=sm_scale)
        if sink is not None:
            kwargs["sinks"] = sink
        return super().run(q, paged_kv_cache, **kwargs)


_PLAN_ARGUMENTS = (
    *("qo_indptr", "paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len", "num_qo_heads", "num_kv_heads"),
    *("head_dim_qk", "page_size", "head_dim_vo", "custom_mask", "packed_custom_mask", "causal", "pos_encoding_mode"),
    *("use_fp16_qk_reduction", "sm_scale", "window_left", "logits_soft_cap", "rope_scale", "rope_theta"),
    *("q_data_type", "kv_data_type"),
)
