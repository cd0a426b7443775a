"""Looks up tasks by name, lists a queue's tasks by state, and reads a task with its payload.

It also retries or deletes all dead letters of a queue, in steps, so that other queues can continue in
between.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from lastacross import store
from lastacross.broker.queue_facts import tokens_in
from lastacross.broker.readable import MAX_INSTANT
from lastacross.broker.record import body_of, split_task_id, task_id, text_of
from lastacross.broker.states import ALL, DEAD, READY, SCHEDULED, STATE_OF_STATUS, STATES
from lastacross.broker.steps import Broker, transient_errors
from lastacross.store import (
    OPEN_BATCHES,
    PULL_PREFIX,
    READY_PREFIX,
    RQ_QUEUES,
    Store,
    bucket_key,
    dead_key,
    deferred_key,
    leased_key,
    pull_key,
    pull_leased_key,
    ready_key,
    record_key,
    scheduled_key,
    settings_key,
    tombstone_key,
)

PULL_CHUNK = 1000

_FIELDS = (
    "status",
    "description",
    "eta",
    "failures",
    "lost",
    "target",
    "tag",
    "batch",
    "error",
    "dead_at",
    "leases",
)


FIELDS = ("status", "eta", "failures", "lost", "dead_at", "error")
"""The fields of a record that show a task's state and failures."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task's state and failures, as read from its record.

    Args:
        status: RQ's status (``queued``, ``scheduled``, ``started``, ``failed`` or ``deferred``).
        eta: the earliest start time of the next or running attempt, in seconds since the epoch.
        failures: the number of attempts that raised, missed the deadline or returned a status outside
            200-299.
        lost: the number of attempts whose worker died during the attempt.
        error: why the task is a dead letter, or '' if it is not one.
    """

    status: str
    eta: float
    failures: int
    lost: int
    error: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether the task has used up its retries, so that it runs again only on request."""
        return self.status == DEAD.status

    @property
    def waits(self) -> bool:
        """Whether the task is ready or scheduled."""
        return self.status in (READY.status, SCHEDULED.status)


def find(queue_name: str, name: str) -> TaskRecord | None:
    """Find the task with this name in a queue; None if it is done, deleted, purged or lost.

    Raises:
        TransientError: Redis is unavailable.
    """
    return find_all([(queue_name, name)])[0]


def find_all(tasks: Sequence[tuple[str, str]]) -> list[TaskRecord | None]:
    """Find several tasks, each given as a pair of queue and name, in one round trip.

    Raises:
        TransientError: Redis is unavailable.
    """
    if not tasks:
        return []
    with transient_errors(), store.current().redis.pipeline(transaction=False) as pipeline:
        for queue_name, name in tasks:
            pipeline.hmget(record_key(task_id(queue_name, name)), FIELDS)
        found = pipeline.execute(raise_on_error=False)
    # A record of the wrong type counts as missing. The next lease that reads such a record reports it.
    return [loaded(values) if isinstance(values, list) else None for values in found]


def loaded(values: Sequence[bytes | None]) -> TaskRecord | None:
    """Build a record from the values of ``FIELDS``; None if there is no such record."""
    status, eta, failures, lost, dead_at, error = values
    if status is None or eta is None:
        return None
    text = status.decode("utf-8", "replace")
    if text == DEAD.status and dead_at is None:
        # Another RQ tool marked the task as failed, and a sweep will restore it.
        text = READY.status
    reason = error.decode("utf-8", "replace") if error else ""
    return TaskRecord(text, _number(eta), int(_number(failures)), int(_number(lost)), reason)


def _number(value: bytes | None) -> float:
    """The number in a field, or 0 if it is invalid. The worker that leases the task reports the problem."""
    try:
        number = float(value or 0)
    except ValueError:
        return 0.0
    return number if 0 <= number <= MAX_INSTANT else 0.0


_KEY_OF_STATE = {state.name: state.key for state in ALL}


@dataclass(frozen=True, slots=True)
class ListedTask:
    """A task without its payload.

    Times are in seconds since the epoch, or None if not set. ``attempts`` counts finished attempts, or the
    leases of a pull task. ``error`` says why the task is a dead letter.
    """

    queue: str
    name: str
    state: str
    method: str
    url: str
    eta: float | None
    attempts: int
    target: str | None = None
    tag: str | None = None
    batch: str | None = None
    error: str | None = None
    dead_at: float | None = None


