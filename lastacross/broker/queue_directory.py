"""Uploads queue.yaml to Redis, and keeps each process's copy of the uploaded settings.

As on App Engine, queue.yaml is deployed: ``lastacross deploy`` uploads it, and so does ``lastacross dev``
whenever it changes. Other processes upload their file only if nothing has ever been uploaded. The last upload
applies to all machines. Each process checks for a new upload once a second.
"""

import contextlib
import dataclasses
import getpass
import json
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast
from weakref import WeakKeyDictionary

from lastacross import config, logs, store
from lastacross.broker import deployments
from lastacross.broker.answers import Upload
from lastacross.broker.deployments import Deployment
from lastacross.broker.readable import retry_options
from lastacross.broker.record import dump_retry, load_retry
from lastacross.broker.steps import Broker, transient_errors
from lastacross.config import (
    CRON_QUEUE,
    DEFAULT_SERVICE,
    Config,
    DispatchRule,
    QueueConfig,
    RetryParameters,
    service_of,
)
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.store import (
    DEPLOYED,
    DRAINING,
    QUEUE_NAMES,
    SERVICES,
    UPLOAD,
    ResponseError,
    Store,
    settings_key,
)

CRON_RATE = 500.0
CRON_BUCKET_SIZE = 500
# A day is enough, because the cron history keeps failed runs and the next run may follow within a minute.
CRON_DEAD_LETTER_SECONDS = 86_400

REFRESH_SECONDS = 1.0
# Refresh less often while Redis is unavailable, because a refresh blocks its caller.
OUTAGE_REFRESH_SECONDS = 5.0

_NUMBER = re.compile(r"\d{1,15}(\.\d*)?(e[+-]?\d{1,2})?", re.ASCII)
# The format of each setting, which the Lua scripts expect as well.
_SETTINGS = {
    "mode": re.compile("push|pull"),
    "rate": _NUMBER,
    "bucket_size": _NUMBER,
    "max_concurrent": re.compile(rf"|{_NUMBER.pattern}", re.ASCII),
    "dead_letter_seconds": _NUMBER,
    "is_disabled": re.compile("|0|1"),
}
_TYPES = {UPLOAD: "hash", DEPLOYED: "hash", QUEUE_NAMES: "set", SERVICES: "set", DRAINING: "set"}

_log = logs.get("lastacross.queues")

# The digest, time and version of an upload.
Stamp = tuple[bytes | None, ...]


# --- the upload ----------------------------------------------------------------------------


def upload_if_changed(opened: Store, configuration: Config) -> bool:
    """Upload the queues if they differ from the last upload. Returns whether they were uploaded.

    A folder without a queue.yaml, such as another service's folder, never replaces an upload.

    Raises:
        TransientError: Redis is unavailable.
    """
    with transient_errors():
        last = opened.redis.hget(UPLOAD, "digest")
        rules = deployments.rules_of(cast("bytes | None", opened.redis.hget(DEPLOYED, "dispatch")))
    is_same = last == _digest(configuration).encode() and rules == configuration.dispatch
    if is_same or (last is not None and not configuration.has_queue_file):
        return False
    upload(opened, configuration, cause="start" if last is None else "dev")
    return True


def upload_if_missing(opened: Store, read: Callable[[], Config] = config.current) -> bool:
    """Upload the deployed queues, or those of ``read``, but only if Redis has no upload.

    Returns:
        Whether it uploaded them.
    """
    with transient_errors():
        is_there = bool(opened.redis.exists(UPLOAD))
        if is_there and opened.redis.hget(DEPLOYED, "cause") != deployments.DEFAULT.encode():
            return False
    if not is_there:
        restore(opened, read)
        return True
    # A folder without a queue.yaml, such as another service's, was first.
    configuration = read()
    if configuration.has_queue_file:
        upload(opened, configuration)
    return configuration.has_queue_file


