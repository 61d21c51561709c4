"""Reading and packing compiled kernels: ELF files, AMDGPU code objects in them, and the fat binary that joins the two.

Formats: System V ABI (ELF64), clang's offload bundle (ClangOffloadBundler documentation), LLVM's AMDGPU code object
metadata (a msgpack map in an ELF note of type 32).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

BUNDLE_MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
EM_X86_64, EM_AMDGPU = 62, 224
ET_DYN = 3
SHT_DYNSYM, SHT_DYNAMIC, SHT_NOTE = 11, 6, 7
DT_NEEDED, DT_RPATH, DT_RUNPATH = 1, 15, 29
NT_AMDGPU_METADATA = 32
# The HIP runtime maps code objects from the fat binary, so each starts on a page.
PAGE = 4096


class FormatError(ValueError):
    """The bytes are not what they should be: cut off, corrupted, or another kind of file."""


@dataclass(frozen=True)
class Section:
    """One ELF section: its type, its bytes and the index of the section it refers to."""

    kind: int
    offset: int
    size: int
    link: int


class Elf:
    """An ELF64 little-endian file in memory; raises FormatError for anything else."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
            raise FormatError("not a 64-bit little-endian ELF file")
        self.type, self.machine = struct.unpack_from("<HH", data, 16)
        self.section_offset, self.flags = struct.unpack_from("<QI", data, 40)
        self.section_entry_size, self.num_sections = struct.unpack_from("<HH", data, 58)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections."""
        try:
            return tuple(self._read_sections())
        except struct.error:
            raise FormatError("the ELF section table is cut off") from None

    def _read_sections(self) -> Iterator[Section]:
        for index in range(self.num_sections):
            at = self.section_offset + index * self.section_entry_size
            kind, _, _, offset, size, link = struct.unpack_from("<IQQQQI", self.data, at + 4)
            if kind != 8 and offset + size > len(self.data):  # 8: SHT_NOBITS takes no room in the file
                raise FormatError("an ELF section ends behind the end of the file")
            yield Section(kind, offset, size, link)

    def _string(self, table: Section, offset: int) -> str:
        start = table.offset + offset
        end = self.data.find(b"\0", start, table.offset + table.size)
        if end < 0:
            raise FormatError("an ELF string has no end")
        return self.data[start:end].decode("utf-8", "replace")

    def _of_kind(self, kind: int) -> Iterator[Section]:
        return (section for section in self.sections if section.kind == kind)

    def _linked(self, section: Section) -> Section:
        if section.link >= len(self.sections):
            raise FormatError("an ELF section refers to a section that does not exist")
        return self.sections[section.link]

    @cached_property
    def dynamic(self) -> tuple[tuple[int, str], ...]:
        """The DT_NEEDED, DT_RPATH and DT_RUNPATH entries with their text."""
        found = []
        for section in self._of_kind(SHT_DYNAMIC):
            strings = self._linked(section)
            for at in range(section.offset, section.offset + section.size - 15, 16):
                tag, value = struct.unpack_from("<QQ", self.data, at)
                if tag in (DT_NEEDED, DT_RPATH, DT_RUNPATH):
                    found.append((tag, self._string(strings, value)))
        return tuple(found)

    @cached_property
    def exports(self) -> frozenset[str]:
        """Names of the dynamic symbols that the file defines."""
        names = set()
        for section in self._of_kind(SHT_DYNSYM):
            strings = self._linked(section)
            for at in range(section.offset, section.offset + section.size - 23, 24):
                name, _, _, index = struct.unpack_from("<IBBH", self.data, at)
                if index != 0:
                    names.add(self._string(strings, name))
        return frozenset(names)

    def note(self, kind: int) -> bytes | None:
        """Return the contents of the first note of a type."""
        for section in self._of_kind(SHT_NOTE):
            at, end = section.offset, section.offset + section.size
            while at + 12 <= end:
                name_size, size, note_kind = struct.unpack_from("<III", self.data, at)
                start = at + 12 + (name_size + 3) // 4 * 4
                if note_kind == kind:
                    return self.data[start : start + size]
                at = start + (size + 3) // 4 * 4
        return None


def unpack_msgpack(data: bytes) -> Any:
    """Return the value of a msgpack text, as far as code object metadata uses the format."""
    try:
        value, _ = _msgpack(data, 0)
    except (struct.error, IndexError, TypeError, RecursionError):
        raise FormatError("msgpack data is cut off or damaged") from None
    return value


_MSGPACK_SCALARS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_MSGPACK_SIZES = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}


def _msgpack(data: bytes, at: int) -> tuple[Any, int]:
    tag = data[at]
    at += 1
    if tag <= 0x7F:
        return tag, at
    if tag >= 0xE0:
        return tag - 0x100, at
    if tag in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[tag], at
    if tag in _MSGPACK_SCALARS:
        layout = _MSGPACK_SCALARS[tag]
        return struct.unpack_from(layout, data, at)[0], at + struct.calcsize(layout)
    if tag in _MSGPACK_SIZES:
        layout = _MSGPACK_SIZES[tag]
        size, at = struct.unpack_from(layout, data, at)[0], at + struct.calcsize(layout)
    elif tag <= 0xBF:
        size = tag & (0x1F if tag >= 0xA0 else 0x0F)
    else:
        raise FormatError(f"msgpack type 0x{tag:02x} is not expected here")
    if 0xA0 <= tag <= 0xBF or 0xD9 <= tag <= 0xDB:
        if at + size > len(data):
            raise FormatError("a msgpack string is cut off")
        return data[at : at + size].decode("utf-8", "replace"), at + size
    if 0x90 <= tag <= 0x9F or tag in (0xDC, 0xDD):
        items = []
        for _ in range(size):
            item, at = _msgpack(data, at)
            items.append(item)
        return items, at
    entries = {}
    for _ in range(size):
        name, at = _msgpack(data, at)
        entries[name], at = _msgpack(data, at)
    return entries, at


def kernel_resources(code_object: bytes, kernel_name: str) -> dict[str, int]:
    """Return what a kernel takes of the GPU, read from the code object itself.

    Returns
    -------
    dict
        ``vgpr`` and ``agpr`` (vector registers of a lane, apart), ``sgpr``, ``lds_bytes`` (static, of a workgroup),
        ``scratch_bytes`` (of a lane), ``vgpr_spills`` and ``sgpr_spills``.

    Raises
    ------
    FormatError
        If it is no AMDGPU code object or has no such kernel.
    """
    elf = Elf(code_object)
    note = elf.note(NT_AMDGPU_METADATA) if elf.machine == EM_AMDGPU else None
    if note is None:
        raise FormatError("not an AMDGPU code object with metadata")
    try:
        kernels = {kernel[".name"]: kernel for kernel in unpack_msgpack(note)["amdhsa.kernels"]}
        if kernel_name not in kernels:
            raise FormatError(f"the code object has no kernel {kernel_name!r}")
        kernel = kernels[kernel_name]
        # .vgpr_count is the unified total where acc registers are used.
        agpr = int(kernel.get(".agpr_count", 0))
        return {
            "vgpr": int(kernel[".vgpr_count"]) - agpr,
            "agpr": agpr,
            "sgpr": int(kernel[".sgpr_count"]),
            "lds_bytes": int(kernel[".group_segment_fixed_size"]),
            "scratch_bytes": int(kernel[".private_segment_fixed_size"]),
            "vgpr_spills": int(kernel.get(".vgpr_spill_count", 0)),
            "sgpr_spills": int(kernel.get(".sgpr_spill_count", 0)),
        }
    except (KeyError, TypeError, AttributeError):
        raise FormatError("the code object's metadata lacks what HIP needs") from None


def pack_bundle(code_objects: Mapping[str, bytes]) -> bytes:
    """Return the fat binary of code objects by architecture name, as clang's offload bundler writes it."""
    # The HIP runtime expects an (empty) entry of the host first.
    entries = [("host-x86_64-unknown-linux-gnu-", b"")]
    entries += [(f"hipv4-amdgcn-amd-amdhsa--{arch}", data) for arch, data in code_objects.items()]
    header_size = len(BUNDLE_MAGIC) + 8 + sum(24 + len(name) for name, _ in entries)
    header, body, offset = (
        [BUNDLE_MAGIC, struct.pack("<Q", len(entries))],
        bytearray(),
        PAGE * (header_size // PAGE + 1),
    )
    first = offset
    for name, data in entries:
        header.append(struct.pack("<QQQ", offset, len(data), len(name)) + name.encode())
        body += data + bytes(-len(data) % PAGE)
        offset = first + len(body)
    return b"".join(header).ljust(first, b"\0") + bytes(body)


def unpack_bundle(data: bytes) -> dict[str, bytes]:
    """Return code objects by architecture name (without features) of the first fat binary found in ``data``.

    Raises FormatError if there is none or it is cut off.
    """
    base = data.find(BUNDLE_MAGIC)
    if base < 0:
        raise FormatError("there is no fat binary in it")
    found = {}
    try:
        at = base + len(BUNDLE_MAGIC)
        (count,) = struct.unpack_from("<Q", data, at)
        at += 8
        for _ in range(count):
            offset, size, name_size = struct.unpack_from("<QQQ", data, at)
            name = data[at + 24 : at + 24 + name_size].decode("utf-8", "replace")
            at += 24 + name_size
            if base + offset + size > len(data):
                raise FormatError("a code object ends behind the end of the file")
            if not name.startswith("host"):
                found[name.split("--", 1)[-1].split(":", 1)[0]] = data[base + offset : base + offset + size]
    except struct.error:
        raise FormatError("the fat binary is cut off") from None
    return found
