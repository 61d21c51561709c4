"""Launching the kernel that merges attention states; what the states mean is explained in its template."""

import functools
from collections.abc import Mapping
from typing import Any

import torch

from flashinfer_jit.jit import kernels, tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import AttentionConfig, MergeStatesConfig, MergeVariantConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.runtime.base import Runtime
from flashinfer_jit.variants import variant_from_json


@functools.cache
def merge_key(arch: Arch, dtype_in: str, dtype_out: str, head_dim: int, has_sinks: bool = False) -> KernelKey:
    """Return the key of the merging kernel.

    Parameters
    ----------
    arch : Arch
        The GPU.
    dtype_in, dtype_out : str
        Torch dtype names of the states' outputs and of the result.
    head_dim : int
        Columns of an output.
    has_sinks : bool
        Whether a sink's logit takes part.
    """
    config = MergeStatesConfig(dtype_in, dtype_out, head_dim, has_sinks)
    return KernelKey(config, tiling.candidates(config, arch)[0], arch)


@functools.cache
def partials_key(arch: Arch, config: AttentionConfig, has_sinks: bool = False) -> KernelKey:
    """Return the key of the kernel that merges the parts that an attention kernel leaves of split keys."""
    if config.variant is None or variant_from_json(config.variant).has_plain_merge:
        return merge_key(arch, "float32", config.dtype_o, config.head_dim_vo, has_sinks)
    sizes = (config.head_dim_vo, config.group_size)
    merging = MergeVariantConfig(config.variant, config.dtype_o, *sizes, config.phase, config.kv_source, has_sinks)
    return KernelKey(merging, tiling.candidates(merging, arch)[0], arch)


def merge_partials(
    active: Runtime,
    key: KernelKey,
    partial_o: torch.Tensor,
    partial_lse: torch.Tensor,
    o: torch.Tensor,
    lse: torch.Tensor | None,
    *,
    num_rows: int,
    num_states: int = 0,
    output_scale: float = 1.0,
    indptr: torch.Tensor | None = None,
    output_rows: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    attention: tuple[Any, Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Merge rows of partial results that a kernel with split keys has left.

    Parameters
    ----------
    active : Runtime
        Where to launch.
    key : KernelKey
        From ``merge_key``.
    partial_o, partial_lse : torch.Tensor
        ``[num_partial_rows, num_heads, head_dim]`` and ``[num_partial_rows, num_heads]`` float32, contiguous.
    o, lse : torch.Tensor
        ``[rows, num_heads, head_dim]`` and, if wanted, ``[rows, num_heads]`` float32 contiguous.
    num_rows : int
        Rows to make.
    num_states : int
        Partial rows of each, which follow each other, if ``indptr`` is not given.
    output_scale : float
        Factor of ``o``.
    indptr, output_rows : torch.Tensor, optional
        ``[num_rows + 1]`` and ``[num_rows]`` int32: the partial rows of each row to make, and where it goes.
    sinks : torch.Tensor, optional
        ``[num_heads]`` float32.
    attention : tuple, optional
        Parameters and tensors of the attention kernel's launch: those that a variant needs are taken from them.
    """
    num_heads, head_dim = partial_o.shape[1:]
    kernel = kernels.get_kernel(key, active)
    tensors: dict[str, Any] = {"v": partial_o, "s": partial_lse, "o": o}
    optional = {"lse": lse, "indptr": indptr, "output_rows": output_rows, "sinks": sinks}
    tensors.update({name: tensor for name, tensor in optional.items() if tensor is not None})
    params = kernel.params_type(
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        v_stride_state=num_heads * head_dim,
        v_stride_head=head_dim,
        s_stride_state=num_heads,
        o_stride_row=o.stride(0),
        o_stride_head=o.stride(1),
        num_rows=num_rows,
        num_states=num_states,
        num_heads=num_heads,
        output_scale=output_scale,
    )
    if attention is not None and isinstance(key.config, MergeVariantConfig):
        source, source_tensors = attention
        for name, _, _ in key.config.extra_params:
            if name in source_tensors:
                tensors[name] = source_tensors[name]
            if name == "num_requests":
                params.num_requests = len(source_tensors["qo_indptr"]) - 1 if key.config.finds_requests else 0
            elif hasattr(source, name):
                setattr(params, name, getattr(source, name))
    active.launch(kernel, params, tensors, None)
