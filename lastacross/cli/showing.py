"""Prints data from Redis as tables for people or JSON for programs, with nothing raw on a terminal."""

import json
from collections.abc import Sequence
from typing import Any

import click

from lastacross.clock import utc

MAX_CELL_CHARACTERS = 60


def printable(text: str, most: int | None = None) -> str:
    """The text without terminal control sequences, cut to ``most`` characters.

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
    """Print JSON for programs."""
    # A damaged row may contain bytes instead of a string.
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns, with a dash for None."""
    cells = [[*head], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return printable(f"{value:g}" if isinstance(value, float) else str(value), MAX_CELL_CHARACTERS)
