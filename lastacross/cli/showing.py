"""Prints data from Redis as tables for people or JSON for programs, with nothing unescaped on a terminal."""

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from lastacross.clock import utc

MAX_CELL_CHARACTERS = 60


def printable(text: str, most: int | None = None) -> str:
    """The text without terminal control sequences, truncated to ``most`` characters.

    Control characters, and characters that reverse or hide text, are shown as escapes.
    """
    cut = text if most is None or len(text) <= most else text[: most - 1]
    shown = "".join(each if each.isprintable() else _escaped(each) for each in cut)
    return shown if len(cut) == len(text) else shown + "…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def instant(seconds: float | None) -> str | None:
    """A time in ISO 8601 format, in UTC with milliseconds; a damaged value is returned unchanged."""
    if seconds is None:
        return None
    try:
        return utc(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (TypeError, ValueError, OverflowError):
        return str(seconds)


def print_json(value: Any) -> None:
    """Print machine-readable JSON."""
    # A damaged row may contain bytes instead of a string.
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns, with a dash for None."""
    cells = [[*head], *([_cell(value) for value in row] for row in rows)]
    if sys.stdout.isatty():
        _print_to_terminal(cells)
        return
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_to_terminal(cells: Sequence[Sequence[str]]) -> None:
    """Fold long cells, so that the table is no wider than the terminal."""
    text = importlib.import_module("rich.text").Text
    table = importlib.import_module("rich.table").Table(box=None, pad_edge=False)
    for name in cells[0]:
        table.add_column(text(name, style="bold"), overflow="fold")
    for row in cells[1:]:
        table.add_row(*map(text, row))
    importlib.import_module("rich.console").Console(file=sys.stdout).print(table)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return printable(f"{value:g}" if isinstance(value, float) else str(value), MAX_CELL_CHARACTERS)


@contextlib.contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal's standard error; yields a function that counts finished items."""
    if not sys.stderr.isatty():
        yield lambda _number: None
        return
    console = importlib.import_module("rich.console").Console(stderr=True)
    with importlib.import_module("rich.progress").Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda number: bar.advance(task, number)
