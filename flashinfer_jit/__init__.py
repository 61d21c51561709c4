"""JIT-compiled attention kernels for AMD Instinct GPUs, with FlashInfer's API.

Importing this package does nothing but name what it has: modules are imported, and the environment, files and devices
are looked at, when something is used for the first time.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flashinfer_jit import attention as attention
    from flashinfer_jit import cascade as cascade
    from flashinfer_jit import decode as decode
    from flashinfer_jit import emulator as emulator
    from flashinfer_jit import errors as errors
    from flashinfer_jit import jit as jit
    from flashinfer_jit import page as page
    from flashinfer_jit import pod as pod
    from flashinfer_jit import prefill as prefill
    from flashinfer_jit import quantization as quantization
    from flashinfer_jit import rope as rope
    from flashinfer_jit import runtime as runtime
    from flashinfer_jit import sparse as sparse
    from flashinfer_jit import utils as utils
    from flashinfer_jit import variants as variants
    from flashinfer_jit.attention import BatchAttention as BatchAttention
    from flashinfer_jit.attention import (
        BatchAttentionWithAttentionSinkWrapper as BatchAttentionWithAttentionSinkWrapper,
    )
    from flashinfer_jit.batch_prefill import (
        BatchPrefillWithPagedKVCacheWrapper as BatchPrefillWithPagedKVCacheWrapper,
    )
    from flashinfer_jit.batch_prefill import (
        BatchPrefillWithRaggedKVCacheWrapper as BatchPrefillWithRaggedKVCacheWrapper,
    )
    from flashinfer_jit.cascade import (
        BatchDecodeWithSharedPrefixPagedKVCacheWrapper as BatchDecodeWithSharedPrefixPagedKVCacheWrapper,
    )
    from flashinfer_jit.cascade import (
        BatchPrefillWithSharedPrefixPagedKVCacheWrapper as BatchPrefillWithSharedPrefixPagedKVCacheWrapper,
    )
    from flashinfer_jit.cascade import MultiLevelCascadeAttentionWrapper as MultiLevelCascadeAttentionWrapper
    from flashinfer_jit.cascade import merge_state as merge_state
    from flashinfer_jit.cascade import merge_state_in_place as merge_state_in_place
    from flashinfer_jit.cascade import merge_states as merge_states
    from flashinfer_jit.compat import install_as_flashinfer as install_as_flashinfer
    from flashinfer_jit.decode import BatchDecodeWithPagedKVCacheWrapper as BatchDecodeWithPagedKVCacheWrapper
    from flashinfer_jit.decode import (
        CUDAGraphBatchDecodeWithPagedKVCacheWrapper as CUDAGraphBatchDecodeWithPagedKVCacheWrapper,
    )
    from flashinfer_jit.decode import fast_decode_plan as fast_decode_plan
    from flashinfer_jit.decode import single_decode_with_kv_cache as single_decode_with_kv_cache
    from flashinfer_jit.jit.kernels import freeze as freeze
    from flashinfer_jit.jit.kernels import on_compile as on_compile
    from flashinfer_jit.page import append_paged_kv_cache as append_paged_kv_cache
    from flashinfer_jit.page import append_paged_mla_kv_cache as append_paged_mla_kv_cache
    from flashinfer_jit.page import get_batch_indices_positions as get_batch_indices_positions
    from flashinfer_jit.page import get_seq_lens as get_seq_lens
    from flashinfer_jit.pod import BatchPODWithPagedKVCacheWrapper as BatchPODWithPagedKVCacheWrapper
    from flashinfer_jit.pod import PODWithPagedKVCacheWrapper as PODWithPagedKVCacheWrapper
    from flashinfer_jit.prefill import single_prefill_with_kv_cache as single_prefill_with_kv_cache
    from flashinfer_jit.prefill import (
        single_prefill_with_kv_cache_return_lse as single_prefill_with_kv_cache_return_lse,
    )
    from flashinfer_jit.quantization import packbits as packbits
    from flashinfer_jit.quantization import segment_packbits as segment_packbits
    from flashinfer_jit.rope import apply_llama31_rope as apply_llama31_rope
    from flashinfer_jit.rope import apply_llama31_rope_inplace as apply_llama31_rope_inplace
    from flashinfer_jit.rope import apply_llama31_rope_pos_ids as apply_llama31_rope_pos_ids
    from flashinfer_jit.rope import apply_llama31_rope_pos_ids_inplace as apply_llama31_rope_pos_ids_inplace
    from flashinfer_jit.rope import apply_rope as apply_rope
    from flashinfer_jit.rope import apply_rope_inplace as apply_rope_inplace
    from flashinfer_jit.rope import apply_rope_pos_ids as apply_rope_pos_ids
    from flashinfer_jit.rope import apply_rope_pos_ids_inplace as apply_rope_pos_ids_inplace
    from flashinfer_jit.rope import apply_rope_with_cos_sin_cache as apply_rope_with_cos_sin_cache
    from flashinfer_jit.rope import apply_rope_with_cos_sin_cache_inplace as apply_rope_with_cos_sin_cache_inplace
    from flashinfer_jit.runtime import device as device
    from flashinfer_jit.runtime import use_stream as use_stream
    from flashinfer_jit.sparse import BlockSparseAttentionWrapper as BlockSparseAttentionWrapper
    from flashinfer_jit.sparse import VariableBlockSparseAttentionWrapper as VariableBlockSparseAttentionWrapper
    from flashinfer_jit.sparse import convert_bsr_mask_layout as convert_bsr_mask_layout

# Public name -> module that defines it; a module's own name stands for the module itself.
_EXPORTS = {
    "apply_llama31_rope": "rope",
    "apply_llama31_rope_inplace": "rope",
    "apply_llama31_rope_pos_ids": "rope",
    "apply_llama31_rope_pos_ids_inplace": "rope",
    "apply_rope": "rope",
    "apply_rope_inplace": "rope",
    "apply_rope_pos_ids": "rope",
    "apply_rope_pos_ids_inplace": "rope",
    "apply_rope_with_cos_sin_cache": "rope",
    "apply_rope_with_cos_sin_cache_inplace": "rope",
    "rope": "rope",
    "BatchAttention": "attention",
    "BatchAttentionWithAttentionSinkWrapper": "attention",
    "BlockSparseAttentionWrapper": "sparse",
    "VariableBlockSparseAttentionWrapper": "sparse",
    "attention": "attention",
    "convert_bsr_mask_layout": "sparse",
    "sparse": "sparse",
    "BatchDecodeWithSharedPrefixPagedKVCacheWrapper": "cascade",
    "BatchPrefillWithSharedPrefixPagedKVCacheWrapper": "cascade",
    "MultiLevelCascadeAttentionWrapper": "cascade",
    "BatchDecodeWithPagedKVCacheWrapper": "decode",
    "CUDAGraphBatchDecodeWithPagedKVCacheWrapper": "decode",
    "BatchPrefillWithPagedKVCacheWrapper": "batch_prefill",
    "BatchPrefillWithRaggedKVCacheWrapper": "batch_prefill",
    "append_paged_kv_cache": "page",
    "append_paged_mla_kv_cache": "page",
    "cascade": "cascade",
    "decode": "decode",
    "device": "runtime",
    "emulator": "emulator",
    "errors": "errors",
    "fast_decode_plan": "decode",
    "freeze": "jit.kernels",
    "install_as_flashinfer": "compat",
    "jit": "jit",
    "get_batch_indices_positions": "page",
    "get_seq_lens": "page",
    "merge_state": "cascade",
    "merge_state_in_place": "cascade",
    "merge_states": "cascade",
    "on_compile": "jit.kernels",
    "packbits": "quantization",
    "BatchPODWithPagedKVCacheWrapper": "pod",
    "PODWithPagedKVCacheWrapper": "pod",
    "page": "page",
    "pod": "pod",
    "prefill": "prefill",
    "quantization": "quantization",
    "runtime": "runtime",
    "segment_packbits": "quantization",
    "single_decode_with_kv_cache": "decode",
    "single_prefill_with_kv_cache": "prefill",
    "single_prefill_with_kv_cache_return_lse": "prefill",
    "use_stream": "runtime",
    "utils": "utils",
    "variants": "variants",
}

__all__ = [*sorted(_EXPORTS), "__version__"]


def __getattr__(name: str) -> Any:
    module_name = _EXPORTS.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{module_name}")
    value = module if name == module_name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
