"""Marks outbox rows as sent shortly after their tasks were sent, using one statement for many rows.

A caller waits for the commit and for its tasks to be in their queues, but not for the mark. On SQLite,
setting the mark would mean waiting for the single writer a second time. An unmarked row looks as if its
process died before sending the task. The relay takes such rows after ``relay.RELAY_AFTER_SECONDS``, which is
many times longer than marking takes. If this process is killed or cannot write, the relay sends the task
again, but the task is added only once (see ``outbox``).
"""

import atexit
import contextlib
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TypeVar

from sqlalchemy import Engine, Update, update
from sqlalchemy.exc import SQLAlchemyError

from lastacross import datastore, logs
from lastacross.datastore.tables import OutboxRow

GATHER_SECONDS = 0.25
IDLE_SECONDS = 10.0
CHUNK = 500
# If the database does not respond, it may block the marking thread but must not block a fork.
FORK_PATIENCE_SECONDS = 1.0

_Noted = tuple[Engine, Sequence[str], float]
_Entry = TypeVar("_Entry")

_log = logs.get("lastacross.taskqueue")


def statement(task_ids: Sequence[str], at: float) -> Update:
    """The statement that marks these tasks' rows as sent at the time ``at``, in seconds since the epoch."""
    sent = update(OutboxRow).where(OutboxRow.task_id.in_(task_ids))
    return sent.values(sent_at=at, set_aside_at=None, error=None)


class Marks:
    """The tasks that a process has sent but not yet marked, and the thread that marks them."""

    def __init__(self) -> None:
        # Each queue operation is atomic, so a deadline that interrupts a handler leaves no lock behind.
        self._noted: queue.SimpleQueue[_Noted] = queue.SimpleQueue()
        # The thread waits here and leaves the entries where they are, so that a concurrent flush finds them.
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        # This is per thread, because two threads may fork together and one may fail to get the lock.
        self._forking = threading.local()

    def note(self, task_ids: Sequence[str], at: float) -> None:
        """Record that these tasks' rows must be marked soon.

        Args:
            task_ids: the ids of tasks whose rows are in the current database.
            at: the time when the tasks were sent, in seconds since the epoch.
        """
        self._noted.put((datastore.engine(), task_ids, at))
        self._wake_ups.put(None)
        thread = self._thread
        if thread is None or not thread.is_alive():
            # It would be harmless if two callers started a thread each.
            self._thread = thread = threading.Thread(target=self._serve, name="outbox-marks", daemon=True)
            thread.start()

    def flush(self) -> None:
        """Mark the tasks recorded so far. The relay handles tasks that cannot be marked."""
        with self._writing:
            for engine, task_ids, at in _merged(_taken(self._noted)):
                # An engine that is no longer in use was disposed of. Using it again would leave it open.
                if not datastore.is_in_use(engine):
                    continue
                try:
                    for first in range(0, len(task_ids), CHUNK):
                        with engine.begin() as connection:
                            connection.execute(statement(task_ids[first : first + CHUNK], at))
                except SQLAlchemyError as error:
                    _log.warning("outbox.relay_later", tasks=len(task_ids), error=str(error))

    def _serve(self) -> None:
        pause = threading.Event()
        while self._is_noted():
            pause.wait(GATHER_SECONDS)
            # Each entry is recorded before its wake-up, so this flush includes those of the wake-ups taken.
            for _ in _taken(self._wake_ups):
                pass
            try:
                self.flush()
            except Exception:
                # The relay will mark the remaining rows.
                _log.exception("outbox.relay_later")

    def _is_noted(self) -> bool:
        """Wait for a task to mark. If none arrives for a while, mark the thread as over and return False."""
        with contextlib.suppress(queue.Empty):
            self._wake_ups.get(timeout=IDLE_SECONDS)
            return True
        self._thread = None
        # The order matters. Either a concurrent caller sees that there is no thread, or its entry is seen
        # here.
        return not self._noted.empty()

    def before_fork(self) -> None:
        """Wait for the running statement to end, because SQLite's locks are not inherited by a fork."""
        self._forking.has_lock = self._writing.acquire(timeout=FORK_PATIENCE_SECONDS)

    def after_fork(self) -> None:
        """Continue in the parent process, in the thread that forked."""
        if self._forking.has_lock:
            self._writing.release()


def _taken(entries: "queue.SimpleQueue[_Entry]") -> Iterator[_Entry]:
    """Take all entries that are in the queue now."""
    with contextlib.suppress(queue.Empty):
        while True:
            yield entries.get_nowait()


def _merged(noted: Iterator[_Noted]) -> list[_Noted]:
    """Merge each database's entries under their earliest time, so that no row appears to be sent too late."""
    found: dict[int, _Noted] = {}
    for engine, task_ids, at in noted:
        _, ids, earliest = found.get(id(engine), (engine, [], at))
        found[id(engine)] = (engine, [*ids, *task_ids], min(at, earliest))
    return list(found.values())


PROCESS = Marks()
"""This process's marks."""


def flush() -> None:
    """Mark the tasks that this process has sent."""
    PROCESS.flush()


def _begin_anew() -> None:
    """Start afresh in a forked child, because the thread, the lock and the rows belong to the parent."""
    global PROCESS
    PROCESS = Marks()


datastore.before_dispose(flush)
atexit.register(flush)
os.register_at_fork(
    before=lambda: PROCESS.before_fork(),
    after_in_parent=lambda: PROCESS.after_fork(),
    after_in_child=_begin_anew,
)
