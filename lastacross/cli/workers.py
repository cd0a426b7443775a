"""``workers``: shows the worker processes on all machines."""

from dataclasses import asdict
from pathlib import Path

import click

from lastacross import store
from lastacross.broker import registered_workers
from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import listing
from lastacross.cli.showing import print_json, print_table


@cli.group("workers")
def _workers() -> None:
    """Show the worker processes on all machines."""


@_workers.command("list", epilog="Example: lastacross workers list --json | jq '.[].host'")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@takes_app
def _list(root: Path, as_json: bool) -> None:
    """Show the worker processes that have shown a sign of life within half a minute.

    SERVICES are the services whose tasks it runs. QUEUES is "all" unless it was started with --queues.
    """
    with listing(root):
        found = registered_workers(store.current())
    if as_json:
        print_json([asdict(worker) for worker in found])
        return
    head = ("HOST", "PID", "STATE", "SERVICES", "QUEUES", "THREADS", "SEEN")
    rows = [
        (
            worker.host,
            worker.pid,
            worker.state if worker.is_own else f"{worker.state} (RQ's own)",
            ",".join(worker.groups),
            ",".join(worker.queues) or "all",
            worker.threads,
            worker.seen_at,
        )
        for worker in found
    ]
    print_table(head, rows)