def upload(opened: Store, configuration: Config, *, cause: str = "start") -> None:
    """Upload the queues; ``cause`` is as in ``Deployment``. A "start" does not replace a deployment.

    Raises:
        TransientError: Redis is unavailable.
    """
    deploy(opened, configuration, cron=None, cause=cause)


def deploy(
    opened: Store, configuration: Config, *, cron: str | None, cause: str, keeps_cron: bool = False
) -> Deployment:
    """Put a folder's files into effect on all machines.

    A folder without a queue.yaml, such as another service's folder, leaves the deployed queues, backends and
    rules of dispatch.yaml in effect.

    Args:
        opened: the store.
        configuration: the folder's configuration.
        cron: the jobs in the format of ``Deployment``.
        cause: as in ``Deployment``.

    Raises:
        TransientError: Redis is unavailable.
    """
    keeps = frozenset({"cron"}) if keeps_cron else frozenset()
    last = None
    if not configuration.has_queue_file:
        last = deployments.read(opened)
        if last is not None:
            keeps |= deployments.OF_QUEUES
        else:
            last = _in_effect(opened)  # the previous release, or a newer one, uploaded it
    if last is None:
        rules = configuration.dispatch if configuration.has_queue_file else None
        last = Deployment(upload_of(configuration), rules)
        if cause == "start" and not configuration.has_queue_file:
            cause = deployments.DEFAULT
    new = dataclasses.replace(last, cron=cron, at=opened.now(), by=_own_name(), cause=cause)
    # Write this first, so that any scheduler can complete a deployment that is interrupted here.
    is_first = cause in ("start", deployments.DEFAULT)
    is_written = deployments.write(opened, new, is_first=is_first, keeps=keeps)
    if not is_written or keeps:
        new = deployments.read(opened) or new
    _send(opened, new.upload if is_written else deployments.without_resuming(new.upload))
    return new


def restore(opened: Store, read: Callable[[], Config]) -> None:
    """Upload the deployed queues again, or upload those of ``read`` if none are deployed.

    Raises:
        TransientError: Redis is unavailable.
    """
    deployed = deployments.read(opened)
    if deployed is None:
        upload(opened, read())
    else:
        _send(opened, deployments.without_resuming(deployed.upload))


def take_over(opened: Store) -> None:
    """Adopt what an earlier release uploaded as the last deployment, unless there is one by now.

    Raises:
        TransientError: Redis is unavailable.
    """
    found = _in_effect(opened)
    if found is not None:
        deployments.write(opened, found, is_first=True)


def _in_effect(opened: Store) -> Deployment | None:
    """The uploaded files, whoever uploaded them; None if nothing has been uploaded."""
    with transient_errors():
        digest, at, backends = cast(
            "list[bytes | None]", opened.redis.hmget(UPLOAD, ("digest", "uploaded_at", "backends"))
        )
        names = sorted(_texts(opened.redis.smembers(QUEUE_NAMES)))
        services = sorted(_texts(opened.redis.smembers(SERVICES)))
        found = {name: cast("dict[bytes, bytes]", opened.redis.hgetall(settings_key(name))) for name in names}
    if digest is None:
        return None
    groups = {DEFAULT_SERVICE, *services}
    own = config.current()
    queues = {}
    for name, fields in found.items():
        if fields.get(b"is_disabled") == b"1" or b"is_own" in fields:
            continue
        if _problem(fields, groups) is None:
            queues[name] = {
                key.decode(): value.decode() for key, value in fields.items() if key not in _OF_SCRIPTS
            }
        elif name in own.queues:  # damaged
            queues[name] = _fields(own.queues[name], own)
    upload = Upload(digest.decode(), queues, services, (backends or b"").decode().split())
    rules = own.dispatch if own.has_queue_file else None
    return Deployment(upload, rules, None, float(at or 0), "", "start")


# The fields of a queue's settings that the scripts add.
_OF_SCRIPTS = (b"is_disabled", b"group")


def upload_of(configuration: Config) -> Upload:
    """The upload of a folder's queue.yaml and backends.yaml."""
    return Upload(
        digest=_digest(configuration),
        queues={queue.name: _fields(queue, configuration) for queue in configuration.queues.values()},
        services=sorted(configuration.services),
        backends=sorted(configuration.backends),
        resumes=bool(configuration.resume_paused_queues),
    )


