"""FlashInfer's ``pod`` module: prefills and decodes by one call.

There, one kernel does both, so that a prefill's arithmetic hides a decode's memory traffic. Here they are two launches
on one stream, each with the kernel that is made for it.
"""

from collections.abc import Sequence
from typing import Any

import torch

from flashinfer_jit import validation
from flashinfer_jit.batch_decode import BatchDecodeWithPagedKVCacheWrapper
from flashinfer_jit.batch_prefill import BatchPrefillWithPagedKVCacheWrapper
from flashinfer_jit.prefill import single_prefill_with_kv_cache

__all__ = ["BatchPODWithPagedKVCacheWrapper", "PODWithPagedKVCacheWrapper"]

Cache = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
Dtype = str | torch.dtype
Attention = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class PODWithPagedKVCacheWrapper:
    """One request's prefill, and a batch of decodes over a paged cache.

    Parameters
    ----------
    float_workspace_buffer, kv_layout, use_cuda_graph, paged_kv_indptr_buffer, paged_kv_indices_buffer, \
    paged_kv_last_page_len_buffer, jit_args
        As for ``BatchDecodeWithPagedKVCacheWrapper``; ``jit_args`` is refused.
    """

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        paged_kv_indptr_buffer: torch.Tensor | None = None,
        paged_kv_indices_buffer: torch.Tensor | None = None,
        paged_kv_last_page_len_buffer: torch.Tensor | None = None,
        jit_args: Sequence[Any] | None = None,
    ) -> None:
        validation.refuse_given({"jit_args": jit_args})
        self._decode = BatchDecodeWithPagedKVCacheWrapper(
            float_workspace_buffer,
            kv_layout,
            use_cuda_graph,
            paged_kv_indptr_buffer=paged_kv_indptr_buffer,
            paged_kv_indices_buffer=paged_kv_indices_buffer,
            paged_kv_last_page_len_buffer=paged_kv_last_page_len_buffer,
        )
        self._kv_layout = kv_layout

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """Whether the wrapper was made for captured graphs."""
        return self._decode.is_cuda_graph_enabled

    def reset_workspace_buffer(self, float_workspace_buffer: torch.Tensor, int_workspace_buffer: torch.Tensor) -> None:
        """Use other workspaces; ``plan()`` has to be called again, for plans live in them."""
        self._decode.reset_workspace_buffer(float_workspace_buffer, int_workspace_buffer)

    def plan(
        self,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        pos_encoding_mode: str = "NONE",
        window_left: int = -1,
        q_data_type: Dtype | None = "float16",
        kv_data_type: Dtype | None = None,
        data_type: Dtype | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        non_blocking: bool = True,
    ) -> None:
        """Plan the decodes.

        Parameters
        ----------
        indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, pos_encoding_mode, \
        window_left, q_data_type, kv_data_type, data_type, sm_scale, rope_scale, rope_theta, non_blocking
            As for ``BatchDecodeWithPagedKVCacheWrapper.plan``, whose errors this raises too.
        """
        self._options = {
            "pos_encoding_mode_d": pos_encoding_mode,
            "sm_scale_d": sm_scale,
            "window_left_d": window_left,
            "rope_scale_d": rope_scale,
            "rope_theta_d": rope_theta,
            "kv_layout_d": self._kv_layout,
        }
        self._decode.plan(
            *(indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, pos_encoding_mode),
            window_left=window_left,
            q_data_type=q_data_type,
            kv_data_type=kv_data_type,
            data_type=data_type,
            sm_scale=sm_scale,
            rope_scale=rope_scale,
            rope_theta=rope_theta,
        )

    begin_forward = plan

    def run(
        self,
        q_p: torch.Tensor,
        k_p: torch.Tensor,
        v_p: torch.Tensor,
        q_d: torch.Tensor,
        paged_kv_cache_d: Cache,
        custom_mask_p: torch.Tensor | None = None,
        packed_custom_mask_p: torch.Tensor | None = None,
        causal_p: bool = False,
        kv_layout_p: str = "NHD",
        pos_encoding_mode_p: str = "NONE",
        sm_scale_p: float | None = None,
        window_left_p: int = -1,
        rope_scale_p: float | None = None,
        rope_theta_p: float | None = None,
        return_lse_p: bool = False,
        custom_mask_d: torch.Tensor | None = None,
        packed_custom_mask_d: torch.Tensor | None = None,
        causal_d: bool = False,
        kv_layout_d: str | None = None,
        pos_encoding_mode_d: str | None = None,
        sm_scale_d: float | None = None,
        window_left_d: int | None = None,
        rope_scale_d: float | None = None,
        rope_theta_d: float | None = None,
        q_scale: float | None = None,
        k_scale: float | None = None,
        v_scale: float | None = None,
        return_lse_d: bool = False,
        use_fp16_qk_reduction: bool = False,
        enable_pdl: bool | None = None,
        *args: Any,
    ) -> tuple[Attention, Attention]:
        """Launch the prefill and the planned decodes.

        Parameters
        ----------
        q_p, k_p, v_p, custom_mask_p, packed_custom_mask_p, causal_p, kv_layout_p, pos_encoding_mode_p, sm_scale_p, \
        window_left_p, rope_scale_p, rope_theta_p, return_lse_p
            Of the prefill, as for ``single_prefill_with_kv_cache``.
        q_d, paged_kv_cache_d, q_scale, k_scale, v_scale, return_lse_d, enable_pdl
            Of the decodes, as for ``BatchDecodeWithPagedKVCacheWrapper.run``.
        kv_layout_d, pos_encoding_mode_d, sm_scale_d, window_left_d, rope_scale_d, rope_theta_d : optional
            None, or as planned.
        custom_mask_d, packed_custom_mask_d, use_fp16_qk_reduction, args
            Refused.
        causal_d : bool
            Either: a request's one query is its newest token, which sees all keys.

        Returns
        -------
        tuple
            The results of the prefill and of the decodes, each a tensor, or a tuple with its log-sum-exp where asked
            for.

        Raises
        ------
        UnsupportedConfigError, RuntimeError, KeyError, ValueError
            As there.
        """
        _refuse(use_fp16_qk_reduction, args, custom_mask_d=custom_mask_d, packed_custom_mask_d=packed_custom_mask_d)
        given = (kv_layout_d, pos_encoding_mode_d, sm_scale_d, window_left_d, rope_scale_d, rope_theta_d)
        names = ("kv_layout_d", "pos_encoding_mode_d", "sm_scale_d", "window_left_d", "rope_scale_d", "rope_theta_d")
        if self._decode._plan_info is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        for name, value in zip(names, given, strict=True):
            if value is not None and value != self._options[name]:
                raise ValueError(f"{name}={value!r} is not the planned one, {self._options[name]!r}")
        prefill = single_prefill_with_kv_cache(
            *(q_p, k_p, v_p),
            custom_mask=custom_mask_p,
            packed_custom_mask=packed_custom_mask_p,
            causal=causal_p,
            kv_layout=kv_layout_p,
            pos_encoding_mode=pos_encoding_mode_p,
            sm_scale=sm_scale_p,
            window_left=window_left_p,
            rope_scale=rope_scale_p,
            rope_theta=rope_theta_p,
            return_lse=return_lse_p,
        )
        scales = {"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}
        return prefill, self._decode.run(q_d, paged_kv_cache_d, **scales, return_lse=return_lse_d)

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""


class BatchPODWithPagedKVCacheWrapper:
    """A batch of prefills and a batch of decodes, both over paged caches.

    Parameters
    ----------
    float_workspace_buffer : torch.Tensor
        Memory for partial results, which the two batches use one after the other.
    kv_layout : str
        ``NHD`` or ``HND``.
    """

    def __init__(self, float_workspace_buffer: torch.Tensor, kv_layout: str = "NHD") -> None:
        self._prefill = BatchPrefillWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout)
        self._decode = BatchDecodeWithPagedKVCacheWrapper(float_workspace_buffer, kv_layout)
        self._planned: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._has_mask = False

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """False: there are no buffers for it."""
        return False

    def plan(
        self,
        qo_indptr_p: torch.Tensor,
        kv_indptr_p: torch.Tensor,
        kv_indices_p: torch.Tensor,
        last_page_len_p: torch.Tensor,
        qo_indptr_d: torch.Tensor,
        kv_indptr_d: torch.Tensor,
        kv_indices_d: torch.Tensor,
        last_page_len_d: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        pos_encoding_mode: str = "NONE",
        window_left: int = -1,
        q_data_type: Dtype | None = "float16",
        kv_data_type: Dtype | None = None,
        data_type: Dtype | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        non_blocking: bool = True,
    ) -> None:
        """Plan both batches.

        Parameters
        ----------
        qo_indptr_p, kv_indptr_p, kv_indices_p, last_page_len_p
            Of the prefills, as for ``BatchPrefillWithPagedKVCacheWrapper.plan``.
        qo_indptr_d : torch.Tensor
            ``[batch_size + 1]`` int32: of the decodes, which have equally many query tokens.
        kv_indptr_d, kv_indices_d, last_page_len_d
            Of the decodes, as for ``BatchDecodeWithPagedKVCacheWrapper.plan``.
        num_qo_heads, num_kv_heads, head_dim, page_size, pos_encoding_mode, window_left, q_data_type, kv_data_type, \
        data_type, sm_scale, rope_scale, rope_theta, non_blocking
            Of both, as there.

        Raises
        ------
        UnsupportedConfigError, ValueError, KeyError
            As there; ValueError also for decodes with different numbers of query tokens.
        """
        lens = qo_indptr_d.cpu().diff().unique().tolist()
        if len(lens) > 1:
            raise ValueError(
                f"decodes must have equally many query tokens, got requests of {lens}: plan them as prefills"
            )
        q_data_type = q_data_type if q_data_type is not None else data_type or "float16"
        options = {"window_left": window_left, "sm_scale": sm_scale, "rope_scale": rope_scale, "rope_theta": rope_theta}
        options |= {"pos_encoding_mode": pos_encoding_mode, "q_data_type": q_data_type}
        options |= {"kv_data_type": kv_data_type if kv_data_type is not None else data_type}
        sizes = (num_qo_heads, num_kv_heads, head_dim, page_size)
        self._planned = None
        arguments = (qo_indptr_p, kv_indptr_p, kv_indices_p, last_page_len_p, *sizes)
        self._prefill.plan(*arguments, **options)
        self._decode.plan(kv_indptr_d, kv_indices_d, last_page_len_d, *sizes, **options, q_len_per_req=(lens or [1])[0])
        self._planned, self._has_mask = (arguments, options), False

    begin_forward = plan

    def run(
        self,
        q_p: torch.Tensor,
        paged_kv_cache_p: Cache,
        q_d: torch.Tensor,
        paged_kv_cache_d: Cache,
        custom_mask_p: torch.Tensor | None = None,
        packed_custom_mask_p: torch.Tensor | None = None,
        causal_p: bool = False,
        q_scale: float | None = None,
        k_scale: float | None = None,
        v_scale: float | None = None,
        return_lse: bool = False,
        use_fp16_qk_reduction: bool = False,
        enable_pdl: bool | None = None,
    ) -> Any:
        """Launch both planned batches.

        Parameters
        ----------
        q_p, paged_kv_cache_p, q_d, paged_kv_cache_d, q_scale, k_scale, v_scale, enable_pdl
            As for ``run`` of the two wrappers.
        custom_mask_p, packed_custom_mask_p, causal_p
            The mask of the prefills, as for ``BatchPrefillWithPagedKVCacheWrapper.plan``. Another than that of the call
            before makes another list of work; a custom one does so at every call.
        return_lse : bool
            Whether to return the log-sum-exps too.
        use_fp16_qk_reduction : bool
            Only False.

        Returns
        -------
        tuple
            The outputs of the prefills and of the decodes; with ``return_lse`` a tuple of that and of their
            log-sum-exps.

        Raises
        ------
        RuntimeError
            If ``plan()`` has not been called.
        UnsupportedConfigError, KeyError, ValueError
            As there.
        """
        _refuse(use_fp16_qk_reduction, ())
        if self._planned is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed)")
        has_mask = custom_mask_p is not None or packed_custom_mask_p is not None
        if has_mask or self._has_mask:
            arguments, options = self._planned
            masks = {"custom_mask": custom_mask_p, "packed_custom_mask": packed_custom_mask_p}
            self._prefill.plan(*arguments, **options, **masks, causal=causal_p)
            self._has_mask = has_mask
        self._prefill._replan(False, causal=bool(causal_p))
        scales = {"q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}
        prefill = self._prefill.run(q_p, paged_kv_cache_p, **scales, return_lse=return_lse)
        decode = self._decode.run(q_d, paged_kv_cache_d, **scales, return_lse=return_lse)
        if not return_lse:
            return prefill, decode
        return (prefill[0], decode[0]), (prefill[1], decode[1])

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""


def _refuse(use_fp16_qk_reduction: bool, args: tuple[Any, ...], **arguments: Any) -> None:
    if use_fp16_qk_reduction:
        validation.refuse("use_fp16_qk_reduction", use_fp16_qk_reduction, "False")
    if args:
        raise ValueError(f"run() got {len(args)} extra positional arguments, and there is no custom variant")
    validation.refuse_given(arguments)
