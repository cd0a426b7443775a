"""The counting program's tasks: a master task hands out intervals, and subtasks count them.

A master task's name contains its run's name, and a subtask's name contains its run and its interval, so each
is unique. Both run on the backend ``counter``, at their queues' default URLs. Everything here may run twice.
"""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lastacross import channel, clock, config, runtime, taskqueue, webapp
from programs.count import runs
from programs.count.models import CountRun
from programs.shared.operations import plural

MASTER_QUEUE = "master"
SUB_QUEUE = "subtasks"
COMPLETE_URL = "/tasks/count-complete"

KEEP_SECONDS = 0.5
"""How often a subtask saves its progress; after a crash, at most this much is repeated."""
POLL_SECONDS = 0.1
"""The maximum time before a subtask checks whether its process is stopping."""

Intervals = Sequence[tuple[int, int]]

log = logging.getLogger("counting")


def instance() -> str:
    """This process's name in the log: its service and its process id."""
    return f"{config.current().settings.service} {os.getpid()}"


def client_id(run_id: str) -> str:
    """The client id of a run's channel."""
    return f"count-{run_id}"


def announce(run_id: str, change: int | None) -> None:
    """Notify the watching pages of the changes up to this one."""
    if change is not None:
        channel.send_message(client_id(run_id), json.dumps({"change": change}))


def text_of(intervals: Intervals) -> str:
    """The intervals as text: ``1-10, 11-20``."""
    return ", ".join(f"{first}-{last}" for first, last in intervals)


# --- the master task ----------------------------------------------------------------------


def outer_batch(run_id: str) -> taskqueue.Batch:
    """The batch whose only member is the master task; it ends once everything that task started has ended."""
    complete = taskqueue.Task(url=COMPLETE_URL, params={"run": run_id})
    return taskqueue.Batch(queue_name=MASTER_QUEUE, name=run_id, on_complete=complete)


def inner_batch_id(run_id: str) -> str:
    """The id of the subtasks' batch.

    The engine's default id derives from the master task, so all runs with this name would share it.
    """
    return f"{run_id}-intervals"


def add_master(run: CountRun, intervals: Intervals) -> None:
    """Add the master task of a new run.

    The task's name makes the run's name unique. A check in the datastore is not needed, and it would not
    be safe if two visitors came at the same time. The task contains all of the run's data. If the process is
    killed between the steps here and in the page, the task does the rest: it seals its batch and stores the
    run.

    Raises:
        TaskAlreadyExistsError: a master task with this name is waiting or running.
        TombstonedTaskError: a master task with this name has ended, but the name is not free again yet.
        TransientError: Redis is unavailable.
    """
    task = taskqueue.Task(
        name=f"count-{run.name}",
        params={
            "run": run.id,
            "name": run.name,
            "intervals": text_of(intervals),
            "delay_ms": run.delay_ms,
            "created_at": repr(run.created_at),
        },
    )
    with outer_batch(run.id) as batch:
        batch.add(task)


def cancel(run_id: str) -> None:
    """End a run and drop its waiting tasks; running tasks notice when they save their progress."""
    _log(run_id, runs.end(run_id, "a visitor", is_cancelled=True), "run cancelled")
    withdraw(run_id)


def withdraw(run_id: str) -> None:
    """Drop a run's waiting tasks."""
    for batch_id in (run_id, inner_batch_id(run_id)):
        with contextlib.suppress(taskqueue.UnknownBatchError):
            taskqueue.Batch.get(batch_id).cancel()


class MasterHandler(webapp.TaskHandler):
    """``/_ah/queue/master``: hands out a run's intervals as subtasks."""

    def post(self) -> None:
        """Add the subtasks. A retry is safe, because the batches skip the tasks that they already have."""
        fields = self.request.POST
        intervals = [_pair(text) for text in fields["intervals"].split(", ")]
        run = CountRun(
            id=fields["run"],
            name=fields["name"],
            delay_ms=int(fields["delay_ms"]),
            created_at=float(fields["created_at"]),
        )
        run_id, delay_ms = run.id, run.delay_ms
        with outer_batch(run_id):
            pass  # seals the batch if the page's process died before it could
        if not runs.begin(run, intervals):
            return  # a newer run has the name, so nobody would look at this one.
        # Log this before the first subtask's own line, which may come while others are being added.
        text = f"puts {plural(len(intervals), 'sub task')} on queue {SUB_QUEUE}: {text_of(intervals)}"
        _log(run_id, runs.note(run_id, instance(), text, handed_out_at=clock.SYSTEM.now()), text)
        with taskqueue.Batch(
            queue_name=SUB_QUEUE, name=inner_batch_id(run_id), parent=taskqueue.current_task()
        ) as batch:
            batch.add(sub_tasks(run_id, intervals, delay_ms))


