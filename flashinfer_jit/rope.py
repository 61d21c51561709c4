"""Rotary position encoding of queries and keys, before they are attended or cached."""

import functools
import math
from numbers import Integral
from typing import NamedTuple

import torch

from flashinfer_jit import ops, overlap, page_table, runtime, validation
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.families.apply_rope import ApplyRopeConfig
from flashinfer_jit.jit.key import KernelKey

__all__ = [
    "apply_llama31_rope",
    "apply_llama31_rope_inplace",
    "apply_llama31_rope_pos_ids",
    "apply_llama31_rope_pos_ids_inplace",
    "apply_rope",
    "apply_rope_inplace",
    "apply_rope_pos_ids",
    "apply_rope_pos_ids_inplace",
    "apply_rope_with_cos_sin_cache",
    "apply_rope_with_cos_sin_cache_inplace",
]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
INDEX_DTYPES = (torch.int32, torch.int64)
# A thread rotates 8 pairs of columns, and a workgroup has 256 threads for the columns of a head.
COLUMNS_OF_THREAD = 16
MAX_HEAD_DIM = 2048

Pair = tuple[torch.Tensor, torch.Tensor]


class _Frequencies(NamedTuple):
    """Revolutions per token: of the first pair, from one to the next, and what is done to low ones."""

    rope_decay: float
    inverse_scale: float
    kept_factor: float = 0.0
    kept_offset: float = 0.0


def apply_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    indptr: torch.Tensor,
    offsets: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 1,
    rope_theta: float = 1e4,
) -> Pair:
    """Return queries and keys of a batch, rotated by their positions.

    Pair ``i`` of columns of a token at position ``p`` is rotated by ``p * rope_theta^(-2 i / rotary_dim) / rope_scale``
    (RoFormer, arXiv 2104.09864).

    Parameters
    ----------
    q, k : torch.Tensor
        ``[nnz, num_heads, head_dim]``, float16, bfloat16 or float32, the requests one after the other; any strides
        whose last one is 1. The head dimension is a multiple of 8.
    indptr : torch.Tensor
        ``[batch_size + 1]`` int32 or int64: where the tokens of each request begin.
    offsets : torch.Tensor
        ``[batch_size]``, of the dtype of ``indptr``: the position of the first token of each.
    rotary_dim : int, optional
        Columns that are rotated, a multiple of 16; the others are as they were. The default is all.
    interleave : bool
        Whether columns ``2 i`` and ``2 i + 1`` are a pair, instead of ``i`` and ``i + rotary_dim / 2``.
    rope_scale, rope_theta : float
        Interpolation factor and base.

    Returns
    -------
    tuple of torch.Tensor
        The rotated queries and keys, of the shapes of ``q`` and ``k``.

    Raises
    ------
    UnsupportedConfigError
        For a dtype or a number of columns that no kernel is built for; it is a ValueError.
    ValueError
        For shapes, strides and devices that do not fit.
    """
    results = _like(q, k)
    _rotate(q, k, *results, offsets, indptr, rotary_dim, interleave, rope_scale, rope_theta)
    return results


def apply_rope_inplace(
    q: torch.Tensor,
    k: torch.Tensor,
    indptr: torch.Tensor,
    offsets: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 1,
    rope_theta: float = 1e4,
) -> None:
    """Do as ``apply_rope``, in place."""
    _rotate(None, None, q, k, offsets, indptr, rotary_dim, interleave, rope_scale, rope_theta)


def apply_rope_pos_ids(
    q: torch.Tensor,
    k: torch.Tensor,
    pos_ids: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 1,
    rope_theta: float = 1e4,
) -> Pair:
    """Do as ``apply_rope``, with the position of every token in ``pos_ids``, ``[nnz]`` int32 or int64."""
    results = _like(q, k)
    _rotate(q, k, *results, pos_ids, None, rotary_dim, interleave, rope_scale, rope_theta)
    return results


def apply_rope_pos_ids_inplace(
    q: torch.Tensor,
    k: torch.Tensor,
    pos_ids: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 1,
    rope_theta: float = 1e4,
) -> None:
    """Do as ``apply_rope_pos_ids``, in place."""
    _rotate(None, None, q, k, pos_ids, None, rotary_dim, interleave, rope_scale, rope_theta)