@dataclass(frozen=True, slots=True)
class WholeTask:
    """A task with its payload and its own headers."""

    task: ListedTask
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)


class Listing:
    """Reads tasks from one Redis server. Every method raises ``TransientError`` if Redis is unavailable."""

    def __init__(self, opened: Store) -> None:
        self._store = opened
        self._redis: Any = opened.redis

    def tasks(self, queue: str, states: Iterable[str] = STATES, limit: int = 100) -> list[ListedTask]:
        """The first ``limit`` tasks in each of these states; for dead letters, the newest ones."""
        with transient_errors():
            ids: dict[str, None] = {}
            for state in states:
                found = [*self._ids(queue, state, limit), *self._pull_ids(queue, state, limit)]
                ids.update(dict.fromkeys(found[:limit]))
            wanted = frozenset(states)
            return [task for task in self._listed(list(ids)) if task.state in wanted]

    def listed(self, ids: Sequence[str]) -> list[ListedTask]:
        """The existing tasks with these ids, in one round trip."""
        with transient_errors():
            return self._listed(list(ids))

    def find(self, queue: str, name: str) -> WholeTask | None:
        """Find a task by name; None if it does not exist."""
        identifier = task_id(queue, name)
        with transient_errors():
            listed = next(iter(self._listed([identifier])), None)
            if listed is None:
                return None
            raw = cast("dict[bytes, bytes]", self._redis.hgetall(record_key(identifier)))
        if not raw:
            return None
        body = body_of(raw)
        headers = _headers(raw)
        raw.pop(b"data", None)
        fields = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in sorted(raw.items())
            if key.partition(b".")[0] != b"body"
        }
        return WholeTask(listed, body, headers, fields)

    def name_refused_until(self, queue: str, name: str) -> float | None:
        """The time when a tombstone ends, in seconds since the epoch; None if the name has no tombstone.

        It is infinite for a tombstone that never ends, which only another program would write.
        """
        with transient_errors():
            left_ms = int(self._redis.pttl(tombstone_key(task_id(queue, name))))
            if left_ms == -2:
                return None
            until = self._store.now() + left_ms / 1000
        return until if left_ms >= 0 and until < MAX_INSTANT else math.inf

    def open_batches(self, limit: int) -> list[str]:
        """The ids of the incomplete batches, oldest first."""
        with transient_errors():
            found = cast("list[bytes]", self._store.redis.zrange(OPEN_BATCHES, 0, limit - 1))
        return [identifier.decode("utf-8", "replace") for identifier in found]

    def count_dead(self, queue: str) -> int:
        """The number of dead letters in a queue."""
        with transient_errors():
            return int(self._redis.zcard(dead_key(queue)))

    def count(self, queues: Sequence[str]) -> dict[str, dict[str, int]]:
        """The number of tasks in each state (``STATES``) of these queues, in two round trips."""
        with transient_errors():
            lists = self._lists_of(queues)
            now = f"{self._store.now():.6f}"
            with self._redis.pipeline(transaction=False) as pipeline:
                for queue in queues:
                    for key in lists[queue]:
                        pipeline.llen(key)
                    pipeline.zcard(scheduled_key(queue))
                    pipeline.zcard(leased_key(queue))
                    pipeline.zcard(dead_key(queue))
                    pipeline.zcard(deferred_key(queue))
                    pipeline.zcount(pull_key(queue), "-inf", now)
                    pipeline.zcount(pull_key(queue), f"({now}", "+inf")
                    pipeline.zcount(pull_leased_key(queue), f"({now}", "+inf")
                answers = pipeline.execute(raise_on_error=False)
        # A key of the wrong type counts as empty; the next script that encounters it moves it aside.
        numbers = iter([answer if isinstance(answer, int) else 0 for answer in answers])
        found = {}
        for queue in queues:
            ready = sum(next(numbers) for _ in lists[queue])
            scheduled, leased, dead, waiting, pull_ready, pull_later, pull_leased = (
                next(numbers) for _ in range(7)
            )
            # A leased pull task's eta is the end of its lease.
            found[queue] = {
                "ready": ready + pull_ready,
                "scheduled": scheduled + max(0, pull_later - pull_leased),
                "leased": leased + pull_leased,
                "dead": dead,
                "waiting": waiting,
            }
        return found

    def dispatch_tokens(self, queues: Sequence[str]) -> dict[str, float]:
        """The current number of tokens in each queue's bucket; queues without a rate are left out."""
        with transient_errors():
            now = self._store.now()
            with self._redis.pipeline(transaction=False) as pipeline:
                for queue in queues:
                    pipeline.hmget(settings_key(queue), "rate", "bucket_size")
                    pipeline.hmget(bucket_key(queue), "tokens", "counted_at")
                answers = iter(pipeline.execute(raise_on_error=False))
        found = {}
        for queue in queues:
            rate, size = _numbers(next(answers))
            bucket = next(answers)
            if rate is not None and size is not None:
                # A key of the wrong type counts as a full bucket.
                values = bucket if isinstance(bucket, list) else (None, None)
                found[queue] = max(0.0, tokens_in(values, rate, size, now)[0])
        return found

    def _lists_of(self, queues: Sequence[str]) -> dict[str, list[str]]:
        """Each queue's lists of ready tasks, including side lists."""
        found = {queue: [ready_key(queue)] for queue in queues}
        for key in sorted(text_of(key) for key in self._redis.smembers(RQ_QUEUES)):
            queue, dot, _ = key.removeprefix(READY_PREFIX).partition(".")
            if dot and queue in found:
                found[queue].append(key)
        return found

    def _ids(self, queue: str, state: str, limit: int) -> list[str]:
        if state == "ready":
            found = [
                each for key in self._ready_lists(queue) for each in self._redis.lrange(key, 0, limit - 1)
            ]
        elif state == "dead":
            found = self._redis.zrevrange(dead_key(queue), 0, limit - 1)
        else:
            found = self._redis.zrange(_KEY_OF_STATE[state](queue), 0, limit - 1)
        # A leased task's entry is its id, a colon and its lease id. Our task ids do not contain a colon.
        return [text_of(each).partition(":")[0] for each in found]

    def _pull_ids(self, queue: str, state: str, limit: int) -> list[str]:
        now = self._store.now()
        if state == "leased":
            names = self._redis.zrange(
                pull_leased_key(queue), f"({now:.6f}", "+inf", byscore=True, offset=0, num=limit
            )
        elif state == "ready":
            names = self._redis.zrange(
                PULL_PREFIX + queue, "-inf", f"{now:.6f}", byscore=True, offset=0, num=limit
            )
        elif state == "scheduled":
            names = self._pull_names_ahead(queue, now, limit)
        else:
            names = []
        return [task_id(queue, text_of(name)) for name in names]

    def _pull_names_ahead(self, queue: str, now: float, limit: int) -> list[bytes]:
        """The names of the pull tasks to come, without leased ones, whose eta is the end of their lease."""
        found: list[bytes] = []
        first = 0
        while len(found) < limit:
            names = self._redis.zrange(
                PULL_PREFIX + queue, f"({now:.6f}", "+inf", byscore=True, offset=first, num=PULL_CHUNK
            )
            if not names:
                break
            first += len(names)
            ends = self._redis.zmscore(pull_leased_key(queue), names)
            found += [name for name, end in zip(names, ends, strict=True) if end is None or end <= now]
        return found[:limit]

    def _ready_lists(self, queue: str) -> list[str]:
        own = ready_key(queue)
        keys = sorted(text_of(key) for key in self._redis.smembers(RQ_QUEUES))
        return [own, *(key for key in keys if key.startswith(f"{READY_PREFIX}{queue}."))]

    def _listed(self, ids: list[str]) -> list[ListedTask]:
        now = self._store.now()
        with self._redis.pipeline(transaction=False) as pipeline:
            for identifier in ids:
                queue, name = split_task_id(identifier)
                pipeline.hmget(record_key(identifier), _FIELDS)
                pipeline.zscore(pull_leased_key(queue), name)
            # Skip records of the wrong type. The next lease turns them into dead letters.
            answers = pipeline.execute(raise_on_error=False)
        found = zip(ids, answers[::2], answers[1::2], strict=True)
        return [
            _task(identifier, values, held_until, now)
            for identifier, values, held_until in found
            # A record without an eta is a plain RQ job, which the next lease turns into a dead letter.
            if isinstance(values, list) and values[0] is not None and values[2] is not None
        ]


