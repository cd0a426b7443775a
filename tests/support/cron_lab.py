"""Cron with a clock that a test moves, with schedulers that tick and a worker that runs due jobs."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lastacross.broker.record import Leased
from lastacross.broker.steps import Broker
from lastacross.clock import utc
from lastacross.config import CRON_QUEUE, CronEntry
from lastacross.cronruns import model
from lastacross.cronruns.recording import note
from lastacross.cronruns.ticking import Ticker
from lastacross.datastore import marking, relay
from lastacross.datastore.tables import CronJob, CronRun
from lastacross.store import Store, tombstone_key
from lastacross.worker.delivery import Outcome
from lastacross.worker.outcomes import OutcomeRecorder
from tests.support import recording
from tests.support.clock import StoppedClock


def at(text: str) -> float:
    """Convert a time in UTC to seconds since the epoch."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def job(schedule: str, name: str = "job", **values: Any) -> CronEntry:
    """An entry of cron.yaml."""
    return CronEntry(name=name, url=values.pop("url", f"/{name}"), schedule=schedule, **values)


class File:
    """A cron.yaml that can change."""

    def __init__(self, *entries: CronEntry) -> None:
        self.entries: Sequence[CronEntry] = entries
        self.version = 1

    def change(self, *entries: CronEntry) -> None:
        """Replace the entries by these."""
        self.entries = entries
        self.version += 1

    def scheduler(self) -> Ticker:
        """A new scheduler that uses this file."""
        seen = [0]

        def read() -> Sequence[CronEntry] | None:
            if seen[0] == self.version:
                return None
            seen[0] = self.version
            return self.entries

        return Ticker(read)


class CronLab:
    """A clock, schedulers, and one worker.

    Args:
        opened: the Redis store.
        clock: the clock that tests move.
    """

    def __init__(self, opened: Store, clock: StoppedClock) -> None:
        self.store = opened
        self.clock = clock
        self.broker = Broker(opened)
        self.ran: Counter[str] = Counter()
        self._leases = 0

    def go_to(self, instant: float) -> None:
        """Move the clock to this time."""
        self.clock.advance(instant - self.clock.now())

    def forget_names(self, seconds: float) -> None:
        """Remove the tombstones that Redis would have removed after this many seconds."""
        for key in self.store.redis.keys(tombstone_key("*")):
            if self.store.redis.ttl(key) <= seconds:
                self.store.redis.delete(key)

    def tick(self, scheduler: Ticker) -> None:
        """Let a scheduler tick, and relay the outbox as it does."""
        now = self.clock.now()
        scheduler.act(now)
        # Mark sent tasks now, because days pass here before the process would do that by itself.
        marking.flush()
        relay.relay(now)
        relay.forget_sent(now)

    def tick_at(self, scheduler: Ticker, *instants: str) -> None:
        """Tick at each of these times."""
        for instant in instants:
            self.go_to(at(instant))
            self.tick(scheduler)

    def lease(self) -> list[Leased]:
        """Lease the waiting runs."""
        self._leases += 1
        number = self._leases * 1000
        grant = self.broker.lease(
            [CRON_QUEUE], token="worker", number=number, wanted=50, free=50, lease_seconds=86_400
        )
        for task in grant.tasks:
            self.ran[task.name] += 1
            recording.note("run", id=task.id)
        return grant.tasks

    def settle(self, task: Leased, status: int = 200, reason: str = "") -> None:
        """End an attempt with this outcome."""
        OutcomeRecorder(self.broker, lambda queue: None, note).record([Outcome(task, status, reason)])

    def work(self) -> list[str]:
        """Run all waiting tasks immediately; returns their names."""
        found = self.lease()
        for task in found:
            self.settle(task)
        return [task.name for task in found]

    def next_at(self, name: str = "job") -> str | None:
        """The time when a job is due next, as text."""
        [row] = [row for row in model.jobs() if row.name == name]
        return None if row.next_at is None else f"{utc(row.next_at):%Y-%m-%d %H:%M:%S}"

    def names(self) -> list[str]:
        """The names of the deployed jobs."""
        return [row.name for row in model.jobs()]

    def row(self, name: str = "job") -> CronJob:
        """A job's row."""
        [row] = [row for row in model.jobs() if row.name == name]
        return row

    def history(self, name: str = "job") -> list[tuple[str, str]]:
        """A job's runs with the times for which they were scheduled, oldest first."""
        return [(f"{utc(run.due_at):%H:%M}", run.state) for run in reversed(self.runs(name))]

    def runs(self, name: str = "job") -> list[CronRun]:
        """A job's runs, newest first."""
        return model.last_runs(name, 10_000)
