"""Calls the task queue's Lua scripts for tests, with short arguments and results in plain Python."""

from typing import Any

from lastacross import store
from lastacross.store import Arg, Store
from tests.support.clock import StoppedClock

LEASE_SECONDS = 8.0
Lease = tuple[str, str]


class Scripts:
    """Runs scripts on a store whose clock stands still.

    Args:
        opened: an empty store.
        clock: its clock.
    """

    def __init__(self, opened: Store, clock: StoppedClock) -> None:
        self.store = opened
        self.redis: Any = opened.redis
        self.clock = clock
        self._leases = 0
        self.groups = ["default"]
        for queue in ("default", "other"):
            self.configure(queue)

    def run(self, script: str, *args: Arg) -> Any:
        """Run a script with the task queue's keys; returns the answer with bytes as text."""
        return _text(self.store.run(script, (), args))

    @property
    def now(self) -> str:
        """The time as the broker passes it to scripts."""
        return f"{self.clock.now():.6f}"

    # --- steps -----------------------------------------------------------------------------

    def configure(
        self, queue: str, rate: float = 500.0, bucket_size: int = 500, most: int | str = ""
    ) -> None:
        """Set a queue's limits, as queue.yaml would."""
        fields: dict[str, Any] = {"rate": repr(rate), "bucket_size": bucket_size, "max_concurrent": most}
        self.redis.hset(store.settings_key(queue), mapping={**fields, "group": "default"})

    def add(self, *ids: str, countdown: float | None = None, **fields: Any) -> list[int]:
        """Run add_tasks with the same fields for all tasks."""
        eta = "" if countdown is None else f"{self.clock.now() + countdown:.6f}"
        args: list[Arg] = [self.now]
        for task_id in ids:
            strings = self._strings(task_id, fields)
            args += [task_id, eta, fields.get("target", ""), len(strings), *strings]
        return list(self.run("add_tasks", *args))

    def ask_lease(self, *queues: str, wanted: int = 50, free: int = 50, token: str = "w") -> list[Any]:
        """Run lease_tasks; returns its complete answer."""
        self._leases += 100
        names = queues or ("default",)
        limits = (self.now, LEASE_SECONDS, token, self._leases, wanted, free)
        return list(self.run("lease_tasks", *limits, len(self.groups), *self.groups, *names))

    def lease(self, *queues: str, wanted: int = 50, free: int = 50, token: str = "w") -> list[Lease]:
        """Run lease_tasks; returns the task ids with their lease ids."""
        tasks = self.ask_lease(*queues, wanted=wanted, free=free, token=token)[0]
        return [(task[0], task[1]) for task in tasks]

    def leased(self, task_id: str, **fields: Any) -> str:
        """Add one task and lease it; returns the lease id."""
        assert self.add(task_id, **fields) == [0]
        leases = dict(self.lease(task_id.partition("_")[0]))
        return leases[task_id]

    def ack(self, *leases: Lease) -> list[int]:
        """Run ack_tasks with the data that the worker has about each record."""
        args: list[Arg] = [self.now]
        for task_id, lease in leases:
            record = self.record(task_id)
            args += [task_id, lease, *(record.get(field, "") for field in ("batch", "tombstone", "request"))]
        return list(self.run("ack_tasks", *args))

    def dead(self, task_id: str, **fields: Any) -> None:
        """Add one task, lease it, and make it a dead letter."""
        lease = self.leased(task_id, **fields)
        assert self.run("dead_letter_task", self.now, task_id, lease, 500, "answered 500") == 1

    # --- batches ---------------------------------------------------------------------------

    def open_batch(self, batch: str, *, parent: str = "", complete: str = "", success: str = "") -> int:
        """Run create_batch for members on the queue "default"."""
        args: list[Arg] = [self.now, batch, "default", parent]
        for task_id in (complete, success):
            strings = self._strings(task_id, {}) if task_id else []
            args += [task_id, len(strings), *strings]
        return int(self.run("create_batch", *args))

    def fill(self, batch: str, count: int, first: int = 0, countdown: float | None = None) -> Any:
        """Run add_members for members without their own names."""
        names = [f"default_{batch}-{index}" for index in range(first, first + count)]
        return self.fill_with(batch, names, first=first, countdown=countdown, is_named=False)

    def fill_with(
        self,
        batch: str,
        ids: list[str],
        *,
        first: int = 0,
        countdown: float | None = None,
        is_named: bool = True,
        **fields: Any,
    ) -> Any:
        """Run add_members for members with these ids."""
        eta = "" if countdown is None else f"{self.clock.now() + countdown:.6f}"
        args: list[Arg] = [self.now, batch, first]
        for index, task_id in enumerate(ids, first):
            strings = self._strings(task_id, {**fields, "batch": f"{batch}:{index}"})
            args += [task_id, eta, fields.get("target", ""), 1 if is_named else 0, len(strings), *strings]
        return self.run("add_members", *args)

    def seal(self, batch: str) -> int:
        """Run seal_batch."""
        return int(self.run("seal_batch", self.now, batch))

    def sealed_batch(self, batch: str, count: int, **options: str) -> None:
        """Create a batch, fill it with members, and seal it."""
        assert self.open_batch(batch, **options) == 1
        if count:
            self.fill(batch, count)
        self.seal(batch)

    def counts(self, batch: str) -> dict[str, int]:
        """A batch's total, done, failed and cancelled counts that are not 0."""
        names = ("total", "done", "failed", "cancelled")
        values = self.redis.hmget(store.batch_key(batch), names)
        return {name: int(value) for name, value in zip(names, values, strict=True) if value and int(value)}

    def is_finished(self, batch: str) -> bool:
        """Whether the batch is complete."""
        return bool(self.redis.hexists(store.batch_key(batch), "finished_at"))

    # --- what is there ----------------------------------------------------------------------

    def record(self, task_id: str) -> dict[str, str]:
        """The fields of a task's record."""
        return {
            key: str(value) for key, value in _text(self.redis.hgetall(store.record_key(task_id))).items()
        }

    def ready(self, queue: str = "default") -> list[str]:
        """A queue's ready list, oldest first."""
        return list(_text(self.redis.lrange(store.ready_key(queue), 0, -1)))

    def entries(self, queue: str = "default") -> list[str]:
        """A queue's held leases, as ``<task id>:<lease id>``."""
        return list(_text(self.redis.zrange(store.leased_key(queue), 0, -1)))

    def expires_at(self, task_id: str, lease: str) -> float | None:
        """The time when a lease expires."""
        score = self.redis.zscore(store.leased_key(task_id.partition("_")[0]), f"{task_id}:{lease}")
        return None if score is None else float(score) - store.LEASE_SCORE_SHIFT_SECONDS

    def places(self, task_id: str) -> list[str]:
        """All places that hold the task: ready, scheduled, deferred, dead, leased."""
        queue = task_id.partition("_")[0]
        found = ["ready"] * self.ready(queue).count(task_id)
        for name, key in (
            ("scheduled", store.scheduled_key(queue)),
            ("deferred", store.deferred_key(queue)),
            ("dead", store.dead_key(queue)),
        ):
            if self.redis.zscore(key, task_id) is not None:
                found.append(name)
        return found + ["leased" for entry in self.entries(queue) if entry.partition(":")[0] == task_id]

    def state(self, task_id: str) -> str:
        """The state on which the task's place and record agree; "gone" without a record."""
        status = self.record(task_id).get("status")
        if status is None:
            assert self.places(task_id) == []
            return "gone"
        words = {"queued": "ready", "started": "leased", "failed": "dead"}
        [place] = self.places(task_id)
        assert words.get(status, status) == place
        return place

    def marker(self) -> str | None:
        """Take the marker for which workers wait."""
        answer = self.redis.lpop(store.wakeup_key("default"))
        return None if answer is None else answer.decode()

    def tombstone_seconds(self, task_id: str) -> int | None:
        """How many seconds the name will still be refused; None if it is free."""
        seconds = self.redis.ttl(store.tombstone_key(task_id))
        return None if seconds == -2 else int(seconds)

    def put_rq_job(self, job_id: str, queue: str = "default") -> None:
        """Write the same data as ``rq.Queue(queue).enqueue(…, job_id=…)``."""
        fields = {
            "status": "queued",
            "origin": queue,
            "data": b"x",
            "created_at": "2027-01-15T08:00:00.000000Z",
        }
        self.redis.hset(store.record_key(job_id), mapping=fields)
        self.redis.rpush(store.ready_key(queue), job_id)

    def _strings(self, task_id: str, fields: dict[str, Any]) -> list[Arg]:
        queue = task_id.partition("_")[0]
        return _flat({"origin": queue, "data": b"x", "eta": self.now, **fields}.items())


def _flat(pairs: Any) -> list[Arg]:
    return [value for pair in pairs for value in pair]


def _text(answer: Any) -> Any:
    if isinstance(answer, bytes):
        return answer.decode("latin-1")
    if isinstance(answer, list):
        return [_text(part) for part in answer]
    if isinstance(answer, dict):
        return {_text(key): _text(value) for key, value in answer.items()}
    return answer
