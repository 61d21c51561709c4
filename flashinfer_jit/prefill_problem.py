"""What plan() of a batched prefill is told, checked and turned into kernels and a tile."""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from flashinfer_jit import kv_cache, merge, validation
from flashinfer_jit.attention_options import LogitsOptions, check_dtypes, check_logits_options, mask_mode
from flashinfer_jit.jit import tiling
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.key import KernelKey
from flashinfer_jit.variant_binding import VariantBinding

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefillOptions:
    """Arguments of plan() that are no tensors, as they were given.

    Attributes
    ----------
    num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo : int
        Heads and their sizes.
    page_size : int or None
        None for ragged keys.
    has_custom_mask, causal : bool
        The mask; a custom one replaces the causal one.
    pos_encoding_mode, window_left, logits_soft_cap, sm_scale, rope_scale, rope_theta : object
        As FlashInfer names them.
    q_data_type, kv_data_type, o_data_type : torch.dtype, str or None
        None means that of q; for the output of fp8 queries see ``check_dtypes``.
    variant : str or None
        A custom variant as the configuration has it.
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim_qk: int
    head_dim_vo: int | None
    page_size: int | None
    has_custom_mask: bool
    causal: bool
    pos_encoding_mode: str
    window_left: int
    logits_soft_cap: float | None
    sm_scale: float | None
    rope_scale: float | None
    rope_theta: float | None
    q_data_type: torch.dtype | str
    kv_data_type: torch.dtype | str | None
    o_data_type: torch.dtype | str | None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class PrefillProblem:
    """What follows from the options: all that run() needs beside tensors and the list of work.

    Attributes
    ----------
    arch : Arch
        The GPU.
    config : AttentionConfig
        Of the kernel without sinks.
    tiles : tuple of TileConfig
        The tiles that there are.
    logits : LogitsOptions
        What happens to logits.
    num_qo_heads, num_kv_heads : int
        Heads.
    page_size : int or None
        None for ragged keys.
    division : PageDivision
        How kernels divide by it.
    dtype_q, dtype_kv, dtype_o : torch.dtype
        As planned.
    sm_scale : float
        The softmax scale.
    """

    arch: Arch
    config: AttentionConfig
    tiles: tuple[tiling.TileConfig, ...]
    logits: LogitsOptions
    num_qo_heads: int
    num_kv_heads: int
    page_size: int | None
    division: kv_cache.PageDivision
    dtype_q: torch.dtype
    dtype_kv: torch.dtype
    dtype_o: torch.dtype
    sm_scale: float

    @property
    def is_causal(self) -> bool:
        """Whether the mask is the causal one."""
        return self.config.mask_mode == "causal"

    def num_tiles(self, qo_lens: Lengths, tile: tiling.TileConfig) -> Lengths:
        """Return the row tiles of every request: a token's heads belong to one, or to several that have no other."""
        group_size = self.config.group_size
        if group_size > tile.block_q:
            return qo_lens * -(-group_size // tile.block_q)
        return -(-qo_lens // (tile.block_q // group_size))

    def choose_tile(self, qo_lens: Lengths, batch_invariant: bool) -> tiling.TileConfig:
        """Return the tile that ends first, or, if results may not depend on the batch, always the same."""
        if batch_invariant:
            return self.tiles[-1]

        def cost(tile: tiling.TileConfig) -> tuple[int, int]:
            num_blocks = int(self.num_tiles(qo_lens, tile).sum()) * self.num_kv_heads
            return -(-num_blocks // self.arch.num_cus) * (tile.block_q + tiling.KV_READ_ROWS), -tile.block_q

        return min(self.tiles, key=cost)

    def can_use_work_of(self, other: "PrefillProblem", tile: tiling.TileConfig, and_fewer_keys: bool) -> bool:
        """Return whether a list of work made for ``other`` serves this problem: it splits rows and keys as it would,
        or, with ``and_fewer_keys``, it covers all keys that queries see here, and masks leave out the others."""
        if tile not in self.tiles:
            return False
        window, planned = self.logits.window_left, other.logits.window_left
        if not and_fewer_keys:
            return self.is_causal == other.is_causal and window == planned
        return (self.is_causal or not other.is_causal) and (planned < 0 or 0 <= window <= planned)

    def kernel_key(self, tile: tiling.TileConfig, has_sinks: bool) -> KernelKey:
        """Return the key of the attention kernel."""
        return _kernel_key(self.config, tile, self.arch, has_sinks)

    def merge_key(self, has_sinks: bool) -> KernelKey:
        """Return the key of the kernel that merges parts of requests."""
        return merge.partials_key(self.arch, self.config, has_sinks)


@functools.lru_cache(maxsize=1024)
def _kernel_key(config: AttentionConfig, tile: tiling.TileConfig, arch: Arch, has_sinks: bool) -> KernelKey:
    if has_sinks:
        values = config.to_dict()
        del values["kernel"]
        config = AttentionConfig(**{**values, "has_sinks": True})
    return KernelKey(config, tile, arch)


def complete(options: PrefillOptions, variant: VariantBinding) -> PrefillOptions:
    """Return the options of a plan with a variant.

    Raises UnsupportedConfigError for a scale of logits beside a variant that scales them itself.
    """
    variant.check_options(sm_scale=options.sm_scale)
    changes: dict[str, object] = {"variant": variant.text}
    if options.pos_encoding_mode == "NONE":
        changes["pos_encoding_mode"] = variant.pos_encoding_mode
    if options.o_data_type is None:
        changes["o_data_type"] = variant.dtype_o
    return replace(options, **changes)  # type: ignore[arg-type]


def resolve(options: PrefillOptions, arch: Arch) -> PrefillProblem:
    """Return the problem that ``options`` describe.

    Raises
    ------
    UnsupportedConfigError
        For a dtype, head dimension or ratio of heads that no kernel is built for.
    ValueError
        For numbers out of range.
    KeyError
        For an unknown ``pos_encoding_mode``.
    """
    return _resolve(options, arch)


# Plans repeat: serving engines make one for every step, with the same options. Errors are not kept.
@functools.lru_cache(maxsize=256)
def _resolve(options: PrefillOptions, arch: Arch) -> PrefillProblem:
    sizes = ("num_qo_heads", "num_kv_heads", "head_dim_qk", "head_dim_vo", "page_size")
    options = replace(options, **{name: validation.plain_int(getattr(options, name)) for name in sizes})
    for name in sizes[:3]:
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive whole number")
    group_size = validation.check_heads(options.num_qo_heads, options.num_kv_heads)
    head_dim_vo = options.head_dim_qk if options.head_dim_vo is None else options.head_dim_vo
    logits = check_logits_options(
        options.pos_encoding_mode,
        options.window_left,
        options.logits_soft_cap,
        options.rope_scale,
        options.rope_theta,
        options.head_dim_qk,
    )
    dtype_q = validation.canonical_dtype("q_data_type", options.q_data_type)
    dtype_kv, dtype_o = dtype_q, None
    if options.kv_data_type is not None:
        dtype_kv = validation.canonical_dtype("kv_data_type", options.kv_data_type)
    if options.o_data_type is not None:
        dtype_o = validation.canonical_dtype("o_data_type", options.o_data_type)
    dtypes = check_dtypes(dtype_q, dtype_kv, dtype_o, ("q_data_type", "kv_data_type", "o_data_type"))
    name_q, name_kv, name_o = (validation.DTYPE_NAMES[dtype] for dtype in dtypes)
    sm_scale = 1.0 / math.sqrt(options.head_dim_qk)
    if options.sm_scale is not None:
        sm_scale = validation.check_scale("sm_scale", options.sm_scale)
    kv_source, division = "ragged", kv_cache.PageDivision(0, 0)
    if options.page_size is not None:
        kv_cache.check_page_size(options.page_size)
        kv_source, division = kv_cache.kv_source(options.page_size), kv_cache.page_division(options.page_size)
    config = AttentionConfig(
        phase="prefill",
        dtype_q=name_q,
        dtype_kv=name_kv,
        dtype_o=name_o,
        head_dim_qk=options.head_dim_qk,
        head_dim_vo=head_dim_vo,
        group_size=group_size,
        mask_mode=mask_mode(options.has_custom_mask, options.causal),
        kv_source=kv_source,
        position_encoding=logits.position_encoding,
        has_window=logits.window_left >= 0,
        has_soft_cap=logits.logits_soft_cap > 0,
        variant=options.variant,
    )
    return PrefillProblem(
        arch=arch,
        config=config,
        tiles=tiling.candidates(config, arch),
        logits=logits,
        num_qo_heads=options.num_qo_heads,
        num_kv_heads=options.num_kv_heads,
        page_size=options.page_size,
        division=division,
        dtype_q=dtype_q,
        dtype_kv=dtype_kv,
        dtype_o=dtypes[2],
        sm_scale=sm_scale,
    )
