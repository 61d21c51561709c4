"""What the memory system refuses, by name, and what it allows although it looks odd."""

import numpy as np
import pytest

from emulated.assemble import assemble
from flashinfer_jit import emulator
from flashinfer_jit.errors import HipError

PROLOGUE = """
  s_load_dwordx4 s[4:7], s[0:1], 0x0
  v_and_b32_e32 v0, 63, v0
  v_mov_b32_e32 v1, 0
  s_waitcnt lgkmcnt(0)
  v_mov_b32_e32 v2, s4
  v_mov_b32_e32 v3, s5
"""


def run(body: str, arch: str, data: np.ndarray, *, lds: int = 1024, scratch: int = 64, offset: int = 0):
    """`s[4:5]` and `v[2:3]` point at the data, `s[6:7]` is `offset`, v0 the lane, v1 zero."""
    code = assemble(PROLOGUE + body + "\ns_endpgm", arch, arguments=("ptr", 8), lds=lds, scratch=scratch)
    return emulator.run(code, "kernel", 1, 64, [data, offset], arch=arch)


def refused(
    body: str, arch: str, data: np.ndarray, *words: str, code: str = "hipErrorIllegalAddress", **options
) -> str:
    before = data.copy()
    with pytest.raises(HipError) as caught:
        run(body, arch, data, **options)
    text = str(caught.value)
    for word in (code, *words):
        assert word in text, f"{word!r} is missing in: {text}"
    assert (before == data).all()  # nothing was touched
    return text


@pytest.fixture
def data() -> np.ndarray:
    """4096 bytes in a larger block: what lies beside them is readable by the host, and must not be touched."""
    block = np.arange(12288, dtype=np.uint32).view(np.uint8)
    start = 16384 + (-block.ctypes.data) % 4096
    return block[start : start + 4096]


@pytest.mark.parametrize(
    ("instruction", "size"),
    [
        ("global_load_ubyte v4, v5, s[4:5]", 1),
        ("global_load_dword v4, v5, s[4:5]", 4),
        ("global_load_dwordx3 v[8:10], v5, s[4:5]", 12),
        ("global_load_dwordx4 v[8:11], v5, s[4:5]", 16),
        ("global_store_short v5, v4, s[4:5]", 2),
        ("global_store_dwordx2 v5, v[8:9], s[4:5]", 8),
        ("global_atomic_add v5, v4, s[4:5]", 4),
        ("global_load_lds_dword v5, s[4:5]", 4),
    ],
)
def test_the_last_byte_is_allowed_and_the_next_is_not(arch: str, data: np.ndarray, instruction: str, size: int) -> None:
    name = instruction.split()[0]
    move = "s_mov_b32 m0, 0\nv_mov_b32_e32 v4, 0\nv_mov_b32_e32 v8, 0\nv_mov_b32_e32 v9, 0\nv_mov_b32_e32 v5, s6\n"
    before = data.copy()
    run(move + instruction, arch, data, offset=4096 - size)
    data[:] = before
    step = size if "atomic" in name else 1
    refused(move + instruction, arch, data, name, f"of {size} bytes", "lane 0", offset=4096 - size + step)
    refused(move + instruction, arch, data, name, offset=-step if "atomic" not in name else 4096)


def test_the_message_names_the_lane_and_the_address(arch: str, data: np.ndarray) -> None:
    text = refused(
        "v_lshlrev_b32_e32 v5, 7, v0\nglobal_load_dword v4, v5, s[4:5]", arch, data, "global_load_dword", "lane 32"
    )
    assert f"{data.ctypes.data + 4096:#x}" in text


def test_lanes_that_are_off_touch_nothing(arch: str, data: np.ndarray) -> None:
    body = "v_lshlrev_b32_e32 v5, 7, v0\ns_mov_b64 exec, 0xffff\nglobal_load_dword v4, v5, s[4:5]\ns_mov_b64 exec, 0\n"
    run(body + "v_mov_b32_e32 v5, -1\nglobal_store_dword v5, v5, s[4:5]\nflat_load_dword v4, v[0:1]\n", arch, data)


def test_code_may_read_ahead_within_an_allocation(arch: str) -> None:
    """A view's storage counts: kernels that prefetch the next tile run into the tensor's own memory."""
    import torch

    storage = torch.arange(2048, dtype=torch.float32)
    view = storage[:64]
    code = assemble(PROLOGUE + "global_load_dword v4, v1, s[4:5] offset:1024\ns_endpgm", arch, arguments=("ptr", 8))
    emulator.run(code, "kernel", 1, 64, [view, 0], arch=arch)


@pytest.mark.parametrize(
    "instruction",
    ["s_load_dwordx4 s[8:11], s[4:5], 0xff8", "s_load_dword s8, s[4:5], s6", "s_store_dword s8, s[4:5], 0x1000"],
)
def test_scalar_accesses_are_checked(arch: str, data: np.ndarray, instruction: str) -> None:
    refused(instruction, arch, data, instruction.split()[0], offset=0x7FFF0000)


def test_code_cannot_be_overwritten(arch: str, data: np.ndarray) -> None:
    body = (
        "s_getpc_b64 s[8:9]\nv_mov_b32_e32 v4, 0\nglobal_load_dword v6, v4, s[8:9]\nglobal_store_dword v4, v4, s[8:9]"
    )
    refused(body, arch, data, "global_store_dword", "read-only")


