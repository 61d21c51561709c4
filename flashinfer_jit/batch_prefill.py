"""Batched prefill over ragged and paged keys: plan() makes a list of work on the host, run() launches it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from flashinfer_jit import kv_cache, page_table, validation
from flashinfer_jit.attention_options import check_fixed_split
from flashinfer_jit.prefill_launch import Attention, PrefillLauncher
from flashinfer_jit.prefill_plan import Batch, PlanMade
from flashinfer_jit.prefill_problem import PrefillOptions
from flashinfer_jit.variant_binding import binding
from flashinfer_jit.variants import AttentionVariant

__all__ = ["BatchPrefillWithPagedKVCacheWrapper", "BatchPrefillWithRaggedKVCacheWrapper"]

Scale = float | torch.Tensor | None


class BatchPrefillWithRaggedKVCacheWrapper(PrefillLauncher):
    """Attention of a batch of requests whose queries, keys and values lie one request after the other.

    ``plan()`` once per batch composition, ``run()`` once per layer.

    Parameters
    ----------
    float_workspace_buffer : torch.Tensor
        Memory for partial results of split requests, any dtype, on the device; 128 MiB is plenty. It may be shared by
        wrappers that do not run at the same time. Where it is too small to split, nothing is split.
    kv_layout : str
        Layout of ``k`` and ``v``: ``NHD`` is ``[nnz_kv, num_kv_heads, head_dim]``, ``HND`` is
        ``[num_kv_heads, nnz_kv, head_dim]``. Neither costs more.
    use_cuda_graph : bool
        Whether ``run()`` will be captured: the batch size is fixed, the number of query tokens is at most that of the
        first plan, and every number that a plan changes is read from device memory.
    qo_indptr_buf, kv_indptr_buf : torch.Tensor, optional
        With ``use_cuda_graph``, ``[batch_size + 1]`` int32 on the device: where plans put the indptr arrays.
    custom_mask_buf, mask_indptr_buf : torch.Tensor, optional
        With ``use_cuda_graph`` and custom masks: uint8 for the packed masks, ``[batch_size + 1]`` int32.
    backend : str
        ``auto`` and ``fa2`` are this package's kernels; ``aiter`` is AITER's flash_attn_varlen_func, or
        mha_batch_prefill_func for pages, refused by name where that would not honour an argument. See
        ``FLASHINFER_JIT_BACKEND`` for what ``auto`` can mean.
    jit_args, jit_kwargs : optional
        A custom variant as FlashInfer takes it: ``uri, dtype_q, dtype_kv, dtype_o, idtype, head_dim_qk, head_dim_vo,
        additional_tensor_names, additional_tensor_dtypes, additional_scalar_names, additional_scalar_dtypes,
        variant_name, variant_decl``, and options of it. See ``flashinfer_jit.variants.from_flashinfer``.
    variant_owns_mask : bool
        Accepted with ``jit_args``: a variant's mask is applied in all tiles whatever it is.
    variant : AttentionVariant, optional
        A custom variant; see ``flashinfer_jit.variants``.

    Examples
    --------
    >>> import torch, flashinfer_jit
    >>> device = flashinfer_jit.device()
    >>> workspace = torch.empty(32 << 20, dtype=torch.uint8, device=device)
    >>> wrapper = flashinfer_jit.BatchPrefillWithRaggedKVCacheWrapper(workspace)
    >>> qo_indptr, kv_indptr = (torch.tensor(x, dtype=torch.int32) for x in ([0, 20, 50], [0, 20, 90]))
    >>> wrapper.plan(qo_indptr, kv_indptr, 8, 2, 128, causal=True)
    >>> q = torch.randn(50, 8, 128, dtype=torch.float16, device=device)
    >>> k, v = torch.randn(2, 90, 2, 128, dtype=torch.float16, device=device).unbind()
    >>> wrapper.run(q, k, v).shape
    torch.Size([50, 8, 128])
    """

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf: torch.Tensor | None = None,
        kv_indptr_buf: torch.Tensor | None = None,
        custom_mask_buf: torch.Tensor | None = None,
        mask_indptr_buf: torch.Tensor | None = None,
        backend: str = "auto",
        jit_args: Sequence[Any] | None = None,
        jit_kwargs: Mapping[str, Any] | None = None,
        variant_owns_mask: bool = False,
        *,
        variant: AttentionVariant | None = None,
    ) -> None:
        super().__init__(
            float_workspace_buffer,
            kv_layout,
            use_cuda_graph,
            backend,
            {"qo_indptr": qo_indptr_buf, "kv_indptr": kv_indptr_buf},
            (custom_mask_buf, mask_indptr_buf),
            binding("batch_prefill", variant, jit_args, jit_kwargs, variant_owns_mask),
        )

    def plan(
        self,
        qo_indptr: torch.Tensor,
        kv_indptr: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        head_dim_vo: int | None = None,
        custom_mask: torch.Tensor | None = None,
        packed_custom_mask: torch.Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: str | torch.dtype = "float16",
        kv_data_type: str | torch.dtype | None = None,
        non_blocking: bool = True,
        prefix_len_ptr: torch.Tensor | None = None,
        token_pos_in_items_ptr: torch.Tensor | None = None,
        token_pos_in_items_len: int = 0,
        max_item_len_ptr: torch.Tensor | None = None,
        *,
        o_data_type: str | torch.dtype | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        seq_lens: torch.Tensor | None = None,
        seq_lens_q: torch.Tensor | None = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        v_indptr: torch.Tensor | None = None,
        o_indptr: torch.Tensor | None = None,
        use_sinks: bool = False,
    ) -> None:
        """Say what the batch looks like, find the kernels and distribute the work over the GPU.

        Parameters
        ----------
        qo_indptr, kv_indptr : torch.Tensor
            ``[batch_size + 1]`` int32: where the queries and the keys of each request begin. On the host they cost
            nothing; from a GPU they are copied to the host, which waits for the stream. A request may be empty on
            either side, and may have fewer keys than causal queries: the first queries then see none. ``kv_indptr``
            may begin above 0.
        num_qo_heads, num_kv_heads : int
            Heads; any whole ratio will do.
        head_dim_qk, head_dim_vo : int
            Elements of a head of q and k, and of v and the output (as q).
        custom_mask : torch.Tensor, optional
            ``[sum(qo_len * kv_len)]`` bool: the masks ``[qo_len, kv_len]`` of all requests, flattened, True where a
            query sees a key. It replaces ``causal``.
        packed_custom_mask : torch.Tensor, optional
            The same as bits, uint8, little endian, each request beginning with a byte of its own, as
            ``segment_packbits(..., bitorder="little")`` gives it. It wins over ``custom_mask``.
        causal : bool
            Whether query ``i`` sees the keys ``j <= i + kv_len - qo_len`` only.
        pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta
            As for ``single_prefill_with_kv_cache``.
        use_fp16_qk_reduction : bool
            Only False: matrix instructions sum in float32 at no cost.
        q_data_type, kv_data_type, o_data_type : str or torch.dtype
            Dtypes of q (float16, bfloat16 or fp8), of k and v (as q; or fp8; with fp8 queries any of these) and of the
            output (float16, bfloat16 or float32; the default is that of q, or, if that is fp8, that of k and v, or, if
            that is fp8 too, bfloat16).
        non_blocking : bool
            Accepted: copies to the device never block.
        prefix_len_ptr, token_pos_in_items_ptr, token_pos_in_items_len, max_item_len_ptr : optional
            Multi-item scoring. Not built.
        fixed_split_size : int, optional
            Keys of a part into which keys are split, rounded up to whole tiles. A request's result is then
            bit-identical in any batch.
        disable_split_kv : bool
            Never split: likewise.
        seq_lens, seq_lens_q : torch.Tensor, optional
            ``[batch_size]``: lengths of keys and queries, checked against the indptr arrays if on the host.
        max_token_per_sequence, max_sequence_kv : int, optional
            Upper bounds of query tokens and keys of a request; a longer one is an error.
        v_indptr, o_indptr : optional
            Other places for values and outputs. Not built.
        use_sinks : bool
            Prepare the kernel for ``run(..., sinks=...)`` too; else the first such run does.

        Raises
        ------
        UnsupportedConfigError
            For a dtype, head dimension or option that no kernel is built for; it is a ValueError.
        ValueError
            For numbers, shapes and contents that do not fit, and workspaces that are too small.
        KeyError
            For an unknown ``pos_encoding_mode``.
        """
        self._begin_plan(
            use_fp16_qk_reduction,
            token_pos_in_items_len,
            prefix_len_ptr=prefix_len_ptr,
            token_pos_in_items_ptr=token_pos_in_items_ptr,
            max_item_len_ptr=max_item_len_ptr,
            v_indptr=v_indptr,
            o_indptr=o_indptr,
        )
        starts = self._read_indptr("qo_indptr", qo_indptr, begins_with_0=True)
        kv_starts = self._read_indptr("kv_indptr", kv_indptr)
        if len(kv_starts) != len(starts):
            raise ValueError(
                f"The length of kv_indptr must be that of qo_indptr, {len(starts)} for {len(starts) - 1} requests, got "
                f"{len(kv_starts)}"
            )
        self._plan(
            Batch(
                qo_starts=starts,
                kv_lens=np.diff(kv_starts).astype(np.int64),
                num_kv_rows=int(kv_starts[-1]),
                max_page=None,
                lists={"qo_indptr": starts, "kv_indptr": kv_starts},
                tensors={},
            ),
            PrefillOptions(
                num_qo_heads=num_qo_heads,
                num_kv_heads=num_kv_heads,
                head_dim_qk=head_dim_qk,
                head_dim_vo=head_dim_vo,
                page_size=None,
                has_custom_mask=custom_mask is not None or packed_custom_mask is not None,
                causal=bool(causal),
                pos_encoding_mode=pos_encoding_mode,
                window_left=window_left,
                logits_soft_cap=logits_soft_cap,
                sm_scale=sm_scale,
                rope_scale=rope_scale,
                rope_theta=rope_theta,
                q_data_type=q_data_type,
                kv_data_type=kv_data_type,
                o_data_type=o_data_type,
            ),
            (custom_mask, packed_custom_mask),
            check_fixed_split(fixed_split_size),
            disable_split_kv,
            use_sinks,
            {
                "seq_lens": seq_lens,
                "seq_lens_q": seq_lens_q,
                "max_sequence_kv": max_sequence_kv,
                "max_token_per_sequence": max_token_per_sequence,
            },
        )

    begin_forward = plan

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *args: Any,
        q_scale: Scale = None,
        k_scale: Scale = None,
        v_scale: Scale = None,
        o_scale: Scale = None,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: torch.Tensor | None = None,
    ) -> Attention:
        """Launch the planned attention.

        Parameters
        ----------
        q : torch.Tensor
            ``[qo_indptr[-1], num_qo_heads, head_dim_qk]``; with ``use_cuda_graph`` it may have more rows, which are
            left alone.
        k, v : torch.Tensor
            ``[nnz_kv, num_kv_heads, head_dim]`` or, for HND, ``[num_kv_heads, nnz_kv, head_dim]``, with ``nnz_kv`` at
            least ``kv_indptr[-1]``.
        *args
            Values of a custom variant's tensors, then of its scalars; or the scales of fp8 ``q``, ``k`` and ``v``.
        q_scale, k_scale : float or torch.Tensor, optional
            Scales of quantised tensors; they multiply the softmax scale. A number; or a tensor on the device with one
            element, or with one for each query head (``q_scale``) or KV head, which the kernel reads without a wait.
        v_scale : float or torch.Tensor, optional
            Likewise of ``v``; it multiplies the output.
        o_scale : optional
            Scale of fp8 outputs. Not built.
        out : torch.Tensor, optional
            Where to put the output. With it, and ``lse`` if wanted, nothing is allocated.
        lse : torch.Tensor, optional
            Where to put the log-sum-exp with ``return_lse``, contiguous float32.
        return_lse : bool
            Whether to return the log-sum-exp too.
        enable_pdl : bool, optional
            Accepted: AMD GPUs have no programmatic dependent launch; kernels of a stream follow each other.
        window_left : int, optional
            Must be the planned one.
        sinks : torch.Tensor, optional
            ``[num_qo_heads]`` float32: logits of a key whose value is 0, one per head.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            The output, ``[nnz, num_qo_heads, head_dim_vo]``; with ``return_lse`` also the log-sum-exp of the logits to
            base 2, ``[nnz, num_qo_heads]`` float32. Queries that see no key have 0 and -inf.

        Raises
        ------
        RuntimeError
            If ``plan()`` has not been called.
        ValueError
            For tensors that do not fit the plan.
        """
        if o_scale is not None:
            validation.refuse_given({"o_scale": o_scale})
        return self._run(q, k, v, q_scale, k_scale, v_scale, out, lse, return_lse, window_left, sinks, args)

    def _check_kv(self, plan: PlanMade, k: torch.Tensor, v: torch.Tensor) -> None:
        problem, num_rows = plan.problem, plan.batch.num_kv_rows
        token_dim, head_dim = (0, 1) if self._kv_layout == "NHD" else (1, 0)
        for name, tensor, dim in (("k", k, problem.config.head_dim_qk), ("v", v, problem.config.head_dim_vo)):
            fits = tensor.ndim == 3 and (tensor.shape[head_dim], tensor.shape[2]) == (problem.num_kv_heads, dim)
            if not fits or tensor.shape[token_dim] < num_rows:
                expected = {token_dim: f">= {num_rows}", head_dim: str(problem.num_kv_heads)}
                raise ValueError(
                    f"Invalid shape of {name} ({self._kv_layout}): expected [{expected[0]}, {expected[1]}, {dim}] as "
                    f"planned, got {validation.shape_text(tensor)}"
                )
            validation.check_rows(name, tensor)
            validation.check_token_stride(name, tensor, token_dim)

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        return_lse: bool = False,
    ) -> Attention:
        """Run with these options instead of the planned ones: FlashInfer's older form.

        Options that need another list of work plan again; others, as ``sm_scale``, cost nothing.
        """
        self._replan(
            use_fp16_qk_reduction,
            causal=bool(causal),
            pos_encoding_mode=pos_encoding_mode,
            window_left=window_left,
            logits_soft_cap=logits_soft_cap,
            sm_scale=sm_scale,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
        )
        return self.run(q, k, v, return_lse=return_lse)


class BatchPrefillWithPagedKVCacheWrapper(PrefillLauncher):
    """Attention of a batch of requests whose queries lie one request after the other, and whose keys lie in pages.

    ``plan()`` once per batch composition, ``run()`` once per layer.

    Parameters
    ----------
    float_workspace_buffer, kv_layout, use_cuda_graph, custom_mask_buf, mask_indptr_buf, backend, jit_args, \
    jit_kwargs, variant_owns_mask, variant
        As for ``BatchPrefillWithRaggedKVCacheWrapper``; ``kv_layout`` is that of a page.
    qo_indptr_buf, paged_kv_indptr_buf, paged_kv_indices_buf, paged_kv_last_page_len_buf : torch.Tensor, optional
        With ``use_cuda_graph``, int32 device memory where plans put the page table: ``[batch_size + 1]``,
        ``[batch_size + 1]``, ``[max_num_pages]`` and ``[batch_size]``.

    Examples
    --------
    >>> import torch, flashinfer_jit
    >>> device = flashinfer_jit.device()
    >>> workspace = torch.empty(32 << 20, dtype=torch.uint8, device=device)
    >>> wrapper = flashinfer_jit.BatchPrefillWithPagedKVCacheWrapper(workspace)
    >>> cache = torch.randn(10, 2, 16, 2, 128, dtype=torch.float16, device=device)
    >>> numbers = ([0, 5, 30], [0, 2, 5], [4, 1, 0, 9, 3], [7, 16])
    >>> qo_indptr, indptr, indices, last_page_len = (torch.tensor(x, dtype=torch.int32) for x in numbers)
    >>> wrapper.plan(qo_indptr, indptr, indices, last_page_len, 8, 2, 128, 16, causal=True)
    >>> wrapper.run(torch.randn(30, 8, 128, dtype=torch.float16, device=device), cache).shape
    torch.Size([30, 8, 128])
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
        jit_args: Sequence[Any] | None = None,
        jit_kwargs: Mapping[str, Any] | None = None,
        variant_owns_mask: bool = False,
        *,
        variant: AttentionVariant | None = None,
    ) -> None:
        super().__init__(
            float_workspace_buffer,
            kv_layout,
            use_cuda_graph,
            backend,
            {
                "qo_indptr": qo_indptr_buf,
                "paged_kv_indptr": paged_kv_indptr_buf,
                "paged_kv_indices": paged_kv_indices_buf,
                "paged_kv_last_page_len": paged_kv_last_page_len_buf,
            },
            (custom_mask_buf, mask_indptr_buf),
            binding("batch_prefill", variant, jit_args, jit_kwargs, variant_owns_mask),
        )

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        head_dim_vo: int | None = None,
        custom_mask: torch.Tensor | None = None,
        packed_custom_mask: torch.Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: str | torch.dtype = "float16",
        kv_data_type: str | torch.dtype | None = None,
        non_blocking: bool = True,
        prefix_len_ptr: torch.Tensor | None = None,
        token_pos_in_items_ptr: torch.Tensor | None = None,
        token_pos_in_items_len: int = 0,
        max_item_len_ptr: torch.Tensor | None = None,
        seq_lens: torch.Tensor | None = None,
        seq_lens_q: torch.Tensor | None = None,
        block_tables: torch.Tensor | None = None,
        max_token_per_sequence: int | None = None,
        max_sequence_kv: int | None = None,
        *,
        o_data_type: str | torch.dtype | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        use_sinks: bool = False,
    ) -> None:
        """Say what the batch looks like, find the kernels and distribute the work over the GPU.

        Parameters
        ----------
        qo_indptr : torch.Tensor
            ``[batch_size + 1]`` int32: where the queries of each request begin. Index tensors on the host cost nothing;
            those on a GPU, except page numbers, are copied to the host, which waits for the stream.
        paged_kv_indptr : torch.Tensor
            ``[batch_size + 1]`` int32: where the pages of each request begin in ``paged_kv_indices``; it may be a part
            of a longer batch's, which begins above 0.
        paged_kv_indices : torch.Tensor
            ``[paged_kv_indptr[-1]]`` int32, or longer: page numbers, in any order. If they are on the device already,
            ``run()`` reads this very tensor.
        paged_kv_last_page_len : torch.Tensor
            ``[batch_size]`` int32: keys in the last page of each request, 1 to ``page_size``; of requests without pages
            it is not looked at.
        page_size : int
            Tokens of a page, any number.
        block_tables : optional
            Refused: the page table is ``paged_kv_indices``.
        fixed_split_size : int, optional
            Pages of a part into which keys are split, rounded up to whole tiles. A request's result is then
            bit-identical in any batch.
        num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo, custom_mask, packed_custom_mask, causal
            As for ``BatchPrefillWithRaggedKVCacheWrapper.plan``, as are all others.

        Raises
        ------
        UnsupportedConfigError
            For a dtype, head dimension or option that no kernel is built for; it is a ValueError.
        ValueError
            For numbers, shapes and contents that do not fit, and workspaces that are too small.
        KeyError
            For an unknown ``pos_encoding_mode``.
        """
        self._begin_plan(
            use_fp16_qk_reduction,
            token_pos_in_items_len,
            prefix_len_ptr=prefix_len_ptr,
            token_pos_in_items_ptr=token_pos_in_items_ptr,
            max_item_len_ptr=max_item_len_ptr,
            block_tables=block_tables,
        )
        kv_cache.check_page_size(page_size)
        pages_of_part = check_fixed_split(fixed_split_size)
        starts = self._read_indptr("qo_indptr", qo_indptr, begins_with_0=True)
        host_indptr = self._read_indptr("paged_kv_indptr", paged_kv_indptr)
        page_table.check_int32("paged_kv_last_page_len", paged_kv_last_page_len)
        last_page_len = paged_kv_last_page_len.cpu()
        table = page_table.read(torch.from_numpy(host_indptr), paged_kv_indices, last_page_len, page_size)
        if len(host_indptr) != len(starts):
            raise ValueError(
                f"paged_kv_indptr has {len(host_indptr)} elements and qo_indptr {len(starts)}: both need one more than "
                "there are requests"
            )
        self._plan(
            Batch(
                qo_starts=starts,
                kv_lens=table.kv_end,
                num_kv_rows=0,
                max_page=table.max_page,
                lists={
                    "qo_indptr": starts,
                    "paged_kv_indptr": host_indptr,
                    "paged_kv_last_page_len": last_page_len.numpy(),
                },
                tensors={"paged_kv_indices": paged_kv_indices},
            ),
            PrefillOptions(
                num_qo_heads=num_qo_heads,
                num_kv_heads=num_kv_heads,
                head_dim_qk=head_dim_qk,
                head_dim_vo=head_dim_vo,
                page_size=page_size,
                has_custom_mask=custom_mask is not None or packed_custom_mask is not None,
                causal=bool(causal),
                pos_encoding_mode=pos_encoding_mode,
                window_left=window_left,
                logits_soft_cap=logits_soft_cap,
                sm_scale=sm_scale,
                rope_scale=rope_scale,
                rope_theta=rope_theta,
                q_data_type=q_data_type,
                kv_data_type=kv_data_type,
                o_data_type=o_data_type,
            ),
            (custom_mask, packed_custom_mask),
            None if pages_of_part is None else pages_of_part * page_size,
            disable_split_kv,
            use_sinks,
            {
                "seq_lens": seq_lens,
                "seq_lens_q": seq_lens_q,
                "max_sequence_kv": max_sequence_kv,
                "max_token_per_sequence": max_token_per_sequence,
            },
        )

    begin_forward = plan

    def run(
        self,
        q: torch.Tensor,
        paged_kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        *args: Any,
        q_scale: Scale = None,
        k_scale: Scale = None,
        v_scale: Scale = None,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: torch.Tensor | None = None,
        partial_state: tuple[torch.Tensor, torch.Tensor] | None = None,
        kv_cache_sf: Any = None,
        skip_softmax_threshold_scale_factor: float | None = None,
    ) -> Attention:
        """Launch the planned attention.

        Parameters
        ----------
        paged_kv_cache : torch.Tensor or tuple of torch.Tensor
            ``[num_pages, 2, page_size, num_kv_heads, head_dim]`` (NHD) or ``[num_pages, 2, num_kv_heads, page_size,
            head_dim]`` (HND), or a tuple of keys and values without the 2. For a page size of 1 its dimension may be
            absent. A list is refused, as in FlashInfer.
        partial_state : tuple of torch.Tensor, optional
            Output and log-sum-exp of the same queries over other keys, ``[nnz, num_qo_heads, head_dim_vo]`` of the
            output's dtype and ``[nnz, num_qo_heads]`` float32. The result is that over all keys; this is read only.
        kv_cache_sf, skip_softmax_threshold_scale_factor : optional
            Not built.
        q, q_scale, k_scale, v_scale, out, lse, return_lse, enable_pdl, window_left, sinks
            As for ``BatchPrefillWithRaggedKVCacheWrapper.run``.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            The output, ``[nnz, num_qo_heads, head_dim_vo]``; with ``return_lse`` also the log-sum-exp of the logits to
            base 2, ``[nnz, num_qo_heads]`` float32. Queries that see no key have 0 and -inf.

        Raises
        ------
        RuntimeError
            If ``plan()`` has not been called.
        KeyError
            If ``paged_kv_cache`` is neither a tensor nor a tuple of two.
        ValueError
            For tensors that do not fit the plan.
        """
        if not (kv_cache_sf is skip_softmax_threshold_scale_factor is None):
            validation.refuse_given(
                {"kv_cache_sf": kv_cache_sf, "skip_softmax_threshold_scale_factor": skip_softmax_threshold_scale_factor}
            )
        k, v = kv_cache.unpack(paged_kv_cache, self._kv_layout)
        if partial_state is not None:
            self._check_partial_state(partial_state, q, out=out, lse=lse)
        wants_lse = return_lse or partial_state is not None
        result = self._run(q, k, v, q_scale, k_scale, v_scale, out, lse, wants_lse, window_left, sinks, args)
        return result if partial_state is None else self._merge_state(result, partial_state, return_lse)

    def _check_kv(self, plan: PlanMade, k: torch.Tensor, v: torch.Tensor) -> None:
        problem, max_page = plan.problem, plan.batch.max_page
        for name, pages, dim in (("k", k, problem.config.head_dim_qk), ("v", v, problem.config.head_dim_vo)):
            kv_cache.check_pages(
                f"{name} of paged_kv_cache",
                pages,
                self._kv_layout,
                page_size=problem.page_size or 0,
                num_kv_heads=problem.num_kv_heads,
                head_dim=dim,
            )
        num_pages = min(k.shape[0], v.shape[0])
        if max_page is not None and max_page >= num_pages:
            raise ValueError(
                f"paged_kv_indices holds page {max_page}, and paged_kv_cache has {num_pages} pages: page numbers must "
                "be below that"
            )

    def forward(
        self,
        q: torch.Tensor,
        paged_kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        k_scale: Scale = None,
        v_scale: Scale = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        return_lse: bool = False,
    ) -> Attention:
        """Run with these options instead of the planned ones: FlashInfer's older form.

        Options that need another list of work plan again; others, as ``sm_scale``, cost nothing.
        """
        self._replan(
            use_fp16_qk_reduction,
            causal=bool(causal),
            pos_encoding_mode=pos_encoding_mode,
            window_left=window_left,
            logits_soft_cap=logits_soft_cap,
            sm_scale=sm_scale,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
        )
        return self.run(q, paged_kv_cache, k_scale=k_scale, v_scale=v_scale, return_lse=return_lse)
