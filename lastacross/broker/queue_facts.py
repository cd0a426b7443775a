"""Reads the current numbers of many queues together, and explains why a queue is idle right now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from lastacross.broker.record import instant_text, text_of
from lastacross.broker.steps import Steps, transient_errors
from lastacross.broker.workers import STATUS_FIELD, WorkerStatus, load_status
from lastacross.store import (
    RQ_WORKERS,
    SCRIPTS,
    Arg,
    leased_key,
    pull_key,
    scheduled_key,
)

QUEUES_PER_SCRIPT = 20
MAX_SHOWN_TASKS = 100
MAX_WORKERS = 1000
# The same as in lease_tasks.lua.
MAX_SKEW_SECONDS = 10
_EPSILON = 1e-6

_SCRIPT = "read_queue_facts"


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A snapshot of one queue.

    Times are in seconds since the epoch by the Redis server's clock, rates in tasks per second. ``rate`` is
    None for a queue without settings, and ``max_concurrent`` for one without a limit. ``effective_rate`` is 0
    while nothing is delivered. ``tokens`` counts the tasks that the bucket allows now, and ``token_at`` is
    when it allows the next one. ``lists`` has the lengths of the queue's lists of ready tasks, by their names
    (``<queue>`` or ``<queue>.<group>``; '' for requests to run a task now). ``oldest_eta`` is the eta of the
    oldest ready task, and ``next_due`` that of the next scheduled one.
    """

    name: str
    mode: str
    at: float
    rate: float | None
    effective_rate: float
    bucket_size: float
    tokens: float
    token_at: float | None
    max_concurrent: int | None
    in_flight: int
    lists: Mapping[str, int]
    scheduled: int
    dead: int
    oldest_eta: float | None
    next_due: float | None
    executed_last_minute: int
    is_paused: bool
    is_draining: bool
    is_disabled: bool
    is_suspended: bool
    group: str
    target: str
    retry: str

    @property
    def ready(self) -> int:
        """The number of tasks that are waiting for a worker."""
        return sum(self.lists.values())

    @property
    def oldest_age_seconds(self) -> float | None:
        """How long the oldest ready task has been waiting; None if no task is waiting."""
        return None if self.oldest_eta is None else max(0.0, self.at - self.oldest_eta)

    @property
    def seconds_to_drain(self) -> float | None:
        """The time until no task is ready or running, at the last minute's speed; None if none ran then."""
        backlog = self.ready + self.in_flight
        if not backlog:
            return 0.0
        return backlog * 60 / self.executed_last_minute if self.executed_last_minute else None


# --- why nothing runs ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Suspended:
    """RQ's tools have suspended all workers (``rq suspend``)."""

    kind: ClassVar[str] = "suspended"


@dataclass(frozen=True, slots=True)
class Disabled:
    """The last upload of queue.yaml does not list the queue."""

    kind: ClassVar[str] = "disabled"


@dataclass(frozen=True, slots=True)
class Paused:
    """The queue is paused."""

    kind: ClassVar[str] = "paused"


@dataclass(frozen=True, slots=True)
class RateIsZero:
    """The queue's rate is 0 in queue.yaml."""

    kind: ClassVar[str] = "rate_is_zero"


@dataclass(frozen=True, slots=True)
class Draining:
    """The queue refuses new tasks, but still delivers those that it has."""

    kind: ClassVar[str] = "draining"


@dataclass(frozen=True, slots=True)
class WaitsForToken:
    """The bucket is empty until ``until``, at ``rate`` tasks per second."""

    until: float
    rate: float
    kind: ClassVar[str] = "waits_for_token"


@dataclass(frozen=True, slots=True)
class LimitReached:
    """``in_flight`` tasks are running, as many as ``limit`` allows; ``tasks`` names up to 100 of them."""

    limit: int
    in_flight: int
    tasks: tuple[str, ...]
    kind: ClassVar[str] = "limit_reached"


@dataclass(frozen=True, slots=True)
class NoWorker:
    """``ready`` tasks are waiting for the service ``target``, and no live worker serves it in this queue."""

    target: str
    ready: int
    kind: ClassVar[str] = "no_worker"


@dataclass(frozen=True, slots=True)
class WorkersBusy:
    """``ready`` tasks are in the list ``name``, and all ``threads`` of its ``workers`` are busy."""

    name: str
    ready: int
    workers: int
    threads: int
    kind: ClassVar[str] = "workers_busy"


