"""What a kernel is specialised for: frozen, hashable configurations without tensors, one class per family of kernels.

A thing is configuration when it changes the layout of registers or LDS or removes a branch from the inner loop;
everything else is a run-time field of the kernel's parameter struct (params.py).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.arch import Arch
from flashinfer_jit.variants import AttentionVariant, variant_from_json

DTYPE_SLUGS: Mapping[str, str] = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float8_e4m3fn": "e4m3fn",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2": "e5m2",
    "float8_e5m2fnuz": "e5m2fnuz",
}
FP8_DTYPES = tuple(name for name in DTYPE_SLUGS if name.startswith("float8"))

# What the matrix instructions of attention kernels take; fp8 values are converted to one of them, exactly.
OPERAND_DTYPES = ("float16", "bfloat16")

C = TypeVar("C", bound="type[KernelConfig]")
CONFIG_TYPES: dict[str, type["KernelConfig"]] = {}


def register_config(config_type: C) -> C:
    """Class decorator: makes configurations of this class readable from JSON by their ``kernel`` name."""
    CONFIG_TYPES[config_type.kernel] = config_type
    return config_type


@dataclass(frozen=True)
class KernelConfig:
    """Base of all configurations: what rendering, the cache and the command lines need to know of one."""

    kernel: ClassVar[str]

    @property
    def template(self) -> str:
        """File name of the template that renders this kernel."""
        return f"{self.kernel}.hip.j2"

    @property
    def params_table(self) -> str:
        """Name of the kernel's table of parameters in params.py."""
        return self.kernel

    @property
    def extra_params(self) -> tuple[tuple[str, str, str], ...]:
        """Name, C type and comment of parameters that this configuration has beside those of its table."""
        return ()

    def slug(self) -> str:
        """Return a readable name, unique among configurations, of letters that suit file names and C identifiers."""
        raise NotImplementedError

    def context(self, arch: Arch, tile: Any) -> Mapping[str, Any]:
        """Return values for the template beside ``config``, ``arch`` and ``tile``."""
        return {}

    def validate(self, arch: Arch) -> None:
        """Raise UnsupportedConfigError if the kernel does not exist on ``arch``."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, with the kernel's family first."""
        return {"kernel": self.kernel, **asdict(self)}

    def canonical_json(self) -> str:
        """Return the same text for equal configurations: sorted keys, no blanks."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))


def config_from_dict(values: Mapping[str, Any]) -> KernelConfig:
    """Return the configuration that ``to_dict`` described.

    Raises UnsupportedConfigError for an unknown family, an unknown field or a missing one.
    """
    rest = dict(values)
    family = rest.pop("kernel", "attention")
    config_type = CONFIG_TYPES.get(family)
    if config_type is None:
        raise UnsupportedConfigError(f"kernel={family!r} is unknown: expected one of {', '.join(sorted(CONFIG_TYPES))}")
    known = [field.name for field in fields(config_type)]
    for name in rest:
        if name not in known:
            raise UnsupportedConfigError(f"{family} has no field {name!r}: its fields are {', '.join(known)}")
    try:
        return config_type(**rest)
    except TypeError as error:
        raise UnsupportedConfigError(f"{family}: {error}") from None


# What each axis may be. Where a kernel is not written for a value yet, BUILT says so.
ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "phase": ("prefill", "decode"),
    "dtype_q": ("float16", "bfloat16", *FP8_DTYPES),
    "dtype_kv": ("float16", "bfloat16", *FP8_DTYPES),
    "dtype_o": ("float16", "bfloat16", "float32"),
    "mask_mode": ("none", "causal", "custom"),
    "kv_source": ("contiguous", "ragged", "page_size_1", "page_size_multiple", "page_size_any"),
    "position_encoding": ("none", "rope_llama", "alibi"),
    "has_window": (False, True),
    "has_soft_cap": (False, True),
    "has_sinks": (False, True),
}
HEAD_DIMS = (*((dim, dim) for dim in range(32, 257, 16)), (192, 128))
MAX_GROUP_SIZE = 1024
MAX_MERGED_HEAD_DIM = 1024
# With kv_source "page_size_multiple", the page size is a multiple of this many tokens: the keys that one load of
# a wave of the prefill kernel brings then lie in one page.
PREFILL_PAGE_GRANULE = 16

# The subset of ALLOWED and HEAD_DIMS that kernels exist for, by phase; an axis that is absent is built whole.
BUILT: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "prefill": {},
    # Query tokens of a request see the keys up to their own; with one of them that is no mask at all.
    "decode": {
        "mask_mode": ("causal",),
        "kv_source": ("contiguous", "page_size_1", "page_size_multiple", "page_size_any"),
    },
}


@register_config
@dataclass(frozen=True)
class AttentionConfig(KernelConfig):
    """An attention kernel: softmax(Q K^T * sm_scale + mask) V for one request or a batch of them.

    Attributes
    ----------
    phase : str
        ``prefill`` (a tile of query rows per workgroup) or ``decode`` (few query rows, KV split over workgroups).
    dtype_q, dtype_kv, dtype_o : str
        Torch dtype names without ``torch.``. Q, K and V may each be fp8; of two 16-bit dtypes, only equal ones go
        together, for neither holds all values of the other.
    head_dim_qk, head_dim_vo : int
        Elements of a head of Q and K, and of V and O.
    group_size : int
        Query heads per KV head.
    mask_mode : str
        ``none``, ``causal`` (aligned to the bottom right corner) or ``custom`` (packed bits).
    kv_source : str
        ``contiguous`` (one request), ``ragged`` (requests one after the other), or paged with a page size of 1, a
        multiple of the tile's token granule (``PREFILL_PAGE_GRANULE``, 16 for decode), or any other.
    position_encoding : str
        ``none``, ``rope_llama`` or ``alibi``.
    has_window, has_soft_cap, has_sinks : bool
        Whether the sliding window, the logits soft cap and the attention sinks are in the kernel.
    variant : str or None
        A custom attention variant as JSON (:meth:`flashinfer_jit.variants.AttentionVariant.to_json`).

    Raises
    ------
    UnsupportedConfigError
        For a value that is not allowed, or that no kernel is built for.
    """

    kernel: ClassVar[str] = "attention"

    phase: str
    dtype_q: str
    dtype_kv: str
    dtype_o: str
    head_dim_qk: int
    head_dim_vo: int
    group_size: int = 1
    mask_mode: str = "none"
    kv_source: str = "contiguous"
    position_encoding: str = "none"
    has_window: bool = False
    has_soft_cap: bool = False
    has_sinks: bool = False
    variant: str | None = None

    def __post_init__(self) -> None:
        for axis, allowed in ALLOWED.items():
            value = getattr(self, axis)
            # 1 == True in Python, but "has_window": 1 in a plan file would be another key for the same kernel.
            if value not in allowed or type(value) is not type(allowed[0]):
                raise UnsupportedConfigError(f"{axis}={value!r} is not allowed: {_one_of(allowed)}")
        if type(self.group_size) is not int or not 1 <= self.group_size <= MAX_GROUP_SIZE:
            raise UnsupportedConfigError(
                f"group_size={self.group_size!r} is not allowed: expected 1 to {MAX_GROUP_SIZE}"
            )
        head_dims = (self.head_dim_qk, self.head_dim_vo)
        if head_dims not in HEAD_DIMS or {type(dim) for dim in head_dims} != {int}:
            raise UnsupportedConfigError(
                f"head_dim_qk={self.head_dim_qk!r} with head_dim_vo={self.head_dim_vo!r} is not allowed: "
                "expected equal sizes of 32 to 256 in steps of 16, or 192 with 128"
            )
        if len({self.dtype_q, self.dtype_kv} - set(FP8_DTYPES)) > 1:
            raise UnsupportedConfigError(
                f"dtype_kv={self.dtype_kv!r} with dtype_q={self.dtype_q!r} is not allowed: "
                "expected the same or an fp8 dtype"
            )
        if self.variant is not None:
            self._check_variant(variant_from_json(self.variant))
        for axis, built in BUILT[self.phase].items():
            value = head_dims if axis == "head_dims" else getattr(self, axis)
            if value not in built:
                raise UnsupportedConfigError(f"{axis}={value!r} is not built yet for {self.phase}: {_one_of(built)}")

    def _check_variant(self, variant: AttentionVariant) -> None:
        """Raise UnsupportedConfigError for options that a variant leaves no place for."""
        options = {
            "has_soft_cap": bool(variant.struct),
            "has_sinks": not variant.use_softmax or bool(variant.struct and variant.has_output_transform),
        }
        for name, excluded in options.items():
            if excluded and getattr(self, name):
                raise UnsupportedConfigError(
                    f"{name}=True is not supported with variant {variant.name}: expected False, or the variant to do it"
                )
        if variant.struct and self.position_encoding == "alibi":
            raise UnsupportedConfigError(
                f"position_encoding='alibi' is not supported with variant {variant.name}: expected 'none' or "
                "'rope_llama'; its LogitsTransform can add slopes"
            )

    @property
    def dtype_compute(self) -> str:
        """The dtype of matrix operands, which holds every value of Q, K and V exactly.

        It is the 16-bit dtype among those of Q and of K and V. Where all are fp8, it is float16, whose three more bits
        serve P; but rotation can take e5m2 values past the largest float16, so there it is bfloat16.
        """
        for dtype in (self.dtype_q, self.dtype_kv):
            if dtype not in FP8_DTYPES:
                return dtype
        rotates_e5m2 = self.position_encoding == "rope_llama" and "e5m2" in self.dtype_q + self.dtype_kv
        return "bfloat16" if rotates_e5m2 else "float16"

    @property
    def template(self) -> str:
        """File name of the template: one per phase."""
        return f"{self.phase}.hip.j2"

    @property
    def params_table(self) -> str:
        """Name of the table of parameters: one per phase, and another for batches of prefills."""
        return "batch_prefill" if self.phase == "prefill" and self.kv_source != "contiguous" else self.phase

    @property
    def extra_params(self) -> tuple[tuple[str, str, str], ...]:
        """The parameters of the variant."""
        return () if self.variant is None else variant_from_json(self.variant).params

    def context(self, arch: Arch, tile: Any) -> Mapping[str, Any]:
        """Return the blocks of output columns of the decode kernel, as ``{first, run}``.

        The kernel reads V in blocks of 16 * run columns, run of them a lane; a head dimension is the sum of the widest
        blocks that fit, and a lane's 8 elements of 2 bytes are the 16 bytes of the widest load.
        """
        blocks: list[dict[str, int]] = []
        first = 0
        for run in (8, 8, 4, 2, 1):
            if self.head_dim_vo - first >= 16 * run:
                blocks.append({"first": first, "run": run})
                first += 16 * run
        variant = None if self.variant is None else variant_from_json(self.variant)
        return {"column_blocks": blocks, "page_granule": PREFILL_PAGE_GRANULE, "variant": variant}

    def slug(self) -> str:
        """Return for example ``prefill-bf16-d128-g4-causal``: what is as usual is left out."""
        dims = (
            str(self.head_dim_qk) if self.head_dim_qk == self.head_dim_vo else f"{self.head_dim_qk}x{self.head_dim_vo}"
        )
        parts = [self.phase, DTYPE_SLUGS[self.dtype_q], f"d{dims}", f"g{self.group_size}"]
        if self.dtype_kv != self.dtype_q:
            parts.append(f"kv_{DTYPE_SLUGS[self.dtype_kv]}")
        if self.dtype_o != self.dtype_q:
            parts.append(f"o_{DTYPE_SLUGS[self.dtype_o]}")
        parts += [value for value in (self.mask_mode, self.position_encoding) if value != "none"]
        if self.kv_source != "contiguous":
            parts.append(self.kv_source)
        parts += [name for name in ("window", "soft_cap", "sinks") if getattr(self, f"has_{name}")]
        if self.variant is not None:
            parts.append(f"variant_{variant_from_json(self.variant).slug}")
        return "-".join(parts)


@register_config
@dataclass(frozen=True)
class MergeStatesConfig(KernelConfig):
    """The kernel that merges attention states, outputs with their log-sum-exps, over disjoint sets of keys.

    Attributes
    ----------
    dtype_in, dtype_out : str
        Torch dtype names of the states' outputs and of the result.
    head_dim : int
        Columns of an output.
    has_sinks : bool
        Whether a sink's logit takes part in the sum.

    Raises
    ------
    UnsupportedConfigError
        For a value that is not allowed.
    """

    kernel: ClassVar[str] = "merge_states"

    dtype_in: str
    dtype_out: str
    head_dim: int
    has_sinks: bool = False

    def __post_init__(self) -> None:
        for axis in ("dtype_in", "dtype_out"):
            value, allowed = getattr(self, axis), ALLOWED["dtype_o"]
            if value not in allowed:
                raise UnsupportedConfigError(f"{axis}={value!r} is not allowed: {_one_of(allowed)}")
        if type(self.head_dim) is not int or not 1 <= self.head_dim <= MAX_MERGED_HEAD_DIM:
            raise UnsupportedConfigError(
                f"head_dim={self.head_dim!r} is not allowed: expected 1 to {MAX_MERGED_HEAD_DIM}"
            )

    def context(self, arch: Arch, tile: Any) -> Mapping[str, Any]:
        """Return that there is no variant."""
        return {"variant": None}

    def slug(self) -> str:
        """Return for example ``merge_states-f32-d128-o_bf16``."""
        out = "" if self.dtype_out == self.dtype_in else f"-o_{DTYPE_SLUGS[self.dtype_out]}"
        sinks = "-sinks" if self.has_sinks else ""
        return f"merge_states-{DTYPE_SLUGS[self.dtype_in]}-d{self.head_dim}{out}{sinks}"


@register_config
@dataclass(frozen=True)
class MergeVariantConfig(KernelConfig):
    """The kernel that merges parts of requests whose variant transforms outputs, or has no softmax.

    Attributes
    ----------
    variant : str
        The variant, as :class:`AttentionConfig` has it.
    dtype_out : str
        Torch dtype name of the result.
    head_dim : int
        Columns of an output.
    group_size : int
        Query heads per KV head.
    phase, kv_source : str
        As of the attention kernel, which say how a row's request is found.
    has_sinks : bool
        Whether a sink's logit takes part in the sum.

    Raises
    ------
    UnsupportedConfigError
        For a value that is not allowed.
    """

    kernel: ClassVar[str] = "merge_variant"

    variant: str
    dtype_out: str
    head_dim: int
    group_size: int
    phase: str
    kv_source: str
    has_sinks: bool = False

    def __post_init__(self) -> None:
        variant_from_json(self.variant)
        MergeStatesConfig("float32", self.dtype_out, self.head_dim, self.has_sinks)

    @property
    def dtype_in(self) -> str:
        """Parts are float32."""
        return "float32"

    @property
    def finds_requests(self) -> bool:
        """Whether requests have lengths of their own."""
        return self.phase == "prefill" and self.kv_source != "contiguous"

    @property
    def template(self) -> str:
        """File name of the template."""
        return "merge_states.hip.j2"

    @property
    def params_table(self) -> str:
        """Name of the table of parameters."""
        return "merge_states"

    @property
    def extra_params(self) -> tuple[tuple[str, str, str], ...]:
        """Where a row's request is found, what FlashInfer's texts see, and the parameters of the variant."""
        int32, pointer = "int32_t", "const int32_t*"
        fields = [("num_requests", int32), ("qo_len", int32), ("qo_indptr", pointer)]
        fields += {
            "contiguous": [("kv_len", int32)],
            "ragged": [("kv_indptr", pointer)],
        }.get(self.kv_source, [("page_size", int32), ("paged_kv_indptr", pointer), ("paged_kv_last_page_len", pointer)])
        fields += [("num_qo_heads", int32), ("num_kv_heads", int32), ("window_left", int32)]
        own = variant_from_json(self.variant).params
        return (*((name, kind, "as of the attention kernel") for name, kind in fields), *own)

    def context(self, arch: Arch, tile: Any) -> Mapping[str, Any]:
        """Return the variant."""
        return {"variant": variant_from_json(self.variant)}

    def slug(self) -> str:
        """Return for example ``merge_variant-f32-d128-g4-decode-page_size_1-variant_sigmoid_01234567``."""
        parts = [self.kernel, DTYPE_SLUGS[self.dtype_out], f"d{self.head_dim}", f"g{self.group_size}", self.phase]
        parts += [self.kv_source, *(["sinks"] if self.has_sinks else [])]
        return "-".join([*parts, f"variant_{variant_from_json(self.variant).slug}"])


@register_config
@dataclass(frozen=True)
class AppendPagedKvConfig(KernelConfig):
    """The kernel that appends keys and values to a paged cache, as they are or rounded to fp8.

    Attributes
    ----------
    dtype_in, dtype_cache : str
        Torch dtype names; they are the same, or the cache's is an fp8 dtype.
    head_dim_k, head_dim_v : int
        Elements of a head, multiples of 8.

    Raises
    ------
    UnsupportedConfigError
        For a value that is not allowed.
    """

    kernel: ClassVar[str] = "append_paged_kv"

    dtype_in: str
    dtype_cache: str
    head_dim_k: int
    head_dim_v: int

    def __post_init__(self) -> None:
        allowed = (*ALLOWED["dtype_kv"], "float32")
        if self.dtype_in not in allowed:
            raise UnsupportedConfigError(f"dtype_in={self.dtype_in!r} is not allowed: {_one_of(allowed)}")
        narrower = () if self.dtype_in in FP8_DTYPES else FP8_DTYPES
        if self.dtype_cache not in (self.dtype_in, *narrower):
            raise UnsupportedConfigError(
                f"dtype_cache={self.dtype_cache!r} with dtype_in={self.dtype_in!r} is not allowed: "
                f"{_one_of((self.dtype_in, *narrower))}"
            )
        for name in ("head_dim_k", "head_dim_v"):
            value = getattr(self, name)
            if type(value) is not int or not 8 <= value <= MAX_MERGED_HEAD_DIM or value % 8:
                raise UnsupportedConfigError(
                    f"{name}={value!r} is not allowed: expected 8 to {MAX_MERGED_HEAD_DIM} in steps of 8"
                )

    def slug(self) -> str:
        """Return for example ``append_paged_kv-bf16-d128-cache_e4m3fn``."""
        dims = str(self.head_dim_k) if self.head_dim_k == self.head_dim_v else f"{self.head_dim_k}x{self.head_dim_v}"
        cache = "" if self.dtype_cache == self.dtype_in else f"-cache_{DTYPE_SLUGS[self.dtype_cache]}"
        return f"append_paged_kv-{DTYPE_SLUGS[self.dtype_in]}-d{dims}{cache}"


def default_dtype_o(dtype_q: str, dtype_kv: str) -> str:
    """Return the dtype of the output if none is asked for: that of Q; for fp8 Q that of K and V, or else bfloat16."""
    return next((dtype for dtype in (dtype_q, dtype_kv) if dtype not in FP8_DTYPES), "bfloat16")


def _one_of(values: tuple[Any, ...]) -> str:
    return (
        ("expected one of " if len(values) > 1 else "expected ") + ", ".join(map(repr, values)) if values else "none is"
    )
