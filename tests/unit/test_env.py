import logging
import subprocess
import sys

import pytest

from flashinfer_jit import env, log
from flashinfer_jit.errors import InvalidSettingError


def test_every_variable_of_the_design_is_in_the_table() -> None:
    own = {
        "CACHE_DIR", "PREBUILT_PATH", "TRUST_CACHE", "DISABLE", "HIPCC", "EXTRA_HIPCCFLAGS", "TEMPLATE_DIR",
        "LOCK_TIMEOUT", "DEVICE", "ARCH", "CHECK", "BACKEND", "RECORD", "LOG_LEVEL", "DEBUG",
    }  # fmt: skip
    honoured = {"ROCM_PATH", "ROCM_HOME", "HIP_PATH", "MAX_JOBS", "XDG_CACHE_HOME"}
    names = {var.name for var in env.TABLE}
    assert {env.PREFIX + name for name in own} | honoured <= names
    assert len(names) == len(env.TABLE)
    for var in env.TABLE:
        assert var.allowed and var.help and var.group in ("cache", "compile", "device", "checks", "honoured")


@pytest.mark.parametrize(
    "var, text, value",
    [
        (env.DISABLE, "1", True),
        (env.DISABLE, "off", False),
        (env.LOCK_TIMEOUT, "2.5", 2.5),
        (env.MAX_JOBS, "3", 3),
        (env.DEVICE, "Emulator", "emulator"),
        (env.CHECK, " indices ", frozenset({"indices"})),
        (env.EXTRA_HIPCCFLAGS, "-g  -DX='a b'", ("-g", "-DX=a b")),
        (env.DISABLE, "", False),
    ],
)
def test_values_are_parsed(var, text, value, monkeypatch) -> None:
    monkeypatch.setenv(var.name, text)
    assert var.get() == value


@pytest.mark.parametrize(
    "var, text",
    [
        (env.DISABLE, "2"),
        (env.LOCK_TIMEOUT, "-1"),
        (env.LOCK_TIMEOUT, "nan"),
        (env.LOCK_TIMEOUT, "soon"),
        (env.MAX_JOBS, "0"),
        (env.DEVICE, "cuda"),
        (env.ARCH, "gfx90a"),
        (env.CHECK, "memory"),
        (env.LOG_LEVEL, "loud"),
        (env.EXTRA_HIPCCFLAGS, "-DX='a"),
    ],
)
def test_a_wrong_value_names_the_variable_and_what_is_allowed(var, text, monkeypatch) -> None:
    monkeypatch.setenv(var.name, text)
    with pytest.raises(InvalidSettingError) as caught:
        var.get()
    assert str(caught.value) == f"{var.name}={text!r} is not allowed: expected {var.allowed}"


def test_misspelt_variables_are_found(monkeypatch) -> None:
    monkeypatch.setenv("FLASHINFER_JIT_CACHEDIR", "/x")
    assert env.unknown() == ["FLASHINFER_JIT_CACHEDIR"]


def test_importing_reads_nothing_and_writes_nothing(tmp_path) -> None:
    script = "import os; before = dict(os.environ); import flashinfer_jit.jit.kernels, sys, logging\n"
    script += "assert dict(os.environ) == before and not logging.getLogger('flashinfer_jit').handlers\n"
    script += "print([m for m in ('torch', 'jinja2', 'filelock', 'hip', 'rocm', 'numpy') if m in sys.modules])"
    environment = {"HOME": str(tmp_path), "PATH": "/nonexistent", "FLASHINFER_JIT_LOG_LEVEL": "debug"}
    environment["PYTHONPATH"] = ":".join(sys.path)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_the_log_level_attaches_one_handler(monkeypatch) -> None:
    monkeypatch.setattr(log, "_handler", None)
    monkeypatch.setenv("FLASHINFER_JIT_LOG_LEVEL", "info")
    logger = logging.getLogger("flashinfer_jit")
    before = list(logger.handlers), logger.level, logger.propagate
    try:
        log.configure()
        log.configure()
        assert len(logger.handlers) == len(before[0]) + 1
        assert logger.level == logging.INFO
    finally:
        logger.handlers[:], logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


def test_a_warning_about_a_condition_is_given_once(caplog, monkeypatch) -> None:
    monkeypatch.setattr(log, "_said", set())
    for _ in range(3):
        log.warn_once("key", "the disk is full")
    assert [record.message for record in caplog.records] == ["the disk is full"]
