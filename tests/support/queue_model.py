"""A model in plain Python of what Redis should hold: tasks with one state each, and their queues' limits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lastacross import store
from tests.support.windows import burst

WAITS = ("ready", "scheduled")
LIVES = (*WAITS, "leased")
STATUS = {"ready": "queued", "leased": "started", "dead": "failed", "gone": None}

# Redis keeps microseconds, and a bucket is recalculated at each grant.
EPSILON = 1e-6


@dataclass
class Expected:
    """The expected state of one task."""

    state: str
    is_member: bool = False
    outcome: str | None = None
    eta: float = 0.0
    lease: str = ""
    expires_at: float = 0.0
    has_started: bool = False
    crashes: int = 0
    # A completion task that a purge has fired: no purge deletes it.
    is_kept: bool = False

    @property
    def status(self) -> str | None:
        """The status in the task's record, or None without a record."""
        return STATUS.get(self.state, self.state)


@dataclass
class Queue:
    """A queue's limits, and the grants that they have allowed.

    Args:
        rate: the tokens per second; 0 stops the queue.
        bucket_size: the maximum number of saved tokens.
        most: how many tasks may be leased at the same time, or None for no limit.
    """

    rate: float = 1e6
    bucket_size: int = 10**6
    most: int | None = None
    is_paused: bool = False
    is_listed: bool = True
    tokens: float | None = None
    counted_at: float = 0.0
    granted_at: list[float] = field(default_factory=list)

    def limit(self, rate: float, bucket_size: int, most: int | None) -> None:
        """Apply the limits of a new queue.yaml. Saved tokens stay, up to the bucket's new size."""
        if (rate, bucket_size) != (self.rate, self.bucket_size):
            self.granted_at = []
        self.rate, self.bucket_size, self.most = rate, bucket_size, most
        self.is_listed = True

    @property
    def stands_still(self) -> bool:
        """Whether the queue hands out only tasks that somebody runs by hand."""
        return self.is_paused or not self.is_listed or self.rate == 0

    def tokens_at(self, now: float) -> float:
        """The number of tokens in the bucket."""
        if self.tokens is None:
            return self.bucket_size
        return min(self.bucket_size, self.tokens + (now - self.counted_at) * self.rate)

    def allows(self, now: float, leased: int, wanted: int, free: int) -> int:
        """How many tasks a worker gets that asks for ``wanted`` tasks and has ``free`` idle threads."""
        if self.stands_still:
            return 0
        granted = min(wanted, int(self.tokens_at(now) + EPSILON))
        # Tasks that would be returned within 0.05 s have used their tokens.
        is_bound = granted < wanted or self.rate * 0.05 < wanted - free or self.most is not None
        if self.most is not None:
            granted = min(granted, self.most - leased)
        return max(0, min(granted, free) if is_bound else granted)

    def take(self, now: float, count: int) -> None:
        """Record that this many tasks were granted."""
        if count:
            self.tokens = self.tokens_at(now) - count
            self.counted_at = now
            self.granted_at += [now] * count
            # The same rule without the bucket: no window of t seconds has more than rate * t + bucket_size.
            assert burst(self.granted_at, self.rate) <= self.bucket_size + 1e-3

    def due_at(self, now: float) -> float | None:
        """The time when a token will be available, or None if there is one now."""
        tokens = self.tokens_at(now)
        return None if tokens + EPSILON >= 1 else now + (1 - tokens) / self.rate


@dataclass
class Seen:
    """A snapshot of the contents of Redis, read in one pipeline."""

    ready: dict[str, list[str]]
    run_now: list[str]
    scheduled: dict[str, list[str]]
    deferred: dict[str, list[str]]
    dead: dict[str, list[str]]
    leased: dict[str, list[str]]
    records: set[str]
    status: dict[str, str | None]
    batch: dict[str, str]
    is_marked: bool

    def places(self, task: str) -> list[str]:
        """All places that hold the task, each as often as it occurs there."""
        queue = task.partition("_")[0]
        found = ["ready"] * (self.ready[queue].count(task) + self.run_now.count(task))
        for place in ("scheduled", "deferred", "dead"):
            found += [place] * getattr(self, place)[queue].count(task)
        return found + ["leased" for entry in self.leased[queue] if entry.partition(":")[0] == task]


def see(redis: Any, queues: Sequence[str], tasks: Iterable[str], batch: str) -> Seen:
    """Read a snapshot in one pipeline, because this happens after each step."""
    names = list(tasks)
    with redis.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.lrange(store.ready_key(queue), 0, -1)
            for key in (store.scheduled_key, store.deferred_key, store.dead_key, store.leased_key):
                pipeline.zrange(key(queue), 0, -1)
        pipeline.lrange(store.RUN_NOW_PREFIX + "default", 0, -1)
        pipeline.keys(store.record_key("*"))
        pipeline.hgetall(store.batch_key(batch))
        pipeline.exists(store.wakeup_key("default"))
        for name in names:
            pipeline.hget(store.record_key(name), "status")
        answers = pipeline.execute()
    lists = [[entry.decode() for entry in answer] for answer in answers[: 5 * len(queues)]]
    ready, scheduled, deferred, dead, leased = (
        dict(zip(queues, lists[place::5], strict=True)) for place in range(5)
    )
    run_now, keys, counts, markers, *status = answers[5 * len(queues) :]
    return Seen(
        ready=ready,
        run_now=[entry.decode() for entry in run_now],
        scheduled=scheduled,
        deferred=deferred,
        dead=dead,
        leased=leased,
        records={key.decode().removeprefix(store.RECORD_PREFIX) for key in keys},
        status={
            name: None if value is None else value.decode() for name, value in zip(names, status, strict=True)
        },
        batch={name.decode(): value.decode("latin-1") for name, value in counts.items()},
        is_marked=bool(markers),
    )
