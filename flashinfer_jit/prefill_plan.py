"""Plans of batched prefill: what both wrappers do before they launch anything."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flashinfer_jit import batch_masks, ops, page_table, runtime, scheduler, validation
from flashinfer_jit.backends import aiter, aiter_prefill
from flashinfer_jit.index_guard import TableGuard
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.loader import Kernel
from flashinfer_jit.plan_buffers import PlanBuffers, WorkspaceOwner, partial_rows
from flashinfer_jit.prefill_problem import PrefillOptions, PrefillProblem, complete, resolve
from flashinfer_jit.variant_binding import VariantBinding

Int32Array = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What a plan says about the requests.

    Attributes
    ----------
    qo_starts : numpy.ndarray
        ``[batch_size + 1]`` int32: qo_indptr.
    kv_lens : numpy.ndarray
        ``[batch_size]`` int64: keys of each request.
    num_kv_rows : int
        Rows that ragged k and v have at least.
    max_page : int or None
        The largest page number in use, if it is known.
    lists : dict
        Index arrays on the host that kernels read, by their parameter's name.
    tensors : dict
        Those that are tensors.
    """

    qo_starts: Int32Array
    kv_lens: Lengths
    num_kv_rows: int
    max_page: int | None
    lists: dict[str, Int32Array]
    tensors: dict[str, torch.Tensor]


@dataclass
class PlanMade:
    """A finished plan: everything run() needs beside its tensors."""

    problem: PrefillProblem
    options: PrefillOptions
    batch: Batch
    tile: tiling.TileConfig
    # None where AITER does the batch because it was asked for by name.
    work: scheduler.PrefillPlan | None
    kernel: Kernel | None
    has_merge: bool
    params: Any
    tensors: dict[str, torch.Tensor]
    # Of the split: what a plan with other options has to repeat.
    fixed_split_size: int | None
    disable_split_kv: bool
    num_tokens: int
    aiter: aiter_prefill.BatchPrefill | None
    # What checks a page table before a launch.
    guard: TableGuard | None = None
    # Whether params has scales that are tensors, those of the last run.
    has_scales: bool = False


