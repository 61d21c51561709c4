"""The emulator's decoder against two others: the tables of the tinygrad wheel, and llvm-objdump where present."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from tinygrad.renderer.amd import decode_inst

from emulated.assemble import assemble
from emulated.isa_corpus import code_sections, compiled, kernels
from emulated.isa_operands import member
from emulated.isa_optable import Decoded, decode, rows
from emulated.isa_samples import samples
from emulated.test_single_prefill import kernel_keys
from flashinfer_jit.jit.arch import get_arch
from flashinfer_jit.jit.kernels import build_kernel

# Names that differ: LLVM's, which the emulator uses, by AMD's.
LLVM_NAMES = {
    "v_mad_mix_f32": "v_fma_mix_f32",
    "v_mad_mixlo_f16": "v_fma_mixlo_f16",
    "v_mad_mixhi_f16": "v_fma_mixhi_f16",
    "v_accvgpr_read": "v_accvgpr_read_b32",
    "v_accvgpr_write": "v_accvgpr_write_b32",
    "v_mfma_scale_f32_16x16x128_f8f6f4": "v_mfma_f32_16x16x128_f8f6f4",
    "v_mfma_scale_f32_32x32x64_f8f6f4": "v_mfma_f32_32x32x64_f8f6f4",
}
# Opcodes of the emulator that AMD's published tables lack; LLVM has them.
NOT_IN_TABLES = {"ds_gws_init", "ds_gws_sema_br", "ds_gws_barrier"}
MOST_INSTRUCTIONS = 60_000


def plain(name: str) -> str:
    name = re.sub(r"_(e32|e64|sdwa|dpp|e64_dpp)$", "", name.lower())
    return LLVM_NAMES.get(name, name)


def by_tinygrad(code: bytes, known: dict[bytes, tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Offset, length and name of each instruction. `known` keeps what was decoded before, by its longest encoding."""
    found, at = [], 0
    padded = code + bytes(16)
    while at + 4 <= len(code):
        # The wheel takes any instruction in front of a matrix instruction for one of 16 bytes: those start with D3AC.
        window = padded[at : at + (16 if padded[at + 2 : at + 4] == b"\xac\xd3" else 8)]
        if window not in known:
            instruction = decode_inst(window, "cdna")
            known[window] = (instruction.size(), plain(instruction.op_name))
        length, name = known[window]
        found.append((at, length, name))
        at += length
    return found


def without_padding(code: bytes, arch: str) -> list[Decoded]:
    """Instructions up to the fill words that linkers put behind a kernel (zero words, s_code_end, s_nop)."""
    fill = (bytes(4), 0xBF9F0000.to_bytes(4, "little"))
    end = len(code)
    while end >= 4 and code[end - 4 : end] in fill:
        end -= 4
    return decode(code[:end], arch)


def compare_with_tinygrad(name: str, elf: bytes, arch: str, known: dict[bytes, tuple[int, str]]) -> Counter[str]:
    seen: Counter[str] = Counter()
    for code in code_sections(elf):
        ours = without_padding(code, arch)
        if not ours:
            continue
        end = ours[-1].offset + ours[-1].length
        theirs = by_tinygrad(code[:end], known)
        for mine, (offset, length, mnemonic) in zip(ours, theirs, strict=True):
            words = code[mine.offset : mine.offset + 8].hex()
            assert (mine.offset, mine.length, mine.name) == (offset, length, mnemonic), (
                f"{name} at {offset:#x}: {words}"
            )
        seen.update(mine.name or "" for mine in ours)
    return seen


def test_corpus_decodes_as_in_amds_tables(arch: str) -> None:
    known: dict[bytes, tuple[int, str]] = {}
    seen: Counter[str] = Counter()
    for name, path in compiled(arch):
        seen += compare_with_tinygrad(name, path.read_bytes(), arch, known)
    assert seen.total() > 4000 and len(seen) > 400, "the corpus has shrunk"
    assert set(seen) <= {row.name for row in rows() if arch in row.archs and not row.refused}


def test_kernels_decode_as_in_amds_tables(arch: str) -> None:
    for key in sorted(kernel_keys(get_arch(arch)), key=str)[:4]:
        build_kernel(key)
    known: dict[bytes, tuple[int, str]] = {}
    checked = 0
    for name, elf in kernels(arch):
        checked += compare_with_tinygrad(name, elf, arch, known).total()
        if len(known) > MOST_INSTRUCTIONS:
            break
    assert checked > 1000


