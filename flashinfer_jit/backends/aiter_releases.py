"""Signatures of AITER's public functions, as named releases and commits define them: data, and where it is from.

``python -m flashinfer_jit.backends.aiter`` prints the signatures of the AITER that is installed, in this form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

DISTRIBUTIONS = ("amd-aiter", "aiter")
MIN_COMMIT_DIGITS = 7


@dataclass(frozen=True, slots=True)
class Release:
    """What is known of one AITER.

    Attributes
    ----------
    name : str
        The version without its local part for a release, the repository and the commit for a build from sources.
    source : str
        Where the signatures were read.
    functions : Mapping
        Parameters with their defaults, without annotations, by the function's name in the package ``aiter``. A function
        that is not here was not read, and is not called.
    commit : str
        The commit of a build from sources, whose version ends with ``+g`` and its first digits; empty for a release.
    """

    name: str
    source: str
    functions: Mapping[str, str] = field(repr=False)
    commit: str = ""

    def is_version(self, version: str) -> bool:
        """Whether ``version``, as the installed package's metadata has it, is this release's."""
        public, _, local = version.partition("+")
        if not self.commit:
            # Wheels of one release differ by a local part that names ROCm, never a commit.
            return public == self.name and _commit_digits(local) == ""
        digits = _commit_digits(local)
        return len(digits) >= MIN_COMMIT_DIGITS and self.commit.startswith(digits)


def _commit_digits(local: str) -> str:
    first = local.partition(".")[0]
    is_commit = first.startswith("g") and all(character in "0123456789abcdef" for character in first[1:])
    return first[1:] if is_commit else ""


_BATCH = "q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k"
_PAGES = "q, k, v, cu_seqlens_q, kv_indptr, kv_page_indices, max_seqlen_q, max_seqlen_k"
_RETURNS = "return_lse=False, return_attn_probs=False"
_APPEND = "key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype, k_scale, v_scale"
_DECODE = (
    "out, workspace_buffer, query, key_cache, value_cache, scale, block_tables, cu_query_lens, context_lens, "
    "max_context_len, alibi_slopes, kv_cache_dtype, kv_cache_layout, logits_soft_cap, k_scale, v_scale, "
    "fp8_out_scale=None, partition_size=256, mtp=1, sliding_window=0"
)

RELEASES = (
    Release(
        name="0.1.7.post2.dev18",
        source="wheel amd_aiter-0.1.7.post2.dev18 of PyPI, aiter/ops/mha.py, attention.py and cache.py",
        functions={
            "flash_attn_func": "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), "
            f"bias=None, alibi_slopes=None, deterministic=True, {_RETURNS}, how_v3_bf16_cvt=1, cu_seqlens_q=None, "
            "cu_seqlens_kv=None",
            "flash_attn_varlen_func": f"{_BATCH}, min_seqlen_q=0, dropout_p=0.0, softmax_scale=None, "
            "logits_soft_cap=0.0, causal=False, window_size=(-1, -1), bias=None, alibi_slopes=None, "
            f"deterministic=False, {_RETURNS}, how_v3_bf16_cvt=1, block_table=None, out=None, "
            "cu_seqlens_q_padded=None, cu_seqlens_k_padded=None",
            "mha_batch_prefill_func": f"{_PAGES}, dropout_p=0.0, softmax_scale=None, logits_soft_cap=0.0, "
            f"causal=False, window_size=(-1, -1), alibi_slopes=None, deterministic=False, {_RETURNS}, out=None",
            "paged_attention_v1": _DECODE,
            "reshape_and_cache_flash": _APPEND,
        },
    ),
    Release(
        name="ROCm/aiter 00472f7dfb39",
        source="ROCm/aiter at this commit, aiter/ops/mha.py",
        commit="00472f7dfb3973c54dc7313ac8d1e022929b0452",
        functions={
            "flash_attn_func": "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), "
            f"alibi_slopes=None, deterministic=True, {_RETURNS}",
            "flash_attn_varlen_func": f"{_BATCH}, dropout_p=0.0, softmax_scale=None, causal=False, "
            f"window_size=(-1, -1), alibi_slopes=None, deterministic=False, {_RETURNS}, block_table=None",
        },
    ),
    Release(
        name="ROCm/aiter e11da613978c",
        source="ROCm/aiter at this commit, aiter/ops/mha.py",
        commit="e11da613978cb73c8acf5c08ce722275a275a040",
        functions={
            "flash_attn_func": "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), "
            f"bias=None, alibi_slopes=None, deterministic=True, {_RETURNS}",
            "flash_attn_varlen_func": f"{_BATCH}, dropout_p=0.0, softmax_scale=None, causal=False, "
            f"window_size=(-1, -1), bias=None, alibi_slopes=None, deterministic=False, {_RETURNS}, block_table=None",
        },
    ),
    Release(
        name="ROCm/aiter 0056982d17eb",
        source="ROCm/aiter at this commit, aiter/ops/attention.py",
        commit="0056982d17ebe7d15cdab0c8eb7cea36f1b61018",
        functions={"paged_attention_v1": _DECODE},
    ),
    Release(
        name="ROCm/aiter 0590d9a96e6d",
        source="ROCm/aiter at this commit, aiter/ops/cache.py",
        commit="0590d9a96e6df8008022a604a310b8d8cba82ec6",
        functions={"reshape_and_cache_flash": _APPEND},
    ),
    Release(
        name="AndreasKaratzas/aiter 583b7b7b2d28",
        source="AndreasKaratzas/aiter, a fork of ROCm/aiter, at this commit, aiter/ops/mha.py",
        commit="583b7b7b2d286f9a5c508ba05f8ced9a2e6b3b8b",
        functions={
            "flash_attn_func": "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1, 0), "
            f"bias=None, alibi_slopes=None, deterministic=True, {_RETURNS}, how_v3_bf16_cvt=1, cu_seqlens_q=None, "
            "cu_seqlens_kv=None, sink_ptr=None, num_splits=0",
            "flash_attn_varlen_func": f"{_BATCH}, min_seqlen_q=0, dropout_p=0.0, softmax_scale=None, "
            "logits_soft_cap=0.0, causal=False, window_size=(-1, -1, 0), bias=None, alibi_slopes=None, "
            f"deterministic=False, {_RETURNS}, how_v3_bf16_cvt=1, block_table=None, out=None, "
            "cu_seqlens_q_padded=None, cu_seqlens_k_padded=None, sink_ptr=None",
            "mha_batch_prefill_func": f"{_PAGES}, dropout_p=0.0, softmax_scale=None, logits_soft_cap=0.0, "
            f"causal=False, window_size=(-1, -1), alibi_slopes=None, deterministic=False, {_RETURNS}, out=None, "
            "kv_last_page_lens=None, block_table=None, seqlen_k=None, q_descale=None, k_descale=None, v_descale=None, "
            "kv_block_descale=None, sink_ptr=None, sink_size=0",
        },
    ),
    Release(
        name="jhinpan/aiter-fork d1eeb417b05d",
        source="jhinpan/aiter-fork, a fork of ROCm/aiter, at this commit, aiter/ops/mha.py",
        commit="d1eeb417b05d34f7dbe34872732c2f58cf8b1439",
        functions={
            "flash_attn_varlen_func": f"{_BATCH}, min_seqlen_q=0, dropout_p=0.0, softmax_scale=None, "
            "logits_soft_cap=0.0, causal=False, window_size=(-1, -1, 0), bias=None, alibi_slopes=None, "
            f"deterministic=False, {_RETURNS}, how_v3_bf16_cvt=1, block_table=None, out=None, "
            "cu_seqlens_q_padded=None, cu_seqlens_k_padded=None, sink_ptr=None",
            "mha_batch_prefill_func": f"{_PAGES}, dropout_p=0.0, softmax_scale=None, logits_soft_cap=0.0, "
            f"causal=False, window_size=(-1, -1), alibi_slopes=None, deterministic=False, {_RETURNS}, out=None, "
            "kv_last_page_lens=None, block_table=None, seqlen_k=None, q_descale=None, k_descale=None, v_descale=None, "
            "kv_block_descale=None, sink_ptr=None",
        },
    ),
)


def find(version: str) -> Release | None:
    """Return the release whose version ``version`` is, None if it is unknown."""
    return next((release for release in RELEASES if release.is_version(version)), None)
