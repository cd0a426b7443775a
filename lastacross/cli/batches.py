"""``batches``: shows and cancels batches."""

from pathlib import Path
from typing import Any

import click

from lastacross import store
from lastacross.broker import BatchSteps, Listing
from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import asking_redis, listing, record
from lastacross.cli.showing import instant, print_json, print_table, printable
from lastacross.errors import UnknownBatchError

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ID = click.argument("batch_id", metavar="BATCH")


@cli.group("batches")
def _batches() -> None:
    """Show and cancel batches."""


@_batches.command("list", epilog="Example: lastacross batches list --limit 20")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Batches.")
@_JSON
@takes_app
def _list(root: Path, limit: int, as_json: bool) -> None:
    """Show the batches that are not complete, oldest first.

    An open batch still accepts members. One to which nothing was added for 30 days is cancelled.
    """
    with listing(root):
        steps = BatchSteps(store.current())
        ids = Listing(store.current()).open_batches(limit)
        rows = [_row(batch_id, found) for batch_id in ids if (found := steps.read(batch_id)) is not None]
    if as_json:
        print_json(rows)
        return
    head = ("BATCH", "QUEUE", "STATE", "TOTAL", "DONE", "FAILED", "CANCELLED", "CREATED")
    keys = ("id", "queue", "state", "total", "done", "failed", "cancelled", "created_at")
    print_table(head, [tuple(row[key] for key in keys) for row in rows])


@_batches.command("show", epilog="Example: lastacross batches show 4kq9hm --json | jq .done")
@_ID
@_JSON
@takes_app
def _show(root: Path, batch_id: str, as_json: bool) -> None:
    """Show a batch; a complete one is kept for a while."""
    with listing(root):
        row = _existing(batch_id)
    if as_json:
        print_json(row)
        return
    for key, value in row.items():
        if value is not None:
            click.echo(f"{key:<12} {printable(str(value))}")


@_batches.command("cancel", epilog="Example: lastacross batches cancel 4kq9hm")
@_ID
@_JSON
@takes_app
def _cancel(root: Path, batch_id: str, as_json: bool) -> None:
    """Drop a batch's waiting members; running members finish, and then its completion task runs."""
    with asking_redis(root):
        _existing(batch_id)
        BatchSteps(store.current()).cancel(batch_id)
        record("batch.cancel", [batch_id])
        row = _existing(batch_id)
    if as_json:
        print_json(row)
    else:
        click.echo(f"batch {printable(batch_id)} is cancelled: {row['cancelled']} of {row['total']} members")


def _existing(batch_id: str) -> dict[str, Any]:
    found = BatchSteps(store.current()).read(batch_id)
    if found is None:
        raise UnknownBatchError(
            f"there is no batch {batch_id!r}; `lastacross batches list` shows the open ones"
        )
    return _row(batch_id, found)


def _row(batch_id: str, found: dict[str, str]) -> dict[str, Any]:
    """A batch in machine-readable form; a damaged number is shown as it is."""
    is_complete = "finished_at" in found
    if "cancelled_at" in found:
        state = "cancelled"
    elif is_complete:
        state = "complete"
    else:
        state = "running" if found.get("sealed") == "1" else "open"
    counts = {name: _count(found.get(name)) for name in ("total", "done", "failed", "cancelled")}
    times = {name: instant(_seconds(found.get(name))) for name in ("created_at", "finished_at")}
    return {"id": batch_id, "queue": found.get("queue"), "state": state, **counts, **times}


def _count(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