def apply_llama31_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    indptr: torch.Tensor,
    offsets: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 8,
    rope_theta: float = 5e5,
    low_freq_factor: float = 1,
    high_freq_factor: float = 4,
    old_context_len: int = 8192,
) -> Pair:
    """Return queries and keys of a batch, rotated as LLaMA 3.1 does.

    Pairs that turn more than ``high_freq_factor`` times in ``old_context_len`` tokens keep their frequency, those that
    turn less than ``low_freq_factor`` times have it divided by ``rope_scale``, and those between lie linearly between.

    Parameters
    ----------
    q, k, indptr, offsets, rotary_dim, interleave, rope_scale, rope_theta
        As for ``apply_rope``.
    low_freq_factor, high_freq_factor, old_context_len : float
        See above; the factors differ.

    Returns
    -------
    tuple of torch.Tensor
        As ``apply_rope``.

    Raises
    ------
    UnsupportedConfigError, ValueError
        As ``apply_rope``.
    """
    results = _like(q, k)
    factors = [low_freq_factor, high_freq_factor, old_context_len]
    _rotate(q, k, *results, offsets, indptr, rotary_dim, interleave, rope_scale, rope_theta, factors)
    return results


def apply_llama31_rope_inplace(
    q: torch.Tensor,
    k: torch.Tensor,
    indptr: torch.Tensor,
    offsets: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 8,
    rope_theta: float = 5e5,
    low_freq_factor: float = 1,
    high_freq_factor: float = 4,
    old_context_len: int = 8192,
) -> None:
    """Do as ``apply_llama31_rope``, in place."""
    factors = [low_freq_factor, high_freq_factor, old_context_len]
    _rotate(None, None, q, k, offsets, indptr, rotary_dim, interleave, rope_scale, rope_theta, factors)


def apply_llama31_rope_pos_ids(
    q: torch.Tensor,
    k: torch.Tensor,
    pos_ids: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 8,
    rope_theta: float = 5e5,
    low_freq_factor: float = 1,
    high_freq_factor: float = 4,
    old_context_len: int = 8192,
) -> Pair:
    """Do as ``apply_llama31_rope``, with the position of every token in ``pos_ids``, ``[nnz]`` int32 or int64."""
    results = _like(q, k)
    factors = [low_freq_factor, high_freq_factor, old_context_len]
    _rotate(q, k, *results, pos_ids, None, rotary_dim, interleave, rope_scale, rope_theta, factors)
    return results


def apply_llama31_rope_pos_ids_inplace(
    q: torch.Tensor,
    k: torch.Tensor,
    pos_ids: torch.Tensor,
    rotary_dim: int | None = None,
    interleave: bool = False,
    rope_scale: float = 8,
    rope_theta: float = 5e5,
    low_freq_factor: float = 1,
    high_freq_factor: float = 4,
    old_context_len: int = 8192,
) -> None:
    """Do as ``apply_llama31_rope_pos_ids``, in place."""
    factors = [low_freq_factor, high_freq_factor, old_context_len]
    _rotate(None, None, q, k, pos_ids, None, rotary_dim, interleave, rope_scale, rope_theta, factors)


def apply_rope_with_cos_sin_cache(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool = True,
) -> Pair:
    """Return queries and keys, rotated by cosines and sines from a table, as vLLM and SGLang have it.

    Parameters
    ----------
    positions : torch.Tensor
        ``[nnz]`` int32 or int64.
    query, key : torch.Tensor
        ``[nnz, num_heads * head_size]``, float16, bfloat16 or float32.
    head_size : int
        Columns of a head, a multiple of 8.
    cos_sin_cache : torch.Tensor
        ``[max_position, rotary_dim]`` float32: of each position the cosines of all pairs, then the sines.
    is_neox : bool
        Whether columns ``i`` and ``i + rotary_dim / 2`` are a pair, instead of ``2 i`` and ``2 i + 1``.

    Returns
    -------
    tuple of torch.Tensor
        The rotated queries and keys, of the shapes of ``query`` and ``key``.

    Raises
    ------
    UnsupportedConfigError, ValueError
        As ``apply_rope``.
    """
    results = _like(query, key)
    _rotate_by_cache(positions, (query, key), results, head_size, cos_sin_cache, is_neox)
    return results


def apply_rope_with_cos_sin_cache_inplace(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool = True,
) -> None:
    """Do as ``apply_rope_with_cos_sin_cache``, in place."""
    _rotate_by_cache(positions, (query, key), None, head_size, cos_sin_cache, is_neox)


