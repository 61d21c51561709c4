"""AITER's attention behind FlashInfer's arguments: which calls it honours in full, and how they are mapped.

Nothing here has run on hardware: the mapping is tested against stand-ins with the signatures of named releases of
amd-aiter. Another release is refused by name, for its arguments may mean something else.
"""

import importlib
import importlib.metadata
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from flashinfer_jit.errors import UnsupportedConfigError

DISTRIBUTION = "amd-aiter"
LOG2_E = math.log2(math.e)
_COMMON = ("return_lse", "return_attn_probs")
# Parameters of the public functions, in order, as the wheels of these releases define them (aiter/ops/mha.py).
RELEASES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "0.1.7.post2.dev18": {
        "flash_attn_func": (
            *("q", "k", "v", "dropout_p", "softmax_scale", "causal", "window_size", "bias", "alibi_slopes"),
            *("deterministic", *_COMMON, "how_v3_bf16_cvt", "cu_seqlens_q", "cu_seqlens_kv"),
        ),
        "flash_attn_varlen_func": (
            *("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "min_seqlen_q"),
            *("dropout_p", "softmax_scale", "logits_soft_cap", "causal", "window_size", "bias", "alibi_slopes"),
            *("deterministic", *_COMMON, "how_v3_bf16_cvt", "block_table", "out"),
            *("cu_seqlens_q_padded", "cu_seqlens_k_padded"),
        ),
        "mha_batch_prefill_func": (
            *("q", "k", "v", "cu_seqlens_q", "kv_indptr", "kv_page_indices", "max_seqlen_q", "max_seqlen_k"),
            *("dropout_p", "softmax_scale", "logits_soft_cap", "causal", "window_size", "alibi_slopes"),
            *("deterministic", *_COMMON, "out"),
        ),
    }
}


@dataclass(frozen=True, slots=True)
class Call:
    """What AITER has to honour of a prefill call.

    Attributes
    ----------
    dtype_q, dtype_kv, dtype_o : torch.dtype
        Element types.
    head_dim_qk, head_dim_vo : int
        Elements of a head.
    mask_mode : str
        ``none``, ``causal`` or ``custom``.
    position_encoding : str
        ``none``, ``rope_llama`` or ``alibi``.
    kv_layout : str
        ``NHD`` or ``HND``.
    page_size : int or None
        None if keys are not in pages.
    window_left : int
        -1 for none.
    logits_soft_cap : float
        0 for none.
    sm_scale : float
        The softmax scale, with the scales of q and k in it.
    has_sinks, is_captured, is_batch_invariant, has_hidden_rows : bool
        Whether there are sinks, whether the wrapper is for graphs, whether splits are fixed or forbidden, and whether
        any query sees no key.
    """

    dtype_q: torch.dtype
    dtype_kv: torch.dtype
    dtype_o: torch.dtype
    head_dim_qk: int
    head_dim_vo: int
    mask_mode: str
    position_encoding: str
    kv_layout: str
    page_size: int | None
    window_left: int
    logits_soft_cap: float
    sm_scale: float
    has_sinks: bool = False
    is_captured: bool = False
    is_batch_invariant: bool = False
    has_hidden_rows: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that all functions share."""
        causal = self.mask_mode == "causal"
        # A causal mask is a right window of 0; without either, -1 is unbounded.
        window = (self.window_left, 0 if causal else -1) if self.window_left >= 0 else (-1, -1)
        return {"softmax_scale": self.sm_scale, "causal": causal, "window_size": window}


def why_not(call: Call, is_single: bool) -> str | None:
    """Return which argument of ``call`` AITER would ignore or not do, None if it honours all of them."""
    rules = (
        (call.dtype_q not in (torch.float16, torch.bfloat16), f"q is {call.dtype_q}"),
        (call.dtype_kv != call.dtype_q, f"k and v are {call.dtype_kv} and q is {call.dtype_q}"),
        (call.dtype_o != call.dtype_q, f"the output is {call.dtype_o} and q is {call.dtype_q}"),
        (call.head_dim_qk != call.head_dim_vo, "head_dim_vo differs from head_dim_qk"),
        (call.head_dim_qk not in (64, 128, 256), f"head_dim_qk={call.head_dim_qk} is none of 64, 128, 256"),
        (call.mask_mode == "custom", "there is a custom mask"),
        (call.position_encoding != "none", f"pos_encoding_mode={call.position_encoding.upper()!r}"),
        (call.kv_layout != "NHD", f"kv_layout={call.kv_layout!r}"),
        (call.page_size not in (None, 1), f"page_size={call.page_size}: its pages hold one token"),
        (is_single and call.logits_soft_cap > 0, f"logits_soft_cap={call.logits_soft_cap}: flash_attn_func has none"),
        (call.has_sinks, "there are sinks"),
        (call.is_captured, "use_cuda_graph=True: longest lengths are numbers of the call, which a graph would keep"),
        (call.is_batch_invariant, "fixed_split_size or disable_split_kv: it splits by rules of its own"),
        (call.has_hidden_rows, "some queries see no key, and what their log-sum-exp is, is not documented"),
    )
    return next((reason for applies, reason in rules if applies), None)


def functions() -> dict[str, Callable[..., Any]]:
    """Return AITER's functions by name.

    Raises
    ------
    UnsupportedConfigError
        If amd-aiter is not installed, is another release than those of ``RELEASES``, or its functions have other
        parameters than that release's.
    """
    try:
        version = importlib.metadata.version(DISTRIBUTION)
        module = importlib.import_module("aiter")
    except ImportError as error:
        raise UnsupportedConfigError(
            f"backend='aiter' needs {DISTRIBUTION}, which cannot be imported ({error}): install it, or use "
            "backend='fa2' (this package's kernels)"
        ) from None
    # Builds of a release differ by a local suffix only.
    recorded = RELEASES.get(version.partition("+")[0])
    if recorded is None:
        raise UnsupportedConfigError(
            f"{DISTRIBUTION} {version} is not a release that this package knows: expected {', '.join(RELEASES)}, or "
            "backend='fa2' (this package's kernels)"
        )
    found = {}
    for name, parameters in recorded.items():
        found[name] = getattr(module, name, None)
        if found[name] is None or tuple(inspect.signature(found[name]).parameters) != parameters:
            raise UnsupportedConfigError(
                f"aiter.{name} is not that of {DISTRIBUTION} {version}: expected ({', '.join(parameters)})"
            )
    return found


def single_prefill(
    call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, return_lse: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return output and log-sum-exp of one request: q, k, v are ``[tokens, heads, head_dim]``."""
    result = functions()["flash_attn_func"](q[None], k[None], v[None], **call.options, return_lse=return_lse)
    # Of a batch of one; the log-sum-exp is [batch, heads, tokens].
    return _result(tuple(x[0] for x in result) if isinstance(result, tuple) else result[0], return_lse)