def _numbers(values: Any) -> tuple[Any, ...]:
    """The numbers in two fields; None for one that is missing or invalid."""
    texts = values if isinstance(values, list) else (None, None)
    found = []
    for text in texts:
        try:
            number = float(text or b"nan")
        except ValueError:
            number = float("nan")
        found.append(number if 0 <= number <= MAX_INSTANT else None)
    return tuple(found)


def _headers(raw: dict[bytes, bytes]) -> tuple[tuple[str, str], ...]:
    """Remove a record's own headers from its fields and return them; leave damaged headers in place."""
    try:
        found = tuple((str(key), str(value)) for key, value in json.loads(raw.get(b"headers", b"[]")))
    except (ValueError, TypeError, RecursionError):
        return ()
    raw.pop(b"headers", None)
    return found


def _instant(text: str | None) -> float | None:
    """Parse a time from a record; None if it is missing or invalid."""
    try:
        found = float(text or "nan")
    except ValueError:
        return None
    return found if abs(found) <= MAX_INSTANT else None


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else 0


def _task(identifier: str, values: list[bytes | None], held_until: object, now: float) -> ListedTask:
    text = {
        key: value.decode("utf-8", "replace")
        for key, value in zip(_FIELDS, values, strict=True)
        if value is not None
    }
    queue, name = split_task_id(identifier)
    method, _, url = text.get("description", "").partition(" ")
    eta = _instant(text["eta"])
    state = STATE_OF_STATUS.get(text["status"], text["status"])
    attempts = _whole(text.get("failures")) + _whole(text.get("lost"))
    if method == "PULL":
        attempts = _whole(text.get("leases"))
        if state == "scheduled":
            is_held = isinstance(held_until, float) and held_until > now
            state = "leased" if is_held else "scheduled" if eta is not None and eta > now else "ready"
    return ListedTask(
        queue,
        name,
        state,
        method,
        url,
        eta,
        attempts,
        target=text.get("target", "").removeprefix("!") or None,
        tag=text.get("tag") or None,
        batch=text.get("batch"),
        error=text.get("error"),
        dead_at=_instant(text.get("dead_at")),
    )


