"""The root command, which imports a command's module only when that command is chosen.

``--version``, ``--help`` and an unknown command need none of the modules, and ``queues list`` needs no web
server. So this module imports only click.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

import lastacross

_APP_HELP = "The application's folder (LASTACROSS_APP); by default the current one."


def complain(message: str) -> None:
    """Print an error as one line on standard error."""
    click.echo(f"lastacross: {message}", err=True)


def takes_app(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--app``, which may come before or after the command's name."""

    @functools.wraps(command)
    def with_root(*, app: Path | None, **options: Any) -> Any:
        root = app or click.get_current_context().find_object(Path) or Path()
        return command(root=root.absolute(), **options)

    return click.option("--app", type=click.Path(path_type=Path), help=_APP_HELP)(with_root)


class _Root(click.Group):
    """A group whose commands are known by name and help, and imported on first use."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the module of the chosen command, which replaces the command's stand-in."""
        module = MODULES.get(args[0])
        if module is not None:
            importlib.import_module(f"lastacross.cli.{module}")
        return super().resolve_command(ctx, args)


# Command → the first sentence of its help; None hides it. A test compares this with the commands' own help.
HELP: Mapping[str, str | None] = {
    "admin": "Decide who may sign in, or become the administrator.",
    "announce": None,
    "batches": "Show and cancel batches.",
    "config": "Check or show the configuration.",
    "cron": "Show, run, pause and resume the jobs of cron.yaml.",
    "db": "Manage the datastore.",
    "deploy": "Put this folder's queue.yaml, cron.yaml, dispatch.yaml and backends.yaml into effect.",
    "dev": "Run everything on this machine, with its own Redis.",
    "doctor": "Find out what is wrong with this set-up, and how to fix it.",
    "longtasks": "Show and cancel long tasks.",
    "new": "Write an application into a new folder.",
    "preload": None,
    "queues": "Show, pause, resume, drain, purge and forget queues.",
    "scheduler": "Run a scheduler, which starts cron jobs and sends tasks added in transactions.",
    "tasks": "Show, run, delete and retry tasks.",
    "watch": None,
    "web": "Run a web server (HOST, PORT, WEB_CONCURRENCY).",
    "worker": "Run worker processes, and restart any that end unexpectedly.",
    "worker-isolated": None,
    "worker-process": None,
    "workers": "Show the worker processes on all machines.",
}
# Command → its module in this package.
MODULES = {
    "admin": "admin",
    "announce": "processes",
    "batches": "batches",
    "config": "configuration",
    "cron": "cron",
    "db": "configuration",
    "deploy": "deploying",
    "dev": "processes",
    "doctor": "doctor",
    "longtasks": "longtasks",
    "new": "new",
    "preload": "processes",
    "queues": "queues",
    "scheduler": "processes",
    "tasks": "tasks",
    "watch": "processes",
    "web": "processes",
    "worker": "processes",
    "worker-isolated": "processes",
    "worker-process": "processes",
    "workers": "workers",
}


@click.group(
    cls=_Root,
    commands={name: click.Command(name, help=text, hidden=text is None) for name, text in HELP.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  lastacross dev                          everything on this machine
  lastacross --app ../shop dev            the same for another application
  lastacross worker --processes 4         workers only
  lastacross worker --service counter     the workers of a backend
  lastacross deploy                       check and put queue.yaml and cron.yaml into effect
  lastacross admin link                   sign in as the administrator
  lastacross admin set-password anna      let Anna sign in with a password
  lastacross queues list                  show the state of all queues
  lastacross doctor                       find out what is wrong with this set-up
  lastacross config check                 check the YAML files and the environment""",
)
@click.option("--app", type=click.Path(path_type=Path), envvar="LASTACROSS_APP", help=_APP_HELP)
@click.version_option(lastacross.__version__, prog_name="lastacross")
@click.pass_context
def cli(context: click.Context, app: Path | None) -> None:
    """App Engine's application model on Redis: push queues, deferred, channels."""
    context.obj = app
