"""Machine code as text: by an llvm-objdump where there is one, else mnemonics by the emulator's own decoder."""

import ctypes
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from flashinfer_jit.emulator.library import load
from flashinfer_jit.emulator.source_lines import sections
from flashinfer_jit.jit import process

_NEWEST, _OLDEST = 30, 18
_LINE = re.compile(r"^\s+(\S.*?)\s*// ([0-9A-Fa-f]+):")


def find_objdumps(beside: Iterable[str] = ()) -> Iterator[str]:
    """Yield the llvm-objdumps: beside a compiler in ``beside``, then on PATH. Old ones may not know the GPU."""
    names = ("llvm-objdump", *(f"llvm-objdump-{n}" for n in range(_NEWEST, _OLDEST - 1, -1)))
    folders = [str(Path(path).resolve().parent) for path in beside]
    for folder in (*folders, None):
        for name in names:
            if found := shutil.which(name, path=folder):
                yield found


def disassemble(code_object: bytes, arch: str, objdumps: Iterable[str]) -> tuple[dict[int, str], str]:
    """Return the instructions of a code object by address, and who read them.

    Parameters
    ----------
    code_object : bytes
        An ELF file.
    arch : str
        ``gfx942`` or ``gfx950``.
    objdumps : iterable of str
        Paths of llvm-objdumps; the first that knows the GPU is used. Without one there are mnemonics without operands.
    """
    with tempfile.NamedTemporaryFile(suffix=".co") as file:
        file.write(code_object)
        file.flush()
        for objdump in objdumps:
            done = process.run([objdump, "-d", f"--mcpu={arch}", file.name])
            found = {int(m[2], 16): m[1] for line in done.output.splitlines() if (m := _LINE.match(line))}
            if done.returncode == 0 and found:
                return found, Path(objdump).name
    return _mnemonics(code_object, arch), "the emulator's decoder (operands need an llvm-objdump)"


def _mnemonics(code_object: bytes, arch: str) -> dict[int, str]:
    text = sections(code_object).get(".text")
    if text is None:
        return {}
    decode = load().fij_emu_decode
    decode.restype = ctypes.c_uint64
    decode.argtypes = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_uint64]
    number = int(arch.removeprefix("gfx"))
    out = ctypes.create_string_buffer(decode(number, text.data, len(text.data), None, 0))
    decode(number, text.data, len(text.data), out, len(out))
    rows = (line.split() for line in out.value.decode().splitlines())
    return {text.address + int(row[0]): row[4] for row in rows}
