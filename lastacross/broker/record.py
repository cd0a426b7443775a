"""A task's record in Redis: the hash of an RQ job with additional fields of our own.

Pure: converts between values and text or bytes. RQ reads ``data``, ``created_at``, ``origin``, ``status``
and ``description``. Most values stay within 64 bytes, because one longer value doubles the hash's memory
in Redis. For that reason bodies of a few hundred bytes are stored in pieces.
"""

import functools
import itertools
import json
import os
import pickle
import pickletools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lastacross.clock import utc
from lastacross.config import RetryParameters

# The function that RQ's own worker would call. We write it and never load it. On a stock worker it makes
# the task fail with an explanation, and our sweep restores the task.
DATA = pickletools.optimize(pickle.dumps(("lastacross.taskqueue.stock.refuse", None, (), {}), protocol=2))

Value = str | bytes

# Redis needs half the memory for a hash without longer values (its hash-max-listpack-value).
PIECE_BYTES = 64
# A longer body is stored whole because more pieces would slow down every read of the record.
MAX_PIECES = 8
_LATER_PIECES = tuple(b"body.%d" % number for number in range(1, MAX_PIECES))

_RETRY_KEYS = (
    "task_retry_limit",
    "task_age_limit_seconds",
    "min_backoff_seconds",
    "max_backoff_seconds",
    "max_doublings",
)


def instant_text(instant: float) -> str:
    """Format seconds since the epoch with six decimals, as scripts and records store them."""
    return f"{instant:.6f}"


def task_id(queue: str, name: str) -> str:
    """The id of a task. A queue's name has no underscore, so the id splits in one way only."""
    return f"{queue}_{name}"


def split_task_id(identifier: str) -> tuple[str, str]:
    """Split a task id into the queue and the name."""
    queue, _, name = identifier.partition("_")
    return queue, name


def dump_retry(parameters: RetryParameters) -> list[float | int | None]:
    """Retry parameters as a list for JSON."""
    return [getattr(parameters, key) for key in _RETRY_KEYS]


def load_retry(values: list[Any]) -> RetryParameters:
    """Retry parameters from the list made by ``dump_retry``."""
    return RetryParameters(**dict(zip(_RETRY_KEYS, values, strict=True)))


def dump(
    request: str,
    queue: str,
    now: float,
    *,
    eta: float,
    body: bytes = b"",
    is_pull: bool = False,
    headers: Sequence[tuple[str, str]] = (),
    retry: RetryParameters | None = None,
    deadline: float | None = None,
    target: str | None = None,
    tombstone: int | None = None,
    member: str | None = None,
) -> list[Value]:
    """A new task's fields and values as a flat list for HSET; the script sets ``status``.

    ``request`` is ``POST /path?query``, or ``PULL`` and a path. ``deadline`` and ``tombstone`` are seconds;
    None means no tombstone. ``member`` is ``<batch id>:<index>``.
    """
    # Every task has these fields in this order; `without_names` depends on it.
    fields: list[Value] = [
        "origin",
        queue,
        "description",
        request,
        "data",
        DATA,
        "created_at",
        _created_at(now),
        "eta",
        instant_text(eta),
    ]
    if body:
        fields += _body_fields(body, is_pull=is_pull)
    if headers:
        fields += ("headers", _headers_text(tuple(headers)))
    if retry is not None:
        fields += ("retry", json.dumps(dump_retry(retry)))
    if deadline is not None:
        fields += ("deadline", str(deadline))
    if target is not None:
        fields += ("target", target)
    if tombstone is not None:
        fields += ("tombstone", str(tombstone))
    if member is not None:
        fields += ("batch", member)
    return fields


def without_names(fields: list[Value]) -> list[Value]:
    """Drop the names of the first five fields, which the script knows by position."""
    return [*fields[1:10:2], *fields[10:]]


def _created_at(now: float) -> str:
    """Format a time as RQ's records do."""
    seconds, point, digits = instant_text(now).partition(".")
    return f"{_second_text(int(seconds))}{point}{digits}Z"


@functools.lru_cache(maxsize=16)
def _second_text(second: int) -> str:
    return utc(second).isoformat()[:-6]