class PrefillPlanner(WorkspaceOwner):
    """The half of a wrapper of batched prefill that keeps a plan in device memory; see ``batch_prefill``."""

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str,
        use_cuda_graph: bool,
        backend: str,
        index_buffers: dict[str, torch.Tensor | None],
        mask_buffers: tuple[torch.Tensor | None, torch.Tensor | None],
        variant: VariantBinding | None = None,
    ) -> None:
        validation.check_kv_layout(kv_layout)
        self._requested_backend = backend
        self._backend = validation.resolve_backend(backend)
        self._active = runtime.current()
        self._kv_layout = kv_layout
        self._variant = variant
        self._use_cuda_graph = bool(use_cuda_graph)
        self._index_buffers = index_buffers
        self._mask_buffers = mask_buffers
        self._fixed_batch_size = 0
        if self._use_cuda_graph:
            self._fixed_batch_size = _check_graph_buffers(index_buffers)
        self._max_total_num_rows: int | None = None
        self._graph_tiles: dict[Any, tiling.TileConfig] = {}
        self._buffers = PlanBuffers(self._active, float_workspace_buffer)
        self._plan_made: PlanMade | None = None
        # What tracing needs: the wrapper's number, and heads, head dimension and dtype of results.
        self._number = ops.number_of(self)
        self._results: tuple[int, int, torch.dtype] | None = None
        self._checked: tuple[Any, ...] | None = None

    # Attributes that serving engines read.

    @property
    def is_cuda_graph_enabled(self) -> bool:
        """Whether the wrapper was made for captured graphs."""
        return self._use_cuda_graph

    @property
    def _plan_info(self) -> scheduler.PrefillPlan | None:
        return None if self._plan_made is None else self._plan_made.work

    @property
    def _cached_module(self) -> Kernel | None:
        return None if self._plan_made is None else self._plan_made.kernel

    def __getattr__(self, name: str) -> Any:
        # Only for what is not found otherwise: planned options and buffers under the names that engines know.
        plan = self.__dict__.get("_plan_made")
        if name in _OPTION_ATTRIBUTES:
            return None if plan is None else getattr(plan.options, name.removeprefix("_"))
        if name == "_logits_soft_cap":
            return None if plan is None else plan.problem.logits.logits_soft_cap
        if name in _BUFFER_ATTRIBUTES:
            key = name.removeprefix("_").removesuffix("_buf")
            return self._index_buffers.get(key) if plan is None else plan.tensors.get(key)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _forget_plan(self) -> None:
        self._plan_made = self._results = None

    def end_forward(self) -> None:
        """Do nothing: FlashInfer's older form."""

    # Planning.

    def _begin_plan(self, use_fp16_qk_reduction: Any, token_pos_in_items_len: Any, **arguments: Any) -> None:
        """Forget the older plan, which is not to be run if this one fails, and refuse what no kernel honours."""
        self._forget_plan()
        _refuse_unbuilt(use_fp16_qk_reduction, token_pos_in_items_len, **arguments)

    def _read_indptr(self, name: str, indptr: Any, begins_with_0: bool = False) -> Int32Array:
        page_table.check_int32(name, indptr)
        starts: Int32Array = indptr.numpy() if indptr.device.type == "cpu" else indptr.cpu().numpy()
        # A part of a longer array will do for keys: engines plan the requests that they prefill from the whole batch's.
        if len(starts) == 0 or starts[0] < 0 or (begins_with_0 and starts[0] != 0):
            first = "begin with 0" if begins_with_0 else "not be negative"
            raise ValueError(f"{name} must have batch_size + 1 elements and {first}, got {starts[:4].tolist()}")
        if (starts[1:] < starts[:-1]).any():
            request = int(np.argmax(starts[1:] < starts[:-1]))
            raise ValueError(
                f"{name} must not decrease: {name}[{request}] is {starts[request]} and {name}[{request + 1}] is "
                f"{starts[request + 1]}"
            )
        return starts

    def _plan(
        self,
        batch: Batch,
        options: PrefillOptions,
        masks: tuple[Any, Any],
        fixed_split_size: int | None,
        disable_split_kv: bool,
        use_sinks: bool,
        lengths: dict[str, Any],
    ) -> None:
        qo_lens = np.diff(batch.qo_starts).astype(np.int64)
        _check_lengths(qo_lens, batch.kv_lens, **lengths)
        if self._variant is not None:
            options = complete(options, self._variant)
        problem = resolve(options, self._active.arch(self._buffers.device))
        if self._variant is not None:
            self._variant.check_config(problem.config)
        if self._use_cuda_graph and len(qo_lens) != self._fixed_batch_size:
            raise ValueError(
                f"The batch size of a wrapper with use_cuda_graph=True is fixed: its buffers are for "
                f"{self._fixed_batch_size} requests, got {len(qo_lens)}"
            )
        tensors = {name: self._on_device(name, tensor) for name, tensor in batch.tensors.items()}
        lists = dict(batch.lists)
        if options.has_custom_mask:
            packed, indptr = batch_masks.pack(*masks, qo_lens * batch.kv_lens, self._buffers.device)
            if self._use_cuda_graph:
                mask, mask_indptr = batch_masks.into_buffers(packed, indptr, *self._mask_buffers)
                tensors.update(custom_mask=mask, mask_indptr=mask_indptr)
            else:
                tensors["custom_mask"] = packed
                lists["mask_indptr"] = indptr
        # The host's arrays may be the caller's: another plan with other options must see what this one saw.
        batch = dataclasses.replace(
            batch, qo_starts=batch.qo_starts.copy(), lists={k: v.copy() for k, v in lists.items()}, tensors=tensors
        )
        self._make_plan(problem, options, batch, fixed_split_size, bool(disable_split_kv), use_sinks)

    def _on_device(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        buffer = self._index_buffers[name]
        if self._use_cuda_graph and buffer is not None:
            page_table.copy_into(buffer, tensor, name)
            return buffer
        return tensor.to(self._buffers.device, non_blocking=True)

    def _make_plan(
        self,
        problem: PrefillProblem,
        options: PrefillOptions,
        batch: Batch,
        fixed_split_size: int | None,
        disable_split_kv: bool,
        use_sinks: bool = False,
    ) -> None:
        qo_lens = np.diff(batch.qo_starts).astype(np.int64)
        num_tokens = int(batch.qo_starts[-1])
        config = problem.config
        num_heads, head_dim_vo = problem.num_qo_heads, config.head_dim_vo
        theirs = aiter_prefill.batch(
            self._requested_backend,
            problem,
            batch.qo_starts,
            batch.kv_lens,
            batch.lists.get("paged_kv_indptr"),
            batch.tensors.get("paged_kv_indices"),
            self._buffers.device,
            kv_layout=self._kv_layout,
            is_captured=self._use_cuda_graph,
            is_batch_invariant=disable_split_kv or fixed_split_size is not None,
        )
        self._backend = "fa2" if theirs is None else "aiter"
        if theirs is not None and theirs.is_all:
            self._keep_plan(problem, options, batch, theirs)
            return
        tile = problem.choose_tile(qo_lens, disable_split_kv or fixed_split_size is not None)
        max_rows = partial_rows(self._buffers.float_workspace, num_heads, head_dim_vo)
        slots = None
        if self._use_cuda_graph:
            if self._max_total_num_rows is None:
                self._max_total_num_rows = num_tokens
            if num_tokens > self._max_total_num_rows:
                raise ValueError(
                    f"The number of query tokens of a wrapper with use_cuda_graph=True is at most that of its first "
                    f"plan, {self._max_total_num_rows}, got {num_tokens}"
                )
            tile = self._graph_tiles.setdefault(config, tile)
            slots = self._graph_slots(problem, tile, len(qo_lens))
        work = scheduler.plan_prefill(
            qo_lens,
            batch.kv_lens,
            group_size=config.group_size,
            num_kv_heads=problem.num_kv_heads,
            block_q=tile.block_q,
            block_kv=tile.block_kv,
            num_cus=problem.arch.num_cus,
            causal=problem.is_causal,
            window_left=problem.logits.window_left,
            fixed_split_size=fixed_split_size,
            disable_split_kv=disable_split_kv,
            max_partial_rows=max_rows,
            graph_slots=slots,
        )
        lists = dict(batch.lists)
        lists["work_items"] = work.work_items
        has_merge = len(work.merge_rows) > 0
        merge_rows, merge_indptr = work.merge_rows, work.merge_indptr
        if self._use_cuda_graph:
            lists["num_work_items_ptr"] = np.array([work.num_work_items], dtype=np.int32)
            # A captured graph keeps its grid, so it merges whatever a later plan may split.
            has_merge = not disable_split_kv and max_rows > 1
            merge_rows, merge_indptr = _pad_merge(work, min(self._max_total_num_rows or 0, max_rows // 2))
        if has_merge:
            lists["merge_indptr"], lists["merge_rows"] = merge_indptr, merge_rows
        stored = dict(self._buffers.store(lists))
        tensors = {**batch.tensors, **stored}
        if self._use_cuda_graph:
            for name, buffer in self._index_buffers.items():
                if name in stored and buffer is not None:
                    buffer[: stored[name].shape[0]].copy_(stored[name], non_blocking=True)
                    tensors[name] = buffer
        merging = {name: tensors.pop(name) for name in ("merge_indptr", "merge_rows") if name in tensors}
        if has_merge:
            partial_o, partial_lse = self._buffers.partials(num_heads, head_dim_vo)
            tensors.update(partial_o=partial_o, partial_lse=partial_lse)
            kernels.get_kernel(problem.merge_key(False), self._active)
        kernel = kernels.get_kernel(problem.kernel_key(tile, False), self._active)
        if use_sinks:
            kernels.get_kernel(problem.kernel_key(tile, True), self._active)
            if has_merge:
                kernels.get_kernel(problem.merge_key(True), self._active)
        logits = problem.logits
        params = kernel.params_type(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            num_qo_heads=num_heads,
            num_kv_heads=problem.num_kv_heads,
            logits_soft_cap=logits.logits_soft_cap,
            window_left=logits.window_left,
            num_chunks=1,
            num_work_items=len(work.work_items),
            page_size=problem.page_size or 0,
            page_size_reciprocal=problem.division.reciprocal,
            page_size_shift=problem.division.shift,
            rope_frequency=logits.rope_frequency,
            rope_decay=logits.rope_decay,
        )
        self._merging = merging
        self._results = (num_heads, head_dim_vo, problem.dtype_o)
        self._plan_made = PlanMade(
            problem=problem,
            options=options,
            batch=batch,
            tile=tile,
            work=work,
            kernel=kernel,
            has_merge=has_merge,
            params=params,
            tensors=tensors,
            fixed_split_size=fixed_split_size,
            disable_split_kv=disable_split_kv,
            num_tokens=num_tokens,
            aiter=theirs,
            guard=self._guard(problem, batch, tensors),
        )
        self._checked = None

    def _keep_plan(
        self, problem: PrefillProblem, options: PrefillOptions, batch: Batch, theirs: aiter_prefill.BatchPrefill
    ) -> None:
        """Keep a plan of which AITER does everything, without kernels."""
        self._results = (problem.num_qo_heads, problem.config.head_dim_vo, problem.dtype_o)
        self._checked = None
        self._plan_made = PlanMade(
            problem=problem,
            options=options,
            batch=batch,
            tile=problem.tiles[0],
            work=None,
            kernel=None,
            has_merge=False,
            params=None,
            tensors=dict(batch.tensors),
            fixed_split_size=None,
            disable_split_kv=False,
            num_tokens=int(batch.qo_starts[-1]),
            aiter=theirs,
        )

    def _guard(self, problem: PrefillProblem, batch: Batch, tensors: dict[str, torch.Tensor]) -> TableGuard | None:
        if problem.page_size is None:
            return None
        names = ("paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len")
        table = page_table.HostTable(batch.lists[names[0]], batch.kv_lens, batch.kv_lens, batch.max_page)
        on_device = tuple(tensors[name] for name in names)
        return TableGuard.make(self._active, on_device, problem.page_size, table, problem.logits.window_left >= 0)

    def _graph_slots(self, problem: PrefillProblem, tile: tiling.TileConfig, batch_size: int) -> int:
        """Return the work items that a captured graph launches: the most tiles that there can be, and parts of them."""
        # One request with all tokens, and every other one token more than whole tiles.
        most = np.array([self._max_total_num_rows or 0], dtype=np.int64)
        tiles_of_one_token = int(problem.num_tiles(np.ones(1, dtype=np.int64), tile)[0])
        num_tiles = int(problem.num_tiles(most, tile)[0]) + batch_size * tiles_of_one_token
        capacity = scheduler.WORKGROUPS_PER_CU * problem.arch.num_cus
        return num_tiles + -(-capacity // problem.num_kv_heads)

    def _replan(self, use_fp16_qk_reduction: bool, **changes: Any) -> None:
        """Give the plan other options, and make another one where its list of work is not what they need."""
        plan = self._plan_made
        if plan is None:
            raise RuntimeError("forward() needs a plan: call begin_forward() first")
        _refuse_unbuilt(use_fp16_qk_reduction, 0)
        options = dataclasses.replace(plan.options, **changes)
        if self._variant is not None:
            options = complete(options, self._variant)
        if options == plan.options:
            return
        problem = resolve(options, plan.problem.arch)
        # With fixed buffers the old list serves whatever sees no more keys: a graph then captures launches only.
        might_be_aiter = not self._use_cuda_graph and aiter.is_wanted(self._requested_backend)
        if might_be_aiter or not problem.can_use_work_of(plan.problem, plan.tile, and_fewer_keys=self._use_cuda_graph):
            if self._active.is_capturing():
                raise RuntimeError(
                    "forward() was given options that need another list of work than the planned ones, and none can be "
                    "made while a graph is captured: plan with these options"
                )
            self._make_plan(problem, options, plan.batch, plan.fixed_split_size, plan.disable_split_kv)
            return
        kernel = kernels.get_kernel(problem.kernel_key(plan.tile, False), self._active)
        if plan.has_merge:
            kernels.get_kernel(problem.merge_key(False), self._active)
        params = kernel.params_type.from_buffer_copy(plan.params)
        for name in ("logits_soft_cap", "window_left", "rope_frequency", "rope_decay"):
            setattr(params, name, getattr(problem.logits, name))
        self._plan_made = dataclasses.replace(plan, problem=problem, options=options, kernel=kernel, params=params)


_OPTION_ATTRIBUTES = frozenset(
    ("_causal", "_window_left", "_sm_scale", "_rope_scale", "_rope_theta", "_pos_encoding_mode")
)
_BUFFER_ATTRIBUTES = frozenset(
    f"_{name}_buf"
    for name in (
        *("qo_indptr", "kv_indptr", "paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len"),
        *("custom_mask", "mask_indptr"),
    )
)


def _refuse_unbuilt(use_fp16_qk_reduction: Any, token_pos_in_items_len: Any, **arguments: Any) -> None:
    """Raise UnsupportedConfigError for arguments of plan() that no kernel honours."""
    if use_fp16_qk_reduction:
        validation.refuse("use_fp16_qk_reduction", use_fp16_qk_reduction, "False")
    if token_pos_in_items_len:
        validation.refuse("token_pos_in_items_len", token_pos_in_items_len, "0")
    validation.refuse_given(arguments)


def _check_graph_buffers(buffers: dict[str, Any]) -> int:
    """Return the batch size that index buffers of a captured graph are for."""
    for name, buffer in buffers.items():
        if not isinstance(buffer, torch.Tensor):
            raise ValueError(f"{name}_buf must be a torch.Tensor with use_cuda_graph=True, got {type(buffer).__name__}")
        page_table.check_int32(f"{name}_buf", buffer)
    batch_size = buffers["qo_indptr"].shape[0] - 1
    for name, buffer in buffers.items():
        expected = {"paged_kv_indices": buffer.shape[0], "paged_kv_last_page_len": batch_size}.get(name, batch_size + 1)
        if buffer.shape[0] != expected or batch_size < 0:
            raise ValueError(
                f"The length of {name}_buf must be {expected} for the {batch_size} requests of qo_indptr_buf, got "
                f"{buffer.shape[0]}"
            )
    return int(batch_size)


def _pad_merge(work: scheduler.PrefillPlan, num_rows: int) -> tuple[Int32Array, Int32Array]:
    used = len(work.merge_rows)
    rows = np.full(max(num_rows, used), -1, dtype=np.int32)
    indptr = np.zeros(len(rows) + 1, dtype=np.int32)
    rows[:used] = work.merge_rows
    indptr[: used + 1] = work.merge_indptr
    return rows, indptr


def _check_lengths(
    qo_lens: Lengths,
    kv_lens: Lengths,
    seq_lens: Any,
    seq_lens_q: Any,
    max_sequence_kv: int | None,
    max_token_per_sequence: int | None,
) -> None:
    """Raise ValueError if lengths that were given beside the index arrays do not agree with them."""
    for name, given, lens in (("seq_lens", seq_lens, kv_lens), ("seq_lens_q", seq_lens_q, qo_lens)):
        if given is not None and not isinstance(given, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
        if given is not None and given.device.type == "cpu":
            values = given.reshape(-1).numpy()
            if len(values) != len(lens) or (values != lens).any():
                raise ValueError(f"{name} does not agree with the lengths that the index arrays give")
    for name, bound, lens in (
        ("max_sequence_kv", max_sequence_kv, kv_lens),
        ("max_token_per_sequence", max_token_per_sequence, qo_lens),
    ):
        if bound is not None and len(lens) and int(lens.max()) > bound:
            raise ValueError(f"{name}={bound} is less than the length of request {int(lens.argmax())}, {lens.max()}")
