"""Custom attention variants: C++ that is inserted into the attention kernel, with the tensors and scalars it reads.

A variant changes logits, hides keys, or changes outputs. Its text is part of the configuration and of the rendered
source, so kernels of different variants never meet in the cache, whatever they are called.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from flashinfer_jit.errors import UnsupportedConfigError

# Torch dtype names and what the elements of a tensor are to the C++ text.
TENSOR_TYPES: Mapping[str, str] = {
    "float32": "float",
    "float16": "_Float16",
    "bfloat16": "__bf16",
    "int64": "int64_t",
    "int32": "int32_t",
    "uint8": "uint8_t",
    "bool": "uint8_t",
}
SCALAR_TYPES = ("float", "double", "int32_t", "uint32_t", "int64_t")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# Names that variants' parameters begin with in the kernel's struct, so that they meet no other.
PREFIX = "variant_"
RESERVED = (
    *("params", "batch_idx", "qo_idx", "kv_idx", "qo_head_idx", "kv_head_idx", "qo_len", "kv_len"),
    *("logits", "output", "column"),
)


@dataclass(frozen=True)
class AttentionVariant:
    """A custom attention variant.

    The three bodies are C++ function bodies with a ``return``. All see the integers ``batch_idx``, ``qo_idx``,
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
        Returns the output for ``float output``, the element of the result in column ``column``. It needs all keys at
        once: they must not be split (``disable_split_kv``). Empty for no change.
    tensors : tuple of (str, str)
        Names and torch dtype names; a tensor is a pointer to its first element.
    scalars : tuple of (str, str)
        Names and C++ types: float, double, int32_t, uint32_t or int64_t.
    declarations : str
        C++ declarations before the bodies: functions are ``__device__``.

    Raises
    ------
    UnsupportedConfigError
        For a name that is no identifier or used twice, an unknown type, or a body without a ``return``.
    """

    name: str
    logits_transform: str = ""
    logits_mask: str = ""
    output_transform: str = ""
    tensors: tuple[tuple[str, str], ...] = ()
    scalars: tuple[tuple[str, str], ...] = ()
    declarations: str = ""

    def __post_init__(self) -> None:
        # Lists, as JSON has them, would make the variant unhashable.
        for name in ("tensors", "scalars"):
            object.__setattr__(self, name, tuple((str(field), str(kind)) for field, kind in getattr(self, name)))
        names = [field for field, _ in (*self.tensors, *self.scalars)]
        for name in (self.name, *names):
            if not _IDENTIFIER.fullmatch(name):
                raise UnsupportedConfigError(f"variant name {name!r} is not allowed: expected a C identifier")
        for name in names:
            if name in RESERVED:
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
        for body in ("logits_transform", "logits_mask", "output_transform"):
            if getattr(self, body) and "return" not in getattr(self, body):
                raise UnsupportedConfigError(f"{body} of variant {self.name} has no return: expected a function body")

    @property
    def params(self) -> tuple[tuple[str, str, str], ...]:
        """Names, C++ types and comments of the fields that the variant adds to the kernel's parameters."""
        tensors = [(PREFIX + name, f"const {TENSOR_TYPES[kind]}*", "of the variant") for name, kind in self.tensors]
        return (*tensors, *((PREFIX + name, kind, "of the variant") for name, kind in self.scalars))

    @property
    def slug(self) -> str:
        """The name with eight digits of the text's hash."""
        return f"{self.name}_{hashlib.sha256(self.to_json().encode()).hexdigest()[:8]}"

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
