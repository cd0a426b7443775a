"""The maintenance that every worker does: it promotes, rescues and sweeps tasks, and renews leases.

Any number of workers may do it concurrently, because each step is one atomic script that does nothing if
another worker was first.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lastacross import config, logs
from lastacross.broker import (
    DEFAULT_GROUP,
    MAX_PER_QUEUE,
    OWN_NAME_PREFIX,
    BatchSteps,
    Broker,
    DeadGroups,
    Leased,
    queue_directory,
)
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import StoreUnavailableError
from lastacross.store import (
    LEASED_PREFIX,
    READY_PREFIX,
    RECORD_PREFIX,
    RQ_QUEUES,
    RQ_WORKER_PREFIX,
    RQ_WORKERS,
    RUN_NOW_PREFIX,
    SCHEDULED_PREFIX,
    translated_errors,
)

MAINTENANCE_SECONDS = 1.0
SWEEP_SECONDS = 5.0
RENEWALS_PER_LEASE = 4
# After the server's clock has been changed, nothing is rescued for this long, or for one lease period if that
# is longer. By then, every live worker has renewed its leases using the new time. A worker of the previous
# release notices after 5 s.
JUMP_PATIENCE_SECONDS = 8.0
# A new worker does not know whether the server's clock has just been changed. The others notice within a
# second.
START_PATIENCE_SECONDS = 3.0
# After the server's clock has been set back, leases are shortened to this many times their length. Live
# workers renew theirs long before that, even those with much longer leases.
MAX_LEASES_LEFT = 4

_log = logs.get("lastacross.worker")


class Maintenance:
    """The periodic steps of one worker.

    Args:
        broker: the steps.
        queues: all queues to maintain, including those of other services, because their workers may all have
            ended.
        clock: a clock whose monotonic time schedules the steps.
        lease_seconds: how long a lease lasts without renewal.
        patience_seconds: how long to rescue nothing at first.
        renew: a callable that renews all leases of this process.
    """

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[str],
        clock: Clock = SYSTEM,
        *,
        lease_seconds: float = 8.0,
        patience_seconds: float = 0.0,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._queues = list(queues)
        self._clock = clock
        self._maintain_at = 0.0
        self._lease_seconds = lease_seconds
        self._maintained_at: float | None = None
        self._trusts_at: float | None = clock.monotonic() + patience_seconds if patience_seconds else None
        self._renew = renew
        self._jumps = broker.store.clock_jumps
        self._sweep_at = 0.0
        self._sweeps = 0
        self._batch_cursor = (0, 0)
        self._letters_cursor = (0, 0)
        self._orphans = Orphans(broker)
        self.next_due: float | None = None

    def serve(self, queues: Sequence[str]) -> None:
        """Maintain these queues from now on."""
        if set(queues) != set(self._queues):
            self._queues = list(queues)

    def run_due(self) -> bool:
        """Run the steps that are due, and set ``next_due`` to the eta of the next scheduled task.

        Returns:
            Whether a step ran, in which case a task may be ready now.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        now = self._clock.monotonic()
        is_maintenance_due = now >= self._maintain_at
        is_due = is_maintenance_due or (self.next_due is not None and self._broker.now() >= self.next_due)
        if is_maintenance_due:
            self._maintain_at = now + MAINTENANCE_SECONDS
            self._rotate()
            self._maintain()
        elif is_due:
            self.promote()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self._sweep()
        return is_due

    def _maintain(self) -> None:
        self._take_jump()
        skew_seconds = self._lease_seconds / 2
        found = self._broker.maintain(self._queues, may_rescue=self._may_rescue, skew_seconds=skew_seconds)
        self._take_jump()
        self.next_due = found.next_due
        if found.stamp[0] is None:
            # Redis was flushed.
            queue_directory.upload_if_missing(
                self._broker.store, lambda: queue_directory.read_again(config.current())
            )
        queue_directory.of(self._broker.store).note(found.stamp)
        rescued = found.rescued
        while rescued:
            for task_id, outcome in rescued.items():
                _log.warning("task.rescue", task=task_id, outcome=outcome)
            # Repeat until none is left, because a machine may have held thousands when it died.
            rescued = self._broker.rescue_expired(
                self._queues, may_rescue=lambda: not self._has_jumped, skew_seconds=skew_seconds
            )
        if found.moved:
            self.promote()

    def promote(self) -> None:
        """Make due tasks ready, up to 100 of each queue at a time."""
        moved = 1
        while moved:
            moved, self.next_due = self._broker.promote_due(self._queues)

    def _may_rescue(self) -> bool:
        """Whether an expired lease is evidence against its worker.

        While Redis was not answering, no worker could renew its leases. Afterwards, a live worker renews them
        within half a lease period. The time just before the rescue is what counts, because any other call may
        have been the one that waited. A rescue call that had to wait uses the time at which it was sent.
        """
        if self._has_jumped:
            return False
        now = self._clock.monotonic()
        before, self._maintained_at = self._maintained_at, now
        longest = self._lease_seconds / RENEWALS_PER_LEASE + MAINTENANCE_SECONDS
        if self._trusts_at is None and before is not None and now - before > longest:
            self._trusts_at = now + self._lease_seconds / 2
        if self._trusts_at is not None and now < self._trusts_at:
            return False
        # If this worker itself is slow and stays slow, it rescues only every other time.
        self._trusts_at = None
        return True

    @property
    def _has_jumped(self) -> bool:
        return self._broker.store.clock_jumps != self._jumps

    def _take_jump(self) -> None:
        """Renew this process's leases if the server's clock was changed, and give others time to do so.

        According to the new time, all leases seem to have expired, or to last for hours.
        """
        if not self._has_jumped:
            return
        jumps, seconds = self._broker.store.clock_jumps, self._broker.store.clock_jump_seconds
        patience = max(JUMP_PATIENCE_SECONDS, self._lease_seconds)
        self._trusts_at = self._clock.monotonic() + patience
        _log.warning("clock.jump", seconds=round(seconds, 3), rescues_in_seconds=patience)
        self._renew()
        # Several jumps may have come together, so shorten leases whatever the direction of the last one.
        ends_at = self._broker.now() + MAX_LEASES_LEFT * self._lease_seconds
        self._broker.shorten_leases(self._queues, ends_at)
        self._jumps = jumps

    def _rotate(self) -> None:
        # Each step moves at most 100 tasks of a queue. Rotate, so that no queue is always served last.
        self._queues = self._queues[1:] + self._queues[:1]

    def _sweep(self) -> None:
        # The names are a contract, because they appear in the log.
        for name, step in (
            ("send_on", self._reroute),
            ("restore", self._restore),
            ("sweep_batches", self._sweep_batches),
            ("count_dead_letters", self._count_dead_letters),
            ("tell_damages", self._log_damages),
            ("mend_settings", self._repair_settings),
        ):
            try:
                step()
            except StoreUnavailableError:
                raise
            except Exception:
                # A failing step must not keep the others from running.
                _log.exception("upkeep.failed", step=name)
        self._sweeps += 1

    def _reroute(self) -> None:
        while self._broker.reroute(self._queues, self._sweeps * MAX_PER_QUEUE) >= MAX_PER_QUEUE:
            pass

    def _restore(self) -> None:
        restored = self._broker.sweep_foreign(self._queues, self._sweeps * MAX_PER_QUEUE)
        for task_id in restored + self._orphans.restore(self._queues):
            _log.warning(
                "task.restore", task=task_id, reason="it was in no list: another program had taken it"
            )

    def _sweep_batches(self) -> None:
        self._batch_cursor = BatchSteps(self._broker.store).sweep(*self._batch_cursor)

    def _count_dead_letters(self) -> None:
        self._letters_cursor = DeadGroups(self._broker.store).sweep(*self._letters_cursor)

    def _log_damages(self) -> None:
        for text in self._broker.store.take_damages():
            _log.error("store.damaged", what=text)
            self._orphans.note_damage()

    def _repair_settings(self) -> None:
        found = queue_directory.of(self._broker.store)
        if found.damaged:
            queue_directory.repair(
                self._broker.store, found.damaged, queue_directory.read_again(config.current())
            )
            found.refresh(is_urgent=True)


