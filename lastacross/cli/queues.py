"""``queues``: shows, pauses, resumes, drains, purges and forgets queues."""

import importlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lastacross import store
from lastacross.broker import Broker, Control, Deployment, KnownQueue, Listing, deployments, queue_directory
from lastacross.cli.base import cli, complain, takes_app
from lastacross.cli.connecting import asking_redis, listing, record
from lastacross.cli.showing import instant, print_json, print_table, printable, progress_bar
from lastacross.errors import UnknownQueueError

if TYPE_CHECKING:
    from lastacross.taskqueue import Queue

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_NAMES = click.argument("names", nargs=-1, required=True, metavar="QUEUE...")


def taskqueue() -> Any:
    """The module ``taskqueue``, which commands that only show something need not import."""
    return importlib.import_module("lastacross.taskqueue")


def require_existing(name: str) -> None:
    """Check that there is a queue with this name.

    Raises:
        InvalidQueueNameError, UnknownQueueError: as for ``existing``.
    """
    if queue_directory.current().find(name) is None:
        existing(name)


def existing(name: str) -> "Queue":
    """The queue with this name.

    Raises:
        InvalidQueueNameError, UnknownQueueError: the name is invalid, or no queue has this name.
    """
    queue: Queue = taskqueue().Queue(name)
    if queue_directory.current().find(name) is None:
        names = ", ".join(sorted(queue_directory.current().all()))
        raise UnknownQueueError(f"there is no queue {name!r}; the queues are {names}")
    return queue


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    mode: str
    state: str
    tasks: int
    in_flight: int | None
    executed_last_minute: int | None
    enforced_rate: float | None
    dead: int
    oldest_eta: str | None
    target: str | None


def _row(queue: KnownQueue) -> _Row:
    broker = Broker(store.current())
    found = broker.read_statistics(queue.name)[0]
    is_paused = broker.is_paused(queue.name)
    row = _Row(
        queue.name,
        queue.mode,
        _state(queue, is_paused=is_paused),
        found.tasks,
        found.leased,
        found.executed_last_minute,
        found.rate,
        Listing(store.current()).count_dead(queue.name),
        instant(found.oldest_eta),
        queue.target or None,
    )
    return row if found.rate is not None else _of_file(row)


def _state(queue: KnownQueue, *, is_paused: bool) -> str:
    if queue.is_disabled:
        return "disabled"
    if is_paused:
        return "paused"
    return "draining" if queue.is_draining else "running"


def _of_file(row: _Row) -> _Row:
    """The row of a queue that was never uploaded, with what queue.yaml says."""
    found = taskqueue().Queue(row.name).fetch_statistics()
    return replace(
        row,
        tasks=found.tasks,
        in_flight=found.in_flight,
        executed_last_minute=found.executed_last_minute,
        enforced_rate=found.enforced_rate,
        oldest_eta=instant(None if found.oldest_eta_usec is None else found.oldest_eta_usec / 1e6),
    )


@cli.group("queues")
def _queues() -> None:
    """Show, pause, resume, drain, purge and forget queues."""


@_queues.command("list", epilog="Example: lastacross queues list --json | jq '.[] | select(.dead > 0).name'")
@_JSON
@takes_app
def _list(root: Path, as_json: bool) -> None:
    """Show every queue with its tasks.

    RATE is the currently enforced rate in tasks per second, MINUTE the number of attempts that ended in the
    last minute, DEAD the number of dead letters. A queue is disabled if queue.yaml no longer lists it.
    """
    with listing(root):
        rows = [_row(queue) for _, queue in sorted(queue_directory.current().all().items())]
        deployed = deployments.read(store.current())
    if as_json:
        when = {
            "deployed_at": deployed and instant(deployed.at),
            "deployed_by": deployed and deployed.by,
        }
        print_json([{**asdict(row), **when} for row in rows])
        return
    head = ("QUEUE", "MODE", "STATE", "TASKS", "RUNNING", "MINUTE", "RATE", "DEAD", "OLDEST ETA", "TARGET")
    print_table(head, [tuple(asdict(row).values()) for row in rows])
    click.echo(f"\n{printable(deployment_sentence(deployed))}")


def deployment_sentence(deployed: Deployment | None) -> str:
    """Say when and by whom the queues were deployed."""
    if deployed is None:
        return "nothing is deployed yet: run `lastacross deploy`"
    causes = {"deploy": "deployed", "dev": "uploaded by lastacross dev"}
    what = causes.get(deployed.cause, "uploaded by the first process that started, and never deployed")
    return f"{what} on {instant(deployed.at)}{f' by {deployed.by}' if deployed.by else ''}"


