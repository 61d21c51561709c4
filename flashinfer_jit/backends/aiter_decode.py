"""Batch decode and append by AITER: how arguments are mapped to paged_attention_v1 and reshape_and_cache_flash."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from flashinfer_jit.backends import aiter
from flashinfer_jit.decode_plan import DecodeProblem
from flashinfer_jit.head_scales import HeadScales
from flashinfer_jit.page_table import HostTable

# Keys of a part of a request, which is a constant of its kernels.
PARTITION_SIZE = 256


class BatchDecode:
    """A planned batch, done by paged_attention_v1.

    Parameters
    ----------
    backend : str
        As the caller gave it.
    called : callable
        The function.
    problem : DecodeProblem
        The plan's options.
    kv_layout : str
        ``NHD`` or ``HND``.
    max_kv_len : int
        The most keys that a request can have.
    tensors : dict
        On the device: ``block_tables`` ``[batch_size, max_pages]`` and ``context_lens`` ``[batch_size]`` int32,
        ``workspace`` in bytes, ``one`` a float32.
    """

    def __init__(
        self,
        backend: str,
        called: Callable[..., Any],
        problem: DecodeProblem,
        kv_layout: str,
        max_kv_len: int,
        tensors: dict[str, torch.Tensor],
    ) -> None:
        self._backend, self._called, self._problem = backend, called, problem
        self._kv_layout, self._max_kv_len, self._tensors = kv_layout, max_kv_len, tensors

    @property
    def is_all(self) -> bool:
        """Whether there is nothing else to plan: else this package's kernels do what only a run can tell."""
        return self._backend == "aiter"

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor | None,
        scales: HeadScales,
        sinks: torch.Tensor | None,
    ) -> bool:
        """Compute into ``out``; return False where this package's kernels have to do it."""
        problem, tensors = self._problem, self._tensors
        has = {"has_sinks": sinks is not None, "wants_lse": lse is not None, "has_scale_tensors": bool(scales.tensors)}
        run = aiter.Run(aiter.DECODE, q, k, v, out, problem.page_size, **has)
        if aiter.is_declined(self._backend, run):
            return False
        if q.shape[0] == 0:
            return True
        with torch.no_grad():
            self._called(
                out,
                tensors["workspace"],
                q,
                k,
                v,
                problem.sm_scale * scales.logits,
                tensors["block_tables"],
                None,
                tensors["context_lens"],
                self._max_kv_len,
                None,
                "auto",
                self._kv_layout,
                problem.logits.logits_soft_cap,
                tensors["one"],
                tensors["one"],
                partition_size=PARTITION_SIZE,
                # Keys that a query sees, its own with them; 0 for all.
                sliding_window=problem.logits.window_left + 1,
            )
        aiter.scale_output(out, scales.output)
        return True


