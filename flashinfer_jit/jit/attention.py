"""FlashInfer's builders of modules for custom attention variants, and the ``jit_args`` of its wrappers.

A module here is a description: what a variant is compiled with depends on head counts, masks and page sizes too, so
kernels are compiled when a call or a plan needs them, and found in the cache afterwards. The ``uri`` names nothing:
kernels are told apart by their text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.variants import AttentionVariant, from_flashinfer

__all__ = [
    "gen_customize_batch_decode_module",
    "gen_customize_batch_prefill_module",
    "gen_customize_single_decode_module",
    "gen_customize_single_prefill_module",
]

# As FlashInfer numbers them. ALiBi is not among them: a custom variant adds its slopes itself.
_POSITION_ENCODINGS = {0: "NONE", 1: "ROPE_LLAMA"}
_BACKENDS = ("fa2", "auto")
# Options of the builders that choose among FlashInfer's own texts: in a custom one, the text itself decides.
_WITHOUT_MEANING = ("use_sliding_window", "use_logits_soft_cap")
_REFUSED = ("use_fp16_qk_reduction", "fp8_enabled")


@dataclass(frozen=True)
class CustomModule:
    """What ``build_and_load()`` returns: a variant, and what it was declared for.

    Attributes
    ----------
    kind : str
        ``single_prefill``, ``single_decode``, ``batch_prefill`` or ``batch_decode``.
    variant : AttentionVariant
        The variant.
    dtype_q, dtype_kv, dtype_o : str
        Torch dtype names.
    head_dim_qk, head_dim_vo : int
        Elements of a head.
    pos_encoding_mode : str
        ``NONE`` or ``ROPE_LLAMA``.
    """

    kind: str
    variant: AttentionVariant
    dtype_q: str
    dtype_kv: str
    dtype_o: str
    head_dim_qk: int
    head_dim_vo: int
    pos_encoding_mode: str

    def build_and_load(self) -> "CustomModule":
        """Return the module itself: kernels are compiled when they are needed."""
        return self

    def check(self, **values: Any) -> None:
        """Raise ValueError for the first of the named values that is not what the module was declared for."""
        for name, value in values.items():
            declared = getattr(self, name)
            if str(value).removeprefix("torch.") != str(declared):
                raise ValueError(
                    f"{name} is {str(value).removeprefix('torch.')}, and the module of variant {self.variant.name} was "
                    f"declared for {name}={declared}"
                )


def _module(
    kind: str, dtypes: Sequence[Any], head_dims: tuple[Any, Any], texts: Sequence[Any], options: Mapping[str, Any]
) -> CustomModule:
    """Check and pack; ``texts`` are names and types of tensors and scalars, the variant's name and its text."""
    rest = dict(options)
    mode = rest.pop("pos_encoding_mode", 0)
    mode = getattr(mode, "value", mode)
    if mode not in _POSITION_ENCODINGS:
        raise UnsupportedConfigError(
            f"pos_encoding_mode={mode!r} is not supported in a custom variant: expected 0 (NONE) or 1 (ROPE_LLAMA)"
        )
    for name in _WITHOUT_MEANING:
        rest.pop(name, None)
    for name in _REFUSED:
        if rest.pop(name, False):
            raise UnsupportedConfigError(f"{name}=True is not supported: expected False")
    if rest:
        raise UnsupportedConfigError(f"{next(iter(rest))} is not an option of a custom variant that is known here")
    tensor_names, tensor_types, scalar_names, scalar_types, variant_name, variant_decl = texts
    variant = from_flashinfer(variant_name, variant_decl, tensor_names, tensor_types, scalar_names, scalar_types)
    dtype_q, dtype_kv, dtype_o = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return CustomModule(kind, variant, dtype_q, dtype_kv, dtype_o, *head_dims, _POSITION_ENCODINGS[mode])


def _check_backend(backend: Any) -> None:
    if backend not in _BACKENDS:
        raise ValueError(f"backend={backend!r} is not supported for custom variants: expected 'fa2'")


def _check_index_type(idtype: Any) -> None:
    if str(idtype) != "torch.int32":
        raise UnsupportedConfigError(f"idtype={idtype} is not supported: expected torch.int32")


