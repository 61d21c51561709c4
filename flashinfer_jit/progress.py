"""Showing how far a warmup is: a bar on a terminal that rich can draw on, otherwise one line per kernel."""

import sys
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Lines as they come, and beside them a bar where that is possible.

    Parameters
    ----------
    total : int
        Steps to come.
    stream : TextIO
        Where lines go.
    quiet : bool
        Only what must be seen.
    """

    def __init__(self, total: int, stream: TextIO, quiet: bool) -> None:
        self._total, self._stream, self._quiet = total, stream, quiet
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if not self._quiet and self._total and self._stream.isatty():
            self._bar = _bar(self._total, self._stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, line: str, *, important: bool) -> None:
        """Say that one more step is done; with a bar, only important lines stay on the screen."""
        if self._bar is not None:
            self._bar.advance(0)
            if important:
                self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif important or not self._quiet:
            print(line, file=self._stream, flush=True)


def _bar(total: int, stream: TextIO) -> Any:
    """Return a running bar of rich, or None where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        return None
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    bar = RichProgress(*columns, console=Console(file=stream), transient=True)
    bar.add_task("compiling", total=total)
    bar.start()
    return bar


def stream_for(json_on_stdout: bool) -> TextIO:
    """Return where progress goes: standard output, unless that is for a JSON object."""
    return sys.stderr if json_on_stdout else sys.stdout
