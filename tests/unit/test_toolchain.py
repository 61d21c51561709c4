import importlib.util
import shutil
from pathlib import Path

import pytest

from flashinfer_jit.errors import ToolchainNotFoundError
from flashinfer_jit.jit import process, toolchain
from flashinfer_jit.jit.toolchain import find_toolchain, semantic_flags
from support import fake_hipcc

VARIABLES = ("FLASHINFER_JIT_HIPCC", "HIPCC", "ROCM_PATH", "ROCM_HOME", "HIP_PATH")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any compiler."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    find_spec = importlib.util.find_spec
    hidden = ("ziglang", "_rocm_sdk_core", "_rocm_sdk_devel")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find_spec(name, *rest)
    )
    toolchain.forget()
    yield tmp_path
    toolchain.forget()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def clang(path: Path, version: str, targets: str = "amdgcn x86-64", linker: bool = True) -> Path:
    """Write a program that answers as clang++ does."""
    link = script(path.parent / "ld.lld", "exit 0") if linker else "ld.lld"
    return script(
        path,
        f'case "$1" in --version) echo "clang version {version}.1.8";; --print-targets) echo "{targets}";;'
        f' --print-prog-name=ld.lld) echo "{link}";; *) exit 1;; esac',
    )


def test_without_any_compiler_every_place_is_named(bare, monkeypatch) -> None:
    monkeypatch.setenv("ROCM_PATH", "/nowhere/rocm")
    with pytest.raises(ToolchainNotFoundError) as caught:
        find_toolchain()
    text = str(caught.value)
    for place in (
        "/nowhere/rocm/bin/hipcc",
        "hipcc",
        "/opt/rocm/bin/hipcc",
        "clang++",
        "amdclang++",
        "clang++-22",
        "zig",
    ):
        assert place in text, place
    assert "pip install ziglang" in text


def test_each_place_is_used_and_the_order_is_the_documented_one(bare, monkeypatch) -> None:
    clang(bare / "bin" / "clang++-21", "21")
    assert find_toolchain().driver == (str(bare / "bin" / "clang++-21"),)
    clang(bare / "bin" / "clang++-22", "22")
    toolchain.forget()
    assert find_toolchain().driver == (str(bare / "bin" / "clang++-22"),)
    clang(bare / "bin" / "clang++", "20")
    toolchain.forget()
    assert find_toolchain().driver == (str(bare / "bin" / "clang++"),)
    fake_hipcc.install(bare / "onpath")
    shutil.copytree(bare / "onpath", bare / "bin", dirs_exist_ok=True)
    toolchain.forget()
    assert find_toolchain().kind == "hipcc"
    for name in reversed(VARIABLES):
        path = fake_hipcc.install(bare / name / "bin")
        monkeypatch.setenv(name, str(bare / name) if name.endswith(("PATH", "HOME")) else str(path))
        assert find_toolchain().driver == (str(path),), name


@pytest.mark.parametrize(
    "version, targets, linker, reason",
    [
        ("19", "amdgcn", True, "is clang 19; 20 or later is needed"),
        ("22", "x86-64", True, "built without the AMDGPU target"),
        ("22", "amdgcn", False, "has no ld.lld beside it"),
    ],
)
def test_a_clang_that_cannot_serve_says_why(bare, version, targets, linker, reason) -> None:
    clang(bare / "bin" / "clang++", version, targets, linker)
    with pytest.raises(ToolchainNotFoundError, match=reason):
        find_toolchain()


@pytest.mark.parametrize("text, reason", [("exit 3", "failed"), ("echo gcc 12", "is not clang")])
def test_a_program_that_is_no_compiler_is_passed_over(bare, text, reason) -> None:
    script(bare / "bin" / "clang++", text)
    with pytest.raises(ToolchainNotFoundError, match=reason):
        find_toolchain()
    clang(bare / "bin" / "clang++-22", "22")
    assert find_toolchain().driver == (str(bare / "bin" / "clang++-22"),)


