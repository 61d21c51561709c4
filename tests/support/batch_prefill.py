"""Launches the prefill kernel for a batch, below the public functions; compares with float64."""

import dataclasses
import functools
import math

import numpy as np
import torch

from flashinfer_jit import merge, runtime
from flashinfer_jit.jit import kernels
from flashinfer_jit.jit.config import PREFILL_PAGE_GRANULE, AttentionConfig
from flashinfer_jit.scheduler import PrefillPlan, plan_prefill
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance, attention_reference
from support.prefill import Problem


@dataclasses.dataclass(frozen=True)
class Batch(Problem):
    """One call for several requests; the lengths of :class:`Problem` are not used."""

    qo_lens: tuple[int, ...] = (40, 1, 0, 130, 7)
    kv_lens: tuple[int, ...] = (100, 33, 9, 130, 0)
    # None for ragged keys.
    page_size: int | None = None
    has_sinks: bool = False
    fixed_split_size: int | None = None
    disable_split_kv: bool = True
    variant: str | None = None

    @property
    def kv_source(self) -> str:
        if self.page_size is None:
            return "ragged"
        if self.page_size == 1:
            return "page_size_1"
        return "page_size_any" if self.page_size % PREFILL_PAGE_GRANULE else "page_size_multiple"

    @property
    def config(self) -> AttentionConfig:
        return dataclasses.replace(
            super().config, kv_source=self.kv_source, has_sinks=self.has_sinks, variant=self.variant
        )


@dataclasses.dataclass
class BatchInputs:
    """Tensors of a batch: k and v of each request, and k and v as the kernel gets them, with NaN around."""

    q: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    k: torch.Tensor
    v: torch.Tensor
    masks: list[torch.Tensor] | None
    sinks: torch.Tensor | None
    # Ragged: [requests + 1]; paged: the three of the page table.
    index: dict[str, torch.Tensor]
    layout: str


