"""Batch decode over a paged KV cache: plan() makes a list of work on the host, run() launches and does nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from flashinfer_jit import kv_cache, merge, page_table, runtime, scheduler, validation
from flashinfer_jit.attention_options import LOG2_E, softmax_scale
from flashinfer_jit.decode_plan import DecodeProblem, SplitOptions, find_problem, resolve_dtypes, schedule
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.loader import Kernel
from flashinfer_jit.plan_buffers import PlanBuffers, partial_rows

PlanArguments = dict[str, Any]


class BatchDecodeWithPagedKVCacheWrapper:
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
        ``auto`` and ``fa2`` are this package's kernels; ``aiter`` is not built yet.
    jit_args : list, optional
        A custom variant. Not built yet.

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
    ) -> None:
        validation.check_kv_layout(kv_layout)
        self._backend = validation.resolve_backend(backend)
        validation.refuse_given({"jit_args": jit_args})
        self._active = runtime.current()
        self._kv_layout = kv_layout
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
        self._buffers = PlanBuffers(self._active, float_workspace_buffer)
        self._qo_indptr_buf: torch.Tensor | None = None
        self._problem: DecodeProblem | None = None
        self._plan_info: scheduler.DecodePlan | None = None
        self._cached_module: Kernel | None = None
        self._forget_runs()

    def _forget_runs(self) -> None:
        self._checked: tuple[Any, ...] | None = None
        self._kernels: dict[bool, tuple[Kernel, KernelKey]] = {}

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """Whether the wrapper was made for captured graphs."""
        return self._use_cuda_graph

    @property
    def use_tensor_cores(self) -> bool:
        """What the constructor was given; matrix instructions are always used."""
        return self._use_tensor_cores

    @property
    def _float_workspace_buffer(self) -> torch.Tensor:
        return self._buffers.float_workspace

    @property
    def _int_workspace_buffer(self) -> torch.Tensor:
        return self._buffers.int_workspace

    @_int_workspace_buffer.setter
    def _int_workspace_buffer(self, buffer: torch.Tensor) -> None:
        # Engines let the wrappers of a process share one.
        self._buffers = PlanBuffers(self._active, self._buffers.float_workspace, buffer)

    def reset_workspace_buffer(self, float_workspace_buffer: torch.Tensor, int_workspace_buffer: torch.Tensor) -> None:
        """Use other workspaces from the next ``plan()`` on."""
        self._buffers = PlanBuffers(self._active, float_workspace_buffer, int_workspace_buffer)
        self._problem = None

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
            of q, or, if that is fp8, that of the cache, or, if that is fp8 too, float16).
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

        Raises
        ------
        UnsupportedConfigError
            For a dtype or head dimension that no kernel is built for.
        ValueError
            For sizes, page tables and workspaces that do not fit.
        KeyError
            For an unknown ``pos_encoding_mode``.
        """
        validation.refuse_given({"block_tables": block_tables})
        if window_right != 0:
            validation.refuse("window_right", window_right, "0")
        page_table.check_int32("last_page_len", last_page_len)
        dtypes = resolve_dtypes(q_data_type, kv_data_type, data_type, o_data_type)
        arch = self._active.arch(self._buffers.device)
        problem = find_problem(
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
        room = partial_rows(self._buffers.float_workspace, num_qo_heads, head_dim)
        split = SplitOptions(fixed_split_size, disable_split_kv, batch_invariant)
        info = self._plan_info = schedule(problem, arch, table, split, room, max_pages)
        lists = {"work_items": info.work_items, "indptr": info.merge_indptr, "output_rows": info.merge_rows}
        if not self._use_cuda_graph:
            lists["paged_kv_indptr"] = table.indptr
        self._lists = self._buffers.store(lists)
        self._store_page_table(table, indptr, indices, last_page_len)
        self._problem = problem
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
        self._options = (pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        self._pos_encoding_mode, self._window_left, self._logits_soft_cap = self._options[:3]
        self._sm_scale, self._rope_scale, self._rope_theta = problem.sm_scale, rope_scale, rope_theta
        self._batch_size, self._num_qo_heads, self._num_kv_heads = problem.batch_size, num_qo_heads, num_kv_heads
        self._causal = True
        self._forget_runs()
        self._cached_module = self._kernel(has_sinks=False)[0]

    begin_forward = plan

    def _store_page_table(
        self, table: page_table.HostTable, indptr: torch.Tensor, indices: torch.Tensor, last_page_len: torch.Tensor
    ) -> None:
        device = self._buffers.device
        self._max_page = table.max_page
        if self._use_cuda_graph:
            assert self._paged_kv_indptr_buf is not None and self._paged_kv_indices_buf is not None
            assert self._paged_kv_last_page_len_buf is not None
            page_table.copy_into(self._paged_kv_indptr_buf, indptr, "indptr")
            page_table.copy_into(self._paged_kv_indices_buf, indices, "indices")
            page_table.copy_into(self._paged_kv_last_page_len_buf, last_page_len, "last_page_len")
        else:
            self._paged_kv_indptr_buf = self._lists["paged_kv_indptr"]
            self._paged_kv_indices_buf = indices.to(device, non_blocking=True)
            self._paged_kv_last_page_len_buf = last_page_len.to(device, non_blocking=True)

    def _kernel(self, has_sinks: bool) -> tuple[Kernel, KernelKey]:
        """Return the kernel and the key of the one that merges; plan() asks for those without sinks."""
        found = self._kernels.get(has_sinks)
        if found is None:
            problem = self._problem
            assert problem is not None
            config = problem.config
            if has_sinks:
                config = replace(config, has_sinks=True)
            arch = self._active.arch(self._buffers.device)
            kernel = kernels.get_kernel(KernelKey(config, problem.tile, arch), self._active)
            merging = merge.merge_key(arch, "float32", config.dtype_o, problem.head_dim, has_sinks)
            if self._plan_info is not None and len(self._plan_info.merge_rows):
                kernels.get_kernel(merging, self._active)
            found = self._kernels[has_sinks] = (kernel, merging)
        return found

    def run(
        self,
        q: torch.Tensor,
        paged_kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        *args: Any,
        q_scale: float | None = None,
        k_scale: float | None = None,
        v_scale: float | None = None,
        out: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
        return_lse: bool = False,
        enable_pdl: bool | None = None,
        window_left: int | None = None,
        sinks: torch.Tensor | None = None,
        q_len_per_req: int | None = None,
        kv_cache_sf: Any = None,
        skip_softmax_threshold_scale_factor: float | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Launch the planned attention.

        Parameters
        ----------
        q : torch.Tensor
            ``[batch_size * q_len_per_req, num_qo_heads, head_dim]``; the tokens of a request adjoin.
        paged_kv_cache : torch.Tensor or tuple of torch.Tensor
            ``[num_pages, 2, page_size, num_kv_heads, head_dim]`` (NHD) or ``[num_pages, 2, num_kv_heads, page_size,
            head_dim]`` (HND), or a tuple of keys and values without the 2.
        q_scale, k_scale, v_scale : float, optional
            Scales of quantised tensors.
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
            ``[num_qo_heads]`` float32: logits of a key whose value is 0, one per head. The kernel with sinks is found,
            and if need be compiled, by the first call that has them.
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
        problem = self._problem
        if problem is None:
            raise RuntimeError("run() needs a plan: call plan() first")
        if args:
            raise ValueError(f"run() got {len(args)} extra positional arguments, and the plan has no custom variant")
        if kv_cache_sf is not None or skip_softmax_threshold_scale_factor is not None:
            validation.refuse_given(
                {"kv_cache_sf": kv_cache_sf, "skip_softmax_threshold_scale_factor": skip_softmax_threshold_scale_factor}
            )
        if window_left is not None and window_left != problem.logits.window_left:
            raise ValueError(f"window_left={window_left} is not the planned one, {problem.logits.window_left}")
        if q_len_per_req is not None and q_len_per_req != problem.q_len_per_req:
            raise ValueError(f"q_len_per_req={q_len_per_req} is not the planned one, {problem.q_len_per_req}")
        k, v = kv_cache.unpack(paged_kv_cache, self._kv_layout)
        seen = (
            q.shape,
            q.stride(),
            q.dtype,
            q.device,
            k.shape,
            k.stride(),
            k.dtype,
            v.stride(),
            v.shape,
            v.dtype,
            k.device,
        )
        addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
        if seen != self._checked or (addresses[0] | addresses[1] | addresses[2]) & 15:
            self._check_run(problem, q, k, v)
            self._checked = seen
        scale = problem.sm_scale
        if q_scale is not None or k_scale is not None:
            scale = softmax_scale(scale, None, ("q_scale", q_scale), ("k_scale", k_scale))
        output_scale = 1.0 if v_scale is None else validation.check_scale("v_scale", v_scale)
        if sinks is not None and (sinks.shape != (problem.num_qo_heads,) or sinks.dtype != torch.float32):
            raise ValueError(
                f"Invalid sinks: expected [{problem.num_qo_heads}] torch.float32, got "
                f"{validation.shape_text(sinks)} {sinks.dtype}"
            )
        if out is None:
            out = torch.empty(q.shape, dtype=problem.dtype_o, device=q.device)
        else:
            validation.check_result("out", out, q.shape, problem.dtype_o, q.device)
        if not return_lse:
            lse = None
        elif lse is None:
            lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        else:
            validation.check_result("lse", lse, q.shape[:2], torch.float32, q.device, contiguous=True)
        self._launch(problem, q, k, v, out, lse, sinks, scale, output_scale)
        return (out, lse) if lse is not None else out

    def _check_run(self, problem: DecodeProblem, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Check tensors against the plan."""
        rows = problem.batch_size * problem.q_len_per_req
        if q.shape != (rows, problem.num_qo_heads, problem.head_dim):
            raise ValueError(
                f"Invalid shape of q: expected [{rows}, {problem.num_qo_heads}, {problem.head_dim}] as planned, got "
                f"{validation.shape_text(q)}"
            )
        validation.check_device(self._active, {"q": q, "k_cache": k, "v_cache": v})
        for name, tensor, dtype in (
            ("q", q, problem.dtype_q),
            ("kv", k, problem.dtype_kv),
            ("kv", v, problem.dtype_kv),
        ):
            if tensor.dtype != dtype:
                raise ValueError(
                    f"The dtype of {name} {tensor.dtype} does not match the {name}_data_type {dtype} specified in plan "
                    "function."
                )
        for name, pages in (("k_cache", k), ("v_cache", v)):
            kv_cache.check_pages(
                name,
                pages,
                self._kv_layout,
                page_size=problem.page_size,
                num_kv_heads=problem.num_kv_heads,
                head_dim=problem.head_dim,
            )
        validation.check_rows("q", q)
        if self._max_page is not None and self._max_page >= min(k.shape[0], v.shape[0]):
            raise ValueError(
                f"indices names page {self._max_page}, and paged_kv_cache has {min(k.shape[0], v.shape[0])} pages: "
                "expected page numbers below that"
            )

    def _launch(
        self,
        problem: DecodeProblem,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor | None,
        sinks: torch.Tensor | None,
        scale: float,
        output_scale: float,
    ) -> None:
        info = self._plan_info
        assert info is not None
        if problem.batch_size == 0:
            return
        kernel, merging = self._kernel(sinks is not None)
        page_dim, head_dim = (1, 2) if self._kv_layout == "NHD" else (2, 1)
        tensors: dict[str, torch.Tensor] = {
            "q": q,
            "k": k,
            "v": v,
            "o": out,
            "work_items": self._lists["work_items"],
            "paged_kv_indptr": self._paged_kv_indptr_buf,
            "paged_kv_indices": self._paged_kv_indices_buf,
            "paged_kv_last_page_len": self._paged_kv_last_page_len_buf,
        }  # type: ignore[dict-item]
        if lse is not None:
            tensors["lse"] = lse
        if sinks is not None:
            tensors["sinks"] = sinks
        merges = len(info.merge_rows) > 0
        if merges:
            partial_o, partial_lse = self._buffers.partials(problem.num_qo_heads, problem.head_dim)
            tensors["partial_o"], tensors["partial_lse"] = partial_o, partial_lse
        division = kv_cache.page_division(problem.page_size)
        q_strides, k_strides, v_strides, o_strides = q.stride(), k.stride(), v.stride(), out.stride()
        logits = problem.logits
        params = kernel.params_type(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            q_stride_n=q_strides[0],
            q_stride_h=q_strides[1],
            k_stride_page=k_strides[0],
            k_stride_n=k_strides[page_dim],
            k_stride_h=k_strides[head_dim],
            v_stride_page=v_strides[0],
            v_stride_n=v_strides[page_dim],
            v_stride_h=v_strides[head_dim],
            o_stride_n=o_strides[0],
            o_stride_h=o_strides[1],
            page_size=problem.page_size,
            page_size_reciprocal=division.reciprocal,
            page_size_shift=division.shift,
            num_work_items=len(info.work_items),
            qo_len=problem.q_len_per_req,
            num_qo_heads=problem.num_qo_heads,
            num_kv_heads=problem.num_kv_heads,
            window_left=logits.window_left,
            sm_scale_log2=scale * LOG2_E,
            output_scale=output_scale,
            logits_soft_cap=logits.logits_soft_cap,
            rope_frequency=logits.rope_frequency,
            rope_decay=logits.rope_decay,
        )
        self._active.launch(kernel, params, tensors, None)
        if merges:
            merge.merge_partials(
                self._active,
                merging,
                partial_o,
                partial_lse,
                out,
                lse,
                num_rows=len(info.merge_rows),
                output_scale=output_scale,
                indptr=self._lists["indptr"],
                output_rows=self._lists["output_rows"],
                sinks=sinks,
            )

    def run_return_lse(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Call ``run`` with ``return_lse=True``."""
        return self.run(*args, **kwargs, return_lse=True)  # type: ignore[return-value]

    def forward(
        self,
        q: torch.Tensor,
        paged_kv_cache: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        pos_encoding_mode: str = "NONE",
        q_scale: float | None = None,
        k_scale: float | None = None,
        v_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        sm_scale: float | None = None,
        rope_scale: float | None = None,
        rope_theta: float | None = None,
        return_lse: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Run with these options, FlashInfer's older form; if they are not the planned ones, plan again."""
        if self._problem is None:
            raise RuntimeError("forward() needs a plan: call begin_forward() first")
        options = (pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta)
        if options != self._options:
            names = ("pos_encoding_mode", "window_left", "logits_soft_cap", "sm_scale", "rope_scale", "rope_theta")
            BatchDecodeWithPagedKVCacheWrapper.plan(
                self, *self._replan_arguments, **self._replan_keywords, **dict(zip(names, options, strict=True))
            )
        return self.run(q, paged_kv_cache, q_scale=q_scale, k_scale=k_scale, v_scale=v_scale, return_lse=return_lse)

    def forward_return_lse(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Call ``forward`` with ``return_lse=True``."""
        return self.forward(*args, **kwargs, return_lse=True)  # type: ignore[return-value]

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""
