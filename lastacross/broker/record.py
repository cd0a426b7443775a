"""A task's record in Redis, which is the hash of an RQ job with additional fields of our own.

Pure: it only converts between values and text or bytes. RQ reads ``data``, ``created_at``, ``origin``,
``status`` and ``description``. Most values are at most 64 bytes long, because a single longer value doubles
the memory that Redis needs for the hash. That is why bodies of a few hundred bytes are stored in pieces.
"""

import functools
import itertools
import json
import os
import pickle
import pickletools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lastacross import tracing
from lastacross.clock import utc
from lastacross.config import RetryParameters

# The function that RQ's own worker would call. We store it but never load it. A stock worker that runs it
# fails the task with an explanation, and our sweep then restores the task.
DATA = pickletools.optimize(pickle.dumps(("lastacross.taskqueue.stock.refuse", None, (), {}), protocol=2))

Value = str | bytes

# A hash without longer values needs half the memory (see hash-max-listpack-value in Redis).
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
    """Format a time in seconds since the epoch with six decimals, as scripts and records store it."""
    return f"{instant:.6f}"


def task_id(queue: str, name: str) -> str:
    """The id of a task. Queue names have no underscore, so the id can be split in only one way."""
    return f"{queue}_{name}"


def split_task_id(identifier: str) -> tuple[str, str]:
    """Split a task id into its queue and its name."""
    queue, _, name = identifier.partition("_")
    return queue, name


def dump_retry(parameters: RetryParameters) -> list[float | int | None]:
    """Convert retry parameters to a list that can be stored as JSON."""
    return [getattr(parameters, key) for key in _RETRY_KEYS]


