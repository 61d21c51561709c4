"""A custom variant as a wrapper or a call has it: what it was declared for, and the values of its parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from flashinfer_jit import validation
from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.attention import CustomModule, module_from_jit_args
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.variants import PREFIX, AttentionVariant

_INTEGER_RANGES = {
    "int32_t": (-(2**31), 2**31 - 1),
    "uint32_t": (0, 2**32 - 1),
    "int64_t": (-(2**63), 2**63 - 1),
}
# Tensors that FlashInfer's wrappers fill in themselves, whatever a text is for: multi-item scoring is not built.
_UNBUILT = dict.fromkeys(("maybe_prefix_len_ptr", "maybe_token_pos_in_items_ptr", "maybe_max_item_len_ptr"))


@dataclass(slots=True)
class VariantArguments:
    """Parameters that a variant adds to a launch.

    Attributes
    ----------
    fields : dict
        Addresses and numbers by the name of the kernel's parameter.
    tensors : dict
        The tensors among them.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def apply(self, params: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Put them into the parameters of a launch and among its tensors."""
        for name, value in self.fields.items():
            setattr(params, name, value)
        tensors.update(self.tensors)


@dataclass(frozen=True)
class VariantBinding:
    """A variant, and the module that it came in.

    Attributes
    ----------
    variant : AttentionVariant
        The variant.
    module : CustomModule or None
        What FlashInfer's ``jit_args`` or a ``jit_module`` declared beside it.
    text : str
        The variant as the configuration has it.
    """

    variant: AttentionVariant
    module: CustomModule | None
    text: str

    @property
    def pos_encoding_mode(self) -> str:
        """The position encoding that the module was declared with."""
        return "NONE" if self.module is None else self.module.pos_encoding_mode

    @property
    def dtype_o(self) -> str | None:
        """The output's dtype that the module was declared with."""
        return None if self.module is None else self.module.dtype_o

    def check_config(self, config: AttentionConfig) -> None:
        """Raise ValueError if the module was declared for other dtypes, head dimensions or position encoding."""
        if self.module is not None:
            self.module.check(
                dtype_q=config.dtype_q,
                dtype_kv=config.dtype_kv,
                dtype_o=config.dtype_o,
                head_dim_qk=config.head_dim_qk,
                head_dim_vo=config.head_dim_vo,
                pos_encoding_mode=config.position_encoding.upper(),
            )

    def check_options(self, **options: Any) -> None:
        """Raise UnsupportedConfigError for scales of logits beside a text that scales them itself."""
        if self.variant.struct:
            for name, value in options.items():
                if value is not None:
                    raise UnsupportedConfigError(
                        f"{name} is not supported with variant {self.variant.name}: expected None, and the scale as an "
                        "extra scalar that its text reads"
                    )

    def check_lse(self, is_wanted: Any) -> None:
        """Raise UnsupportedConfigError if a log-sum-exp is wanted of weights that are no softmax."""
        if is_wanted and not self.variant.use_softmax:
            raise UnsupportedConfigError(
                f"return_lse=True is not supported with variant {self.variant.name}: expected False, for without a "
                "softmax there is no log-sum-exp"
            )

    def bind(
        self,
        args: Sequence[Any],
        device: torch.device,
        num_qo_heads: int,
        known: Mapping[str, torch.Tensor | None] | None = None,
    ) -> VariantArguments:
        """Return the parameters that ``args`` give the variant: its tensors first, then its scalars, in their order.

        Parameters
        ----------
        args : sequence
            One value for each tensor, and one for each scalar. None is a null pointer for tensors whose name begins
            with ``maybe_``.
        device : torch.device
            Where tensors must be.
        num_qo_heads : int
            Query heads.
        known : mapping, optional
            With a module that a wrapper has made, tensors that the wrapper has: they are left out of ``args``.

        Raises
        ------
        ValueError
            For a wrong number of values, tensors of another dtype or device or with gaps, numbers out of range.
        TypeError
            For what is no tensor, or no number.
        """
        variant = self.variant
        own: dict[str, torch.Tensor | None] = {}
        if known is not None and self.module is not None:
            own = {**_UNBUILT, **known}
            if any(name == "maybe_alibi_slopes" for name, _ in variant.tensors):
                own["maybe_alibi_slopes"] = alibi_slopes(num_qo_heads, device)
        given = [(name, kind) for name, kind in variant.tensors if name not in own]
        if len(args) != len(given) + len(variant.scalars):
            wanted = [f"{name} ({kind} tensor)" for name, kind in given]
            wanted += [f"{name} ({kind})" for name, kind in variant.scalars]
            raise ValueError(
                f"variant {variant.name} takes {len(wanted)} extra arguments ({', '.join(wanted) or 'none'}), got "
                f"{len(args)}"
            )
        bound = VariantArguments()
        values = iter(args)
        for name, kind in variant.tensors:
            tensor = own[name] if name in own else next(values)
            if tensor is None and name.startswith("maybe_"):
                bound.fields[PREFIX + name] = None
                continue
            _check_tensor(variant.name, name, kind, tensor, device)
            bound.fields[PREFIX + name] = tensor.data_ptr()
            bound.tensors[PREFIX + name] = tensor
        for name, kind in variant.scalars:
            bound.fields[PREFIX + name] = _number(variant.name, name, kind, next(values))
        return bound


def bind_call(
    variant: VariantBinding | None,
    args: Sequence[Any],
    device: torch.device,
    num_qo_heads: int,
    return_lse: Any,
    **scales: Any,
) -> VariantArguments | None:
    """Return the parameters that a single call gives its variant, if it has one.

    Raises ValueError for values without a variant, and as ``VariantBinding.bind``, ``check_options`` and ``check_lse``.
    """
    if variant is None:
        if len(args):
            raise ValueError(f"variant_args has {len(args)} values, and there is no variant")
        return None
    variant.check_options(**scales)
    variant.check_lse(return_lse)
    return variant.bind(args, device, num_qo_heads)


def binding(
    kind: str,
    variant: AttentionVariant | None,
    jit_args: Sequence[Any] | None = None,
    jit_kwargs: Mapping[str, Any] | None = None,
    variant_owns_mask: bool = False,
) -> VariantBinding | None:
    """Return what a wrapper's arguments say of a variant, None if they say nothing.

    Parameters
    ----------
    kind : str
        ``batch_prefill`` or ``batch_decode``.
    variant, jit_args, jit_kwargs, variant_owns_mask
        As the wrapper got them.

    Raises
    ------
    ValueError
        For both forms at once, ``jit_kwargs`` and ``variant_owns_mask`` without ``jit_args``, and malformed ones.
    UnsupportedConfigError
        For what no kernel is built for.
    TypeError
        If ``variant`` is none.
    """
    if jit_args is None:
        if jit_kwargs:
            raise ValueError("jit_kwargs needs jit_args: they are options of the variant that jit_args describe")
        if variant_owns_mask:
            raise ValueError("variant_owns_mask requires jit_args: it says who masks in a custom variant")
        return None if variant is None else bind_variant(variant)
    if variant is not None:
        raise ValueError("variant and jit_args are two forms of the same: give one of them")
    module = module_from_jit_args(kind, jit_args, jit_kwargs)
    return VariantBinding(module.variant, module, module.variant.to_json())


def bind_variant(variant: Any, kind: str = "") -> VariantBinding:
    """Return the binding of an AttentionVariant, or of a module of that kind; raise TypeError for anything else."""
    if isinstance(variant, CustomModule) and kind:
        if variant.kind != kind:
            raise ValueError(f"jit_module was made for {variant.kind}: expected one made for {kind}")
        return VariantBinding(variant.variant, variant, variant.variant.to_json())
    if not isinstance(variant, AttentionVariant):
        expected = "a module of flashinfer_jit.jit or an AttentionVariant" if kind else "an AttentionVariant"
        raise TypeError(f"{'jit_module' if kind else 'variant'} must be {expected}, got {type(variant).__name__}")
    return VariantBinding(variant, None, variant.to_json())


_slopes: dict[tuple[int, torch.device], torch.Tensor] = {}


def alibi_slopes(num_heads: int, device: torch.device) -> torch.Tensor:
    """Return ALiBi's slopes, ``[num_heads]`` float32: the series of arXiv 2108.12409, section 3, and its footnote."""
    found = _slopes.get((num_heads, device))
    if found is None:
        n = 1 << (num_heads.bit_length() - 1)
        slopes = [2.0 ** (-8.0 * (head + 1) / n) for head in range(n)]
        slopes += [2.0 ** (-4.0 * (2 * head + 1) / n) for head in range(num_heads - n)]
        found = _slopes[num_heads, device] = torch.tensor(slopes, dtype=torch.float32, device=device)
    return found


def _check_tensor(variant: str, name: str, kind: str, tensor: Any, device: torch.device) -> None:
    what = f"{name} of variant {variant}"
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{what} must be a torch.Tensor, got {type(tensor).__name__}")
    if str(tensor.dtype) != f"torch.{kind}":
        raise ValueError(f"Invalid dtype of {what}: expected torch.{kind}, got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"Invalid device of {what}: expected {device} as that of q, got {tensor.device}")
    if not tensor.is_contiguous():
        raise ValueError(
            f"Invalid strides of {what}: expected no gaps, got {validation.shape_text(tensor)} with strides "
            f"{list(tensor.stride())}; pass {name}.contiguous()"
        )


def _number(variant: str, name: str, kind: str, value: Any) -> float | int:
    # A tensor would have to be read, which waits for the device that holds it.
    if isinstance(value, (bool, torch.Tensor)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} of variant {variant} must be a number ({kind}), got {type(value).__name__}")
    if kind not in _INTEGER_RANGES:
        return float(value)
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} of variant {variant} must be a whole number ({kind}), got {value!r}")
    number = int(value)
    first, last = _INTEGER_RANGES[kind]
    if not first <= number <= last:
        raise ValueError(f"{name}={number} of variant {variant} does not fit a {kind}: expected {first} to {last}")
    return number
