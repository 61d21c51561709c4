"""The parameter struct of every kernel: one table of fields gives the C struct and the ctypes struct.

A kernel takes one struct by value. The C text asserts the size and every offset that ctypes computed, and the loaded
library reports the size again, so that the two sides cannot drift apart.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from flashinfer_jit.jit.config import KernelConfig

SCALAR_TYPES: Mapping[str, type[ctypes._SimpleCData]] = {  # type: ignore[type-arg]
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
    "uint64_t": ctypes.c_uint64,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "float": ctypes.c_float,
}


@dataclass(frozen=True)
class Field:
    """One field of a parameter struct.

    Attributes
    ----------
    name : str
        Its name on both sides.
    c_type : str
        One of SCALAR_TYPES, or a pointer type, which ends in ``*``.
    comment : str
        Meaning and unit, written beside the field in the rendered source.
    """

    name: str
    c_type: str
    comment: str

    @property
    def ctype(self) -> type[ctypes._SimpleCData]:  # type: ignore[type-arg]
        """The ctypes type; pointers are plain addresses."""
        return ctypes.c_void_p if self.c_type.endswith("*") else SCALAR_TYPES[self.c_type]


@dataclass(frozen=True)
class ParamsTable:
    """The parameters of one kernel, in memory order."""

    name: str
    fields: tuple[Field, ...]

    @cached_property
    def struct(self) -> type[ctypes.Structure]:
        """The ctypes struct."""
        members = [(field.name, field.ctype) for field in self.fields]
        return type(f"{self.name.title().replace('_', '')}Params", (ctypes.Structure,), {"_fields_": members})

    @property
    def size(self) -> int:
        """Bytes of the struct."""
        return ctypes.sizeof(self.struct)

    def offset(self, name: str) -> int:
        """Return the offset of a field in bytes."""
        return int(getattr(self.struct, name).offset)

    def c_struct(self) -> str:
        """Return the C++ text of the struct, with assertions of its size and offsets."""
        widest = max(len(field.c_type) + len(field.name) for field in self.fields) + 2
        lines = ["struct Params {"]
        lines += [f"  {f'{f.c_type} {f.name};':<{widest}}  // {f.comment}" for f in self.fields]
        lines += ["};", f'static_assert(sizeof(Params) == {self.size}, "the struct that Python fills has this size");']
        # Padding can only differ where a field is followed by one of another size.
        sizes = [ctypes.sizeof(f.ctype) for f in self.fields]
        for f, size, size_before in zip(self.fields[1:], sizes[1:], sizes, strict=False):
            if size != size_before:
                lines.append(f"static_assert(__builtin_offsetof(Params, {f.name}) == {self.offset(f.name)});")
        return "\n".join(lines)


def _table(name: str, *fields: tuple[str, str, str]) -> ParamsTable:
    return ParamsTable(name, tuple(Field(*field) for field in fields))


# Scales of quantised tensors that are tensors themselves: they multiply those that are numbers.
HEAD_SCALES = (
    ("q_scale", "const float*", "[num_qo_heads], or one for all: factors of logits; null for 1"),
    ("k_scale", "const float*", "[num_kv_heads], or one for all: factors of logits; null for 1"),
    ("v_scale", "const float*", "[num_kv_heads], or one for all: factors of o; null for 1"),
    ("q_scale_stride", "int32_t", "elements between the q_scale of heads, 0 if one serves all"),
    ("k_scale_stride", "int32_t", "likewise"),
    ("v_scale_stride", "int32_t", "likewise"),
)

PREFILL = _table(
    "prefill",
    ("q", "const void*", "[qo_len, num_qo_heads, head_dim_qk]"),
    ("k", "const void*", "[kv_len, num_kv_heads, head_dim_qk]"),
    ("v", "const void*", "[kv_len, num_kv_heads, head_dim_vo]"),
    ("o", "void*", "[qo_len, num_qo_heads, head_dim_vo]"),
    ("lse", "float*", "[qo_len, num_qo_heads], base 2; null if not wanted"),
    ("q_stride_n", "int64_t", "elements between tokens of q"),
    ("q_stride_h", "int64_t", "elements between heads of q"),
    ("k_stride_n", "int64_t", "elements between tokens of k"),
    ("k_stride_h", "int64_t", "elements between heads of k"),
    ("v_stride_n", "int64_t", "elements between tokens of v"),
    ("v_stride_h", "int64_t", "elements between heads of v"),
    ("o_stride_n", "int64_t", "elements between tokens of o"),
    ("o_stride_h", "int64_t", "elements between heads of o"),
    ("qo_len", "int32_t", "query tokens"),
    ("kv_len", "int32_t", "keys"),
    ("num_qo_heads", "int32_t", "heads of q and o"),
    ("num_kv_heads", "int32_t", "heads of k and v"),
    ("sm_scale_log2", "float", "softmax scale times log2(e)"),
    ("output_scale", "float", "factor of o: the scale of v"),
    ("logits_soft_cap", "float", "cap of the logits"),
    ("window_left", "int32_t", "keys seen before a token's own"),
    ("num_chunks", "int32_t", "parts that the keys are split into, 1 for no split"),
    ("kv_chunk_len", "int32_t", "keys of a part, a multiple of the tile's"),
    ("custom_mask", "const uint8_t*", "packed bits [qo_len, kv_len], at least 8 bytes"),
    ("rope_frequency", "double", "revolutions per token of the first pair: 1 / (2 pi rope_scale)"),
    ("rope_decay", "double", "from one pair to the next: rope_theta^(-2 / head_dim_qk)"),
    ("partial_o", "float*", "[qo_len, num_chunks, num_qo_heads, head_dim_vo]; null if num_chunks is 1"),
    ("partial_lse", "float*", "[qo_len, num_chunks, num_qo_heads]"),
    ("sinks", "const float*", "[num_qo_heads]: logits of keys whose value is 0"),
    *HEAD_SCALES,
)

# A batch has the same, and of the lengths none; q, o and lse are those of all requests, one after the other.
BATCH_PREFILL = ParamsTable(
    "batch_prefill",
    (
        *PREFILL.fields,
        *_table(
            "batch",
            (
                "work_items",
                "const int32_t*",
                "[n, 8]: request, first row, keys [begin, end), partial row, its stride",
            ),
            ("num_work_items", "int32_t", "workgroups for each KV head"),
            ("num_work_items_ptr", "const int32_t*", "how many of them have work; null if all"),
            ("qo_indptr", "const int32_t*", "[num_requests + 1]: where a request's query tokens begin"),
            ("kv_indptr", "const int32_t*", "ragged: [num_requests + 1]: where a request's keys begin"),
            (
                "paged_kv_indptr",
                "const int32_t*",
                "[num_requests + 1]: where a request's pages begin in paged_kv_indices",
            ),
            ("paged_kv_indices", "const int32_t*", "page numbers"),
            ("paged_kv_last_page_len", "const int32_t*", "[num_requests]: keys in the last page"),
            ("k_stride_page", "uint32_t", "elements between pages of k"),
            ("v_stride_page", "uint32_t", "elements between pages of v"),
            ("page_size", "int32_t", "tokens of a page"),
            (
                "page_size_reciprocal",
                "uint32_t",
                "floor(n / page_size) is n * reciprocal >> 32 >> shift for 0 <= n < 2^31",
            ),
            ("page_size_shift", "uint32_t", "see page_size_reciprocal"),
            ("mask_indptr", "const int32_t*", "[num_requests]: first byte of a request's custom mask"),
        ).fields,
    ),
)

DECODE = _table(
    "decode",
    ("q", "const void*", "[num_requests * qo_len, num_qo_heads, head_dim_qk]"),
    ("k", "const void*", "keys of the request, or the pages of all requests"),
    ("v", "const void*", "values, likewise"),
    ("o", "void*", "[num_requests * qo_len, num_qo_heads, head_dim_vo]"),
    ("lse", "float*", "[num_requests * qo_len, num_qo_heads], base 2; null if not wanted"),
    ("partial_o", "float*", "[num_partial_rows, num_qo_heads, head_dim_vo]; null if no request is split"),
    ("partial_lse", "float*", "[num_partial_rows, num_qo_heads]"),
    (
        "work_items",
        "const int32_t*",
        "[num_work_items, 8]: request, keys [begin, end), end -1 if unused; partial row or -1, its stride; 3 unused",
    ),
    ("paged_kv_indptr", "const int32_t*", "[num_requests + 1]: where a request's pages begin in paged_kv_indices"),
    ("paged_kv_indices", "const int32_t*", "page numbers"),
    ("paged_kv_last_page_len", "const int32_t*", "[num_requests]: keys in the last page"),
    ("q_stride_n", "int64_t", "elements between tokens of q"),
    ("q_stride_h", "int64_t", "elements between heads of q"),
    ("k_stride_h", "int64_t", "elements between heads of k"),
    ("v_stride_h", "int64_t", "elements between heads of v"),
    ("o_stride_n", "int64_t", "elements between tokens of o"),
    ("o_stride_h", "int64_t", "elements between heads of o"),
    ("k_stride_page", "uint32_t", "elements between pages of k"),
    ("k_stride_n", "uint32_t", "elements between tokens of k"),
    ("v_stride_page", "uint32_t", "elements between pages of v"),
    ("v_stride_n", "uint32_t", "elements between tokens of v"),
    ("page_size", "int32_t", "tokens of a page"),
    ("page_size_reciprocal", "uint32_t", "floor(n / page_size) is n * reciprocal >> 32 >> shift for 0 <= n < 2^31"),
    ("page_size_shift", "uint32_t", "see page_size_reciprocal"),
    ("num_work_items", "int32_t", "workgroups for each KV head"),
    ("qo_len", "int32_t", "query tokens of every request"),
    ("kv_begin", "int32_t", "contiguous: first key that any query sees"),
    ("kv_len", "int32_t", "contiguous: keys"),
    ("kv_chunk", "int32_t", "contiguous: keys of a work item"),
    ("num_qo_heads", "int32_t", "heads of q and o"),
    ("num_kv_heads", "int32_t", "heads of k and v"),
    ("window_left", "int32_t", "keys seen before a token's own"),
    ("sm_scale_log2", "float", "softmax scale times log2(e)"),
    ("output_scale", "float", "factor of o: the scale of v"),
    ("logits_soft_cap", "float", "cap of the logits"),
    ("sinks", "const float*", "[num_qo_heads]: logits of keys whose value is 0"),
    ("rope_frequency", "double", "revolutions per token of the first pair: 1 / (2 pi rope_scale)"),
    ("rope_decay", "double", "from one pair to the next: rope_theta^(-2 / head_dim_qk)"),
    *HEAD_SCALES,
)

MERGE_STATES = _table(
    "merge_states",
    ("v", "const void*", "states' outputs: rows of [num_heads, head_dim]"),
    ("s", "const float*", "their log-sum-exps, base 2: rows of [num_heads]"),
    ("v_other", "const void*", "the second of two states, if it is a tensor of its own"),
    ("s_other", "const float*", "its log-sum-exps"),
    ("o", "void*", "[num_output_rows, num_heads, head_dim]"),
    ("lse", "float*", "[num_output_rows, num_heads]; null if not wanted"),
    ("sinks", "const float*", "[num_heads]: logits of keys whose value is 0"),
    ("mask", "const uint8_t*", "[num_output_rows]: rows with 0 are left alone; null means all"),
    ("indptr", "const int32_t*", "[num_rows + 1]: where a row's states begin; null for num_states each"),
    ("output_rows", "const int32_t*", "[num_rows]: with indptr, the output row of each; -1 for nothing"),
    ("v_stride_state", "int64_t", "elements between states"),
    ("v_stride_head", "int64_t", "elements between heads of v"),
    ("s_stride_state", "int64_t", "elements between states of s"),
    ("v_other_stride_row", "int64_t", "elements between rows of v_other"),
    ("v_other_stride_head", "int64_t", "elements between heads of v_other"),
    ("s_other_stride_row", "int64_t", "elements between rows of s_other"),
    ("o_stride_row", "int64_t", "elements between rows of o"),
    ("o_stride_head", "int64_t", "elements between heads of o"),
    ("num_rows", "int32_t", "rows to make"),
    ("num_states", "int32_t", "states of a row, where indptr is null"),
    ("num_heads", "int32_t", "heads"),
    ("output_scale", "float", "factor of o"),
)

APPEND_PAGED_KV = _table(
    "append_paged_kv",
    ("k", "const void*", "[num_tokens, num_heads, head_dim_k]"),
    ("v", "const void*", "[num_tokens, num_heads, head_dim_v]"),
    ("k_cache", "void*", "pages of keys"),
    ("v_cache", "void*", "pages of values"),
    ("batch_indices", "const int32_t*", "[num_tokens]: the request of each; negative for a token to leave out"),
    ("positions", "const int32_t*", "[num_tokens]: where in its request"),
    ("kv_indptr", "const int32_t*", "[num_requests + 1]: where a request's pages begin in kv_indices"),
    ("kv_indices", "const int32_t*", "page numbers"),
    ("k_stride_n", "int64_t", "elements between tokens of k"),
    ("k_stride_h", "int64_t", "elements between heads of k"),
    ("v_stride_n", "int64_t", "elements between tokens of v"),
    ("v_stride_h", "int64_t", "elements between heads of v"),
    ("k_cache_stride_page", "int64_t", "elements between pages of k_cache"),
    ("k_cache_stride_n", "int64_t", "elements between tokens of k_cache"),
    ("k_cache_stride_h", "int64_t", "elements between heads of k_cache"),
    ("v_cache_stride_page", "int64_t", "elements between pages of v_cache"),
    ("v_cache_stride_n", "int64_t", "elements between tokens of v_cache"),
    ("v_cache_stride_h", "int64_t", "elements between heads of v_cache"),
    ("num_tokens", "int32_t", "tokens to append"),
    ("num_heads", "int32_t", "heads of k and v"),
    ("page_size", "int32_t", "tokens of a page"),
    ("k_factor", "float", "factor of k: the reciprocal of its scale"),
    ("v_factor", "float", "factor of v: the reciprocal of its scale"),
)

TABLES: dict[str, ParamsTable] = {
    table.name: table for table in (PREFILL, BATCH_PREFILL, DECODE, MERGE_STATES, APPEND_PAGED_KV)
}


@cache
def _extended(name: str, extra: tuple[tuple[str, str, str], ...]) -> ParamsTable:
    table = TABLES[name]
    return ParamsTable(name, (*table.fields, *(Field(*field) for field in extra))) if extra else table


def table_of(config: KernelConfig) -> ParamsTable:
    """Return the parameters of a kernel: its family's table and what its configuration adds."""
    return _extended(config.params_table, config.extra_params) if config.extra_params else TABLES[config.params_table]
