"""Declares the configuration as frozen values, with every default."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lastacross import __version__

NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return NOTHING


DEFAULT_SERVICE = "default"
DEFAULT_RATE = 5.0
DEFAULT_BUCKET_SIZE = 5
REQUEST_DEADLINE_SECONDS = 600
LONG_DEADLINE_SECONDS = 86_400

Login = Literal["optional", "required", "admin"]
Secure = Literal["optional", "always", "never"]
AuthFailAction = Literal["redirect", "unauthorized"]
CrossSite = Literal["refuse", "allow"]
Position = Literal["head", "tail"]
ScalingMode = Literal["automatic", "basic", "manual"]
InstanceClass = Literal["B1", "B2", "B4", "B4_1G", "B8"]
BackendState = Literal["START", "STOP"]
Misfire = Literal["run", "skip"]

# App Engine's own list: editors' backups, compiled modules, RCS folders, and names that begin with a dot.
DEFAULT_SKIP_FILES = tuple(
    re.compile(rf"(.*/)?({name})\Z", re.DOTALL)
    for name in ("#.*#", ".*~", r".*\.py[co]", ".*/RCS/.*", r"\..*")
)

# The engine's own queue, whose tasks are the due runs of cron jobs.
CRON_QUEUE = "lastacross-cron"


@dataclass(frozen=True)
class RetryParameters:
    """The rules for retrying a queue's failed tasks. None means no limit. Back-off is in seconds."""

    task_retry_limit: int | None = None
    task_age_limit_seconds: int | None = None
    min_backoff_seconds: float = 0.1
    max_backoff_seconds: float = 3600.0
    max_doublings: int = 16

    def with_backoff(self, shortest: float | None, longest: float | None) -> "RetryParameters":
        """Return a copy with different bounds, in seconds; a bound left as None adapts to the other one."""
        if shortest is None:
            shortest = self.min_backoff_seconds if longest is None else min(self.min_backoff_seconds, longest)
        if longest is None:
            longest = max(self.max_backoff_seconds, shortest)
        return replace(self, min_backoff_seconds=shortest, max_backoff_seconds=longest)


@dataclass(frozen=True)
class Acl:
    """A user or a writer who may use a pull queue over REST; exactly one of the two is set."""

    user_email: str | None = None
    writer_email: str | None = None


@dataclass(frozen=True)
class QueueConfig:
    """One queue of queue.yaml.

    ``rate`` is in tasks per second, and 0 means paused. If ``max_concurrent_requests`` is None, only the
    number of worker threads limits the queue, because App Engine's 1,000 reflected its own machines.
    """

    name: str
    mode: Literal["push", "pull"] = "push"
    rate: float = DEFAULT_RATE
    bucket_size: int = DEFAULT_BUCKET_SIZE
    max_concurrent_requests: int | None = None
    retry: RetryParameters | None = None
    target: str | None = None
    acl: tuple[Acl, ...] = ()


@dataclass(frozen=True)
class Handler:
    """One entry of app.yaml's ``handlers``. The first handler whose ``pattern`` matches a path serves it.

    ``pattern`` is anchored at both ends. For a ``static_dir``, its group ``path`` captures the path under the
    prefix. ``script`` is a dotted name; ``auto`` means ``main.app``. If ``expiration_seconds`` is None, the
    file's ``default_expiration`` applies. With ``allows_cross_site``, a POST from another site's page is
    accepted as an anonymous request. ``redirect_status`` is the status of the redirect to HTTPS. ``file`` and
    ``line`` say where the handler is defined.
    """

    url: str
    pattern: re.Pattern[str]
    script: str | None = None
    static_dir: str | None = None
    static_files: str | None = None
    upload: re.Pattern[str] | None = None
    login: Login = "optional"
    auth_fail_action: AuthFailAction = "redirect"
    secure: Secure = "optional"
    expiration_seconds: int | None = None
    http_headers: Mapping[str, str] = field(default_factory=_nothing)
    mime_type: str | None = None
    require_matching_file: bool = False
    allows_cross_site: bool = False
    redirect_status: int = 301
    file: str = field(default="app.yaml", compare=False)
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ErrorHandler:
    """A page that replaces the plain error page; ``error_code`` is App Engine's name for the error."""

    file: str
    error_code: str = "default"
    mime_type: str = "text/html"


