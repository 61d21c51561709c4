"""The buffer resource (V#) of MUBUF and MTBUF, and where its lanes' data lie (CDNA4 ISA manual, section 9.1.5)."""

from dataclasses import dataclass

import numpy as np

from emulated.memory_machine import ADDRESS, LANES, MEMORY_BYTES, State, registers

SRSRC, SOFFSET = 36, 45


@dataclass(frozen=True)
class Resource:
    """Buffer resource and addressing bits of an instruction. `start` is the base's distance from the memory block."""

    records: int = MEMORY_BYTES
    stride: int = 0
    start: int = 0
    swizzled: bool = False
    add_thread: bool = False
    index_stride: int = 0  # 0 to 3: 8, 16, 32, 64
    data: int = 4
    number: int = 7
    select: tuple[int, int, int, int] = (4, 5, 6, 7)
    offen: bool = False
    idxen: bool = False
    soffset: int = 0
    offset: int = 0

    def words(self, base: int) -> list[int]:
        """The 128 bits, manual table 48."""
        address = base + self.start
        stride = self.stride & 0x3FFF
        last = sum(s << (3 * n) for n, s in enumerate(self.select)) | self.number << 12
        # With add_thread the data format field holds stride bits 17:14 (of instructions without a format).
        data = self.stride >> 14 if self.add_thread else self.data
        last |= data << 15 | self.index_stride << 21 | int(self.add_thread) << 23
        return [address & 0xFFFFFFFF, address >> 32 | stride << 16 | int(self.swizzled) << 31, self.records, last]

    def text(self) -> str:
        vector = "off"
        if self.idxen or self.offen:
            vector = registers(ADDRESS, 2 if self.idxen and self.offen else 1)
        flags = (" idxen" if self.idxen else "") + (" offen" if self.offen else "")
        return f"{vector}, s[{SRSRC}:{SRSRC + 3}], s{SOFFSET}{flags} offset:{self.offset}"

    def prepare(self, state: State) -> None:
        state.s[SRSRC : SRSRC + 4] = self.words(state.base)
        state.s[SOFFSET] = self.soffset

    def index_and_offset(self, state: State, lane: int) -> tuple[int, int]:
        index = int(state.v[ADDRESS, lane]) if self.idxen else 0
        offset = int(state.v[ADDRESS + int(self.idxen), lane]) if self.offen else 0
        return index + (lane if self.add_thread else 0), offset + self.offset

    def place(self, state: State, lane: int, piece: int, size: int) -> int | None:
        """Position of a lane's piece in the memory block, None when out of range (manual 9.1.5)."""
        index, offset = self.index_and_offset(state, lane)
        offset += piece
        if self.add_thread and not self.idxen:
            inside = True
        elif self.idxen and self.stride:
            inside = index < self.records
        else:
            inside = offset + size <= self.records
        if not inside or (self.data == 0 and not self.add_thread):
            return None
        if self.swizzled:
            group = 8 << self.index_stride
            at = (index // group * self.stride + offset // 4 * 4) * group + index % group * 4 + offset % 4
        else:
            at = index * self.stride + offset
        return self.start + self.soffset + at


def indices(state: State) -> None:
    rng = np.random.default_rng(int(state.v[31, 0]))
    state.v[ADDRESS] = rng.permutation(LANES)
    state.v[ADDRESS, 5], state.v[ADDRESS, 50] = 64, 0x7FFF_FFFF
    state.v[ADDRESS + 1] = rng.integers(0, 3, LANES) * 4
