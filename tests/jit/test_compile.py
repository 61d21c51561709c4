"""Real compilers: what they make, from all product kernels, on both archs."""

import re
import resource
import subprocess

import pytest

from flashinfer_jit.errors import CompilationError
from flashinfer_jit.jit import codeobject, kernels, toolchain
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.codeobject import Elf, unpack_bundle
from flashinfer_jit.jit.compiler import editor_command
from flashinfer_jit.jit.config import AttentionConfig
from flashinfer_jit.jit.kernels import KernelKey, build_kernel
from flashinfer_jit.jit.render import render
from flashinfer_jit.jit.tiling import candidates
from support.vector_add import TEMPLATES, vector_add_key


def test_a_library_holds_one_code_object_and_needs_nothing(arch, compiler, cache_dir, vector_add_template) -> None:
    entry = build_kernel(vector_add_key(arch))
    elf = Elf(entry.library.read_bytes())
    assert elf.dynamic == ()
    assert elf.exports == {"fij_launch", "fij_prepare", "fij_abi_version", "fij_params_size", "fij_config_json"}
    code_objects = unpack_bundle(elf.data)
    assert list(code_objects) == [arch]
    assert Elf(code_objects[arch]).flags & 0xFF == ARCHS[arch].elf_machine
    assert entry.library.stat().st_size < 120_000


def test_the_same_source_gives_the_same_bytes_anywhere(compiler, cache_dir, vector_add_template, monkeypatch) -> None:
    first = build_kernel(vector_add_key())
    monkeypatch.setenv("FLASHINFER_JIT_CACHE_DIR", str(cache_dir) + "-elsewhere")
    second = build_kernel(vector_add_key())
    assert first.directory != second.directory
    assert first.library.read_bytes() == second.library.read_bytes()


def test_an_error_in_a_template_is_shown_with_its_line(compiler, cache_dir, tmp_path, monkeypatch) -> None:
    text = (TEMPLATES / "vector_add.hip.j2").read_text()
    (tmp_path / "vector_add.hip.j2").write_text(text.replace("params.b[i]", "params.bb[i]"))
    monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(tmp_path))
    with pytest.raises(CompilationError) as caught:
        build_kernel(vector_add_key())
    lines = str(caught.value).splitlines()
    assert lines[0] == "cannot compile vector_add-x1-q256x0-w4 for gfx942: exit status 1"
    assert re.fullmatch(r"  error:    no member named 'bb' in 'Params'.*", lines[2])
    caret = next(number for number, line in enumerate(lines) if line.strip(" |") == "^")
    assert lines[caret - 1][lines[caret].index("^") :].startswith("bb[i]")


def test_a_parameter_table_that_does_not_fit_the_template_does_not_compile(
    compiler, cache_dir, tmp_path, monkeypatch
) -> None:
    text = (TEMPLATES / "vector_add.hip.j2").read_text()
    other = text.replace("{{ params.c_struct() }}", '{{ params.c_struct() | replace("int32_t n;", "int64_t m, n;") }}')
    assert other != text
    (tmp_path / "vector_add.hip.j2").write_text(other)
    monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(tmp_path))
    with pytest.raises(CompilationError, match="static assertion failed") as caught:
        build_kernel(vector_add_key())
    assert "not the one of jit/params.py" in str(caught.value)


def test_extra_and_debug_flags_reach_the_compiler(compiler, cache_dir, vector_add_template, monkeypatch) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_EXTRA_HIPCCFLAGS", "-DFIJ_UNUSED=1")
    monkeypatch.setenv("FLASHINFER_JIT_DEBUG", "1")
    log = (build_kernel(vector_add_key()).directory / "build.log").read_text()
    assert log.count("-DFIJ_UNUSED=1") == 2 and log.count(" -g -O1 ") == 2 and "-O3" not in log


def test_hipcc_is_called_by_the_same_flags(cache_dir, vector_add_template, tmp_path, monkeypatch, arch) -> None:
    """A hipcc that passes everything on to clang, as AMD's does."""
    clang = next((p for p in map(toolchain._locate, ("clang++", *_CLANGS)) if p is not None), None)
    if clang is None:
        pytest.skip("needs clang++ with lld; zig's clang cannot be called by hipcc's name")
    hipcc = tmp_path / "hipcc"
    hipcc.write_text(f'#!/bin/sh\nexec {clang} "$@"\n')
    hipcc.chmod(0o755)
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", str(hipcc))
    entry = build_kernel(vector_add_key(arch))
    assert entry.meta["toolchain"]["title"].startswith("hipcc (")
    assert Elf(entry.library.read_bytes()).dynamic == ()
    log = (entry.directory / "build.log").read_text()
    assert log.count(f"$ {hipcc} ") == 2 and "ld.lld -shared" in log


_CLANGS = [f"clang++-{n}" for n in range(toolchain.NEWEST_CLANG_TRIED, toolchain.MIN_CLANG - 1, -1)]


def product_keys(arch: str) -> list[KernelKey]:
    """Return a key for each kernel of the product, with every tile."""
    keys = []
    for dtype in ("float16", "bfloat16"):
        for head_dim in (64, 128):
            for mask in ("none", "causal"):
                config = AttentionConfig("prefill", dtype, dtype, dtype, head_dim, head_dim, 4, mask)
                keys += [KernelKey(config, tile, ARCHS[arch]) for tile in candidates(config, ARCHS[arch])]
    return keys


def test_the_commands_for_editors_are_right(tmp_path, arch) -> None:
    clang = next((p for p in map(toolchain._locate, ("clang++", *_CLANGS)) if p is not None), None)
    if clang is None:
        pytest.skip("needs clang++: what zig compiles is compiled by another command")
    key = product_keys(arch)[0]
    (tmp_path / "kernel.hip").write_text(render(key))
    subprocess.run(editor_command((str(clang),), "kernel.hip", arch), cwd=tmp_path, check=True)


def test_a_kernel_compiles_in_about_a_second(compiler, cache_dir) -> None:
    """CPU time of compiler and linker, because test machines are busy."""
    key = product_keys("gfx950")[-1]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    build_kernel(key)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 2.0


def test_no_product_kernel_spills_or_uses_scratch(arch) -> None:
    """In the cache that all tests share: the kernels are the ones that other tests run."""
    kernels.forget()
    for key in product_keys(arch):
        resources = build_kernel(key).meta["resources"]
        assert resources["vgpr_spills"] == resources["sgpr_spills"] == resources["scratch_bytes"] == 0, (key, resources)
        registers = resources["vgpr"] + resources["agpr"]
        assert key.arch.waves_per_simd(registers) >= key.tile.waves_per_simd, (key, registers)
        assert resources["lds_bytes"] <= key.arch.lds_bytes
        assert build_kernel(key).library.stat().st_size <= 120_000
        assert (
            codeobject.kernel_resources(unpack_bundle(build_kernel(key).library.read_bytes())[arch], key.kernel_name)
            == resources
        )
