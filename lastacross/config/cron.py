"""Reads cron.yaml, the list of scheduled requests."""

import hashlib
import math
import re
from collections import Counter
from dataclasses import replace
from typing import Annotated, Any

from lastacross import cron
from lastacross.config import units
from lastacross.config.diagnostics import UnusableError, shown
from lastacross.config.document import Count, Document, Entry, Path_, one_of, parsed
from lastacross.config.queues import BackoffEntry
from lastacross.config.values import LONG_DEADLINE_SECONDS, CronEntry, Misfire, RetryParameters
from lastacross.errors import ScheduleError

EMPTY = "Empty cron configuration: list the jobs under 'cron:' (none, to delete all jobs), or remove the file"

# Exceeding these App Engine limits causes only a notice, because here the machine is the only limit.
APP_ENGINE_JOBS = 250
APP_ENGINE_RETRIES = 5

DEFAULT_RETRY_LIMIT = 5
DEFAULT_BACKOFF = RetryParameters(min_backoff_seconds=5.0, max_backoff_seconds=3600.0, max_doublings=5)

MAX_DESCRIPTION_CHARACTERS = 499
MAX_URL_CHARACTERS = 2083
MAX_SLUG_CHARACTERS = 60

TARGET_EXPRESSION = r"^(?:^(?:(?:((?!-)[a-z\d\-]{1,63}):)?)((?!-)[a-z\d\-]{1,100})$)$"
_TARGET = re.compile(TARGET_EXPRESSION, re.ASCII)
_DEADLINE = re.compile(r"-?([0-9]++\.?[0-9]*+|\.[0-9]+)s", re.ASCII)
_ZERO_AGE = re.compile(r"0++\.?0*+[smhd]", re.ASCII)


def check_url(text: str) -> str:
    """Check a path of the application, which may include a query string."""
    if not text.startswith("/"):
        plain = re.sub(r"^https?://[^/]*", "", text)
        raise UnusableError("does not begin with '/'", plain if plain.startswith("/") else f"/{plain}")
    if not text.isprintable() or " " in text:
        raise UnusableError("contains a space or a control character", "".join(text.split()) or None)
    if "#" in text:
        raise UnusableError("contains '#', but a fragment is never sent to a server", text.partition("#")[0])
    if len(text) > MAX_URL_CHARACTERS:
        raise UnusableError(f"is longer than {MAX_URL_CHARACTERS} characters")
    return text


def check_schedule(text: str) -> str:
    """Check that a string is a valid schedule."""
    try:
        return cron.parse_schedule(text).text
    except ScheduleError as error:
        raise UnusableError(error.problem, error.hint) from error


def check_timezone(text: str) -> str:
    """Check the name of a time zone."""
    try:
        return cron.check_zone_name(text).key
    except ScheduleError as error:
        raise UnusableError(error.problem, error.hint) from error


def check_description(text: str) -> str:
    """Check a description, which is free text for people to read."""
    if len(text) > MAX_DESCRIPTION_CHARACTERS:
        raise UnusableError(f"is longer than {MAX_DESCRIPTION_CHARACTERS} characters")
    return text


def check_target(text: str) -> str:
    """Check a target: ``version`` or ``service:version``. Errors include App Engine's own message."""
    if _TARGET.match(text) and not text.endswith("\n"):
        return text
    plain = re.sub(r"[^a-z0-9:-]+", "-", text[:164].lower()).strip("-")
    if re.fullmatch(r"[^.]+\.[^.]+", text):
        version, service = text.lower().split(".")
        plain = f"{service}:{version}"
    raise UnusableError(
        "must be 'service' or 'service:version', in lowercase letters, digits and hyphens: Value "
        f"{shown(text)} for target does not match expression '{TARGET_EXPRESSION}'",
        plain if _TARGET.match(plain) else None,
    )


def parse_age_limit(text: str) -> int:
    """Convert a ``job_age_limit`` such as ``2h`` or ``0s`` to whole seconds."""
    return 0 if _ZERO_AGE.fullmatch(text.strip()) else units.parse_age_limit(text)


def parse_deadline(text: str) -> float:
    """Convert an ``attempt_deadline`` such as ``90.5s`` to seconds; like App Engine, accept negatives."""
    if not _DEADLINE.fullmatch(text):
        rough = re.match(r"\s*([0-9]+(?:\.[0-9]+)?)", text)
        raise UnusableError(
            "is not a number of seconds followed by 's'", f"{rough.group(1)}s" if rough else None
        )
    seconds = float(text[:-1])
    if not math.isfinite(seconds):
        raise UnusableError("is too large")
    return seconds