def batch(
    backend: str,
    problem: DecodeProblem,
    table: HostTable,
    indices: torch.Tensor,
    last_page_len: torch.Tensor,
    workspace: torch.Tensor,
    *,
    kv_layout: str,
    is_captured: bool,
    is_batch_invariant: bool,
) -> BatchDecode | None:
    """Return how AITER does a planned batch, None where this package's kernels do it.

    Parameters
    ----------
    backend : str
        As the caller gave it.
    problem : DecodeProblem
        The plan's options.
    table : HostTable
        What is known of the page table on the host.
    indices, last_page_len : torch.Tensor
        Page numbers and lengths of last pages, on host or device; nothing is copied to the host.
    workspace : torch.Tensor
        ``float_workspace_buffer``.
    kv_layout, is_captured, is_batch_invariant
        As in :class:`aiter.Call`.

    Raises
    ------
    UnsupportedConfigError
        As ``aiter.choose``.
    """
    if not aiter.is_wanted(backend):
        return None
    config = problem.config
    max_kv_len = int(table.kv_end.max(initial=0))
    # A maximum and a sum, float32, and an output of the dtype of q, for every part of every head of every request.
    num_parts = problem.batch_size * problem.num_qo_heads * -(-max_kv_len // PARTITION_SIZE)
    num_bytes = num_parts * (2 * 4 + problem.head_dim * problem.dtype_q.itemsize)
    called = aiter.choose(
        backend,
        aiter.Call(
            operation=aiter.DECODE,
            device_type=workspace.device.type,
            dtype_q=problem.dtype_q,
            dtype_kv=problem.dtype_kv,
            dtype_o=problem.dtype_o,
            head_dim_qk=problem.head_dim,
            head_dim_vo=problem.head_dim,
            group_size=config.group_size,
            mask_mode="causal",
            position_encoding=config.position_encoding,
            kv_layout=kv_layout,
            page_size=problem.page_size,
            window_left=problem.logits.window_left,
            logits_soft_cap=problem.logits.logits_soft_cap,
            q_len_per_req=problem.q_len_per_req,
            variant=config.variant,
            is_captured=is_captured,
            is_batch_invariant=is_batch_invariant,
            has_hidden_rows=bool((table.kv_end < problem.q_len_per_req).any()),
            missing_workspace=num_bytes - workspace.numel() * workspace.element_size(),
        ),
    )
    if called is None:
        return None
    device = workspace.device
    starts, num_pages = table.indptr[:-1].astype(np.int64), np.diff(table.indptr).astype(np.int64)
    # Places past a request's last page hold its last page again.
    columns = np.minimum(np.arange(num_pages.max(initial=1)), num_pages[:, None] - 1)
    places = torch.from_numpy(starts[:, None] + columns).to(indices.device, non_blocking=True)
    full = torch.from_numpy(((num_pages - 1) * problem.page_size).astype(np.int32))
    tensors = {
        "block_tables": indices[places].to(device, non_blocking=True),
        "context_lens": full.to(device, non_blocking=True) + last_page_len.to(device, non_blocking=True),
        "workspace": workspace.view(-1).view(torch.uint8),
        "one": torch.ones(1, dtype=torch.float32, device=device),
    }
    return BatchDecode(backend, called, problem, kv_layout, max_kv_len, tensors)


def append(
    backend: str,
    append_key: torch.Tensor,
    append_value: torch.Tensor,
    batch_indices: torch.Tensor,
    positions: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    kv_indices: torch.Tensor,
    kv_indptr: torch.Tensor,
) -> bool:
    """Write new keys and values with reshape_and_cache_flash; return False where this package's kernel has to do it.

    Parameters
    ----------
    backend : str
        As the caller gave it.
    append_key, append_value, batch_indices, positions, kv_indices, kv_indptr : torch.Tensor
        As for ``append_paged_kv_cache``, checked.
    k_cache, v_cache : torch.Tensor
        ``[num_pages, page_size, num_kv_heads, head_dim]``, views of another layout's caches.

    Raises
    ------
    UnsupportedConfigError
        As ``aiter.choose``.
    """
    called = aiter.choose(
        backend,
        aiter.Call(
            operation=aiter.APPEND,
            device_type=append_key.device.type,
            dtype_q=append_key.dtype,
            dtype_kv=k_cache.dtype,
            dtype_o=append_key.dtype,
            head_dim_qk=append_key.shape[2],
            head_dim_vo=append_value.shape[2],
        ),
    )
    if called is None or aiter.is_declined(
        backend, aiter.Run(aiter.APPEND, append_key, k_cache, v_cache, append_value, k_cache.shape[1])
    ):
        return False
    if append_key.shape[0] == 0:
        return True
    page_size = k_cache.shape[1]
    # Slots of tokens, computed on the device; tokens with a negative index are left out by both.
    is_used = batch_indices >= 0
    request, position = batch_indices.clamp(min=0).long(), positions.clamp(min=0).long()
    entries = torch.where(is_used, kv_indptr.long()[request] + position // page_size, 0)
    slots = torch.where(is_used, kv_indices.long()[entries] * page_size + position % page_size, -1)
    one = torch.ones(1, dtype=torch.float32, device=append_key.device)
    with torch.no_grad():
        called(append_key, append_value, k_cache, v_cache, slots, "auto", one, one)
    return True