def load_retry(values: list[Any]) -> RetryParameters:
    """Restore retry parameters from a list that ``dump_retry`` created."""
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
    """Return a new task's fields and values as a flat list for HSET; the script adds ``status``.

    ``request`` is ``POST /path?query``, or ``PULL`` and a path. ``deadline`` and ``tombstone`` are in
    seconds; without a ``tombstone`` the task leaves none. ``member`` is ``<batch id>:<index>``.
    """
    # Every task starts with these fields in this order, on which `without_names` depends.
    fields: list[Value] = [
        "origin",
        queue,
        "description",
        request,
        "data",
        DATA,
        "created_at",
        created_at_text(now),
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
    """Drop the names of the first five fields, because the script knows them by position."""
    return [*fields[1:10:2], *fields[10:]]


def created_at_text(now: float) -> str:
    """Format a time in the same way as RQ's records."""
    seconds, point, digits = instant_text(now).partition(".")
    return f"{_second_text(int(seconds))}{point}{digits}Z"


@functools.lru_cache(maxsize=16)
def _second_text(second: int) -> str:
    return utc(second).isoformat()[:-6]


@functools.lru_cache(maxsize=256)
def _headers_text(headers: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(headers, separators=(",", ":"))


def _body_fields(body: bytes, *, is_pull: bool) -> list[Value]:
    # A lease from a pull queue reads only the field `body`.
    if is_pull or not PIECE_BYTES < len(body) <= PIECE_BYTES * MAX_PIECES:
        return ["body", body]
    fields: list[Value] = ["body", body[:PIECE_BYTES]]
    for number, first in enumerate(range(PIECE_BYTES, len(body), PIECE_BYTES), 1):
        fields += (f"body.{number}", body[first : first + PIECE_BYTES])
    return fields


def body_of(fields: Mapping[bytes, bytes]) -> bytes:
    """Assemble the body from a record's fields; empty if there is no body."""
    body = fields.get(b"body", b"")
    for name in _LATER_PIECES:
        piece = fields.get(name)
        if piece is None:
            break
        body += piece
    return body


def target_in(fields: list[Value]) -> str | None:
    """Find the target in a record's flat fields; None if it has no target."""
    found = [fields[index + 1] for index in range(0, len(fields), 2) if fields[index] == "target"]
    return str(found[0]) if found else None


def is_pull(fields: list[Value]) -> bool:
    """Whether a record's flat fields describe a pull task."""
    record = dict(zip(fields[::2], fields[1::2], strict=True))
    return str(record.get("description", "")).startswith("PULL ")


@dataclass(slots=True)
class Leased:
    """A leased task.

    ``entry`` identifies it in the registry of leased tasks. ``queue`` is the queue's name, and ``name`` the
    task's name in it.
    """

    id: str
    lease_id: str
    fields: dict[bytes, bytes]
    entry: str = field(init=False)
    queue: str = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.entry = f"{self.id}:{self.lease_id}"
        self.queue, _, self.name = self.id.partition("_")

    @property
    def method_and_url(self) -> tuple[str, str]:
        """``("POST", "/path?query")``."""
        method, _, url = self.fields[b"description"].decode().partition(" ")
        return method, url

    @property
    def body(self) -> bytes:
        """The payload; empty if the task has none."""
        return body_of(self.fields)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The task's own headers in their original order."""
        raw = self.fields.get(b"headers")
        return [(key, value) for key, value in json.loads(raw)] if raw else []

    @property
    def eta_text(self) -> str:
        """The text of ``eta`` in the record, with six decimals."""
        return self.fields[b"eta"].decode()

    @property
    def eta(self) -> float:
        """The earliest start time of this attempt, in seconds since the epoch."""
        return float(self.fields[b"eta"])

    @property
    def failures(self) -> int:
        """The number of attempts that raised, missed the deadline or returned a status outside 200-299."""
        return int(self.fields.get(b"failures", 0))

    @property
    def lost(self) -> int:
        """The number of attempts whose worker died during the attempt."""
        return int(self.fields.get(b"lost", 0))

    @property
    def attempt(self) -> int:
        """This attempt's number for the log; 0 if the record is damaged."""
        try:
            return self.failures + self.lost + 1
        except ValueError:
            return 0

    @property
    def first_try_at(self) -> float:
        """The time when the first attempt was leased; during a first attempt, the time of this lease."""
        return float(self.fields[b"first_try_at"])

    @property
    def previous_response(self) -> str | None:
        """The HTTP status of the previous attempt; None if it had no status."""
        raw = self.fields.get(b"previous_response")
        return raw.decode() if raw else None

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died while the task may have been running. Such a task runs alone."""
        return b"suspect" in self.fields

    @property
    def member(self) -> str | None:
        """The task's place in its batch, as ``<batch id>:<index>``; None if it belongs to no batch."""
        raw = self.fields.get(b"batch")
        return raw.decode() if raw else None

    @property
    def deadline_seconds(self) -> float | None:
        """The task's own dispatch deadline, in seconds."""
        raw = self.fields.get(b"deadline")
        return float(raw) if raw else None

    @property
    def retry(self) -> RetryParameters | None:
        """The task's own retry options, which replace the queue's completely."""
        raw = self.fields.get(b"retry")
        return load_retry(json.loads(raw)) if raw else None

    @property
    def group(self) -> str:
        """The service whose workers leased this task."""
        return self.fields.get(b"group", b"default").decode()

    @property
    def request(self) -> str:
        """An id that distinguishes tasks with the same chosen name; '' if the name was generated."""
        return self.fields.get(b"request", b"").decode()

    @property
    def delivered(self) -> tracing.Delivered:
        """The task as the spans of this attempt describe it."""
        get = self.fields.get
        texts = [(get(name) or b"").decode("latin-1") for name in (b"traceparent", b"attempt_trace")]
        return tracing.Delivered(self.queue, self.name, self.attempt, *texts)

    @property
    def unreached(self) -> int:
        """The number of failed attempts that never reached the application."""
        return int(self.fields.get(b"unreached", 0))


def load(identifier: bytes, lease_id: bytes, flat: list[bytes]) -> Leased:
    """Build a leased task from the lease script's reply."""
    items = iter(flat)
    return Leased(identifier.decode(), lease_id.decode(), dict(zip(items, items, strict=True)))


def text_of(value: bytes) -> str:
    """Decode a value from Redis; malformed bytes become replacement characters."""
    return value.decode("utf-8", "replace")


def new_token() -> str:
    """Generate a lease token that is unique among all running workers.

    The token is so long that every entry in a registry of leased tasks exceeds 64 bytes. Redis would keep
    a small number of shorter entries in a list, which every step would then have to search.
    """
    return secrets.token_hex(24)


# --- names ---------------------------------------------------------------------------------


class NameMaker:
    """Generates task names from 64 random bits of the process and a counter.

    After a fork, parent and child generate different names.
    """

    def __init__(self) -> None:
        # One object, because two threads may begin at the same time.
        self._prefix_and_counter: tuple[str, Iterator[int]] | None = None

    def begin_anew(self) -> None:
        """Choose another prefix for the next name."""
        self._prefix_and_counter = None

    def __call__(self) -> str:
        """Generate a new name."""
        found = self._prefix_and_counter
        if found is None:
            found = self._prefix_and_counter = secrets.token_hex(8), itertools.count(1)
        prefix, counter = found
        return f"{prefix}-{next(counter):x}"


new_name = NameMaker()
os.register_at_fork(after_in_child=new_name.begin_anew)
