"""Custom variants that tests share, and attention with them in float64."""

import math

import torch

from flashinfer_jit.variants import AttentionVariant

# Everything that a body can change, and all that it can know.
EVERYTHING = AttentionVariant(
    "gated_blocks",
    query_transform="return query * (column % 2 == 0 ? 1.0f : gain);",
    logits_transform="return logits + bias[qo_head_idx] - decay(kv_idx, qo_idx + kv_len - qo_len) * slope;",
    logits_mask="return kv_idx / block_size % 2 == qo_head_idx % 2 || batch_idx == 1;",
    output_transform="return output * gate[column] + qo_head_idx + (batch_idx + qo_idx % 4 + kv_len % 4) * 0.25f;",
    tensors=(("bias", "float32"), ("gate", "float16")),
    scalars=(("slope", "float"), ("block_size", "int32_t"), ("gain", "double")),
    declarations="__device__ inline float decay(int a, int b) { return a < b ? b - a : a - b; }",
)
SLOPE, BLOCK_SIZE, GAIN = 0.125, 8, 0.75

# Logits only: keys are split with it as without.
SOFTENED = AttentionVariant(
    "softened",
    logits_transform="return cap * tanhf(logits / cap) + bias[qo_head_idx * kv_len + kv_idx];",
    logits_mask="return kv_idx % 7 != 3;",
    tensors=[("bias", "bfloat16")],
    scalars=[("cap", "float")],
)

# What FlashInfer's texts have in common.
CONSTRUCTOR = """
  uint32_t window_left, qo_len, kv_len;
  float sm_scale_log2;
  template <typename Params>
  __device__ __host__ NAME(const Params& params, uint32_t batch_idx, uint8_t* smem_ptr) {
    qo_len = params.get_qo_len(batch_idx);
    kv_len = params.get_kv_len(batch_idx);
    window_left = kv_len;
    sm_scale_log2 = SCALE * math::log2e;
    MORE
  }
"""


def struct(name: str, body: str, scale: str = "params.sm_scale", more: str = "", members: str = "") -> str:
    """Return a text in FlashInfer's form."""
    constructor = CONSTRUCTOR.replace("NAME", name).replace("SCALE", scale).replace("MORE", more)
    return f"struct {name} : AttentionVariantBase {{{members}{constructor}{body}}};"


# Writes the logits to a tensor, [num_qo_heads, qo_len, kv_len].
DUMP = struct(
    "DumpLogits",
    """
  REGISTER_LOGITS_TRANSFORM(params, logits, batch_idx, qo_idx, kv_idx, qo_head_idx, kv_head_idx, {
    if (qo_idx < qo_len && kv_idx < kv_len) {
      params.output_logits[qo_head_idx * (qo_len * kv_len) + qo_idx * kv_len + kv_idx] = logits * params.sm_scale;
    }
    return logits;
  });
""",
)


def attend(q, k, v, *, scale=None, change=None, mask=None, use_softmax=True, causal=False):
    """Return o, ``[qo_len, num_qo_heads, head_dim]``, and the log-sum-exp to base 2, in float64.

    ``change(logits, heads, queries, keys)`` and ``mask(heads, queries, keys)`` see indices that broadcast.
    """
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q.double(), k) * (scale or 1 / math.sqrt(q.shape[2]))
    heads = torch.arange(q.shape[1])[:, None, None]
    queries, keys = torch.arange(len(q))[:, None], torch.arange(len(k))
    if change is not None:
        logits = change(logits, heads, queries, keys)
    seen = torch.ones_like(logits, dtype=torch.bool)
    if mask is not None:
        seen = seen & mask(heads, queries, keys)
    if causal:
        seen = seen & (keys <= queries + len(k) - len(q))
    if not use_softmax:
        return torch.einsum("hqk,khd->qhd", logits.masked_fill(~seen, 0.0), v), None
    logits = logits.masked_fill(~seen, -math.inf)
    lse = torch.logsumexp(logits, 2) if len(k) else logits.new_full(logits.shape[:2], -math.inf)
    weights = torch.exp(logits - lse[..., None]).nan_to_num(nan=0.0)
    return torch.einsum("hqk,khd->qhd", weights, v), lse.T * math.log2(math.e)


def attend_with_everything(q, k, v, bias, gate, request, causal=False):
    """Return what EVERYTHING makes of one request."""
    scales = torch.ones(q.shape[2], dtype=torch.float64)
    scales[1::2] = GAIN
    # The kernel rounds the changed query to its dtype again.
    q = (q.double() * scales).to(q.dtype)
    shift = len(k) - len(q)

    def change(logits, heads, queries, keys):
        return logits + bias.double()[heads] - (keys - queries - shift).abs() * SLOPE

    def mask(heads, queries, keys):
        return (keys // BLOCK_SIZE % 2 == heads % 2) | torch.tensor(request == 1)

    o, lse = attend(q, k, v, change=change, mask=mask, causal=causal)
    known = (request + torch.arange(len(q)) % 4 + len(k) % 4) * 0.25
    return o * gate.double() + torch.arange(q.shape[1])[:, None] + known[:, None, None], lse


def attend_softened(q, k, v, bias, cap):
    """Return what SOFTENED makes of one request."""

    def change(logits, heads, queries, keys):
        return cap * torch.tanh(logits / cap) + bias.double()[:, None, : len(k)]

    return attend(q, k, v, change=change, mask=lambda heads, queries, keys: keys % 7 != 3)
