"""Kernels compiled for real, loaded against a stub of the HIP runtime: registration, launch, refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashinfer_jit.jit import process
from flashinfer_jit.jit.kernels import build_kernel
from flashinfer_jit.jit.toolchain import find_toolchain
from support.vector_add import vector_add_key

HERE = Path(__file__).resolve().parent
STUB = HERE.parent / "support" / "stub_runtime.c"


def build_stub(folder: Path) -> Path:
    """Compile the stub with the toolchain in force, without the C library's start files: it may have none."""
    toolchain = find_toolchain()
    flags = ("-x", "c", str(STUB), "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-c", "-o", "stub.o")
    for argv in ((*toolchain.driver, *flags), (*toolchain.host_linker, "-shared", "-o", "libstub.so", "stub.o")):
        outcome = process.run(argv, cwd=folder)
        assert outcome.returncode == 0, outcome.output
    return folder / "libstub.so"


@pytest.fixture
def said(arch, compiler, cache_dir, vector_add_template, tmp_path) -> dict:
    """What a session with the stub runtime printed."""
    for factor in (1, 3):
        build_kernel(vector_add_key(arch, factor))
    argv = [sys.executable, str(HERE / "stub_session.py"), arch, str(build_stub(tmp_path))]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_session_with_the_stub_runtime(said, arch, compiler, cache_dir) -> None:
    name = vector_add_key(arch).kernel_name
    assert said["without_runtime"].startswith("KernelLoadError: vector_add-x1-q256x0-w4 for " + arch)
    assert "undefined symbol" in said["without_runtime"] and "The HIP runtime" in said["without_runtime"]

    assert said["registered"] == [1, 1]
    launched = {"code": 0, "launches": 1, "grid": [4, 1, 1], "block": [256, 1, 1], "stream": 0x5EED}
    assert said["first"] == {**launched, "kernel_name": name, "params_arrived": True}
    assert (said["empty"]["code"], said["empty"]["launches"]) == (0, 1), "an empty grid is not launched"
    assert said["other"]["kernel_name"] == vector_add_key(arch, 3).kernel_name
    assert (said["other"]["grid"], said["other"]["launches"]) == ([2, 1, 1], 2)
    assert said["first_again"]["launches"] == 3 and said["first_again"]["params_arrived"]

    assert said["attributes"] == {
        "num_registers": 42, "lds_bytes": 4096, "scratch_bytes": 16, "max_threads_per_block": 1024, "blocks_per_cu": 8,
    }  # fmt: skip
    assert said["failed_launch"] == 2
    assert said["failed_prepare"].startswith("HipError: fij_prepare of vector_add") and "(2)" in said["failed_prepare"]
    assert "hipErrorOutOfMemory" in said["failed_prepare"]

    assert said["describe"].splitlines()[0] == f"{name} on {arch}"
    assert str(cache_dir) in said["describe"] and "0 spills" in said["describe"]
    assert said["meta"]["vgpr_spills"] == said["meta"]["scratch_bytes"] == 0 and 0 < said["meta"]["vgpr"] <= 64

    for refused in ("other_config", "other_abi", "other_params"):
        assert said[refused].startswith("AbiMismatchError: "), said[refused]
        assert "remove " in said[refused]
    assert "configuration" in said["other_config"] and "launch interface" in said["other_abi"]
    assert "parameter size" in said["other_params"]
