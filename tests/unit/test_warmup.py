import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashinfer_jit import warmup
from flashinfer_jit.jit.arch import ARCHS
from flashinfer_jit.jit.kernels import build_kernel, find_entry
from flashinfer_jit.warmup import default_keys, main
from support.vector_add import vector_add_key


def keys_as_options(*factors: int) -> list[str]:
    return [word for factor in factors for word in ("--key", vector_add_key(factor=factor).canonical_json())]


@pytest.fixture
def few_defaults(monkeypatch):
    """Makes the default set small: what is in it does not matter here."""
    few = lambda names, dtypes, archs, *_: warmup.Choice([vector_add_key(arch.name) for arch in archs], [])  # noqa: E731
    monkeypatch.setattr(warmup, "_of_presets", few)


def test_everything_is_compiled_once_and_found_again(hipcc, few_defaults, capsys) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(": ")[0][6:] for line in lines[:2]) == [
        f"compiled {vector_add_key(arch)}" for arch in ARCHS
    ]
    assert lines[2].startswith("2 compiled, 0 cached, 0 failed in ")
    assert all(find_entry(vector_add_key(arch)) for arch in ARCHS)
    assert main(["--arch", "gfx950"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 compiled, 1 cached, 0 failed in ")


def test_json_is_one_object_and_progress_goes_elsewhere(hipcc, few_defaults, capsys) -> None:
    assert main(["--json", "--jobs", "1"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert (said["compiled"], said["cached"], said["failed"]) == (2, 0, 0)
    assert {kernel["arch"] for kernel in said["kernels"]} == set(ARCHS)
    assert all(Path(kernel["directory"]).is_dir() and kernel["resources"]["vgpr"] == 8 for kernel in said["kernels"])
    assert captured.err.count("compiled") == 2


def test_the_command_of_an_error_message_compiles_that_kernel(hipcc, monkeypatch) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_DISABLE", "1")
    with pytest.raises(Exception, match="Run: ") as caught:
        build_kernel(vector_add_key(factor=7))
    command = str(caught.value).partition("Run: ")[2]
    assert command.startswith("python -m flashinfer_jit.warmup ")
    monkeypatch.delenv("FLASHINFER_JIT_DISABLE")
    # The tests' own kernel is not known in a plain Python, so the options are taken from the command as a shell would.
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True
    ).stdout.splitlines()
    assert main(words[3:]) == 0
    assert find_entry(vector_add_key(factor=7)) is not None


def test_a_failure_does_not_stop_the_others(hipcc, monkeypatch, capsys) -> None:
    monkeypatch.setattr(warmup, "build_kernel", _fails_for(2))
    assert main([*keys_as_options(1, 2, 3), "--json", "--jobs", "1"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["compiled"], said["failed"]) == (2, 1)
    (failed,) = [kernel for kernel in said["kernels"] if kernel["status"] == "failed"]
    assert failed["config"]["factor"] == 2 and failed["error"].startswith("cannot compile vector_add-x2")


def _fails_for(factor: int):
    def build(key):
        if key.config.factor == factor:
            os.environ["FAKE_HIPCC_MODE"] = "fail"
        try:
            return build_kernel(key)
        finally:
            os.environ.pop("FAKE_HIPCC_MODE", None)

    return build


def test_more_jobs_than_the_machine_bears_are_said(hipcc, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MAX_JOBS", "1")
    assert main([*keys_as_options(1), "--jobs", "64"]) == 0
    assert capsys.readouterr().err == "--jobs 64: cores, memory and MAX_JOBS allow 1\n"
    assert main([*keys_as_options(1), "--jobs", "64", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_repeated_keys_are_one_kernel(hipcc, capsys) -> None:
    assert main([*keys_as_options(1, 1, 1)]) == 0
    assert capsys.readouterr().out.count("compiled vector_add") == 1


@pytest.mark.parametrize(
    "options, said",
    [
        (
            ["--arch", "gfx90a"],
            "argument --arch: 'gfx90a' is not allowed: expected gfx942, gfx950, or several with commas",
        ),
        (["--arch", ","], "argument --arch: ',' is not allowed"),
        (["--jobs", "0"], "argument --jobs: '0' is not allowed: expected a number of 1 or more"),
        (["--jobs", "two"], "argument --jobs: 'two' is not allowed"),
        (["--key", "{}"], "argument --key: '{}' is not allowed: expected a JSON object"),
        (["--key", "3"], "argument --key: '3' is not allowed: expected a JSON object"),
        (["--presets"], "unrecognized arguments: --presets"),
        (["--preset", "llama-9"], "argument --preset: preset 'llama-9' is unknown: expected all, or any of llama-3-8b"),
        (["--preset", ","], "argument --preset: ',' is not allowed: expected names of presets"),
        (
            ["--dtype", "bf16"],
            "argument --dtype: dtype = 'bf16' is not allowed: expected float16, bfloat16, or several",
        ),
        (["--dtype", ","], "argument --dtype: ',' is not allowed: expected float16, bfloat16"),
        (["--kv-dtype", "fp8"], "argument --kv-dtype: kv_dtype = 'fp8' is not allowed: expected auto, float8_e4m3fn, "),
        (["--config", "phase=train"], "argument --config: attention: "),
        (["--config", "{"], "argument --config: '{' is not a JSON object"),
        (["--config", "prefill"], "argument --config: 'prefill' is not of the form name=value"),
        (["--from-file", "/nowhere.toml"], "argument --from-file: /nowhere.toml: No such file or directory"),
        (["--from-log", "/nowhere"], "argument --from-log: /nowhere: No such file or directory"),
        (["--check", "--dry-run"], "argument --dry-run: not allowed with argument --check"),
        (["--list-presets", "--arch", "gfx942"], "--list-presets goes with --json only"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(options, said, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    captured = capsys.readouterr()
    assert caught.value.code == 2 and not captured.out
    assert captured.err.startswith(f"python -m flashinfer_jit.warmup: error: {said}") and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "options, said",
    [
        ([*keys_as_options(1), "--dtype", "float16"], "--dtype and --kv-dtype are those of presets, and no preset"),
        ([*keys_as_options(1), "--arch", "gfx950"], "--key is for gfx942, which --arch does not name"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(options, said, capsys, cache_dir) -> None:
    assert main(options) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {said}") and captured.err.count("\n") == 1 and not captured.out


def test_a_wrong_variable_is_one_line_and_status_2(hipcc, few_defaults, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MAX_JOBS", "many")
    assert main([]) == 2
    assert capsys.readouterr().err == "error: MAX_JOBS='many' is not allowed: expected a positive number\n"


def test_the_default_set_is_made_of_kernels_that_exist(arch) -> None:
    keys = default_keys([ARCHS[arch]])
    assert len(keys) == len(set(keys)) >= 36
    assert {key.arch.name for key in keys} == {arch}
    assert {key.config.params_table for key in keys} >= {"prefill", "decode", "merge_states"}


def test_dtypes_without_a_preset_are_those_of_the_default_set(capsys) -> None:
    assert (
        main(["--dtype", "float16", "--kv-dtype", "auto,float8_e4m3fnuz", "--arch", "gfx942", "--dry-run", "--json"])
        == 0
    )
    configs = [kernel["config"] for kernel in json.loads(capsys.readouterr().out)["kernels"]]
    assert {config["dtype_q"] for config in configs if config["kernel"] == "attention"} == {"float16"}
    assert {config["dtype_kv"] for config in configs if config["kernel"] == "attention"} == {
        "float16",
        "float8_e4m3fnuz",
    }


# Not compiling


def test_check_lists_what_is_missing_and_compiles_nothing(hipcc, cache_dir, capsys) -> None:
    build_kernel(vector_add_key(factor=1))
    assert main([*keys_as_options(1, 2), "--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[2/2] missing {vector_add_key(factor=2)}"
    assert lines[1].startswith("0 compiled, 1 cached, 1 missing, 0 failed in ") and len(lines) == 2
    assert main([*keys_as_options(1), "--check", "--quiet"]) == 0
    assert find_entry(vector_add_key(factor=2)) is None


def test_one_job_gives_its_outcomes_in_order(monkeypatch) -> None:
    # Whoever reads is slower than the work: all have ended when it looks the second time.
    keys = [vector_add_key(factor=factor) for factor in range(40)]
    outcomes = warmup.compile_all(keys, 1, lambda key: warmup.Outcome(key, "missing", 0.0, None))
    first = next(outcomes)
    time.sleep(0.05)
    assert [first.key, *(outcome.key for outcome in outcomes)] == keys


def test_dry_run_says_the_same_and_is_no_failure(hipcc, capsys) -> None:
    assert main([*keys_as_options(1, 2), "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["missing"], said["compiled"]) == (2, 0)
    assert [kernel["status"] for kernel in said["kernels"]] == ["missing", "missing"]


def test_looking_needs_no_compiler(cache_dir, vector_add_template, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", "/nowhere/hipcc")
    assert main([*keys_as_options(1), "--check"]) == 1


def test_fail_fast_stops_and_says_what_was_not_tried(hipcc, monkeypatch, capsys) -> None:
    monkeypatch.setattr(warmup, "build_kernel", _fails_for(1))
    assert main([*keys_as_options(1, 2, 3, 4, 5, 6), "--jobs", "1", "--fail-fast", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["failed"] == 1 and said["not tried"] >= 4


def test_quiet_leaves_the_last_line(hipcc, capsys) -> None:
    assert main([*keys_as_options(1, 2), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("2 compiled, 0 cached, 0 failed in ") and captured.out.count("\n") == 1
    assert not captured.err


def test_a_terminal_shows_a_bar_that_moves(hipcc, capsys, monkeypatch) -> None:
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(warmup, "stream_for", lambda json_on_stdout: terminal)
    assert main(keys_as_options(1, 2, 3)) == 0
    assert "3/3" in terminal.getvalue() and "compiled vector_add" not in terminal.getvalue()


def test_a_missing_compiler_is_said_once(cache_dir, vector_add_template, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", "/nowhere/hipcc")
    assert main(keys_as_options(1, 2, 3)) == 1
    captured = capsys.readouterr()
    assert captured.err.count("/nowhere/hipcc") == 1 and not captured.out


def test_a_cache_that_others_can_write_is_said_once(hipcc, cache_dir, capsys) -> None:
    cache_dir.mkdir()
    cache_dir.chmod(0o777)
    assert main(keys_as_options(1, 2, 3)) == 1
    assert capsys.readouterr().err.count("can be written by other users") == 1


def test_what_cannot_be_kept_is_not_called_warm(hipcc, cache_dir, tmp_path, capsys) -> None:
    cache_dir.write_text("not a directory")
    assert main(keys_as_options(1)) == 1
    assert f"{cache_dir} cannot be written: compiled, but lost when this ends" in capsys.readouterr().out
    # A folder to be shipped can be written all the same.
    assert main([*keys_as_options(2), "--output", str(tmp_path / "out")]) == 0


# A folder to be shipped


def test_output_can_be_moved_and_read_by_another_user_without_a_compiler(
    hipcc, cache_dir, monkeypatch, tmp_path, capsys
) -> None:
    output = tmp_path / "image" / "kernels"
    before = os.umask(0o077)
    try:
        assert main([*keys_as_options(1, 2), "--output", str(output)]) == 0
        assert main([*keys_as_options(1, 2, 3), "--output", str(output)]) == 0
    finally:
        os.umask(before)
    assert f"1 compiled, 2 cached, 0 failed in {output} in " in capsys.readouterr().out
    for path in (output, *output.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    assert [path.name for path in (output / "v1").iterdir()] == ["gfx942"]
    moved = output.rename(tmp_path / "moved")
    monkeypatch.setenv("FLASHINFER_JIT_PREBUILT_PATH", str(moved))
    monkeypatch.setenv("FLASHINFER_JIT_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("FLASHINFER_JIT_HIPCC", "/nowhere/hipcc")
    assert main([*keys_as_options(1, 2, 3), "--check"]) == 0
    assert build_kernel(vector_add_key(factor=3)).library.is_relative_to(moved)
    assert not (tmp_path / "empty").exists()


def test_check_of_an_output_looks_there(hipcc, tmp_path) -> None:
    assert main([*keys_as_options(1), "--output", str(tmp_path / "out")]) == 0
    build_kernel(vector_add_key(factor=2))
    assert main([*keys_as_options(1), "--output", str(tmp_path / "out"), "--check"]) == 0
    assert main([*keys_as_options(2), "--output", str(tmp_path / "out"), "--check"]) == 1


def test_an_output_that_cannot_be_written_is_said(hipcc, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert main([*keys_as_options(1), "--output", str(tmp_path / "file" / "out")]) == 1
    assert f"cannot write {tmp_path / 'file' / 'out'}: " in capsys.readouterr().out


# Ending early


def test_ctrl_c_leaves_no_half_entries_and_the_next_run_goes_on(hipcc, cache_dir, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FAKE_HIPCC_MODE", "slow")
    monkeypatch.setenv("FAKE_HIPCC_SECONDS", "0.5")
    monkeypatch.setenv("FAKE_HIPCC_COUNTER", str(tmp_path / "counter"))
    script = "import sys, support.vector_add; from flashinfer_jit.warmup import main; sys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", script, *keys_as_options(*range(8)), "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    user = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert user.stdout.readline().startswith("[1/8] compiled")
    user.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, said = user.communicate()
    assert user.returncode == 130 and said == "interrupted\n" and time.monotonic() - start < 5
    complete = [key for key in map(_nth_key, range(8)) if find_entry(key) is not None]
    assert 1 <= len(complete) < 8
    assert not list((cache_dir / "v1" / "staging").iterdir())
    monkeypatch.delenv("FAKE_HIPCC_MODE")
    again = subprocess.run(
        [*argv, "--json"], env={**environment, "FAKE_HIPCC_MODE": ""}, capture_output=True, text=True
    )
    result = json.loads(again.stdout)
    assert (result["cached"], result["compiled"]) == (len(complete), 8 - len(complete))


def _nth_key(factor: int):
    return vector_add_key(factor=factor)