@pytest.mark.parametrize("name", ["FLASHINFER_JIT_HIPCC", "HIPCC"])
def test_a_compiler_that_the_user_named_is_never_replaced_silently(bare, monkeypatch, name) -> None:
    clang(bare / "bin" / "clang++", "22")
    monkeypatch.setenv(name, "/nowhere/hipcc")
    with pytest.raises(ToolchainNotFoundError, match=f"{name}=/nowhere/hipcc is not a program"):
        find_toolchain()
    monkeypatch.setenv(name, str(script(bare / "hipcc", "echo oops; exit 1")))
    with pytest.raises(ToolchainNotFoundError, match=rf"{name}=.*cannot be used: --version failed: oops"):
        find_toolchain()


def test_a_hanging_compiler_is_given_up(bare, monkeypatch) -> None:
    monkeypatch.setattr(toolchain, "PROBE_SECONDS", 0.2)
    script(bare / "bin" / "clang++", "while :; do :; done")
    with pytest.raises(ToolchainNotFoundError, match="did not end within"):
        find_toolchain()


def test_the_id_follows_the_version_and_not_the_place(bare, monkeypatch) -> None:
    def id_of(folder: str, version: str) -> str:
        monkeypatch.setenv("HIPCC", str(fake_hipcc.install(bare / folder, version)))
        return find_toolchain().id

    assert id_of("a", "6.4") == id_of("b", "6.4") != id_of("c", "7.0")


def test_a_known_compiler_is_not_asked_again(bare, monkeypatch) -> None:
    memo = bare / "memo"
    monkeypatch.setenv("HIPCC", str(fake_hipcc.install(bare / "rocm")))
    first = find_toolchain(memo)
    toolchain.forget()
    asked = []
    run = process.run
    monkeypatch.setattr(process, "run", lambda argv, **more: (asked.append(argv), run(argv, **more))[1])
    assert find_toolchain(memo) == first and not asked
    # A new compiler at the same place, as after an upgrade.
    fake_hipcc.install(bare / "rocm", "7.1")
    toolchain.forget()
    assert find_toolchain(memo).id != first.id and asked


@pytest.mark.parametrize("damage", ["", "{}", '{"stamp": 1}', "[1]"])
def test_a_damaged_memo_is_no_obstacle(bare, monkeypatch, damage) -> None:
    memo = bare / "memo"
    monkeypatch.setenv("HIPCC", str(fake_hipcc.install(bare / "rocm")))
    first = find_toolchain(memo)
    for file in memo.iterdir():
        file.write_text(damage)
    toolchain.forget()
    assert find_toolchain(memo) == first


def test_a_memo_whose_linker_is_gone_is_not_believed(bare, monkeypatch) -> None:
    memo = bare / "memo"
    monkeypatch.setenv("HIPCC", str(clang(bare / "llvm" / "clang++", "22")))
    first = find_toolchain(memo)
    (bare / "llvm" / "ld.lld").unlink()
    toolchain.forget()
    with pytest.raises(ToolchainNotFoundError, match=r"has no ld\.lld"):
        find_toolchain(memo)
    assert first.kind == "clang"


def test_flags_of_the_environment_are_part_of_the_semantic_flags(monkeypatch) -> None:
    plain = semantic_flags("gfx942")
    assert plain[-1] == "--offload-arch=gfx942" and "-ffast-math" not in plain
    monkeypatch.setenv("FLASHINFER_JIT_EXTRA_HIPCCFLAGS", "-DX=1 -Rpass=foo")
    assert semantic_flags("gfx942") == (*plain, "-DX=1", "-Rpass=foo")
    monkeypatch.setenv("FLASHINFER_JIT_DEBUG", "1")
    assert "-g" in semantic_flags("gfx942") and "-O3" not in semantic_flags("gfx942")
