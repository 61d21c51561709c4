"""Attention with masks made of blocks: the keys that a block of queries sees are its pages."""

from typing import Any

import torch

from flashinfer_jit import validation
from flashinfer_jit.batch_prefill import BatchPrefillWithPagedKVCacheWrapper
from flashinfer_jit.prefill_launch import Attention

__all__ = ["BlockSparseAttentionWrapper", "VariableBlockSparseAttentionWrapper", "convert_bsr_mask_layout"]

Dtype = str | torch.dtype


class _SparseWrapper:
    """What both wrappers have: a paged wrapper that they plan and run."""

    def __init__(self, float_workspace_buffer: torch.Tensor, backend: str = "auto") -> None:
        self._paged = BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, "NHD", backend=backend)
        self.device = float_workspace_buffer.device

    def reset_workspace_buffer(self, float_workspace_buffer: torch.Tensor, int_workspace_buffer: torch.Tensor) -> None:
        """Use other workspaces; ``plan()`` has to be called again, for plans live in them.

        Parameters
        ----------
        float_workspace_buffer, int_workspace_buffer : torch.Tensor
            Contiguous device memory of any dtype.
        """
        self._paged.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)


class BlockSparseAttentionWrapper(_SparseWrapper):
    """Attention of ``M`` queries over ``N`` keys, where a block of ``R`` queries sees whole blocks of ``C`` keys.

    Which blocks is a matrix in BSR form (block compressed sparse rows, as ``scipy.sparse.bsr_matrix`` has it).

    Parameters
    ----------
    float_workspace_buffer : torch.Tensor
        Memory for partial results of split requests, any dtype, on the device.
    backend : str
        ``auto`` and ``fa2`` are this package's kernels.

    Examples
    --------
    >>> import torch, flashinfer_jit
    >>> device = flashinfer_jit.device()
    >>> wrapper = flashinfer_jit.BlockSparseAttentionWrapper(torch.empty(32 << 20, dtype=torch.uint8, device=device))
    >>> indptr, indices = (torch.tensor(x, dtype=torch.int32) for x in ([0, 1, 3], [0, 0, 2]))
    >>> wrapper.plan(indptr, indices, 32, 96, 16, 32, 8, 2, 64)
    >>> q = torch.randn(32, 8, 64, dtype=torch.float16, device=device)
    >>> k, v = torch.randn(2, 96, 2, 64, dtype=torch.float16, device=device).unbind()
    >>> wrapper.run(q, k, v).shape
    torch.Size([32, 8, 64])
    """

    def plan(
        self,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        M: int,
        N: int,
        R: int,
        C: int,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        mask: torch.Tensor | None = None,
        packed_mask: torch.Tensor | None = None,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        q_data_type: Dtype = "float16",
        kv_data_type: Dtype | None = None,
        o_data_type: Dtype | None = None,
        non_blocking: bool = True,
    ) -> None:
        """Say which blocks there are, find the kernels and distribute the work over the GPU.

        Parameters
        ----------
        indptr : torch.Tensor
            ``[ceil(M / R) + 1]`` int32: where the blocks of each row of blocks begin in ``indices``.
        indices : torch.Tensor
            ``[nnz]`` int32: the column of each block, below ``N / C``.
        M, N : int
            Queries and keys; ``N`` is a multiple of ``C``.
        R, C : int
            Queries and keys of a block.
        num_qo_heads, num_kv_heads, head_dim : int
            Heads and their size.
        mask : torch.Tensor, optional
            ``[nnz, R, C]`` bool: what is seen inside each block; without it all is.
        packed_mask : torch.Tensor, optional
            The same as bits, each row of blocks flattened as ``convert_bsr_mask_layout`` does it, packed as
            ``segment_packbits(..., bitorder="little")`` does. It wins over ``mask``.
        causal : bool
            Whether query ``i`` of a row of blocks sees the keys up to ``i + kv_len - qo_len`` only, counted among the
            keys of that row's blocks, one after the other. A mask replaces it.
        pos_encoding_mode, use_fp16_qk_reduction, logits_soft_cap, sm_scale, rope_scale, rope_theta
            As for ``BatchPrefillWithPagedKVCacheWrapper.plan``; positions are counted as for ``causal``.
        q_data_type, kv_data_type, o_data_type : str or torch.dtype, optional
            Dtypes of q, of k and v (as q) and of the output (as q).
        non_blocking : bool
            Accepted: copies to the device never block.

        Raises
        ------
        UnsupportedConfigError
            For a dtype, head dimension or option that no kernel is built for; it is a ValueError.
        ValueError
            For sizes, shapes and contents that do not fit.
        """
        for name, value in (("M", M), ("N", N), ("R", R), ("C", C)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a positive whole number")
        if N % C:
            raise ValueError(f"N={N} must be a multiple of C={C}")
        num_rows = -(-M // R)
        if indptr.shape[0] != num_rows + 1:
            raise ValueError(f"indptr must have ceil(M / R) + 1 = {num_rows + 1} elements, got {indptr.shape[0]}")
        qo_indptr = (torch.arange(num_rows + 1, dtype=torch.int32) * R).clamp(max=M)
        if mask is not None and packed_mask is None:
            expected = (indices.shape[0], R, C)
            if tuple(mask.shape) != expected:
                raise ValueError(f"Invalid shape of mask: expected [nnz, R, C] = {list(expected)}, got {mask.shape}")
            # The last row of blocks may reach past the last query: its mask has no such rows.
            last_rows = M - (num_rows - 1) * R
            mask = _flatten_mask(mask, indptr.cpu(), last_rows)
        self._sizes, self._block = (M, N), C
        self._paged.plan(
            *(qo_indptr, indptr, indices, torch.full((num_rows,), C, dtype=torch.int32)),
            *(num_qo_heads, num_kv_heads, head_dim, C),
            custom_mask=mask,
            packed_custom_mask=packed_mask,
            causal=causal,
            pos_encoding_mode=pos_encoding_mode,
            use_fp16_qk_reduction=use_fp16_qk_reduction,
            logits_soft_cap=logits_soft_cap,
            sm_scale=sm_scale,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
            q_data_type=q_data_type,
            kv_data_type=kv_data_type,
            o_data_type=o_data_type,
        )

    begin_forward = plan

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale_q: float | torch.Tensor | None = None,
        scale_k: float | torch.Tensor | None = None,
        scale_v: float | torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
    ) -> Attention:
        """Launch the planned attention.

        Parameters
        ----------
        q : torch.Tensor
            ``[M, num_qo_heads, head_dim]``.
        k, v : torch.Tensor
            ``[N, num_kv_heads, head_dim]``.
        scale_q, scale_k, scale_v, out, lse, return_lse, enable_pdl
            As ``q_scale`` and so on for ``BatchPrefillWithPagedKVCacheWrapper.run``.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            The output, ``[M, num_qo_heads, head_dim]``; with ``return_lse`` also the log-sum-exp to base 2, ``[M,
            num_qo_heads]`` float32. Queries that see no key have 0 and -inf.

        Raises
        ------
        RuntimeError
            If ``plan()`` has not been called.
        ValueError
            For tensors that do not fit the plan.
        """
        if self._paged._plan_info is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        num_keys, size = self._sizes[1], self._block
        for name, tensor in (("k", k), ("v", v)):
            if tensor.ndim != 3 or tensor.shape[0] != num_keys:
                raise ValueError(
                    f"Invalid shape of {name}: expected [{num_keys}, num_kv_heads, head_dim] as planned, got "
                    f"{validation.shape_text(tensor)}"
                )
        pages = tuple(tensor.unflatten(0, (num_keys // size, size)) for tensor in (k, v))
        scales = {"q_scale": scale_q, "k_scale": scale_k, "v_scale": scale_v}
        return self._paged.run(q, pages, **scales, out=out, lse=lse, return_lse=return_lse, enable_pdl=enable_pdl)

    def run_return_lse(self, *args: Any, **kwargs: Any) -> Attention:
        """Call ``run`` with ``return_lse=True``."""
        return self.run(*args, **{**kwargs, "return_lse": True})

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""


class VariableBlockSparseAttentionWrapper(_SparseWrapper):
    """Attention where blocks of queries see blocks of keys, with sizes and patterns of their own for each KV head.

    Parameters
    ----------
    float_workspace_buffer : torch.Tensor
        Memory for partial results of split requests, any dtype, on the device.
    backend : str
        ``auto`` and ``fa2`` are this package's kernels.
    """

    def plan(
        self,
        block_mask_map: torch.Tensor,
        block_row_sz: torch.Tensor,
        block_col_sz: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        causal: bool = False,
        pos_encoding_mode: str = "NONE",
        use_fp16_qk_reduction: bool = False,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        non_blocking: bool = True,
        q_data_type: Dtype = "float16",
        kv_data_type: Dtype | None = None,
    ) -> None:
        """Say which blocks there are, find the kernels and distribute the work over the GPU.

        Tensors on a GPU are copied to the host, which waits for the stream.

        Parameters
        ----------
        block_mask_map : torch.Tensor
            ``[num_kv_heads, MB, NB]`` bool: which of ``NB`` blocks of keys each of ``MB`` blocks of queries sees.
        block_row_sz : torch.Tensor
            ``[num_kv_heads, MB]``: queries of each block, the same number in all for every head.
        block_col_sz : torch.Tensor
            ``[num_kv_heads, NB]``: keys of each block, likewise.
        num_qo_heads, num_kv_heads, head_dim : int
            Heads and their size; the query heads of a KV head share its pattern.
        causal, pos_encoding_mode, use_fp16_qk_reduction, logits_soft_cap, sm_scale, rope_scale, rope_theta
            As for ``BlockSparseAttentionWrapper.plan``.
        non_blocking : bool
            Accepted: copies to the device never block.
        q_data_type, kv_data_type : str or torch.dtype, optional
            Dtypes of q and the output, and of k and v (as q).

        Raises
        ------
        UnsupportedConfigError
            For a dtype, head dimension or option that no kernel is built for; it is a ValueError.
        ValueError
            For sizes, shapes and contents that do not fit.
        """
        rows, columns = block_row_sz.cpu().to(torch.int64), block_col_sz.cpu().to(torch.int64)
        seen = block_mask_map.cpu().to(torch.bool)
        expected = (num_kv_heads, rows.shape[-1], columns.shape[-1])
        if tuple(seen.shape) != expected or rows.shape[0] != num_kv_heads or columns.shape[0] != num_kv_heads:
            raise ValueError(
                f"Invalid shapes: expected block_mask_map {list(expected)}, block_row_sz {list(expected[:2])} and "
                f"block_col_sz {[expected[0], expected[2]]}, got {validation.shape_text(block_mask_map)}, "
                f"{validation.shape_text(block_row_sz)} and {validation.shape_text(block_col_sz)}"
            )
        for name, sizes in (("block_row_sz", rows), ("block_col_sz", columns)):
            if bool((sizes < 0).any()) or len(sizes.sum(1).unique()) != 1:
                raise ValueError(
                    f"{name} must not be negative, and have the same sum for all heads, got {sizes.sum(1)}"
                )
        # Heads become requests: one for each head and block of queries, over pages of one key of that head.
        head, _, column = seen.nonzero(as_tuple=True)
        begins = (columns.flatten().cumsum(0) - columns.flatten()).view_as(columns)
        lengths = columns[head, column]
        ends = lengths.cumsum(0)
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(ends - lengths, lengths)
        indices = torch.repeat_interleave(begins[head, column], lengths) + within
        kv_lens = (seen * columns[:, None]).sum(2).flatten()
        self._num_kv_heads, self._sizes = num_kv_heads, (int(rows[0].sum()), int(columns[0].sum()))
        group_size = validation.check_heads(num_qo_heads, num_kv_heads)
        self._paged.plan(
            *(_starts(rows.flatten()), _starts(kv_lens), indices.to(torch.int32)),
            torch.ones(len(kv_lens), dtype=torch.int32),
            *(group_size, 1, head_dim, 1),
            causal=causal,
            pos_encoding_mode=pos_encoding_mode,
            use_fp16_qk_reduction=use_fp16_qk_reduction,
            logits_soft_cap=logits_soft_cap,
            sm_scale=sm_scale,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
            q_data_type=q_data_type,
            kv_data_type=kv_data_type,
        )

    begin_forward = plan

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
    ) -> Attention:
        """Launch the planned attention.

        Parameters
        ----------
        q : torch.Tensor
            ``[num_qo_heads, qo_len, head_dim]``.
        k, v : torch.Tensor
            ``[num_kv_heads, kv_len, head_dim]``.
        out : torch.Tensor, optional
            Where to put the output, ``[num_qo_heads, qo_len, head_dim]``.
        lse : torch.Tensor, optional
            Where to put the log-sum-exp with ``return_lse``, ``[num_qo_heads, qo_len]`` float32.
        return_lse : bool
            Whether to return the log-sum-exp too.
        enable_pdl : bool, optional
            Accepted: AMD GPUs have no programmatic dependent launch.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            The output, ``[num_qo_heads, qo_len, head_dim]``; with ``return_lse`` also the log-sum-exp to base 2.

        Raises
        ------
        RuntimeError
            If ``plan()`` has not been called.
        ValueError
            For tensors that do not fit the plan.
        """
        if self._paged._plan_info is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        heads, group_size = self._num_kv_heads, q.shape[0] // self._num_kv_heads
        for name, tensor, sizes in (
            ("q", q, (heads * group_size, self._sizes[0])),
            ("k", k, (heads, self._sizes[1])),
            ("v", v, (heads, self._sizes[1])),
        ):
            if tensor.ndim != 3 or tuple(tensor.shape[:2]) != sizes:
                raise ValueError(
                    f"Invalid shape of {name}: expected [{sizes[0]}, {sizes[1]}, head_dim] as planned, got "
                    f"{validation.shape_text(tensor)}"
                )
        # [kv_head * qo_len, group, head_dim], and pages [kv_head * kv_len, 1, 1, head_dim].
        q = q.unflatten(0, (heads, group_size)).transpose(1, 2).flatten(0, 1)
        pages = tuple(tensor.contiguous().flatten(0, 1)[:, None, None] for tensor in (k, v))
        o, states = self._paged.run_return_lse(q.contiguous(), pages)
        o = o.unflatten(0, (heads, self._sizes[0])).transpose(1, 2).flatten(0, 1)
        states = states.unflatten(0, (heads, self._sizes[0])).transpose(1, 2).flatten(0, 1)
        if out is not None:
            validation.check_result("out", out, o.shape, o.dtype, o.device)
            o = out.copy_(o)
        if not return_lse:
            return o
        if lse is not None:
            validation.check_result("lse", lse, states.shape, states.dtype, states.device)
            states = lse.copy_(states)
        return o, states


def convert_bsr_mask_layout(mask: torch.Tensor, indptr: torch.Tensor) -> torch.Tensor:
    """Return masks of blocks in the order of rows of queries, as custom masks have them.

    Parameters
    ----------
    mask : torch.Tensor
        ``[nnz, R, C]`` bool: the mask of each block.
    indptr : torch.Tensor
        ``[MB + 1]``: where the blocks of each row of blocks begin.

    Returns
    -------
    torch.Tensor
        ``[nnz * R * C]``: of each row of blocks, the rows of its mask ``[R, blocks * C]``.
    """
    return _flatten_mask(mask, indptr.cpu(), mask.shape[1])


def _flatten_mask(mask: torch.Tensor, indptr: torch.Tensor, last_rows: int) -> torch.Tensor:
    """As ``convert_bsr_mask_layout``, with that many rows in the last row of blocks."""
    counts = indptr.diff().tolist()
    parts = [part.transpose(0, 1) for part in mask.split(counts)]
    if parts:
        parts[-1] = parts[-1][:last_rows]
    return torch.cat([part.reshape(-1) for part in parts]) if parts else mask.reshape(-1)


def _starts(lengths: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
