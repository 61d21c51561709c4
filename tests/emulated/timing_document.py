"""The tables of docs/timing_model.md, from the emulator's own constants and predictions.

``python -m tests.emulated.timing_document`` writes them into the page.
"""

import json
from pathlib import Path

from flashinfer_jit import emulator
from tests.emulated.timing_anchors import ANCHORS, Anchor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "timing_model.md"


def constants_table() -> str:
    """Return every number that the model assumes, with its source."""
    rows = json.loads(emulator.load().fij_emu_timing_constants())
    lines = ["| constant | gfx942 | gfx950 | source |", "|---|---|---|---|"]
    lines += [f"| `{row['name']}` | {row['gfx942']} | {row['gfx950']} | {row['source']} |" for row in rows]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _row(anchor: Anchor) -> str:
    value = anchor.predict()
    low, high = anchor.published
    published = _number(low) if low == high else f"{_number(low)} to {_number(high)}"
    kind = "derived" if anchor.derived else "published"
    verdict = "yes" if anchor.hit(value) else f"**no**: {anchor.miss}"
    return f"| {anchor.what} | {published} ({kind}) | {_number(value)} | {verdict} | {anchor.source} |"


def predictions_table() -> str:
    """Return what the model predicts beside what was published."""
    lines = ["| what | published or derived | modelled | agrees | source |", "|---|---|---|---|---|"]
    return "\n".join(lines + [_row(anchor) for anchor in ANCHORS])


TABLES = {"constants": constants_table, "predictions": predictions_table}


def with_tables(text: str) -> str:
    """Return the page with its tables made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, rest = text.split(begin)
        text = before + begin + table() + "\n" + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
