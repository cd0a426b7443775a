"""``dev``, ``web``, ``worker``, ``scheduler``: commands that run an application's processes.

A supervisor lives as long as the processes that it started, and runs none of their code, so each command
imports only its own modules.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lastacross.cli.base import cli, takes_app
from lastacross.cli.connecting import configured, environ_of
from lastacross.config import DEFAULT_SERVICE, Config, diagnostics, variables
from lastacross.processes import parent_watch, probes, workers


@cli.command("dev", epilog="Example: PORT=9000 LASTACROSS_DATA_DIR=/tmp/var lastacross dev")
@takes_app
def _dev(root: Path) -> int:
    """Run everything on this machine, with its own Redis.

    Data is kept in the data folder (LASTACROSS_DATA_DIR, by default var/) until the next start. If REDIS_URL
    or DATABASE_URL is set, it is used instead. Ctrl-C stops everything.
    """
    return _call("dev", "run", root, os.environ, _run_again)


@cli.command("web", epilog="Example: PORT=80 WEB_CONCURRENCY=2 lastacross web")
@takes_app
def _web(root: Path) -> int:
    """Run a web server (HOST, PORT, WEB_CONCURRENCY)."""
    return _call("web", "run", configured(root))


class _Service(click.ParamType[str]):
    """The name of a service, in the form used in backends.yaml."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return variables.service(value)
        except diagnostics.UnusableError as error:
            self.fail(diagnostics.sentence(f"{value!r} {error.problem}", error.hint), param, ctx)


_max_tasks = click.option(
    "--max-tasks", type=click.IntRange(1), metavar="N", help="Replace a process after about this many tasks."
)
_max_memory = click.option(
    "--max-memory",
    type=click.IntRange(1),
    metavar="MB",
    help="Replace a process that uses this much memory (resident; on macOS, its peak).",
)


_health_port = click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    metavar="P",
    help="Answer /healthz and /readyz on this port.",
)
_health_host = click.option(
    "--health-host",
    default="127.0.0.1",
    show_default=True,
    metavar="HOST",
    help="The address of --health-port.",
)


def _health_at(host: str, port: int | None) -> probes.Address | None:
    return None if port is None else probes.Address(host, port)


@cli.command(
    "worker",
    epilog="""\b
Examples:
  lastacross worker --processes 4 --threads 16 --queues mail,import
  lastacross worker --service counter""",
)
@click.option(
    "--service",
    type=_Service(),
    help="Serve the tasks for this service (LASTACROSS_SERVICE; default).",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    help="Number of processes (default: the backend's instances, LASTACROSS_PROCESSES, or 2).",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Concurrent tasks per process (default: max_concurrent_requests, LASTACROSS_THREADS, or 8).",
)
@click.option("--queues", default="", metavar="A,B", help="Queues to serve (default: all push queues).")
@_max_tasks
@_max_memory
@_health_port
@_health_host
@takes_app
def _worker(
    root: Path,
    service: str | None,
    processes: int | None,
    threads: int | None,
    *,
    queues: str,
    max_tasks: int | None,
    max_memory: int | None,
    health_port: int | None,
    health_host: str,
) -> int:
    """Run worker processes, and restart any that end unexpectedly.

    Without --service they serve the application itself. With --service they first request /_ah/start and then
    serve only that service, which is a backend of backends.yaml or any name that tasks have as their target.

    A process that reaches --max-tasks or --max-memory finishes its tasks and is replaced. Each process draws
    its own limits between 90 and 100 %, so that they are not all replaced at the same time.
    """
    configuration = configured(root)
    _remark_on_service(configuration, service or configuration.settings.service)
    return workers.run(
        configuration,
        environ_of(configuration),
        service=service,
        processes=processes,
        threads=threads,
        queues=_names(queues),
        max_tasks=max_tasks,
        max_memory_mb=max_memory,
        run_command=_run_again,
        health_at=_health_at(health_host, health_port),
    )


def _remark_on_service(configuration: Config, name: str) -> None:
    """Log a remark if a name looks misspelt, even though it may be intentional."""
    known = {DEFAULT_SERVICE, configuration.app.service, *configuration.services}
    hint = diagnostics.likely(name, known, 0.75)
    if name not in known and hint is not None:
        listed = f"{name!r} is not a service in backends.yaml or LASTACROSS_SERVICES"
        click.echo(f"notice: --service {diagnostics.sentence(listed, hint)}", err=True)


@cli.command("worker-process", hidden=True)
@click.option("--threads", type=click.IntRange(1, 1024))
@click.option("--queues", default="")
# This option only shows in `ps` whose process this is; LASTACROSS_SERVICE decides.
@click.option("--service", expose_value=False)
@_max_tasks
@_max_memory
@takes_app
def _worker_process(
    root: Path, threads: int | None, queues: str, max_tasks: int | None, max_memory: int | None
) -> int:
    """Run one worker process; ``worker`` starts this command."""
    configuration = configured(root)
    return _call(
        "worker",
        "run",
        configuration,
        threads=threads or configuration.settings.threads,
        queues=_names(queues),
        max_tasks=max_tasks,
        max_memory_mb=max_memory,
    )


@cli.command("worker-isolated", hidden=True)
@takes_app
def _worker_isolated(root: Path) -> int:
    """Run suspect tasks alone; a worker process starts this command."""
    return _call("worker", "run_isolated", configured(root))


@cli.command("announce", hidden=True)
@takes_app
def _announce(root: Path) -> int:
    """Print the site's address once it answers; ``dev`` starts this command."""
    return _call("dev", "announce", configured(root))


@cli.command("preload", hidden=True)
@click.option("--for", "kinds", multiple=True)
@click.option("--reports", is_flag=True)
@takes_app
def _preload(root: Path, kinds: tuple[str, ...], *, reports: bool) -> int:
    """Import the application and fork other processes; a supervisor starts this command."""
    return _call("preload", "run", lambda: configured(root), kinds, _run_again, reports=reports)


@cli.command("watch", hidden=True)
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("ignored", type=click.Path(path_type=Path))
def _watch(root: Path, ignored: Path) -> int:
    """Tell the process that started this one when a file of the application changes; ``dev`` starts it."""
    return _call("watching", "run", root, ignored)


def _call(module: str, function: str, *args: Any, **options: Any) -> int:
    """Import a module of ``processes`` and call its function, which returns an exit code."""
    code: int = getattr(importlib.import_module(f"lastacross.processes.{module}"), function)(*args, **options)
    return code


def _run_again(arguments: Sequence[str]) -> int:
    """Run a command as its own program would."""
    # The package has been imported by now; this module cannot import it, because the package imports this
    # module.
    code: int = sys.modules["lastacross.cli"].run(arguments)
    return code


@cli.command("scheduler", epilog="Several may run at once; none repeats another's work.")
@_health_port
@_health_host
@takes_app
def _scheduler(root: Path, health_port: int | None, health_host: str) -> int:
    """Run a scheduler, which starts cron jobs and sends tasks added in transactions."""
    configuration = configured(root)
    parent_watch.watch_parent()
    return _call("scheduler", "run", configuration, _health_at(health_host, health_port))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
