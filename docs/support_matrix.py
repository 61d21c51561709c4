"""The support matrix: docs/support.toml as tables for README.md, and the tests that it names."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).resolve().parent / "support.toml"
EMULATED = "emulated gfx942, gfx950"


class Tick(NamedTuple):
    """One test that a tick names, and where the matrix says that it ran."""

    what: str
    path: str
    name: str
    words: str
    ran: str


def load() -> dict[str, Any]:
    """Return the tables of support.toml."""
    return tomllib.loads(TABLE.read_text())


def _names(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def ticks() -> Iterator[Tick]:
    """Yield every test that the matrix names."""
    tables = load()
    for row in tables["attention"]:
        for column in tables["columns"]:
            for text in _names(row.get(column, [])):
                yield _tick(f"{row['what']}, {column}", text, EMULATED)
    for row in tables["other"]:
        for text in _names(row["tests"]):
            yield _tick(row["what"], text, row.get("ran", EMULATED))


def _tick(what: str, text: str, ran: str) -> Tick:
    match = re.fullmatch(r"(tests/[\w/]+\.py)::(\w+)(?:\[(.+)\])?", text)
    if match is None:
        raise ValueError(f"support.toml, {what}: {text!r} is not of the form tests/file.py::test_name or ...[words]")
    return Tick(what, match[1], match[2], match[3] or "", ran)


def markdown() -> str:
    """Return the matrix: a number stands for a tick, and names its test in the list below."""
    tables = load()
    numbers: dict[str, int] = {}

    def cell(value: str | list[str]) -> str:
        found = [numbers.setdefault(text, len(numbers) + 1) for text in _names(value)]
        return "✓ " + ", ".join(map(str, found)) if found else ""

    columns = tables["columns"]
    lines = [f"| attention | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for row in tables["attention"]:
        lines.append(f"| {row['what']} | {' | '.join(cell(row.get(column, [])) for column in columns)} |")
    lines += ["", "| beside it | test | where it ran |", "|---|---|---|"]
    lines += [f"| {row['what']} | {cell(row['tests'])} | {row.get('ran', EMULATED)} |" for row in tables["other"]]
    lines += ["", "<details><summary>The tests behind the ticks</summary>", ""]
    lines += [f"{number}. `{text}`" for text, number in numbers.items()]
    return "\n".join([*lines, "", "</details>", ""])