def objdump() -> str:
    for name in ("llvm-objdump-22", "llvm-objdump"):
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("llvm-objdump is not installed: the decoder is compared with tinygrad's tables only")


def by_llvm(path: Path, arch: str) -> dict[str, list[tuple[int, str]]]:
    """Addresses and mnemonics by section. Words that LLVM cannot decode have the name ``.long``."""
    argv = [objdump(), "-d", f"--mcpu={arch}", str(path)]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    sections: dict[str, list[tuple[int, str]]] = {}
    section = ""
    for line in text.splitlines():
        title = re.match(r"Disassembly of section (\S+):", line)
        if title:
            section = title.group(1)
        found = re.match(r"\s+(\S+).*// ([0-9A-F]+): ", line)
        if found:
            sections.setdefault(section, []).append((int(found.group(2), 16), plain(found.group(1))))
    return sections


def test_corpus_decodes_as_in_llvm(arch: str) -> None:
    checked = 0
    for name, path in compiled(arch):
        theirs = [entry for section in by_llvm(path, arch).values() for entry in section]
        ours = [entry for code in code_sections(path.read_bytes()) for entry in without_padding(code, arch)]
        # Sections of one object start at address 0 each; the order is the file's.
        for mine, (address, mnemonic) in zip(ours, [e for e in theirs if e[1] != "s_code_end"], strict=False):
            expected = LLVM_NAMES.get(mnemonic, mnemonic)
            assert (mine.offset, mine.name) == (address, expected), f"{name} at {address:#x}"
            checked += 1
    assert checked > 4000


def test_table_has_each_opcode_once_under_amds_name() -> None:
    seen = set()
    for row in rows():
        for arch in row.archs:
            assert (row.encoding, row.opcode, arch) not in seen, f"{row.name} has two rows"
            seen.add((row.encoding, row.opcode, arch))
        operation = member(row.encoding, row.opcode)
        if operation is None:
            assert row.name in NOT_IN_TABLES
        else:
            assert plain(operation.name) == row.name


def test_every_row_decodes_to_itself(arch: str) -> None:
    for row in rows():
        if arch not in row.archs:
            continue
        for words in samples(row.encoding, row.opcode, row.name):
            code = b"".join(word.to_bytes(4, "little") for word in words)
            (found,) = decode(code, arch)
            assert (found.name, found.length) == (row.name, len(code))


def test_rows_belong_to_the_gpus_that_llvm_gives_them(tmp_path: Path, arch: str) -> None:
    """A row marked for a GPU is one that LLVM decodes for it, and LLVM decodes no opcode that is not marked."""
    lines, places = [], []
    names = {(row.encoding, row.opcode): row.name for row in rows()}
    marked = {(row.encoding, row.opcode) for row in rows() if arch in row.archs}
    offset = 0
    for (encoding, opcode), name in names.items():
        for words in samples(encoding, opcode, name):
            lines += [".long " + ", ".join(f"{word:#x}" for word in words), "s_nop 0"]
            places.append((offset, encoding, opcode))
            offset += 4 * len(words) + 4
    path = tmp_path / "samples.o"
    path.write_bytes(assemble("\n".join([*lines, "s_endpgm", ""]), arch))
    (entries,) = by_llvm(path, arch).values()
    base = entries[0][0]
    decoded = dict(entries)
    known_to_llvm = set()
    for offset, encoding, opcode in places:
        if decoded.get(base + offset) == names[encoding, opcode]:
            known_to_llvm.add((encoding, opcode))
    missing = {names[key] for key in marked - known_to_llvm}
    assert not missing, f"marked for {arch}, unknown to LLVM: {sorted(missing)}"
    extra = {names[key] for key in known_to_llvm - marked}
    assert not extra, f"LLVM has these for {arch}: {sorted(extra)}"


def test_cut_off_instructions_are_not_read_past_their_end(arch: str) -> None:
    for row in rows():
        if arch not in row.archs:
            continue
        for words in samples(row.encoding, row.opcode, row.name):
            for count in range(1, len(words)):
                code = b"".join(word.to_bytes(4, "little") for word in words[:count])
                first = decode(code, arch)[0]
                assert first.name is None or first.length <= len(code)