def ragged_prefill(
    call: Call,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    max_qo_len: int,
    max_kv_len: int,
    return_lse: bool,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return output and log-sum-exp of a batch: q, k, v are ``[nnz, heads, head_dim]``."""
    return _result(
        functions()["flash_attn_varlen_func"](
            q,
            k,
            v,
            qo_indptr,
            kv_indptr,
            max_qo_len,
            max_kv_len,
            **call.options,
            logits_soft_cap=call.logits_soft_cap,
            return_lse=return_lse,
            out=out,
        ),
        return_lse,
    )


def paged_prefill(
    call: Call,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    qo_indptr: torch.Tensor,
    paged_kv_indptr: torch.Tensor,
    paged_kv_indices: torch.Tensor,
    max_qo_len: int,
    max_kv_len: int,
    return_lse: bool,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return output and log-sum-exp over pages of one token: k, v are ``[num_pages, 1, num_kv_heads, head_dim]``."""
    return _result(
        functions()["mha_batch_prefill_func"](
            q,
            k.squeeze(1),
            v.squeeze(1),
            qo_indptr,
            paged_kv_indptr,
            paged_kv_indices,
            max_qo_len,
            max_kv_len,
            **call.options,
            logits_soft_cap=call.logits_soft_cap,
            return_lse=return_lse,
            out=out,
        ),
        return_lse,
    )


def _result(result: Any, return_lse: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    # A tuple if there is more than the output, else the output itself; some releases always return a tuple.
    if not isinstance(result, (tuple, list)):
        result = (result,)
    return result[0], to_base_2(result[1]) if return_lse else None


def to_base_2(lse: torch.Tensor) -> torch.Tensor:
    """Return AITER's log-sum-exp, natural and ``[heads, tokens]``, as FlashInfer's: base 2 and ``[tokens, heads]``."""
    return (lse * LOG2_E).transpose(0, 1).contiguous()