@_queues.command("pause", epilog="Example: lastacross queues pause mail")
@_NAMES
@_JSON
@takes_app
def _pause(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Stop delivering these queues' tasks; new tasks are still accepted, and running ones finish."""
    _set_paused(root, names, is_paused=True, as_json=as_json)


@_queues.command("resume", epilog="Example: lastacross queues resume mail")
@_NAMES
@_JSON
@takes_app
def _resume(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Resume delivery."""
    _set_paused(root, names, is_paused=False, as_json=as_json)


def _set_paused(root: Path, names: tuple[str, ...], *, is_paused: bool, as_json: bool) -> None:
    with asking_redis(root):
        # Look up all queues before changing the first one, so that a misspelt name changes nothing.
        for queue in [existing(name) for name in names]:
            if is_paused:
                queue.pause()
            else:
                queue.resume()
        record("queue.pause" if is_paused else "queue.resume", names)
    if as_json:
        print_json([{"name": name, "is_paused": is_paused} for name in names])
        return
    for name in names:
        click.echo(f"queue {name} is {'paused' if is_paused else 'resumed'}")


@_queues.command("drain", epilog="Example: lastacross queues drain mail")
@_NAMES
@_JSON
@takes_app
def _drain(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Refuse new tasks; the queues' tasks and their retries are still delivered.

    Code that adds a task to such a queue gets a TransientError that says so, within a second.
    """
    _set_draining(root, names, is_draining=True, as_json=as_json)


@_queues.command("undrain", epilog="Example: lastacross queues undrain mail")
@_NAMES
@_JSON
@takes_app
def _undrain(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Accept new tasks again."""
    _set_draining(root, names, is_draining=False, as_json=as_json)


def _set_draining(root: Path, names: tuple[str, ...], *, is_draining: bool, as_json: bool) -> None:
    with asking_redis(root):
        for queue in [existing(name) for name in names]:
            if is_draining:
                queue.drain()
            else:
                queue.undrain()
        record("queue.drain" if is_draining else "queue.undrain", names)
    if as_json:
        print_json([{"name": name, "is_draining": is_draining} for name in names])
        return
    for name in names:
        click.echo(f"queue {name} {'refuses' if is_draining else 'accepts'} new tasks")


@_queues.command("purge", epilog="Example: lastacross queues purge mail --yes")
@click.argument("name", metavar="QUEUE")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask for confirmation.")
@_JSON
@takes_app
def _purge(root: Path, name: str, is_sure: bool, as_json: bool) -> int:
    """Delete all tasks of a queue except its dead letters.

    Running tasks finish, but their results are ignored. The names stay reserved as if the tasks had run.
    """
    with asking_redis(root):
        queue = existing(name)
        tasks = queue.fetch_statistics().tasks
        if not is_sure and not is_confirmed(f"Delete all tasks of queue {name} (currently {tasks})?"):
            complain(f"queue {name} was not purged; use --yes to purge it without confirmation")
            return 1
        with progress_bar(f"purging {name}", tasks) as tell:
            tasks = Broker(store.current()).purge(queue.name, tell)
        record("queue.purge", [name])
    if as_json:
        print_json({"name": name, "tasks": tasks})
    else:
        click.echo(f"queue {name} was purged of {tasks} tasks")
    return 0


@_queues.command("forget", epilog="Example: lastacross queues forget mail --yes")
@click.argument("name", metavar="QUEUE")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask for confirmation.")
@_JSON
@takes_app
def _forget(root: Path, name: str, is_sure: bool, as_json: bool) -> int:
    """Forget a disabled queue without tasks and dead letters.

    This deletes its settings. A deployed queue.yaml that lists the queue brings it back.
    """
    with asking_redis(root):
        known = queue_directory.current().find(existing(name).name)
        if known is None or not known.is_disabled:
            return _refuse_to_forget(name, _LISTED)
        if not is_sure and not is_confirmed(f"Forget queue {name} and its settings?"):
            complain(f"queue {name} was not forgotten; use --yes to forget it without confirmation")
            return 1
        answer = Control(store.current()).forget(name)
        if answer != 1:
            return _refuse_to_forget(name, _FULL if answer else _LISTED)
        record("queue.forget", [name])
    if as_json:
        print_json({"name": name, "is_forgotten": True})
    else:
        click.echo(f"queue {name} was forgotten")
    return 0


_LISTED = "is not disabled; take it out of queue.yaml and deploy first"
_FULL = "still has tasks or dead letters; `lastacross tasks list {name}` shows them"


def _refuse_to_forget(name: str, reason: str) -> int:
    complain(f"queue {name} {reason.format(name=name)}")
    return 1


def is_confirmed(question: str) -> bool:
    """Ask a yes-or-no question; without a terminal the answer is no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:  # nobody is there to answer
        click.echo(err=True)
        return False