def _send(opened: Store, upload: Upload) -> None:
    added = Broker(opened).upload(upload)
    _log.info("queues.upload", queues=len(upload.queues), added=sorted(added))


def _own_name() -> str:
    """``user@host`` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def repair(opened: Store, damaged: Mapping[str, str], configuration: Config) -> None:
    """Upload the queues again because some settings are damaged. ``damaged`` maps queues to reasons.

    Raises:
        TransientError: Redis is unavailable.
    """
    for name, problem in damaged.items():
        _log.error("queues.damaged", queue=name, problem=problem, remedy="they are uploaded again")
        opened.run("forget_queue", (), [name, problem])
    restore(opened, lambda: configuration)


def keep_cron_queue(opened: Store, configuration: Config) -> None:
    """Create the queue for cron runs if it is missing. This queue does not depend on queue.yaml.

    Raises:
        TransientError: Redis is unavailable.
    """
    with transient_errors():
        if opened.redis.exists(settings_key(CRON_QUEUE)):
            return
    kept = min(configuration.settings.dead_letter_seconds, CRON_DEAD_LETTER_SECONDS)
    queue = QueueConfig(CRON_QUEUE, rate=CRON_RATE, bucket_size=CRON_BUCKET_SIZE)
    Broker(opened).keep_queue(CRON_QUEUE, _fields(queue, configuration) | {"dead_letter_seconds": str(kept)})
    _log.info("queues.keep", queue=CRON_QUEUE)


def read_again(configuration: Config) -> Config:
    """Reload queue.yaml from the configuration's folder; keep the old one if the file is invalid."""
    try:
        queues = config.read_queues(configuration.root)
    except ConfigError:
        return configuration
    return dataclasses.replace(configuration, queues=queues)


def _digest(configuration: Config) -> str:
    """A digest of the whole upload, which consists of queue.yaml, the backends and environment settings."""
    parts = [
        config.digest(configuration.queues),
        str(configuration.settings.dead_letter_seconds),
        *(["resumes"] if configuration.resume_paused_queues else []),
        *sorted(configuration.backends),
    ]
    return "-".join(parts)


def _fields(queue: QueueConfig, configuration: Config) -> dict[str, str]:
    max_concurrent = queue.max_concurrent_requests
    target = queue.target or ""
    if target and service_of(target) == configuration.app.service:
        # Keep the version, because dispatch.yaml never moves a task whose target names a version.
        target = target.removesuffix(configuration.app.service) + DEFAULT_SERVICE
    return {
        "mode": queue.mode,
        "rate": repr(queue.rate),
        "bucket_size": str(queue.bucket_size),
        "max_concurrent": "" if max_concurrent is None else str(max_concurrent),
        "target": target,
        "retry": json.dumps(dump_retry(queue.retry)) if queue.retry is not None else "",
        "dead_letter_seconds": str(configuration.settings.dead_letter_seconds),
    }


# --- known queues --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownQueue:
    """A queue of the last upload.

    Its tasks go to the workers of ``group`` unless a task names another service. ``target`` is
    ``[version.]service`` from queue.yaml, or '' if there is none. A disabled queue is missing from the last
    upload but keeps its tasks. A draining queue delivers its tasks but accepts no new ones.
    """

    name: str
    mode: str = "push"
    group: str = DEFAULT_SERVICE
    target: str = ""
    retry: RetryParameters | None = None
    is_disabled: bool = False
    is_draining: bool = False