class Renewer:
    """A thread that renews a worker process's leases, no matter what the other threads are doing.

    Args:
        broker: the steps.
        lease_seconds: how long a lease lasts; it is renewed four times in this period.
        held: a callable that returns all leased tasks, and the entries of those that are running.
        on_lost: a callable that receives each task whose lease was lost.
    """

    def __init__(
        self,
        broker: Broker,
        lease_seconds: float,
        held: Callable[[], tuple[list[Leased], set[str]]],
        on_lost: Callable[[Leased], None],
    ) -> None:
        self._broker = broker
        self._lease_seconds = lease_seconds
        self._held = held
        self._on_lost = on_lost
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewer", daemon=True)

    def start(self) -> None:
        """Start renewing."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop renewing."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.wait(self._lease_seconds / RENEWALS_PER_LEASE):
            try:
                self.renew()
            except StoreUnavailableError as error:
                _log.warning("lease.renew", error=str(error))
            except Exception:
                # Without this thread, all of the process's leases would expire.
                _log.exception("lease.renew")

    def renew(self) -> None:
        """Renew all leases once."""
        tasks, started = self._held()
        for first in range(0, len(tasks), 500):
            part = tasks[first : first + 500]
            kept = self._broker.renew(part, started, self._lease_seconds)
            for task, is_held in zip(part, kept, strict=True):
                if not is_held:
                    self._on_lost(task)


CHUNK = 1000


class Orphans:
    """Finds tasks lost when a stock ``rq worker``, started on our queues by mistake, was killed.

    A stock worker removes a task from its list before noting it elsewhere, so if it is killed in between, the
    record is in no list. A program that overwrites a list or a registry has the same effect. Finding such
    records requires reading all records, so it is done only while a foreign worker is registered, or after
    damage. A record that is in no list in two consecutive checks is put back.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._redis = broker.store.redis
        self._suspected: set[str] = set()
        self._has_warned = False
        self._checks_after_damage = 0

    def note_damage(self) -> None:
        """Schedule a check because a list or a registry may have been lost."""
        self._checks_after_damage = 2

    def restore(self, queues: Sequence[str]) -> list[str]:
        """Check once if a foreign worker is registered, or was at the last check, or if damage was found.

        Args:
            queues: the queues to check.

        Returns:
            The ids of the restored tasks.
        """
        with translated_errors():
            foreign = self._foreign_workers()
            if not foreign and not self._suspected and not self._checks_after_damage:
                return []
            self._checks_after_damage = max(0, self._checks_after_damage - 1)
            if foreign and not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "worker.foreign", workers=foreign, remedy="run `lastacross worker`, not `rq worker`"
                )
            lost = self._in_no_list(queues)
        twice = lost & self._suspected
        self._suspected = lost - twice
        return self._broker.restore_orphans(sorted(twice))

    def _foreign_workers(self) -> list[str]:
        keys = self._redis.smembers(RQ_WORKERS)
        names = [_text(key).removeprefix(RQ_WORKER_PREFIX) for key in keys]
        return sorted(name for name in names if not name.startswith(OWN_NAME_PREFIX))

    def _in_no_list(self, queues: Sequence[str]) -> set[str]:
        records = set(self._live_records(queues))
        for queue in queues:
            for key in self._ready_lists_of(queue):
                records.difference_update(self._listed(key))
            entries = self._redis.zrange(LEASED_PREFIX + queue, 0, -1)
            records.difference_update(_text(entry).partition(":")[0] for entry in entries)
            scheduled = self._redis.zrange(SCHEDULED_PREFIX + queue, 0, -1)
            records.difference_update(_text(entry) for entry in scheduled)
        for group in self._groups():
            records.difference_update(self._listed(RUN_NOW_PREFIX + group))
        return records

    def _groups(self) -> list[str]:
        return [DEFAULT_GROUP, *queue_directory.of(self._broker.store).services()]

    def _ready_lists_of(self, queue: str) -> list[str]:
        own = READY_PREFIX + queue
        lists = {_text(key) for key in self._redis.smembers(RQ_QUEUES)}
        return [own, *(key for key in lists if key.startswith(f"{own}."))]

    def _live_records(self, queues: Sequence[str]) -> Iterator[str]:
        """The ids of our records that should be ready, leased or scheduled."""
        for queue in queues:
            keys: list[bytes] = []
            for key in self._redis.scan_iter(match=f"{RECORD_PREFIX}{queue}_*", count=CHUNK):
                keys.append(key)
                if len(keys) == CHUNK:
                    yield from self._live(keys)
                    keys = []
            yield from self._live(keys)

    def _live(self, keys: list[bytes]) -> Iterator[str]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hmget(key, "status", "eta", "description")
            for key, found in zip(keys, pipeline.execute(raise_on_error=False), strict=True):
                if isinstance(found, list) and _is_live(*found):
                    yield _text(key).removeprefix(RECORD_PREFIX)

    def _listed(self, key: str) -> Iterator[str]:
        first = 0
        while ids := self._redis.lrange(key, first, first + CHUNK - 1):
            yield from (_text(identifier) for identifier in ids)
            first += CHUNK


def _is_live(status: bytes | None, eta: bytes | None, description: bytes | None) -> bool:
    is_push = not (description or b"").startswith(b"PULL ")
    return eta is not None and (status in (b"queued", b"started") or (status == b"scheduled" and is_push))


def _text(name: Any) -> str:
    # A name that is not UTF-8 is not one of ours, so no script would find it.
    return str(name.decode("utf-8", "replace"))