def int32(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def indptr(lengths) -> torch.Tensor:
    return int32(np.concatenate(([0], np.cumsum(lengths))).tolist())


def division(page_size: int) -> tuple[int, int]:
    """Return the reciprocal and the shift that divide by ``page_size``."""
    shift = (page_size - 1).bit_length() - 1 if page_size > 1 else 0
    return min(-(-(2 ** (32 + shift)) // page_size), 2**32 - 1), shift


def make_batch(batch: Batch, seed: int = 0, layout: str = "NHD") -> BatchInputs:
    """Return standard normal inputs; everything in the cache that belongs to no request is NaN."""
    generator = torch.Generator().manual_seed(seed)
    random = functools.partial(torch.randn, generator=generator)
    dtype_kv = batch.dtype_kv or batch.dtype
    q = random(sum(batch.qo_lens), batch.num_kv_heads * batch.group_size, batch.head_dim).to(batch.dtype)
    dims = batch.head_dim, batch.head_dim_vo or batch.head_dim
    keys, values = ([random(length, batch.num_kv_heads, dim).to(dtype_kv) for length in batch.kv_lens] for dim in dims)

    def poison(*shape: int) -> torch.Tensor:
        return torch.full(shape, math.nan).to(dtype_kv)

    tensors = []
    if batch.page_size is None:
        index = {"kv_indptr": indptr(batch.kv_lens) + 5}
        for parts, dim in zip((keys, values), dims, strict=True):
            tensor = poison(sum(batch.kv_lens) + 10, batch.num_kv_heads, dim)
            tensor[5 : len(tensor) - 5] = torch.cat(parts)
            tensors.append(tensor.transpose(0, 1).contiguous().transpose(0, 1) if layout == "HND" else tensor)
    else:
        size = batch.page_size
        pages = [-(-length // size) for length in batch.kv_lens]
        table = torch.randperm(sum(pages) + 3, generator=generator)[: sum(pages)]
        index = {
            "paged_kv_indptr": indptr(pages),
            "paged_kv_indices": table.to(torch.int32),
            "paged_kv_last_page_len": int32(
                [length - (n - 1) * size if n else 0 for length, n in zip(batch.kv_lens, pages, strict=True)]
            ),
        }
        for parts, dim in zip((keys, values), dims, strict=True):
            shape = (batch.num_kv_heads, size) if layout == "HND" else (size, batch.num_kv_heads)
            cache = poison(sum(pages) + 3, *shape, dim)
            cache = cache.transpose(1, 2) if layout == "HND" else cache
            for part, first, n in zip(parts, np.cumsum(pages) - pages, pages, strict=True):
                for i, page in enumerate(table[first : first + n]):
                    rows = part[i * size : (i + 1) * size]
                    cache[page, : len(rows)] = rows
            tensors.append(cache)
    masks = None
    if batch.mask_mode == "custom":
        masks = [random(qo, kv) > 0.3 for qo, kv in zip(batch.qo_lens, batch.kv_lens, strict=True)]
    sinks = random(q.shape[1]) * 2 if batch.has_sinks else None
    return BatchInputs(q, keys, values, *tensors, masks, sinks, index, layout)


def plan(batch: Batch, arch: str, **options) -> PrefillPlan:
    """Return the scheduler's plan of a batch."""
    key = batch.key(arch)
    return plan_prefill(
        batch.qo_lens,
        batch.kv_lens,
        group_size=batch.group_size,
        num_kv_heads=batch.num_kv_heads,
        block_q=key.tile.block_q,
        block_kv=key.tile.block_kv,
        num_cus=key.arch.num_cus,
        causal=batch.mask_mode == "causal",
        window_left=batch.window_left,
        fixed_split_size=batch.fixed_split_size,
        disable_split_kv=batch.disable_split_kv and batch.fixed_split_size is None,
        **options,
    )


def launch_batch(batch: Batch, inputs: BatchInputs, arch: str, work: PrefillPlan | None = None, **extra):
    """Run the kernel and, if keys are split, the merge; return o and lse."""
    active = runtime.current()
    kernel = kernels.get_kernel(batch.key(arch), active)
    work = work or plan(batch, arch)
    q, k, v = inputs.q, inputs.k, inputs.v
    head_dim_vo = v.shape[-1]
    o = torch.full((*q.shape[:2], head_dim_vo), math.nan, dtype=batch.dtype_o or batch.dtype)
    lse = torch.full(q.shape[:2], math.nan)
    tensors = {"q": q, "k": k, "v": v, "o": o, "lse": lse, **inputs.index}
    tensors["qo_indptr"] = indptr(batch.qo_lens)
    tensors["work_items"] = torch.from_numpy(work.work_items)
    if inputs.masks is not None:
        packed = [np.packbits(mask.numpy(), bitorder="little") for mask in inputs.masks]
        tensors["custom_mask"] = torch.nn.functional.pad(torch.from_numpy(np.concatenate(packed)), (0, 0))
        tensors["mask_indptr"] = indptr([len(part) for part in packed])
        assert len(tensors["custom_mask"]) >= 8
    if inputs.sinks is not None:
        tensors["sinks"] = inputs.sinks
    if work.num_partial_rows:
        shape = (work.num_partial_rows, q.shape[1])
        tensors["partial_o"] = torch.full((*shape, head_dim_vo), math.nan)
        tensors["partial_lse"] = torch.full(shape, math.nan)
    fields = {}
    token, head = (1, 2) if batch.page_size else (0, 1)
    if batch.page_size:
        reciprocal, shift = division(batch.page_size)
        fields = {
            "k_stride_page": k.stride(0),
            "v_stride_page": v.stride(0),
            "page_size": batch.page_size,
            "page_size_reciprocal": reciprocal,
            "page_size_shift": shift,
        }
    extra_tensors = {name: value for name, value in extra.items() if isinstance(value, torch.Tensor)}
    tensors |= extra_tensors
    params = kernel.params_type(
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        **{name: value for name, value in extra.items() if name not in extra_tensors},
        **fields,
        q_stride_n=q.stride(0),
        q_stride_h=q.stride(1),
        k_stride_n=k.stride(token),
        k_stride_h=k.stride(head),
        v_stride_n=v.stride(token),
        v_stride_h=v.stride(head),
        o_stride_n=o.stride(0),
        o_stride_h=o.stride(1),
        num_qo_heads=q.shape[1],
        num_kv_heads=batch.num_kv_heads,
        sm_scale_log2=(batch.sm_scale or 1 / math.sqrt(batch.head_dim)) * math.log2(math.e),
        output_scale=batch.v_scale,
        logits_soft_cap=batch.logits_soft_cap,
        window_left=batch.window_left,
        rope_frequency=1 / (2 * math.pi * batch.rope_scale),
        rope_decay=batch.rope_theta ** (-2 / batch.head_dim),
        num_work_items=len(work.work_items),
    )
    active.launch(kernel, params, tensors, None)
    if work.num_partial_rows:
        name = str(o.dtype).removeprefix("torch.")
        merge.merge_partials(
            active,
            merge.merge_key(kernel.key.arch, "float32", name, head_dim_vo, batch.has_sinks),
            tensors["partial_o"],
            tensors["partial_lse"],
            o,
            lse,
            num_rows=len(work.merge_rows),
            output_scale=batch.v_scale,
            indptr=torch.from_numpy(work.merge_indptr),
            output_rows=torch.from_numpy(work.merge_rows),
            sinks=inputs.sinks,
        )
    return o, lse


def reference(batch: Batch, inputs: BatchInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the kernel should give, in float64, request by request."""
    outputs, lses = [], []
    for i, q in enumerate(inputs.q.split(batch.qo_lens)):
        o, lse = attention_reference(
            q,
            inputs.keys[i].float(),
            inputs.values[i].float(),
            causal=batch.mask_mode == "causal",
            sm_scale=batch.sm_scale,
            custom_mask=None if inputs.masks is None else inputs.masks[i],
            window_left=batch.window_left,
            logits_soft_cap=batch.logits_soft_cap,
            pos_encoding_mode=batch.pos_encoding_mode,
            rope_scale=batch.rope_scale,
            rope_theta=batch.rope_theta,
        )
        if inputs.sinks is not None:
            # One more key with the value 0: the sum of weights grows, the output shrinks.
            whole = torch.logaddexp2(lse, inputs.sinks.double() * math.log2(math.e))
            o, lse = o * torch.exp2(lse - whole)[..., None], whole
        outputs.append(o * batch.v_scale)
        lses.append(lse)
    return torch.cat(outputs), torch.cat(lses)


def batch_errors(batch: Batch, inputs: BatchInputs, arch: str, **options) -> tuple[float, float]:
    """Return the worst errors of o and lse in units of what is allowed."""
    o, lse = launch_batch(batch, inputs, arch, **options)
    o_reference, lse_reference = reference(batch, inputs)
    tolerance = TOLERANCES[batch.dtype]
    lse_tolerance = LSE_TOLERANCE if batch.pos_encoding_mode != "ROPE_LLAMA" else Tolerance(tolerance.absolute, 0.0)
    return tolerance.worst(o, o_reference), lse_tolerance.worst(lse, lse_reference)
