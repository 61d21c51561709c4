"""Planning a batch decode: its kernel, and the list of work in the form that the kernel reads. Nothing is launched."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flashinfer_jit import kv_cache, page_table, scheduler, validation
from flashinfer_jit.attention_options import (
    LogitsOptions,
    check_dtypes,
    check_fixed_split,
    check_logits_options,
    softmax_scale,
)
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.variant_binding import VariantBinding


@dataclass(frozen=True, slots=True)
class DecodeProblem:
    """What plan() found out: everything run() needs beside tensors.

    Attributes
    ----------
    config : AttentionConfig
        Of the kernel, without sinks.
    tile : TileConfig
        Its tile.
    logits : LogitsOptions
        What happens to logits.
    page_size, q_len_per_req, num_qo_heads, num_kv_heads, head_dim : int
        As planned.
    dtype_q, dtype_kv, dtype_o : torch.dtype
        As planned.
    sm_scale : float
        The softmax scale.
    batch_size : int
        Requests.
    """

    config: AttentionConfig
    tile: tiling.TileConfig
    logits: LogitsOptions
    page_size: int
    q_len_per_req: int
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    dtype_q: torch.dtype
    dtype_kv: torch.dtype
    dtype_o: torch.dtype
    sm_scale: float
    batch_size: int

    def can_use_work_of(self, other: "DecodeProblem", and_fewer_keys: bool) -> bool:
        """Return whether a list of work made for ``other`` serves this problem: it splits keys as it would, or, with
        ``and_fewer_keys``, it covers all keys that queries see here, and masks leave out the others."""
        window, planned = self.logits.window_left, other.logits.window_left
        if self.tile != other.tile:
            return False
        return window == planned or (and_fewer_keys and (planned < 0 or 0 <= window <= planned))


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How the keys of a request may be split.

    Attributes
    ----------
    fixed_split_size : int or None
        Pages of a part.
    disable_split_kv : bool
        Not at all.
    batch_invariant : bool
        By a rule of the request's own length.
    """

    fixed_split_size: int | None
    disable_split_kv: bool
    batch_invariant: bool

    def fixed_chunk(self, page_size: int) -> int | None:
        """Return the keys of a part if they are fixed; raise ValueError for a size that is no number of pages."""
        if self.disable_split_kv:
            return validation.INT32_MAX
        pages = check_fixed_split(self.fixed_split_size)
        return None if pages is None else pages * page_size


@functools.lru_cache(maxsize=1024, typed=True)
def find_problem(
    arch: Arch,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    sizes: tuple[int, int, int, int, int],
    logits_options: tuple[Any, ...],
    sm_scale: float | None,
    batch_size: int,
    variant: str | None = None,
) -> DecodeProblem:
    """Return what a plan's arguments amount to.

    Parameters
    ----------
    arch : Arch
        The GPU.
    dtypes : tuple of torch.dtype
        Of q, of the cache, of the output.
    sizes : tuple of int
        ``num_qo_heads, num_kv_heads, head_dim, page_size, q_len_per_req``.
    logits_options : tuple
        ``pos_encoding_mode, window_left, logits_soft_cap, rope_scale, rope_theta``.
    sm_scale : float or None
        The softmax scale.
    batch_size : int
        Requests.
    variant : str or None
        A custom variant as the configuration has it.

    Raises
    ------
    UnsupportedConfigError, ValueError, KeyError
        As ``plan()`` says.
    """
    num_qo_heads, num_kv_heads, head_dim, page_size, q_len_per_req = map(validation.plain_int, sizes)
    kv_cache.check_page_size(page_size)
    if not isinstance(q_len_per_req, int) or q_len_per_req < 1:
        raise ValueError(f"q_len_per_req must be >= 1, a number of query tokens, got {q_len_per_req!r}")
    group_size = validation.check_heads(num_qo_heads, num_kv_heads)
    logits = check_logits_options(*logits_options, max(head_dim, 1))
    dtype_q, dtype_kv, dtype_o = (validation.DTYPE_NAMES[dtype] for dtype in dtypes)
    config = AttentionConfig(
        phase="decode",
        dtype_q=dtype_q,
        dtype_kv=dtype_kv,
        dtype_o=dtype_o,
        head_dim_qk=head_dim,
        head_dim_vo=head_dim,
        group_size=group_size,
        mask_mode="causal",
        kv_source=kv_cache.kv_source(page_size),
        position_encoding=logits.position_encoding,
        has_window=logits.window_left >= 0,
        has_soft_cap=logits.logits_soft_cap > 0,
        variant=variant,
    )
    tile = tiling.smallest_holding(tiling.candidates(config, arch), group_size * q_len_per_req)
    return DecodeProblem(
        *(config, tile, logits, page_size, q_len_per_req, num_qo_heads, num_kv_heads, head_dim),
        *dtypes,
        sm_scale=softmax_scale(1.0 / math.sqrt(head_dim), sm_scale),
        batch_size=batch_size,
    )


