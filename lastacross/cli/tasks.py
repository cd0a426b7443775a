"""``tasks``: shows, runs, deletes and retries tasks."""

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lastacross import store
from lastacross.broker import STATES, Broker, ListedTask, Listing, WholeTask
from lastacross.broker import listing as dead_letters
from lastacross.cli.base import cli, complain, takes_app
from lastacross.cli.connecting import asking_redis, listing, record
from lastacross.cli.queues import existing, is_confirmed, require_existing, taskqueue
from lastacross.cli.showing import instant, print_json, print_table, printable, progress_bar
from lastacross.errors import InvalidTaskError

MAX_PAYLOAD_CHARACTERS = 1000
MAX_LISTED = 100

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_QUEUE = click.argument("queue", metavar="QUEUE")


@cli.group("tasks")
def _tasks() -> None:
    """Show, run, delete and retry tasks."""


def _for_programs(task: ListedTask) -> dict[str, Any]:
    return {**asdict(task), "eta": instant(task.eta), "dead_at": instant(task.dead_at)}


@_tasks.command("list", epilog="Example: lastacross tasks list mail --state dead --limit 20")
@_QUEUE
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    help="Only tasks in this state; may be repeated.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Maximum number of tasks per state.",
)
@_JSON
@takes_app
def _list(root: Path, queue: str, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show a queue's tasks: the oldest ones in each state, but the newest dead letters."""
    with listing(root):
        require_existing(queue)
        tasks = Listing(store.current()).tasks(queue, states or STATES, limit)
    if as_json:
        print_json([_for_programs(task) for task in tasks])
        return
    head = ("TASK", "STATE", "ETA", "ATTEMPTS", "TARGET", "REQUEST", "ERROR")
    rows = [
        (
            task.name,
            task.state,
            instant(task.eta),
            task.attempts,
            task.target,
            f"{task.method} {task.url}" if task.url else task.method,
            task.error,
        )
        for task in tasks
    ]
    print_table(head, rows)


@_tasks.command("show", epilog="Example: lastacross tasks show mail welcome-17 --json | jq .body")
@_QUEUE
@click.argument("name", metavar="TASK")
@_JSON
@takes_app
def _show(root: Path, queue: str, name: str, as_json: bool) -> None:
    """Show all details of a task: its fields, headers and payload."""
    with listing(root):
        require_existing(queue)
        found = Listing(store.current()).find(queue, name)
    if found is None:
        raise InvalidTaskError(f"queue {queue!r} has no task {name!r}")
    if as_json:
        _show_to_programs(found)
    else:
        _show_to_people(found)


def _show_to_programs(found: WholeTask) -> None:
    try:
        text = found.body.decode()
    except UnicodeDecodeError:
        text = None
    whole = {"body": text, "body_base64": base64.b64encode(found.body).decode(), "headers": found.headers}
    print_json({**_for_programs(found.task), **whole, "record": found.fields})


def _show_to_people(found: WholeTask) -> None:
    task = _for_programs(found.task)
    for key, value in task.items():
        if value is not None:
            click.echo(f"{key:<10} {printable(str(value))}")
    for key, value in found.headers:
        click.echo(f"{'header':<10} {printable(f'{key}: {value}')}")
    if found.body:
        text = found.body.decode("utf-8", "backslashreplace")
        click.echo(f"{'payload':<10} {printable(text, MAX_PAYLOAD_CHARACTERS)} ({len(found.body)} bytes)")


@_tasks.command("run", epilog="Example: lastacross tasks run mail welcome-17")
@_QUEUE
@click.argument("name", metavar="TASK")
@_JSON
@takes_app
def _run(root: Path, queue: str, name: str, as_json: bool) -> None:
    """Run a task now, regardless of its ETA and its queue's rate, limits and pause.

    A dead letter runs again with all of its retries.
    """
    with asking_redis(root):
        existing(queue).run_now(name)
        _record("task.run", queue, [name])
    _tell(queue, [name], "will run as soon as a worker is free", as_json)


@_tasks.command(
    "delete",
    epilog="""\b
Examples:
  lastacross tasks delete mail welcome-17 welcome-18
  lastacross tasks delete mail --all-dead --yes""",
)
@_QUEUE
@click.argument("names", nargs=-1, metavar="[TASK...]")
@click.option("--all-dead", "is_all", is_flag=True, help="Delete every dead letter of the queue.")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask for confirmation.")
@_JSON
@takes_app
def _delete(
    root: Path, queue: str, names: tuple[str, ...], *, is_all: bool, is_sure: bool, as_json: bool
) -> int:
    """Delete tasks in any state; a running task finishes, but its result is ignored."""
    if is_all == bool(names):
        raise click.UsageError("give the names of tasks, or --all-dead")
    if is_all:
        return _delete_dead(root, queue, is_sure=is_sure, as_json=as_json)
    with asking_redis(root):
        deleted = [taskqueue().Task(name=name) for name in names]
        existing(queue).delete_tasks(deleted)
        done = [name for name, task in zip(names, deleted, strict=True) if task.was_deleted]
        _record("task.delete", queue, done)
    _tell(queue, done, "was deleted", as_json)
    return _missed(queue, set(names) - set(done), "task")


@_tasks.command(
    "retry",
    epilog="""\b
Examples:
  lastacross tasks retry mail welcome-17
  lastacross tasks retry mail --all""",
)
@_QUEUE
@click.argument("names", nargs=-1, metavar="[TASK...]")
@click.option("--all", "is_all", is_flag=True, help="Retry every dead letter of the queue.")
@_JSON
@takes_app
def _retry(root: Path, queue: str, names: tuple[str, ...], is_all: bool, as_json: bool) -> int:
    """Retry dead letters with all of their retries, within the queue's limits."""
    if is_all == bool(names):
        raise click.UsageError("give the names of tasks, or --all")
    if is_all:
        return _retry_all(root, queue, as_json=as_json)
    with asking_redis(root):
        found = existing(queue).retry_dead(names)
        done = [name for name, was_dead in zip(names, found, strict=True) if was_dead]
        _record("task.retry", queue, done)
    _tell(queue, done, "will be retried", as_json)
    return _missed(queue, set(names) - set(done), "dead letter")


def _retry_all(root: Path, queue: str, *, as_json: bool) -> int:
    with asking_redis(root):
        existing(queue)
        with progress_bar(f"retrying {queue}", Listing(store.current()).count_dead(queue)) as tell:
            ids = dead_letters.retry_dead(Broker(store.current()), queue, tell)
        _record("task.retry", queue, [identifier.partition("_")[2] for identifier in ids])
    _tell_all(queue, ids, "will be retried", as_json)
    return 0


def _delete_dead(root: Path, queue: str, *, is_sure: bool, as_json: bool) -> int:
    with asking_redis(root):
        existing(queue)
        dead = Listing(store.current()).count_dead(queue)
        if not is_sure and not is_confirmed(f"Delete all dead letters of queue {queue} (currently {dead})?"):
            complain(f"no dead letter of queue {queue} was deleted; use --yes to delete without confirmation")
            return 1
        with progress_bar(f"deleting from {queue}", dead) as tell:
            ids = dead_letters.delete_dead(Broker(store.current()), queue, tell)
        _record("task.delete", queue, [identifier.partition("_")[2] for identifier in ids])
    _tell_all(queue, ids, "was deleted", as_json)
    return 0


def _tell_all(queue: str, ids: list[str], what: str, as_json: bool) -> None:
    if as_json or len(ids) <= MAX_LISTED:
        _tell(queue, [identifier.partition("_")[2] for identifier in ids], what, as_json)
    else:
        click.echo(f"{len(ids)} dead letters of queue {queue}: each {what}")


def _record(action: str, queue: str, names: list[str]) -> None:
    if names:
        record(action, [f"{queue}/{name}" for name in names])


def _tell(queue: str, names: list[str], what: str, as_json: bool) -> None:
    if as_json:
        print_json([{"queue": queue, "name": name} for name in names])
        return
    for name in names:
        click.echo(f"task {printable(name)} of queue {queue} {what}")


def _missed(queue: str, names: set[str], what: str) -> int:
    """Return the exit code, and print the names that were not found."""
    if names:
        complain(f"queue {queue!r} has no {what} {', '.join(map(repr, sorted(names)))}")
    return 1 if names else 0
