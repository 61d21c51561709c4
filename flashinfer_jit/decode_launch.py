"""Launching a plan of batch decode: what the wrapper does with tensors."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from flashinfer_jit import head_scales, kv_cache, merge, ops, overlap, page_table, runtime, scheduler, validation
from flashinfer_jit.attention_options import LOG2_E
from flashinfer_jit.backends import aiter_decode
from flashinfer_jit.decode_plan import DecodeProblem
from flashinfer_jit.head_scales import NO_SCALES, Scale
from flashinfer_jit.index_guard import TableGuard
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.jit.loader import Kernel
from flashinfer_jit.plan_buffers import PlanBuffers, WorkspaceOwner
from flashinfer_jit.variant_binding import VariantBinding

Attention = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


@dataclass
class DecodePlanMade:
    """A finished plan: everything run() needs beside its tensors.

    Attributes
    ----------
    problem : DecodeProblem
        What is computed.
    work : scheduler.DecodePlan or None
        The list of work; None, and no parameters, where AITER does the batch because it was asked for by name.
    params : ctypes.Structure
        The kernel's parameters; run() fills in those of its tensors.
    tensors : dict
        What kernels read or write beside the tensors of run(), by parameter name.
    merging : dict
        The lists of the kernel that merges; empty if nothing is split.
    max_page : int or None
        The largest page number in use, if it is known.
    aiter : BatchDecode or None
        How AITER does the batch, if it does.
    guard : TableGuard or None
        What checks the page table before a launch.
    has_scales : bool
        Whether ``params`` has scales that are tensors, those of the last run.
    """

    problem: DecodeProblem
    work: scheduler.DecodePlan | None
    params: Any
    tensors: dict[str, torch.Tensor]
    merging: dict[str, torch.Tensor]
    max_page: int | None
    aiter: aiter_decode.BatchDecode | None
    guard: TableGuard | None = None
    has_scales: bool = False


class DecodeLauncher(WorkspaceOwner):
    """The half of ``BatchDecodeWithPagedKVCacheWrapper`` that keeps a plan and launches it."""

    def __init__(
        self, float_workspace_buffer: torch.Tensor, kv_layout: str, variant: VariantBinding | None = None
    ) -> None:
        validation.check_kv_layout(kv_layout)
        self._variant = variant
        self._active = runtime.current()
        self._kv_layout = kv_layout
        self._buffers = PlanBuffers(self._active, float_workspace_buffer)
        self._plan_made: DecodePlanMade | None = None
        self._kernels: dict[bool, tuple[Kernel, KernelKey]] = {}
        self._kernels_of: DecodeProblem | None = None
        self._checked: tuple[Any, ...] | None = None
        # What tracing needs: the wrapper's number, and the dtype of results.
        self._number = ops.number_of(self)
        self._dtype_o: torch.dtype | None = None

    @property
    def _plan_info(self) -> scheduler.DecodePlan | None:
        return None if self._plan_made is None else self._plan_made.work

    @property
    def _cached_module(self) -> Kernel | None:
        return None if self._plan_info is None else self._kernels[False][0]

    def _forget_plan(self) -> None:
        self._plan_made = self._dtype_o = None

    def _keep_plan(
        self,
        problem: DecodeProblem,
        work: scheduler.DecodePlan | None,
        table: page_table.HostTable,
        page_tensors: dict[str, torch.Tensor],
        use_sinks: bool,
        theirs: aiter_decode.BatchDecode | None,
    ) -> None:
        """Copy the lists to the device and find the kernels."""
        self._checked = None
        self._dtype_o = problem.dtype_o
        lists = {}
        if work is not None:
            lists = {"work_items": work.work_items, "indptr": work.merge_indptr, "output_rows": work.merge_rows}
        if "paged_kv_indptr" not in page_tensors:
            lists["paged_kv_indptr"] = table.indptr
        stored = self._buffers.store(lists)
        tensors = dict(page_tensors)
        if "paged_kv_indptr" in stored:
            tensors["paged_kv_indptr"] = stored["paged_kv_indptr"]
        if work is None:
            self._plan_made = DecodePlanMade(problem, work, None, tensors, {}, table.max_page, theirs)
            return
        tensors["work_items"] = stored["work_items"]
        merging = {name: stored[name] for name in ("indptr", "output_rows")} if len(work.merge_rows) else {}
        if merging:
            tensors["partial_o"], tensors["partial_lse"] = self._buffers.partials(
                problem.num_qo_heads, problem.head_dim
            )
        if problem is not self._kernels_of:
            self._kernels = {}
            self._kernels_of = problem
        for has_sinks in (False, True) if use_sinks else (False,):
            kernel, merge_key = self._kernel(problem, has_sinks)
            if merging:
                kernels.get_kernel(merge_key, self._active)
        logits, division = problem.logits, kv_cache.page_division(problem.page_size)
        params = kernel.params_type(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            page_size=problem.page_size,
            page_size_reciprocal=division.reciprocal,
            page_size_shift=division.shift,
            num_work_items=len(work.work_items),
            qo_len=problem.q_len_per_req,
            num_qo_heads=problem.num_qo_heads,
            num_kv_heads=problem.num_kv_heads,
            window_left=logits.window_left,
            logits_soft_cap=logits.logits_soft_cap,
            rope_frequency=logits.rope_frequency,
            rope_decay=logits.rope_decay,
        )
        on_device = (tensors["paged_kv_indptr"], tensors["paged_kv_indices"], tensors["paged_kv_last_page_len"])
        guard = TableGuard.make(self._active, on_device, problem.page_size, table, logits.window_left >= 0)
        self._plan_made = DecodePlanMade(problem, work, params, tensors, merging, table.max_page, theirs, guard)

    def _change_problem(self, plan: DecodePlanMade, problem: DecodeProblem) -> None:
        """Let the plan compute something else with the same list of work: nothing is copied to the device."""
        self._kernels = {}
        self._kernels_of = problem
        kernel, merge_key = self._kernel(problem, False)
        if plan.merging:
            kernels.get_kernel(merge_key, self._active)
        params = kernel.params_type.from_buffer_copy(plan.params)
        for name in ("logits_soft_cap", "window_left", "rope_frequency", "rope_decay"):
            setattr(params, name, getattr(problem.logits, name))
        self._plan_made = replace(plan, problem=problem, params=params)

    def _kernel(self, problem: DecodeProblem, has_sinks: bool) -> tuple[Kernel, KernelKey]:
        """Return the kernel of the plan and the key of the one that merges."""
        found = self._kernels.get(has_sinks)
        if found is None:
            config = replace(problem.config, has_sinks=has_sinks)
            arch = self._active.arch(self._buffers.device)
            kernel = kernels.get_kernel(KernelKey(config, problem.tile, arch), self._active)
            merging = merge.partials_key(arch, problem.config, has_sinks)
            found = self._kernels[has_sinks] = (kernel, merging)
        return found

    def _run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        q_scale: Scale,
        k_scale: Scale,
        v_scale: Scale,
        out: torch.Tensor | None,
        lse: torch.Tensor | None,
        return_lse: bool,
        window_left: int | None,
        sinks: torch.Tensor | None,
        q_len_per_req: int | None,
        args: tuple[Any, ...] = (),
    ) -> Attention:
        if torch.compiler.is_compiling():
            if self._variant is not None:
                validation.refuse("torch.compile", "a traced run() with a custom variant", "an eager one")
            scales = (q_scale, k_scale, v_scale)
            return self._run_traced(q, k, v, scales, out, lse, return_lse, window_left, sinks, q_len_per_req)
        plan = self._plan_made
        if plan is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        problem = plan.problem
        if window_left is not None and window_left != problem.logits.window_left:
            validation.check_planned_window(window_left, problem.logits.window_left)
        if q_len_per_req is not None and q_len_per_req != problem.q_len_per_req:
            raise ValueError(f"q_len_per_req={q_len_per_req} is not the planned one, {problem.q_len_per_req}")
        if not isinstance(q, torch.Tensor):
            raise TypeError(f"q must be a torch.Tensor, got {type(q).__name__}")
        q_strides, k_strides, v_strides = q.stride(), k.stride(), v.stride()
        seen = (q.shape, q_strides, q.dtype, q.device, k.shape, k_strides, k.dtype, k.device)
        seen += (v.shape, v_strides, v.dtype, v.device)
        addresses = q.data_ptr(), k.data_ptr(), v.data_ptr()
        if seen != self._checked or (addresses[0] | addresses[1] | addresses[2]) & 15:
            self._check_inputs(plan, q, k, v)
            self._checked = seen
        if plan.guard is not None and plan.guard.is_due():
            plan.guard.check(min(k.shape[0], v.shape[0]))
        extra = None
        if self._variant is not None:
            # The kernel applies scales that are tensors to parts of requests: before an output transform of a text.
            tensor = v_scale if isinstance(v_scale, torch.Tensor) else None
            self._variant.check_options(q_scale=q_scale, k_scale=k_scale, v_scale=tensor)
            self._variant.check_lse(return_lse)
            extra = self._variant.bind(args, q.device, problem.num_qo_heads, {})
        scales = NO_SCALES
        if not (q_scale is k_scale is v_scale is None):
            scales = head_scales.read(q_scale, k_scale, v_scale, problem.num_qo_heads, problem.num_kv_heads, q.device)
        if sinks is not None:
            _check_sinks(sinks, problem.num_qo_heads, q.device)
        written = {}
        if out is None:
            out = torch.empty(q.shape, dtype=problem.dtype_o, device=q.device)
        else:
            validation.check_result("out", out, q.shape, problem.dtype_o, q.device)
            written["out"] = out
        if not return_lse:
            lse = None
        elif lse is None:
            lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        else:
            validation.check_result("lse", lse, q.shape[:2], torch.float32, q.device, contiguous=True)
            written["lse"] = lse
        if written:
            overlap.check_apart(written, {"q": q, "k": k, "v": v}, may_be="q")
        done = plan.aiter is not None and plan.aiter.run(q, k, v, out, lse, scales, sinks)
        if not done and plan.work is not None and problem.batch_size > 0:
            page_dim, head_dim = (1, 2) if self._kv_layout == "NHD" else (2, 1)
            params = plan.params
            params.q, params.k, params.v = addresses
            params.o = out.data_ptr()
            params.q_stride_n, params.q_stride_h, _ = q_strides
            params.o_stride_n, params.o_stride_h, _ = out.stride()
            params.k_stride_page, params.v_stride_page = k_strides[0], v_strides[0]
            params.k_stride_n, params.k_stride_h = k_strides[page_dim], k_strides[head_dim]
            params.v_stride_n, params.v_stride_h = v_strides[page_dim], v_strides[head_dim]
            params.sm_scale_log2 = problem.sm_scale * scales.logits * LOG2_E
            params.output_scale = scales.output
            tensors = {"q": q, "k": k, "v": v, "o": out, **plan.tensors}
            if plan.has_scales or scales.tensors:
                tensors.update(scales.tensors)
                scales.fill(params)
                plan.has_scales = bool(scales.tensors)
            optional = {"lse": lse, "sinks": sinks}
            for name, tensor in optional.items():
                if tensor is not None:
                    tensors[name] = tensor
                setattr(params, name, None if tensor is None else tensor.data_ptr())
            if extra is not None:
                extra.apply(params, tensors)
            kernel, merge_key = self._kernel(problem, sinks is not None)
            self._active.launch(kernel, params, tensors, None)
            if plan.merging:
                merge.merge_partials(
                    self._active,
                    merge_key,
                    tensors["partial_o"],
                    tensors["partial_lse"],
                    out,
                    lse,
                    num_rows=len(plan.work.merge_rows),
                    output_scale=scales.output,
                    sinks=sinks,
                    attention=(params, tensors),
                    **plan.merging,
                )
        return out if lse is None else (out, lse)

    def _run_traced(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scales: tuple[Scale, Scale, Scale],
        out: torch.Tensor | None,
        lse: torch.Tensor | None,
        return_lse: bool,
        window_left: int | None,
        sinks: torch.Tensor | None,
        q_len_per_req: int | None,
    ) -> Attention:
        """Put the run into the graph that is being traced: allocations of results, and an operator that fills them."""
        if self._dtype_o is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        if out is None:
            out = torch.empty(q.shape, dtype=self._dtype_o, device=q.device)
        if not return_lse:
            lse = None
        elif lse is None:
            lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        numbers, scale_tensors = zip(*map(ops.split_scale, scales), strict=True)
        _batch_decode(self._number, q, k, v, out, lse, *numbers, *scale_tensors, window_left, sinks, q_len_per_req)
        return out if lse is None else (out, lse)

    def _check_inputs(self, plan: DecodePlanMade, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Check q, k and v against the plan; tensors like those seen last are not checked again."""
        problem = plan.problem
        rows = problem.batch_size * problem.q_len_per_req
        if q.shape != (rows, problem.num_qo_heads, problem.head_dim):
            raise ValueError(
                f"Invalid shape of q: expected [batch_size * q_len_per_req, num_qo_heads, head_dim] = [{rows}, "
                f"{problem.num_qo_heads}, {problem.head_dim}] as planned, got {validation.shape_text(q)}"
            )
        validation.check_device(self._active, {"q": q, "k_cache": k, "v_cache": v})
        if q.device != self._buffers.device:
            raise ValueError(f"Invalid device of q: expected {self._buffers.device} as planned, got {q.device}")
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
        page_table.check_max_page(plan.max_page, min(k.shape[0], v.shape[0]))


