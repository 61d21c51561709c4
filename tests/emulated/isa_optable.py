"""The emulator's op table, as its library exports it."""

import ctypes
import functools
import json
from dataclasses import dataclass

from flashinfer_jit.emulator.library import load


@dataclass(frozen=True)
class Row:
    """One opcode: encoding, number and name, the GPUs that have it, its class, whether it is refused by name."""

    encoding: str
    opcode: int
    name: str
    archs: tuple[str, ...]
    op_class: str
    refused: bool


@functools.cache
def rows() -> tuple[Row, ...]:
    """Every row of every table."""
    export = load().fij_emu_optable_json
    export.restype = ctypes.c_char_p
    table = json.loads(export())
    return tuple(
        Row(
            row["enc"],
            row["opcode"],
            row["name"],
            tuple(a for a in ("gfx942", "gfx950") if row[a]),
            row["class"],
            row["refused"],
        )
        for row in table
    )


@dataclass(frozen=True)
class Decoded:
    """An instruction as the emulator's decoder sees it; `name` is None where no row matches."""

    offset: int
    length: int
    encoding: str
    opcode: int
    name: str | None


def decode(code: bytes, arch: str) -> list[Decoded]:
    """Decode machine code from its first byte on, instruction after instruction."""
    export = load().fij_emu_decode
    export.restype = ctypes.c_uint64
    export.argtypes = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_uint64]
    buffer = ctypes.create_string_buffer(80 * (len(code) // 4 + 1))
    needed = export(int(arch.removeprefix("gfx")), code, len(code), buffer, len(buffer))
    assert needed <= len(buffer), "a line of the decoder is longer than expected"
    decoded = []
    for line in buffer.value.decode().splitlines():
        offset, length, encoding, opcode, name = line.split()
        decoded.append(Decoded(int(offset), int(length), encoding, int(opcode), None if name == "?" else name))
    return decoded
