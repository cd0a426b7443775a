"""A task as Redis holds it: RQ's hash of a job, with our fields beside RQ's.

Pure: text and bytes in, text and bytes out. RQ reads ``data``, ``created_at``, ``origin``, ``status`` and
``description``; the rest is ours. Most values stay under 64 bytes: one longer value doubles what the
hash takes in Redis, so that bodies of a few hundred bytes are cut in pieces.
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

# What RQ's own worker would call. We write it and never load it: it only says that this queue is
# not for a stock worker, so that the task fails there and our sweep puts it back.
DATA = pickletools.optimize(pickle.dumps(("lastacross.taskqueue.stock.refuse", None, (), {}), protocol=2))

Value = str | bytes

# Redis keeps a hash whose values are no longer than this in half the memory (its hash-max-listpack-value).
PIECE_BYTES = 64
# A longer body is kept whole: cutting it up would make every look at its record slower.
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
    """Seconds since the epoch as scripts and records hold them: six digits after the point."""
    return f"{instant:.6f}"


def task_id(queue: str, name: str) -> str:
    """The id of a task: a queue's name has no underscore, so it splits one way only."""
    return f"{queue}_{name}"


def split_task_id(identifier: str) -> tuple[str, str]:
    """The queue and the name in a task id."""
    queue, _, name = identifier.partition("_")
    return queue, name


def dump_retry(parameters: RetryParameters) -> list[float | int | None]:
    """Retry parameters as a JSON list."""
    return [getattr(parameters, key) for key in _RETRY_KEYS]


def load_retry(values: list[Any]) -> RetryParameters:
    """Retry parameters from such a list."""
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
    """The fields and values of a new task, flat, as HSET takes them; ``status`` is the script's.

    ``request`` is ``POST /path?query``, or ``PULL`` and a path; ``deadline`` and ``tombstone`` are seconds,
    None for no tombstone; ``member`` is ``<batch id>:<index>``.
    """
    # Each task has these, in this order: `without_names` counts on it.
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
    """A new record's fields for a script that knows the first ones: their values, then the rest as it is."""
    return [*fields[1:10:2], *fields[10:]]


def _created_at(now: float) -> str:
    """An instant as RQ's records have it."""
    seconds, point, digits = instant_text(now).partition(".")
    return f"{_second_text(int(seconds))}{point}{digits}Z"


@functools.lru_cache(maxsize=16)
def _second_text(second: int) -> str:
    return utc(second).isoformat()[:-6]


@functools.lru_cache(maxsize=256)
def _headers_text(headers: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(headers, separators=(",", ":"))


def _body_fields(body: bytes, *, is_pull: bool) -> list[Value]:
    # What leases from a pull queue reads one field.
    if is_pull or not PIECE_BYTES < len(body) <= PIECE_BYTES * MAX_PIECES:
        return ["body", body]
    fields: list[Value] = ["body", body[:PIECE_BYTES]]
    for number, first in enumerate(range(PIECE_BYTES, len(body), PIECE_BYTES), 1):
        fields += (f"body.{number}", body[first : first + PIECE_BYTES])
    return fields


def body_of(fields: Mapping[bytes, bytes]) -> bytes:
    """The body in a record's fields, empty if there is none."""
    body = fields.get(b"body", b"")
    for name in _LATER_PIECES:
        piece = fields.get(name)
        if piece is None:
            break
        body += piece
    return body


def target_in(fields: list[Value]) -> str | None:
    """The target in a record's flat fields."""
    found = [fields[place + 1] for place in range(0, len(fields), 2) if fields[place] == "target"]
    return str(found[0]) if found else None


def is_pull(fields: list[Value]) -> bool:
    """Whether a record's flat fields are those of a pull task."""
    record = dict(zip(fields[::2], fields[1::2], strict=True))
    return str(record.get("description", "")).startswith("PULL ")


@dataclass(slots=True)
class Leased:
    """A task that this process holds a lease on; ``entry`` is its member in the registry of leased tasks."""

    id: str
    lease_id: str
    fields: dict[bytes, bytes]
    entry: str = field(init=False)

    def __post_init__(self) -> None:
        self.entry = f"{self.id}:{self.lease_id}"

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self.id.partition("_")[0]

    @property
    def name(self) -> str:
        """Its name in its queue."""
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
        """Its own headers, in the order in which they were given."""
        raw = self.fields.get(b"headers")
        return [(key, value) for key, value in json.loads(raw)] if raw else []

    @property
    def eta_text(self) -> str:
        """The same as ``eta``, as the record has it: six digits after the point."""
        return self.fields[b"eta"].decode()

    @property
    def eta(self) -> float:
        """The earliest instant of this attempt, seconds since the epoch."""
        return float(self.fields[b"eta"])

    @property
    def failures(self) -> int:
        """Attempts that ended with an answer outside 200-299, an exception or a deadline."""
        return int(self.fields.get(b"failures", 0))

    @property
    def lost(self) -> int:
        """Attempts whose worker ended while they ran."""
        return int(self.fields.get(b"lost", 0))

    @property
    def attempt(self) -> int:
        """The number of this attempt, as the log has it; 0 where the record does not tell."""
        try:
            return self.failures + self.lost + 1
        except ValueError:
            return 0

    @property
    def first_try_at(self) -> float:
        """The instant at which the first attempt was leased; of this one, if it is the first."""
        return float(self.fields[b"first_try_at"])

    @property
    def previous_response(self) -> str | None:
        """The status of the attempt before, if it had one."""
        raw = self.fields.get(b"previous_response")
        return raw.decode() if raw else None

    @property
    def is_suspect(self) -> bool:
        """Whether a worker ended while it may have run: it runs alone now."""
        return b"suspect" in self.fields

    @property
    def member(self) -> str | None:
        """``<batch id>:<index>`` if it belongs to a batch."""
        raw = self.fields.get(b"batch")
        return raw.decode() if raw else None

    @property
    def deadline_seconds(self) -> float | None:
        """Its own dispatch deadline."""
        raw = self.fields.get(b"deadline")
        return float(raw) if raw else None

    @property
    def retry(self) -> RetryParameters | None:
        """Its own retry options, which replace its queue's as a whole."""
        raw = self.fields.get(b"retry")
        return load_retry(json.loads(raw)) if raw else None

    @property
    def group(self) -> str:
        """The service whose workers it was leased by."""
        return self.fields.get(b"group", b"default").decode()

    @property
    def request(self) -> str:
        """What tells it from other tasks of its name; '' where it was not named by its caller."""
        return self.fields.get(b"request", b"").decode()

    @property
    def unreached(self) -> int:
        """Failures, of all, of attempts that never came as far as the application."""
        return int(self.fields.get(b"unreached", 0))


def load(identifier: bytes, lease_id: bytes, flat: list[bytes]) -> Leased:
    """A task as the lease script returned it."""
    return Leased(identifier.decode(), lease_id.decode(), dict(zip(flat[::2], flat[1::2], strict=True)))


# --- names ---------------------------------------------------------------------------------


class NameMaker:
    """Makes names for tasks without one: 64 random bits of the process and a counter.

    After a fork both processes make different names.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._prefix = ""
        self._counter = itertools.count(1)

    def __call__(self) -> str:
        """A new name."""
        pid = os.getpid()
        if pid != self._pid:
            self._prefix = secrets.token_hex(8)
            self._counter = itertools.count(1)
            self._pid = pid
        return f"{self._prefix}-{next(self._counter):x}"


new_name = NameMaker()
