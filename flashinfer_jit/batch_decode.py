"""Batch decode over a paged KV cache: plan() makes a list of work on the host, run() launches and does nothing else."""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from flashinfer_jit import kv_cache, page_table, validation
from flashinfer_jit.backends import aiter, aiter_decode
from flashinfer_jit.decode_launch import Attention, DecodeLauncher, DecodePlanMade
from flashinfer_jit.decode_plan import SplitOptions, find_problem, find_variant_problem, resolve_dtypes, schedule
from flashinfer_jit.head_scales import Scale
from flashinfer_jit.plan_buffers import partial_rows
from flashinfer_jit.variant_binding import binding
from flashinfer_jit.variants import AttentionVariant

PlanArguments = dict[str, Any]


class BatchDecodeWithPagedKVCacheWrapper(DecodeLauncher):
    """Attention of one query token, or a few, of every request of a batch over a paged KV cache.

    ``plan()`` once per batch composition, ``run()`` once per layer.

    Parameters
    ----------
    float_workspace_buffer : torch.Tensor
        Memory for partial results of split requests, any dtype, on the device; 128 MiB is plenty. It may be shared by
        wrappers that do not run at the same time.
    kv_layout : str
        ``NHD`` or ``HND``.
    use_cuda_graph : bool
        Whether ``run()`` will be captured: the batch size and the grid are fixed, and every number that a plan changes
        is read from device memory.
    use_tensor_cores : bool
        Accepted for compatibility: matrix instructions are always used.
    paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer : torch.Tensor, optional
        With ``use_cuda_graph``, int32 device memory for the page table: ``[batch_size + 1]``, ``[max_num_pages]`` and
        ``[batch_size]``.
    backend : str
        ``auto`` and ``fa2`` are this package's kernels; ``aiter`` is AITER's paged_attention_v1, refused by name where
        that would not honour an argument. See ``FLASHINFER_JIT_BACKEND`` for what ``auto`` can mean.
    jit_args : list, optional
        A custom variant as FlashInfer takes it, as for ``BatchPrefillWithRaggedKVCacheWrapper``.
    variant : AttentionVariant, optional
        A custom variant; see ``flashinfer_jit.variants``.

    Examples
    --------
    >>> import torch, flashinfer_jit
    >>> device = flashinfer_jit.device()
    >>> workspace = torch.empty(32 << 20, dtype=torch.uint8, device=device)
    >>> wrapper = flashinfer_jit.BatchDecodeWithPagedKVCacheWrapper(workspace)
    >>> cache = torch.randn(10, 2, 16, 8, 128, dtype=torch.float16, device=device)
    >>> indptr, indices, last = (torch.tensor(x, dtype=torch.int32) for x in ([0, 2, 5], [4, 1, 0, 9, 3], [7, 16]))
    >>> wrapper.plan(indptr, indices, last, 32, 8, 128, 16, q_data_type=torch.float16)
    >>> wrapper.run(torch.randn(2, 32, 128, dtype=torch.float16, device=device), cache).shape
    torch.Size([2, 32, 128])
    """

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: torch.Tensor | None = None,
        paged_kv_indices_buffer: torch.Tensor | None = None,
        paged_kv_last_page_len_buffer: torch.Tensor | None = None,
        backend: str = "auto",
        jit_args: Sequence[Any] | None = None,
        *,
        variant: AttentionVariant | None = None,
    ) -> None:
        self._requested_backend = backend
        self._backend = validation.resolve_backend(backend)
        super().__init__(float_workspace_buffer, kv_layout, binding("batch_decode", variant, jit_args))
        self._use_cuda_graph = bool(use_cuda_graph)
        self._use_tensor_cores = bool(use_tensor_cores)
        self._paged_kv_indptr_buf = paged_kv_indptr_buffer
        self._paged_kv_indices_buf = paged_kv_indices_buffer
        self._paged_kv_last_page_len_buf = paged_kv_last_page_len_buffer
        self._fixed_batch_size = 0
        if self._use_cuda_graph:
            self._fixed_batch_size = page_table.check_graph_buffers(
                paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer
            )

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """Whether the wrapper was made for captured graphs."""
        return self._use_cuda_graph

    @property
    def _qo_indptr_buf(self) -> torch.Tensor | None:
        # Engines look at it; here it is no list that kernels read.
        if self._plan_made is None:
            return None
        problem = self._plan_made.problem
        starts = torch.arange(problem.batch_size + 1, dtype=torch.int32, device=self._buffers.device)
        return starts * problem.q_len_per_req

    @property
    def use_tensor_cores(self) -> bool:
        """What the constructor was given; matrix instructions are always used."""
        return self._use_tensor_cores

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
        logits_soft_cap: float | None = None,
        q_data_type: str | torch.dtype | None = "float16",
        kv_data_type: str | torch.dtype | None = None,
        data_type: str | torch.dtype | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        non_blocking: bool = True,
        block_tables: torch.Tensor | None = None,
        seq_lens: torch.Tensor | None = None,
        fixed_split_size: int | None = None,
        disable_split_kv: bool = False,
        *,
        window_right: int = 0,
        o_data_type: str | torch.dtype | None = None,
        q_len_per_req: int = 1,
        batch_invariant: bool = False,
        indptr_host: torch.Tensor | None = None,
        use_sinks: bool = False,
    ) -> None:
        """Say what the batch looks like, find the kernels and distribute the work over the GPU.

        Parameters
        ----------
        indptr : torch.Tensor
            ``[batch_size + 1]`` int32: where the pages of each request begin in ``indices``. On the host it costs
            nothing; on a GPU it is copied to the host, which waits for the stream, unless ``indptr_host`` is given.
        indices : torch.Tensor
            ``[indptr[-1]]`` int32: page numbers, in any order; it may be longer.
        last_page_len : torch.Tensor
            ``[batch_size]`` int32: tokens in the last page of each request, 1 to ``page_size``.
        num_qo_heads, num_kv_heads, head_dim, page_size : int
            Sizes; any whole ratio of heads and any page size will do.
        pos_encoding_mode, window_left, logits_soft_cap, rope_scale, rope_theta
            As for ``single_decode_with_kv_cache``.
        q_data_type, kv_data_type, data_type, o_data_type : str or torch.dtype, optional
            Dtypes of q (16 bits or fp8), of the cache (default: ``data_type``, then that of q) and of the output (that
            of q, or, if that is fp8, that of the cache, or, if that is fp8 too, bfloat16).
        sm_scale : float, optional
            The softmax scale; the default is ``1 / sqrt(head_dim)``.
        non_blocking : bool
            Accepted: copies never block.
        block_tables : torch.Tensor, optional
            Refused: the page table is ``indices``.
        seq_lens : torch.Tensor, optional
            ``[batch_size]``: lengths, checked against the page table where both are on the host.
        fixed_split_size : int, optional
            Pages of a part into which keys are split: a request's result then does not depend on the batch.
        disable_split_kv : bool
            Never split: likewise.
        window_right : int
            Only 0: a query sees no key after its own.
        q_len_per_req : int
            Query tokens of every request, the newest ones; each sees the keys up to its own.
        batch_invariant : bool
            Split each request by a rule of its own length only: its result is bit-identical in any batch.
        indptr_host : torch.Tensor, optional
            ``indptr`` on the host, if ``indptr`` is not.
        use_sinks : bool
            Prepare the kernel for ``run(..., sinks=...)`` too; else the first such run does.

        Raises
        ------
        UnsupportedConfigError
            For a dtype or head dimension that no kernel is built for.
        ValueError
            For sizes, page tables and workspaces that do not fit.
        KeyError
            For an unknown ``pos_encoding_mode``.
        """
        # The older plan is not to be run if this one fails.
        self._forget_plan()
        validation.refuse_given({"block_tables": block_tables})
        if window_right != 0:
            validation.refuse("window_right", window_right, "0")
        page_table.check_int32("last_page_len", last_page_len)
        find = find_problem
        if self._variant is not None:
            find = functools.partial(find_variant_problem, self._variant)
            o_data_type = self._variant.dtype_o if o_data_type is None else o_data_type
        dtypes = resolve_dtypes(q_data_type, kv_data_type, data_type, o_data_type)
        arch = self._active.arch(self._buffers.device)
        problem = find(
            arch,
            dtypes,
            (num_qo_heads, num_kv_heads, head_dim, page_size, q_len_per_req),
            (pos_encoding_mode, window_left, logits_soft_cap, rope_scale, rope_theta),
            sm_scale,
            last_page_len.shape[0],
        )
        table = page_table.read(indptr, indices, last_page_len, page_size, indptr_host, seq_lens)
        max_pages = None
        if self._use_cuda_graph:
            assert self._paged_kv_indices_buf is not None
            max_pages = self._paged_kv_indices_buf.shape[0]
            if problem.batch_size != self._fixed_batch_size:
                raise ValueError(
                    f"The batch size is fixed with use_cuda_graph=True: expected {self._fixed_batch_size}, got "
                    f"{problem.batch_size}"
                )
        split = SplitOptions(fixed_split_size, disable_split_kv, batch_invariant)
        theirs = aiter_decode.batch(
            self._requested_backend,
            problem,
            table,
            indices,
            last_page_len,
            self._buffers.float_workspace,
            kv_layout=self._kv_layout,
            is_captured=self._use_cuda_graph,
            is_batch_invariant=split != SplitOptions(None, False, False),
        )
        self._backend = "fa2" if theirs is None else "aiter"
        work = None
        if theirs is None or not theirs.is_all:
            room = partial_rows(self._buffers.float_workspace, num_qo_heads, head_dim)
            work = schedule(problem, arch, table, split, room, max_pages)
        self._keep_plan(problem, work, table, self._page_tensors(indptr, indices, last_page_len), use_sinks, theirs)
        assert self._plan_made is not None
        self._paged_kv_indptr_buf = self._plan_made.tensors["paged_kv_indptr"]
        self._replan_arguments = (indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size)
        self._replan_keywords: PlanArguments = {
            "q_data_type": dtypes[0],
            "kv_data_type": dtypes[1],
            "o_data_type": dtypes[2],
            "fixed_split_size": fixed_split_size,
            "disable_split_kv": disable_split_kv,
            "q_len_per_req": q_len_per_req,
            "batch_invariant": batch_invariant,
            "indptr_host": indptr_host,
        }
        self._keep_options((pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta))
        self._batch_size, self._num_qo_heads, self._num_kv_heads = problem.batch_size, num_qo_heads, num_kv_heads
        self._causal = True

    begin_forward = plan

    def _keep_options(self, options: tuple[Any, ...]) -> None:
        """Keep the options of the plan, for forward(), and for engines under the names that they read."""
        assert self._plan_made is not None
        problem = self._plan_made.problem
        self._options = options
        self._pos_encoding_mode, self._window_left, _, _, self._rope_scale, self._rope_theta = options
        self._logits_soft_cap, self._sm_scale = problem.logits.logits_soft_cap, problem.sm_scale

    def _page_tensors(
        self, indptr: torch.Tensor, indices: torch.Tensor, last_page_len: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Put the page table where kernels read it; without a captured graph, indptr goes with the other lists."""
        device = self._buffers.device
        if not self._use_cuda_graph:
            self._paged_kv_indices_buf = indices.to(device, non_blocking=True)
            self._paged_kv_last_page_len_buf = last_page_len.to(device, non_blocking=True)
            return {
                "paged_kv_indices": self._paged_kv_indices_buf,
                "paged_kv_last_page_len": self._paged_kv_last_page_len_buf,
            }
        tensors = {}
        for name, buffer, values in (
            ("indptr", self._paged_kv_indptr_buf, indptr),
            ("indices", self._paged_kv_indices_buf, indices),
            ("last_page_len", self._paged_kv_last_page_len_buf, last_page_len),
        ):
            assert buffer is not None
            page_table.copy_into(buffer, values, name)
            tensors[f"paged_kv_{name}"] = buffer
        return tensors

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
        q_len_per_req: int | None = None,
        kv_cache_sf: Any = None,
        skip_softmax_threshold_scale_factor: float | None = None,
    ) -> Attention:
        """Launch the planned attention.

        Parameters
        ----------
        q : torch.Tensor
            ``[batch_size * q_len_per_req, num_qo_heads, head_dim]``; the tokens of a request adjoin.
        paged_kv_cache : torch.Tensor or tuple of torch.Tensor
            ``[num_pages, 2, page_size, num_kv_heads, head_dim]`` (NHD) or ``[num_pages, 2, num_kv_heads, page_size,
            head_dim]`` (HND), or a tuple of keys and values without the 2.
        *args
            Values of a custom variant's tensors, then of its scalars.
        q_scale, k_scale, v_scale : float or torch.Tensor, optional
            Scales of quantised tensors: those of ``q`` and ``k`` multiply the softmax scale, that of ``v`` the output.
            A number; or a tensor on the device with one element, or with one for each query head (``q_scale``) or KV
            head, which the kernel reads: nothing waits for it.
        out : torch.Tensor, optional
            Where to put the output, of the shape of ``q`` and the planned dtype.
        lse : torch.Tensor, optional
            Where to put the log-sum-exp with ``return_lse``.
        return_lse : bool
            Whether to return the log-sum-exp too.
        enable_pdl : bool, optional
            Accepted: AMD GPUs have no programmatic dependent launch, kernels of a stream follow each other.
        window_left : int, optional
            Must be the planned one.
        sinks : torch.Tensor, optional
            ``[num_qo_heads]`` float32: logits of a key whose value is 0, one per head.
        q_len_per_req : int, optional
            Must be the planned one.
        kv_cache_sf, skip_softmax_threshold_scale_factor : optional
            Not built.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            The output, of the shape of ``q``; with ``return_lse`` also ``[batch_size * q_len_per_req, num_qo_heads]``
            float32, base 2. Tokens that see no key have 0 and -inf.

        Raises
        ------
        RuntimeError
            If ``plan()`` has not been called.
        ValueError
            For tensors that do not fit the plan.
        """
        if args and self._variant is None:
            raise ValueError(f"run() got {len(args)} extra positional arguments, and the plan has no custom variant")
        if kv_cache_sf is not None or skip_softmax_threshold_scale_factor is not None:
            validation.refuse_given(
                {"kv_cache_sf": kv_cache_sf, "skip_softmax_threshold_scale_factor": skip_softmax_threshold_scale_factor}
            )
        k, v = kv_cache.unpack(paged_kv_cache, self._kv_layout)
        arguments = (q, k, v, q_scale, k_scale, v_scale, out, lse, return_lse, window_left, sinks, q_len_per_req, args)
        return self._run(*arguments)

    def run_return_lse(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Call ``run`` with ``return_lse=True``."""
        return self.run(*args, **kwargs, return_lse=True)  # type: ignore[return-value]

    def forward(
        self,
        q: torch.Tensor,
        paged_kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        pos_encoding_mode: str = "NONE",
        q_scale: Scale = None,
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
        options = (pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        if self._plan_made is None:
            raise RuntimeError("forward() needs a plan: call begin_forward() first")
        if options != self._options:
            self._replan(self._plan_made, options)
        return self.run(q, paged_kv_cache, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale, return_lse=return_lse)

    def _replan(self, plan: DecodePlanMade, options: tuple[Any, ...]) -> None:
        """Give the plan other options, and make another one where its list of work is not what they need."""
        old = plan.problem
        pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta = options
        problem = find_problem(
            self._active.arch(self._buffers.device),
            (old.dtype_q, old.dtype_kv, old.dtype_o),
            (old.num_qo_heads, old.num_kv_heads, old.head_dim, old.page_size, old.q_len_per_req),
            (pos_encoding_mode, window_left, logits_soft_cap, rope_scale, rope_theta),
            sm_scale,
            old.batch_size,
        )
        # With fixed buffers the old list serves whatever sees no more keys: a graph then captures launches only.
        might_be_aiter = not self._use_cuda_graph and aiter.is_wanted(self._requested_backend)
        if not might_be_aiter and problem.can_use_work_of(old, and_fewer_keys=self._use_cuda_graph):
            self._change_problem(plan, problem)
            self._keep_options(options)
            return
        if self._active.is_capturing():
            raise RuntimeError(
                "forward() was given options that need another list of work than the planned ones, and none can be "
                "made while a graph is captured: plan with these options"
            )
        names = ("pos_encoding_mode", "window_left", "logits_soft_cap", "sm_scale", "rope_scale", "rope_theta")
        BatchDecodeWithPagedKVCacheWrapper.plan(
            self, *self._replan_arguments, **self._replan_keywords, **dict(zip(names, options, strict=True))
        )

    def forward_return_lse(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Call ``forward`` with ``return_lse=True``."""
        return self.forward(*args, **kwargs, return_lse=True)  # type: ignore[return-value]

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""
