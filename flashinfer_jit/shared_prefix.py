"""Attention in levels: keys that many requests share are read once for all of them, and the levels' states merged."""

from collections.abc import Sequence
from typing import Any

import torch

from flashinfer_jit import kv_cache, level_masks, page_table, validation
from flashinfer_jit.attention_options import check_dtypes
from flashinfer_jit.batch_decode import BatchDecodeWithPagedKVCacheWrapper
from flashinfer_jit.batch_prefill import BatchPrefillWithPagedKVCacheWrapper
from flashinfer_jit.prefill import single_prefill_with_kv_cache
from flashinfer_jit.states import load_merging_kernel, merge_state_in_place

Cache = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class MultiLevelCascadeAttentionWrapper:
    """Attention over several levels of keys, each shared by groups of requests: a prompt, a document, the rest.

    Level ``i`` sees the queries as ``qo_indptr_arr[i]`` groups them: at level 0 often one request with all queries, at
    the last level one group for each request.

    Parameters
    ----------
    num_levels : int
        Levels, 1 or more.
    float_workspace_buffer : torch.Tensor
        Memory for partial results; the levels use it one after the other.
    kv_layout : str
        ``NHD`` or ``HND``.
    use_cuda_graph : bool
        Whether ``run()`` will be captured.
    qo_indptr_buf_arr, paged_kv_indptr_buf_arr, paged_kv_indices_buf_arr, paged_kv_last_page_len_buf_arr : list
        With ``use_cuda_graph``, the buffers of each level, as for ``BatchPrefillWithPagedKVCacheWrapper``.
    """

    def __init__(
        self,
        num_levels: int,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        qo_indptr_buf_arr: Sequence[torch.Tensor] | None = None,
        paged_kv_indptr_buf_arr: Sequence[torch.Tensor] | None = None,
        paged_kv_indices_buf_arr: Sequence[torch.Tensor] | None = None,
        paged_kv_last_page_len_buf_arr: Sequence[torch.Tensor] | None = None,
    ) -> None:
        if isinstance(num_levels, bool) or not isinstance(num_levels, int) or num_levels < 1:
            raise ValueError(f"num_levels={num_levels!r} must be a number of levels, 1 or more")
        arrays = {
            "qo_indptr_buf_arr": qo_indptr_buf_arr,
            "paged_kv_indptr_buf_arr": paged_kv_indptr_buf_arr,
            "paged_kv_indices_buf_arr": paged_kv_indices_buf_arr,
            "paged_kv_last_page_len_buf_arr": paged_kv_last_page_len_buf_arr,
        }
        buffers: list[list[torch.Tensor | None]] = [[None] * 4 for _ in range(num_levels)]
        if use_cuda_graph:
            for column, (name, array) in enumerate(arrays.items()):
                _check_levels(name, array, num_levels)
                for level in range(num_levels):
                    buffers[level][column] = array[level]  # type: ignore[index]
        self._use_cuda_graph = bool(use_cuda_graph)
        self._num_levels = num_levels
        self._kv_layout = kv_layout
        self._batch_prefill_wrappers = [
            BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout, use_cuda_graph, *of_level)
            for of_level in buffers
        ]

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """Whether the wrapper was made for captured graphs."""
        return self._use_cuda_graph

    def reset_workspace_buffer(
        self, float_workspace_buffer: torch.Tensor, int_workspace_buffers: Sequence[torch.Tensor]
    ) -> None:
        """Use other workspaces from the next ``plan()`` on: one for floats, and one for integers for each level."""
        _check_levels("int_workspace_buffers", int_workspace_buffers, self._num_levels)
        for wrapper, buffer in zip(self._batch_prefill_wrappers, int_workspace_buffers, strict=True):
            wrapper.reset_workspace_buffer(float_workspace_buffer, buffer)

    def plan(
        self,
        qo_indptr_arr: Sequence[torch.Tensor],
        paged_kv_indptr_arr: Sequence[torch.Tensor],
        paged_kv_indices_arr: Sequence[torch.Tensor],
        paged_kv_last_page_len: Sequence[torch.Tensor],
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
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
    ) -> None:
        """Plan every level.

        Parameters
        ----------
        qo_indptr_arr, paged_kv_indptr_arr, paged_kv_indices_arr, paged_kv_last_page_len : list of torch.Tensor
            For each level, as for ``BatchPrefillWithPagedKVCacheWrapper.plan``; the queries are the same at all levels.
        causal : bool
            For the last level; those before are seen whole.
        pos_encoding_mode : str
            Only ``NONE`` where there are several levels: positions are counted within a level, so distances to keys of
            another would be wrong.
        window_left : int
            Keys that a query sees before its own, counted through all levels. Levels but the last get a mask for it,
            made here from the tables on the host.
        num_qo_heads, num_kv_heads, head_dim, page_size, use_fp16_qk_reduction, sm_scale, logits_soft_cap, \\
        rope_scale, rope_theta, q_data_type, kv_data_type
            As for ``BatchPrefillWithPagedKVCacheWrapper.plan``, whose errors this raises too.
        """
        tables = {
            "qo_indptr_arr": qo_indptr_arr,
            "paged_kv_indptr_arr": paged_kv_indptr_arr,
            "paged_kv_indices_arr": paged_kv_indices_arr,
            "paged_kv_last_page_len": paged_kv_last_page_len,
        }
        for name, array in tables.items():
            _check_levels(name, array, self._num_levels)
        validation.check_pos_encoding_mode(pos_encoding_mode)
        validation.check_window_left(window_left)
        if self._num_levels > 1 and pos_encoding_mode != "NONE":
            raise ValueError(
                f"pos_encoding_mode={pos_encoding_mode!r} needs positions across levels, and levels count their own: "
                "expected 'NONE', and keys and queries that are encoded already"
            )
        totals = {int(qo_indptr[-1]) for qo_indptr in qo_indptr_arr if qo_indptr.device.type == "cpu"}
        if len(totals) > 1:
            raise ValueError(f"qo_indptr_arr must end with the same number at every level, got {sorted(totals)}")
        last_level = self._num_levels - 1
        masks = self._window_masks(tables, page_size, window_left)
        for level, wrapper in enumerate(self._batch_prefill_wrappers):
            wrapper.plan(
                *(array[level] for array in tables.values()),
                *(num_qo_heads, num_kv_heads, head_dim, page_size),
                custom_mask=masks[level],
                causal=causal and level == last_level,
                pos_encoding_mode=pos_encoding_mode,
                use_fp16_qk_reduction=use_fp16_qk_reduction,
                sm_scale=sm_scale,
                window_left=window_left if level == last_level else -1,
                logits_soft_cap=logits_soft_cap,
                rope_scale=rope_scale,
                rope_theta=rope_theta,
                q_data_type=q_data_type,
                kv_data_type=kv_data_type,
            )
        if self._num_levels > 1:
            # run() merges the levels' states, and is to compile and load nothing.
            _load_merging_kernel(q_data_type, kv_data_type, head_dim, self._batch_prefill_wrappers[0])

    begin_forward = plan

    def _window_masks(
        self, tables: dict[str, Sequence[torch.Tensor]], page_size: int, window_left: int
    ) -> list[torch.Tensor | None]:
        """Return the masks of the levels; the last, and without a window all, have none."""
        if window_left < 0 or self._num_levels == 1:
            return [None] * self._num_levels
        if self._use_cuda_graph:
            raise ValueError(
                f"window_left={window_left} over {self._num_levels} levels needs masks, and a captured cascade has no "
                "buffers for them: expected -1, or use_cuda_graph=False"
            )
        kv_cache.check_page_size(page_size)
        qo_starts, kv_lens = [], []
        for qo_indptr, *table in zip(*tables.values(), strict=True):
            starts = self._batch_prefill_wrappers[0]._read_indptr("qo_indptr", qo_indptr, begins_with_0=True)
            lengths = page_table.read(*(tensor.cpu() for tensor in table), page_size).kv_end
            if len(starts) != len(lengths) + 1:
                raise ValueError(
                    f"qo_indptr has {len(starts)} elements and last_page_len {len(lengths)}: expected one more in "
                    "qo_indptr than there are groups"
                )
            qo_starts.append(starts)
            kv_lens.append(lengths)
        return [*level_masks.window_masks(qo_starts, kv_lens, window_left), None]

    def run(self, q: torch.Tensor, paged_kv_cache: Cache) -> torch.Tensor:
        """Return the attention over all levels.

        Parameters
        ----------
        q : torch.Tensor
            ``[nnz, num_qo_heads, head_dim]``.
        paged_kv_cache : torch.Tensor or tuple of torch.Tensor
            The cache with the pages of all levels.

        Returns
        -------
        torch.Tensor
            ``[nnz, num_qo_heads, head_dim]``.
        """
        *others, last = self._batch_prefill_wrappers
        o, lse = last.run(q, paged_kv_cache, return_lse=True)
        for wrapper in reversed(others):
            merge_state_in_place(o, lse, *wrapper.run(q, paged_kv_cache, return_lse=True))
        return o

    forward = run

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""


