"""Configuration: app.yaml, queue.yaml, cron.yaml and the environment, read once into frozen values.

An error is a ConfigError that names the file, line and column, the offending text, and a likely correction.
All errors are found in one pass.

The modules that read the files are imported on first use, because pydantic and ruamel.yaml would take up most
of the start of a command that needs only the environment.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lastacross.config import sentinel_url
from lastacross.config.process import current, current_settings, use, use_later
from lastacross.config.settings import NEW_KEY, describe, read_secret_key, read_settings, warnings
from lastacross.config.values import (
    CRON_QUEUE,
    DEFAULT_SERVICE,
    Acl,
    AppConfig,
    Backend,
    Config,
    CronEntry,
    DispatchRule,
    ErrorHandler,
    Handler,
    QueueConfig,
    RetryParameters,
    Scaling,
    Settings,
    service_of,
)

if TYPE_CHECKING:
    from lastacross.config.loading import Findings, check, keep_files, load, read_cron, read_queues
    from lastacross.config.project import Project, read_project
    from lastacross.config.queues import digest
    from lastacross.config.units import parse_rate

__all__ = [
    "CRON_QUEUE",
    "DEFAULT_SERVICE",
    "NEW_KEY",
    "Acl",
    "AppConfig",
    "Backend",
    "Config",
    "CronEntry",
    "DispatchRule",
    "ErrorHandler",
    "Findings",
    "Handler",
    "Project",
    "QueueConfig",
    "RetryParameters",
    "Scaling",
    "Settings",
    "check",
    "current",
    "current_settings",
    "describe",
    "diagnostics",
    "digest",
    "keep_files",
    "load",
    "parse_rate",
    "read_cron",
    "read_project",
    "read_queues",
    "read_secret_key",
    "read_settings",
    "sentinel_url",
    "service_of",
    "use",
    "use_later",
    "variables",
    "warnings",
]

_HOMES = {
    **dict.fromkeys(("Findings", "check", "keep_files", "load", "read_cron", "read_queues"), "loading"),
    **dict.fromkeys(("Project", "read_project"), "project"),
    "digest": "queues",
    "parse_rate": "units",
}


def __getattr__(name: str) -> Any:
    """Import the module that provides this name from ``__all__``, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
