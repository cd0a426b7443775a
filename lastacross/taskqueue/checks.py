"""Checks the values that callers pass to tasks, queues and leases.

Pure. The rules are in docs/appengine.md, "Tasks" and "Pull queues".
"""

import functools
import math
import re
from datetime import datetime, timedelta
from urllib.parse import quote

from lastacross.config import DEFAULT_SERVICE
from lastacross.errors import (
    InvalidDeadlineError,
    InvalidDispatchDeadlineError,
    InvalidEtaError,
    InvalidLeaseTimeError,
    InvalidMaxTasksError,
    InvalidQueueNameError,
    InvalidTagError,
    InvalidTaskError,
    InvalidTaskNameError,
    InvalidUrlError,
    TaskTooLargeError,
)

MAX_TASK_NAME_LENGTH = 500
MAX_QUEUE_NAME_LENGTH = 100
MAX_PUSH_TASK_SIZE_BYTES = 100 * 1024
MAX_TASK_SIZE_BYTES = MAX_PUSH_TASK_SIZE_BYTES
MAX_PULL_TASK_SIZE_BYTES = 1024 * 1024
MAX_TRANSACTIONAL_REQUEST_SIZE_BYTES = 1024 * 1024
MAX_TAG_LENGTH = 500
MAX_URL_LENGTH = 2083
MAX_LEASE_SECONDS = 604_800
MAX_TASKS_PER_LEASE = 1000
MAX_ETA_DELTA_SECONDS = 30 * 86_400
MIN_DISPATCH_DEADLINE_USEC = 15 * 1_000_000
MAX_DISPATCH_DEADLINE_USEC = 24 * 3600 * 1_000_000
MIN_DISPATCH_DEADLINE = timedelta(microseconds=MIN_DISPATCH_DEADLINE_USEC)
MAX_DISPATCH_DEADLINE = timedelta(microseconds=MAX_DISPATCH_DEADLINE_USEC)


class _DefaultService(str):
    """The name of the default service, with App Engine's representation."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<DefaultApplicationVersion>"


DEFAULT_APP_VERSION = _DefaultService(DEFAULT_SERVICE)
"""The target that sends a task to the default service."""

_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "PULL"})
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,500}")
_QUEUE_NAME = re.compile(r"[a-zA-Z0-9-]{1,100}")
# [instance.][version.]service.
_TARGET = re.compile(r"(?:[A-Za-z0-9_-]{1,100}\.){0,2}[A-Za-z0-9_-]{1,100}")
# The last two are not control characters, but str.splitlines and JavaScript treat them as line breaks.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_URL_SAFE = "".join(chr(code) for code in range(0x21, 0x7F))


def checked_name(name: str) -> str:
    """Check the name of a task and return it.

    Raises:
        InvalidTaskNameError: the name has an invalid character or is too long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidTaskNameError(
            f"task name {_short(name)} must be 1 to {MAX_TASK_NAME_LENGTH} letters, digits, '_' or '-'"
        )
    return name


def checked_queue_name(name: str) -> str:
    """Check the name of a queue and return it.

    Raises:
        InvalidQueueNameError: the name has an invalid character or is too long.
    """
    if not isinstance(name, str) or not _QUEUE_NAME.fullmatch(name):
        raise InvalidQueueNameError(
            f"queue name {name!r} must be 1 to 100 letters, digits and hyphens, without an underscore"
        )
    return name


def split_url(url: str) -> tuple[str, str]:
    """Split a URL within the application into its percent-encoded path and query.

    Raises:
        InvalidUrlError: the URL is not a path of this application, or it is too long.
    """
    if not isinstance(url, str):
        raise InvalidUrlError(f"a task's url must be str, not {url!r}")
    return _split_text_url(url)


@functools.lru_cache(maxsize=1024)
def _split_text_url(url: str) -> tuple[str, str]:
    """Split a URL that is known to be a string."""
    if len(url) > MAX_URL_LENGTH:
        raise InvalidUrlError(
            f"a task's url may have at most {MAX_URL_LENGTH} characters, but this one has {len(url)}"
        )
    if not url.startswith("/") or url.startswith("//"):
        raise InvalidUrlError(
            f"a task's url must be a path of this application, such as '/work', "
            f"without scheme or host: {_short(url)}"
        )
    # Browsers and some proxies treat '\' as '/' and skip control characters, so '/\host' becomes '//host'.
    if "\\" in url or _CONTROL.search(url):
        raise InvalidUrlError(
            f"a task's url must not contain a backslash or control character: {_short(url)}"
        )
    if "#" in url:
        raise InvalidUrlError(f"a task's url must not contain a fragment ('#…'): {_short(url)}")
    try:
        path, _, query = quote(url, safe=_URL_SAFE).partition("?")
    except UnicodeEncodeError as error:
        raise InvalidUrlError(f"a task's url must be encodable as UTF-8: {error}") from error
    return path, query


def checked_method(method: str) -> str:
    """Check the method and return it in capital letters.

    Raises:
        InvalidTaskError: no such method exists.
    """
    found = method.upper() if isinstance(method, str) else None
    if found not in _METHODS:
        raise InvalidTaskError(f"method {method!r} is not one of {', '.join(sorted(_METHODS))}")
    return found


def check_combination(method: str, query: str, params: object, tag: object) -> None:
    """Raise InvalidTaskError if two mutually exclusive values are given."""
    if query and params:
        raise InvalidTaskError("a query in the url and params are both given; give only one of them")
    if tag is not None and method != "PULL":
        raise InvalidTaskError("only a pull task (method='PULL') may have a tag")


