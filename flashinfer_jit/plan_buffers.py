"""Device memory of a wrapper: lists that a plan makes, and partial results in the caller's workspace."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from flashinfer_jit import validation
from flashinfer_jit.runtime.base import Runtime

INT_WORKSPACE_BYTES = 8 << 20
# Lists begin at multiples of this many numbers: a work item is read with one instruction.
ALIGNMENT = 16


def partial_rows(workspace: torch.Tensor, num_heads: int, head_dim: int) -> int:
    """Return how many rows of partial results ``workspace`` holds: an output and a log-sum-exp for every head."""
    num_bytes = workspace.numel() * workspace.element_size()
    return max(num_bytes - 4 * ALIGNMENT, 0) // (4 * num_heads * (head_dim + 1))


class PlanBuffers:
    """The workspaces of one wrapper.

    Parameters
    ----------
    active : Runtime
        What kernels run on.
    float_workspace : torch.Tensor
        The caller's, of any dtype.
    int_workspace : torch.Tensor, optional
        Memory for lists; 8 MiB are allocated if none is given.

    Raises
    ------
    ValueError
        If a workspace is on another device than kernels run on, or has gaps.
    """

    def __init__(
        self, active: Runtime, float_workspace: torch.Tensor, int_workspace: torch.Tensor | None = None
    ) -> None:
        if not isinstance(float_workspace, torch.Tensor):
            raise TypeError(f"float_workspace_buffer must be a torch.Tensor, got {type(float_workspace).__name__}")
        self.device = float_workspace.device
        if int_workspace is None:
            int_workspace = torch.empty(INT_WORKSPACE_BYTES, dtype=torch.uint8, device=self.device)
        workspaces = {"float_workspace_buffer": float_workspace, "int_workspace_buffer": int_workspace}
        validation.check_device(active, workspaces)
        for name, buffer in workspaces.items():
            if not buffer.is_contiguous() or buffer.data_ptr() % (4 * ALIGNMENT):
                raise ValueError(f"Invalid {name}: expected contiguous memory that begins at a multiple of 64 bytes")
        self.float_workspace = float_workspace
        self.int_workspace = int_workspace
        self._numbers = _as(int_workspace, torch.int32)
        self._on_host = self._numbers.numpy() if self.device.type == "cpu" else None
        self._sections: tuple[list[tuple[str, int, int]], dict[str, torch.Tensor]] = ([], {})
        self._partials: tuple[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] | None = None

    def store(self, lists: Mapping[str, npt.NDArray[np.int32]]) -> dict[str, torch.Tensor]:
        """Copy ``lists`` to the device, one copy for all, and return them as flat tensors there.

        Lists of the same lengths are at the same addresses again, which a captured graph relies on.
        """
        places, total = [], 0
        for name, values in lists.items():
            places.append((name, total, values.size))
            total += _padded(values.size)
        if total > self._numbers.shape[0]:
            raise ValueError(
                f"int_workspace_buffer is too small: this plan needs {4 * total} bytes, and it has "
                f"{4 * self._numbers.shape[0]}"
            )
        host = self._on_host
        staged = None
        if host is None:
            # From PyTorch's pool of pinned memory, which hands it out again only when the copy has been made.
            staged = torch.empty(total, dtype=torch.int32, pin_memory=True)
            host = staged.numpy()
        for (_, first, size), values in zip(places, lists.values(), strict=True):
            host[first : first + size] = values.reshape(-1)
        if staged is not None:
            self._numbers[:total].copy_(staged, non_blocking=True)
        if places != self._sections[0]:
            self._sections = (places, {name: self._numbers[first : first + size] for name, first, size in places})
        return self._sections[1]

    def partials(self, num_heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``[rows, num_heads, head_dim]`` and ``[rows, num_heads]`` float32, all rows that there is room for."""
        if self._partials is None or self._partials[0] != (num_heads, head_dim):
            rows = partial_rows(self.float_workspace, num_heads, head_dim)
            numbers = _as(self.float_workspace, torch.float32)
            lse_begin = _padded(rows * num_heads * head_dim)
            o = numbers[: rows * num_heads * head_dim].view(rows, num_heads, head_dim)
            lse = numbers[lse_begin : lse_begin + rows * num_heads].view(rows, num_heads)
            self._partials = ((num_heads, head_dim), (o, lse))
        return self._partials[1]


def _as(buffer: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    num_bytes = buffer.view(-1).view(torch.uint8)
    return num_bytes[: num_bytes.shape[0] // dtype.itemsize * dtype.itemsize].view(dtype)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class WorkspaceOwner:
    """A wrapper's workspaces, under the names that serving engines read and set."""

    _active: Runtime
    _buffers: PlanBuffers

    @property
    def _float_workspace_buffer(self) -> torch.Tensor:
        return self._buffers.float_workspace

    @property
    def _int_workspace_buffer(self) -> torch.Tensor:
        return self._buffers.int_workspace

    @_int_workspace_buffer.setter
    def _int_workspace_buffer(self, buffer: torch.Tensor) -> None:
        # Engines let the wrappers of a process share one.
        self.reset_workspace_buffer(self._buffers.float_workspace, buffer)

    def reset_workspace_buffer(self, float_workspace_buffer: torch.Tensor, int_workspace_buffer: torch.Tensor) -> None:
        """Use other workspaces; ``plan()`` has to be called again, for plans live in them.

        Parameters
        ----------
        float_workspace_buffer, int_workspace_buffer : torch.Tensor
            Contiguous device memory of any dtype.
        """
        self._buffers = PlanBuffers(self._active, float_workspace_buffer, int_workspace_buffer)
        self._forget_plan()

    def _forget_plan(self) -> None:
        raise NotImplementedError