def sub_tasks(run_id: str, intervals: Intervals, delay_ms: int) -> Iterable[taskqueue.Task]:
    """One task per interval, with a payload that says what to count."""
    for place, (first, last) in enumerate(intervals):
        work = {"run": run_id, "place": place, "first": first, "last": last, "delay_ms": delay_ms}
        yield taskqueue.Task(
            json.dumps(work), name=f"{run_id}-{first}-{last}", headers={"Content-Type": "application/json"}
        )


class CompleteHandler(webapp.TaskHandler):
    """Runs once when the master task and everything it started have ended, successfully or not."""

    def post(self) -> None:
        """Mark the run as finished. If it was never stored, it was refused, so there is nothing to end."""
        run_id = self.request.POST["run"]
        change = runs.end(run_id, instance(), is_cancelled=False)
        _log(run_id, change, "run over")


def _pair(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last)


def _log(run_id: str, change: int | None, text: str) -> None:
    """Write to the backend's log. The run's own log, which its page shows, already has the line."""
    if change is not None:
        log.info("count.run", extra={"run": run_id, "text": text})
        announce(run_id, change)


# --- the subtasks -------------------------------------------------------------------------


@dataclass(eq=False)
class Hold:
    """An interval that this process is counting."""

    run_id: str
    place: int
    numbers: list[int] = field(default_factory=list)


_held: set[Hold] = set()
_lock = threading.Lock()


class StartHandler(webapp.RequestHandler):
    """``/_ah/start``: called when the backend starts."""

    def get(self) -> None:
        """Register the shutdown hook."""
        runtime.set_shutdown_hook(shut_down)
        log.info("count.start", extra={"instance": instance()})


def shut_down() -> None:
    """The shutdown hook: release all intervals being counted here, so that another instance can continue."""
    with _lock:
        holds = list(_held)
    log.info("count.shutdown", extra={"instance": instance(), "intervals": len(holds)})
    for hold in holds:
        _give_back(hold)


def _give_back(hold: Hold) -> None:
    """Save the progress and release the interval, only once even if both the hook and the loop call this."""
    with _lock:
        is_held = hold in _held
        _held.discard(hold)
    if is_held:
        announce(hold.run_id, runs.release(hold.run_id, hold.place, instance(), len(hold.numbers)))


@contextlib.contextmanager
def _holding(hold: Hold) -> Iterator[None]:
    with _lock:
        _held.add(hold)
    try:
        yield
    except BaseException:
        # The attempt may have exceeded its deadline, for example. The next attempt should continue from here.
        _give_back(hold)
        raise
    finally:
        with _lock:
            _held.discard(hold)


class SubHandler(webapp.TaskHandler):
    """``/_ah/queue/subtasks``: counts one interval."""

    def post(self) -> None:
        """Count the interval in the payload, from where an earlier attempt stopped."""
        work = json.loads(self.request.body)
        task = taskqueue.current_task()
        claimed = runs.claim(
            work["run"], work["place"], instance(), retry_count=task.retry_count if task else 0
        )
        if claimed is None:
            return  # already counted, or no longer wanted
        announce(work["run"], claimed.change)
        numbers = range(work["first"], work["last"] + 1)
        hold = Hold(work["run"], work["place"], list(numbers[: claimed.counted]))
        with _holding(hold):
            is_counted = count(hold, numbers, work["delay_ms"] / 1000)
            if is_counted is None:
                return
            if not is_counted:
                _give_back(hold)
                # Any status but 200-299 is a failure, so the queue runs the task again on another instance.
                self.response.status = 503
                self.response.text = f"{instance()} shuts down; {len(hold.numbers)} of {len(numbers)} counted"
                return
        announce(hold.run_id, runs.finish_interval(hold.run_id, hold.place, hold.numbers, instance()))
        log.info("count.interval", extra={"run": hold.run_id, "text": runs.shortened(hold.numbers)})


def count(hold: Hold, numbers: Sequence[int], delay_seconds: float) -> bool | None:
    """Continue from the numbers in ``hold`` at the given pace, and save the progress from time to time.

    Returns:
        True if all numbers are counted, False if the process is stopping, None if the run was cancelled.
    """
    kept_at = clock.SYSTEM.monotonic()
    for number in numbers[len(hold.numbers) :]:
        if not _wait(delay_seconds):
            return False
        hold.numbers.append(number)
        now = clock.SYSTEM.monotonic()
        if now - kept_at >= KEEP_SECONDS:
            kept_at = now
            change = runs.keep(hold.run_id, hold.place, len(hold.numbers))
            if change is None:
                return None
            announce(hold.run_id, change)
    return True


def _wait(seconds: float) -> bool:
    """Simulate slow work; returns False as soon as this process is stopping."""
    until = clock.SYSTEM.monotonic() + seconds
    while (left := until - clock.SYSTEM.monotonic()) > 0 and not runtime.is_shutting_down():
        # This event is never set. The wait lets other threads run, and a deadline can take effect after it.
        threading.Event().wait(min(left, POLL_SECONDS))
    return not runtime.is_shutting_down()
