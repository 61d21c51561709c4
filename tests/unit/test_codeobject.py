import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashinfer_jit.jit import codeobject
from flashinfer_jit.jit.codeobject import (
    DT_NEEDED,
    DT_RUNPATH,
    Elf,
    FormatError,
    kernel_resources,
    pack_bundle,
    unpack_bundle,
    unpack_msgpack,
)
from support import fake_elf


@given(st.dictionaries(st.sampled_from(["gfx942", "gfx950"]), st.binary(max_size=9000)))
def test_a_bundle_gives_back_what_was_packed(code_objects) -> None:
    bundle = pack_bundle(code_objects)
    assert unpack_bundle(b"before it " + bundle) == code_objects
    assert len(bundle) % 4096 == 0


def test_code_objects_start_on_pages() -> None:
    bundle = pack_bundle({"gfx942": b"A" * 5000, "gfx950": b"B" * 10})
    assert bundle.index(b"AAAA") % 4096 == 0 and bundle.index(b"BBBB") % 4096 == 0


@pytest.mark.parametrize("name", ["hip-amdgcn-amd-amdhsa--gfx942", "hipv4-amdgcn-amd-amdhsa--gfx942:sramecc+:xnack-"])
def test_other_spellings_of_a_bundle_entry_are_understood(name) -> None:
    bundle = pack_bundle({"gfx942": b"code"})
    own = b"hipv4-amdgcn-amd-amdhsa--gfx942"
    at = bundle.index(own)
    renamed = bundle[: at - 8] + len(name).to_bytes(8, "little") + name.encode() + bundle[at + len(own) :]
    # The rest moved by the difference of the lengths; offsets count from the start, so pad it away.
    moved = len(name) - len(own)
    renamed = renamed[: 4096 + moved].rstrip(b"\0").ljust(4096, b"\0") + renamed[4096 + moved :]
    assert unpack_bundle(renamed) == {"gfx942": b"code"}


def test_resources_are_read_from_the_metadata() -> None:
    resources = kernel_resources(fake_elf.code_object("gfx942", "my_kernel", vgpr=264, agpr=112), "my_kernel")
    assert resources == {
        "vgpr": 152, "agpr": 112, "sgpr": 14, "lds_bytes": 4096, "scratch_bytes": 0, "vgpr_spills": 0, "sgpr_spills": 0,
    }  # fmt: skip


def test_another_kernel_is_not_taken_for_it() -> None:
    with pytest.raises(FormatError, match="no kernel 'other'"):
        kernel_resources(fake_elf.code_object("gfx942", "my_kernel"), "other")


def test_dynamic_entries_and_exports_are_read() -> None:
    data = fake_elf.library(("fij_launch", "x"), b"", ((DT_NEEDED, "libamdhip64.so.6"), (DT_RUNPATH, "/opt/rocm/lib")))
    assert Elf(data).dynamic == ((DT_NEEDED, "libamdhip64.so.6"), (DT_RUNPATH, "/opt/rocm/lib"))
    assert Elf(data).exports == {"fij_launch", "x"}


def test_msgpack_values() -> None:
    assert unpack_msgpack(bytes.fromhex("83a161c3a16293017fe0a163cd0102")) == {"a": True, "b": [1, 127, -32], "c": 258}
    assert unpack_msgpack(fake_elf.msgpack({"k": [1, 70000, "s" * 40]})) == {"k": [1, 70000, "s" * 40]}


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" * 100, b"\x7fELF\x01\x01" + bytes(100)])
def test_other_files_are_refused(data) -> None:
    with pytest.raises(FormatError):
        Elf(data)


def test_damaged_files_give_format_errors_and_nothing_else() -> None:
    whole = fake_elf.kernel_library("gfx942", "my_kernel", ("fij_launch",))
    chooser = random.Random(1)

    def read(data: bytes) -> None:
        elf = Elf(data)
        assert elf.exports is not None and elf.dynamic is not None
        kernel_resources(unpack_bundle(data)["gfx942"], "my_kernel")

    read(whole)
    refused = 0
    for _ in range(2000):
        data = bytearray(whole)
        if chooser.random() < 0.5:
            del data[chooser.randrange(len(data)) :]
        for _ in range(chooser.randrange(1, 8)):
            if data:
                # Most of the file is padding; the beginning, the metadata and the section table are what matters.
                at = chooser.choice([chooser.randrange(len(data)), max(0, len(data) - 1 - chooser.randrange(600))])
                data[at] = chooser.randrange(256)
        try:
            read(bytes(data))
        except (FormatError, KeyError):
            refused += 1
    assert refused > 500


def test_metadata_without_the_expected_fields_is_a_format_error() -> None:
    note_type = codeobject.NT_AMDGPU_METADATA
    for metadata in ({}, {"amdhsa.kernels": 3}, {"amdhsa.kernels": [{".name": "k"}]}, {"amdhsa.kernels": ["k"]}):
        packed = fake_elf.msgpack(metadata)
        note = len(b"AMDGPU\0").to_bytes(4, "little") + len(packed).to_bytes(4, "little")
        note += note_type.to_bytes(4, "little") + b"AMDGPU\0\0" + packed
        with pytest.raises(FormatError):
            kernel_resources(fake_elf.elf(codeobject.EM_AMDGPU, [(7, note, 0)]), "k")
