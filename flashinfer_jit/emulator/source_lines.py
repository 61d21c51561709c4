"""Source lines of machine code: a reader of DWARF line tables (versions 4 and 5), as -gline-tables-only makes them."""

import struct
from bisect import bisect_right
from dataclasses import dataclass

_STRING, _LINE_STRP, _STRP, _UDATA, _DATA1, _DATA2, _DATA4, _DATA16, _BLOCK = 8, 0x1F, 0xE, 0xF, 0xB, 5, 6, 0x1E, 9
_PATH = 1  # DW_LNCT_path


@dataclass(frozen=True)
class SourceLine:
    """A place in a source file.

    Attributes
    ----------
    file : str
        The file's name, without folders.
    line : int
        Counted from 1.
    """

    file: str
    line: int


class _Reader:
    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, layout: str) -> int:
        value = struct.unpack_from("<" + layout, self.data, self.at)[0]
        self.at += struct.calcsize(layout)
        return int(value)

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.take("B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def sleb(self) -> int:
        start = self.at
        value = self.uleb()
        bits = 7 * (self.at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value

    def text(self) -> str:
        end = self.data.index(0, self.at)
        found = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return found


@dataclass(frozen=True)
class ElfSection:
    """A section of an ELF file: its address in memory and its bytes."""

    address: int
    data: bytes


def sections(elf: bytes) -> dict[str, ElfSection]:
    """Return the sections of a 64-bit little-endian ELF file by name."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + n * size) for n in range(count)]
    strings = headers[names][4]
    found = {}
    for name, kind, _, address, offset, length in headers:
        end = elf.index(0, strings + name)
        data = b"" if kind == 8 else elf[offset : offset + length]
        found[elf[strings + name : end].decode()] = ElfSection(address, data)
    return found


class LineTable:
    """Which source line each address of a code object comes from.

    Parameters
    ----------
    code_object : bytes
        An ELF file; without debug information the table is empty.
    """

    def __init__(self, code_object: bytes) -> None:
        parts = {name: section.data for name, section in sections(code_object).items()}
        self._strings = {_LINE_STRP: parts.get(".debug_line_str", b""), _STRP: parts.get(".debug_str", b"")}
        rows: list[tuple[int, SourceLine | None]] = []
        reader = _Reader(parts.get(".debug_line", b""))
        while reader.at < len(reader.data):
            rows += self._unit(reader)
        rows.sort(key=lambda row: row[0])
        self._addresses = [address for address, _ in rows]
        self._lines = [line for _, line in rows]

    def __len__(self) -> int:
        return len(self._addresses)

    def at(self, address: int) -> SourceLine | None:
        """Return the line that the instruction at ``address`` comes from, as far as the compiler said."""
        place = bisect_right(self._addresses, address) - 1
        return self._lines[place] if place >= 0 else None

    def _unit(self, reader: _Reader) -> list[tuple[int, SourceLine | None]]:
        end = reader.take("I")
        end += reader.at
        version = reader.take("H")
        if version not in (4, 5):
            reader.at = end
            return []
        if version == 5:
            reader.take("H")  # address and segment selector sizes
        program = reader.take("I")
        program += reader.at
        granule = reader.take("B")
        reader.take("B")  # operations per instruction: 1 but for VLIW
        reader.take("B")  # default is_stmt
        base, span, first_special = reader.take("b"), reader.take("B"), reader.take("B")
        lengths = [reader.take("B") for _ in range(first_special - 1)]
        files = self._files_5(reader) if version == 5 else self._files_4(reader)
        reader.at = program
        rows: list[tuple[int, SourceLine | None]] = []
        address, file, line = 0, 1, 1

        def here() -> SourceLine | None:
            name = files.get(file, "")
            return SourceLine(name.rpartition("/")[2], line) if line else None

        while reader.at < end:
            code = reader.take("B")
            if code >= first_special:
                step = code - first_special
                address += step // span * granule
                line += base + step % span
                rows.append((address, here()))
            elif code == 0:
                length = reader.uleb()
                after = reader.at + length
                extended = reader.take("B")
                if extended == 1:  # end of sequence: what follows belongs to nobody
                    rows.append((address, None))
                    address, file, line = 0, 1, 1
                elif extended == 2:
                    address = reader.take("Q")
                reader.at = after
            elif code == 1:
                rows.append((address, here()))
            elif code == 2:
                address += reader.uleb() * granule
            elif code == 3:
                line += reader.sleb()
            elif code == 4:
                file = reader.uleb()
            elif code == 8:
                address += (255 - first_special) // span * granule
            elif code == 9:
                address += reader.take("H")
            else:
                for _ in range(lengths[code - 1]):
                    reader.uleb()
        reader.at = end
        return rows

    def _files_5(self, reader: _Reader) -> dict[int, str]:
        for _ in range(2):  # folders, then files
            formats = [(reader.uleb(), reader.uleb()) for _ in range(reader.take("B"))]
            files = {}
            for number in range(reader.uleb()):
                for content, form in formats:
                    value = self._form(reader, form)
                    if content == _PATH:
                        files[number] = str(value)
        return files

    @staticmethod
    def _files_4(reader: _Reader) -> dict[int, str]:
        while reader.text():
            pass
        files: dict[int, str] = {}
        while name := reader.text():
            files[len(files) + 1] = name
            for _ in range(3):
                reader.uleb()
        return files

    def _form(self, reader: _Reader, form: int) -> str | int:
        if form == _STRING:
            return reader.text()
        if form in self._strings:
            return _Reader(self._strings[form], reader.take("I")).text()
        if form == _UDATA:
            return reader.uleb()
        if form == _DATA16:
            reader.at += 16
            return 0
        if form == _BLOCK:
            reader.at += reader.uleb()
            return 0
        return reader.take({_DATA1: "B", _DATA2: "H", _DATA4: "I"}[form])
