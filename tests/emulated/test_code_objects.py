"""Code objects of every shape: what real tools write is loaded, and whatever is wrong is a HIP error that says so."""

import ctypes
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from emulated.assemble import assemble
from emulated.fuzz import STORE, bundle, fuzz, fuzz_images, store
from flashinfer_jit import emulator
from flashinfer_jit.emulator import __main__ as command_line
from flashinfer_jit.emulator.library import device_index
from flashinfer_jit.errors import HipError, UnsupportedConfigError

ENDLESS = "1:\n s_nop 0\n s_branch 1b\n s_endpgm"


@pytest.fixture(autouse=True)
def healthy():
    """No test inherits another one's fault or instruction budget."""
    emulator.recover()
    yield
    emulator.load().fij_emu_set_budget(0)
    emulator.recover()


def run_store(image: bytes, arch: str, value: int = 7) -> int:
    out = np.zeros(1, np.int32)
    emulator.run(image, "kernel", 1, 64, (out, value), arch=arch)
    return int(out[0])


# ---- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "hipv4-amdgcn-amd-amdhsa--{arch}",
        "hip-amdgcn-amd-amdhsa--{arch}",
        "hipv4-amdgcn-amd-amdhsa--{arch}:sramecc+:xnack-",
        "hip-amdgcn-amd-amdhsa-unknown-{arch}",
    ],
)
def test_bundles_of_both_drivers(arch, name):
    other = "gfx950" if arch == "gfx942" else "gfx942"
    image = bundle(
        [
            ("host-x86_64-unknown-linux-gnu-", b""),
            (name.format(arch=other), store(other)),
            (name.format(arch=arch), store(arch)),
        ]
    )
    assert run_store(image, arch) == 7


def test_a_bundle_without_this_gpu_names_those_it_has(arch):
    other = "gfx950" if arch == "gfx942" else "gfx942"
    image = bundle([(f"hipv4-amdgcn-amd-amdhsa--{other}", store(other)), ("hipv4-amdgcn-amd-amdhsa--gfx90a", b"x")])
    with pytest.raises(HipError, match=rf"hipErrorNoBinaryForGpu.*{arch}.*{other}, gfx90a"):
        run_store(image, arch)


def test_an_xnack_build_does_not_fit(arch):
    image = bundle([(f"hipv4-amdgcn-amd-amdhsa--{arch}:xnack+", store(arch))])
    with pytest.raises(HipError, match="hipErrorNoBinaryForGpu"):
        run_store(image, arch)