class QueueDirectory:
    """This process's copy of the queue settings in Redis.

    The process uses its own queue.yaml while nothing is uploaded or Redis is unavailable. That file also
    replaces the settings of the ``damaged`` queues until the next upload; ``damaged`` maps them to reasons.
    """

    def __init__(self, opened: Store) -> None:
        self.store = opened
        self._stamp: Stamp | None = None
        self._refresh_at = float("-inf")
        self._queues: Mapping[str, KnownQueue] = MappingProxyType({})
        self._services: frozenset[str] = frozenset()
        # The deployed rules of dispatch.yaml; None if the file's own rules apply.
        self._dispatch: tuple[DispatchRule, ...] | None = None
        # The process's own configuration, and the same with the deployed rules.
        self._dispatched: tuple[Config, Config] | None = None
        self.damaged: Mapping[str, str] = MappingProxyType({})
        # The process's own configuration and the queues built from it.
        self._file: tuple[Config, Mapping[str, KnownQueue]] | None = None

    def find(self, name: str) -> KnownQueue | None:
        """Find the queue with this name; an unknown name is looked up in Redis again."""
        self.refresh()
        queue = self._now()[0].get(name)
        if queue is None:
            self.refresh(is_urgent=True)
            queue = self._now()[0].get(name)
        return queue

    def all(self) -> Mapping[str, KnownQueue]:
        """All queues, by name."""
        self.refresh()
        return self._now()[0]

    def retry_of(self, name: str) -> RetryParameters | None:
        """The queue's retry parameters from queue.yaml; None if it has none."""
        queue = self.all().get(name)
        return queue.retry if queue else None

    def services(self) -> frozenset[str]:
        """The services that tasks may target, apart from the default service."""
        self.refresh()
        return self._now()[1]

    def configuration(self) -> Config:
        """The process's configuration with the rules of dispatch.yaml known since the last refresh."""
        own, rules = config.current(), self._dispatch if self._stamp is not None else None
        if rules is None or rules == own.dispatch:
            return own
        if (
            self._dispatched is None
            or self._dispatched[0] is not own
            or self._dispatched[1].dispatch != rules
        ):
            self._dispatched = (own, dataclasses.replace(own, dispatch=rules))
        return self._dispatched[1]

    def refresh(self, *, is_urgent: bool = False) -> None:
        """Check for a new upload if ``is_urgent`` or if the last check was over a second ago."""
        now = self.store.clock.monotonic()
        if now < self._refresh_at and not is_urgent:
            return
        # Other threads use the current settings during the refresh.
        self._refresh_at = now + REFRESH_SECONDS
        try:
            self._read()
        except StoreUnavailableError as error:
            self.store.end_wait(error)
            self._refresh_at = self.store.clock.monotonic() + OUTAGE_REFRESH_SECONDS
        except ResponseError:
            # Another program wrote to these keys. Keep the current settings until the next refresh.
            _log.exception("queues.damaged", remedy="what cannot be read is moved aside")
            with contextlib.suppress(StoreUnavailableError):
                self.store.set_aside(_TYPES)

    def note(self, stamp: Stamp) -> None:
        """Compare this copy with the last upload, as reported by a step, and refresh soon if they differ."""
        now = self.store.clock.monotonic()
        self._refresh_at = now + REFRESH_SECONDS if stamp == self._stamp else now

    def require_upload(self) -> None:
        """Upload this process's files if none are uploaded, so that services besides the default one exist.

        Raises:
            TransientError: Redis is unavailable.
        """
        if self._stamp is None and upload_if_missing(self.store):
            self.refresh(is_urgent=True)

    def _now(self) -> tuple[Mapping[str, KnownQueue], frozenset[str]]:
        if self._stamp is not None:
            return self._queues, self._services
        configuration = config.current()
        if self._file is None or self._file[0] is not configuration:
            self._file = (configuration, _of_file(configuration))
        return self._file[1], configuration.services

    def _read(self) -> None:
        redis = self.store.redis
        with transient_errors():
            stamp: Stamp = tuple(redis.hmget(UPLOAD, ("digest", "uploaded_at", "version")))  # type: ignore[arg-type]
            if stamp == self._stamp:
                return
            if stamp[0] is None:
                self._stamp = None
                return
            names = sorted(_texts(redis.smembers(QUEUE_NAMES)))
            with redis.pipeline(transaction=True) as pipeline:
                pipeline.smembers(SERVICES)
                pipeline.smembers(DRAINING)
                pipeline.hget(DEPLOYED, "dispatch")
                for name in names:
                    pipeline.hgetall(settings_key(name))
                services, draining, rules, *found = pipeline.execute(raise_on_error=False)
            for answer in (services, draining, rules):
                if isinstance(answer, Exception):
                    raise answer
        self._dispatch = deployments.rules_of(rules)
        self._services = frozenset(_texts(services))
        self._take(dict(zip(names, found, strict=True)), frozenset(_texts(draining)))
        self._stamp = stamp

    def _take(self, found: Mapping[str, Any], draining: Collection[str]) -> None:
        groups = {DEFAULT_SERVICE, *self._services}
        damaged, queues = {}, {}
        for name, fields in found.items():
            problem = _problem(fields, groups)
            if problem is not None:
                damaged[name] = problem
                queues[name] = _stand_in(name)
            elif fields:
                queues[name] = _load(name, fields)
            if name in draining and name in queues:
                queues[name] = dataclasses.replace(queues[name], is_draining=True)
        self._queues, self.damaged = MappingProxyType(queues), MappingProxyType(damaged)


