"""How the emulator library is built and cached, with a compiler that only notes what it is asked for."""

import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flashinfer_jit.emulator import __main__ as command_line
from flashinfer_jit.emulator import build as emulator_build
from flashinfer_jit.errors import CompilationError, NoDeviceError, ToolchainNotFoundError

COMPILER = """#!{python}
import pathlib, sys, time
folder = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
if "--version" in arguments:
    print((folder / "version").read_text())
elif "-fsyntax-only" not in arguments:
    with open(folder / "calls", "a") as calls:
        calls.write("link\\n" if "-shared" in arguments else pathlib.Path(arguments[-3]).name + "\\n")
    time.sleep(0.05)
    text = "".join(pathlib.Path(a).read_text() for a in arguments if a.endswith((".cpp", ".o")) and a != arguments[-1])
    if "BROKEN" in text:
        print("a.cpp:1:1: error: expected something else")
        sys.exit(1)
    pathlib.Path(arguments[-1]).write_text(text)
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "failure.h").write_text("// nothing\n")
    (folder / "a.h").write_text("int a();\n")
    (folder / "b.h").write_text('#include "a.h"\n')
    (folder / "a.cpp").write_text('#include "a.h"\nint a() { return 1; }\n')
    (folder / "b.cpp").write_text('#include "b.h"\n')
    (folder / "c.cpp").write_text("#include <vector>\n")
    monkeypatch.setattr(emulator_build, "SOURCES", folder)
    return folder


@pytest.fixture
def compiler(tmp_path, monkeypatch, cache_dir):
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "g++"
    path.write_text(COMPILER.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (folder / "version").write_text("g++ (fake) 13.0")
    monkeypatch.setattr(emulator_build, "_candidates", lambda: iter([(str(path),)]))
    return folder


def calls(compiler: Path) -> list[str]:
    log = compiler / "calls"
    found = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_every_file_is_compiled_once_and_then_nothing(sources, compiler):
    seen = []
    built = emulator_build.build(progress=lambda *step: seen.append(step))
    assert calls(compiler) == ["a.cpp", "b.cpp", "c.cpp", "link"]
    assert not built.was_cached and built.compiled == built.units == 3
    assert built.path.name == "libamdhip64.so" and built.path.read_text().count("int a()") == 1
    assert [step[0] for step in seen] == [0, 1, 2, 3] and {step[1] for step in seen} == {3}
    again = emulator_build.build()
    assert again.was_cached and again.path == built.path and calls(compiler) == []
    assert emulator_build.library_path() == built.path


@pytest.mark.parametrize(
    ("changed", "compiled"),
    [
        ("a.cpp", ["a.cpp"]),
        ("c.cpp", ["c.cpp"]),
        ("b.h", ["b.cpp"]),
        ("a.h", ["a.cpp", "b.cpp"]),
    ],
)
def test_a_change_is_compiled_where_it_is_seen(sources, compiler, changed, compiled):
    first = emulator_build.build()
    calls(compiler)
    (sources / changed).write_text((sources / changed).read_text() + "// changed\n")
    second = emulator_build.build()
    assert calls(compiler) == [*compiled, "link"]
    assert second.path != first.path and second.compiled == len(compiled)


def test_a_library_of_another_compiler_serves(sources, compiler):
    first = emulator_build.build()
    (compiler / "version").write_text("g++ (fake) 14.0")
    assert emulator_build.build().path == first.path
    # Asked for by name, the other compiler builds its own.
    other = emulator_build.build(compiler=emulator_build.find_compiler())
    assert other.path != first.path and other.compiled == 3


def test_a_damaged_library_is_built_again(sources, compiler):
    built = emulator_build.build()
    calls(compiler)
    built.path.write_text("cut")
    assert emulator_build.library_path() is None
    again = emulator_build.build()
    assert again.path == built.path and not again.was_cached
    assert calls(compiler) == ["link"]


def test_errors_of_the_compiler_are_shown_with_the_command(sources, compiler):
    (sources / "a.cpp").write_text("BROKEN")
    with pytest.raises(CompilationError, match=r"a\.cpp failed: a\.cpp:1:1: error: expected something else") as caught:
        emulator_build.build()
    assert str(sources / "a.cpp") in caught.value.command
    assert emulator_build.library_path() is None


def test_no_compiler_lists_what_was_searched(sources, cache_dir, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolchainNotFoundError, match=r"(?s)g\+\+, clang\+\+.*pip install ziglang"):
        emulator_build.build()


def test_a_compiler_that_cannot_compile_is_passed_over(sources, compiler, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'fatal error: no header'; exit 1\n")
    broken.chmod(0o755)
    good = compiler / "g++"
    monkeypatch.setattr(
        emulator_build, "_candidates", lambda: iter([("/nonexistent/g++",), (str(broken),), (str(good),)])
    )
    assert emulator_build.find_compiler().argv == (str(good),)
    monkeypatch.setattr(emulator_build, "_candidates", lambda: iter([("/nonexistent/g++",), (str(broken),)]))
    with pytest.raises(ToolchainNotFoundError, match=r"(?s)/nonexistent/g\+\+: No such file.*broken: --version fails"):
        emulator_build.find_compiler()


def test_a_cpu_without_avx2_is_refused_by_name(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu sse4_2 fma f16c bmi1 bmi2 abm movbe\n")
    with pytest.raises(NoDeviceError, match="it lacks avx2"):
        emulator_build.check_cpu(cpuinfo)
    emulator_build.check_cpu(tmp_path / "absent")


def test_a_cache_that_cannot_be_written_costs_only_the_cache(sources, compiler, cache_dir):
    cache_dir.parent.mkdir(parents=True, exist_ok=True)
    cache_dir.write_text("a file, not a directory")
    built = emulator_build.build()
    assert built.path.exists() and cache_dir not in built.path.parents
    assert emulator_build.library_path() == built.path


def test_threads_that_want_it_at_once_build_it_once(sources, compiler):
    built = []
    threads = [threading.Thread(target=lambda: built.append(emulator_build.build())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({b.path for b in built}) == 1 and len(built) == 4
    assert calls(compiler) == ["a.cpp", "b.cpp", "c.cpp", "link"]


def test_the_command_line(sources, compiler, capsys):
    assert command_line.main(["build", "--json"]) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert said["compiled"] == 3 and not said["was_cached"] and Path(said["path"]).exists()
    assert "[3/3]" in printed.err
    assert command_line.main(["build"]) == 0
    assert "built before" in capsys.readouterr().out
    (sources / "a.cpp").write_text("BROKEN")
    assert command_line.main(["build"]) == 1
    assert "error: compiling the emulator's a.cpp failed" in capsys.readouterr().err


def test_importing_the_emulator_builds_and_loads_nothing():
    code = (
        "import sys, flashinfer_jit.emulator as e; assert callable(e.use_arch); "
        "assert e.loaded_path() is None and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
