"""Launching a plan of batched prefill: what both wrappers do with tensors."""

from typing import Any

import torch

from flashinfer_jit import head_scales, merge, ops, overlap, validation
from flashinfer_jit.attention_options import DTYPES_FP8, LOG2_E
from flashinfer_jit.head_scales import NO_SCALES
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.prefill_plan import PlanMade, PrefillPlanner
from flashinfer_jit.states import merge_state_in_place

Attention = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class PrefillLauncher(PrefillPlanner):
    """Base of the wrappers of batched prefill; see ``batch_prefill``."""

    def run_return_lse(self, *args: Any, **kwargs: Any) -> Attention:
        """Call ``run`` with ``return_lse=True``."""
        return self.run(*args, **{**kwargs, "return_lse": True})  # type: ignore[attr-defined, no-any-return]

    def forward_return_lse(self, *args: Any, **kwargs: Any) -> Attention:
        """Call ``forward`` with ``return_lse=True``."""
        return self.forward(*args, **{**kwargs, "return_lse": True})  # type: ignore[attr-defined, no-any-return]

    def _run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        q_scale: Any,
        k_scale: Any,
        v_scale: Any,
        out: torch.Tensor | None,
        lse: torch.Tensor | None,
        return_lse: bool,
        window_left: int | None,
        sinks: torch.Tensor | None,
        args: tuple[Any, ...] = (),
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if args and self._variant is None:
            q_scale, k_scale, v_scale = _positional_scales(q, args, (q_scale, k_scale, v_scale))
        if torch.compiler.is_compiling():
            if self._variant is not None:
                validation.refuse("torch.compile", "a traced run() with a custom variant", "an eager one")
            return self._run_traced(q, k, v, q_scale, k_scale, v_scale, out, lse, return_lse, window_left, sinks)
        plan = self._plan_made
        if plan is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        problem = plan.problem
        if window_left is not None and window_left != problem.logits.window_left:
            validation.check_planned_window(window_left, problem.logits.window_left)
        if not (isinstance(q, torch.Tensor) and isinstance(k, torch.Tensor) and isinstance(v, torch.Tensor)):
            self._check_inputs(plan, q, k, v)
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
            masks = {f"maybe_{name}": plan.tensors.get(name) for name in ("custom_mask", "mask_indptr")}
            extra = self._variant.bind(args, q.device, problem.num_qo_heads, masks)
        scales = NO_SCALES
        if not (q_scale is k_scale is v_scale is None):
            scales = head_scales.read(q_scale, k_scale, v_scale, problem.num_qo_heads, problem.num_kv_heads, q.device)
        if sinks is not None and (
            not isinstance(sinks, torch.Tensor)
            or sinks.shape != (problem.num_qo_heads,)
            or sinks.dtype != torch.float32
            or sinks.device != q.device
        ):
            validation.check_tensor("sinks", sinks, ("num_qo_heads",))
            raise ValueError(
                f"Invalid sinks: expected [{problem.num_qo_heads}] torch.float32 on {q.device}, got "
                f"{validation.shape_text(sinks)} {sinks.dtype} on {sinks.device}"
            )
        shape = (q.shape[0], problem.num_qo_heads, problem.config.head_dim_vo)
        written = {}
        if out is None:
            out = torch.empty(shape, dtype=problem.dtype_o, device=q.device)
        else:
            validation.check_result("out", out, shape, problem.dtype_o, q.device)
            validation.check_rows("out", out)
            written["out"] = out
        if not return_lse:
            lse = None
        elif lse is None:
            lse = torch.empty(shape[:2], dtype=torch.float32, device=q.device)
        else:
            validation.check_result("lse", lse, shape[:2], torch.float32, q.device, contiguous=True)
            written["lse"] = lse
        if written:
            overlap.check_apart(written, {"q": q, "k": k, "v": v}, may_be="q")
        done = plan.aiter is not None and plan.aiter.run(q, k, v, out, lse, scales, sinks)
        if not done and plan.work is not None and plan.kernel is not None and len(plan.work.work_items):
            params = plan.params
            params.q, params.k, params.v = addresses
            params.o = out.data_ptr()
            params.q_stride_n, params.q_stride_h, _ = q_strides
            params.o_stride_n, params.o_stride_h, _ = out.stride()
            if problem.page_size is None:
                token_dim, head_dim = (0, 1) if self._kv_layout == "NHD" else (1, 0)
            else:
                token_dim, head_dim = (1, 2) if self._kv_layout == "NHD" else (2, 1)
                params.k_stride_page, params.v_stride_page = k_strides[0], v_strides[0]
            params.k_stride_n, params.k_stride_h = k_strides[token_dim], k_strides[head_dim]
            params.v_stride_n, params.v_stride_h = v_strides[token_dim], v_strides[head_dim]
            params.sm_scale_log2 = problem.sm_scale * scales.logits * LOG2_E
            params.output_scale = scales.output
            tensors = {"q": q, "k": k, "v": v, "o": out, **plan.tensors}
            if plan.has_scales or scales.tensors:
                tensors.update(scales.tensors)
                scales.fill(params)
                plan.has_scales = bool(scales.tensors)
            params.lse = params.sinks = None
            if lse is not None:
                params.lse = lse.data_ptr()
                tensors["lse"] = lse
            if extra is not None:
                extra.apply(params, tensors)
            kernel = plan.kernel
            if sinks is not None:
                sinks = sinks.contiguous()
                params.sinks = sinks.data_ptr()
                tensors["sinks"] = sinks
                kernel = kernels.get_kernel(problem.kernel_key(plan.tile, True), self._active)
            self._active.launch(kernel, params, tensors, None)
            if plan.has_merge:
                key = problem.merge_key(sinks is not None)
                self._merge(plan, key, tensors, out, lse, sinks, scales.output)
        return out if lse is None else (out, lse)

    def _run_traced(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        q_scale: Any,
        k_scale: Any,
        v_scale: Any,
        out: torch.Tensor | None,
        lse: torch.Tensor | None,
        return_lse: bool,
        window_left: int | None,
        sinks: torch.Tensor | None,
    ) -> Attention:
        """Put the run into the graph that is being traced: allocations of results, and an operator that fills them."""
        results = self._results
        if results is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        num_heads, head_dim_vo, dtype_o = results
        if out is None:
            out = torch.empty((q.shape[0], num_heads, head_dim_vo), dtype=dtype_o, device=q.device)
        if not return_lse:
            lse = None
        elif lse is None:
            lse = torch.empty((q.shape[0], num_heads), dtype=torch.float32, device=q.device)
        q_number, q_tensor = ops.split_scale(q_scale)
        k_number, k_tensor = ops.split_scale(k_scale)
        v_number, v_tensor = ops.split_scale(v_scale)
        scales = (q_number, k_number, v_number, q_tensor, k_tensor, v_tensor)
        _batch_prefill(self._number, q, k, v, out, lse, *scales, window_left, sinks)
        return out if lse is None else (out, lse)

    def _merge(
        self,
        plan: PlanMade,
        key: KernelKey,
        tensors: dict[str, torch.Tensor],
        out: torch.Tensor,
        lse: torch.Tensor | None,
        sinks: torch.Tensor | None,
        output_scale: float,
    ) -> None:
        merge.merge_partials(
            self._active,
            key,
            plan.tensors["partial_o"],
            plan.tensors["partial_lse"],
            out,
            lse,
            num_rows=self._merging["merge_rows"].shape[0],
            output_scale=output_scale,
            indptr=self._merging["merge_indptr"],
            output_rows=self._merging["merge_rows"],
            sinks=sinks,
            attention=(plan.params, tensors),
        )

    def _check_partial_state(self, partial_state: Any, q: torch.Tensor, **results: torch.Tensor | None) -> None:
        """Raise ValueError unless ``partial_state`` is a state of the queries ``q``, apart from ``out`` and ``lse``."""
        if self._results is None:
            raise RuntimeError("run() needs a plan: call plan() first (again, if it failed or workspaces were reset)")
        if not isinstance(partial_state, tuple) or len(partial_state) != 2:
            raise ValueError(
                f"partial_state must be a tuple of an output and a log-sum-exp, got {type(partial_state).__name__}"
            )
        num_heads, head_dim_vo, dtype_o = self._results
        shape = (q.shape[0], num_heads, head_dim_vo)
        validation.check_result("partial_state[0]", partial_state[0], shape, dtype_o, q.device)
        validation.check_result("partial_state[1]", partial_state[1], shape[:2], torch.float32, q.device)
        written = {name: tensor for name, tensor in results.items() if isinstance(tensor, torch.Tensor)}
        if written and not torch.compiler.is_compiling():
            overlap.check_apart(
                written, {f"partial_state[{number}]": part for number, part in enumerate(partial_state)}
            )

    def _merge_state(self, result: Attention, partial_state: tuple[torch.Tensor, ...], return_lse: bool) -> Attention:
        o, lse = result
        merge_state_in_place(o, lse, partial_state[0], partial_state[1])
        return (o, lse) if return_lse else o

    def _check_inputs(self, plan: PlanMade, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Check q, k and v against the plan; tensors like those seen last are not checked again."""
        problem, config = plan.problem, plan.problem.config
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        for name, type_name, tensor, dtype in (
            ("q", "q", q, problem.dtype_q),
            ("k", "kv", k, problem.dtype_kv),
            ("v", "kv", v, problem.dtype_kv),
        ):
            if tensor.dtype != dtype:
                raise ValueError(
                    f"The dtype of {name} {tensor.dtype} does not match the {type_name}_data_type {dtype} specified in "
                    "plan function."
                )
        validation.check_device(self._active, {"q": q, "k": k, "v": v})
        if q.device != self._buffers.device:
            raise ValueError(f"Invalid device of q: expected {self._buffers.device} as planned, got {q.device}")
        expected = (plan.num_tokens, problem.num_qo_heads, config.head_dim_qk)
        has_rows = q.ndim == 3 and (q.shape[0] >= expected[0] if self._use_cuda_graph else q.shape[0] == expected[0])
        if not has_rows or tuple(q.shape[1:]) != expected[1:]:
            raise ValueError(
                f"Invalid shape of q: expected [qo_indptr[-1], num_qo_heads, head_dim_qk] = {list(expected)} as "
                f"planned, got {validation.shape_text(q)}"
            )
        validation.check_rows("q", q)
        self._check_kv(plan, k, v)

    def _check_kv(self, plan: PlanMade, k: torch.Tensor, v: torch.Tensor) -> None:
        raise NotImplementedError


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
) -> None:
    scales = (
        ops.join_scale(q_scale, q_scale_tensor),
        ops.join_scale(k_scale, k_scale_tensor),
        ops.join_scale(v_scale, v_scale_tensor),
    )
    ops.object_of(wrapper)._run(q, k, v, *scales, out, lse, lse is not None, window_left, sinks)


# The wrapper goes by a number, for operators take no objects; a traced graph keeps it as a constant.
_batch_prefill = ops.define(
    """batch_prefill_run(int wrapper, Tensor q, Tensor k, Tensor v, Tensor(a!) out, Tensor(b!)? lse, float? q_scale,
    float? k_scale, float? v_scale, Tensor? q_scale_tensor, Tensor? k_scale_tensor, Tensor? v_scale_tensor,
    int? window_left, Tensor? sinks) -> ()""",
    _operator,
    ops.no_results,
)


def _positional_scales(q: torch.Tensor, args: tuple[Any, ...], scales: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the scales of fp8 queries, keys and values, which FlashInfer takes by position; args mean nothing else."""
    if len(args) != len(scales) or q.dtype not in DTYPES_FP8:
        raise ValueError(
            f"run() got {len(args)} extra positional arguments, and the plan has no custom variant: expected none, or "
            "the scales of q, k and v if q is fp8"
        )
    if any(scale is not None for scale in scales):
        raise ValueError("run() got the scales of q, k and v by position, and some of them by name too")
    return args
