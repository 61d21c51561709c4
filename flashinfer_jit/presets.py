"""The attention of current open models, and from it the kernels that serve them.

Numbers are those of the ``config.json`` that each model's publisher distributes under the name in ``source``:
``num_attention_heads``, ``num_key_value_heads``, ``head_dim``, ``sliding_window``, ``attn_logit_softcapping``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.config import (
    ALLOWED,
    AppendPagedKvConfig,
    AttentionConfig,
    BatchIndicesConfig,
    KernelConfig,
    MergeStatesConfig,
)


@dataclass(frozen=True)
class Model:
    """What attention kernels depend on in one model.

    Attributes
    ----------
    source : str
        The publisher's repository whose ``config.json`` says so.
    num_qo_heads, num_kv_heads : int
        Heads of a layer; tensor parallelism divides both, so that their ratio stays.
    head_dim_qk, head_dim_vo : int
        Elements of a head.
    windows : tuple of bool
        Whether its layers have a sliding window: some do and some do not in several models.
    has_soft_cap, has_sinks : bool
        Whether logits are capped, whether heads have sinks.
    is_latent : bool
        Whether decode works on a compressed KV cache (MLA), so that only prefill uses the kernels of here.
    """

    source: str
    num_qo_heads: int
    num_kv_heads: int
    head_dim_qk: int = 128
    head_dim_vo: int = 128
    windows: tuple[bool, ...] = (False,)
    has_soft_cap: bool = False
    has_sinks: bool = False
    is_latent: bool = False


_BOTH = (True, False)

MODELS: Mapping[str, Model] = {
    "llama-3-8b": Model("meta-llama/Meta-Llama-3-8B", 32, 8),
    "llama-3-70b": Model("meta-llama/Meta-Llama-3-70B", 64, 8),
    "llama-3.1-8b": Model("meta-llama/Llama-3.1-8B", 32, 8),
    "llama-3.1-405b": Model("meta-llama/Llama-3.1-405B", 128, 8),
    "llama-3.2-1b": Model("meta-llama/Llama-3.2-1B", 32, 8, 64, 64),
    "llama-3.2-3b": Model("meta-llama/Llama-3.2-3B", 24, 8),
    "llama-3.3-70b": Model("meta-llama/Llama-3.3-70B-Instruct", 64, 8),
    "llama-4-scout": Model("meta-llama/Llama-4-Scout-17B-16E", 40, 8),
    "llama-4-maverick": Model("meta-llama/Llama-4-Maverick-17B-128E", 40, 8),
    "qwen2.5-0.5b": Model("Qwen/Qwen2.5-0.5B", 14, 2, 64, 64),
    "qwen2.5-1.5b": Model("Qwen/Qwen2.5-1.5B", 12, 2),
    "qwen2.5-7b": Model("Qwen/Qwen2.5-7B", 28, 4),
    "qwen2.5-14b": Model("Qwen/Qwen2.5-14B", 40, 8),
    "qwen2.5-32b": Model("Qwen/Qwen2.5-32B", 40, 8),
    "qwen2.5-72b": Model("Qwen/Qwen2.5-72B", 64, 8),
    "qwen3-0.6b": Model("Qwen/Qwen3-0.6B", 16, 8),
    "qwen3-8b": Model("Qwen/Qwen3-8B", 32, 8),
    "qwen3-14b": Model("Qwen/Qwen3-14B", 40, 8),
    "qwen3-32b": Model("Qwen/Qwen3-32B", 64, 8),
    "qwen3-30b-a3b": Model("Qwen/Qwen3-30B-A3B", 32, 4),
    "qwen3-235b-a22b": Model("Qwen/Qwen3-235B-A22B", 64, 4),
    "mistral-7b": Model("mistralai/Mistral-7B-v0.3", 32, 8),
    "mistral-nemo": Model("mistralai/Mistral-Nemo-Base-2407", 32, 8),
    "mistral-small": Model("mistralai/Mistral-Small-24B-Base-2501", 32, 8),
    "mistral-large": Model("mistralai/Mistral-Large-Instruct-2407", 96, 8),
    "mixtral-8x7b": Model("mistralai/Mixtral-8x7B-v0.1", 32, 8),
    "mixtral-8x22b": Model("mistralai/Mixtral-8x22B-v0.1", 48, 8),
    "deepseek-v2-lite": Model("deepseek-ai/DeepSeek-V2-Lite", 16, 16, 192, 128, is_latent=True),
    "deepseek-v2": Model("deepseek-ai/DeepSeek-V2", 128, 128, 192, 128, is_latent=True),
    "deepseek-v3": Model("deepseek-ai/DeepSeek-V3", 128, 128, 192, 128, is_latent=True),
    "gemma-2-2b": Model("google/gemma-2-2b", 8, 4, 256, 256, _BOTH, has_soft_cap=True),
    "gemma-2-9b": Model("google/gemma-2-9b", 16, 8, 256, 256, _BOTH, has_soft_cap=True),
    "gemma-2-27b": Model("google/gemma-2-27b", 32, 16, 128, 128, _BOTH, has_soft_cap=True),
    "gemma-3-1b": Model("google/gemma-3-1b-pt", 4, 1, 256, 256, _BOTH),
    "gemma-3-4b": Model("google/gemma-3-4b-pt", 8, 4, 256, 256, _BOTH),
    "gemma-3-12b": Model("google/gemma-3-12b-pt", 16, 8, 256, 256, _BOTH),
    "gemma-3-27b": Model("google/gemma-3-27b-pt", 32, 16, 128, 128, _BOTH),
    "gpt-oss-20b": Model("openai/gpt-oss-20b", 64, 8, 64, 64, _BOTH, has_sinks=True),
    "gpt-oss-120b": Model("openai/gpt-oss-120b", 64, 8, 64, 64, _BOTH, has_sinks=True),
    "phi-3-mini": Model("microsoft/Phi-3-mini-4k-instruct", 32, 32, 96, 96, (True,)),
    "phi-3-medium": Model("microsoft/Phi-3-medium-4k-instruct", 40, 10, 128, 128, (True,)),
    "phi-4": Model("microsoft/phi-4", 40, 10),
    "phi-4-mini": Model("microsoft/Phi-4-mini-instruct", 24, 8),
    "smollm2-135m": Model("HuggingFaceTB/SmolLM2-135M-Instruct", 9, 3, 64, 64),
}

# Built when nothing is named: the ratios 4, 5, 7 and 8 of most models with heads of 128, and 4 with heads of 64.
DEFAULT_PRESETS = ("llama-3-8b", "llama-3-70b", "llama-3.2-1b", "qwen2.5-7b", "qwen3-14b", "qwen3-32b")

# Where servers keep K and V: pages of one token, or of a power of two; other page sizes are compiled when first used.
KV_SOURCES = tuple(source for source in ALLOWED["kv_source"] if source != "page_size_any")


def preset_configs(name: str, dtype: str) -> tuple[list[KernelConfig], list[str]]:
    """Return what a model's attention needs, and what of it no kernel is built for yet.

    Parameters
    ----------
    name : str
        A key of ``MODELS``.
    dtype : str
        Of Q, K, V and O.

    Returns
    -------
    configs : list of KernelConfig
        Attention of each phase, the merging of its partial results, and what fills a paged cache.
    missing : list of str
        One line for each configuration left out, with the reason.
    """
    model = MODELS[name]
    configs: dict[KernelConfig, None] = {}
    missing: dict[str, None] = {}
    for phase, mask_mode, kv_source, has_window in _axes(model):
        try:
            config = AttentionConfig(
                phase,
                dtype,
                dtype,
                dtype,
                model.head_dim_qk,
                model.head_dim_vo,
                model.num_qo_heads // model.num_kv_heads,
                mask_mode,
                kv_source,
                has_window=has_window,
                has_soft_cap=model.has_soft_cap,
                has_sinks=model.has_sinks,
            )
        except UnsupportedConfigError as error:
            missing[f"{name}: {phase} {kv_source}: {error}"] = None
        else:
            configs[config] = None
    for has_sinks in dict.fromkeys((False, model.has_sinks)):
        configs[MergeStatesConfig("float32", dtype, model.head_dim_vo, has_sinks)] = None
    # States of one call each, as cascade attention merges them.
    configs[MergeStatesConfig(dtype, dtype, model.head_dim_vo)] = None
    # What fills a paged cache.
    configs[AppendPagedKvConfig(dtype, dtype, model.head_dim_qk, model.head_dim_vo)] = None
    configs[BatchIndicesConfig()] = None
    if model.is_latent:
        missing[f"{name}: decode works on a latent KV cache, which these kernels do not read"] = None
    return list(configs), list(missing)


def _axes(model: Model) -> Iterator[tuple[str, str, str, bool]]:
    masks = {"prefill": ("causal", "none"), "decode": ("causal",)}
    for phase in ("prefill",) if model.is_latent else ("prefill", "decode"):
        for mask_mode, kv_source, has_window in product(masks[phase], KV_SOURCES, model.windows):
            # Without a mask only whole sequences are attended to: keys in one piece, no window.
            if phase == "decode" and kv_source == "ragged":
                continue  # Decode reads a cache; keys of new tokens only are a prefill's.
            if phase == "decode" or mask_mode == "causal" or (kv_source == "contiguous" and not has_window):
                yield phase, mask_mode, kv_source, has_window


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the presets named, ``all`` standing for every one; raises UnsupportedConfigError for others."""
    for name in names:
        if name not in MODELS and name != "all":
            raise UnsupportedConfigError(f"preset {name!r} is unknown: expected all, or any of {', '.join(MODELS)}")
    return tuple(MODELS) if "all" in names else tuple(dict.fromkeys(names))
