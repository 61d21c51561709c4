"""The Dockerfiles, as far as they can be checked without building: CI builds them."""

import re
import shlex
from pathlib import Path

import pytest

from flashinfer_jit import __main__ as cli
from flashinfer_jit import env, warmup

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "CMD", "USER"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return (instruction, arguments), continued lines joined, comments left out."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def commands(path: Path) -> list[list[str]]:
    """Return the shell commands of all RUN instructions, variables replaced by their defaults."""
    defaults = dict(words.split("=", 1) for name, words in instructions(path) if name == "ARG")
    found = []
    for name, words in instructions(path):
        if name == "RUN":
            text = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], words)
            found += [shlex.split(part) for part in text.split("&&")]
    return found


def test_both_are_there() -> None:
    assert [path.name for path in FILES] == ["ci.Dockerfile", "rocm.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_instructions_are_in_order_and_bases_are_pinned(path) -> None:
    parsed = instructions(path)
    assert {name for name, _ in parsed} <= KNOWN
    assert [name for name, _ in parsed[:2]] == ["ARG", "FROM"]
    base = parsed[0][1].partition("=")[2]
    assert re.search(r":[\w.-]*\d", base) and not base.endswith("latest")
    for name, words in parsed:
        if name == "COPY":
            *sources, _ = words.split()
            assert all((ROOT / source).exists() for source in sources), words
        if name == "RUN" and "apt-get install" in words:
            assert "apt-get update" in words and "--no-install-recommends" in words and "rm -rf /var/lib/apt" in words
        if name == "RUN" and "pip install" in words:
            assert "--no-cache-dir" in words
    assert parsed[-1][0] == "CMD"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_warmup_is_called_with_options_that_exist_for_both_archs(path) -> None:
    called = 0
    for words in commands(path):
        if "flashinfer_jit.warmup" in words:
            options = words[words.index("flashinfer_jit.warmup") + 1 :]
            arguments = warmup._parser().parse_args(options)
            assert [arch.name for arch in arguments.arch] == ["gfx942", "gfx950"] and arguments.preset
            called += 1
        elif "flashinfer_jit" in words[:3]:
            cli._parser().parse_args(words[words.index("flashinfer_jit") + 1 :])
    assert called


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_variables_are_ones_that_are_read(path) -> None:
    names = set(re.findall(r"FLASHINFER_JIT_\w+", path.read_text()))
    assert names and names <= {var.name for var in env.TABLE}


def test_ci_builds_both() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert all(f"docker/{path.name}" in workflow or path.name.partition(".")[0] in workflow for path in FILES)
    assert "docker build" in workflow
