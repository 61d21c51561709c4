"""What one launch on the emulated GPU did."""

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BufferTraffic:
    """Bytes that a launch moved from and to one piece of memory.

    Attributes
    ----------
    name : str
        The argument's name, or how the memory was allocated.
    address, num_bytes : int
        Where it lies and how long it is.
    read, written : int
        Bytes asked for by active lanes; caches are not modelled, so a byte read twice counts twice.
    """

    name: str
    address: int
    num_bytes: int
    read: int
    written: int


@dataclass(frozen=True)
class Report:
    """What one launch did, counted while its machine code ran.

    Attributes
    ----------
    kernel, arch : str
        The kernel's name and the GPU it ran on.
    grid, block : tuple of int
        Workgroups and work-items per workgroup, x y z.
    lds_bytes : int
        LDS of a workgroup, static and dynamic.
    scratch_bytes : int
        Scratch of a lane.
    threads : int
        Host threads that took part.
    host_seconds : float
        Wall-clock time of the emulation on this host. It says nothing about a GPU.
    instructions : dict of str to int
        Wave instructions by class: salu, smem, valu, mfma, lds, vmem_load ...
    mfma_flops : int
        Floating-point operations of all matrix instructions.
    global_read, global_written, lds_read, lds_written, lds_dma, scratch_read, scratch_written, scalar_read : int
        Bytes by kind of memory.
    lds_accesses : int
        LDS instructions.
    lds_conflict_cycles : int
        Extra cycles that bank conflicts would cost; 0 unless they were counted.
    out_of_range_buffer_lanes, out_of_range_lds_lanes : int
        Lanes whose access the hardware drops: beyond a buffer's num_records, beyond the workgroup's LDS.
    waves, workgroups : int
        How many ran.
    buffers : tuple of BufferTraffic
        Memory that was touched.
    error : dict or None
        Code, name and text of the fault that stopped the launch.
    timing : dict or None
        The timing model's estimate, where one was asked for: ``cycles`` and ``mfma_efficiency`` of the slowest modelled
        compute unit, ``loop_cycles`` and ``loop_mfma_efficiency`` of the steady state of its hottest loop, utilisation,
        stall cycles by reason ... Modelled, never measured on hardware.
    """

    kernel: str
    arch: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    lds_bytes: int
    scratch_bytes: int
    threads: int
    host_seconds: float
    instructions: dict[str, int]
    mfma_flops: int
    global_read: int
    global_written: int
    lds_read: int
    lds_written: int
    lds_dma: int
    scratch_read: int
    scratch_written: int
    scalar_read: int
    lds_accesses: int
    lds_conflict_cycles: int
    out_of_range_buffer_lanes: int
    out_of_range_lds_lanes: int
    waves: int
    workgroups: int
    buffers: tuple[BufferTraffic, ...]
    error: dict[str, Any] | None
    timing: dict[str, Any] | None = None

    @property
    def total_instructions(self) -> int:
        """Wave instructions of all classes."""
        return sum(self.instructions.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dictionaries, lists and numbers, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Return the report that the emulator library wrote."""
        values = json.loads(text)
        values["grid"], values["block"] = tuple(values["grid"]), tuple(values["block"])
        values["buffers"] = tuple(
            BufferTraffic(b["name"], b["address"], b["bytes"], b["read"], b["written"]) for b in values["buffers"]
        )
        return cls(**values)
