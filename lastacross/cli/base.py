"""The root command, and shared helpers for finding the application's folder and its configuration."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import lastacross
from lastacross import config, logs, store
from lastacross.config import Config
from lastacross.processes import embedded

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


def configured(
    root: Path, *, needs_secret_key: bool = True, environ: Mapping[str, str] | None = None
) -> Config:
    """Load this process's configuration and turn on its log output.

    Args:
        root: the application's folder.
        needs_secret_key: whether a missing SECRET_KEY is an error.
        environ: a mapping to use instead of this process's environment.

    Raises:
        ConfigError: the configuration is invalid.
    """
    configuration = config.load(root, environ or os.environ, needs_secret_key=needs_secret_key)
    config.use(configuration)
    logs.configure(configuration.settings)
    return configuration


@contextlib.contextmanager
def asking_redis(root: Path) -> Iterator[Config]:
    """The configuration for a command that uses Redis; the connection stays open during the block.

    Without REDIS_URL it uses the Redis of the ``lastacross dev`` that is using the data folder, if one is
    running.
    """
    configuration = configured(root, needs_secret_key=False)
    if configuration.settings.sources["REDIS_URL"] == "default":
        url = embedded.running_url(configuration.settings.data_dir)
        if url is not None:
            environ = {**os.environ, "REDIS_URL": url}
            configuration = configured(root, needs_secret_key=False, environ=environ)
    if configuration.settings.sources["LASTACROSS_LOG_LEVEL"] == "default":
        # The command itself reports what it does.
        logs.configure(dataclasses.replace(configuration.settings, log_level="WARNING"))
    opened = store.Store(configuration.settings.redis_url)
    store.use(opened)
    try:
        yield configuration
    finally:
        store.use(None)
        opened.close()


def environ_of(configuration: Config) -> dict[str, str]:
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
  lastacross admin link                   sign in as the administrator
  lastacross queues list                  show the state of all queues
  lastacross config check                 check the YAML files and the environment""",
)
@click.option("--app", type=click.Path(path_type=Path), envvar="LASTACROSS_APP", help=_APP_HELP)
@click.version_option(lastacross.__version__, prog_name="lastacross")
@click.pass_context
def cli(context: click.Context, app: Path | None) -> None:
    """App Engine's application model on Redis: push queues, deferred, channels."""
    context.obj = app