# --- all dead letters -----------------------------------------------------------------------

DEAD_CHUNK = 100

Tell = Callable[[int], object]
"""Receives the number of tasks that each step has handled."""


def _no_one(_number: int) -> None:
    """Ignore the number."""


def retry_dead(broker: Broker, queue: str, tell: Tell = _no_one) -> list[str]:
    """Run all dead letters of a queue again; returns their ids.

    A task that becomes a dead letter in the meantime stays one.

    Raises:
        TransientError: Redis is unavailable.
    """
    return _for_dead(broker, queue, broker.retry_dead, tell)


def delete_dead(broker: Broker, queue: str, tell: Tell = _no_one) -> list[str]:
    """Delete all dead letters of a queue; returns their ids.

    Raises:
        TransientError: Redis is unavailable.
    """
    return _for_dead(broker, queue, broker.delete_dead, tell)


def _for_dead(
    broker: Broker, queue: str, act: Callable[[Sequence[str]], list[bool]], tell: Tell
) -> list[str]:
    redis, key = broker.store.redis, dead_key(queue)
    with transient_errors():
        left = redis.zcard(key)
    done: list[str] = []
    skipped = 0
    while left > 0:
        with transient_errors():
            found = redis.zrange(key, skipped, skipped + min(DEAD_CHUNK, left) - 1)
        entries = cast("list[bytes]", found)
        if not entries:
            break
        ids = [entry.decode("utf-8", "replace") for entry in entries]
        acted = [identifier for identifier, has_acted in zip(ids, act(ids), strict=True) if has_acted]
        # Other programs' entries stay, in front of the rest.
        left, skipped = left - len(ids), skipped + len(ids) - len(acted)
        done += acted
        tell(len(ids))
    return done