def _like(q: torch.Tensor, k: torch.Tensor) -> Pair:
    for name, tensor in (("q", q), ("k", k)):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    return torch.empty_like(q), torch.empty_like(k)


def _frequencies(
    q: torch.Tensor,
    rotary_dim: int | None,
    rope_scale: float,
    rope_theta: float,
    factors: list[float] | None,
) -> _Frequencies:
    validation.check_tensor("q", q, ("nnz", "num_heads", "head_dim"))
    scale, theta = validation.check_scale("rope_scale", rope_scale), validation.check_scale("rope_theta", rope_theta)
    decay = theta ** (-2.0 / max(rotary_dim or q.shape[-1], 1))
    if factors is None:
        return _Frequencies(decay, 1.0 / scale)
    low, high, context = (
        validation.check_scale(name, value)
        for name, value in zip(("low_freq_factor", "high_freq_factor", "old_context_len"), factors, strict=True)
    )
    if low == high:
        raise ValueError(f"low_freq_factor and high_freq_factor must differ, got {low} for both")
    # In turns: a pair of frequency f turns f * old_context_len times.
    return _Frequencies(decay, 1.0 / scale, context / (high - low), -low / (high - low))


@functools.lru_cache(maxsize=64)
def _key(config: ApplyRopeConfig, arch: Arch) -> KernelKey:
    return KernelKey(config, tiling.candidates(config, arch)[0], arch)


def _rotate_by_cache(
    positions: torch.Tensor, tensors: Pair, results: Pair | None, head_size: int, table: torch.Tensor, is_neox: bool
) -> None:
    if isinstance(head_size, bool) or not isinstance(head_size, Integral) or head_size < 1:
        raise ValueError(f"head_size={head_size!r} must be a positive whole number")
    for name, tensor in zip(("query", "key"), tensors, strict=True):
        validation.check_tensor(name, tensor, ("nnz", "num_heads * head_size"))
        if tensor.shape[1] % head_size:
            raise ValueError(f"{name} has {tensor.shape[1]} columns: expected a multiple of head_size={head_size}")
    validation.check_tensor("cos_sin_cache", table, ("max_position", "rotary_dim"))
    if table.dtype != torch.float32:
        raise ValueError(f"cos_sin_cache should be float32, got {table.dtype}")
    q, k = (tensor.unflatten(1, (-1, head_size)) for tensor in tensors)
    heads = (None, None, q, k)
    if results is not None:
        heads = (q, k, *(tensor.unflatten(1, (-1, head_size)) for tensor in results))
    _rotate(*heads, positions, None, table.shape[1], not is_neox, cos_sin_cache=table)


