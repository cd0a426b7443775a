"""``longtasks``: shows and cancels long tasks.

A long task's state and progress come from its row, its queued task and its last report, so the list needs
SQLAlchemy and the web framework. They are imported when a command runs.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lastacross.cli.base import cli, complain, takes_app
from lastacross.cli.connecting import asking_redis, record
from lastacross.cli.showing import instant, print_json, print_table, printable

if TYPE_CHECKING:
    from lastacross.longtasks import View

STATES = ("open", "done", "failed", "cancelled")

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
# An id may begin with a hyphen, so this command has no short options.
_HYPHENS = {"ignore_unknown_options": True, "help_option_names": ["--help"]}


def _overview() -> Any:
    return importlib.import_module("lastacross.longtasks.overview")


@cli.group("longtasks")
def _longtasks() -> None:
    """Show and cancel long tasks."""


@_longtasks.command(
    "list", epilog="Example: lastacross longtasks list --state open --json | jq '.[].percent'"
)
@click.option("--state", type=click.Choice(STATES), default=None, help="Only long tasks in this state.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Maximum number of open long tasks, and of ended ones.",
)
@_JSON
@takes_app
def _list(root: Path, state: str | None, limit: int, as_json: bool) -> None:
    """Show everybody's long tasks, newest first.

    Without Redis or SECRET_KEY, the list lacks the progress of open long tasks.
    """
    with asking_redis(root, needs_redis=False) as configuration:
        views = _overview().views(state or "", limit)
    if any(view.is_blind for view in views):
        complain("the progress of open long tasks is unknown, because Redis is unavailable")
    elif not configuration.settings.secret_key and any(not view.is_over for view in views):
        complain("the progress of open long tasks is unknown, because SECRET_KEY is not set")
    rows = [_row(view) for view in views]
    if as_json:
        print_json(rows)
        return
    head = ("LONG TASK", "STATE", "TITLE", "PERCENT", "MESSAGE", "ATTEMPTS", "CREATED", "FINISHED", "ERROR")
    keys = ("id", "state", "title", "percent", "message", "attempts", "created_at", "finished_at", "error")
    print_table(head, [tuple(row[key] for key in keys) for row in rows])


@_longtasks.command(
    "cancel",
    context_settings=_HYPHENS,
    epilog="Example: lastacross longtasks cancel pX3mZk0eTq2bV7cY1nR8wA",
)
@click.argument("task_id", metavar="ID")
@_JSON
@takes_app
def _cancel(root: Path, task_id: str, as_json: bool) -> int:
    """Cancel a long task; a running attempt stops at its next progress report."""
    with asking_redis(root):
        view = _overview().find(task_id)
        if view is None:
            complain(f"there is no long task {task_id!r}; `lastacross longtasks list` shows them")
            return 1
        if not view.is_over:
            view = _overview().cancel(task_id) or view
            if view.state == "cancelled":
                record("longtask.cancel", [task_id])
                _tell_cancelled(view, as_json=as_json)
                return 0
    complain(f"long task {task_id} was already over: it is {view.state}")
    return 1


def _tell_cancelled(view: "View", *, as_json: bool) -> None:
    if as_json:
        print_json(_row(view))
    else:
        click.echo(f"long task {view.id} is cancelled: {printable(view.title)}")


def _row(view: "View") -> dict[str, Any]:
    """A long task in machine-readable form."""
    return {
        "id": view.id,
        "title": view.title,
        "url": view.urls.page,
        "state": view.state,
        "message": view.message or None,
        "step": view.step,
        "total_steps": view.total_steps,
        "percent": view.percent,
        "attempts": view.attempts,
        "error": view.error_text or None,
        "eta_seconds": view.eta_seconds,
        "elapsed_seconds": round(view.elapsed_seconds, 3),
        "created_at": instant(view.created_at),
        "started_at": instant(view.started_at),
        "finished_at": instant(view.finished_at),
    }
