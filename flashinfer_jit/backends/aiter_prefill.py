"""Prefill by AITER: how arguments are mapped to flash_attn_func, flash_attn_varlen_func and mha_batch_prefill_func."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flashinfer_jit.backends import aiter
from flashinfer_jit.head_scales import HeadScales
from flashinfer_jit.prefill_problem import PrefillProblem

# mha_batch_prefill_func reads the numbers of whole tiles of 128 keys and of the next tile, past the end of the list.
PAGE_LIST_PADDING = 256


def options(mask_mode: str, window_left: int, scale: float, wants_lse: bool) -> dict[str, Any]:
    """Return the keyword arguments that all prefill functions share."""
    is_causal = mask_mode == "causal"
    # A causal mask is a right window of 0; without either, -1 is unbounded.
    window = (window_left, 0 if is_causal else -1) if window_left >= 0 else (-1, -1)
    return {"softmax_scale": scale, "causal": is_causal, "window_size": window, "return_lse": wants_lse}


@dataclass(frozen=True, slots=True)
class SinglePrefill:
    """A request's prefill by flash_attn_func.

    Attributes
    ----------
    backend : str
        As the caller gave it.
    called : callable
        The function.
    mask_mode, window_left : str, int
        As in :class:`aiter.Call`.
    """

    backend: str
    called: Callable[..., Any]
    mask_mode: str
    window_left: int

    def run(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, scales: HeadScales, wants_lse: bool
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None:
        """Return the result, None where this package's kernels have to do it; k and v are ``[kv_len, heads, dim]``."""
        if k.shape[0] == 0:
            aiter.decline(self.backend, aiter.NO_KEYS)
            return None
        if scales.tensors and aiter.is_declined(
            self.backend, aiter.Run(aiter.SINGLE, q, k, v, q, None, has_scale_tensors=True)
        ):
            return None
        with torch.no_grad():
            arguments = options(self.mask_mode, self.window_left, scale * scales.logits, wants_lse)
            out, lse = aiter.pair(self.called(q[None], k[None], v[None], **arguments), wants_lse)
        out = out[0]
        aiter.scale_output(out, scales.output)
        # [1, num_qo_heads, qo_len] natural to [qo_len, num_qo_heads] base 2.
        return out if lse is None else (out, (lse[0] * aiter.LOG2_E).transpose(0, 1).contiguous())


def single(backend: str, call: aiter.Call) -> SinglePrefill | None:
    """Return how AITER does a single prefill, None where it does not; raises as ``aiter.choose``."""
    called = aiter.choose(backend, call)
    return None if called is None else SinglePrefill(backend, called, call.mask_mode, call.window_left)


