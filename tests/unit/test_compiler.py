import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from flashinfer_jit.errors import CompilationError
from flashinfer_jit.jit import cache, codeobject, compiler
from flashinfer_jit.jit.kernels import build_kernel
from support import fake_elf
from support.vector_add import vector_add_key

KEY = vector_add_key()


def failure(monkeypatch, mode: str, **environment: str) -> CompilationError:
    monkeypatch.setenv("FAKE_HIPCC_MODE", mode)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CompilationError) as caught:
        build_kernel(KEY)
    return caught.value


def test_an_error_in_the_source_is_shown_where_it_is(hipcc, monkeypatch, cache_dir) -> None:
    error = failure(monkeypatch, "fail")
    lines = str(error).splitlines()
    kept = cache_dir / "v1" / "failed"
    assert lines[0] == "cannot compile vector_add-x1-q256x0-w4 for gfx942: exit status 1"
    assert lines[1].startswith("  compiler: hipcc (HIP version: 1.0) at ")
    assert lines[2] == "  error:    use of undeclared identifier 'q_farg'"
    assert re.fullmatch(rf"  --> {kept}/gfx942-vector_add-x1-q256x0-w4-\w+/kernel.hip:3:5", lines[3])
    source = (Path(error.log_path).parent / "kernel.hip").read_text().splitlines()
    assert lines[4:6] == [f"      2 | {source[1]}", f"      3 | {source[2]}"]
    assert lines[6].endswith("| " + " " * 4 + "^")
    assert [line.split(":")[0].strip() for line in lines[7:]] == ["hint", "log", "rerun"]


def test_the_rerun_command_repeats_the_failure(hipcc, monkeypatch) -> None:
    error = failure(monkeypatch, "fail")
    again = subprocess.run(error.command, shell=True, capture_output=True, text=True)
    assert again.returncode == 1 and "q_farg" in again.stderr
    assert "q_farg" in Path(error.log_path).read_text()


@pytest.mark.parametrize(
    "mode, said",
    [
        ("silent-fail", "exit status 7"),
        ("garbage", "wrote no usable code object: not a 64-bit little-endian ELF file"),
        ("truncated", "wrote no usable code object"),
        ("no-output", "reported success but wrote no device.hsaco"),
        ("killed", "killed by signal 9 (SIGKILL)"),
    ],
)
def test_a_compiler_that_misbehaves(hipcc, monkeypatch, cache_dir, mode, said) -> None:
    error = failure(monkeypatch, mode)
    assert said in str(error)
    assert Path(error.log_path).exists()
    # No later call is harmed.
    monkeypatch.delenv("FAKE_HIPCC_MODE")
    assert build_kernel(KEY).library.exists()
    assert list((cache_dir / "v1" / "staging").iterdir()) == []


def test_a_compiler_that_was_killed_hints_at_memory(hipcc, monkeypatch) -> None:
    assert "ran out of memory" in str(failure(monkeypatch, "killed"))


def test_a_compiler_that_hangs_is_killed_with_its_children(hipcc, monkeypatch, tmp_path) -> None:
    pids = tmp_path / "pids"
    start = time.monotonic()
    error = failure(monkeypatch, "hang", FAKE_HIPCC_PIDS=str(pids), FLASHINFER_JIT_COMPILE_TIMEOUT="1")
    assert "killed after 1 s" in str(error) and "FLASHINFER_JIT_COMPILE_TIMEOUT" in str(error)
    assert time.monotonic() - start < 10
    for pid in pids.read_text().split():
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_compiler_that_vanished_is_named(hipcc, monkeypatch) -> None:
    build_kernel(KEY)
    os.remove(hipcc)
    with pytest.raises(CompilationError, match=f"cannot run {hipcc}: No such file"):
        build_kernel(vector_add_key(factor=2))


NEEDED, RPATH, RUNPATH = codeobject.DT_NEEDED, codeobject.DT_RPATH, codeobject.DT_RUNPATH


@pytest.mark.parametrize(
    "dynamic, said",
    [
        ((), None),
        (((NEEDED, "libc.so.6"), (NEEDED, "libm.so.6"), (NEEDED, "libgcc_s.so.1")), None),
        (((NEEDED, "libamdhip64.so.6"),), r"NEEDED libamdhip64\.so\.6 ties"),
        (((NEEDED, "libcuda.so"),), "NEEDED libcuda"),
        (((RPATH, "/opt/rocm/lib"),), "RPATH /opt/rocm/lib ties"),
        (((RUNPATH, "$ORIGIN"),), r"RUNPATH \$ORIGIN ties"),
    ],
)
def test_what_ties_a_library_to_a_machine_is_refused(tmp_path, dynamic, said) -> None:
    bundle = codeobject.pack_bundle({"gfx942": fake_elf.code_object("gfx942", KEY.kernel_name)})
    library = tmp_path / "kernel.so"
    library.write_bytes(fake_elf.library(compiler.EXPORTS, bundle, dynamic))
    if said is None:
        assert compiler.verify(KEY, library)["sgpr"] == 14
    else:
        with pytest.raises(compiler.StepFailed, match=said):
            compiler.verify(KEY, library)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: fake_elf.kernel_library("gfx950", KEY.kernel_name, compiler.EXPORTS), "no code for gfx942"),
        (lambda: fake_elf.kernel_library("gfx942", "other", compiler.EXPORTS), "no kernel"),
        (
            lambda: fake_elf.kernel_library("gfx942", KEY.kernel_name, compiler.EXPORTS[1:]),
            "does not export fij_launch",
        ),
        (lambda: fake_elf.code_object("gfx942", KEY.kernel_name), "not a shared library for x86-64"),
        (lambda: b"", "not a 64-bit"),
    ],
)
def test_a_library_that_is_not_what_was_asked_for_is_refused(tmp_path, make, said) -> None:
    library = tmp_path / "kernel.so"
    library.write_bytes(make())
    with pytest.raises(compiler.StepFailed, match=said):
        compiler.verify(KEY, library)


def test_what_is_left_in_the_cache_is_small_and_complete(hipcc, cache_dir) -> None:
    entry = build_kernel(KEY)
    assert sorted(path.name for path in entry.directory.iterdir()) == sorted(
        [cache.SOURCE, cache.LIBRARY, cache.META, cache.LOG]
    )
    log = (entry.directory / cache.LOG).read_text()
    assert log.count("$ ") == 3 and str(cache_dir) not in log
