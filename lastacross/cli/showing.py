"""How commands print what Redis holds: tables for people, JSON for programs, nothing raw for a terminal."""

import json
from collections.abc import Sequence
from typing import Any

import click

from lastacross.clock import utc

LONGEST_CELL = 60


def printable(text: str, most: int | None = None) -> str:
    """The text without anything that a terminal would obey; cut to ``most`` characters.

    Control characters, and those that turn or hide text, appear as escapes.
    """
    cut = text if most is None or len(text) <= most else text[: most - 1]
    shown = "".join(each if each.isprintable() else _escaped(each) for each in cut)
    return shown if len(cut) == len(text) else shown + "…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def instant(seconds: float | None) -> str | None:
    """An instant as ISO 8601 in UTC, to the millisecond; what is none, in a damaged row, as it is."""
    if seconds is None:
        return None
    try:
        return utc(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (TypeError, ValueError, OverflowError):
        return str(seconds)


def print_json(value: Any) -> None:
    """For programs."""
    # Of a damaged row: bytes where there should be text.
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns; None is a dash."""
    cells = [[*head], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return printable(f"{value:g}" if isinstance(value, float) else str(value), LONGEST_CELL)
