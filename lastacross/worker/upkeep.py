"""What every worker does beside running tasks: promote, rescue, sweep; and keep its own leases.

Any number of workers may do it at once: each step is one atomic script, and finds nothing where another
was first.
"""

import threading
from collections.abc import Callable, Sequence

from lastacross import config, logs
from lastacross.broker import MAX_PER_QUEUE, BatchSteps, Broker, Leased, queue_directory
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import StoreUnavailableError
from lastacross.worker.orphans import Orphans

LOOK_SECONDS = 1.0
SWEEP_SECONDS = 5.0
RENEWALS_PER_LEASE = 4

_log = logs.get("lastacross.worker")


class Upkeep:
    """The periodic steps of one worker.

    Args:
        broker: the steps.
        queues: to look after, whoever serves them: the workers of another service may all be gone.
        clock: monotonic time between the steps.
        lease_seconds: how long a lease lasts when it is not renewed.
    """

    def __init__(
        self, broker: Broker, queues: Sequence[str], clock: Clock = SYSTEM, *, lease_seconds: float = 8.0
    ) -> None:
        self._broker = broker
        self._queues = list(queues)
        self._clock = clock
        self._look_at = 0.0
        self._lease_seconds = lease_seconds
        self._looked_at: float | None = None
        self._trusts_at: float | None = None
        self._sweep_at = 0.0
        self._sweeps = 0
        self._batch_cursor = (0, 0)
        self._orphans = Orphans(broker, self._queues)
        self.next_due: float | None = None

    def look_after(self, queues: Sequence[str]) -> None:
        """Look after these queues from now on."""
        if set(queues) != set(self._queues):
            # In place: the orphans' list is this one.
            self._queues[:] = queues

    def run_due(self) -> bool:
        """Do what is due; sets ``next_due`` to the eta of the next scheduled task.

        Returns:
            Whether it did: something may be ready now.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        now = self._clock.monotonic()
        is_look_due = now >= self._look_at
        is_due = is_look_due or (self.next_due is not None and self._broker.now() >= self.next_due)
        if is_look_due:
            self._look_at = now + LOOK_SECONDS
            self._rotate()
            self._look()
        elif is_due:
            self.promote()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self._sweep()
        return is_due

    def _look(self) -> None:
        look = self._broker.maintain(self._queues, rescues=self._may_rescue())
        self.next_due = look.next_due
        if look.stamp[0] is None:
            # Redis was emptied.
            queue_directory.upload_if_missing(
                self._broker.store, lambda: queue_directory.read_again(config.current())
            )
        queue_directory.of(self._broker.store).note(look.stamp)
        rescued = look.rescued
        while rescued:
            for task_id, outcome in rescued.items():
                _log.warning("task.rescue", task=task_id, outcome=outcome)
            # Until there are no more: a machine may have held thousands when it went.
            rescued = self._broker.rescue_expired(self._queues)
        if look.moved:
            self.promote()

    def promote(self) -> None:
        """Make due tasks ready, 100 of a queue at a time."""
        moved = 1
        while moved:
            moved, self.next_due = self._broker.promote_due(self._queues)

    def _may_rescue(self) -> bool:
        """Whether a lease that ran out tells of its worker.

        While Redis did not answer nobody could renew: whoever lives does so within the half of a lease after
        that. Told by the time just before the rescues: any other call may have been the one that had to
        wait, and one that waited itself goes by the time at which it was made.
        """
        now = self._clock.monotonic()
        before, self._looked_at = self._looked_at, now
        longest = self._lease_seconds / RENEWALS_PER_LEASE + LOOK_SECONDS
        if self._trusts_at is None and before is not None and now - before > longest:
            self._trusts_at = now + self._lease_seconds / 2
        if self._trusts_at is not None and now < self._trusts_at:
            return False
        # If it was this worker that was slow, and is so all the time, it rescues at every second look.
        self._trusts_at = None
        return True

    def _rotate(self) -> None:
        # Each step moves at most 100 tasks of a queue: nobody is always the last to be served.
        self._queues[:] = self._queues[1:] + self._queues[:1]

    def _sweep(self) -> None:
        for step in (
            self._reroute,
            self._restore,
            self._sweep_batches,
            self._tell_damages,
            self._mend_settings,
        ):
            try:
                step()
            except StoreUnavailableError:
                raise
            except Exception:
                # A step that fails must not keep the others from being done.
                _log.exception("upkeep.failed", step=step.__name__.strip("_"))
        self._sweeps += 1

    def _reroute(self) -> None:
        while self._broker.reroute(self._queues, self._sweeps * MAX_PER_QUEUE) >= MAX_PER_QUEUE:
            pass

    def _restore(self) -> None:
        restored = self._broker.sweep_foreign(self._queues, self._sweeps * MAX_PER_QUEUE)
        for task_id in restored + self._orphans.restore():
            _log.warning(
                "task.restore", task=task_id, reason="it was in no list: another program had taken it"
            )

    def _sweep_batches(self) -> None:
        self._batch_cursor = BatchSteps(self._broker.store).sweep(*self._batch_cursor)

    def _tell_damages(self) -> None:
        for text in self._broker.store.take_damages():
            _log.error("store.damaged", what=text)
            self._orphans.note_damage()

    def _mend_settings(self) -> None:
        found = queue_directory.of(self._broker.store)
        if found.damaged:
            queue_directory.repair(
                self._broker.store, found.damaged, queue_directory.read_again(config.current())
            )
            found.refresh(is_urgent=True)


class Renewer:
    """A thread that keeps the leases of one worker process, whatever its other threads do.

    Args:
        broker: the steps.
        lease_seconds: how long a lease lasts; it is renewed four times as often.
        held: gives all leased tasks and, of these, the entries of those that run.
        on_lost: called with a task whose lease is lost.
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
        """Begin to renew."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Renew no longer."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.wait(self._lease_seconds / RENEWALS_PER_LEASE):
            try:
                self.renew()
            except StoreUnavailableError as error:
                _log.warning("lease.renew", error=str(error))
            except Exception:
                # Without this thread every lease of the process would run out.
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
