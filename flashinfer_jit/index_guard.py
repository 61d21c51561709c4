"""Page tables that change between plan() and run(): checked again before a launch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flashinfer_jit import page_table
from flashinfer_jit.runtime.base import Runtime


@dataclass
class TableGuard:
    """The page table that a plan's kernels will read, and what the plan took from it.

    On the emulated GPU it is read again when PyTorch says that one of its tensors was written since the last look; on a
    GPU at every run, which waits for the stream, and only with FLASHINFER_JIT_CHECK=indices.

    Attributes
    ----------
    active : Runtime
        What kernels run on.
    tensors : tuple of torch.Tensor
        ``indptr``, ``indices`` and ``last_page_len``, where kernels read them.
    page_size : int
        Tokens of a page.
    planned : page_table.HostTable
        What the plan was made for.
    has_window : bool
        Whether the plan leaves out the first keys of long requests.
    """

    active: Runtime
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    page_size: int
    planned: page_table.HostTable
    has_window: bool

    def __post_init__(self) -> None:
        self._versions = self._read_versions()

    @classmethod
    def make(cls, active: Runtime, *arguments: Any) -> "TableGuard | None":
        """Return a guard if there is something to check on this device."""
        wanted = active.kind == "emulator" or page_table.checks_indices()
        return cls(active, *arguments) if wanted else None

    def _read_versions(self) -> tuple[int, int, int] | None:
        indptr, indices, last_page_len = self.tensors
        # Tensors made in inference mode do not count their changes.
        if indices.is_inference() or last_page_len.is_inference() or indptr.is_inference():
            return None
        return indptr._version, indices._version, last_page_len._version

    def is_due(self) -> bool:
        """Return whether the table has to be read again."""
        if self.active.kind != "emulator":
            return not self.active.is_capturing()
        return self._versions is None or self._versions != self._read_versions()

    def check(self, num_pages: int) -> None:
        """Read the table again.

        Parameters
        ----------
        num_pages : int
            Pages of the cache.

        Raises
        ------
        ValueError
            For a table that is wrong in itself, names a page that the cache does not have, or has lengths that the
            plan does not cover.
        """
        indptr, indices, last_page_len = (tensor.cpu() for tensor in self.tensors)
        table = page_table.read(indptr, indices, last_page_len, self.page_size)
        page_table.check_max_page(table.max_page, num_pages)
        planned = self.planned
        outside = table.kv_end > planned.kv_end
        if self.has_window:
            outside |= table.kv_end < planned.min_kv_len
        if outside.any():
            request = int(np.argmax(outside))
            raise ValueError(
                f"the page table was changed after plan(): request {request} has {table.kv_end[request]} keys now, and "
                f"the plan is for {planned.kv_end[request]}; call plan() again"
            )
        self._versions = self._read_versions()
