"""Configuration: app.yaml, queue.yaml, cron.yaml and the environment, read once into frozen values.

A mistake is a ConfigError that names the file, line and column, the offending text, and a likely
correction. All mistakes are found in one pass.
"""

from lastacross.config.loading import Findings, check, current, keep_files, load, read_cron, read_queues, use
from lastacross.config.project import Project, read_project
from lastacross.config.queues import digest
from lastacross.config.services import service_of
from lastacross.config.settings import describe, read_secret_key, warnings
from lastacross.config.units import parse_rate
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
)

__all__ = [
    "CRON_QUEUE",
    "DEFAULT_SERVICE",
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
    "service_of",
    "use",
    "variables",
    "warnings",
]