def _load_merging_kernel(q_data_type: Any, kv_data_type: Any, head_dim: int, wrapper: Any) -> None:
    """Load the kernel that merges the results of ``wrapper``, which have the dtype of its output."""
    dtype_q = validation.canonical_dtype("q_data_type", q_data_type)
    dtype_kv = dtype_q if kv_data_type is None else validation.canonical_dtype("kv_data_type", kv_data_type)
    dtype_o = check_dtypes(dtype_q, dtype_kv, None, ("q_data_type", "kv_data_type", "o_data_type"))[2]
    load_merging_kernel(dtype_o, head_dim, wrapper._float_workspace_buffer.device)


class _SharedPrefixWrapper:
    """What the two wrappers of one shared prefix have in common."""

    _wrapper: Any
    _kv_layout: str

    def reset_workspace_buffer(self, float_workspace_buffer: torch.Tensor, int_workspace_buffer: torch.Tensor) -> None:
        """Use other workspaces from the next ``begin_forward()`` on."""
        self._wrapper.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""

    def _merge_prefix(
        self,
        q: torch.Tensor,
        k_shared: torch.Tensor,
        v_shared: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor],
        sm_scale: float | None,
    ) -> torch.Tensor:
        """Attend the prefix as one request with the queries of all, and merge the states."""
        prefix = single_prefill_with_kv_cache(
            q, k_shared, v_shared, kv_layout=self._kv_layout, sm_scale=sm_scale, return_lse=True
        )
        merge_state_in_place(*state, *prefix)
        return state[0]


