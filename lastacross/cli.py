"""The command line: parses, calls, answers.

Exit codes: 0 done; 2 the command line or the configuration is wrong; 1 anything else. What went
wrong stands on standard error in one line that names it and the remedy, without a traceback.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

import lastacross
from lastacross import config, datastore, logs
from lastacross.config import DEFAULT_SERVICE, Config, mistakes, variables
from lastacross.errors import ConfigError, Error
from lastacross.runtime import demo_data, dev, scheduler, supervisor, web, worker_process, workers

_APP_HELP = "The application's folder (LASTACROSS_APP); by default the current one."


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None takes this process's.

    Returns:
        The exit code.
    """
    try:
        outcome = cli.main(arguments, prog_name="lastacross", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except ConfigError as error:
        for mistake in error.mistakes:
            _complain(str(mistake))
        return 2
    except Error as error:
        _complain(str(error))
        return 1
    return outcome if isinstance(outcome, int) else 0


def _complain(message: str) -> None:
    click.echo(f"lastacross: {message}", err=True)


def _takes_app(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--app``, which may stand before or after the command's name."""

    @functools.wraps(command)
    def with_root(*, app: Path | None, **options: Any) -> Any:
        root = app or click.get_current_context().find_object(Path) or Path()
        return command(root=root.absolute(), **options)

    return click.option("--app", type=click.Path(path_type=Path), help=_APP_HELP)(with_root)


def _configured(root: Path, *, needs_secret_key: bool = True) -> Config:
    """Read the configuration for this process, and let its log lines appear.

    Raises:
        ConfigError: it cannot be used.
    """
    configuration = config.load(root, os.environ, needs_secret_key=needs_secret_key)
    config.use(configuration)
    logs.configure(configuration.settings)
    return configuration


def _environ(configuration: Config) -> dict[str, str]:
    """The environment for child processes."""
    return {**os.environ, "LASTACROSS_APP": str(configuration.root)}


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  lastacross dev                          everything on this machine
  lastacross --app ../shop dev            the same for another application
  lastacross worker --processes 4         workers only
  lastacross worker --service counter     the workers of a backend
  lastacross config check                 is app.yaml, queue.yaml, the environment right?""",
)
@click.option("--app", type=click.Path(path_type=Path), envvar="LASTACROSS_APP", help=_APP_HELP)
@click.version_option(lastacross.__version__, prog_name="lastacross")
@click.pass_context
def cli(context: click.Context, app: Path | None) -> None:
    """App Engine's application model on Redis: push queues, deferred, channels."""
    context.obj = app


# --- processes ----------------------------------------------------------------------------


@cli.command("dev", epilog="Example: PORT=9000 LASTACROSS_DATA_DIR=/tmp/var lastacross dev")
@_takes_app
def _dev(root: Path) -> int:
    """Run everything on this machine, with a Redis of its own.

    Data is kept in the data folder (LASTACROSS_DATA_DIR, by default var/) and is there at the next
    start. With REDIS_URL or DATABASE_URL, those are used instead. Ctrl-C stops it all.
    """
    return dev.run(root, os.environ)


@cli.command("web", epilog="Example: PORT=80 WEB_CONCURRENCY=2 lastacross web")
@_takes_app
def _web(root: Path) -> int:
    """Run a web server (HOST, PORT, WEB_CONCURRENCY)."""
    return web.run(_configured(root))


class _Service(click.ParamType[str]):
    """The name of a service, as backends.yaml has it."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return variables.service(value)
        except mistakes.UnusableError as error:
            self.fail(mistakes.sentence(f"{value!r} {error.problem}", error.hint), param, ctx)


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
    help="Serve this service: the tasks whose target it is (LASTACROSS_SERVICE; default).",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    help="How many (a backend: its instances; else LASTACROSS_PROCESSES; 2).",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Tasks at once in each (a backend: its max_concurrent_requests; else LASTACROSS_THREADS; 8).",
)
@click.option(
    "--queues", default="", metavar="A,B", help="Which queues to serve; by default all push queues."
)
@_takes_app
def _worker(root: Path, service: str | None, processes: int | None, threads: int | None, queues: str) -> int:
    """Run worker processes; one that dies is started again.

    Without --service they are those of the application itself. With it they first request /_ah/start, and
    then serve that service alone: a backend of backends.yaml, or any name that tasks have as their target.
    """
    configuration = _configured(root)
    _remark_on_service(configuration, service or configuration.settings.service)
    return workers.run(
        configuration,
        _environ(configuration),
        service=service,
        processes=processes,
        threads=threads,
        queues=_names(queues),
    )


def _remark_on_service(configuration: Config, name: str) -> None:
    """Say so when a name is likely a misspelt one; it may be meant, too."""
    known = {DEFAULT_SERVICE, configuration.app.service, *configuration.services}
    hint = mistakes.likely(name, known, 0.75)
    if name not in known and hint is not None:
        listed = f"{name!r} is a service of neither backends.yaml nor LASTACROSS_SERVICES"
        click.echo(f"notice: --service {mistakes.sentence(listed, hint)}", err=True)


@cli.command("worker-process", hidden=True)
@click.option("--threads", type=click.IntRange(1, 1024))
@click.option("--queues", default="")
@_takes_app
def _worker_process(root: Path, threads: int | None, queues: str) -> int:
    """Run one worker process; ``worker`` starts these."""
    configuration = _configured(root)
    return worker_process.run(
        configuration, threads=threads or configuration.settings.threads, queues=_names(queues)
    )


@cli.command("worker-isolated", hidden=True)
@_takes_app
def _worker_isolated(root: Path) -> int:
    """Run suspicious tasks alone; a worker process starts it."""
    return worker_process.run_isolated(_configured(root))


@cli.command("scheduler", epilog="Several may run: what one has done, the others do not do again.")
@_takes_app
def _scheduler(root: Path) -> int:
    """Run a scheduler: sends what transactions left to be sent, uploads a changed queue.yaml."""
    configuration = _configured(root)
    supervisor.watch_parent()
    return scheduler.run(configuration)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


# --- config -------------------------------------------------------------------------------


@cli.group("config")
def _config() -> None:
    """Look at the configuration."""


@_config.command("check", epilog="Exits with 2 when there is a mistake.")
@_takes_app
def _config_check(root: Path) -> int:
    """Find every mistake in the YAML files and the environment."""
    findings = config.check(root, os.environ)
    for mistake in findings.mistakes:
        click.echo(str(mistake), err=True)
    for notice in findings.notices:
        click.echo(f"notice: {notice}")
    if findings.mistakes:
        return 2
    click.echo(f"{', '.join(findings.files)} and the environment can be used")
    return 0


@_config.command("show", epilog="Example: lastacross config show --json | jq .PORT.value")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@_takes_app
def _config_show(root: Path, as_json: bool) -> None:
    """Show every setting and where its value came from; secrets are hidden."""
    rows = config.describe(config.load(root, os.environ, needs_secret_key=False))
    if as_json:
        shown = {name: {"value": value, "source": source} for name, value, source in rows}
        click.echo(json.dumps(shown, indent=2))
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}")


# --- db -----------------------------------------------------------------------------------


@cli.group("db")
def _db() -> None:
    """Look after the datastore."""


@_db.command("upgrade", epilog="Example: DATABASE_URL=postgresql://user@host/name lastacross db upgrade")
@_takes_app
def _db_upgrade(root: Path) -> None:
    """Bring the engine's tables and the application's up to date."""
    configuration = _configured(root, needs_secret_key=False)
    datastore.upgrade(configuration.settings.database_url, configuration.root)
    [shown] = [value for name, value, _ in config.describe(configuration) if name == "DATABASE_URL"]
    click.echo(f"the datastore {shown} is up to date")


@_db.command("demo", epilog="Example: lastacross db upgrade && lastacross db demo")
@_takes_app
def _db_demo(root: Path) -> None:
    """Load the application's demo data; what is there already stays as it is.

    It calls load() of the application's demo.py. May be repeated, interrupted, and run twice at once.
    """
    click.echo(demo_data.load(_configured(root, needs_secret_key=False)))
