"""Sliding windows over the levels of a cascade: as masks, for a level's kernel knows no positions of other levels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

Lengths = npt.NDArray[np.int64]


def window_masks(
    qo_starts: Sequence[npt.NDArray[np.int32]], kv_lens: Sequence[Lengths], window_left: int
) -> list[torch.Tensor | None]:
    """Return the masks of all levels but the last, whose kernel has the window itself.

    A query's position, and that of a key, is how many keys come before it in all levels, as its last group of keys
    ends with the newest query.

    Parameters
    ----------
    qo_starts : sequence of numpy.ndarray
        For each level, ``[num_groups + 1]``: where the query tokens of each group begin.
    kv_lens : sequence of numpy.ndarray
        For each level, ``[num_groups]``: keys of each group.
    window_left : int
        Keys that a query sees before its own.

    Returns
    -------
    list of torch.Tensor or None
        For each level but the last, ``[sum(qo_len * kv_len)]`` bool, group after group; None where all is seen.
    """
    # Of each query token: the keys of its groups, level by level.
    groups = [np.repeat(np.arange(len(lens)), np.diff(starts)) for starts, lens in zip(qo_starts, kv_lens, strict=True)]
    lengths = np.stack([lens[group] for lens, group in zip(kv_lens, groups, strict=True)])
    newer_tokens = qo_starts[-1][1:][groups[-1]] - 1 - np.arange(len(groups[-1]))
    first_seen = lengths.sum(axis=0) - 1 - newer_tokens - window_left
    masks: list[torch.Tensor | None] = []
    for level, starts in enumerate(qo_starts[:-1]):
        first_of_level = np.maximum(first_seen - lengths[:level].sum(axis=0), 0)
        if not first_of_level.any():
            masks.append(None)
            continue
        parts = [
            (np.arange(num_keys) >= first_of_level[begin:end, None]).reshape(-1)
            for begin, end, num_keys in zip(starts, starts[1:], kv_lens[level], strict=False)
        ]
        masks.append(torch.from_numpy(np.concatenate(parts)))
    return masks
