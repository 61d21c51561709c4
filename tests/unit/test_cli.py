"""``python -m flashinfer_jit``: every command, as text and as JSON, and every wrong option in one line."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from flashinfer_jit import collect_env, env
from flashinfer_jit.__main__ import main
from flashinfer_jit.jit.kernels import build_kernel, find_entry
from support import fake_hipcc
from support.vector_add import vector_add_key

CONFIG = "kernel=vector_add,factor="


def said(capsys, *options: str, status: int = 0):
    """Run a command with --json and return what it printed."""
    assert main([*options, "--json"]) == status
    return json.loads(capsys.readouterr().out)


# Settings and explanations


def test_show_config_lists_every_variable_and_where_it_is_from(cache_dir, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_LOCK_TIMEOUT", "7")
    monkeypatch.setenv("FLASHINFER_JIT_CACHEDIR", "typo")
    assert main(["show-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("FLASHINFER_JIT_LOCK_TIMEOUT")]
    assert line.split()[1:3] == ["7.0", "environment"]
    assert lines[-1] == "FLASHINFER_JIT_CACHEDIR is set, but nothing reads it"
    values = said(capsys, "show-config")
    assert values["cache"] == str(cache_dir) and values["settings"]["FLASHINFER_JIT_LOCK_TIMEOUT"] == 7.0
    assert values["unknown"] == ["FLASHINFER_JIT_CACHEDIR"]


def test_explain_says_hit_and_where(hipcc, capsys) -> None:
    entry = build_kernel(vector_add_key())
    (found,) = said(capsys, "show-config", "--explain", CONFIG + "1", "--arch", "gfx942")
    assert found["hit"] and found["directory"] == str(entry.directory)
    assert "in the user's cache; compiled in" in found["reasons"][0]
    assert main(["show-config", "--explain", CONFIG + "1", "--arch", "gfx942"]) == 0
    assert capsys.readouterr().out.startswith("hit   vector_add-x1")


def test_explain_a_miss_names_the_nearest_and_the_field(hipcc, capsys) -> None:
    build_kernel(vector_add_key(factor=2))
    (found,) = said(capsys, "show-config", "--explain", CONFIG + "1", "--arch", "gfx942")
    assert not found["hit"]
    assert found["nearest"] == [{"kernel": "vector_add-x2-q256x0-w4", "arch": "gfx942", "differs": {"factor": [2, 1]}}]
    _, other = said(capsys, "show-config", "--explain", CONFIG + "2", "--arch", "gfx942,gfx950")
    assert other["nearest"][0]["differs"] == {"arch": ["gfx942", "gfx950"]}


@pytest.mark.parametrize(
    "change, reason",
    [
        ("flags", "compiled with flags -O3 .*, now they are .* -DX"),
        ("template", "made from other templates: 1 places differ, the first at line"),
        ("compiler", r"compiled by hipcc \(HIP version: 1.0\).*, here it is hipcc \(HIP version: 2.0\)"),
        ("damage", "kernel.so is not the file that meta.json describes"),
    ],
)
def test_explain_a_miss_says_what_changed(hipcc, capsys, monkeypatch, tmp_path, change, reason) -> None:
    entry = build_kernel(vector_add_key())
    if change == "flags":
        monkeypatch.setenv("FLASHINFER_JIT_EXTRA_HIPCCFLAGS", "-DX")
    elif change == "compiler":
        monkeypatch.setenv("FLASHINFER_JIT_HIPCC", str(fake_hipcc.install(tmp_path / "newer", "2.0")))
    elif change == "damage":
        os.truncate(entry.library, 3)
    else:
        moved = shutil.copytree(os.environ["FLASHINFER_JIT_TEMPLATE_DIR"], tmp_path / "moved")
        with open(moved / "vector_add.hip.j2", "a") as template:
            template.write("// changed\n")
        monkeypatch.setenv("FLASHINFER_JIT_TEMPLATE_DIR", str(moved))
    (found,) = said(capsys, "show-config", "--explain", CONFIG + "1", "--arch", "gfx942")
    assert not found["hit"] and len(found["reasons"]) == 1
    assert re.search(reason, found["reasons"][0])
    # Looking has moved nothing aside.
    assert entry.directory.is_dir()


def test_explain_without_a_compiler_takes_any_entry(hipcc, capsys, monkeypatch) -> None:
    build_kernel(vector_add_key())
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", "/nowhere/hipcc")
    (found,) = said(capsys, "show-config", "--explain", CONFIG + "1", "--arch", "gfx942")
    assert found["hit"]


# Kernels


def test_list_shows_registers_and_sizes_of_what_is_there(hipcc, capsys, cache_dir) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"no kernels in {cache_dir}\n"
    for arch in ("gfx942", "gfx950"):
        build_kernel(vector_add_key(arch))
    header, _, *rows = _text(capsys, "list")
    assert header.split()[:7] == ["kernel", "arch", "VGPR", "LDS", "spills", "seconds", "size"]
    assert [row.split()[:3] for row in rows] == [
        ["vector_add-x1-q256x0-w4", arch, "8"] for arch in ("gfx942", "gfx950")
    ]
    assert len(said(capsys, "list", "--arch", "gfx950")) == 1
    assert said(capsys, "list", "--filter", "prefill") == []


def _text(capsys, *options: str) -> list[str]:
    assert main(list(options)) == 0
    return capsys.readouterr().out.splitlines()


def test_render_prints_the_source_that_would_be_compiled(hipcc, capsys) -> None:
    entry = build_kernel(vector_add_key(factor=3))
    assert main(["render", CONFIG + "3"]) == 0
    assert capsys.readouterr().out.strip() == (entry.directory / "kernel.hip").read_text().strip()
    config = "phase=prefill,dtype=bfloat16,head_dim=128,group_size=4,mask_mode=causal"
    both = said(capsys, "render", config, "--arch", "gfx942,gfx950", "--all-tiles")
    assert {one["arch"] for one in both} == {"gfx942", "gfx950"} and len(both) > 2
    assert all("fij_launch" in one["source"] for one in both)


def test_rendered_files_come_with_a_compilation_database(tmp_path, capsys) -> None:
    config = "phase=decode,dtype=bfloat16,head_dim=128,group_size=4,mask_mode=causal"
    files = said(capsys, "render", config, "--arch", "gfx942,gfx950", "--output", str(tmp_path / "kernels"))
    commands = json.loads((tmp_path / "kernels" / "compile_commands.json").read_text())
    assert [f"{tmp_path}/kernels/{one['file']}" for one in commands] == files[:-1] and len(commands) == 2
    for one, arch in zip(commands, ("gfx942", "gfx950"), strict=True):
        assert "fij_launch" in (tmp_path / "kernels" / one["file"]).read_text()
        assert f"--offload-arch={arch}" in one["arguments"] and one["directory"] == str(tmp_path / "kernels")
    (tmp_path / "file").touch()
    assert main(["render", config, "--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"error: --output {tmp_path / 'file'}: File exists\n"


# The cache


def test_cache_dir_and_stats(hipcc, capsys, cache_dir) -> None:
    assert said(capsys, "cache", "dir") == {"root": str(cache_dir)}
    assert said(capsys, "cache", "stats")["kernels"] == 0
    build_kernel(vector_add_key())
    (cache_dir / "v0").mkdir()
    (cache_dir / "v0" / "x").write_text("123")
    stats = said(capsys, "cache", "stats")
    assert stats["kernels"] == stats["archs"]["gfx942"]["kernels"] == 1 and stats["bytes"] > 1000
    assert stats["old_versions"] == {"v0": 3}
    assert _text(capsys, "cache", "stats")[0].startswith(f"{cache_dir}: 1 kernels, ")


def test_verify_finds_damage_and_changes_nothing(hipcc, capsys) -> None:
    good, bad = build_kernel(vector_add_key()), build_kernel(vector_add_key(factor=2))
    assert _text(capsys, "cache", "verify") == ["2 kernels, 0 damaged"]
    os.truncate(bad.library, 1)
    found = said(capsys, "cache", "verify", status=1)
    assert list(found["damaged"]) == [str(bad.directory)] and bad.directory.is_dir() and good.directory.is_dir()


def _use(factor: int, days_ago: float):
    entry = build_kernel(vector_add_key(factor=factor))
    os.utime(entry.library, (time.time() - days_ago * 86400, entry.library.stat().st_mtime))
    return entry


def test_prune_by_age_spares_what_is_used(hipcc, capsys, cache_dir) -> None:
    old, fresh = _use(1, 40), _use(2, 1)
    (cache_dir / "v0").mkdir()
    removed = said(capsys, "cache", "prune", "--older-than", "30d", "--dry-run")
    assert removed["kernels"] == 1 and old.directory.is_dir()
    assert said(capsys, "cache", "prune", "--older-than", "30d")["kernels"] == 1
    assert not old.directory.exists() and fresh.directory.is_dir() and not (cache_dir / "v0").exists()
    # Nothing empty is left of it, nor in the staging folder.
    assert not old.directory.parent.parent.exists()
    assert not list((cache_dir / "v1" / "staging").iterdir())


def test_a_hit_counts_as_use(hipcc, capsys) -> None:
    old = _use(1, 40)
    build_kernel(vector_add_key(factor=1))
    assert said(capsys, "cache", "prune", "--older-than", "30d")["kernels"] == 0
    assert old.directory.is_dir()


def test_prune_by_size_keeps_what_was_used_last(hipcc, capsys) -> None:
    entries = [_use(factor, days_ago=factor) for factor in (1, 2, 3)]
    size = sum(path.stat().st_size for path in entries[0].directory.iterdir())
    assert said(capsys, "cache", "prune", "--max-size", str(int(2.5 * size)))["kernels"] == 1
    assert [entry.directory.is_dir() for entry in entries] == [True, True, False]
    assert said(capsys, "cache", "prune", "--max-size", "0")["kernels"] == 2


def test_clear_keeps_lock_files_and_the_emulator(hipcc, capsys, cache_dir) -> None:
    entry = build_kernel(vector_add_key())
    (cache_dir / "v1" / "emulator").mkdir()
    locks = sorted((cache_dir / "v1" / "locks").rglob("*.lock"))
    assert said(capsys, "cache", "clear")["kernels"] == 1
    assert not entry.directory.exists() and (cache_dir / "v1" / "emulator").is_dir()
    assert locks and sorted((cache_dir / "v1" / "locks").rglob("*.lock")) == locks
    assert said(capsys, "cache", "clear", "--emulator")["kernels"] == 0
    assert not (cache_dir / "v1" / "emulator").exists()
    assert find_entry(vector_add_key()) is None and build_kernel(vector_add_key())


def test_another_folder_can_be_looked_at(hipcc, capsys, cache_dir, tmp_path) -> None:
    build_kernel(vector_add_key())
    cache_dir.rename(tmp_path / "other")
    assert said(capsys, "cache", "stats", "--cache-dir", str(tmp_path / "other"))["kernels"] == 1


def test_a_cache_that_others_can_write_is_not_cleared(hipcc, capsys, cache_dir) -> None:
    build_kernel(vector_add_key())
    cache_dir.chmod(0o777)
    assert main(["cache", "clear"]) == 1
    assert "can be written by other users" in capsys.readouterr().err and find_one(cache_dir)


def find_one(cache_dir) -> bool:
    return any(cache_dir.rglob("kernel.so"))


# This machine


def test_collect_env_tells_loaded_from_installed_by_inode(cache_dir, capsys, monkeypatch, tmp_path) -> None:
    library = tmp_path / "lib" / "libamdhip64.so.7"
    library.parent.mkdir()
    # Any shared library serves as the file, as long as it is mapped under that name.
    shutil.copy(_mapped("libc.so"), library)
    os.link(library, library.with_name("libamdhip64.so"))
    other = tmp_path / "rocm" / "lib" / "libamdhip64.so"
    other.parent.mkdir(parents=True)
    shutil.copy(library, other)
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "rocm"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    script = f"import ctypes, sys; ctypes.CDLL({str(library)!r}); print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        report = said(capsys, "collect-env", "--pid", str(process.pid))
        text = _text(capsys, "collect-env", "--pid", str(process.pid))
    finally:
        process.kill()
        process.communicate()
    mine = {one["is_loaded"]: one for one in report["hip_libraries"] if str(tmp_path) in one["paths"][0]}
    assert sorted(mine[True]["paths"]) == [str(library.with_name("libamdhip64.so")), str(library)]
    assert mine[False]["paths"] == [str(other)]
    assert mine[True]["inode"] == library.stat().st_ino
    assert any(line.startswith(f"  loaded    inode {library.stat().st_ino}: ") for line in text)


def _mapped(name: str) -> str:
    with open("/proc/self/maps") as maps:
        return next(line.split(maxsplit=5)[5].strip() for line in maps if f"/{name}" in line)


def test_one_failed_probe_hides_no_other(cache_dir, capsys, monkeypatch) -> None:
    def fails():
        raise RuntimeError("no /proc here")

    monkeypatch.setattr(collect_env, "_cpu", fails)
    report = said(capsys, "collect-env")
    assert report["cpu"] == "cannot be found out: RuntimeError: no /proc here"
    assert report["python"].startswith(sys.version.split()[0]) and report["cores"] >= 1
    assert isinstance(report["hip_libraries"], list) and report["cache"]["kernels"] == 0


def test_gpus_are_those_of_the_kernel_driver(tmp_path, monkeypatch) -> None:
    for number, version in enumerate((0, 90402, 90500, 90010)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "properties").write_text(f"cpu_cores_count 1\ngfx_target_version {version}\n")
    monkeypatch.setattr(collect_env, "KFD_NODES", tmp_path)
    assert collect_env._gpus() == ["gfx942", "gfx950", "gfx90a"]


# Wrong options, and what is not needed


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "the following arguments are required: COMMAND"),
        (["lst"], "argument COMMAND: invalid choice: 'lst'"),
        (["show-config", "--explain", "phase"], "argument --explain: 'phase' is not of the form name=value"),
        (["list", "--arch", "gfx90a"], "argument --arch: 'gfx90a' is not allowed: expected gfx942, gfx950"),
        (
            ["render", "kernel=none"],
            "argument CONFIG: kernel='none' is unknown: expected one of append_paged_kv, apply_rope, attention",
        ),
        (["cache", "drop"], "argument action: invalid choice: 'drop'"),
        (
            ["cache", "prune", "--max-size", "2 apples"],
            "argument --max-size: '2 apples' is not allowed: expected a size",
        ),
        (
            ["cache", "prune", "--older-than", "30"],
            "argument --older-than: '30' is not allowed: expected a time such as",
        ),
        (["collect-env", "--pid", "me"], "argument --pid: 'me' is not allowed: expected a number of 1 or more"),
        (["cache", "stats", "--max-size", "1GB"], "--max-size is for cache prune, not for cache stats"),
        (["cache", "prune", "--max-size", "1GB", "--emulator"], "--emulator is for cache clear, not for cache prune"),
        (["cache", "dir", "--dry-run"], "--dry-run is for cache prune and clear, not for cache dir"),
        (["show-config", "--arch", "gfx942"], "--arch goes with --explain CONFIG"),
        (["cache", "prune"], "nothing says what to remove: give --max-size 2GiB, --older-than 30d, or both"),
        (["collect-env", "--pid", "999999999"], "--pid 999999999: No such file or directory"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(options, message, capsys, cache_dir) -> None:
    try:
        status = main(options)
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    assert status == 2 and not captured.out
    assert message in captured.err and captured.err.count("\n") == 1


def refused(var) -> bool:
    """Whether the text that the tests use is a wrong value of this variable: paths and names may be anything."""
    try:
        var.parse(RUBBISH)
        return False
    except ValueError:
        return True


RUBBISH = "rub'bish"
WRONG = [var for var in env.TABLE if refused(var)]


def test_most_variables_can_be_wrong() -> None:
    paths = {"CACHE_DIR", "PREBUILT_PATH", "HIPCC", "TEMPLATE_DIR", "RECORD"}
    free = {env.PREFIX + name for name in paths} | {"HIPCC", "ROCM_PATH", "ROCM_HOME", "HIP_PATH", "XDG_CACHE_HOME"}
    assert {var.name for var in env.TABLE} - {var.name for var in WRONG} == free


@pytest.mark.parametrize("var", WRONG, ids=lambda var: var.name)
def test_a_wrong_variable_is_one_line_and_status_2(var, monkeypatch, cache_dir, capsys) -> None:
    monkeypatch.setenv(var.name, RUBBISH)
    assert main(["show-config"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {var.name}={RUBBISH!r} is not allowed: expected {var.allowed}\n"


@pytest.mark.parametrize(
    "options",
    [
        ["show-config"],
        ["show-config", "--explain", "phase=decode,dtype=bfloat16,head_dim=128,group_size=8,mask_mode=causal"],
        ["list"],
        ["render", "phase=decode,dtype=bfloat16,head_dim=128,group_size=8,mask_mode=causal"],
        ["cache", "stats"],
        ["cache", "verify"],
        ["collect-env"],
    ],
)
def test_commands_need_neither_torch_nor_gpu_nor_compiler_and_write_nothing(options, tmp_path) -> None:
    script = "import sys; sys.modules['torch'] = None; sys.modules['hip'] = None\n"
    script += "from flashinfer_jit.__main__ import main; sys.exit(main(sys.argv[1:]))"
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(tmp_path),
        "PATH": "/nonexistent",
        "FLASHINFER_JIT_HIPCC": "/nowhere/hipcc",
    }
    argv = [sys.executable, "-c", script, *options, "--json"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_ends_early_is_no_error(tmp_path, cache_dir) -> None:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        ["sh", "-c", f"({sys.executable} -m flashinfer_jit.warmup --list-presets; echo $? >&2) | head -1"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("llama-3-8b") and done.stderr == "0\n"
