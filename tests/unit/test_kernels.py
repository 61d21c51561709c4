import ctypes
import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from flashinfer_jit.errors import ArchMismatchError, InvalidSettingError, KernelLoadError, MissingKernelError
from flashinfer_jit.jit import kernels, loader
from flashinfer_jit.jit.cache import Entry
from flashinfer_jit.jit.compiler import EXPORTS
from flashinfer_jit.jit.kernels import build_kernel, freeze, get_kernel, on_compile
from support import fake_elf
from support.vector_add import vector_add_key

KEY = vector_add_key()


class FakeRuntime:
    """Counts what is asked of it."""

    def __init__(self) -> None:
        self.prepared = 0
        self.capturing = False

    def prepare_for_loading(self) -> None:
        self.prepared += 1

    def error_name(self, code: int) -> str:
        return f"hipError{code}"

    def is_capturing(self) -> bool:
        return self.capturing


@pytest.fixture
def loads(monkeypatch):
    """Kernels that were loaded, instead of loading them: the fake compiler's libraries hold no code."""
    loaded = []

    def load(entry, key, runtime):
        runtime.prepare_for_loading()
        loaded.append(key)
        return loader.Kernel(key, key.kernel_name, lambda *_: 0, ctypes.Structure, entry.meta, entry, None, runtime)

    monkeypatch.setattr(kernels, "load", load)
    return loaded


@pytest.fixture
def melt():
    """Ends whatever freeze a test leaves behind."""
    yield
    freeze("off")


# From a key to a kernel


def test_a_kernel_is_built_and_loaded_once(hipcc, loads) -> None:
    runtime = FakeRuntime()
    first = get_kernel(KEY, runtime)
    assert get_kernel(vector_add_key(), runtime) is first
    assert (loads, runtime.prepared) == ([KEY], 1)


def test_threads_that_ask_at_once_get_one_kernel(hipcc, loads) -> None:
    runtime, barrier, got = FakeRuntime(), threading.Barrier(8), []

    def ask() -> None:
        barrier.wait()
        got.append(get_kernel(KEY, runtime))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and len(set(map(id, got))) == 1 and loads == [KEY]


def test_a_forked_child_can_go_on(hipcc, loads) -> None:
    get_kernel(KEY, FakeRuntime())
    with kernels._guard:
        child = os.fork()
        if child == 0:
            try:
                get_kernel(KEY, FakeRuntime())
                get_kernel(vector_add_key(factor=2), FakeRuntime())
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_loaded_while_a_stream_is_captured(hipcc, loads) -> None:
    runtime = FakeRuntime()
    runtime.capturing = True
    with pytest.raises(MissingKernelError, match="captured. Run the call once before"):
        get_kernel(KEY, runtime)
    assert not loads
    runtime.capturing = False
    kernel = get_kernel(KEY, runtime)
    runtime.capturing = True
    assert get_kernel(KEY, runtime) is kernel


# Not compiling


def test_disable_forbids_compiling_and_allows_what_is_there(hipcc, monkeypatch) -> None:
    build_kernel(KEY)
    monkeypatch.setenv("FLASHINFER_JIT_DISABLE", "1")
    build_kernel(KEY)
    other = vector_add_key(factor=2)
    with pytest.raises(MissingKernelError) as caught:
        build_kernel(other)
    command = f"python -m flashinfer_jit.warmup --key '{other.canonical_json()}'"
    assert str(caught.value) == f"{other} is not compiled, and FLASHINFER_JIT_DISABLE=1. Run: {command}"


def test_disable_needs_no_compiler_to_say_so(cache_dir, vector_add_template, monkeypatch) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_DISABLE", "1")
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", "/nowhere/hipcc")
    with pytest.raises(MissingKernelError):
        build_kernel(KEY)


def test_freeze(hipcc, caplog, melt) -> None:
    build_kernel(KEY)
    with freeze("error"):
        build_kernel(KEY)
        with pytest.raises(MissingKernelError, match=r"freeze\(\) is in force.*warmup --key"):
            build_kernel(vector_add_key(factor=2))
        with freeze("warn"):
            build_kernel(vector_add_key(factor=2))
        assert "compiled although freeze('warn') is in force" in caplog.text
        with pytest.raises(MissingKernelError):
            build_kernel(vector_add_key(factor=3))
    build_kernel(vector_add_key(factor=3))
    freeze()
    with pytest.raises(MissingKernelError):
        build_kernel(vector_add_key(factor=4))