class BatchDecodeWithSharedPrefixPagedKVCacheWrapper(_SharedPrefixWrapper):
    """Batch decode of requests that begin with the same keys: FlashInfer's older form of a cascade of two levels.

    Parameters
    ----------
    float_workspace_buffer : torch.Tensor
        Memory for partial results.
    kv_layout : str
        ``NHD`` or ``HND``, of the prefix and of the pages.
    """

    def __init__(self, float_workspace_buffer: torch.Tensor, kv_layout: str = "NHD") -> None:
        self._wrapper = BatchDecodeWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout)
        self._kv_layout = kv_layout

    def begin_forward(
        self,
        unique_kv_indptr: torch.Tensor,
        unique_kv_indices: torch.Tensor,
        unique_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        data_type: str | torch.dtype = "float16",
    ) -> None:
        """Plan the keys that requests have for themselves, as ``BatchDecodeWithPagedKVCacheWrapper.plan``."""
        self._wrapper.plan(
            *(unique_kv_indptr, unique_kv_indices, unique_kv_last_page_len),
            *(num_qo_heads, num_kv_heads, head_dim, page_size),
            q_data_type=data_type,
        )
        _load_merging_kernel(data_type, None, head_dim, self._wrapper)

    def forward(
        self, q: torch.Tensor, k_shared: torch.Tensor, v_shared: torch.Tensor, unique_kv_cache: Cache
    ) -> torch.Tensor:
        """Return the attention over prefix and own keys.

        Parameters
        ----------
        q : torch.Tensor
            ``[batch_size, num_qo_heads, head_dim]``.
        k_shared, v_shared : torch.Tensor
            The prefix, ``[shared_len, num_kv_heads, head_dim]`` for NHD, heads first for HND.
        unique_kv_cache : torch.Tensor or tuple of torch.Tensor
            The paged cache.

        Returns
        -------
        torch.Tensor
            ``[batch_size, num_qo_heads, head_dim]``.
        """
        return self._merge_prefix(q, k_shared, v_shared, self._wrapper.run_return_lse(q, unique_kv_cache), None)


