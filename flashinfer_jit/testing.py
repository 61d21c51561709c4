"""Reference results and tolerances, for this package's tests and for those of its users."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tolerance:
    """The largest error allowed against a float64 reference: ``absolute + relative * abs(reference)``."""

    absolute: float
    relative: float

    def worst(self, result: torch.Tensor, reference: torch.Tensor) -> float:
        """Return the largest error in units of what is allowed: at most 1 is good, and a NaN gives infinity."""
        if reference.numel() == 0:
            return 0.0
        error = (result.double() - reference).abs()
        # Equal infinities (the log-sum-exp of a row without keys) differ by NaN, but are equal.
        error = torch.where(result.double() == reference, 0.0, error)
        bound = self.absolute + self.relative * reference.abs().nan_to_num(posinf=0.0)
        return float((error / bound).nan_to_num(nan=math.inf, posinf=math.inf).max())


# For standard normal inputs: units in the last place of the output's dtype, and of P, which has the input's dtype.
TOLERANCES = {torch.float16: Tolerance(2e-3, 1e-3), torch.bfloat16: Tolerance(1.6e-2, 8e-3)}
LSE_TOLERANCE = Tolerance(1e-3, 0.0)


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """Return the ALiBi slope of each query head, ``[num_heads]``, float64 (Press et al., 2021, with its extension to
    numbers of heads that are no powers of two)."""
    n = 2 ** int(math.log2(num_heads))
    heads = torch.arange(num_heads, dtype=torch.float64)
    return torch.where(heads < n, 2.0 ** (-8 * (heads + 1) / n), 2.0 ** (-4 * (2 * (heads - n) + 1) / n))


def rotate_llama(x: torch.Tensor, positions: torch.Tensor, rope_scale: float, rope_theta: float) -> torch.Tensor:
    """Return ``x``, ``[tokens, heads, head_dim]``, with LLaMA's rotary encoding of ``positions``, ``[tokens]``."""
    half = x.shape[-1] // 2
    frequencies = rope_theta ** (-torch.arange(half, dtype=torch.float64) / half) / rope_scale
    angles = (positions.double()[:, None] * frequencies)[:, None]
    first, second = x[..., :half], x[..., half:]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1)


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    kv_layout: str = "NHD",
    sm_scale: float | None = None,
    custom_mask: torch.Tensor | None = None,
    window_left: int = -1,
    logits_soft_cap: float | None = None,
    pos_encoding_mode: str = "NONE",
    rope_scale: float = 1.0,
    rope_theta: float = 1e4,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention of one request computed in float64 by its definition.

    Parameters
    ----------
    q, k, v, causal, kv_layout, sm_scale, window_left, logits_soft_cap, pos_encoding_mode, rope_scale, rope_theta
        As for ``single_prefill_with_kv_cache``.
    custom_mask : torch.Tensor or None
        Which keys a query sees, ``[qo_len, kv_len]``, bool; in force beside the other masks.

    Returns
    -------
    tuple of torch.Tensor
        The output ``[qo_len, num_qo_heads, head_dim_vo]`` and the log-sum-exp to base 2 ``[qo_len, num_qo_heads]``,
        float64. A query that sees no key has output 0 and log-sum-exp -inf.
    """
    q, k, v = (tensor.double() for tensor in (q, k, v))
    if kv_layout == "HND":
        k, v = k.transpose(0, 1), v.transpose(0, 1)
    qo_len, kv_len = q.shape[0], k.shape[0]
    tokens, keys = torch.arange(qo_len, device=q.device), torch.arange(kv_len, device=q.device)
    own_key = (tokens + kv_len - qo_len)[:, None]
    if pos_encoding_mode == "ROPE_LLAMA":
        q = rotate_llama(q, own_key[:, 0], rope_scale, rope_theta)
        k = rotate_llama(k, keys, rope_scale, rope_theta)
    group_size = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group_size, 1), v.repeat_interleave(group_size, 1)
    logits = torch.einsum("qhd,khd->hqk", q, k) * (1.0 / math.sqrt(q.shape[2]) if sm_scale is None else sm_scale)
    if logits_soft_cap:
        logits = logits_soft_cap * torch.tanh(logits / logits_soft_cap)
    if pos_encoding_mode == "ALIBI":
        logits = logits + alibi_slopes(q.shape[1]).to(q.device)[:, None, None] * (keys - tokens[:, None])
    visible = torch.ones(qo_len, kv_len, dtype=torch.bool, device=q.device)
    if causal:
        visible &= keys <= own_key
    if window_left >= 0:
        visible &= keys >= own_key - window_left
    if custom_mask is not None:
        visible &= custom_mask.view(qo_len, kv_len)
    logits = logits.masked_fill(~visible, -math.inf)
    lse = torch.logsumexp(logits, dim=2) if kv_len else logits.new_full(logits.shape[:2], -math.inf)
    weights = torch.exp(logits - lse[..., None]).nan_to_num(nan=0.0)
    return torch.einsum("hqk,khd->qhd", weights, v), lse.transpose(0, 1) * math.log2(math.e)
