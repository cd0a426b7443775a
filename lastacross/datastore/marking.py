"""Marks rows of the outbox as sent shortly after their tasks were sent, many rows in one statement.

A caller waits for the commit and for its tasks to be on their queues, but not for the mark. On SQLite, the
mark would have to wait for the one writer a second time. An unmarked row looks as if its process had died
before sending. The relay takes such rows after ``relay.RELAY_AFTER_SECONDS``, which is many times as long. If
this process was killed or could not write, the relay sends the task again, but it is added only once
(``outbox``).
"""

import atexit
import contextlib
import os
import queue
import threading
from collections.abc import Iterator, Sequence

from sqlalchemy import Engine, Update, update
from sqlalchemy.exc import SQLAlchemyError

from lastacross import datastore, logs
from lastacross.datastore.tables import OutboxRow

GATHER_SECONDS = 0.25
IDLE_SECONDS = 10.0
CHUNK = 500
# A database that does not answer may block the marking thread, but not a fork.
FORK_PATIENCE_SECONDS = 1.0

_Noted = tuple[Engine, Sequence[str], float]

_log = logs.get("lastacross.taskqueue")


def statement(task_ids: Sequence[str], at: float) -> Update:
    """The statement that marks the rows of these tasks as sent; ``at`` is in seconds since the epoch."""
    sent = update(OutboxRow).where(OutboxRow.task_id.in_(task_ids))
    return sent.values(sent_at=at, set_aside_at=None, error=None)


class Marks:
    """The unmarked tasks that one process has sent, and the thread that marks them."""

    def __init__(self) -> None:
        # Each method is a single step, so a deadline that interrupts a handler leaves no lock behind.
        self._noted: queue.SimpleQueue[_Noted] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        # Per thread, because two threads may fork together, and one of them may fail to get the lock.
        self._forking = threading.local()

    def note(self, task_ids: Sequence[str], at: float) -> None:
        """Have the rows of these tasks marked soon.

        Args:
            task_ids: tasks whose rows are in the database in use.
            at: when they were sent, seconds since the epoch.
        """
        self._noted.put((datastore.engine(), task_ids, at))
        thread = self._thread
        if thread is None or not thread.is_alive():
            # A second thread would be harmless.
            self._thread = thread = threading.Thread(target=self._serve, name="outbox-marks", daemon=True)
            thread.start()

    def flush(self) -> None:
        """Mark the tasks noted so far. The relay handles those that cannot be marked."""
        with self._writing:
            for engine, task_ids, at in _merged(self._take_all()):
                # An engine that is no longer in use was disposed of; using it again would leave it open.
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
            try:
                self.flush()
            except Exception:
                # The relay marks the rest.
                _log.exception("outbox.relay_later")

    def _is_noted(self) -> bool:
        """Wait for a note; False if none came for a while, and the thread then counts as ended."""
        with contextlib.suppress(queue.Empty):
            # Put it back, so that a concurrent flush finds it.
            self._noted.put(self._noted.get(timeout=IDLE_SECONDS))
            return True
        self._thread = None
        # The order matters: a concurrent note sees that there is no thread, or it is seen here.
        return not self._noted.empty()

    def _take_all(self) -> Iterator[_Noted]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._noted.get_nowait()

    def before_fork(self) -> None:
        """Let the running statement end, because SQLite's locks do not cross a fork."""
        self._forking.has_lock = self._writing.acquire(timeout=FORK_PATIENCE_SECONDS)

    def after_fork(self) -> None:
        """Continue in the parent, in the thread that forked."""
        if self._forking.has_lock:
            self._writing.release()


def _merged(noted: Iterator[_Noted]) -> list[_Noted]:
    """Merge the notes of each database under the earliest time, so that no row seems sent too late."""
    found: dict[int, _Noted] = {}
    for engine, task_ids, at in noted:
        _, ids, earliest = found.get(id(engine), (engine, [], at))
        found[id(engine)] = (engine, [*ids, *task_ids], min(at, earliest))
    return list(found.values())


PROCESS = Marks()
"""The marks of this process."""


def flush() -> None:
    """Mark the tasks that this process has sent."""
    PROCESS.flush()


def _begin_anew() -> None:
    """In a fork's child: thread, lock and rows belong to the parent."""
    global PROCESS
    PROCESS = Marks()


datastore.before_dispose(flush)
atexit.register(flush)
os.register_at_fork(
    before=lambda: PROCESS.before_fork(),
    after_in_parent=lambda: PROCESS.after_fork(),
    after_in_child=_begin_anew,
)