@pytest.mark.parametrize(
    ("instruction", "what"),
    [
        ("global_atomic_add v5, v4, s[4:5]", "multiple of its size"),
        ("global_atomic_add_x2 v6, v[8:9], s[4:5]", "multiple of its size"),
        ("ds_add_u32 v5, v4", "multiple of its size"),
        ("ds_add_u64 v6, v[8:9]", "multiple of its size"),
        ("flat_atomic_add v[10:11], v4", "multiple of its size"),
    ],
)
def test_misaligned_atomics(arch: str, data: np.ndarray, instruction: str, what: str) -> None:
    registers = "v_mov_b32_e32 v5, 2\nv_mov_b32_e32 v6, 4\nv_add_u32_e32 v10, 1, v2\nv_mov_b32_e32 v11, v3\n"
    registers += "v_mov_b32_e32 v4, 0\n"
    refused(
        registers + "v_mov_b32_e32 v8, 0\nv_mov_b32_e32 v9, 0\n" + instruction, arch, data, instruction.split()[0], what
    )


def test_scratch_beyond_the_descriptors_size(arch: str, data: np.ndarray) -> None:
    run("scratch_store_dword off, v0, off offset:60", arch, data)
    refused("scratch_store_dword off, v0, off offset:61", arch, data, "scratch_store_dword", "scratch")
    refused("scratch_load_dwordx4 v[4:7], off, off offset:52", arch, data, "scratch_load_dwordx4", "scratch")
    refused("scratch_load_dword v4, v0, off offset:-4", arch, data, "scratch_load_dword", "scratch")


def test_flat_addresses_outside_every_aperture(arch: str, data: np.ndarray) -> None:
    refused("v_mov_b32_e32 v5, 0x50000\nv_mov_b32_e32 v4, 0\nflat_load_dword v6, v[4:5]", arch, data, "flat_load_dword")


@pytest.mark.parametrize(
    "instruction",
    [
        "ds_gws_init v0 gds",
        "ds_gws_barrier v0 gds",
        "ds_gws_sema_v gds",
        "ds_gws_sema_br v0 gds",
        "ds_gws_sema_p gds",
        "ds_gws_sema_release_all gds",
    ],
)
def test_global_wave_sync_is_refused_by_name(arch: str, data: np.ndarray, instruction: str) -> None:
    refused(instruction, arch, data, instruction.split()[0], code="hipErrorNotSupported")


def test_gds_is_refused(arch: str, data: np.ndarray) -> None:
    refused(
        ".long 0xd8010000, 0x00000402", arch, data, "ds_add_u32", "GDS", code="hipErrorNotSupported"
    )  # ds_add_u32 v2, v4 gds


def test_widths_that_an_arch_lacks(data: np.ndarray) -> None:
    """dwordx3 and dwordx4 into LDS, the transposing reads: gfx950 only."""
    buffer = ".long 0xe05d1000, 0x80020005"  # buffer_load_dwordx4 v5, s[8:11], 0 offen lds
    refused(buffer, "gfx942", data, "buffer_load_dwordx4", code="hipErrorNotSupported")
    for words in ("0xddf48000, 0x00040005", "0xd9c60000, 0x08000000"):  # global_load_lds_dwordx4, ds_read_b64_tr_b16
        refused(f".long {words}", "gfx942", data, "unknown instruction", code="hipErrorLaunchFailure")


def test_transposing_reads_need_whole_blocks_and_alignment(data: np.ndarray) -> None:
    refused("v_mov_b32_e32 v5, 4\nds_read_b64_tr_b16 v[6:7], v5", "gfx950", data, "ds_read_b64_tr_b16", "aligned")
    refused(
        "s_mov_b64 exec, 0xff\nds_read_b64_tr_b8 v[6:7], v1",
        "gfx950",
        data,
        "ds_read_b64_tr_b8",
        "16 active lanes",
        code="hipErrorNotSupported",
    )


def test_formats_that_do_not_exist(arch: str, data: np.ndarray) -> None:
    body = "s_mov_b32 s8, s4\ns_mov_b32 s9, s5\ns_movk_i32 s10, 4096\ns_mov_b32 s11, {:#x}\n"
    body += "buffer_load_format_x v4, off, s[8:11], 0"
    for number, fmt in ((6, 4), (7, 1), (0, 4), (7, 15)):
        refused(
            body.format(number << 12 | fmt << 15),
            arch,
            data,
            "buffer_load_format_x",
            "format",
            code="hipErrorNotSupported",
        )


def test_every_access_through_a_buffer_is_checked_against_memory_too(arch: str, data: np.ndarray) -> None:
    """num_records may lie: an SRD built by hand cannot reach beyond the allocation."""
    body = "s_mov_b32 s8, s4\ns_mov_b32 s9, s5\ns_mov_b32 s10, 0x10000\ns_mov_b32 s11, 0x27000\n"
    body += "v_lshlrev_b32_e32 v5, 7, v0\nbuffer_load_dword v4, v5, s[8:11], 0 offen"
    refused(body, arch, data, "buffer_load_dword", "lane 32")


def test_byte_counters(arch: str, data: np.ndarray) -> None:
    body = "v_lshlrev_b32_e32 v5, 4, v0\nglobal_load_dwordx4 v[8:11], v5, s[4:5]\ns_mov_b64 exec, 0xf\n"
    body += "global_store_dwordx2 v5, v[8:9], s[4:5]\n"
    body += "ds_read_b64 v[8:9], v5\nds_write_b32 v5, v8\ns_load_dwordx8 s[8:15], s[4:5], 0x0\n"
    body += "scratch_store_dword off, v8, off"
    report = run(body, arch, data.copy())
    assert (report.global_read, report.global_written) == (64 * 16, 4 * 8)
    assert (report.lds_read, report.lds_written, report.scratch_written) == (32, 16, 16)
    buffer = next(b for b in report.buffers if b.name == "args[0]")
    assert (buffer.read, buffer.written) == (64 * 16 + 32, 32)