@ops.traceable(
    """apply_rope(Tensor? q, Tensor? k, Tensor(a!) q_out, Tensor(b!) k_out, Tensor positions, Tensor? indptr,
    SymInt? rotary_dim, bool interleave, float rope_scale=1.0, float rope_theta=1.0, float[]? factors=None, *,
    Tensor? cos_sin_cache=None) -> ()""",
    ops.no_results,
)
def _rotate(
    q: torch.Tensor | None,
    k: torch.Tensor | None,
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    positions: torch.Tensor,
    indptr: torch.Tensor | None,
    rotary_dim: int | None,
    interleave: bool,
    rope_scale: float = 1.0,
    rope_theta: float = 1.0,
    factors: list[float] | None = None,
    *,
    cos_sin_cache: torch.Tensor | None = None,
) -> None:
    """Rotate q and k into q_out and k_out, or, if they are None, these in place."""
    q, k = q_out if q is None else q, k_out if k is None else k
    frequencies = None
    if cos_sin_cache is None:
        frequencies = _frequencies(q, rotary_dim, rope_scale, rope_theta, factors)
    active = runtime.current()
    tensors = {"q": q, "k": k, "positions": positions, "q_out": q_out, "k_out": k_out}
    tensors |= {} if indptr is None else {"indptr": indptr}
    tensors |= {} if cos_sin_cache is None else {"cos_sin_cache": cos_sin_cache}
    for name in ("q", "k"):
        validation.check_tensor(name, tensors[name], ("nnz", "num_heads", "head_dim"))
    position_name = "offsets" if indptr is not None else "pos_ids" if cos_sin_cache is None else "positions"
    validation.check_tensor(position_name, positions, ("batch_size" if indptr is not None else "nnz",))
    if indptr is not None:
        validation.check_tensor("indptr", indptr, ("batch_size + 1",))
    validation.check_device(active, tensors)
    dtype = validation.check_dtype("q", q.dtype, DTYPES)
    num_tokens, head_dim = q.shape[0], q.shape[2]
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    if k.dtype != q.dtype or (k.shape[0], k.shape[2]) != (num_tokens, head_dim):
        raise ValueError(
            f"Invalid k: expected [{num_tokens}, num_heads, {head_dim}] {q.dtype} as q, got "
            f"{validation.shape_text(k)} {k.dtype}"
        )
    if head_dim % 8 or not 8 <= head_dim <= MAX_HEAD_DIM:
        validation.refuse("head_dim", head_dim, f"a multiple of 8 up to {MAX_HEAD_DIM}")
    if rotary_dim % COLUMNS_OF_THREAD or not 0 < rotary_dim <= head_dim:
        validation.refuse("rotary_dim", rotary_dim, f"a multiple of {COLUMNS_OF_THREAD} up to head_dim={head_dim}")
    num_requests = 0
    expected = {"positions": num_tokens} if indptr is None else {"positions": indptr.shape[0] - 1}
    for name in ("positions", "indptr"):
        index = tensors.get(name)
        if index is None:
            continue
        if index.dtype not in INDEX_DTYPES or index.dtype != positions.dtype or not index.is_contiguous():
            what = position_name if name == "positions" else name
            raise ValueError(f"Invalid {what}: expected int32 or int64, alike and without gaps, got {index.dtype}")
        if index.shape[0] != expected.get(name, index.shape[0]):
            raise ValueError(
                f"Invalid shape of {position_name}: expected [{expected[name]}], got {validation.shape_text(index)}"
            )
    if indptr is not None:
        num_requests = indptr.shape[0] - 1
        _check_starts(page_table.to_check(indptr), num_tokens)
    if cos_sin_cache is not None:
        _check_positions(page_table.to_check(positions), cos_sin_cache.shape[0])
    for name in ("q", "k", "q_out", "k_out", *(("cos_sin_cache",) if cos_sin_cache is not None else ())):
        tensor = tensors[name]
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"Invalid strides of {name}: the last dimension must be contiguous")
    # In place a thread writes what it alone has read; other results are of memory of their own.
    for name, result in (("q", q_out), ("k", k_out)):
        overlap.check_writable(name, result)
    overlap.check_apart({"q": q_out}, {"k": k_out})
    if num_tokens == 0:
        return
    config = ApplyRopeConfig(dtype, bool(interleave), cos_sin_cache is not None)
    kernel = kernels.get_kernel(_key(config, active.arch(q.device)), active)
    values = {} if frequencies is None else frequencies._asdict()
    strides = {
        f"{name}_stride_{letter}": tensors[name].stride(dim)
        for name in ("q", "k", "q_out", "k_out")
        for dim, letter in enumerate("nh")
    }
    params = kernel.params_type(
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        **strides,
        **values,
        cache_stride=0 if cos_sin_cache is None else cos_sin_cache.stride(0),
        rope_frequency=1.0 / (2.0 * math.pi),
        has_wide_indices=positions.dtype == torch.int64,
        num_requests=num_requests,
        num_tokens=num_tokens,
        num_q_heads=q.shape[1],
        num_k_heads=k.shape[1],
        head_dim=head_dim,
        rotary_dim=rotary_dim,
    )
    active.launch(kernel, params, tensors, None)


def _check_starts(indptr: torch.Tensor | None, num_tokens: int) -> None:
    """Raise ValueError for wrong beginnings of requests; tokens after the last request are taken for its own."""
    if indptr is None or num_tokens == 0:
        return
    starts = indptr.numpy()
    if len(starts) < 2 or starts[0] != 0 or starts[-1] > num_tokens or (starts[1:] < starts[:-1]).any():
        raise ValueError(
            f"indptr must begin with 0, not decrease and end with the {num_tokens} tokens of q, got "
            f"{starts[:4].tolist()} ... {starts[-1:].tolist()}"
        )


def _check_positions(positions: torch.Tensor | None, num_rows: int) -> None:
    """Raise ValueError for positions of which the table of cosines and sines has no row."""
    if positions is None or not len(positions):
        return
    least, most = int(positions.min()), int(positions.max())
    if least < 0 or most >= num_rows:
        raise ValueError(
            f"positions has {least if least < 0 else most}, and cos_sin_cache has the {num_rows} positions from 0 on"
        )
