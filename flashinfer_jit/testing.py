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


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    kv_layout: str = "NHD",
    sm_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention of one request computed in float64 by its definition.

    Parameters
    ----------
    q, k, v, causal, kv_layout, sm_scale
        As for ``single_prefill_with_kv_cache``.

    Returns
    -------
    tuple of torch.Tensor
        The output ``[qo_len, num_qo_heads, head_dim_vo]`` and the log-sum-exp to base 2 ``[qo_len, num_qo_heads]``,
        float64. A query that sees no key has output 0 and log-sum-exp -inf.
    """
    q, k, v = (tensor.double() for tensor in (q, k, v))
    if kv_layout == "NHD":
        k, v = k.transpose(0, 1), v.transpose(0, 1)
    group_size = q.shape[1] // k.shape[0]
    k, v = k.repeat_interleave(group_size, 0), v.repeat_interleave(group_size, 0)
    scale = 1.0 / math.sqrt(q.shape[2]) if sm_scale is None else sm_scale
    logits = torch.einsum("qhd,hkd->hqk", q, k) * scale
    qo_len, kv_len = logits.shape[1:]
    if causal:
        visible = torch.arange(kv_len) <= torch.arange(qo_len)[:, None] + kv_len - qo_len
        logits = logits.masked_fill(~visible.to(logits.device), -math.inf)
    lse = torch.logsumexp(logits, dim=2) if kv_len else logits.new_full(logits.shape[:2], -math.inf)
    weights = torch.exp(logits - lse[..., None]).nan_to_num(nan=0.0)
    return torch.einsum("hqk,hkd->qhd", weights, v), lse.transpose(0, 1) * math.log2(math.e)
