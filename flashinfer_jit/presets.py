"""The attention of current open models, and from it the kernels that serve them.

Numbers are those of a publisher's ``config.json``: ``num_attention_heads``, ``num_key_value_heads``, ``head_dim``,
``sliding_window``, ``attn_logit_softcapping``. They were compared with the public text that ``checked`` names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from flashinfer_jit.errors import UnsupportedConfigError
from flashinfer_jit.jit.config import (
    AppendPagedKvConfig,
    AttentionConfig,
    KernelConfig,
    MergeStatesConfig,
)
from flashinfer_jit.jit.families.apply_rope import ApplyRopeConfig
from flashinfer_jit.jit.families.batch_indices import BatchIndicesConfig


@dataclass(frozen=True)
class Model:
    """What attention kernels depend on in one model.

    Attributes
    ----------
    source : str
        The publisher's repository.
    checked : str
        Public text that gives the same numbers for this model.
    num_qo_heads, num_kv_heads : int
        Heads of a layer. Tensor parallelism divides both, so that their ratio stays, up to as many GPUs as KV heads.
    head_dim_qk, head_dim_vo : int
        Elements of a head.
    window : int or None
        Tokens of the sliding window; None if no layer has one.
    has_full_layers : bool
        Whether some layers see all keys: with a window, several models have layers of both kinds.
    has_soft_cap, has_sinks : bool
        Whether logits are capped, whether heads have sinks.
    is_latent : bool
        Whether decode works on a compressed KV cache (MLA), so that only prefill uses the kernels of here.
    note : str
        What else to know.
    """

    source: str
    checked: str
    num_qo_heads: int
    num_kv_heads: int
    head_dim_qk: int = 128
    head_dim_vo: int = 128
    window: int | None = None
    has_full_layers: bool = True
    has_soft_cap: bool = False
    has_sinks: bool = False
    is_latent: bool = False
    note: str = ""

    @property
    def windows(self) -> tuple[bool, ...]:
        """Whether layers have the sliding window, one value for each kind of layer."""
        return (False,) if self.window is None else (True, False) if self.has_full_layers else (True,)

    def features(self) -> list[str]:
        """Return what distinguishes its attention beside heads and dimensions, in words."""
        window = (
            [] if self.window is None else [f"window {self.window}" + (" and full" if self.has_full_layers else "")]
        )
        flags = (("soft cap", self.has_soft_cap), ("sinks", self.has_sinks), ("latent KV", self.is_latent))
        return [*window, *(word for word, on in flags if on)]


_LITGPT = "Lightning-AI/litgpt litgpt/config.py"
_NEMO = "NVIDIA/NeMo nemo/collections/llm/gpt/model/"
_LLAMA_4 = (
    "local layers attend in chunks of 8192 tokens: plan chunks as requests of their own, the kernels are the same"
)

MODELS: Mapping[str, Model] = {
    "llama-3-8b": Model("meta-llama/Meta-Llama-3-8B", _NEMO + "llama.py", 32, 8),
    "llama-3-70b": Model("meta-llama/Meta-Llama-3-70B", _LITGPT, 64, 8),
    "llama-3.1-8b": Model("meta-llama/Llama-3.1-8B", _LITGPT, 32, 8),
    "llama-3.1-405b": Model("meta-llama/Llama-3.1-405B", _LITGPT, 128, 8),
    "llama-3.2-1b": Model("meta-llama/Llama-3.2-1B", _LITGPT, 32, 8, 64, 64),
    "llama-3.2-3b": Model("meta-llama/Llama-3.2-3B", _LITGPT, 24, 8),
    "llama-3.3-70b": Model("meta-llama/Llama-3.3-70B-Instruct", _LITGPT, 64, 8),
    "llama-4-scout": Model("meta-llama/Llama-4-Scout-17B-16E", _NEMO + "llama.py", 40, 8, note=_LLAMA_4),
    "llama-4-maverick": Model("meta-llama/Llama-4-Maverick-17B-128E", _NEMO + "llama.py", 40, 8, note=_LLAMA_4),
    "qwen2.5-0.5b": Model("Qwen/Qwen2.5-0.5B", _LITGPT, 14, 2, 64, 64),
    "qwen2.5-1.5b": Model("Qwen/Qwen2.5-1.5B", _LITGPT, 12, 2),
    "qwen2.5-7b": Model("Qwen/Qwen2.5-7B", _LITGPT, 28, 4),
    "qwen2.5-14b": Model("Qwen/Qwen2.5-14B", _LITGPT, 40, 8),
    "qwen2.5-32b": Model("Qwen/Qwen2.5-32B", _LITGPT, 40, 8),
    "qwen2.5-72b": Model("Qwen/Qwen2.5-72B", _LITGPT, 64, 8),
    "qwen3-0.6b": Model("Qwen/Qwen3-0.6B", _LITGPT, 16, 8),
    "qwen3-8b": Model("Qwen/Qwen3-8B", _LITGPT, 32, 8),
    "qwen3-14b": Model("Qwen/Qwen3-14B", _LITGPT, 40, 8),
    "qwen3-32b": Model("Qwen/Qwen3-32B", _LITGPT, 64, 8),
    "qwen3-30b-a3b": Model("Qwen/Qwen3-30B-A3B", _LITGPT, 32, 4),
    "qwen3-235b-a22b": Model("Qwen/Qwen3-235B-A22B", _LITGPT, 64, 4),
    "mistral-7b": Model("mistralai/Mistral-7B-v0.3", _LITGPT, 32, 8),
    "mistral-nemo": Model("mistralai/Mistral-Nemo-Base-2407", _NEMO + "mistral.py", 32, 8),
    "mistral-small": Model(
        "mistralai/Mistral-Small-24B-Base-2501",
        _LITGPT + " (heads), huggingface/transformers configuration_mistral3.py (head_dim, of version 3.1)",
        32,
        8,
    ),
    "mistral-large": Model("mistralai/Mistral-Large-Instruct-2407", _LITGPT, 96, 8),
    "mixtral-8x7b": Model("mistralai/Mixtral-8x7B-v0.1", _LITGPT, 32, 8),
    "mixtral-8x22b": Model("mistralai/Mixtral-8x22B-v0.1", _LITGPT, 48, 8),
    "deepseek-v2-lite": Model("deepseek-ai/DeepSeek-V2-Lite", _NEMO + "deepseek.py", 16, 16, 192, 128, is_latent=True),
    "deepseek-v2": Model("deepseek-ai/DeepSeek-V2", _NEMO + "deepseek.py", 128, 128, 192, 128, is_latent=True),
    "deepseek-v3": Model("deepseek-ai/DeepSeek-V3", _NEMO + "deepseek.py", 128, 128, 192, 128, is_latent=True),
    "gemma-2-2b": Model("google/gemma-2-2b", _LITGPT, 8, 4, 256, 256, 4096, has_soft_cap=True),
    "gemma-2-9b": Model("google/gemma-2-9b", "google/gemma_pytorch gemma/config.py", 16, 8, 256, 256, 4096, True, True),
    "gemma-2-27b": Model(
        "google/gemma-2-27b", "google/gemma_pytorch gemma/config.py", 32, 16, 128, 128, 4096, has_soft_cap=True
    ),
    "gemma-3-1b": Model("google/gemma-3-1b-pt", _NEMO + "gemma3.py", 4, 1, 256, 256, 512),
    "gemma-3-4b": Model("google/gemma-3-4b-pt", _NEMO + "gemma3.py", 8, 4, 256, 256, 1024),
    "gemma-3-12b": Model("google/gemma-3-12b-pt", _NEMO + "gemma3.py", 16, 8, 256, 256, 1024),
    "gemma-3-27b": Model("google/gemma-3-27b-pt", _NEMO + "gemma3.py", 32, 16, 128, 128, 1024),
    "gpt-oss-20b": Model("openai/gpt-oss-20b", _NEMO + "gpt_oss.py", 64, 8, 64, 64, 128, has_sinks=True),
    "gpt-oss-120b": Model("openai/gpt-oss-120b", _NEMO + "gpt_oss.py", 64, 8, 64, 64, 128, has_sinks=True),
    "phi-3-mini": Model(
        "microsoft/Phi-3-mini-4k-instruct",
        _LITGPT + " (which rounds the window to 2048)",
        32,
        32,
        96,
        96,
        2047,
        has_full_layers=False,
    ),
    "phi-3-medium": Model(
        "microsoft/Phi-3-medium-4k-instruct",
        "abhibambhaniya/GenZ-LLM-Analyzer (table of models)",
        40,
        10,
        128,
        128,
        2047,
        has_full_layers=False,
    ),
    "phi-4": Model("microsoft/phi-4", _LITGPT, 40, 10),
    "phi-4-mini": Model("microsoft/Phi-4-mini-instruct", _LITGPT, 24, 8),
    "smollm2-135m": Model("HuggingFaceTB/SmolLM2-135M-Instruct", _LITGPT, 9, 3, 64, 64),
}

# Built when nothing is named: the ratios 4, 5, 7 and 8 of most models with heads of 128, and 4 with heads of 64.
DEFAULT_PRESETS = ("llama-3-8b", "llama-3-70b", "llama-3.2-1b", "qwen2.5-7b", "qwen3-14b", "qwen3-32b")

# Where servers keep K and V: pages of one token, or of a power of two; other page sizes are compiled when first used.
PAGED = ("page_size_1", "page_size_multiple")
# What a latent cache holds of a token: kv_lora_rank and qk_rope_head_dim of DeepSeek V2 and V3 (NeMo, deepseek.py).
LATENT_DIMS = (512, 64)


def preset_configs(name: str, dtype: str, kv_dtype: str = "auto") -> tuple[list[KernelConfig], list[str]]:
    """Return what a model's attention needs, and what of it no kernel is built for yet.

    Parameters
    ----------
    name : str
        A key of ``MODELS``.
    dtype : str
        Of Q and O, and of K and V where they are not in a cache.
    kv_dtype : str
        Of the paged cache: an fp8 dtype, or ``auto`` for ``dtype``.

    Returns
    -------
    configs : list of KernelConfig
        Attention of each phase, the merging of its partial results, and what fills a paged cache.
    missing : list of str
        One line for each configuration left out, with the reason.
    """
    model = MODELS[name]
    cache_dtype = dtype if kv_dtype == "auto" else kv_dtype
    configs: dict[KernelConfig, None] = {}
    missing: dict[str, None] = {}
    for phase, mask_mode, kv_source, has_window, has_sinks in _axes(model):
        try:
            config = AttentionConfig(
                phase,
                dtype,
                cache_dtype if kv_source in PAGED else dtype,
                dtype,
                model.head_dim_qk,
                model.head_dim_vo,
                model.num_qo_heads // model.num_kv_heads,
                mask_mode,
                kv_source,
                has_window=has_window,
                has_soft_cap=model.has_soft_cap,
                has_sinks=has_sinks,
            )
        except UnsupportedConfigError as error:
            missing[f"{name}: {phase} {kv_source}: {error}"] = None
        else:
            configs[config] = None
    for has_sinks in _sinks(model):
        configs[MergeStatesConfig("float32", dtype, model.head_dim_vo, has_sinks)] = None
    # States of one call each, as cascade attention merges them.
    configs[MergeStatesConfig(dtype, dtype, model.head_dim_vo)] = None
    if model.is_latent:
        missing[f"{name}: decode works on a latent KV cache, which these kernels do not read"] = None
    cached_dims = LATENT_DIMS if model.is_latent else (model.head_dim_qk, model.head_dim_vo)
    configs[AppendPagedKvConfig(dtype, cache_dtype, *cached_dims)] = None
    configs[BatchIndicesConfig()] = None
    # Engines rotate before they cache: by angles or by a table of them.
    for has_cache in (False, True):
        configs[ApplyRopeConfig(dtype, has_cache=has_cache)] = None
    return list(configs), list(missing)


def _sinks(model: Model) -> tuple[bool, ...]:
    # plan() cannot know whether run() will have sinks: it asks for the kernel without, and run() for the other.
    return (False, True) if model.has_sinks else (False,)


def _axes(model: Model) -> Iterator[tuple[str, str, str, bool, bool]]:
    """Return phase, mask, place of K and V, window and sinks of each kernel that serving the model uses."""
    # Of a latent cache, prefill sees what was projected from it: in one piece, never in pages.
    sources = ("contiguous", "ragged") if model.is_latent else ("contiguous", "ragged", *PAGED)
    for kv_source, has_window, has_sinks in product(sources, model.windows, _sinks(model)):
        # Single requests have no argument for sinks.
        if has_sinks and kv_source == "contiguous":
            continue
        yield "prefill", "causal", kv_source, has_window, has_sinks
        # Keys before all queries are seen whole: a shared prefix in the cache, a chunk of a latent prompt. Windows and
        # sinks belong to the last level, with the mask.
        if not has_window and not has_sinks and (kv_source != "ragged" or model.is_latent):
            yield "prefill", "none", kv_source, False, False
        # Decode reads a cache; ragged keys are those of new tokens.
        if kv_source != "ragged" and not model.is_latent:
            yield "decode", "causal", kv_source, has_window, has_sinks


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the presets named, ``all`` standing for every one; raises UnsupportedConfigError for others."""
    for name in names:
        if name not in MODELS and name != "all":
            raise UnsupportedConfigError(f"preset {name!r} is unknown: expected all, or any of {', '.join(MODELS)}")
    return tuple(MODELS) if "all" in names else tuple(dict.fromkeys(names))
