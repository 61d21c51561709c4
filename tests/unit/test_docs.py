"""The documents say what is true: generated pages are current, links lead somewhere, named tests and commands exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from flashinfer_jit import __main__ as cli
from flashinfer_jit import env, plan, warmup

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


def _generator():
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["../README.md", "reading-a-kernel.md", "environment.md", "presets.md", "api.md", "aiter.md"]
)
def test_generated_pages_are_current(name) -> None:
    assert _generator().is_current(name), f"docs/{name} does not say what the code says now: run make docs"


def test_every_variable_and_every_public_name_is_documented() -> None:
    import flashinfer_jit

    variables = (ROOT / "docs" / "environment.md").read_text()
    assert all(f"`{var.name}`" in variables for var in env.TABLE)
    names = (ROOT / "docs" / "api.md").read_text()
    functions = [name for name, module in flashinfer_jit._EXPORTS.items() if name != module]
    assert all(f"### flashinfer_jit.{name}\n" in names for name in functions)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_files_that_are_named_exist(page) -> None:
    text = page.read_text()
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), f"{page.name}: {path}::{name}"
    for path in re.findall(r"`((?:flashinfer_jit|templates|tests)/[\w/.]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_shown_are_understood(page, monkeypatch) -> None:
    # Files named in examples are not there.
    monkeypatch.setattr(plan, "read_plan", lambda path: plan.Plan())
    monkeypatch.setattr(plan, "read_record", lambda path: [])
    for line in re.findall(r"python -m (flashinfer_jit(?:\.warmup)? [^`\n]*)", page.read_text()):
        program, *options = shlex.split(line.partition(" #")[0])
        if "..." in line or "CONFIG" in options or "NAME" in line or not options[0].lstrip("-").islower():
            continue
        parser = warmup._parser() if program.endswith(".warmup") else cli._parser()
        parser.parse_args(options)


def test_all_thirteen_complaints_have_an_answer_and_a_test() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = [
        line.split(" | ")
        for line in text.partition("| complaint, as in |")[2].splitlines()[2:]
        if line.startswith("| ")
    ]
    assert len(rows) == 13
    for _, answer, place, tests in rows:
        assert answer and re.fullmatch(r"(`tests/\S+::\w+` )+\|", tests)
        heading = re.search(r"\(#([\w-]+)\)", place)
        assert not heading or f"\n## {heading[1].replace('-', ' ')}\n" in text.lower(), place


def test_names_of_the_kernel_that_is_read_are_in_it() -> None:
    kernel = (ROOT / "tests" / "golden" / "gfx942-prefill-main.hip").read_text()
    text = (ROOT / "docs" / "reading-a-kernel.md").read_text()
    names = {name for name in re.findall(r"`(?:struct )?([A-Za-z_]\w+)`", text) if name not in ("merge_states",)}
    assert len(names) > 25
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", kernel)] == []


def test_the_plan_that_is_shown_can_be_read(tmp_path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    (tmp_path / "plan.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    shown = plan.read_plan(tmp_path / "plan.toml")
    assert shown.presets and len(shown.archs) == 2 and len(shown.configs) == 4
