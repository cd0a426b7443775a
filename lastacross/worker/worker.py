"""The worker process: a subclass of RQ's worker with its own fetch loop.

It keeps RQ's registration, heartbeats, signals, commands and suspension, so that RQ's tools see it. The loop
that fetches, runs and finishes tasks is ours, and RQ's registry cleaning never runs. The main thread leases
tasks and records outcomes in batches; ``Runners`` run the tasks, and a renewer keeps the leases alive.
"""

import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lastacross import __version__, config, logs, metrics, signing
from lastacross.broker import (
    OWN_NAME_PREFIX,
    STATUS_FIELD,
    Broker,
    Leased,
    LeaseResult,
    WorkerStatus,
    new_token,
    queue_directory,
)
from lastacross.clock import SYSTEM
from lastacross.errors import StoreUnavailableError
from lastacross.runtime import resident_bytes
from lastacross.stop_signals import handle_stop_signals
from lastacross.store import RQ_SUSPENDED, Store, translated_errors
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import DEFAULT_DEADLINE_SECONDS, WSGI, Delivery, DirectCall, Outcome
from lastacross.worker.isolation import IsolatedProcesses
from lastacross.worker.leasing import (
    MAX_PREFETCH,
    SLOW_TASK_SECONDS,
    Interrupt,
    Leasing,
    Prefetch,
    Serving,
    WakeUp,
)
from lastacross.worker.maintenance import START_PATIENCE_SECONDS, Maintenance, Renewer
from lastacross.worker.outcomes import EndListener, OutcomeRecorder, no_listener
from lastacross.worker.recycling import RETIRE_SIGNAL, UNLIMITED, Recycling, RecyclingLimits
from lastacross.worker.remote import RemoteDelivery
from lastacross.worker.rq_compat import HEARTBEAT_TTL_SECONDS, RqWorker
from lastacross.worker.runners import Attempts, Runners
from lastacross.worker.started import Pulse, StartedTable

SAFETY_CALL_SECONDS = 1.0
# The maximum number of outcomes recorded in one call.
OUTCOMES_PER_CALL = 200
HEARTBEAT_SECONDS = 5.0
SHOW_SECONDS = 1.0
HAND_OVER_SECONDS = 0.001
# This is less than the supervisor's grace, so that tasks still running at its end are released properly. A
# task killed with its process would become a suspect in that process's death.
DRAIN_SECONDS = 25.0
DEV_DRAIN_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
MAX_OUTAGE_PAUSE_SECONDS = 2.0
SCHEDULED_MARKER = b"scheduled"

_log = logs.get("lastacross.worker")


