"""Which workgroup attends what: splitting requests' keys over compute units. Plain numbers and NumPy, no tensors.

A request whose keys are split leaves one partial result for each part and query token; the list of rows to merge says
which belong together. Every list is int32 and can be padded to a fixed length, so that a captured graph keeps its grid.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]
T = TypeVar("T", int, Lengths)

# Parts begin at multiples of this many keys from a request's first: four waves of 16 keys, and whole granules of pages.
CHUNK_GRANULE = 64
# A shorter part costs more in starting, in its partial result and in the merge than it wins.
MIN_CHUNK_KEYS = 256
# The batch-invariant rule: at most this many parts, none shorter than this many keys.
INVARIANT_MAX_PARTS = 64
INVARIANT_MIN_KEYS = 512
WORK_ITEM_FIELDS = 8
# Workgroups of the prefill kernel that a compute unit runs at a time, while one waits the other computes.
WORKGROUPS_PER_CU = 2
UINT16_MAX = 0xFFFF
# What a part costs beside its keys, in keys that a compute unit streams in the time, by the timing model for head
# dimension 128 in 16 bits: starting it; merging at all; a part more to merge.
START_COST, MERGE_COST, MERGED_PART_COST = 24, 120, 9
# Parts for each compute unit among which the best is chosen; requests that are more make up for one another.
ROUNDS = np.array([1, 2, 3, 4, 6, 8])
MAX_CHOOSING_ROUNDS = 4


@dataclass(frozen=True)
class DecodePlan:
    """The work of one batch.

    Attributes
    ----------
    work_items : numpy.ndarray
        ``[num_work_items, 8]``: request, first key, end of keys (-1: nothing to do), partial row or -1, distance of the
        partial rows of two query tokens, and three zeros.
    merge_indptr : numpy.ndarray
        ``[num_merge_rows + 1]``: the partial rows of each row to merge.
    merge_rows : numpy.ndarray
        ``[num_merge_rows]``: the output row of each, -1 for nothing to do.
    num_partial_rows : int
        Partial rows in use.
    is_split : bool
        Whether any request is.
    """

    work_items: Int32Array
    merge_indptr: Int32Array
    merge_rows: Int32Array
    num_partial_rows: int
    is_split: bool


def split_one(num_keys: int, max_parts: int) -> tuple[int, int]:
    """Return how many parts the keys of a single request are cut into, and the keys of a part.

    Parameters
    ----------
    num_keys : int
        Keys to attend.
    max_parts : int
        Workgroups that can run at the same time.
    """
    parts = max(1, min(max_parts, num_keys // MIN_CHUNK_KEYS))
    chunk = max(_round_up(-(-num_keys // parts)), CHUNK_GRANULE)
    return max(1, -(-num_keys // chunk)), chunk


def plan_decode(
    kv_begin: Lengths,
    kv_end: Lengths,
    *,
    qo_len: int,
    max_work_items: int,
    max_partial_rows: int,
    num_units: float | None = None,
    fixed_chunk: int | None = None,
    batch_invariant: bool = False,
    pad_work_items: int = 0,
    pad_merge_rows: int = 0,
) -> DecodePlan:
    """Cut the keys of every request into parts that fill the GPU evenly.

    Parameters
    ----------
    kv_begin, kv_end : numpy.ndarray
        ``[num_requests]``: first key and end of the keys that a request attends. The kernel stops at the request's last
        key, so ``kv_end`` may be an upper bound.
    qo_len : int
        Query tokens of every request.
    max_work_items : int
        Workgroups that can run at the same time, for one KV head: more are made, but no more than one a request.
    max_partial_rows : int
        Rows that the workspace has for partial results.
    num_units : float, optional
        Compute units for one KV head. With them the parts are chosen so that units finish together.
    fixed_chunk : int, optional
        Keys of a part; otherwise it is chosen. Where pages are a multiple of a tile's keys, so must it be.
    batch_invariant : bool
        Choose the parts of a request by its own length only.
    pad_work_items, pad_merge_rows : int
        Lengths that the lists are padded to.

    Raises
    ------
    ValueError
        If ``fixed_chunk`` or ``batch_invariant`` needs more partial rows than there are.
    """
    num_requests = len(kv_end)
    num_keys = kv_end - kv_begin
    if fixed_chunk is not None or batch_invariant:
        if fixed_chunk is not None:
            longest: int | Lengths = max(fixed_chunk, 1)
        else:
            longest = np.maximum(_round_up(-(-num_keys // INVARIANT_MAX_PARTS)), INVARIANT_MIN_KEYS)
        is_split = num_keys > longest
        split = is_split.nonzero()[0]
        chunk = longest[split] if isinstance(longest, np.ndarray) else np.full(len(split), longest)
        parts = -(-num_keys[split] // chunk)
        num_partial_rows = int(np.add.reduce(parts)) * qo_len
        if num_partial_rows > max_partial_rows:
            raise ValueError(
                f"splitting the keys this way leaves {num_partial_rows} partial rows, and the workspace has room for "
                f"{max_partial_rows}"
            )
    else:
        common = _choose_chunk(num_keys, max_work_items, num_units, pad_work_items)
        while True:
            is_split = num_keys > common
            split = is_split.nonzero()[0]
            keys = num_keys[split]
            chunk = _round_up(-(-keys // -(-keys // common)))
            parts = -(-keys // chunk)
            num_partial_rows = int(np.add.reduce(parts)) * qo_len
            if num_partial_rows <= max_partial_rows:
                break
            common *= 2

    # Requests that are not split, then the parts of those that are.
    num_whole = num_requests - len(split)
    num_items = num_whole + num_partial_rows // qo_len
    items = np.zeros((max(num_items, pad_work_items), WORK_ITEM_FIELDS), dtype=np.int32)
    items[num_items:, 2:4] = -1
    whole = (~is_split).nonzero()[0]
    items[:num_whole, 0] = whole
    items[:num_whole, 1] = kv_begin[whole]
    items[:num_whole, 2] = kv_end[whole]
    items[:num_whole, 3] = -1
    items[:num_whole, 4] = 1
    num_rows = len(split) * qo_len
    merge_rows = np.full(max(num_rows, pad_merge_rows), -1, dtype=np.int32)
    merge_indptr = np.zeros(len(merge_rows) + 1, dtype=np.int32)
    if num_rows:
        ends = np.add.accumulate(parts)
        columns = np.empty((6, len(split)), dtype=np.int64)
        columns[0] = split
        columns[1] = kv_begin[split]
        columns[2] = kv_end[split]
        columns[3] = ends - parts
        columns[4] = parts
        columns[5] = chunk
        columns = columns.repeat(parts, axis=1)
        part = np.arange(num_items - num_whole) - columns[3]
        columns[1] += part * columns[5]
        np.minimum(columns[1] + columns[5], columns[2], out=columns[2])
        columns[3] *= qo_len
        columns[3] += part
        items[num_whole:num_items, :5] = columns[:5].T
        if qo_len == 1:
            merge_rows[:num_rows], merge_indptr[1 : num_rows + 1] = split, ends
        else:
            merge_rows[:num_rows] = (split[:, None] * qo_len + np.arange(qo_len)).ravel()
            merge_indptr[1 : num_rows + 1] = np.add.accumulate(parts.repeat(qo_len))
    if num_items > max_work_items:
        # More than one round: the longest first, so that the last round ends together.
        used = items[:num_items]
        items[:num_items] = used.take(_descending(used[:, 2] - used[:, 1], CHUNK_GRANULE), axis=0)
    return DecodePlan(items, merge_indptr, merge_rows, num_partial_rows, bool(num_rows))


def _choose_chunk(num_keys: Lengths, max_work_items: int, num_units: float | None, pad_work_items: int) -> int:
    """Return the keys that a part has at most."""
    total = int(np.add.reduce(num_keys))
    # Parts of the time that all of the work takes when it is spread evenly: that makes at most one more for each
    # request than can run at the same time, and none takes longer than all.
    even = max(MIN_CHUNK_KEYS, _round_up(-(-total // max_work_items)))
    if num_units is None or len(num_keys) > MAX_CHOOSING_ROUNDS * num_units:
        return even
    longest = int(num_keys.max(initial=0))
    if longest <= MIN_CHUNK_KEYS:
        return even
    # A unit that gets one part more than the others keeps them waiting: the fewer it has, the more that matters.
    chunks = np.empty(len(ROUNDS) + 2, dtype=np.int64)
    chunks[:-2] = np.maximum(_round_up(np.ceil(total / (num_units * ROUNDS)).astype(np.int64)), MIN_CHUNK_KEYS)
    chunks[-2:] = even, longest
    parts = np.maximum(-(-num_keys // chunks[:, None]), 1)
    num_items, most = parts.sum(axis=1), parts.max(axis=1)
    rounds = np.ceil(num_items / num_units)
    cost = np.maximum(rounds * total / num_items, -(-longest // most))
    cost += START_COST * rounds + (most > 1) * (MERGE_COST + MERGED_PART_COST * most)
    if pad_work_items:
        cost[:-2][num_items[:-2] > pad_work_items] = np.inf
    return int(chunks[cost.argmin()])


@dataclass(frozen=True)
class PrefillPlan:
    """The work of one batch of prefills.

    Attributes
    ----------
    work_items : numpy.ndarray
        ``[num_items or graph_slots, 8]``, the heaviest first: request, first packed row of the tile, first key, end of
        keys, first partial row or -1, distance of the partial rows of two query tokens, and two zeros.
    merge_indptr : numpy.ndarray
        ``[num_merge_rows + 1]``: the partial rows of each row to merge.
    merge_rows : numpy.ndarray
        ``[num_merge_rows]``: the output row of each.
    num_partial_rows : int
        Partial rows in use.
    num_work_items : int
        Items in use; those after them are padding.
    """

    work_items: Int32Array
    merge_indptr: Int32Array
    merge_rows: Int32Array
    num_partial_rows: int
    num_work_items: int


def plan_prefill(
    qo_lens: npt.ArrayLike,
    kv_lens: npt.ArrayLike,
    *,
    group_size: int,
    num_kv_heads: int,
    block_q: int,
    block_kv: int,
    num_cus: int,
    causal: bool,
    window_left: int = -1,
    fixed_split_size: int | None = None,
    disable_split_kv: bool = False,
    max_partial_rows: int | None = None,
    graph_slots: int | None = None,
) -> PrefillPlan:
    """Cut a batch of prefills into tiles of rows, and the keys of tiles into parts where there are too few of them.

    Parameters
    ----------
    qo_lens, kv_lens : array_like
        ``[num_requests]``: query tokens and keys of each request.
    group_size, num_kv_heads : int
        Query heads per KV head, and KV heads: each work item is done once for each of these.
    block_q, block_kv : int
        Rows and keys of the kernel's tile.
    num_cus : int
        Compute units to fill.
    causal : bool
        Whether a query token sees the keys up to its own only; masks are aligned to the last token and key.
    window_left : int
        Keys that a token sees before its own, -1 for all.
    fixed_split_size : int, optional
        Keys of a part, rounded up to a multiple of ``block_kv``; otherwise it is chosen. The parts of a request then
        depend on its own lengths only.
    disable_split_kv : bool
        Leave all keys of a tile to one workgroup. This too makes a request independent of the others.
    max_partial_rows : int, optional
        Rows that the workspace has for partial results.
    graph_slots : int, optional
        Work items that a captured graph launches: the list is padded to this length.

    Raises
    ------
    ValueError
        If ``fixed_split_size`` needs more partial rows than there are, or the tiles are more than ``graph_slots``.
    """
    qo_len, kv_len = np.asarray(qo_lens, dtype=np.int32), np.asarray(kv_lens, dtype=np.int32)

    # All heads of a token belong to one tile or, if they do not fit, to several that have no other token: the kernel
    # knows (partials/work_items.hip.j2).
    tokens_per_tile = max(block_q // group_size, 1)
    tiles_per_token = -(-group_size // block_q)
    tiles = -(-qo_len // tokens_per_tile) * tiles_per_token
    request = np.repeat(np.arange(len(tiles), dtype=np.int32), tiles)
    number = _arange(len(request)) - np.repeat(np.cumsum(tiles, dtype=np.int32) - tiles, tiles)
    first_token = number // tiles_per_token * tokens_per_tile
    first_row = first_token * group_size + number % tiles_per_token * block_q
    num_tokens = np.minimum(np.repeat(qo_len, tiles) - first_token, tokens_per_tile)

    # The keys that the tile's first and last token see, from a multiple of the tile's on.
    own_key = first_token + np.repeat(kv_len - qo_len, tiles)
    end = np.clip(own_key + num_tokens, 0, None) if causal else np.repeat(kv_len, tiles)
    begin = np.maximum(own_key - window_left, 0) // block_kv * block_kv if window_left >= 0 else np.zeros_like(end)
    num_keys = np.maximum(end - begin, 0)

    # Partial rows are those of the tokens; tiles of one token share them.
    owns_rows = number % tiles_per_token == 0
    row_limit = np.iinfo(np.int32).max if max_partial_rows is None else max_partial_rows
    item_limit = np.iinfo(np.int32).max if graph_slots is None else graph_slots
    if len(request) > item_limit:
        raise ValueError(f"the batch has {len(request)} tiles of rows, and the graph was captured for {item_limit}")
    part = max(MIN_CHUNK_KEYS, -(-int(num_keys.sum(dtype=np.int64)) * num_kv_heads // (WORKGROUPS_PER_CU * num_cus)))
    while True:
        parts, chunk = _prefill_parts(num_keys, block_kv, part, fixed_split_size, disable_split_kv)
        is_split = parts > 1
        rows_of_tile = parts * num_tokens * (is_split & owns_rows)
        num_partial_rows, num_items = int(rows_of_tile.sum(dtype=np.int64)), int(parts.sum(dtype=np.int64))
        if num_partial_rows <= row_limit and num_items <= item_limit:
            break
        if fixed_split_size is not None:
            raise ValueError(
                f"fixed_split_size={fixed_split_size} makes {num_items} work items and {num_partial_rows} partial "
                f"rows, and there is room for {item_limit} and {row_limit}: use longer parts or a larger workspace"
            )
        part *= 2

    # A row for each tile, repeated for each of its parts, the heaviest first.
    columns = np.zeros((len(request), WORK_ITEM_FIELDS), dtype=np.int32)
    columns[:, 0] = request
    columns[:, 1] = first_row
    columns[:, 2] = begin
    columns[:, 3] = begin + num_keys
    columns[:, 4] = -1
    columns[:, 5] = parts
    items = np.zeros((num_items if graph_slots is None else graph_slots, WORK_ITEM_FIELDS), dtype=np.int32)
    used = items[:num_items]
    if num_items == len(request):
        columns.take(_descending(num_keys, block_kv), axis=0, out=used, mode="clip")
    else:
        first_partial = np.cumsum(rows_of_tile, dtype=np.int32) - rows_of_tile
        columns[:, 4] = np.where(is_split, first_partial[_arange(len(request)) - number % tiles_per_token], -1)
        part = _arange(num_items)
        part -= (np.cumsum(parts, dtype=np.int32) - parts).repeat(parts)
        chunk_of_part = chunk.repeat(parts)
        first = part * chunk_of_part
        keys_of_part = np.minimum(num_keys.repeat(parts) - first, chunk_of_part)
        order = _descending(keys_of_part, block_kv)
        columns.take(np.arange(len(request)).repeat(parts).take(order), axis=0, out=used, mode="clip")
        used[:, 2] += first.take(order)
        np.add(used[:, 2], keys_of_part.take(order), out=used[:, 3])
        used[:, 4] += part.take(order)  # 0 where nothing is split
    if num_partial_rows == 0:
        return PrefillPlan(items, np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.int32), 0, num_items)

    split_tiles = np.flatnonzero(is_split & owns_rows)
    tokens = num_tokens[split_tiles]
    first_output_row = (np.cumsum(qo_len, dtype=np.int32) - qo_len)[request[split_tiles]] + first_token[split_tiles]
    ends = np.cumsum(tokens, dtype=np.int32)
    merge_rows = np.repeat(first_output_row - ends + tokens, tokens)
    merge_rows += _arange(len(merge_rows))
    merge_indptr = np.zeros(len(merge_rows) + 1, dtype=np.int32)
    np.cumsum(np.repeat(parts[split_tiles], tokens), dtype=np.int32, out=merge_indptr[1:])
    return PrefillPlan(items, merge_indptr, merge_rows, num_partial_rows, num_items)


def _prefill_parts(
    num_keys: Int32Array,
    block_kv: int,
    part: int,
    fixed_split_size: int | None,
    disable_split_kv: bool,
) -> tuple[Int32Array, Int32Array]:
    """Return how many parts the keys of each tile are cut into, and the keys of a part."""
    longest = int(num_keys.max(initial=0))
    if disable_split_kv or (fixed_split_size is None and longest < 2 * part):
        return np.ones_like(num_keys), np.maximum(num_keys, 1)
    if fixed_split_size is not None:
        chunk = np.full_like(num_keys, -(-max(fixed_split_size, 1) // block_kv) * block_kv)
    else:
        # Rounded down: a tile a little longer than its share of the keys is not worth the merge.
        parts = np.maximum(num_keys // part, 1)
        chunk = np.maximum(-(-num_keys // (parts * block_kv)) * block_kv, block_kv)
    return np.maximum(-(-num_keys // chunk), 1), chunk


def _descending(num_keys: Int32Array, granule: int) -> npt.NDArray[np.intp]:
    """Return the order from the most keys to the fewest, in granules. NumPy sorts 16 bits in linear time."""
    fewest_last = ~np.minimum(num_keys // granule, UINT16_MAX).astype(np.uint16)
    order: npt.NDArray[np.intp] = fewest_last.argsort(kind="stable")
    return order


def _arange(count: int) -> Int32Array:
    return np.arange(count, dtype=np.int32)


def _round_up(keys: T) -> T:
    return -(-keys // CHUNK_GRANULE) * CHUNK_GRANULE
