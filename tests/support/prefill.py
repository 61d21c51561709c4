"""Launches the prefill kernel with any configuration and tile, below the public functions; compares with float64."""

import dataclasses
import functools
import math

import torch

from flashinfer_jit import runtime
from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import Arch, get_arch
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.testing import LSE_TOLERANCE, TOLERANCES, Tolerance, attention_reference

FP8 = {
    "e4m3fn": torch.float8_e4m3fn,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2": torch.float8_e5m2,
    "e5m2fnuz": torch.float8_e5m2fnuz,
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call of the kernel: what it is compiled for and how much it is given."""

    qo_len: int = 40
    kv_len: int = 100
    num_kv_heads: int = 2
    group_size: int = 2
    head_dim: int = 64
    head_dim_vo: int | None = None
    dtype: torch.dtype = torch.float16
    dtype_kv: torch.dtype | None = None
    dtype_o: torch.dtype | None = None
    mask_mode: str = "causal"
    window_left: int = -1
    logits_soft_cap: float = 0.0
    pos_encoding_mode: str = "NONE"
    rope_scale: float = 1.0
    rope_theta: float = 1e4
    num_chunks: int = 1
    v_scale: float = 1.0
    sm_scale: float | None = None
    # Which of the tiles, from the smallest.
    tile: int = -1

    @property
    def config(self) -> AttentionConfig:
        def name(dtype: torch.dtype | None) -> str:
            return str(dtype or self.dtype).removeprefix("torch.")

        return AttentionConfig(
            phase="prefill",
            dtype_q=name(self.dtype),
            dtype_kv=name(self.dtype_kv),
            dtype_o=name(self.dtype_o),
            head_dim_qk=self.head_dim,
            head_dim_vo=self.head_dim_vo or self.head_dim,
            group_size=self.group_size,
            mask_mode=self.mask_mode,
            position_encoding=self.pos_encoding_mode.lower(),
            has_window=self.window_left >= 0,
            has_soft_cap=self.logits_soft_cap > 0,
        )

    def key(self, arch: str | Arch) -> KernelKey:
        arch = get_arch(arch) if isinstance(arch, str) else arch
        tiles = tiling.candidates(self.config, arch)
        return KernelKey(self.config, tiles[min(self.tile, len(tiles) - 1)], arch)


@dataclasses.dataclass
class Inputs:
    """Tensors of a problem; k and v as ``[tokens, heads, head_dim]`` views of any strides."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    custom_mask: torch.Tensor | None = None


def poisoned(shape: tuple[int, ...], values: torch.Tensor, pad: int, layout: str) -> torch.Tensor:
    """Return ``values``, ``[tokens, heads, dim]``, as a view into a tensor with NaN around every head's tokens."""
    tokens, heads, dim = shape
    if layout == "HND":
        whole = torch.full((heads, tokens + 2 * pad, dim), math.nan).to(values.dtype)
        view = whole[:, pad : pad + tokens].transpose(0, 1)
    else:
        whole = torch.full((tokens + 2 * pad, heads, dim), math.nan).to(values.dtype)
        view = whole[pad : pad + tokens]
    view.copy_(values)
    return view


def make_inputs(problem: Problem, seed: int = 0, layout: str = "NHD", pad: int = 9) -> Inputs:
    """Return standard normal inputs, k and v with poisoned padding around them."""
    random = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    q = random(problem.qo_len, problem.num_kv_heads * problem.group_size, problem.head_dim).to(problem.dtype)
    k_shape = (problem.kv_len, problem.num_kv_heads, problem.head_dim)
    v_shape = (*k_shape[:2], problem.head_dim_vo or problem.head_dim)
    k, v = (
        poisoned(shape, random(*shape).to(problem.dtype_kv or problem.dtype), pad, layout)
        for shape in (k_shape, v_shape)
    )
    custom_mask = None
    if problem.mask_mode == "custom":
        custom_mask = random(problem.qo_len, problem.kv_len) > 0.3
        custom_mask[problem.qo_len // 2] = False  # a row without keys
    return Inputs(q, k, v, custom_mask)


def pack_mask(mask: torch.Tensor) -> torch.Tensor:
    """Return the bits of ``mask``, little endian, in at least 8 bytes."""
    bits = mask.flatten().to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    packed = (bits << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)
    return torch.nn.functional.pad(packed, (0, max(8 - len(packed), 0)))


def launch(problem: Problem, inputs: Inputs, arch: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the kernel; return o and lse, with several chunks the partial ones, ``[qo_len, num_chunks, heads, ...]``."""
    active = runtime.current()
    kernel = kernels.get_kernel(problem.key(arch), active)
    q, k, v = inputs.q, inputs.k, inputs.v
    head_dim_vo = v.shape[2]
    o = torch.full((*q.shape[:2], head_dim_vo), math.nan, dtype=problem.dtype_o or problem.dtype)
    lse = torch.full(q.shape[:2], math.nan)
    tensors = {"q": q, "k": k, "v": v, "o": o, "lse": lse}
    if inputs.custom_mask is not None:
        tensors["custom_mask"] = pack_mask(inputs.custom_mask)
    if problem.num_chunks > 1:
        shape = (problem.qo_len, problem.num_chunks, q.shape[1])
        tensors["partial_o"] = torch.full((*shape, head_dim_vo), math.nan)
        tensors["partial_lse"] = torch.full(shape, math.nan)
    block_kv = kernel.key.tile.block_kv
    sm_scale = problem.sm_scale or 1 / math.sqrt(problem.head_dim)
    params = kernel.params_type(
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        q_stride_n=q.stride(0),
        q_stride_h=q.stride(1),
        k_stride_n=k.stride(0),
        k_stride_h=k.stride(1),
        v_stride_n=v.stride(0),
        v_stride_h=v.stride(1),
        o_stride_n=o.stride(0),
        o_stride_h=o.stride(1),
        qo_len=problem.qo_len,
        kv_len=problem.kv_len,
        num_qo_heads=q.shape[1],
        num_kv_heads=problem.num_kv_heads,
        sm_scale_log2=sm_scale * math.log2(math.e),
        output_scale=problem.v_scale,
        logits_soft_cap=problem.logits_soft_cap,
        window_left=problem.window_left,
        num_chunks=problem.num_chunks,
        kv_chunk_len=-(-problem.kv_len // problem.num_chunks // block_kv) * block_kv,
        rope_frequency=1 / (2 * math.pi * problem.rope_scale),
        rope_decay=problem.rope_theta ** (-2 / problem.head_dim),
    )
    active.launch(kernel, params, tensors, None)
    if problem.num_chunks > 1:
        assert o.isnan().all()
        return tensors["partial_o"], tensors["partial_lse"]
    return o, lse


def merge(o: torch.Tensor, lse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the merged states of partial results of :func:`launch`, computed in float64."""
    o, lse = o.double(), lse.double() / math.log2(math.e)
    total = torch.logsumexp(lse, 1)
    weights = torch.exp(lse - total[:, None]).nan_to_num(nan=0.0)
    return (o * weights[..., None]).sum(1), total * math.log2(math.e)


def reference(problem: Problem, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the kernel should give, in float64."""
    o, lse = attention_reference(
        inputs.q,
        inputs.k.float(),
        inputs.v.float(),
        causal=problem.mask_mode == "causal",
        sm_scale=problem.sm_scale,
        custom_mask=inputs.custom_mask,
        window_left=problem.window_left,
        logits_soft_cap=problem.logits_soft_cap,
        pos_encoding_mode=problem.pos_encoding_mode,
        rope_scale=problem.rope_scale,
        rope_theta=problem.rope_theta,
    )
    return o * problem.v_scale, lse


def errors(problem: Problem, inputs: Inputs, arch: str) -> tuple[float, float]:
    """Return the worst errors of o and lse in units of what is allowed."""
    o, lse = launch(problem, inputs, arch)
    if problem.num_chunks > 1:
        o, lse = merge(o, lse)
    o_reference, lse_reference = reference(problem, inputs)
    tolerance = TOLERANCES[problem.dtype]
    # The rounding of rotated queries and keys to their dtype moves the logits; P sees it like a coarser P.
    lse_tolerance = LSE_TOLERANCE if problem.pos_encoding_mode != "ROPE_LLAMA" else Tolerance(tolerance.absolute, 0.0)
    return tolerance.worst(o, o_reference), lse_tolerance.worst(lse, lse_reference)