@functools.lru_cache(maxsize=256)
def _headers_text(headers: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(headers, separators=(",", ":"))


def _body_fields(body: bytes, *, is_pull: bool) -> list[Value]:
    # Leasing from a pull queue reads only the field `body`.
    if is_pull or not PIECE_BYTES < len(body) <= PIECE_BYTES * MAX_PIECES:
        return ["body", body]
    fields: list[Value] = ["body", body[:PIECE_BYTES]]
    for number, first in enumerate(range(PIECE_BYTES, len(body), PIECE_BYTES), 1):
        fields += (f"body.{number}", body[first : first + PIECE_BYTES])
    return fields


def body_of(fields: Mapping[bytes, bytes]) -> bytes:
    """Join the body from a record's fields; empty if there is none."""
    body = fields.get(b"body", b"")
    for name in _LATER_PIECES:
        piece = fields.get(name)
        if piece is None:
            break
        body += piece
    return body


def target_in(fields: list[Value]) -> str | None:
    """The target in a record's flat fields, None if it has none."""
    found = [fields[index + 1] for index in range(0, len(fields), 2) if fields[index] == "target"]
    return str(found[0]) if found else None


def is_pull(fields: list[Value]) -> bool:
    """Whether a record's flat fields describe a pull task."""
    record = dict(zip(fields[::2], fields[1::2], strict=True))
    return str(record.get("description", "")).startswith("PULL ")


@dataclass(slots=True)
class Leased:
    """A leased task; ``entry`` is its member in the registry of leased tasks."""

    id: str
    lease_id: str
    fields: dict[bytes, bytes]
    entry: str = field(init=False)

    def __post_init__(self) -> None:
        self.entry = f"{self.id}:{self.lease_id}"

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self.id.partition("_")[0]

    @property
    def name(self) -> str:
        """The task's name in its queue."""
        return self.id.partition("_")[2]

    @property
    def method_and_url(self) -> tuple[str, str]:
        """``("POST", "/path?query")``."""
        method, _, url = self.fields[b"description"].decode().partition(" ")
        return method, url

    @property
    def body(self) -> bytes:
        """The payload, empty if there is none."""
        return body_of(self.fields)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The task's own headers in their original order."""
        raw = self.fields.get(b"headers")
        return [(key, value) for key, value in json.loads(raw)] if raw else []

    @property
    def eta_text(self) -> str:
        """``eta`` as the record stores it, with six decimals."""
        return self.fields[b"eta"].decode()

    @property
    def eta(self) -> float:
        """The earliest time of this attempt, in seconds since the epoch."""
        return float(self.fields[b"eta"])

    @property
    def failures(self) -> int:
        """Attempts that ended with a status outside 200-299, an exception or a missed deadline."""
        return int(self.fields.get(b"failures", 0))

    @property
    def lost(self) -> int:
        """Attempts whose worker ended while they ran."""
        return int(self.fields.get(b"lost", 0))

    @property
    def attempt(self) -> int:
        """The number of this attempt for the log; 0 if the record is damaged."""
        try:
            return self.failures + self.lost + 1
        except ValueError:
            return 0

    @property
    def first_try_at(self) -> float:
        """The time when the first attempt was leased; for a first attempt, this lease's time."""
        return float(self.fields[b"first_try_at"])

    @property
    def previous_response(self) -> str | None:
        """The HTTP status of the previous attempt, None if it had none."""
        raw = self.fields.get(b"previous_response")
        return raw.decode() if raw else None

    @property
    def is_suspect(self) -> bool:
        """Whether a worker ended while the task may have run. It runs alone now."""
        return b"suspect" in self.fields

    @property
    def member(self) -> str | None:
        """``<batch id>:<index>`` if the task belongs to a batch."""
        raw = self.fields.get(b"batch")
        return raw.decode() if raw else None

    @property
    def deadline_seconds(self) -> float | None:
        """The task's own dispatch deadline."""
        raw = self.fields.get(b"deadline")
        return float(raw) if raw else None

    @property
    def retry(self) -> RetryParameters | None:
        """The task's own retry options, which replace the queue's completely."""
        raw = self.fields.get(b"retry")
        return load_retry(json.loads(raw)) if raw else None

    @property
    def group(self) -> str:
        """The service whose workers leased it."""
        return self.fields.get(b"group", b"default").decode()

    @property
    def request(self) -> str:
        """Distinguishes tasks that reuse a chosen name; '' for a generated name."""
        return self.fields.get(b"request", b"").decode()

    @property
    def unreached(self) -> int:
        """The failures whose attempt never reached the application."""
        return int(self.fields.get(b"unreached", 0))


def load(identifier: bytes, lease_id: bytes, flat: list[bytes]) -> Leased:
    """A task from the lease script's reply."""
    return Leased(identifier.decode(), lease_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))


# --- names ---------------------------------------------------------------------------------


class NameMaker:
    """Generates task names from 64 random bits of the process and a counter.

    After a fork both processes generate different names.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._prefix = ""
        self._counter = itertools.count(1)

    def __call__(self) -> str:
        """Generate a new name."""
        pid = os.getpid()
        if pid != self._pid:
            self._prefix = secrets.token_hex(8)
            self._counter = itertools.count(1)
            self._pid = pid
        return f"{self._prefix}-{next(self._counter):x}"


new_name = NameMaker()