def _texts(names: Any) -> list[str]:
    # Names that are not UTF-8 are malformed. No settings exist under their replacement names.
    return [name.decode("utf-8", "replace") for name in names]


def _problem(fields: Any, groups: Collection[str]) -> str | None:
    """Describe the problem in a queue's settings, in words that follow "has"; None if they are valid."""
    if isinstance(fields, Exception):
        return f"settings that cannot be read ({fields})"
    try:
        text = {key.decode(): value.decode() for key, value in fields.items()}
    except UnicodeDecodeError:
        return "a setting that is not UTF-8"
    if not text or text.keys() == {"is_disabled"}:
        return None
    for name, needed in _SETTINGS.items():
        value = text.get(name)
        if value is not None and not needed.fullmatch(value):
            return f"{name} {value[:40]!r}"
    if text.get("group", DEFAULT_SERVICE) not in groups:
        return f"group {text['group'][:40]!r}, a service that does not exist"
    retry = text.get("retry")
    if retry and (wrong := retry_options(retry)) is not None:
        return f"retry {retry[:40]!r}, {wrong}"
    return None


def _stand_in(name: str) -> KnownQueue:
    configuration = config.current()
    queue = configuration.queues.get(name)
    return KnownQueue(name, is_disabled=True) if queue is None else _of_entry(queue, configuration)


def _load(name: str, fields: Mapping[bytes, bytes]) -> KnownQueue:
    text = {key.decode(): value.decode() for key, value in fields.items()}
    retry = text.get("retry")
    return KnownQueue(
        name,
        text.get("mode", "push"),
        text.get("group", DEFAULT_SERVICE),
        text.get("target", ""),
        load_retry(json.loads(retry)) if retry else None,
        text.get("is_disabled") == "1",
    )


def _of_file(configuration: Config) -> Mapping[str, KnownQueue]:
    return {name: _of_entry(queue, configuration) for name, queue in configuration.queues.items()}


def _of_entry(queue: QueueConfig, configuration: Config) -> KnownQueue:
    service = service_of(queue.target or DEFAULT_SERVICE)
    group = service if service in configuration.services else DEFAULT_SERVICE
    return KnownQueue(queue.name, queue.mode, group, queue.target or "", queue.retry)


_of_store: WeakKeyDictionary[Store, QueueDirectory] = WeakKeyDictionary()
# The most recently used directory. Normally a process has only one store.
_last: QueueDirectory | None = None


def of(opened: Store) -> QueueDirectory:
    """The queue directory of the given store."""
    global _last
    found = _last
    if found is None or found.store is not opened:
        found = _of_store.get(opened)
        if found is None:
            found = _of_store.setdefault(opened, QueueDirectory(opened))
        _last = found
    return found


def current() -> QueueDirectory:
    """The queue directory of this process's own store."""
    return of(store.current())
