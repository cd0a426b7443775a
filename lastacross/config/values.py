"""The files and the environment as frozen values, with every default."""

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

# The engine's own queue: a due run of cron.yaml is a task there.
CRON_QUEUE = "lastacross-cron"


@dataclass(frozen=True)
class RetryParameters:
    """When a queue's failed tasks run again. None = no limit. Back-off is in seconds."""

    task_retry_limit: int | None = None
    task_age_limit_seconds: int | None = None
    min_backoff_seconds: float = 0.1
    max_backoff_seconds: float = 3600.0
    max_doublings: int = 16

    def with_backoff(self, shortest: float | None, longest: float | None) -> "RetryParameters":
        """The same with other bounds, in seconds; one that is None gives way to the other."""
        if shortest is None:
            shortest = self.min_backoff_seconds if longest is None else min(self.min_backoff_seconds, longest)
        if longest is None:
            longest = max(self.max_backoff_seconds, shortest)
        return replace(self, min_backoff_seconds=shortest, max_backoff_seconds=longest)


@dataclass(frozen=True)
class Acl:
    """Who may use a pull queue over REST: one of the two is given."""

    user_email: str | None = None
    writer_email: str | None = None


@dataclass(frozen=True)
class QueueConfig:
    """One queue of queue.yaml.

    ``rate`` is in tasks a second, 0 = paused. ``max_concurrent_requests`` None = the file sets
    no limit: App Engine's 1,000 was the size of its machines, ours is the workers' threads.
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
    """One entry of app.yaml's ``handlers``: the first whose ``pattern`` matches a path serves it.

    ``pattern`` is anchored at both ends. A ``static_dir``'s pattern has the path below the prefix as its
    group ``path``. ``script`` is a dotted name; ``auto`` is read as ``main.app``. ``expiration_seconds``
    None = the file's ``default_expiration``. ``allows_cross_site``: it accepts a POST from pages of other
    sites, as an anonymous one. ``redirect_status`` is for the redirect to HTTPS. ``file`` and ``line`` are
    the handler's place.
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
    """A page to send in place of the plain one; ``error_code`` is App Engine's name of the occasion."""

    file: str
    error_code: str = "default"
    mime_type: str = "text/html"


@dataclass(frozen=True)
class Scaling:
    """How many run in parallel; None = not in the file."""

    mode: ScalingMode = "automatic"
    instances: int | None = None
    max_concurrent_requests: int | None = None


@dataclass(frozen=True)
class AppConfig:
    """app.yaml with its included files, as far as they are acted on.

    ``skip_files`` are matched from the beginning of a path below the application's folder. ``included`` are
    the paths of the included files, below that folder.
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

    def is_skipped(self, path: str) -> bool:
        """Whether App Engine would have skipped this file or folder, or a folder around it, at upload.

        Args:
            path: below the application's folder, with ``/`` between its parts.
        """
        parts = path.split("/")
        whole = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        return any(expression.match(each) for each in whole for expression in self.skip_files)

    @property
    def deadline_seconds(self) -> int:
        """How long a task may run: 10 minutes, or 24 hours with manual or basic scaling."""
        return REQUEST_DEADLINE_SECONDS if self.scaling.mode == "automatic" else LONG_DEADLINE_SECONDS


@dataclass(frozen=True)
class Backend:
    """One service of backends.yaml: the same application, run by worker processes of its own.

    ``instances`` is the number of processes, ``max_concurrent_requests`` the tasks that each runs in
    parallel; None = LASTACROSS_THREADS. ``start`` is the dotted name of the application for ``/_ah/start``,
    None = as in app.yaml. ``instance_class`` and ``options`` are read and not acted on.
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

    ``name`` is unique and does not change with the schedule. ``retry`` None = a failed run is not repeated.
    ``attempt_deadline_seconds`` None = as for other requests. ``misfire``: whether one of the runs that came
    due while no scheduler ran is made up for.
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

    ``host`` may begin and ``path`` may end with ``*``, which matches any text or none.
    """

    host: str
    path: str
    service: str

    def has(self, host: str, path: str) -> bool:
        """Whether the rule is for this URL; the case of hosts does not matter."""
        if self.host.startswith("*"):
            is_host = host.lower().endswith(self.host[1:])
        else:
            is_host = host.lower() == self.host
        if self.path.endswith("*"):
            return is_host and path.startswith(self.path[:-1])
        return is_host and path == self.path


@dataclass(frozen=True)
class Settings:
    """The environment. ``sources`` names each variable's source.

    ``service`` is the one that this process belongs to, ``default`` if it is app.yaml's own; ``services``
    maps others to their base URLs.
    ``key_prefix`` begins the names of all keys in Redis; RQ and the engine read it when they are imported.
    ``allowed_hosts`` are the names a request's Host may have, lower case, without port; ``*`` is any, and
    ``.example.com`` is that name with all below it. Unless set: under dev the names of this machine's
    loopback, else any, of which ``config check`` and the start warn.
    ``trusted_proxies`` are the networks of proxies whose statements about the client are believed.
    ``max_form_bytes`` is for JSON and for forms without their files; ``max_form_fields`` for the fields of a
    form and the parameters of an address.
    ``fetch_private_hosts`` are hosts, as ``host`` or ``host:port``, from which ``urlfetch`` may fetch
    although they are in a private network.
    ``open_longtasks`` bounds the waiting and running long tasks, ``longtask_bytes`` the total size of their
    parameters, files and results.
    ``threads`` and ``worker_processes`` are for ``lastacross worker``, ``web_…`` for ``lastacross web``.
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
    dead_letter_seconds: int = 2_592_000
    cache_seconds: int = 86_400
    longtask_seconds: int = 2_592_000
    open_longtasks: int = 1_000
    longtask_bytes: int = 2_147_483_648
    service: str = DEFAULT_SERVICE
    fetch_private_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()

    @property
    def server_software(self) -> str:
        """The value of SERVER_SOFTWARE in a process's environment and in every request."""
        return f"{'Development' if self.is_dev else 'Google App Engine'}/{__version__}"


@dataclass(frozen=True)
class Config:
    """Everything configured: read once, never changed.

    ``notices`` are one line each: about keys that are not acted on, or not as written.
    ``has_queue_file`` False = there is no queue.yaml, and ``queues`` has only the queue ``default``.
    ``has_cron_file`` False = there is no cron.yaml, so jobs read on another machine stay.
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
        """The services that this set-up knows beside its own: backends.yaml and LASTACROSS_SERVICES."""
        return frozenset(self.backends) | frozenset(self.settings.services)

    @property
    def deadline_seconds(self) -> int:
        """How long a task may run in this process; 24 hours in a backend, whatever app.yaml says."""
        if self.settings.service in self.backends:
            return LONG_DEADLINE_SECONDS
        return self.app.deadline_seconds

    def dispatched_service(self, path: str) -> str | None:
        """The service to which dispatch.yaml sends a task's URL, or None when no rule is for it.

        A task has no host of its own, so only rules for any host (``*/…``) apply. The first one counts.

        Args:
            path: the task's URL; its query does not matter.
        """
        plain = path.partition("?")[0]
        return next((rule.service for rule in self.dispatch if rule.has("", plain)), None)
