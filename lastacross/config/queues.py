"""Reads queue.yaml: the queues, their rates and their retries."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

from lastacross.config import units
from lastacross.config.diagnostics import UnusableError, shown
from lastacross.config.document import Count, Document, Entry, Integer, Path_, Seconds, Switch, one_of, parsed
from lastacross.config.values import (
    CRON_QUEUE,
    DEFAULT_BUCKET_SIZE,
    DEFAULT_RATE,
    Acl,
    QueueConfig,
    RetryParameters,
)

EMPTY = "Empty queue configuration: list the queues under 'queue:', or remove the file"

# These App Engine limits are not enforced here, but App Engine would reject a file that exceeds them.
APP_ENGINE_RATE = 500
APP_ENGINE_BUCKET_SIZE = 500
APP_ENGINE_CONCURRENCY = 5000

_NAME = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
TARGET_EXPRESSION = r"^(?:^(?:(?:((?!-)[a-z\d\-]{1,100})\.)?)((?!-)[a-z\d\-]{1,63})$)$"
_TARGET = re.compile(TARGET_EXPRESSION, re.ASCII)


@dataclass(frozen=True)
class QueueFile:
    """The parsed content of queue.yaml."""

    queues: Mapping[str, QueueConfig]
    total_storage_limit_bytes: int | None = None
    resume_paused_queues: bool | None = None


def check_queue_name(text: str) -> str:
    """Check a queue's name: 1 to 100 letters, digits and hyphens."""
    if not _NAME.fullmatch(text):
        plain = re.sub(r"[^A-Za-z0-9-]+", "-", text[:200]).strip("-")[:100]
        raise UnusableError("must be 1 to 100 letters, digits or hyphens", plain or None)
    if text == CRON_QUEUE:
        raise UnusableError("is the engine's own queue for cron jobs; choose another name")
    return text


def check_target(text: str) -> str:
    """Check a target: ``service`` or ``version.service``. As on App Engine, it may not name an instance."""
    if _TARGET.match(text) and not text.endswith("\n"):
        return text
    if text.count(".") > 1:
        raise UnusableError(
            f"names an instance, which is not possible for a queue: Value {shown(text)} for target does not "
            f"match expression '{TARGET_EXPRESSION}'",
            ".".join(text.split(".")[-2:])[:164],
        )
    plain = re.sub(r"[^a-z0-9.-]+", "-", text[:164].lower()).strip("-")
    raise UnusableError(
        "must be 'service' or 'version.service', in lowercase letters, digits and hyphens",
        plain if plain != text and _TARGET.match(plain) else None,
    )


class BackoffEntry(Entry):
    """The ``retry_parameters`` keys that queues and cron jobs share."""

    WHAT = "retry_parameters"

    min_backoff_seconds: Seconds | None = None
    max_backoff_seconds: Seconds | None = None
    max_doublings: Count | None = None

    def back_off(self, limits: RetryParameters, document: Document, path: Path_) -> RetryParameters:
        """Add this back-off to the limits; a minimum above the maximum is recorded as an error."""
        shortest, longest = self.min_backoff_seconds, self.max_backoff_seconds
        if shortest is not None and longest is not None and shortest > longest:
            problem = f"min_backoff_seconds {shortest:g} is greater than max_backoff_seconds {longest:g}"
            document.mistake((*path, "min_backoff_seconds"), problem)
        doublings = limits.max_doublings if self.max_doublings is None else self.max_doublings
        return dataclasses.replace(limits, max_doublings=doublings).with_backoff(shortest, longest)


class RetryEntry(BackoffEntry):
    """A queue's ``retry_parameters``."""

    task_retry_limit: Count | None = None
    task_age_limit: Annotated[int, parsed(units.parse_age_limit)] | None = None


class AclEntry(Entry):
    """One item of an ``acl``."""

    WHAT = "an acl line"

    user_email: str | None = None
    writer_email: str | None = None


class QueueEntry(Entry):
    """One item of ``queue``."""

    WHAT = "a queue"

    name: Annotated[str, parsed(check_queue_name)]
    mode: Annotated[Literal["push", "pull"], one_of("push", "pull")] | None = None
    rate: Annotated[float, parsed(units.parse_rate)] | None = None
    bucket_size: Integer | None = None
    max_concurrent_requests: Integer | None = None
    retry_parameters: RetryEntry | None = None
    target: Annotated[str, parsed(check_target)] | None = None
    acl: list[AclEntry] | None = None


class FileEntry(Entry):
    """The top level."""

    WHAT = "queue.yaml"

    application: str | None = None
    total_storage_limit: Annotated[int, parsed(units.parse_storage_limit)] | None = None
    resume_paused_queues: Switch | None = None
    queue: Any = None