def module_from_jit_args(kind: str, jit_args: Any, jit_kwargs: Mapping[str, Any] | None = None) -> CustomModule:
    """Return what a wrapper's ``jit_args`` and ``jit_kwargs`` describe.

    Parameters
    ----------
    kind : str
        ``batch_prefill`` or ``batch_decode``.
    jit_args : sequence
        ``uri, dtype_q, dtype_kv, dtype_o, idtype, head_dim_qk, head_dim_vo, additional_tensor_names,
        additional_tensor_dtypes, additional_scalar_names, additional_scalar_dtypes, variant_name, variant_decl``.
    jit_kwargs : mapping, optional
        ``pos_encoding_mode`` and others of ``gen_customize_batch_prefill_module``.

    Raises
    ------
    ValueError
        For another number of them.
    UnsupportedConfigError
        For values that no kernel is built for.
    """
    if isinstance(jit_args, (str, bytes)) or not isinstance(jit_args, Sequence) or len(jit_args) != 13:
        got = len(jit_args) if isinstance(jit_args, Sequence) else type(jit_args).__name__
        raise ValueError(
            "jit_args must be the 13 values uri, dtype_q, dtype_kv, dtype_o, idtype, head_dim_qk, head_dim_vo, "
            "additional_tensor_names, additional_tensor_dtypes, additional_scalar_names, additional_scalar_dtypes, "
            f"variant_name, variant_decl; got {got}"
        )
    _check_index_type(jit_args[4])
    return _module(kind, jit_args[1:4], (jit_args[5], jit_args[6]), jit_args[7:], jit_kwargs or {})


def gen_customize_single_prefill_module(
    backend: str,
    uri: str,
    dtype_q: Any,
    dtype_kv: Any,
    dtype_o: Any,
    head_dim_qk: int,
    head_dim_vo: int,
    additional_tensor_names: Sequence[str],
    additional_tensor_dtypes: Sequence[str],
    additional_scalar_names: Sequence[str],
    additional_scalar_dtypes: Sequence[str],
    variant_name: str,
    variant_decl: str,
    **options: Any,
) -> CustomModule:
    """Return the module that ``single_prefill_with_kv_cache_with_jit_module`` takes; parameters as in FlashInfer.

    Parameters
    ----------
    backend : str
        ``fa2``.
    uri : str
        Accepted: kernels are told apart by their text.
    dtype_q, dtype_kv, dtype_o, head_dim_qk, head_dim_vo
        What calls will have; other tensors are refused.
    additional_tensor_names, additional_tensor_dtypes, additional_scalar_names, additional_scalar_dtypes, \
    variant_name, variant_decl
        As for ``flashinfer_jit.variants.from_flashinfer``.
    **options
        ``pos_encoding_mode``: 0 or 1. ``use_sliding_window`` and ``use_logits_soft_cap`` have no meaning in a custom
        text; ``use_fp16_qk_reduction`` and ``fp8_enabled`` only False.

    Raises
    ------
    UnsupportedConfigError
        For options, types and texts that these kernels do not have.
    ValueError
        For another backend.
    """
    _check_backend(backend)
    texts = (additional_tensor_names, additional_tensor_dtypes, additional_scalar_names, additional_scalar_dtypes)
    dtypes, dims = (dtype_q, dtype_kv, dtype_o), (head_dim_qk, head_dim_vo)
    return _module("single_prefill", dtypes, dims, (*texts, variant_name, variant_decl), options)


def gen_customize_single_decode_module(
    uri: str,
    dtype_q: Any,
    dtype_kv: Any,
    dtype_o: Any,
    head_dim_qk: int,
    head_dim_vo: int,
    additional_tensor_names: Sequence[str],
    additional_tensor_dtypes: Sequence[str],
    additional_scalar_names: Sequence[str],
    additional_scalar_dtypes: Sequence[str],
    variant_name: str,
    variant_decl: str,
    **options: Any,
) -> CustomModule:
    """Return the module that ``single_decode_with_kv_cache_with_jit_module`` takes.

    Parameters and errors are those of ``gen_customize_single_prefill_module``.
    """
    texts = (additional_tensor_names, additional_tensor_dtypes, additional_scalar_names, additional_scalar_dtypes)
    dtypes, dims = (dtype_q, dtype_kv, dtype_o), (head_dim_qk, head_dim_vo)
    return _module("single_decode", dtypes, dims, (*texts, variant_name, variant_decl), options)


def gen_customize_batch_prefill_module(backend: str, *jit_args: Any, **options: Any) -> CustomModule:
    """Return the module of batched prefill: ``jit_args`` are those of the wrappers, which make it themselves.

    Errors are those of ``gen_customize_single_prefill_module``.
    """
    _check_backend(backend)
    return module_from_jit_args("batch_prefill", jit_args, options)


def gen_customize_batch_decode_module(*jit_args: Any, **options: Any) -> CustomModule:
    """Return the module of batch decode: ``jit_args`` are those of the wrapper, which makes it itself.

    Errors are those of ``gen_customize_single_prefill_module``.
    """
    return module_from_jit_args("batch_decode", jit_args, options)