@dataclass(frozen=True)
class Scaling:
    """How many instances and requests may run in parallel; None means that the file sets no number."""

    mode: ScalingMode = "automatic"
    instances: int | None = None
    max_concurrent_requests: int | None = None


@dataclass(frozen=True)
class AppConfig:
    """The supported settings of app.yaml and its included files.

    ``skip_files`` are matched from the beginning of a path relative to the application's folder. ``included``
    holds the included files' paths, relative to that folder. ``google_names`` lets the application import
    ``google.appengine``. ``security_headers`` map a header's name to the value that the application's
    responses get, or to None to omit the header.
    """

    service: str = "default"
    handlers: tuple[Handler, ...] = ()
    env_variables: Mapping[str, str] = field(default_factory=_nothing)
    default_expiration_seconds: int | None = None
    error_handlers: tuple[ErrorHandler, ...] = ()
    scaling: Scaling = Scaling()
    inbound_services: frozenset[str] = frozenset()
    skip_files: tuple[re.Pattern[str], ...] = DEFAULT_SKIP_FILES
    included: tuple[str, ...] = ()
    google_names: bool = False
    security_headers: Mapping[str, str | None] = field(default_factory=_nothing)

    def is_skipped(self, path: str) -> bool:
        """Return whether App Engine would not have uploaded this file or folder, or one of its parents.

        Args:
            path: the path relative to the application's folder, with ``/`` between its parts.
        """
        parts = path.split("/")
        whole = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        return any(expression.match(each) for each in whole for expression in self.skip_files)

    @property
    def deadline_seconds(self) -> int:
        """Return how long a task may run: 10 minutes, or 24 hours with manual or basic scaling."""
        return REQUEST_DEADLINE_SECONDS if self.scaling.mode == "automatic" else LONG_DEADLINE_SECONDS


@dataclass(frozen=True)
class Backend:
    """One service of backends.yaml, which runs the same application in its own worker processes.

    ``instances`` is the number of processes, and ``max_concurrent_requests`` the number of tasks that each
    of them runs in parallel (None means LASTACROSS_THREADS). ``start`` is the dotted name of the application
    for ``/_ah/start``; None leaves that URL to app.yaml. ``instance_class`` and ``options`` have no effect.
    """

    name: str
    instances: int = 1
    max_concurrent_requests: int | None = None
    start: str | None = None
    state: BackendState = "START"
    options: frozenset[str] = frozenset()
    instance_class: InstanceClass = "B2"


@dataclass(frozen=True)
class CronEntry:
    """One job of cron.yaml.

    ``name`` is unique and does not change with the schedule. If ``retry`` is None, a failed run is not
    retried. If ``attempt_deadline_seconds`` is None, the usual deadline applies. ``misfire`` decides whether
    to make up for one of the runs that came due while no scheduler was running.
    """

    name: str
    url: str
    schedule: str
    timezone: str = "UTC"
    description: str = ""
    target: str | None = None
    retry: RetryParameters | None = None
    attempt_deadline_seconds: float | None = None
    misfire: Misfire = "run"


@dataclass(frozen=True)
class DispatchRule:
    """One rule of dispatch.yaml: the service for the requests to a URL.

    ``host`` may begin and ``path`` may end with ``*``, which matches any string, including an empty one.
    """

    host: str
    path: str
    service: str

    def has(self, host: str, path: str) -> bool:
        """Return whether the rule matches this URL; the host's case does not matter."""
        if self.host.startswith("*"):
            is_host = host.lower().endswith(self.host[1:])
        else:
            is_host = host.lower() == self.host
        if self.path.endswith("*"):
            return is_host and path.startswith(self.path[:-1])
        return is_host and path == self.path