def default_queues() -> QueueFile:
    """Return the queues of an application without a queue.yaml: only ``default``."""
    return QueueFile(MappingProxyType({"default": QueueConfig("default")}))


def read(document: Document) -> QueueFile:
    """Return the file's queues, and record errors and notices in the document."""
    top = document.validate(FileEntry, document.content, ())
    queues: dict[str, QueueConfig] = {}
    for path, value in document.entries("queue", "queues"):
        entry = document.validate(QueueEntry, value, path)
        if entry is None:
            continue
        if entry.name in queues:
            document.notice(
                (*path, "name"), f"queue {entry.name!r} is defined twice; this definition is used"
            )
        queues[entry.name] = _queue(entry, document, path)
    queues.setdefault("default", QueueConfig("default"))
    return QueueFile(
        MappingProxyType(queues),
        top.total_storage_limit if top else None,
        top.resume_paused_queues if top else None,
    )


def digest(queues: Mapping[str, QueueConfig]) -> str:
    """Return a digest of the queues' settings, which does not depend on the file's layout."""
    meaning = {name: dataclasses.asdict(queue) for name, queue in queues.items()}
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _queue(entry: QueueEntry, document: Document, path: Path_) -> QueueConfig:
    mode = entry.mode or "push"
    if mode == "pull":
        _notice_push_only(entry, document, path)
    elif entry.acl is not None:
        remark = f"acl has no effect on the push queue {entry.name!r}, because nobody leases its tasks"
        document.notice((*path, "acl"), remark, is_of_key=True)
    return QueueConfig(
        name=entry.name,
        mode=mode,
        rate=_rate(entry, mode, document, path),
        bucket_size=_bucket_size(entry, document, path),
        max_concurrent_requests=_concurrency(entry, document, path),
        retry=_retry(entry.retry_parameters, document, (*path, "retry_parameters")),
        target=entry.target,
        acl=tuple(Acl(line.user_email, line.writer_email) for line in entry.acl or ()),
    )


def _notice_push_only(entry: QueueEntry, document: Document, path: Path_) -> None:
    for key in ("rate", "bucket_size", "max_concurrent_requests", "target"):
        if getattr(entry, key) is not None:
            remark = (
                f"{key} has no effect on the pull queue {entry.name!r}, because its clients lease at will"
            )
            document.notice((*path, key), remark, is_of_key=True)
    for key in RetryEntry.model_fields:
        if key != "task_retry_limit" and getattr(entry.retry_parameters, key, None) is not None:
            remark = (
                f"{key} has no effect on the pull queue {entry.name!r}, because only its leases are counted"
            )
            document.notice((*path, "retry_parameters", key), remark, is_of_key=True)


def _rate(entry: QueueEntry, mode: str, document: Document, path: Path_) -> float:
    if entry.rate is None:
        if mode == "push":
            document.notice(
                path, f"queue {entry.name!r} has no rate; the default of {DEFAULT_RATE:g}/s applies"
            )
        return DEFAULT_RATE
    if entry.rate > APP_ENGINE_RATE:
        _above(document, (*path, "rate"), f"{entry.rate:.15g}/s", f"{APP_ENGINE_RATE}/s")
    return entry.rate


def _bucket_size(entry: QueueEntry, document: Document, path: Path_) -> int:
    size = entry.bucket_size
    if size is None:
        return DEFAULT_BUCKET_SIZE
    if size < 1:
        remark = (
            f"bucket_size {size} would keep every task from running; {DEFAULT_BUCKET_SIZE} is used instead"
        )
        document.notice((*path, "bucket_size"), remark)
        return DEFAULT_BUCKET_SIZE
    if size > APP_ENGINE_BUCKET_SIZE:
        _above(document, (*path, "bucket_size"), str(size), str(APP_ENGINE_BUCKET_SIZE))
    return size


def _concurrency(entry: QueueEntry, document: Document, path: Path_) -> int | None:
    limit = entry.max_concurrent_requests
    if limit is not None and limit < 1:
        remark = f"max_concurrent_requests {limit} would keep every task from running; it is ignored"
        document.notice((*path, "max_concurrent_requests"), remark)
        return None
    if limit is not None and limit > APP_ENGINE_CONCURRENCY:
        _above(document, (*path, "max_concurrent_requests"), str(limit), str(APP_ENGINE_CONCURRENCY))
    return limit


def _above(document: Document, path: Path_, value: str, maximum: str) -> None:
    document.notice(path, f"{path[-1]} {value} exceeds App Engine's limit of {maximum}; it is used anyway")


def _retry(entry: RetryEntry | None, document: Document, path: Path_) -> RetryParameters | None:
    if entry is None:
        return None
    limits = RetryParameters(
        task_retry_limit=entry.task_retry_limit, task_age_limit_seconds=entry.task_age_limit
    )
    return entry.back_off(limits, document, path)
