"""Which workgroup attends what: splitting requests' keys over compute units. Plain numbers and NumPy, no tensors.

A request whose keys are split leaves one partial result for each part and query token; the list of rows to merge says
which belong together. Every list is int32 and can be padded to a fixed length, so that a captured graph keeps its grid.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", int, npt.NDArray[np.int64])
Int32Array = npt.NDArray[np.int32]

# Parts begin at multiples of this many keys from a request's first: four waves of 16 keys, and whole granules of pages.
CHUNK_GRANULE = 64
# A shorter part costs more in starting, in its partial result and in the merge than it wins.
MIN_CHUNK_KEYS = 256
# The batch-invariant rule: at most this many parts, none shorter than this many keys.
INVARIANT_MAX_PARTS = 64
INVARIANT_MIN_KEYS = 512
WORK_ITEM_FIELDS = 8


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
    kv_begin: npt.NDArray[np.int64],
    kv_end: npt.NDArray[np.int64],
    *,
    qo_len: int,
    max_work_items: int,
    max_partial_rows: int,
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
        Workgroups that can run at the same time, for one KV head: more are made only if there are more requests.
    max_partial_rows : int
        Rows that the workspace has for partial results.
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
    num_keys = np.maximum(kv_end - kv_begin, 0)
    if fixed_chunk is not None:
        chunk = np.full(num_requests, max(fixed_chunk, 1), dtype=np.int64)
    elif batch_invariant:
        chunk = np.maximum(INVARIANT_MIN_KEYS, _round_up(-(-num_keys // INVARIANT_MAX_PARTS)))
    else:
        common = _choose_chunk(num_keys, max(max_work_items, num_requests), max_partial_rows // max(qo_len, 1))
        # The parts of a request are of equal length, the last up to a granule shorter.
        chunk = np.maximum(_round_up(-(-num_keys // np.maximum(-(-num_keys // common), 1))), CHUNK_GRANULE)
    parts = np.maximum(-(-num_keys // chunk), 1)

    is_split = parts > 1
    num_partial_rows = int((parts * is_split).sum()) * qo_len
    if num_partial_rows > max_partial_rows:
        raise ValueError(
            f"splitting the keys this way leaves {num_partial_rows} partial rows, and the workspace has room for "
            f"{max_partial_rows}"
        )

    num_items = int(parts.sum())
    request = np.repeat(np.arange(num_requests), parts)
    first_item = np.cumsum(parts) - parts
    part = np.arange(num_items) - first_item[request]
    begin = kv_begin[request] + part * chunk[request]
    rows_of_request = parts * is_split * qo_len
    first_row = np.cumsum(rows_of_request) - rows_of_request

    items = np.zeros((max(num_items, pad_work_items), WORK_ITEM_FIELDS), dtype=np.int32)
    items[num_items:, 2:4] = -1
    used = items[:num_items]
    used[:, 0] = request
    used[:, 1] = begin
    used[:, 2] = np.minimum(begin + chunk[request], kv_end[request])
    used[:, 3] = np.where(is_split[request], first_row[request] + part, -1)
    used[:, 4] = parts[request]
    if num_items > max_work_items:
        # More than one round: the longest first, so that the last round ends together.
        used[:] = used[np.argsort(used[:, 1] - used[:, 2], kind="stable")]

    split_requests = np.flatnonzero(is_split)
    num_rows = len(split_requests) * qo_len
    merge_rows = np.full(max(num_rows, pad_merge_rows), -1, dtype=np.int32)
    merge_indptr = np.zeros(len(merge_rows) + 1, dtype=np.int32)
    merge_rows[:num_rows] = (split_requests[:, None] * qo_len + np.arange(qo_len)).ravel()
    np.cumsum(np.repeat(parts[split_requests], qo_len), out=merge_indptr[1 : num_rows + 1])
    return DecodePlan(items, merge_indptr, merge_rows, num_partial_rows, bool(num_rows))


def _choose_chunk(num_keys: npt.NDArray[np.int64], max_items: int, max_partial_items: int) -> int:
    """Return the shortest chunk, common to all requests, that makes no more parts than allowed."""
    longest = int(num_keys.max(initial=0))
    total = int(num_keys.sum())

    def fits(chunk: int) -> bool:
        parts = -(-num_keys // chunk)
        if int(parts.sum()) > max_items:
            return False
        return max_items <= max_partial_items or int(parts[parts > 1].sum()) <= max_partial_items

    # In granules. Rounding up costs each request at most one part, which bounds the answer from above.
    low = max(MIN_CHUNK_KEYS, total // max_items) // CHUNK_GRANULE
    spare = min(max_items, max_partial_items) - len(num_keys)
    high = -(-longest // CHUNK_GRANULE)
    if spare > 0:
        high = min(high, -(-total // (spare * CHUNK_GRANULE)))
    high = max(high, low)
    while low < high:
        middle = (low + high) // 2
        if fits(middle * CHUNK_GRANULE):
            high = middle
        else:
            low = middle + 1
    return low * CHUNK_GRANULE


def _round_up(keys: T) -> T:
    return -(-keys // CHUNK_GRANULE) * CHUNK_GRANULE  # type: ignore[no-any-return]