def compress(method: str, data: bytes) -> bytes:
    if method == "zlib":
        import zlib

        return zlib.compress(data)
    names = ("libzstd.so.1", "libzstd.so")
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
        size = library.ZSTD_compressBound(ctypes.c_size_t(len(data)))
        out = ctypes.create_string_buffer(size)
        made = library.ZSTD_compress(out, ctypes.c_size_t(size), data, ctypes.c_size_t(len(data)), 3)
        return out.raw[:made]
    pytest.skip("no libzstd on this machine")


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_compressed_bundles(arch, version, method):
    raw = bundle([(f"hipv4-amdgcn-amd-amdhsa--{arch}", store(arch))])
    packed = compress(method, raw)
    number = {"zlib": 0, "zstd": 1}[method]
    head = b"CCOB" + struct.pack("<HH", version, number)
    sizes = {1: "<I", 2: "<II", 3: "<QQ"}[version]
    total = len(head) + struct.calcsize(sizes) + 8 + len(packed)
    values = (len(raw),) if version == 1 else (total, len(raw))
    image = head + struct.pack(sizes, *values) + bytes(8) + packed
    assert run_store(image, arch) == 7
    for broken in (image[: len(image) // 2], image[:20], image[:-1] + b"\0", image[:6] + b"\x09\0" + image[8:]):
        with pytest.raises(HipError, match="hipErrorInvalidImage"):
            run_store(broken, arch)


def test_clangs_own_compressed_bundle(arch, tmp_path):
    compiler, bundler = shutil.which("clang++-22"), shutil.which("clang-offload-bundler-22")
    if not compiler or not bundler:
        pytest.skip("no clang-offload-bundler here: the formats are covered by hand-made bundles")
    source, made = tmp_path / "object.co", tmp_path / "bundle"
    source.write_bytes(store(arch))
    subprocess.run(
        [
            bundler,
            "-type=o",
            f"-targets=host-x86_64-unknown-linux-gnu,hipv4-amdgcn-amd-amdhsa--{arch}",
            "-input=/dev/null",
            f"-input={source}",
            f"-output={made}",
            "-compress",
        ],
        check=True,
    )
    assert made.read_bytes()[:4] == b"CCOB"
    assert run_store(made.read_bytes(), arch) == 7


def test_a_path_works_as_well_as_bytes(arch, tmp_path):
    path = tmp_path / "kernel.co"
    path.write_bytes(store(arch))
    out = np.zeros(1, np.int32)
    for given in (path, str(path)):
        out[:] = 0
        emulator.run(given, "kernel", 1, 64, (out, 9), arch=arch)
        assert out[0] == 9


def test_raw_kernarg_bytes_and_named_buffers(arch):
    out = np.zeros(1, np.int32)
    kernarg = struct.pack("<QI", out.ctypes.data, 11)
    emulator.run(store(arch), "kernel", 1, 64, kernarg, buffers=[out], arch=arch)
    assert out[0] == 11
    with pytest.raises(HipError, match="hipErrorIllegalAddress"):
        emulator.run(store(arch), "kernel", 1, 64, kernarg, arch=arch)


def test_an_object_without_metadata_takes_raw_kernargs(arch):
    out = np.zeros(1, np.int32)
    image = store(arch, metadata=False)
    emulator.run(image, "kernel", 1, 64, struct.pack("<QI", out.ctypes.data, 12), buffers=[out], arch=arch)
    assert out[0] == 12
    with pytest.raises(UnsupportedConfigError, match="pass the kernarg bytes"):
        emulator.run(image, "kernel", 1, 64, (out, 12), arch=arch)


def test_a_descriptor_that_says_no_kernarg_is_not_believed(arch):
    image = bytearray(store(arch, metadata=False))
    # kernarg_size is the third word of the descriptor, which begins with LDS and scratch sizes.
    at = image.find(struct.pack("<III", 0, 0, 12))
    assert at > 0
    image[at + 8 : at + 12] = bytes(4)
    out = np.zeros(1, np.int32)
    emulator.run(bytes(image), "kernel", 1, 64, struct.pack("<QI", out.ctypes.data, 13), buffers=[out], arch=arch)
    assert out[0] == 13


def test_kernarg_of_512_bytes(arch):
    text = STORE.replace("0x8\n", "0x1fc\n")
    out = np.zeros(1, np.int32)
    kernarg = struct.pack("<Q", out.ctypes.data) + bytes(500) + struct.pack("<I", 14)
    emulator.run(assemble(text, arch, metadata=False), "kernel", 1, 64, kernarg, buffers=[out], arch=arch)
    assert out[0] == 14


def test_preloaded_kernargs_are_in_registers_and_the_prologue_is_skipped(arch):
    # Hardware without preload would run the first 256 bytes, which fault here.
    prologue = "s_trap 2\n" + "s_nop 0\n" * 63
    text = prologue + "v_mov_b32 v1, 0\n v_mov_b32 v2, s4\n global_store_dword v1, v2, s[2:3]\n s_endpgm"
    directives = ".amdhsa_user_sgpr_kernarg_preload_length 3\n .amdhsa_user_sgpr_kernarg_preload_offset 0"
    image = assemble(text, arch, arguments=("ptr", 4), directives=directives)
    assert run_store(image, arch, 15) == 15


@pytest.mark.parametrize("block", [(512,), (1024,), (16, 8, 4), (1, 1, 1), (65,)])
def test_work_item_ids_and_partial_waves(arch, block):
    text = """
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  s_load_dwordx2 s[10:11], s[0:1], 0x8
  v_and_b32 v1, 0x3ff, v0
  v_bfe_u32 v2, v0, 10, 10
  v_bfe_u32 v3, v0, 20, 10
  s_waitcnt lgkmcnt(0)
  v_mad_u32_u24 v2, v3, s11, v2
  v_mad_u32_u24 v1, v2, s10, v1
  v_lshlrev_b32 v1, 2, v1
  global_store_dword v1, v0, s[8:9]
  s_endpgm
"""
    x, y, z = (*block, 1, 1)[:3]
    out = np.full((z, y, x), -1, np.int32)
    emulator.run(assemble(text, arch, arguments=("ptr", 4, 4)), "kernel", 1, block, (out, x, y), arch=arch)
    zz, yy, xx = np.indices((z, y, x))
    np.testing.assert_array_equal(out, xx | yy << 10 | zz << 20)


def test_workgroup_ids(arch):
    text = """
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  s_mul_i32 s5, s4, 3
  s_add_u32 s5, s5, s3
  s_mul_i32 s5, s5, 5
  s_add_u32 s5, s5, s2
  s_lshl_b32 s5, s5, 2
  v_mov_b32 v1, s5
  s_lshl_b32 s3, s3, 8
  s_lshl_b32 s4, s4, 16
  s_or_b32 s2, s2, s3
  s_or_b32 s2, s2, s4
  v_mov_b32 v2, s2
  s_mov_b64 exec, 1
  s_waitcnt lgkmcnt(0)
  global_store_dword v1, v2, s[8:9]
  s_endpgm
"""
    out = np.full((2, 3, 5), -1, np.int32)
    report = emulator.run(assemble(text, arch, arguments=("ptr",)), "kernel", (5, 3, 2), 64, (out,), arch=arch)
    zz, yy, xx = np.indices(out.shape)
    np.testing.assert_array_equal(out, xx | yy << 8 | zz << 16)
    assert report.workgroups == 30 and report.waves == 30


def test_all_the_lds_there_is(arch):
    most = {"gfx942": 65536, "gfx950": 163840}[arch]
    text = f"""
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  v_mov_b32 v1, {most - 4}
  v_mov_b32 v2, 77
  ds_write_b32 v1, v2
  s_waitcnt lgkmcnt(0)
  ds_read_b32 v3, v1
  s_waitcnt lgkmcnt(0)
  v_mov_b32 v1, 0
  global_store_dword v1, v3, s[8:9]
  s_endpgm
"""
    out = np.zeros(1, np.int32)
    for static in (most, 0):
        out[:] = 0
        image = assemble(text, arch, arguments=("ptr",), lds=static)
        emulator.run(image, "kernel", 1, 64, (out,), dynamic_lds=most - static, arch=arch)
        assert out[0] == 77
    with pytest.raises(HipError, match=rf"hipErrorLaunchOutOfResources.*{most + 4} bytes of LDS.*{most}"):
        emulator.run(assemble(text, arch, arguments=("ptr",)), "kernel", 1, 64, (out,), dynamic_lds=most + 4, arch=arch)


def test_barriers_join_the_waves_of_a_group(arch):
    # Each wave writes its number to LDS; after the barrier wave 0 adds them up.
    text = """
  s_load_dwordx2 s[8:9], s[0:1], 0x0
  v_lshrrev_b32 v1, 6, v0
  v_readfirstlane_b32 s5, v1
  s_lshl_b32 s6, s5, 2
  v_mov_b32 v2, s6
  v_mov_b32 v3, s5
  s_mov_b64 exec, 1
  ds_write_b32 v2, v3
  s_waitcnt lgkmcnt(0)
  s_barrier
  s_cmp_lg_u32 s5, 0
  s_cbranch_scc1 2f
  v_mov_b32 v4, 0
  v_mov_b32 v5, 0
  s_mov_b32 s7, 16
1:
  ds_read_b32 v6, v5
  v_add_u32 v5, 4, v5
  s_waitcnt lgkmcnt(0)
  v_add_u32 v4, v4, v6
  s_sub_u32 s7, s7, 1
  s_cmp_lg_u32 s7, 0
  s_cbranch_scc1 1b
  v_mov_b32 v1, 0
  global_store_dword v1, v4, s[8:9]
2:
  s_endpgm
"""
    out = np.zeros(1, np.int32)
    emulator.run(assemble(text, arch, arguments=("ptr",), lds=64), "kernel", 3, 1024, (out,), arch=arch)
    assert out[0] == sum(range(16))


def test_the_command_line_runs_a_kernel_of_a_file(arch, tmp_path, capsys):
    path, saved = tmp_path / "kernel.co", tmp_path / "out.bin"
    path.write_bytes(store(arch))
    options = ["run", str(path), "kernel", "ptr:16", "i32:-5", "--arch", arch, "--save", f"0:{saved}"]
    assert command_line.main([*options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["arch"] == arch and said["waves"] == 1 and said["instructions"]["vmem_store"] == 1
    np.testing.assert_array_equal(np.fromfile(saved, np.int32), [-5, 0, 0, 0])
    assert command_line.main(options) == 0
    assert "64 written" not in capsys.readouterr().err
    assert command_line.main(["run", str(tmp_path / "absent"), "kernel"]) == 1
    assert "No such file" in capsys.readouterr().err


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_not_an_elf(arch):
    for image in (b"", b"hello", b"\x7fELF", bytes(100), store(arch)[:40]):
        with pytest.raises(HipError, match="hipErrorInvalidImage"):
            run_store(image, arch)


def test_a_host_elf_is_no_code_object(arch):
    with pytest.raises(HipError, match=r"hipErrorInvalidImage.*ELF machine 62"):
        run_store(Path("/proc/self/exe").read_bytes(), arch)


def test_another_gpus_code(arch):
    other = "gfx950" if arch == "gfx942" else "gfx942"
    with pytest.raises(HipError, match=rf"hipErrorNoBinaryForGpu.*is for {other}.*device is {arch}"):
        run_store(store(other), arch)


def test_a_missing_kernel_lists_those_there_are(arch):
    with pytest.raises(HipError, match=r"hipErrorNotFound.*no kernel 'other'; it has: kernel"):
        emulator.run(store(arch), "other", 1, 64, (), arch=arch)


def test_truncated_metadata(arch):
    image = store(arch)
    at = image.find(b"amdhsa.kernels")
    start = image.rfind(b"AMDGPU\0", 0, at) + 8
    damaged = bytearray(image)
    # The note says that it ends in the middle of its map.
    struct.pack_into("<I", damaged, start - 16, at - start + 20)
    with pytest.raises(HipError, match=r"hipErrorInvalidImage.*metadata"):
        run_store(bytes(damaged), arch)
    with pytest.raises(HipError, match=r"hipErrorInvalidImage.*truncated"):
        run_store(image[: at + 4], arch)


def test_kernarg_too_short(arch):
    with pytest.raises(HipError, match=r"hipErrorInvalidValue.*has 8 bytes and the arguments take 12"):
        emulator.run(store(arch), "kernel", 1, 64, bytes(8), arch=arch)


@pytest.mark.parametrize(
    ("grid", "block", "what"),
    [
        (0, 64, "grid"),
        ((1, 0), 64, "grid"),
        ((1, 1, 65537), 64, "grid"),
        (1 << 31, 1, "grid"),
        (1 << 27, 64, "grid"),
        (1, 0, "block"),
        (1, (1, 1, 0), "block"),
        (1, 1025, "block"),
        (1, (32, 33), "block"),
        (1, 513, "work-items"),
    ],
)
def test_grid_and_block_out_of_range(arch, grid, block, what):
    out = np.zeros(1, np.int32)
    image = store(arch, max_workgroup_size=512)
    with pytest.raises(HipError, match=rf"hipErrorInvalidConfiguration.*{what}"):
        emulator.run(image, "kernel", grid, block, (out, 1), arch=arch)
    assert out[0] == 0


def test_an_endless_loop_uses_up_its_budget(arch):
    emulator.load().fij_emu_set_budget(100_000)
    with pytest.raises(HipError, match=r"hipErrorLaunchTimeOut.*100000 instructions.*endless loop"):
        emulator.run(assemble(ENDLESS, arch), "kernel", 4, 256, (), arch=arch)


def test_a_barrier_that_not_all_waves_reach(arch):
    text = """
  v_lshrrev_b32 v1, 6, v0
  v_readfirstlane_b32 s5, v1
  s_cmp_eq_u32 s5, 1
  s_cbranch_scc1 1f
  s_barrier
1:
  s_endpgm
"""
    with pytest.raises(HipError, match=r"hipErrorLaunchTimeOut.*s_barrier.*2 of the workgroup's 3 waves wait"):
        emulator.run(assemble(text, arch), "kernel", 1, 192, (), arch=arch)


def test_an_unknown_instruction_is_named(arch):
    with pytest.raises(HipError, match=r"hipErrorLaunchFailure.*'kernel' at pc 0x[0-9a-f]+.*SOP1 0xbe807f00"):
        emulator.run(assemble(".long 0xbe807f00\n s_endpgm", arch), "kernel", 1, 64, (), arch=arch)


def test_a_wild_address_names_everything(arch):
    out = np.zeros(64, np.int32)
    text = STORE.replace("v_mov_b32 v1, 0\n", "v_lshlrev_b32 v1, 2, v0\n")
    image = assemble(text, arch, arguments=("ptr", 4))
    emulator.run(image, "kernel", 1, 64, (out, 1), arch=arch)
    with pytest.raises(HipError) as caught:
        emulator.run(image, "kernel", 1, 128, (out, 1), arch=arch)
    message = str(caught.value)
    for part in ("hipErrorIllegalAddress (700)", "global_store_dword", "'kernel' at pc 0x", "workgroup (0, 0, 0)"):
        assert part in message
    assert "wave 1, lane 0: write of 4 bytes at" in message and "end of" in message and "'args[0]'" in message
    assert caught.value.code == 700
    # The next launch is none the worse for it.
    emulator.run(image, "kernel", 1, 64, (out, 5), arch=arch)
    assert (out == 5).all()


def test_code_that_runs_off_its_end(arch):
    with pytest.raises(HipError, match=r"hipError(IllegalAddress|LaunchFailure).*'kernel'"):
        emulator.run(assemble("s_nop 0", arch), "kernel", 1, 64, (), arch=arch)


def test_an_unlinked_object(arch):
    image = bytearray(store(arch))
    struct.pack_into("<H", image, 16, 1)
    with pytest.raises(HipError, match="not linked"):
        run_store(bytes(image), arch)


def test_arguments_that_do_not_fit(arch):
    image, out = store(arch), np.zeros(1, np.int32)
    for arguments, message in (
        ((out,), "takes 2 arguments and 1"),
        ((out, 1 << 32), "expected an integer"),
        ((out, b"12345"), "has 5 bytes"),
        ((out, out), "is a tensor"),
        ((out, "seven"), "cannot be passed"),
    ):
        with pytest.raises(UnsupportedConfigError, match=message):
            emulator.run(image, "kernel", 1, 64, arguments, arch=arch)
    with pytest.raises(UnsupportedConfigError, match="checks"):
        emulator.run(image, "kernel", 1, 64, (out, 1), arch=arch, checks=("race",))
    with pytest.raises(UnsupportedConfigError):
        emulator.run(image, "kernel", 1, 64, (out, 1), arch="gfx90a")


# ---- damaged objects -------------------------------------------------------------------------------------------------


def test_a_sample_of_damaged_objects_neither_crashes_nor_hangs(arch):
    ran, refused = fuzz(arch, fuzz_images(arch), seed=device_index(arch), count=400)
    # A fuzzer whose mutants all run, or all fail, tests nothing.
    assert ran > 20 and refused > 100