def _check_sinks(sinks: torch.Tensor, num_qo_heads: int, device: torch.device) -> None:
    validation.check_tensor("sinks", sinks, ("num_qo_heads",))
    if sinks.shape != (num_qo_heads,) or sinks.dtype != torch.float32 or sinks.device != device:
        raise ValueError(
            f"Invalid sinks: expected [{num_qo_heads}] torch.float32 on {device}, got "
            f"{validation.shape_text(sinks)} {sinks.dtype} on {sinks.device}"
        )
    if not sinks.is_contiguous():
        raise ValueError(f"Invalid strides of sinks: expected no gaps, got {list(sinks.stride())}")


def _operator(
    wrapper: int,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    q_scale: float | None,
    k_scale: float | None,
    v_scale: float | None,
    q_scale_tensor: torch.Tensor | None,
    k_scale_tensor: torch.Tensor | None,
    v_scale_tensor: torch.Tensor | None,
    window_left: int | None,
    sinks: torch.Tensor | None,
    q_len_per_req: int | None,
) -> None:
    scales = (
        ops.join_scale(q_scale, q_scale_tensor),
        ops.join_scale(k_scale, k_scale_tensor),
        ops.join_scale(v_scale, v_scale_tensor),
    )
    ops.object_of(wrapper)._run(q, k, v, *scales, out, lse, lse is not None, window_left, sinks, q_len_per_req)


# The wrapper goes by a number, for operators take no objects; a traced graph keeps it as a constant.
_batch_decode = ops.define(
    """batch_decode_run(int wrapper, Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!)? lse, float? q_scale,
    float? k_scale, float? v_scale, Tensor? q_scale_tensor, Tensor? k_scale_tensor, Tensor? v_scale_tensor,
    int? window_left, Tensor? sinks, int? q_len_per_req) -> ()""",
    _operator,
    ops.no_results,
)
