"""Decode attention by its definition, in float64, with everything that the kernel can do."""

import math

import torch


def rotate(x: torch.Tensor, positions: torch.Tensor, theta: float = 1e4, scale: float = 1.0) -> torch.Tensor:
    """Return ``x`` ``[tokens, heads, head_dim]`` rotated as LLaMA does: dims d and d + head_dim / 2 are a pair."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half) / scale
    angle = positions.double()[:, None, None] * frequency
    first, second = x.double()[..., :half], x.double()[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """Return the slopes of the paper: powers of 2^(-8/n) for a power of two n, then odd powers of its root."""
    n = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / n) for i in range(n)]
    slopes += [2.0 ** (-4 * (2 * i + 1) / n) for i in range(num_heads - n)]
    return torch.tensor(slopes, dtype=torch.float64)


def decode_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    pos_encoding_mode: str = "NONE",
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    sm_scale: float | None = None,
    rope_scale: float | None = None,
    rope_theta: float | None = None,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output ``[qo_len, num_qo_heads, head_dim_vo]`` and log-sum-exp to base 2 of the last ``qo_len`` tokens.

    ``q`` is ``[qo_len, num_qo_heads, head_dim_qk]``, ``k`` and ``v`` are ``[kv_len, num_kv_heads, head_dim]``.
    """
    qo_len, num_qo_heads, head_dim_qk = q.shape
    kv_len, num_kv_heads = k.shape[:2]
    q, k, v = q.double(), k.double(), v.double()
    tokens = torch.arange(kv_len - qo_len, kv_len)
    if pos_encoding_mode == "ROPE_LLAMA":
        q = rotate(q, tokens, rope_theta or 1e4, rope_scale or 1.0)
        k = rotate(k, torch.arange(kv_len), rope_theta or 1e4, rope_scale or 1.0)
    k, v = (x.repeat_interleave(num_qo_heads // num_kv_heads, 1) for x in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q, k) * (1 / math.sqrt(head_dim_qk) if sm_scale is None else sm_scale)
    if logits_soft_cap:
        logits = logits_soft_cap * torch.tanh(logits / logits_soft_cap)
    keys = torch.arange(kv_len)
    if pos_encoding_mode == "ALIBI":
        logits = logits + alibi_slopes(num_qo_heads)[:, None, None] * (keys - torch.arange(qo_len)[:, None])
    visible = keys <= tokens[:, None]
    if window_left >= 0:
        visible &= keys >= tokens[:, None] - window_left
    logits = logits.masked_fill(~visible, -math.inf)
    if sinks is not None:
        column = sinks.double()[:, None, None].expand(-1, qo_len, 1)
        logits = torch.cat([logits, column], dim=2)
        v = torch.cat([v, v.new_zeros(1, *v.shape[1:])])
    lse = torch.logsumexp(logits, 2) if logits.shape[2] else logits.new_full(logits.shape[:2], -math.inf)
    weights = torch.exp(logits - lse[..., None]).nan_to_num(nan=0.0)
    return torch.einsum("hqk,khd->qhd", weights, v), lse.T * math.log2(math.e)