@dataclass(frozen=True, slots=True)
class LeasedByClients:
    """The queue is a pull queue: its ``ready`` tasks are waiting for a client to lease them."""

    ready: int
    kind: ClassVar[str] = "leased_by_clients"


@dataclass(frozen=True, slots=True)
class NextDue:
    """No task is ready; the next one of ``scheduled`` tasks, ``task``, is due at ``at``."""

    at: float
    task: str
    scheduled: int
    kind: ClassVar[str] = "next_due"


@dataclass(frozen=True, slots=True)
class NothingWaiting:
    """No task is ready or scheduled."""

    kind: ClassVar[str] = "nothing_waiting"


Reason = (
    Suspended
    | Disabled
    | Paused
    | RateIsZero
    | Draining
    | WaitsForToken
    | LimitReached
    | NoWorker
    | WorkersBusy
    | LeasedByClients
    | NextDue
    | NothingWaiting
)


class _Serving(NamedTuple):
    """A worker's lists of ready tasks, and its status unless it is from the previous release."""

    lists: frozenset[str]
    status: WorkerStatus | None


class QueueReader(Steps):
    """Reads queues for a page. Every method raises ``TransientError`` if Redis is unavailable."""

    def facts(self, queues: Sequence[str]) -> list[QueueFacts]:
        """A snapshot of each queue. Two hundred queues take two round trips."""
        if not queues:
            return []
        now = self.now()
        parts = [
            queues[first : first + QUEUES_PER_SCRIPT] for first in range(0, len(queues), QUEUES_PER_SCRIPT)
        ]
        arguments = [[instant_text(now), *part] for part in parts]
        # The first call also loads the script for the others.
        answers = [self._run(_SCRIPT, arguments[0]), *self._run_together(arguments[1:])]
        return [
            _facts(name, values, now, is_suspended=bool(answer[0]))
            for part, answer in zip(parts, answers, strict=True)
            for name, values in zip(part, answer[1:], strict=True)
        ]

    def _run_together(self, arguments: Sequence[Sequence[Arg]]) -> list[Any]:
        """Run the script once for each of these arguments, in one round trip."""
        if not arguments:
            return []
        _, sha = SCRIPTS.find(_SCRIPT)
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            for args in arguments:
                pipeline.execute_command("EVALSHA", sha, 0, *args)
            answers = pipeline.execute(raise_on_error=False)
        return [
            # Only a server that was restarted in between would have forgotten the script.
            self._run(_SCRIPT, args) if isinstance(answer, Exception) else answer
            for args, answer in zip(arguments, answers, strict=True)
        ]

    def why_idle(self, queue: str) -> list[Reason]:
        """Why the queue is delivering nothing right now; empty if nothing keeps its tasks from running.

        It takes at most four round trips, and reads at most 1,000 workers.
        """
        [facts] = self.facts([queue])
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            pipeline.zrange(leased_key(queue), 0, MAX_SHOWN_TASKS - 1)
            pipeline.zrange(scheduled_key(queue), 0, 0)
            pipeline.zrange(pull_key(queue), f"({facts.at:.6f}", "+inf", byscore=True, offset=0, num=1)
            pipeline.smembers(RQ_WORKERS)
            leased, scheduled, pulled, workers = pipeline.execute()
        serving = self._serving(sorted(workers)[:MAX_WORKERS]) if facts.lists else []
        running = tuple(_name_of(queue, entry) for entry in leased)
        if facts.mode == "pull":
            next_tasks = [text_of(name) for name in pulled]
        else:
            next_tasks = [_name_of(queue, entry) for entry in scheduled]
        return [
            *_switches(facts),
            *_limits(facts, running),
            *_workers(facts, serving),
            *_waiting(facts, next_tasks[0] if next_tasks else ""),
        ]

    def _serving(self, keys: Iterable[bytes]) -> list[_Serving]:
        """The live workers. RQ's hash for a worker expires half a minute after the worker ends."""
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hmget(key, "queues", "death", STATUS_FIELD)
            answers = pipeline.execute(raise_on_error=False)
        return [
            _Serving(frozenset(text_of(answer[0]).split(",")), load_status(answer[2] or b""))
            for answer in answers
            if isinstance(answer, list) and answer[0] and not answer[1]
        ]