def test_freeze_with_a_wrong_mode_changes_nothing(hipcc, melt) -> None:
    with pytest.raises(InvalidSettingError, match="mode='eror' is not allowed: expected 'off', 'warn', 'error'"):
        freeze("eror")
    build_kernel(KEY)


# Being told


def test_hooks_see_compilations_and_only_those(hipcc) -> None:
    events = []
    remove = on_compile(events.append)
    try:
        entry = build_kernel(KEY)
        build_kernel(KEY)
        assert [(event.key, event.entry) for event in events] == [(KEY, entry)]
        assert 0 < events[0].seconds < 60
    finally:
        remove()
    remove()
    build_kernel(vector_add_key(factor=2))
    assert len(events) == 1


def test_the_log_says_that_it_compiles_and_how_to_avoid_it(hipcc, caplog) -> None:
    with caplog.at_level(logging.DEBUG, "flashinfer_jit"):
        build_kernel(KEY)
    assert "compiling vector_add-x1-q256x0-w4 for gfx942 with hipcc (HIP version: 1.0)" in caplog.text
    assert "to compile ahead: python -m flashinfer_jit.warmup --key" in caplog.text
    assert "compile: done in " in caplog.text


def test_used_kernels_are_recorded_once_a_process(hipcc, loads, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_RECORD", str(tmp_path / "record"))
    for key in (KEY, vector_add_key(factor=2), KEY):
        get_kernel(key, FakeRuntime())
    lines = (tmp_path / "record").read_text().splitlines()
    assert [kernels.key_from_dict(json.loads(line)) for line in lines] == [KEY, vector_add_key(factor=2)]


def test_a_record_that_cannot_be_written_is_a_wrong_setting(hipcc, loads, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_RECORD", str(tmp_path / "none" / "record"))
    with pytest.raises(
        InvalidSettingError, match="FLASHINFER_JIT_RECORD=.*/none/record' is not allowed: expected a file"
    ):
        get_kernel(KEY, FakeRuntime())


def test_a_prebuilt_folder_that_is_not_there_is_said_once(hipcc, monkeypatch, tmp_path, caplog) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_PREBUILT_PATH", str(tmp_path / "none"))
    for factor in (1, 2):
        build_kernel(vector_add_key(factor=factor))
    assert caplog.text.count(f"FLASHINFER_JIT_PREBUILT_PATH: there is no directory {tmp_path / 'none'}") == 1


def test_misspelt_variables_are_named_at_the_first_kernel(hipcc, monkeypatch, caplog) -> None:
    monkeypatch.setattr(kernels, "_started", False)
    monkeypatch.setenv("FLASHINFER_JIT_CACHEDIR", "/x")
    build_kernel(KEY)
    assert "FLASHINFER_JIT_CACHEDIR is set but is not one of the variables" in caplog.text


def test_building_needs_neither_torch_nor_a_device(hipcc) -> None:
    script = "import sys\nfrom support.vector_add import vector_add_key\n"
    script += "from flashinfer_jit.jit.kernels import build_kernel\n"
    script += "build_kernel(vector_add_key())\nprint([m for m in ('torch', 'hip', 'rocm') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Files that are not what they should be are found out before the dynamic linker runs their start-up code


@pytest.mark.parametrize(
    "data, error, said",
    [
        (b"", KernelLoadError, "not a 64-bit"),
        (b"#!/bin/sh\nrm -rf x\n" * 10, KernelLoadError, "not a 64-bit"),
        (fake_elf.code_object("gfx942", "k"), KernelLoadError, "not a shared library for x86-64"),
        (fake_elf.kernel_library("gfx942", "k", ("main",)), KernelLoadError, "does not export fij_launch"),
        (fake_elf.library(EXPORTS, b"none"), KernelLoadError, "no fat binary"),
        (fake_elf.kernel_library("gfx950", "k", EXPORTS), ArchMismatchError, "built for gfx950, not for gfx942"),
    ],
)
def test_a_library_that_cannot_be_a_kernel_is_not_opened(tmp_path, data, error, said) -> None:
    (tmp_path / "kernel.so").write_bytes(data)
    runtime = FakeRuntime()
    with pytest.raises(error, match=said) as caught:
        loader.load(Entry(tmp_path, {}), KEY, runtime)
    assert str(tmp_path / "kernel.so") in str(caught.value)
    assert runtime.prepared == 0


def test_a_library_that_is_gone_is_named(tmp_path) -> None:
    with pytest.raises(KernelLoadError, match="No such file"):
        loader.load(Entry(tmp_path, {}), KEY, FakeRuntime())