class BatchPrefillWithSharedPrefixPagedKVCacheWrapper(_SharedPrefixWrapper):
    """Batch prefill of requests that begin with the same keys: FlashInfer's older form of a cascade of two levels.

    Parameters
    ----------
    float_workspace_buffer : torch.Tensor
        Memory for partial results.
    kv_layout : str
        ``NHD`` or ``HND``, of the prefix and of the pages.
    """

    def __init__(self, float_workspace_buffer: torch.Tensor, kv_layout: str = "NHD") -> None:
        self._wrapper = BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout)
        self._kv_layout = kv_layout

    def begin_forward(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        data_type: str | torch.dtype = "float16",
    ) -> None:
        """Plan the keys that requests have for themselves, as ``BatchPrefillWithPagedKVCacheWrapper.plan``."""
        self._wrapper.plan(
            *(qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len),
            *(num_qo_heads, num_kv_heads, head_dim, page_size),
            q_data_type=data_type,
        )
        _load_merging_kernel(data_type, None, head_dim, self._wrapper)

    def forward(
        self,
        q: torch.Tensor,
        k_shared: torch.Tensor,
        v_shared: torch.Tensor,
        unique_kv_cache: Cache,
        causal: bool = False,
        use_fp16_qk_reduction: bool = False,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
    ) -> torch.Tensor:
        """Return the attention over prefix and own keys.

        Parameters
        ----------
        q : torch.Tensor
            ``[nnz, num_qo_heads, head_dim]``.
        k_shared, v_shared : torch.Tensor
            The prefix, ``[shared_len, num_kv_heads, head_dim]`` for NHD, heads first for HND.
        unique_kv_cache : torch.Tensor or tuple of torch.Tensor
            The paged cache.
        causal : bool
            Whether the mask of a request's own keys is causal; the prefix is seen whole.
        sm_scale : float, optional
            The softmax scale.
        use_fp16_qk_reduction, rope_scale, rope_theta
            Refused if given.

        Returns
        -------
        torch.Tensor
            ``[nnz, num_qo_heads, head_dim]``.
        """
        validation.refuse_given({"rope_scale": rope_scale, "rope_theta": rope_theta})
        if use_fp16_qk_reduction:
            validation.refuse("use_fp16_qk_reduction", use_fp16_qk_reduction, "False")
        state = self._wrapper.forward_return_lse(q, unique_kv_cache, causal=causal, sm_scale=sm_scale)
        return self._merge_prefix(q, k_shared, v_shared, state, sm_scale)


def _check_levels(name: str, array: Any, num_levels: int) -> None:
    if not isinstance(array, (list, tuple)) or len(array) != num_levels:
        got = f"{len(array)} elements" if isinstance(array, (list, tuple)) else type(array).__name__
        raise ValueError(f"{name} must be a list of {num_levels} tensors, one for each level, got {got}")
