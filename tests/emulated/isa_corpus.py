"""Real machine code for the decoder tests: small sources compiled here, and the kernels of this repository."""

import hashlib
import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from emulated.assemble import assembler
from flashinfer_jit.jit.cache import user_root
from flashinfer_jit.jit.codeobject import unpack_bundle

SOURCES = Path(__file__).parent / "corpus"
_FLAGS = ("-x", "c++", "-std=c++17", "-O3", "-ffreestanding", "-nogpulib", "-nogpuinc", "-c")


def compiled(arch: str) -> Iterator[tuple[str, Path]]:
    """Names and object files of the corpus for a GPU, compiled once per compiler."""
    header = (SOURCES / "corpus.h").read_text()
    for source in sorted(SOURCES.glob("*.cpp")):
        driver = assembler()[0]
        key = hashlib.sha256(json.dumps([header, source.read_text(), arch, driver, _FLAGS]).encode()).hexdigest()[:24]
        path = user_root() / "test-objects" / f"{source.stem}-{key}.o"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder) / "made.o"
                argv = [*driver, "--target=amdgcn-amd-amdhsa", f"-mcpu={arch}", *_FLAGS, str(source), "-o", str(made)]
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                os.replace(made, path)
        yield source.stem, path


def kernels(arch: str) -> Iterator[tuple[str, bytes]]:
    """Code objects of the kernels that the cache holds for a GPU: what the tests and the user have compiled."""
    for library in sorted((user_root() / "v1" / arch).glob("**/kernel.so")):
        objects = unpack_bundle(library.read_bytes())
        yield library.parent.parent.parent.name, objects[arch]


def code_sections(elf: bytes) -> Iterator[bytes]:
    """Contents of the executable sections of an ELF file."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    executable, contents = 4, 1  # SHF_EXECINSTR, SHT_PROGBITS
    for index in range(count):
        kind, flags, _, offset, length = struct.unpack_from("<IQQQQ", elf, table + index * size + 4)
        if kind == contents and flags & executable:
            yield elf[offset : offset + length]