def _switches(facts: QueueFacts) -> Iterable[Reason]:
    if facts.is_suspended:
        yield Suspended()
    if facts.is_disabled:
        yield Disabled()
    if facts.is_paused:
        yield Paused()
    if facts.rate == 0:
        yield RateIsZero()
    if facts.is_draining:
        yield Draining()


def _limits(facts: QueueFacts, running: tuple[str, ...]) -> Iterable[Reason]:
    # Requests to run a task now ignore the limits.
    if not any(facts.lists.keys() - {""}) or facts.mode == "pull":
        return
    if facts.token_at is not None and facts.token_at > facts.at and facts.rate:
        yield WaitsForToken(facts.token_at, facts.rate)
    if facts.max_concurrent is not None and facts.in_flight >= facts.max_concurrent:
        yield LimitReached(facts.max_concurrent, facts.in_flight, running)


def _workers(facts: QueueFacts, workers: Sequence[_Serving]) -> Iterable[Reason]:
    if facts.mode == "pull":
        if facts.ready:
            yield LeasedByClients(facts.ready)
        return
    for name, ready in facts.lists.items():
        _, _, group = name.partition(".")
        # A worker of the queue's own group also empties the list that has this group's name.
        names = {name, facts.name} if not name or group == facts.group else {name}
        serving = [worker for worker in workers if names & worker.lists]
        statuses = [worker.status for worker in serving if worker.status is not None]
        if not serving:
            yield NoWorker(group or facts.group, ready)
        elif len(statuses) == len(serving) and all(each.busy >= each.threads for each in statuses):
            yield WorkersBusy(name, ready, len(serving), sum(each.threads for each in statuses))


def _waiting(facts: QueueFacts, task: str) -> Iterable[Reason]:
    if facts.ready:
        return
    if facts.scheduled and facts.next_due is not None:
        yield NextDue(facts.next_due, task, facts.scheduled)
    elif not facts.scheduled:
        yield NothingWaiting()


# --- answers of the script ------------------------------------------------------------------


def _facts(name: str, values: Any, now: float, *, is_suspended: bool) -> QueueFacts:
    settings, paused, draining, bucket, lists, counts, oldest, next_due, executed = values
    rate, bucket_size, limit, disabled, mode, group, target, retry = (
        text_of(each or b"") for each in settings
    )
    number = _number(rate)
    stops = bool(paused) or disabled == "1" or is_suspended
    tokens, token_at = tokens_in(bucket, number or 0.0, _number(bucket_size) or 0.0, now)
    return QueueFacts(
        name=name,
        mode=mode or "push",
        at=now,
        rate=number,
        effective_rate=0.0 if stops else number or 0.0,
        bucket_size=_number(bucket_size) or 0.0,
        tokens=tokens,
        token_at=token_at,
        max_concurrent=None if (most := _number(limit)) is None else int(most),
        in_flight=counts[0],
        lists={text_of(lists[place]): lists[place + 1] for place in range(0, len(lists), 2)},
        scheduled=counts[1],
        dead=counts[2],
        oldest_eta=_number(text_of(oldest)),
        next_due=_number(text_of(next_due)),
        executed_last_minute=executed,
        is_paused=bool(paused),
        is_draining=bool(draining),
        is_disabled=disabled == "1",
        is_suspended=is_suspended,
        group=group or "default",
        target=target,
        retry=retry,
    )


def tokens_in(values: Any, rate: float, size: float, now: float) -> tuple[float, float | None]:
    """The tokens in a bucket, and when it will have a whole one, as lease_tasks computes them."""
    tokens, counted_at = (_number(text_of(value or b"")) for value in values)
    if tokens is None or counted_at is None:
        return size, None
    if counted_at > now + MAX_SKEW_SECONDS:
        counted_at = now
    now = max(now, counted_at)
    left = min(size, tokens + (now - counted_at) * rate)
    if left + _EPSILON >= 1 or not rate:
        return left, None
    return left, now + (1 - left) / rate + _EPSILON


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if -1 < found < 1e15 else None


def _name_of(queue: str, entry: bytes) -> str:
    """The task name in an entry, which is a task id, with or without a lease id."""
    return text_of(entry).partition(":")[0].removeprefix(f"{queue}_")
