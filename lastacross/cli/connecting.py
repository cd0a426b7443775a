"""Loads a command's configuration, and connects the command to Redis."""

import contextlib
import dataclasses
import importlib
import os
import pwd
from collections.abc import Iterator, Sequence
from pathlib import Path

from lastacross import config, logs, store
from lastacross.cli.base import complain
from lastacross.config import Config, Settings
from lastacross.errors import StoreUnavailableError


def configured(root: Path, *, needs_secret_key: bool = True) -> Config:
    """Load this process's configuration and turn on its log output.

    Args:
        root: the application's folder.
        needs_secret_key: whether a missing SECRET_KEY is an error.

    Raises:
        ConfigError: the configuration is invalid.
    """
    configuration = config.load(root, os.environ, needs_secret_key=needs_secret_key)
    config.use(configuration)
    logs.configure(configuration.settings)
    return configuration


@contextlib.contextmanager
def asking_redis(root: Path, *, needs_redis: bool = True) -> Iterator[Config]:
    """The configuration for a command that uses Redis; the connection stays open during the block.

    Without REDIS_URL it uses the Redis of the ``lastacross dev`` that is using the data folder, if one is
    running.

    Args:
        root: the application's folder.
        needs_redis: whether an unavailable Redis is an error before the block even begins.
    """
    configuration = config.load(root, os.environ, needs_secret_key=False)
    settings = _with_running_redis(configuration.settings)
    configuration = dataclasses.replace(configuration, settings=settings)
    config.use(configuration)
    with _connected(settings, needs_redis=needs_redis):
        yield configuration


@contextlib.contextmanager
def opened_store(root: Path) -> Iterator[Config]:
    """The configuration for a command whose store need not be available, such as ``doctor``."""
    configuration = config.load(root, os.environ, needs_secret_key=False)
    settings = _with_running_redis(configuration.settings)
    configuration = dataclasses.replace(configuration, settings=settings)
    config.use(configuration)
    _log_little(settings)
    opened = store.Store(settings.redis_url, patience_seconds=store.PATIENCE_SECONDS)
    store.use(opened)
    try:
        yield configuration
    finally:
        store.use(None)
        opened.close()


def record(action: str, ids: Sequence[str]) -> None:
    """Record in the audit log that this command's user did something.

    The command has done its work by then, so an error is only printed.

    Args:
        action: the kind of action, such as ``queue.pause``.
        ids: what it was done to.
    """
    accounts = importlib.import_module("lastacross.accounts")
    audit = importlib.import_module("lastacross.audit")
    try:
        audit.record(store.current(), accounts.Person(_user(), accounts.ADMIN, "cli"), action, ids)
    except StoreUnavailableError as error:
        complain(f"done, but not recorded in the audit log: {error}")


def _user() -> str:
    """The operating system's name for this process's user, regardless of the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


@contextlib.contextmanager
def listing(root: Path) -> Iterator[Settings]:
    """The settings for a command that only shows something; it reads the YAML files only if it has to.

    Reading them would take longer than the rest of the command.
    """
    settings = settings_of(root)
    with _connected(_with_running_redis(settings)):
        yield settings


def settings_of(root: Path) -> Settings:
    """The environment's settings; the whole configuration is loaded when something needs it.

    Raises:
        ConfigError: a variable is invalid, or the folder is not an application's folder.
    """

    def load() -> Config:
        return config.load(root, os.environ, needs_secret_key=False)

    if not any((root / name).is_file() for name in ("app.yaml", "app.yml")):
        # This raises the error that names the missing folder or file.
        return load().settings
    settings = config.read_settings(root, os.environ)
    config.use_later(settings, load)
    _log_little(settings)
    return settings


def _with_running_redis(settings: Settings) -> Settings:
    if settings.sources["REDIS_URL"] != "default":
        return settings
    embedded = importlib.import_module("lastacross.processes.embedded")
    url = embedded.running_url(settings.data_dir)
    return settings if url is None else dataclasses.replace(settings, redis_url=url)


@contextlib.contextmanager
def _connected(settings: Settings, *, needs_redis: bool = True) -> Iterator[None]:
    """Let the process use this Redis during the block."""
    _log_little(settings)
    opened = store.Store(settings.redis_url, patience_seconds=store.PATIENCE_SECONDS)
    store.use(opened)
    try:
        if needs_redis:
            # Check up front that Redis is reachable: without it, lists would show only what is in queue.yaml.
            opened.sync_clock()
        yield
    except store.ResponseError as error:
        raise StoreUnavailableError(f"Redis refuses a command: {error}") from error
    finally:
        store.use(None)
        opened.close()


def _log_little(settings: Settings) -> None:
    """Log warnings and errors only, unless LASTACROSS_LOG_LEVEL is set: the command reports what it does."""
    if settings.sources["LASTACROSS_LOG_LEVEL"] == "default":
        settings = dataclasses.replace(settings, log_level="WARNING")
    logs.configure(settings, on_demand=True)


def environ_of(configuration: Config) -> dict[str, str]:
    """The environment for child processes."""
    return {**os.environ, "LASTACROSS_APP": str(configuration.root)}
