"""Rows of the outbox are marked as sent a moment after their tasks were, many rows in one statement.

Somebody waits for the commit that wrote them and for its tasks to be on their queues; for the mark nobody
does. On SQLite it would wait for the one writer a second time. Until a row is marked it looks like one whose
process died before it sent: the relay takes such rows after ``relay.RELAY_AFTER_SECONDS``, which is many
times as long. If it meets one all the same, because this process was killed or could not write, the
task is sent twice and added once (``outbox``).
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
# A database that does not answer may hold up the thread that marks, and not somebody's fork.
FORK_PATIENCE_SECONDS = 1.0

_Noted = tuple[Engine, Sequence[str], float]

_log = logs.get("lastacross.taskqueue")


def statement(task_ids: Sequence[str], at: float) -> Update:
    """The statement that marks the rows of these tasks as sent at an instant, in seconds since the epoch."""
    sent = update(OutboxRow).where(OutboxRow.task_id.in_(task_ids))
    return sent.values(sent_at=at, set_aside_at=None, error=None)


class Marks:
    """What one process has sent and not marked yet, and the thread that marks it."""

    def __init__(self) -> None:
        # Its methods are one step each: a deadline that falls into a handler leaves no lock behind.
        self._noted: queue.SimpleQueue[_Noted] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        # Of each thread its own: two may fork at once, and one of them in vain.
        self._forking = threading.local()

    def note(self, task_ids: Sequence[str], at: float) -> None:
        """Have the rows of these tasks marked soon.

        Args:
            task_ids: of rows of the database that is in use.
            at: when they were sent, seconds since the epoch.
        """
        self._noted.put((datastore.engine(), task_ids, at))
        thread = self._thread
        if thread is None or not thread.is_alive():
            # Two of them would do no harm.
            self._thread = thread = threading.Thread(target=self._serve, name="outbox-marks", daemon=True)
            thread.start()

    def flush(self) -> None:
        """Mark now what was noted until now. What cannot be marked is left to the relay."""
        with self._writing:
            for engine, task_ids, at in _together(self._take_all()):
                # Whoever was in use then and is not now was disposed of: to open it again would leave it so.
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
                # The relay marks what was not marked.
                _log.exception("outbox.relay_later")

    def _is_noted(self) -> bool:
        """Wait for something; False, and no thread is counted on, when there was nothing for a while."""
        with contextlib.suppress(queue.Empty):
            # Put back: who flushes in the meantime is to find it.
            self._noted.put(self._noted.get(timeout=IDLE_SECONDS))
            return True
        self._thread = None
        # In this order: who notes something now sees that there is no thread, or it is seen here.
        return not self._noted.empty()

    def _take_all(self) -> Iterator[_Noted]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._noted.get_nowait()

    def before_fork(self) -> None:
        """Let the statement under way end: SQLite's locks do not cross a fork."""
        self._forking.has_lock = self._writing.acquire(timeout=FORK_PATIENCE_SECONDS)

    def after_fork(self) -> None:
        """In the parent, and in the thread that forked: go on."""
        if self._forking.has_lock:
            self._writing.release()


def _together(noted: Iterator[_Noted]) -> list[_Noted]:
    """Of each database one list, with the earliest instant: no row may seem to be sent later than it was."""
    found: dict[int, _Noted] = {}
    for engine, task_ids, at in noted:
        _, ids, earliest = found.get(id(engine), (engine, [], at))
        found[id(engine)] = (engine, [*ids, *task_ids], min(at, earliest))
    return list(found.values())


PROCESS = Marks()
"""Those of this process."""


def flush() -> None:
    """Mark now what this process has sent."""
    PROCESS.flush()


def _begin_anew() -> None:
    """In a fork's child: thread, lock and rows are its parent's."""
    global PROCESS
    PROCESS = Marks()


datastore.before_dispose(flush)
atexit.register(flush)
os.register_at_fork(
    before=lambda: PROCESS.before_fork(),
    after_in_parent=lambda: PROCESS.after_fork(),
    after_in_child=_begin_anew,
)
