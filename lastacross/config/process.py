"""Keeps this process's configuration, which is read on first use."""

import importlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from lastacross.config.settings import APP
from lastacross.config.values import Config, Settings

_current: Config | None = None
_load: Callable[[], Config] | None = None
_settings: Settings | None = None
_lock = threading.Lock()


def current() -> Config:
    """Return this process's configuration.

    It is read on first use, from LASTACROSS_APP or the current folder unless ``use_later`` says otherwise.

    Raises:
        ConfigError: the configuration is invalid.
    """
    global _current
    with _lock:
        if _current is None:
            _current = _read() if _load is None else _load()
        return _current


def _read() -> Config:
    loading = importlib.import_module("lastacross.config.loading")
    found: Config = loading.load(Path(os.environ.get(APP) or "."), os.environ)
    return found


def use(config: Config | None) -> None:
    """Make this the process's configuration; None discards the current one."""
    global _current, _load, _settings
    with _lock:
        _current, _load, _settings = config, None, None


def use_later(settings: Settings, load: Callable[[], Config]) -> None:
    """Use these settings, and let ``load`` read the process's whole configuration when it is needed."""
    global _current, _load, _settings
    with _lock:
        _current, _load, _settings = None, load, settings


def current_settings() -> Settings:
    """Return this process's settings, without reading the files if ``use_later`` was called.

    Raises:
        ConfigError: the configuration is invalid.
    """
    found = _settings
    return current().settings if found is None else found