class RetryEntry(BackoffEntry):
    """A job's ``retry_parameters``."""

    job_retry_limit: Count | None = None
    job_age_limit: Annotated[int, parsed(parse_age_limit)] | None = None


class JobEntry(Entry):
    """One item of ``cron``."""

    WHAT = "a cron job"

    url: Annotated[str, parsed(check_url)]
    schedule: Annotated[str, parsed(check_schedule)]
    timezone: Annotated[str, parsed(check_timezone)] | None = None
    description: Annotated[str, parsed(check_description)] | None = None
    target: Annotated[str, parsed(check_target)] | None = None
    retry_parameters: RetryEntry | None = None
    attempt_deadline: Annotated[float, parsed(parse_deadline)] | None = None
    misfire: Annotated[Misfire, one_of("run", "skip")] | None = None


class FileEntry(Entry):
    """The top level."""

    WHAT = "cron.yaml"

    application: str | None = None
    cron: Any = None


def read(document: Document) -> tuple[CronEntry, ...]:
    """Return the file's jobs in order, and record errors and notices in the document."""
    if _has_unindented_job(document):
        return ()
    document.validate(FileEntry, document.content, ())
    found: list[CronEntry] = []
    names: Counter[str] = Counter()
    for path, value in document.entries("cron", "cron jobs"):
        entry = document.validate(JobEntry, value, path)
        if entry is None:
            continue
        name = job_name(entry.url, entry.target)
        names[name] += 1
        number = names[name]
        found.append(_job(entry, name if number == 1 else f"{name}-{number}", document, path))
    if len(found) > APP_ENGINE_JOBS:
        document.notice(
            ("cron",),
            f"{len(found)} jobs exceed App Engine's limit of {APP_ENGINE_JOBS}; all of them are used",
            is_of_key=True,
        )
    return tuple(found)


def _has_unindented_job(document: Document) -> bool:
    """Record a single error if a job's keys are at the top level, instead of one for each key."""
    keys = [key for key in document.content if key in JobEntry.model_fields]
    if not keys:
        return False
    if isinstance(document.content.get("cron"), list):
        remedy = "indent it by two spaces, like the other keys of the job above"
    else:
        remedy = (
            "write 'cron:' first, begin each job under it with '- ', and indent its other keys by two spaces"
        )
    document.mistake((keys[0],), f"{keys[0]!r} belongs to a cron job; {remedy}", is_of_key=True)
    return True


def job_name(url: str, target: str | None) -> str:
    """Return a job's name, which is readable and independent of its schedule.

    ``/tasks/load?x=1`` → ``tasks-load-x-1-`` followed by eight digits of a digest of its URL and target.
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[:MAX_SLUG_CHARACTERS].strip("-") or "root"
    digest = hashlib.sha256(f"{target or ''} {url}".encode()).hexdigest()[:8]
    return f"{slug}-{digest}"


def _job(entry: JobEntry, name: str, document: Document, path: Path_) -> CronEntry:
    return CronEntry(
        name=name,
        url=entry.url,
        schedule=entry.schedule,
        timezone=entry.timezone or "UTC",
        description=entry.description or "",
        target=entry.target,
        retry=_retry(entry.retry_parameters, document, (*path, "retry_parameters")),
        attempt_deadline_seconds=_deadline(entry.attempt_deadline, document, (*path, "attempt_deadline")),
        misfire=entry.misfire or "run",
    )


def _deadline(seconds: float | None, document: Document, path: Path_) -> float | None:
    if seconds is None:
        return None
    if seconds <= 0:
        remark = f"attempt_deadline {seconds:g}s would prevent every run; the usual deadline applies instead"
        document.notice(path, remark)
        return None
    if seconds > LONG_DEADLINE_SECONDS:
        document.notice(path, f"attempt_deadline {seconds:g}s exceeds 24 hours; 24 hours are used instead")
    return min(seconds, float(LONG_DEADLINE_SECONDS))


def _retry(entry: RetryEntry | None, document: Document, path: Path_) -> RetryParameters | None:
    """Return the retry parameters, or None if a failed run is not retried."""
    if entry is None:
        return None
    limit = DEFAULT_RETRY_LIMIT if entry.job_retry_limit is None else entry.job_retry_limit
    if limit > APP_ENGINE_RETRIES:
        remark = (
            f"job_retry_limit {limit} exceeds App Engine's limit of {APP_ENGINE_RETRIES}; it is used anyway"
        )
        document.notice((*path, "job_retry_limit"), remark)
    limits = replace(DEFAULT_BACKOFF, task_retry_limit=limit, task_age_limit_seconds=entry.job_age_limit)
    return entry.back_off(limits, document, path)
