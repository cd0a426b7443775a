"""``workers``: shows the worker processes on all machines."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lastacross import store
from lastacross.broker import WorkerDirectory, WorkerProcess
from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import listing
from lastacross.cli.showing import instant, print_json, print_table


@cli.group("workers")
def _workers() -> None:
    """Show the worker processes on all machines."""


@_workers.command("list", epilog="Example: lastacross workers list --json | jq '.[].hostname'")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@takes_app
def _list(root: Path, as_json: bool) -> None:
    """Show the worker processes that have shown a sign of life within half a minute.

    SERVICES are the services whose tasks it runs. QUEUES is "all" unless it was started with --queues.
    """
    with listing(root):
        found = WorkerDirectory(store.current()).all()
    if as_json:
        print_json([_fields(worker) for worker in found])
        return
    head = ("HOST", "PID", "STATE", "SERVICES", "QUEUES", "BUSY", "SEEN")
    print_table(head, [_row(worker) for worker in found])


def _fields(worker: WorkerProcess) -> dict[str, Any]:
    """The worker as JSON; ``status`` is null for a worker that does not publish one."""
    return {**asdict(worker), "groups": worker.groups, "is_ours": worker.is_ours}


def _row(worker: WorkerProcess) -> tuple[Any, ...]:
    status = worker.status
    return (
        worker.hostname,
        worker.pid,
        worker.state if worker.is_ours else f"{worker.state} (RQ's own)",
        ",".join(worker.groups),
        (",".join(status.only) if status else "") or "all",
        f"{status.busy} of {status.threads}" if status else None,
        instant(worker.heartbeat_at),
    )