def find_variant_problem(
    variant: VariantBinding,
    arch: Arch,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    sizes: tuple[int, int, int, int, int],
    logits_options: tuple[Any, ...],
    sm_scale: float | None,
    batch_size: int,
) -> DecodeProblem:
    """Return what ``find_problem`` does, with a custom variant; raises ValueError for what it was not declared for."""
    variant.check_options(sm_scale=sm_scale)
    mode, *others = logits_options
    options = (variant.pos_encoding_mode if mode == "NONE" else mode, *others)
    problem = find_problem(arch, dtypes, sizes, options, sm_scale, batch_size, variant.text)
    variant.check_config(problem.config)
    return problem


def schedule(
    problem: DecodeProblem,
    arch: Arch,
    table: page_table.HostTable,
    split: SplitOptions,
    max_partial_rows: int,
    max_pages: int | None,
) -> scheduler.DecodePlan:
    """Return the list of work.

    Parameters
    ----------
    problem : DecodeProblem
        From ``find_problem``.
    arch : Arch
        The GPU.
    table : HostTable
        The page table.
    split : SplitOptions
        How keys may be split.
    max_partial_rows : int
        Rows that the workspace has for partial results.
    max_pages : int or None
        For a captured graph, whose lists have a fixed length, the most pages that a later plan can have.

    Raises
    ------
    ValueError
        For a workspace that is too small for a fixed split.
    """
    qo_len, page_size, batch_size = problem.q_len_per_req, problem.page_size, problem.batch_size
    num_rows = problem.config.group_size * qo_len
    max_items = tiling.concurrent_parts(arch, problem.tile, num_rows, problem.num_kv_heads)
    fixed_chunk = split.fixed_chunk(page_size)
    kv_begin = np.zeros_like(table.kv_end)
    if problem.logits.window_left >= 0:
        # The shortest that the request can be decides; tiles of keys start where those of pages do.
        first_seen = np.maximum(table.min_kv_len - qo_len - problem.logits.window_left, 0)
        kv_begin = first_seen // kv_cache.TILE_KEYS * kv_cache.TILE_KEYS
    pad_items = pad_rows = 0
    if max_pages is not None:
        # As many as any later plan of this batch size and kind can need.
        pad_items, pad_rows = max_items + batch_size, batch_size * qo_len
        if split.disable_split_kv:
            pad_items, pad_rows = batch_size, 0
        elif fixed_chunk is not None or split.batch_invariant:
            pad_items = batch_size + max_pages * page_size // (fixed_chunk or scheduler.INVARIANT_MIN_KEYS)
    try:
        return scheduler.plan_decode(
            kv_begin,
            table.kv_end,
            qo_len=qo_len,
            max_work_items=max_items,
            num_units=tiling.units_of_a_part(arch, problem.tile, num_rows, problem.num_kv_heads),
            max_partial_rows=max_partial_rows,
            fixed_chunk=fixed_chunk,
            batch_invariant=split.batch_invariant,
            pad_work_items=pad_items,
            pad_merge_rows=pad_rows,
        )
    except ValueError as error:
        row_bytes = 4 * problem.num_qo_heads * (problem.head_dim + 1)
        raise ValueError(
            f"float_workspace_buffer is too small: {error} ({row_bytes} bytes each); pass a larger one, or larger parts"
        ) from None


def resolve_dtypes(q: Any, kv: Any, data_type: Any, o: Any) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """Return the dtypes of q, the cache and the output; raise UnsupportedConfigError for those without kernels."""
    dtype_q = validation.canonical_dtype("q_data_type", q if q is not None else data_type or "float16")
    dtype_kv = validation.canonical_dtype("kv_data_type", kv if kv is not None else data_type or dtype_q)
    dtype_o = None if o is None else validation.canonical_dtype("o_data_type", o)
    return check_dtypes(dtype_q, dtype_kv, dtype_o, ("q_data_type", "kv_data_type", "o_data_type"))