class BatchPrefill:
    """A planned batch, done by AITER.

    Parameters
    ----------
    backend : str
        As the caller gave it.
    called : callable
        AITER's function.
    problem : PrefillProblem
        The plan's options.
    kv_layout : str
        ``NHD`` or ``HND``.
    lengths : numpy.ndarray
        Keys of each request.
    starts : numpy.ndarray
        ``[batch_size + 1]``: where queries begin.
    tensors : dict
        Index tensors on the device: ``qo_indptr``, ``kv_indptr`` and, for pages, ``pages``, and ``slots`` if they hold
        more than one token: page and place in it of every key.
    """

    def __init__(
        self,
        backend: str,
        called: Callable[..., Any],
        problem: PrefillProblem,
        kv_layout: str,
        lengths: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int32],
        tensors: dict[str, torch.Tensor],
    ) -> None:
        self._backend, self._called, self._problem = backend, called, problem
        self._token_dim = 0 if kv_layout == "NHD" else 1
        self._longest = (int(np.diff(starts).max(initial=0)), int(lengths.max(initial=0)))
        self._tensors = tensors
        self._parameters = inspect.signature(called).parameters
        self._rows: tuple[int, torch.Tensor] | None = None

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
        """Compute into ``out`` and ``lse``; return False where this package's kernels have to do it."""
        problem = self._problem
        page_size = problem.page_size
        if self._token_dim == 1:
            k, v = (x.transpose(-3, -2) for x in (k, v))
        operation = aiter.RAGGED if page_size is None else aiter.PAGED
        has = {"has_sinks": sinks is not None, "has_scale_tensors": bool(scales.tensors)}
        if aiter.is_declined(self._backend, aiter.Run(operation, q, k, v, out, page_size, **has)):
            return False
        if q.shape[0] == 0:
            return True
        scale = problem.sm_scale * scales.logits
        arguments = options(problem.config.mask_mode, problem.logits.window_left, scale, lse is not None)
        indices = [self._tensors["qo_indptr"], self._tensors["kv_indptr"]]
        if page_size is not None:
            k, v, rows = self._token_rows(k, v, page_size)
            indices.append(rows)
            arguments["logits_soft_cap"] = problem.logits.logits_soft_cap
        if "out" in self._parameters:
            arguments["out"] = out
        with torch.no_grad():
            o, natural = aiter.pair(self._called(q, k, v, *indices, *self._longest, **arguments), lse is not None)
        if o.data_ptr() != out.data_ptr():
            out.copy_(o)
        aiter.scale_output(out, scales.output)
        if lse is not None and natural is not None:
            # [num_qo_heads, nnz] natural to [nnz, num_qo_heads] base 2.
            torch.mul(natural.transpose(0, 1), aiter.LOG2_E, out=lse)
        return True

    def _token_rows(
        self, k: torch.Tensor, v: torch.Tensor, page_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return caches as ``[rows, heads, dim]``, a token a row, and the rows of all keys: pages of one token."""
        if page_size == 1:
            return k[:, 0], v[:, 0], self._tensors["pages"]
        step = k.stride(0) // k.stride(1)
        # The same for every run with caches of one form; computed on the device.
        if self._rows is None or self._rows[0] != step:
            self._rows = (step, self._tensors["pages"] * step + self._tensors["slots"])
        num_rows = (k.shape[0] - 1) * step + page_size
        k, v = (x.as_strided((num_rows, *x.shape[2:]), x.stride()[1:]) for x in (k, v))
        return k, v, self._rows[1]


def batch(
    backend: str,
    problem: PrefillProblem,
    qo_starts: npt.NDArray[np.int32],
    kv_lens: npt.NDArray[np.int64],
    page_starts: npt.NDArray[np.int32] | None,
    page_indices: torch.Tensor | None,
    device: torch.device,
    *,
    kv_layout: str,
    is_captured: bool,
    is_batch_invariant: bool,
) -> BatchPrefill | None:
    """Return how AITER does a planned batch, None where this package's kernels do it.

    Parameters
    ----------
    backend : str
        As the caller gave it.
    problem : PrefillProblem
        The plan's options.
    qo_starts, kv_lens : numpy.ndarray
        qo_indptr, and the keys of each request.
    page_starts, page_indices : numpy.ndarray, torch.Tensor
        paged_kv_indptr, and page numbers on host or device, which are not copied to the host; None for ragged keys.
    device : torch.device
        Where runs are.
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
    qo_lens = np.diff(qo_starts)
    fewest = qo_lens if problem.is_causal else np.minimum(qo_lens, 1)
    called = aiter.choose(
        backend,
        aiter.Call(
            operation=aiter.RAGGED if problem.page_size is None else aiter.PAGED,
            device_type=device.type,
            dtype_q=problem.dtype_q,
            dtype_kv=problem.dtype_kv,
            dtype_o=problem.dtype_o,
            head_dim_qk=config.head_dim_qk,
            head_dim_vo=config.head_dim_vo,
            group_size=config.group_size,
            mask_mode=config.mask_mode,
            position_encoding=config.position_encoding,
            kv_layout=kv_layout,
            page_size=problem.page_size,
            window_left=problem.logits.window_left,
            logits_soft_cap=problem.logits.logits_soft_cap,
            variant=config.variant,
            is_captured=is_captured,
            is_batch_invariant=is_batch_invariant,
            has_hidden_rows=bool((kv_lens < fewest).any()),
        ),
    )
    if called is None:
        return None
    kv_starts = np.concatenate(([0], np.cumsum(kv_lens)))
    lists: dict[str, npt.NDArray[Any]] = {"qo_indptr": qo_starts, "kv_indptr": kv_starts}
    if page_starts is not None:
        position = np.arange(kv_starts[-1]) - np.repeat(kv_starts[:-1], kv_lens)
        page_size = problem.page_size or 1
        entries = np.repeat(page_starts[:-1].astype(np.int64), kv_lens) + position // page_size
        # Past the end are keys of the last request again: what is read there has to be memory that holds numbers.
        padding = (0, PAGE_LIST_PADDING if len(entries) else 0)
        entries = np.pad(entries, padding, mode="edge" if len(entries) else "constant")
        lists["slots"] = np.pad(position % page_size, padding, mode="edge" if len(position) else "constant")
    tensors = {name: torch.from_numpy(x.astype(np.int32)).to(device, non_blocking=True) for name, x in lists.items()}
    if page_indices is not None:
        places = torch.from_numpy(entries).to(page_indices.device, non_blocking=True)
        tensors["pages"] = page_indices[places].to(device, non_blocking=True)
    return BatchPrefill(backend, called, problem, kv_layout, kv_lens, qo_starts, tensors)
