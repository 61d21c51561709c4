"""Writes ELF files that hold just what the product reads of them: dynamic entries, symbols, a metadata note."""

import struct

# The numbers again, not the product's: the fake compiler is started hundreds of times and must start fast.
EM_X86_64, EM_AMDGPU, ET_DYN = 62, 224, 3
MACHINES = {"gfx942": 0x54C, "gfx950": 0x54F}


def elf(machine: int, sections: list[tuple[int, bytes, int]], flags: int = 0, kind: int = ET_DYN) -> bytes:
    """Return an ELF file of ``(section type, contents, index of the linked section)``; section 0 is added."""
    body, table = bytearray(), [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    for section_type, contents, link in sections:
        body += bytes(-(64 + len(body)) % 8)
        table.append(struct.pack("<IIQQQQIIQQ", 0, section_type, 0, 0, 64 + len(body), len(contents), link, 0, 8, 0))
        body += contents
    body += bytes(-(64 + len(body)) % 8)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 0, 64 + len(body), flags, 64, 0, 0, 64, len(table), 0)
    return header + bytes(body) + b"".join(table)


def msgpack(value: object) -> bytes:
    """Return ``value`` in msgpack, in the forms that LLVM writes."""
    if isinstance(value, dict):
        return b"\xde" + struct.pack(">H", len(value)) + b"".join(msgpack(k) + msgpack(v) for k, v in value.items())
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(msgpack, value))
    if isinstance(value, str):
        return b"\xd9" + bytes([len(value)]) + value.encode()
    assert isinstance(value, int)
    return bytes([value]) if value < 128 else b"\xce" + struct.pack(">I", value)


def code_object(arch: str, kernel_name: str, vgpr: int = 8, agpr: int = 0) -> bytes:
    """Return an AMDGPU code object of one kernel, without code."""
    kernel = {
        ".name": kernel_name, ".vgpr_count": vgpr, ".agpr_count": agpr, ".sgpr_count": 14,
        ".group_segment_fixed_size": 4096, ".private_segment_fixed_size": 0,
        ".vgpr_spill_count": 0, ".sgpr_spill_count": 0,
    }  # fmt: skip
    metadata = msgpack({"amdhsa.kernels": [kernel], "amdhsa.target": f"amdgcn-amd-amdhsa--{arch}"})
    note = struct.pack("<III", 7, len(metadata), 32) + b"AMDGPU\0\0" + metadata
    return elf(EM_AMDGPU, [(7, note, 0)], flags=MACHINES[arch])


def library(exports: tuple[str, ...], bundle: bytes, dynamic: tuple[tuple[int, str], ...] = ()) -> bytes:
    """Return a shared library with these dynamic symbols, fat binary and dynamic entries, without code."""
    strings, symbols, entries = bytearray(b"\0"), bytearray(24), bytearray()
    for name in exports:
        symbols += struct.pack("<IBBHQQ", len(strings), 0x12, 0, 1, 0, 0)
        strings += name.encode() + b"\0"
    for tag, text in dynamic:
        entries += struct.pack("<QQ", tag, len(strings))
        strings += text.encode() + b"\0"
    sections = [(3, bytes(strings), 0), (11, bytes(symbols), 1), (6, bytes(entries), 1), (1, bundle, 0)]
    return elf(EM_X86_64, sections)


def kernel_library(arch: str, kernel_name: str, exports: tuple[str, ...]) -> bytes:
    """Return a whole kernel library as far as the product's checks go."""
    from flashinfer_jit.jit.codeobject import pack_bundle

    return library(exports, pack_bundle({arch: code_object(arch, kernel_name)}))