class Worker(RqWorker):
    """Leases and delivers tasks.

    Args:
        store: this process's Redis.
        serving: the groups and queues that the worker serves.
        application: the WSGI callable for tasks.
        threads: the number of concurrent deliveries.
        lease_seconds: how long a lease lasts without renewal.
        direct_calls: as for ``Delivery``.
        deadline_seconds: how long a task without a deadline of its own may run.
        isolated: the processes in which suspects run.
        table_path: the file that records started tasks, or None without a supervisor.
        remote: the deliverer to services on other machines, or None if there are none.
        on_end: a callable that is called after each attempt.
        recycling: the limits at which this process is replaced.
        on_stop: a callable that runs in its own thread when the drain begins, while running tasks are still
            leased.
    """

    def __init__(
        self,
        store: Store,
        serving: Serving,
        application: WSGI,
        *,
        threads: int,
        lease_seconds: float,
        direct_calls: Mapping[str, DirectCall],
        isolated: IsolatedProcesses,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        table_path: Path | None = None,
        remote: RemoteDelivery | None = None,
        on_end: EndListener = no_listener,
        recycling: RecyclingLimits = UNLIMITED,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self._token = new_token()
        self._interrupt = Interrupt()
        self._store = store
        self._serving = serving
        self._on_stop = on_stop
        name = f"{OWN_NAME_PREFIX}{socket.gethostname()}-{os.getpid()}-{self._token[:8]}"
        with translated_errors():
            super().__init__(
                serving.served_queues, name=name, connection=store.redis, worker_ttl=HEARTBEAT_TTL_SECONDS
            )
        self._broker = Broker(store)
        self._lease_seconds = lease_seconds
        self._deadlines = Deadlines(self._give_up_stuck)
        delivery = Delivery(
            application, self._deadlines, direct_calls=direct_calls, deadline_seconds=deadline_seconds
        )
        self._isolated = isolated
        self._remote = remote
        table = StartedTable(table_path, self._token, threads + isolated.most) if table_path else None
        self._table, self._pulse = table, Pulse(table) if table else None
        self._runners = self._make_runners(threads, delivery, table, deadline_seconds)
        self._prefetch = Prefetch(self._runners)
        self._metrics = metrics.Recorder(store)
        self._recorder = self._make_recorder(on_end)
        self._renewer = Renewer(self._broker, lease_seconds, self._held_tasks, self._forget)
        self._maintenance = self._make_maintenance()
        self._held: dict[str, Leased] = {}
        self._unrecorded: list[Outcome] = []
        self._unreleased: list[Leased] = []
        self._leasing = Leasing(store, serving, self._token, lease_seconds=lease_seconds, most=MAX_PREFETCH)
        self._may_have_work = True
        self._is_stuck = self._is_told_to_stop = self._is_recycled = False
        self._recycling = Recycling(recycling)
        self._throttled_until: float | None = None
        self._heartbeat_at = 0.0
        self._is_suspended = False
        # The state that `rq info` shows, and the time from which it may change again.
        self._shown, self._show_at = "idle", 0.0

    def _make_recorder(self, on_end: EndListener) -> OutcomeRecorder:
        retry_of = queue_directory.of(self._store).retry_of
        return OutcomeRecorder(self._broker, retry_of, on_end, self._metrics.record, worker=self.name)

    def _make_runners(
        self, threads: int, delivery: Delivery, table: StartedTable | None, deadline_seconds: float
    ) -> Runners:
        attempts = Attempts(
            delivery,
            self._isolated,
            self._remote,
            broker=self._broker,
            lease_seconds=self._lease_seconds,
            is_held=lambda task: task.entry in self._held,
        )
        return Runners(
            threads,
            attempts.make,
            deliver_suspect=attempts.make_alone,
            suspect_lanes=self._isolated.most,
            table=table,
            on_outcome=self._interrupt.set,
            deadline_seconds=deadline_seconds,
        )

    def _make_maintenance(self) -> Maintenance:
        return Maintenance(
            self._broker,
            self._serving.queues,
            lease_seconds=self._lease_seconds,
            patience_seconds=START_PATIENCE_SECONDS,
            renew=self._renewer.renew,
        )

    # --- the parts of RQ's worker that we keep ------------------------------------------

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle a stop signal or RQ's shutdown command: finish running tasks and lease no more."""
        if not self._is_told_to_stop:
            _log.info("worker.drain", running=len(self._runners.running))
        self._is_told_to_stop = True
        # Show it immediately.
        self._heartbeat_at = 0.0
        self._interrupt.set()

    def _retire(self, signum: int, frame: FrameType | None) -> None:
        """Finish running tasks without a time limit, because another process has taken this one's place."""
        _log.info("worker.recycle", reason="replaced", tasks=self._recorder.done + self._recorder.failed)
        self._is_recycled = True
        self._interrupt.set()

    def drain(self) -> None:
        """Do the same as for SIGTERM; called by the thread that noticed the supervisor's death."""
        self.request_stop(signal.SIGTERM, None)

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Run until stopped; returns whether any task was completed."""
        self.register_birth()
        self.subscribe()
        handle_stop_signals(self.request_stop)
        signal.signal(RETIRE_SIGNAL, self._retire)
        self.set_state("idle")
        self._deadlines.start()
        self._runners.start()
        self._renewer.start()
        self._metrics.start()
        if self._pulse is not None:
            self._pulse.start()
        _log.info(
            "worker.start",
            name=self.name,
            groups=self._serving.groups,
            queues=self._serving.served_queues,
            threads=self._runners.threads,
        )
        try:
            self._loop()
            self._finish()
        finally:
            self._stop_threads()
            self.teardown()
            _log.info("worker.stop", name=self.name, done=self._recorder.done, failed=self._recorder.failed)
        return self._recorder.done > 0

    @property
    def exit_code(self) -> int:
        """The process's exit code; ``EX_TEMPFAIL`` makes the supervisor restart it immediately."""
        return os.EX_TEMPFAIL if self._is_stuck or self._is_recycled else 0

    # --- the loop ------------------------------------------------------------------------

    def _loop(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not (self._is_told_to_stop or self._is_stuck or self._is_recycled):
            self._note_turn()
            try:
                self._turn()
                pause = FIRST_PAUSE_SECONDS
                continue
            except StoreUnavailableError as error:
                _log.warning("worker.redis", error=str(error), pause_seconds=pause)
            except Exception:  # all later tasks depend on this thread
                _log.exception("worker.turn_failed", held=len(self._held), pause_seconds=pause)
            self._hold(self._leasing.close())
            self._may_have_work = True
            self._interrupt.wait(pause)
            pause = min(pause * 2, MAX_OUTAGE_PAUSE_SECONDS)

    def _note_turn(self) -> None:
        """Record for the supervisor's health check that the main loop is running."""
        if self._table is not None:
            self._table.note_turn(SYSTEM.monotonic())

    def _turn(self) -> None:
        self._record_outcomes()
        self._maintain()
        self._beat()
        self._lease()
        self._release_surplus()
        if (more := self._has_more_to_do()) and not self._leasing.must_poll():
            return
        seconds = 0.0 if more else self._wait_seconds()
        listens = not more and self._runners.free > 0
        woken = self._leasing.wait(seconds, self._interrupt.fd, listen=listens)
        if woken is not None:
            self._take_woken(woken)
            # Let the thread with the new task have the interpreter, which this thread would otherwise hold.
            self._interrupt.wait(0 if self._may_have_work else HAND_OVER_SECONDS)
        self._interrupt.clear()

    def _maintain(self) -> None:
        if self._maintenance.run_due():
            # Look for work once a second, regardless of markers.
            self._may_have_work = True
            self._take_changes()
            self._runners.run_suspects()
            self._isolated.end_idle()
            self._require_threads()
            self._recycle_if_due()
        if self._throttled_until is not None and self._store.now() >= self._throttled_until:
            self._throttled_until = None
            self._may_have_work = True

    def _require_threads(self) -> None:
        """Replace the process if one of its threads has ended although it catches all exceptions."""
        alive = {"deadlines": self._deadlines.is_alive, "renewer": self._renewer.is_alive}
        alive |= {"commands": self.hears_commands, "metrics": self._metrics.is_alive}
        if self._pulse is not None:
            alive["pulse"] = self._pulse.is_alive
        alive["fork-server"] = not self._isolated.has_lost_fork_server
        if ended := [name for name in alive if not alive[name]] + self._runners.ended_threads():
            _log.error("worker.thread_ended", threads=ended, remedy="this process is replaced")
            self._is_stuck = True

    def _recycle_if_due(self) -> None:
        """Drain this process at its task or memory limit; its supervisor then starts another one."""
        attempts = self._recorder.done + self._recorder.failed
        if (reason := self._recycling.reason(attempts)) is not None:
            _log.info("worker.recycle", reason=reason, tasks=attempts, memory_mb=self._recycling.memory_mb)
            self._is_recycled = True

    def _take_changes(self, *, is_urgent: bool = False) -> None:
        """Apply a newer upload of queue.yaml."""
        if self._serving.refresh(is_urgent=is_urgent):
            self._maintenance.serve(self._serving.queues)
            names = self._serving.served_queues
            self.queues = [self.queue_class(name, connection=self.connection) for name in names]
            _log.info("worker.queues", queues=names)

    def _take_woken(self, woken: WakeUp) -> None:
        grant = woken.grant
        if grant is not None:
            self._take(grant)
        leaves_some = grant is None or grant.has_more or grant.next_due is not None
        if leaves_some and self._runners.free == 0 and woken.marker is not None:
            # Another worker may have a free thread for the tasks that this worker cannot take.
            self._leasing.pass_on(woken.marker)
        if woken.marker == SCHEDULED_MARKER:
            self._maintenance.promote()
            self._may_have_work = True
        self._may_have_work |= grant is None or woken.is_outdated

    def _has_more_to_do(self) -> bool:
        """Whether to loop again without sleeping; outcomes are recorded before the next lease."""
        return self._runners.has_outcomes or (self._may_have_work and self._prefetch.wanted > 0)

    def _lease(self) -> None:
        wanted = self._prefetch.wanted if self._may_have_work else 0
        if wanted > 0:
            self._may_have_work = False
            self._take(self._leasing.lease(wanted, self._runners.free))

    def _take(self, grant: LeaseResult) -> None:
        self._hold(grant.tasks)
        self._throttled_until = grant.next_due
        self._prefetch.lease_only_when_idle = grant.resume_at_list is not None
        if grant.must_promote:
            self._maintenance.promote()
        self._may_have_work |= grant.has_more or bool(grant.missing)
        if grant.missing:
            # Upload the whole of queue.yaml, because an upload is recorded as matching the file.
            queue_directory.restore(self._store, lambda: queue_directory.read_again(config.current()))
            self._take_changes(is_urgent=True)

    def _hold(self, tasks: Sequence[Leased]) -> None:
        self._held |= {task.entry: task for task in tasks}
        self._prefetch.note_leased()
        self._runners.put(tasks)

    def _release_surplus(self) -> None:
        kept = self._prefetch.kept
        if kept is not None or self._unreleased:
            self._release([] if kept is None else self._runners.take_beyond(kept))
            self._may_have_work = True
        if late := self._runners.take_late_suspects():
            # This wakes other processes, which ask for these tasks before this one does.
            self._release(late)

    def _wait_seconds(self) -> float:
        seconds = SLOW_TASK_SECONDS if self._runners.waiting else SAFETY_CALL_SECONDS
        now = self._store.now()
        for due in (self._maintenance.next_due, self._throttled_until):
            if due is not None:
                seconds = min(seconds, max(0.0, due - now))
        return seconds

    # --- outcomes ------------------------------------------------------------------------

    def _record_outcomes(self) -> None:
        self._unrecorded += self._runners.take_outcomes(OUTCOMES_PER_CALL)
        if not self._unrecorded:
            return
        self._recorder.record([outcome for outcome in self._unrecorded if outcome.task.entry in self._held])
        self._prefetch.note_ended(len(self._unrecorded))
        for outcome in self._unrecorded:
            self._held.pop(outcome.task.entry, None)
        self._unrecorded = []
        self._may_have_work = True

    def _give_up_stuck(self, entry: str) -> None:
        """Fail the attempt of a handler that outlived its deadline by 30 s, and end this process."""
        task = self._held.get(entry)
        if task is not None:
            _log.error("task.stuck", queue=task.queue, task=task.name, remedy="this process is replaced")
            # Leave the recording to the main thread, because Redis may be unavailable now.
            self._runners.leave_outcome(Outcome(task, 500, "did not end 30 s after its deadline"))
        self._is_stuck = True
        self._interrupt.set()

    # --- leases --------------------------------------------------------------------------

    def _held_tasks(self) -> tuple[list[Leased], set[str]]:
        started = {task.entry for task, _ in list(self._runners.running.values())}
        return list(self._held.values()), started

    def _forget(self, task: Leased) -> None:
        self._held.pop(task.entry, None)

    def _release(self, tasks: Sequence[Leased]) -> None:
        # These tasks are no longer running here, so if Redis is unavailable now, they must be released later.
        self._unreleased += tasks
        if self._unreleased:
            self._broker.release(self._unreleased)
            for task in self._unreleased:
                self._forget(task)
            self._unreleased = []

    # --- the end -------------------------------------------------------------------------

    def _finish(self) -> None:
        """Release tasks that have not started, and give running ones some time to finish.

        A process that is only being replaced has no reason to cut off a long task.
        """
        is_dev = config.current().settings.is_dev
        seconds = DEV_DRAIN_SECONDS if is_dev else DRAIN_SECONDS
        deadline = math.inf
        stopping = self._call_on_stop()
        self._unreleased += self._leasing.end()
        self._held |= {task.entry: task for task in self._unreleased}
        pause = 0.05
        while True:
            self._note_turn()
            if deadline == math.inf and (self._is_told_to_stop or self._is_stuck):
                deadline = SYSTEM.monotonic() + seconds
            try:
                self._release(self._runners.take_waiting())
                self._record_outcomes()
                if SYSTEM.monotonic() > deadline or (not self._held and not stopping.is_alive()):
                    self._release(list(self._held.values()))
                    return
                self._beat()
            except StoreUnavailableError as error:
                _log.warning("worker.redis", error=str(error))
            except Exception:
                _log.exception("worker.finish_failed", held=len(self._held))
            # Check again, in case an exception prevented the check above.
            if SYSTEM.monotonic() > deadline:
                return
            self._interrupt.wait(pause)

    def _call_on_stop(self) -> threading.Thread:
        self._isolated.ask_to_stop()
        thread = threading.Thread(target=self._on_stop or (lambda: None), name="on-stop", daemon=True)
        thread.start()
        return thread

    def _stop_threads(self) -> None:
        self._renewer.stop()
        self._runners.stop()
        self._metrics.stop()
        self._deadlines.stop()
        self._isolated.close()
        if self._remote is not None:
            self._remote.close()

    # --- heartbeat, signals --------------------------------------------------------------

    def _beat(self) -> None:
        now = SYSTEM.monotonic()
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_SECONDS
            self._store.sync_clock()
            with translated_errors(), self.connection.pipeline(transaction=False) as pipeline:
                self.heartbeat(pipeline=pipeline)
                pipeline.exists(RQ_SUSPENDED)
                self._is_suspended = bool(pipeline.execute()[-1])
        elif now < self._show_at or self._shown == self._state_now():
            return
        self._show_at = now + SHOW_SECONDS
        self._shown = self._state_now()
        with translated_errors():
            shown = {**self.serialize(), "state": self._shown}
            shown[STATUS_FIELD] = self._own_status().dump()
            shown |= {"successful_job_count": self._recorder.done, "failed_job_count": self._recorder.failed}
            self.connection.hset(self.key, mapping=shown)

    def _own_status(self) -> WorkerStatus:
        now, monotonic = self._store.now(), SYSTEM.monotonic()
        running = [(task.id, now - (monotonic - at)) for task, at in list(self._runners.running.values())]
        task, at, reason = self._recorder.last_failure or ("", None, "")
        secret_key = config.current_settings().secret_key
        return WorkerStatus(
            release=__version__,
            threads=self._runners.threads,
            busy=self._runners.busy,
            waiting=self._runners.waiting,
            running=tuple(sorted(running, key=lambda each: each[1])),
            memory_bytes=resident_bytes(),
            groups=tuple(self._serving.groups),
            is_draining=self._is_told_to_stop,
            last_error=reason,
            last_error_task=task,
            last_error_at=at,
            only=tuple(self._serving.only),
            key=signing.fingerprint(secret_key) if secret_key else "",
        )

    def _state_now(self) -> str:
        return "suspended" if self._is_suspended else "busy" if self._runners.running else "idle"
