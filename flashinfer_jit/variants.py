"""Custom attention variants: C++ that is inserted into the attention kernels, with the tensors and scalars it reads.

A variant changes queries, logits or outputs, hides keys, or replaces the softmax. It is given to a wrapper or a single
call as ``variant=``; the values of its tensors and scalars follow at every call. Its text is part of the configuration
and of the rendered source, so kernels of different variants never meet in the cache, whatever they are called.
FlashInfer's own texts, C++ structs, are variants too: ``from_flashinfer``.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from flashinfer_jit.errors import UnsupportedConfigError

__all__ = ["AttentionVariant", "from_flashinfer"]

# Torch dtype names and what the elements of a tensor are to the C++ text.
TENSOR_TYPES: Mapping[str, str] = {
    "float32": "float",
    "float64": "double",
    "float16": "_Float16",
    "bfloat16": "__bf16",
    "int64": "int64_t",
    "int32": "int32_t",
    "int16": "int16_t",
    "int8": "int8_t",
    "uint32": "uint32_t",
    "uint8": "uint8_t",
    "bool": "uint8_t",
}
SCALAR_TYPES = ("float", "double", "int32_t", "uint32_t", "int64_t")
# The names that FlashInfer's texts have for types, beside ours.
_C_TYPES: Mapping[str, str] = {
    **{c_type: dtype for dtype, c_type in TENSOR_TYPES.items() if dtype != "bool"},
    **dict.fromkeys(("half", "__half", "nv_half"), "float16"),
    **dict.fromkeys(("nv_bfloat16", "__nv_bfloat16", "__hip_bfloat16"), "bfloat16"),
    "int": "int32",
    "bool": "bool",
}
MAX_NAME_OF_SLUG = 64
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NO_SOFTMAX = re.compile(r"\buse_softmax\s*(?:=\s*false|\{\s*false\s*\})")
# Names that variants' parameters begin with in the kernel's struct, so that they meet no other.
PREFIX = "variant_"
BODIES = ("query_transform", "logits_transform", "logits_mask", "output_transform")
RESERVED = (
    *("params", "batch_idx", "qo_idx", "kv_idx", "qo_head_idx", "kv_head_idx", "qo_len", "kv_len"),
    *("query", "logits", "output", "column"),
)
# What FlashInfer's texts may hold and these kernels have no place for: a pattern, and what to do instead.
_UNSUPPORTED = (
    (r"#\s*include\b", "kernels include no headers: write the struct out, or leave jit_args out for FlashInfer's own"),
    (r"\b(?:REGISTER_QUERY_TRANSFORM|QueryTransform)\b", "use AttentionVariant(query_transform=...), or scale logits"),
    (r"\b(?:REGISTER_KEY_TRANSFORM|KeyTransform)\b", "transform keys before they are cached"),
    (r"\b(?:REGISTER_M_D_UPDATE|update_m_d)\b", "for attention sinks, call run(..., sinks=...) without a variant"),
    (r"\b(?:GetAttentionUpdater|additional_params)\b", "this is a text for backend='fa3': write it for 'fa2'"),
    (r"\bprintf\b", "there is no printf on the device: write values to an extra tensor"),
    (r"\b(?:threadIdx|blockIdx|blockDim|gridDim)\b", "threads are laid out otherwise: use the indices that are given"),
    (r"\b(?:__shfl\w*|shfl_\w+|__syncthreads|__syncwarp)\b", "lanes cannot exchange values"),
    (r"\basm\b", "PTX is of another GPU"),
)


@dataclass(frozen=True)
class AttentionVariant:
    """A custom attention variant.

    The bodies are C++ function bodies with a ``return``. All see the integers ``batch_idx``, ``qo_idx``,
    ``qo_head_idx``, ``kv_head_idx``, ``qo_len`` and ``kv_len``, and the tensors and scalars by their names; ``qo_idx``
    and ``kv_idx`` count from the request's first token.

    Attributes
    ----------
    name : str
        A C identifier.
    logits_transform : str
        Returns the logit for ``float logits``, the product of the query with key ``kv_idx`` times ``sm_scale``, after
        soft cap and ALiBi. Empty for no change.
    logits_mask : str
        Returns whether ``qo_idx`` sees ``kv_idx``, in force beside the other masks. Empty for no mask.
    output_transform : str
        Returns the output for ``float output``, the element of the result in column ``column``; of split keys, when
        parts are merged. Empty for no change.
    tensors : tuple of (str, str)
        Names and torch dtype names; a tensor is a pointer to its first element.
    scalars : tuple of (str, str)
        Names and C++ types: float, double, int32_t, uint32_t or int64_t.
    declarations : str
        C++ declarations before the bodies: functions are ``__device__``.
    query_transform : str
        Returns the element of the query for ``float query``, the one in column ``column``, before RoPE. It is rounded
        to the dtype of the queries again. Empty for no change.
    use_softmax : bool
        Whether weights are the softmax of the logits. If not, they are the logits, ``o`` is the sum of the values with
        these weights, and there is no log-sum-exp.
    struct : str
        FlashInfer's text instead of bodies: a C++ struct called ``name``. See ``from_flashinfer``.

    Raises
    ------
    UnsupportedConfigError
        For a name that is no identifier or used twice, an unknown type, a body without a ``return``, and a struct with
        something in it that the kernels have no place for.

    Examples
    --------
    >>> import torch, flashinfer_jit
    >>> from flashinfer_jit.variants import AttentionVariant
    >>> biased = AttentionVariant(
    ...     "biased", logits_transform="return logits + bias[qo_head_idx];", tensors=[("bias", "float32")]
    ... )
    >>> device = flashinfer_jit.device()
    >>> q, k, v = torch.randn(3, 77, 4, 64, dtype=torch.float16, device=device).unbind()
    >>> bias = torch.zeros(4, device=device)
    >>> flashinfer_jit.single_prefill_with_kv_cache(q, k, v, variant=biased, variant_args=(bias,)).shape
    torch.Size([77, 4, 64])
    """

    name: str
    logits_transform: str = ""
    logits_mask: str = ""
    output_transform: str = ""
    tensors: tuple[tuple[str, str], ...] = ()
    scalars: tuple[tuple[str, str], ...] = ()
    declarations: str = ""
    query_transform: str = ""
    use_softmax: bool = True
    struct: str = ""

    def __post_init__(self) -> None:
        # Lists, as JSON has them, would make the variant unhashable.
        for name in ("tensors", "scalars"):
            object.__setattr__(self, name, tuple((str(field), str(kind)) for field, kind in getattr(self, name)))
        names = [field for field, _ in (*self.tensors, *self.scalars)]
        for name in (self.name, *names):
            if not _IDENTIFIER.fullmatch(name):
                raise UnsupportedConfigError(f"variant name {name!r} is not allowed: expected a C identifier")
        for name in names:
            if name in RESERVED and not self.struct:
                raise UnsupportedConfigError(
                    f"variant parameter {name!r} is not allowed: the bodies see another {name}"
                )
            if names.count(name) > 1:
                raise UnsupportedConfigError(f"variant {self.name} has two parameters {name!r}")
        for name, kind in self.tensors:
            if kind not in TENSOR_TYPES:
                allowed = ", ".join(TENSOR_TYPES)
                raise UnsupportedConfigError(f"variant tensor {name} has dtype {kind!r}: expected one of {allowed}")
        for name, kind in self.scalars:
            if kind not in SCALAR_TYPES:
                allowed = ", ".join(SCALAR_TYPES)
                raise UnsupportedConfigError(f"variant scalar {name} has type {kind!r}: expected one of {allowed}")
        if type(self.use_softmax) is not bool:
            raise UnsupportedConfigError(f"use_softmax={self.use_softmax!r} is not allowed: expected True or False")
        for body in BODIES:
            if getattr(self, body) and "return" not in getattr(self, body):
                raise UnsupportedConfigError(f"{body} of variant {self.name} has no return: expected a function body")
        if self.struct:
            self._check_struct()

    def _check_struct(self) -> None:
        """Raise UnsupportedConfigError unless the struct is one that the kernels can use as it is."""
        for body in (*BODIES, "declarations"):
            if getattr(self, body):
                raise UnsupportedConfigError(f"variant {self.name} has a struct and a {body}: expected one of the two")
        text = _COMMENT.sub(" ", self.struct)
        if not re.search(rf"\bstruct\s+{self.name}\b", text):
            raise UnsupportedConfigError(f"the text of variant {self.name} declares no struct of that name")
        for pattern, advice in _UNSUPPORTED:
            found = re.search(pattern, text)
            if found:
                raise UnsupportedConfigError(
                    f"the text of variant {self.name} has {found.group()!r}, which is not supported: {advice}"
                )
        if len(re.findall(r"\bsmem_ptr\b", text)) > 1:
            raise UnsupportedConfigError(
                f"the text of variant {self.name} uses smem_ptr, which is not supported: variants get no shared memory"
            )
        if self.use_softmax == bool(_NO_SOFTMAX.search(text)):
            raise UnsupportedConfigError(
                f"variant {self.name}: use_softmax={self.use_softmax} is not what its text says"
            )
        if self.use_softmax and "sm_scale_log2" not in text:
            raise UnsupportedConfigError(
                f"the text of variant {self.name} has no member sm_scale_log2, the softmax scale times log2(e): set it "
                "in the constructor"
            )

    @property
    def has_output_transform(self) -> bool:
        """Whether outputs are changed by more than the division by the sum of weights."""
        return bool(self.output_transform) or "OutputTransform" in self._struct_words or self._registers_output

    @property
    def _registers_output(self) -> bool:
        return "REGISTER_OUTPUT_TRANSFORM" in self._struct_words

    @property
    def _struct_words(self) -> frozenset[str]:
        return frozenset(_IDENTIFIER.findall(_COMMENT.sub(" ", self.struct)))

    @property
    def has_plain_merge(self) -> bool:
        """Whether parts of split keys merge as without a variant: neither transformed nor summed without a softmax."""
        return self.use_softmax and not self.has_output_transform

    @property
    def takes_logits(self) -> bool:
        """Whether bodies need logits rather than the products that they are made of."""
        return not self.struct and (bool(self.logits_transform) or not self.use_softmax)

    @property
    def changes_logits(self) -> bool:
        """Whether logits go through the variant."""
        return bool(self.struct or self.logits_transform or self.logits_mask) or not self.use_softmax

    @property
    def members(self) -> tuple[tuple[str, str], ...]:
        """Names and C++ types of the tensors' pointers and of the scalars."""
        return (*((name, f"{TENSOR_TYPES[kind]}*") for name, kind in self.tensors), *self.scalars)

    @property
    def params(self) -> tuple[tuple[str, str, str], ...]:
        """Names, C++ types and comments of the fields that the variant adds to the kernel's parameters."""
        # FlashInfer's texts may write to their tensors; bodies only read.
        const = "" if self.struct else "const "
        tensors = [(PREFIX + name, f"{const}{TENSOR_TYPES[kind]}*", "of the variant") for name, kind in self.tensors]
        return (*tensors, *((PREFIX + name, kind, "of the variant") for name, kind in self.scalars))

    @property
    def slug(self) -> str:
        """The name, or the beginning of a long one, with eight digits of the text's hash."""
        # Folders of the cache are named by it, and file systems allow 255 bytes.
        return f"{self.name[:MAX_NAME_OF_SLUG]}_{hashlib.sha256(self.to_json().encode()).hexdigest()[:8]}"

    def to_json(self) -> str:
        """Return the text that ``AttentionConfig.variant`` takes; equal for equal variants."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def variant_from_json(text: str) -> AttentionVariant:
    """Return the variant that ``to_json`` described.

    Raises UnsupportedConfigError if it is no such text.
    """
    try:
        values = json.loads(text)
        known = {field.name for field in fields(AttentionVariant)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise TypeError(f"expected an object with some of {', '.join(sorted(known))}")
        return AttentionVariant(**values)
    except (TypeError, ValueError) as error:
        if isinstance(error, UnsupportedConfigError):
            raise
        raise UnsupportedConfigError(
            f"variant={text!r} is not allowed: expected the JSON of an AttentionVariant: {error}"
        ) from None


def from_flashinfer(
    variant_name: str,
    variant_decl: str,
    additional_tensor_names: Sequence[str] = (),
    additional_tensor_dtypes: Sequence[str] = (),
    additional_scalar_names: Sequence[str] = (),
    additional_scalar_dtypes: Sequence[str] = (),
) -> AttentionVariant:
    """Return the variant that FlashInfer's ``jit_args`` describe.

    The struct is compiled as it is written for FlashInfer's backend ``fa2``. ``LogitsTransform`` gets products of
    queries and keys, without a scale; the softmax multiplies by the member ``sm_scale_log2``, which the constructor
    sets. ``LogitsMask`` is asked about every key that the other masks leave, in all tiles: FlashInfer asks only in
    tiles on the edge unless it is given a custom mask. The member ``window_left`` hides nothing: the mask does.

    Parameters
    ----------
    variant_name : str
        The struct.
    variant_decl : str
        C++ text that declares it, derived from ``AttentionVariantBase``.
    additional_tensor_names, additional_tensor_dtypes : sequence of str
        Members of ``params`` that are pointers, and the C++ types of their elements.
    additional_scalar_names, additional_scalar_dtypes : sequence of str
        Members of ``params`` that are numbers, and their C++ types.

    Raises
    ------
    UnsupportedConfigError
        For names and types that do not pair up, unknown types, and texts that use what these kernels do not have.
    """
    parts: dict[str, list[tuple[str, str]]] = {}
    for what, names, kinds in (
        ("tensor", additional_tensor_names, additional_tensor_dtypes),
        ("scalar", additional_scalar_names, additional_scalar_dtypes),
    ):
        if len(names) != len(kinds):
            raise UnsupportedConfigError(
                f"variant {variant_name}: {len(names)} additional_{what}_names and {len(kinds)} "
                f"additional_{what}_dtypes: expected as many"
            )
        parts[what] = list(zip(names, kinds, strict=True))
    for name, kind in parts["tensor"]:
        if kind not in _C_TYPES:
            allowed = ", ".join(sorted(_C_TYPES))
            raise UnsupportedConfigError(f"variant tensor {name} has type {kind!r}: expected one of {allowed}")
    if not re.fullmatch(_IDENTIFIER, variant_name):
        raise UnsupportedConfigError(
            f"variant_name={variant_name!r} is not supported: expected the name of a struct in variant_decl; "
            "FlashInfer's DefaultAttention is what calls without jit_args do"
        )
    arguments: dict[str, Any] = {
        "tensors": [(name, _C_TYPES[kind]) for name, kind in parts["tensor"]],
        "scalars": [(name, "int32_t" if kind == "int" else kind) for name, kind in parts["scalar"]],
    }
    use_softmax = not _NO_SOFTMAX.search(_COMMENT.sub(" ", variant_decl))
    return AttentionVariant(variant_name, struct=variant_decl, use_softmax=use_softmax, **arguments)