@dataclass(frozen=True)
class Settings:
    """The settings from the environment. ``sources`` maps each variable to its value's source.

    ``service`` is the service that this process belongs to (``default`` for app.yaml's own service), and
    ``services`` maps other services to their base URLs.
    ``key_prefix`` is the prefix of all key names in Redis; RQ and the engine read it when they are imported.
    ``allowed_hosts`` are the names that a request's Host may have, in lower case and without a port; ``*``
    allows any name, and ``.example.com`` allows that name and its subdomains. By default, dev allows only the
    machine's loopback names. Otherwise any name is allowed, and a warning appears at each start and in
    ``config check``. ``trusted_proxies`` are the networks of the proxies whose headers about the client are
    trusted. ``user_header`` is the header in which such a proxy names the signed-in user; '' means none.
    ``admins`` and ``viewers`` are the users who may open private pages, in lower case (``*`` in ``viewers``:
    everybody). ``max_form_bytes`` limits JSON bodies and forms without their files. ``max_form_fields``
    limits a form's fields and a URL's query parameters. ``fetch_private_hosts`` are the hosts in private
    networks, written as ``host`` or ``host:port``, from which ``urlfetch`` may still fetch.
    ``open_longtasks`` limits the number of waiting and running long tasks. ``longtask_bytes`` limits the
    total size of their parameters, files and results. ``threads`` and ``worker_processes`` apply to
    ``lastacross worker``, and ``web_…`` to ``lastacross web``. ``metrics_token`` is the bearer token that
    admits a scraper to ``/_ah/metrics``; without one, only the administrator is admitted. ``traces`` records
    spans of tasks with OpenTelemetry, which the extra ``otel`` installs. ``preload`` lets a supervisor fork
    its processes from one that has imported the application (Linux only).
    """

    port: int
    host: str
    redis_url: str
    database_url: str
    secret_key: str = field(repr=False)
    data_dir: Path
    key_prefix: str = "rq"
    services: Mapping[str, str] = field(default_factory=_nothing)
    tombstone_seconds: int = 777_600
    lease_seconds: float = 8.0
    is_dev: bool = False
    sources: Mapping[str, str] = field(default_factory=_nothing)
    allowed_hosts: tuple[str, ...] = ("*",)
    log_level: str = "INFO"
    web_processes: int = 2
    web_threads: int = 1_280
    max_streams: int = 1_024
    max_streams_per_client: int = 256
    max_body_bytes: int = 10_485_760
    max_form_bytes: int = 1_048_576
    max_form_fields: int = 1_000
    worker_processes: int = 2
    threads: int = 8
    preload: bool = True
    dead_letter_seconds: int = 2_592_000
    cache_seconds: int = 86_400
    longtask_seconds: int = 2_592_000
    open_longtasks: int = 1_000
    longtask_bytes: int = 2_147_483_648
    service: str = DEFAULT_SERVICE
    fetch_private_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    metrics_token: str = field(default="", repr=False)
    user_header: str = ""
    admins: tuple[str, ...] = ()
    viewers: tuple[str, ...] = ()
    traces: bool = False

    @property
    def server_software(self) -> str:
        """Return the value of SERVER_SOFTWARE for the process's environment and every request."""
        return f"{'Development' if self.is_dev else 'Google App Engine'}/{__version__}"


@dataclass(frozen=True)
class Config:
    """The complete configuration, which is read once and never changed.

    ``notices``, one line each, concern keys that have no effect or are not applied as written.
    Unless ``has_queue_file``, there is no queue.yaml and ``queues`` has only the queue ``default``.
    Unless ``has_cron_file``, there is no cron.yaml, so jobs loaded by another machine are kept.
    """

    root: Path
    app: AppConfig
    queues: Mapping[str, QueueConfig]
    settings: Settings
    notices: tuple[str, ...] = ()
    total_storage_limit_bytes: int | None = None
    resume_paused_queues: bool | None = None
    backends: Mapping[str, Backend] = field(default_factory=_nothing)
    dispatch: tuple[DispatchRule, ...] = ()
    has_queue_file: bool = False
    cron: tuple[CronEntry, ...] = ()
    has_cron_file: bool = False

    @property
    def services(self) -> frozenset[str]:
        """Return the known services besides app.yaml's own, from backends.yaml and LASTACROSS_SERVICES."""
        return frozenset(self.backends) | frozenset(self.settings.services)

    @property
    def deadline_seconds(self) -> int:
        """Return how long a task may run in this process: 24 hours in a backend, regardless of app.yaml."""
        if self.settings.service in self.backends:
            return LONG_DEADLINE_SECONDS
        return self.app.deadline_seconds

    def dispatched_service(self, path: str) -> str | None:
        """Return the service to which dispatch.yaml sends a task's URL, or None if no rule matches.

        A task's URL has no host, so only rules for any host (``*/…``) apply. The first match wins.

        Args:
            path: the task's URL; its query does not matter.
        """
        plain = path.partition("?")[0]
        return next((rule.service for rule in self.dispatch if rule.has("", plain)), None)


def service_of(target: str) -> str:
    """Return the service in ``[instance.][version.]service``; the other parts have no effect here."""
    return target.rpartition(".")[2]
