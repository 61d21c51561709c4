"""The support matrix: every tick names a test that exists, has the parameters it speaks of, and runs on both GPUs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("support_matrix", ROOT / "docs" / "support_matrix.py")
matrix = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)


@pytest.fixture(scope="module")
def collected() -> dict[str, list[str]]:
    """The ids of all tests in the files that the matrix names, by path::name."""
    files = sorted({tick.path for tick in matrix.ticks()})
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if "::" in line:
            name, _, parameters = line.partition("[")
            found.setdefault(name, []).append("-" + parameters.removesuffix("]"))
    return found


def test_every_tick_names_a_test_that_runs_where_it_says(collected) -> None:
    wrong = []
    for tick in matrix.ticks():
        ids = collected.get(f"{tick.path}::{tick.name}", [])
        chosen = [one for one in ids if tick.words in one]
        archs = [arch for arch in ("gfx942", "gfx950") if any(arch in one for one in chosen)]
        if not chosen:
            wrong.append(f"{tick.what}: there is no {tick.path}::{tick.name} with {tick.words!r}")
        elif (
            any(arch in tick.ran and arch not in archs for arch in ("gfx942", "gfx950")) and "host, and" not in tick.ran
        ):
            wrong.append(f"{tick.what}: {tick.path}::{tick.name} runs on {archs or 'the host'}, not on {tick.ran}")
        elif "emulated" in tick.ran.partition(",")[0] and not tick.path.startswith("tests/emulated/"):
            wrong.append(f"{tick.what}: {tick.path} runs nothing on the emulated GPU")
    assert not wrong


def test_nothing_is_said_of_hardware() -> None:
    assert not [tick for tick in matrix.ticks() if "hardware" in tick.ran]
    text = (ROOT / "README.md").read_text()
    assert "none has run on hardware" in text


def test_a_tick_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtypes: 'test_x' is not of the form"):
        matrix._tick("dtypes", "test_x", "host")