def check_pull(url: object, headers: object, target: object) -> None:
    """Raise InvalidTaskError if a pull task has a value that only push tasks may have."""
    for what, given in (("url", url), ("headers", headers), ("target", target)):
        if given:
            raise InvalidTaskError(
                f"{what} cannot be set for a pull task, because it is leased, not delivered"
            )


def checked_target(target: str, headers: tuple[tuple[str, str], ...]) -> str:
    """Check a target and return it.

    Raises:
        InvalidTaskError: the target does not name a service, or there is also a Host header.
    """
    if any(name.lower() == "host" for name, _ in headers):
        raise InvalidTaskError("a target and a Host header are both given; give only the target")
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise InvalidTaskError(f"target {_short(target)} must look like [instance.][version.]service")
    return target


def instant(eta: datetime) -> float:
    """Convert an ETA to seconds since the epoch; a naive datetime is in this process's local time.

    Raises:
        InvalidTaskError: the ETA is not a datetime.
        InvalidEtaError: the ETA is out of range.
    """
    if not isinstance(eta, datetime):
        raise InvalidTaskError(f"eta must be a datetime, not {eta!r}")
    try:
        return eta.timestamp()
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidEtaError(f"eta {eta} is out of range: {error}") from error


def check_eta(eta: float, now: float) -> None:
    """Raise InvalidEtaError if an ETA is too far in the future, or before 1970."""
    if eta - now > MAX_ETA_DELTA_SECONDS:
        raise InvalidEtaError(
            f"the ETA is {(eta - now) / 86_400:.2f} days ahead; at most 30 days are allowed"
        )
    if eta < 0:
        raise InvalidEtaError("the ETA is before 1970-01-01 UTC")


def finite_seconds(countdown: float) -> float:
    """Convert a countdown to a float; anything that ``float()`` accepts is allowed.

    Raises:
        InvalidTaskError: the countdown is not a finite number.
    """
    try:
        seconds = float(countdown)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidTaskError(f"countdown must be a number of seconds, not {_short(countdown)}") from error
    if not math.isfinite(seconds):
        raise InvalidTaskError(f"countdown must be a finite number of seconds, not {countdown!r}")
    return seconds


def check_size(method: str, size: int, tag: str | None) -> None:
    """Raise TaskTooLargeError or InvalidTagError if the task or its tag is too large."""
    limit = MAX_PULL_TASK_SIZE_BYTES if method == "PULL" else MAX_PUSH_TASK_SIZE_BYTES
    if size > limit:
        raise TaskTooLargeError(
            f"the task has {size} bytes, including its url and headers; at most {limit} are allowed; "
            "store the data and send its key"
        )
    if tag is not None:
        check_tag(tag)


def check_tag(tag: str | None) -> None:
    """Raise InvalidTagError if a tag is not a string, is too long, or cannot be stored."""
    if tag is not None and not isinstance(tag, str):
        raise InvalidTagError(f"a tag must be str, not {_short(tag)}")
    if tag and len(tag) > MAX_TAG_LENGTH:
        raise InvalidTagError(
            f"a tag may have at most {MAX_TAG_LENGTH} characters, but this one has {len(tag)}"
        )
    try:
        (tag or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidTagError(f"a tag must be encodable as UTF-8: {error}") from error


def check_call_deadline(deadline: float) -> None:
    """Raise InvalidDeadlineError if a deadline leaves no time, or TypeError if it is not a number."""
    if isinstance(deadline, bool) or not isinstance(deadline, int | float):
        raise TypeError(f"deadline must be a number of seconds, not {deadline!r}")
    if not (math.isfinite(deadline) and deadline > 0):
        raise InvalidDeadlineError(f"deadline must be more than 0 seconds, not {deadline!r}")


def checked_lease_seconds(lease_seconds: float) -> float:
    """Check the length of a lease and return it.

    Raises:
        TypeError: the length is not an int or float.
        InvalidLeaseTimeError: the length is negative, longer than a week, or not finite.
    """
    if isinstance(lease_seconds, bool) or not isinstance(lease_seconds, int | float):
        raise TypeError(f"lease_seconds must be a number of seconds (int or float), not {lease_seconds!r}")
    if not 0 <= lease_seconds <= MAX_LEASE_SECONDS:
        raise InvalidLeaseTimeError(
            f"lease_seconds must be from 0 to {MAX_LEASE_SECONDS} (one week), not {lease_seconds!r}"
        )
    return float(lease_seconds)


def checked_max_tasks(max_tasks: int) -> int:
    """Check the maximum number of tasks for one lease and return it.

    Raises:
        TypeError: the number is not an int.
        InvalidMaxTasksError: the number is outside 1 … 1,000.
    """
    if isinstance(max_tasks, bool) or not isinstance(max_tasks, int):
        raise TypeError(f"max_tasks must be an int, not {max_tasks!r}")
    if not 1 <= max_tasks <= MAX_TASKS_PER_LEASE:
        raise InvalidMaxTasksError(f"max_tasks must be from 1 to {MAX_TASKS_PER_LEASE}, not {max_tasks}")
    return max_tasks


def check_deadline(usec: int) -> None:
    """Raise InvalidDispatchDeadlineError if a deadline is out of range, or TypeError if it is not an int."""
    if isinstance(usec, bool) or not isinstance(usec, int):
        raise TypeError(f"dispatch_deadline_usec must be an int of microseconds, not {usec!r}")
    if not MIN_DISPATCH_DEADLINE_USEC <= usec <= MAX_DISPATCH_DEADLINE_USEC:
        raise InvalidDispatchDeadlineError(
            f"dispatch_deadline_usec {usec} is not between 15 s and 24 h "
            f"({MIN_DISPATCH_DEADLINE_USEC} to {MAX_DISPATCH_DEADLINE_USEC})"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
