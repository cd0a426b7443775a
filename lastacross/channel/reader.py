"""The reader: one thread per process that waits for messages from Redis for all of the process's streams.

The thread starts with the first stream and ends soon after the last one has closed. When a stream with a new
client id opens, a message to the reader's own stream interrupts the wait, so there is no polling.
"""

import os
import random
import threading
from collections.abc import Mapping

from lastacross import logs, metrics, store
from lastacross.channel import streams
from lastacross.channel.frames import BEGINNING, Message, Position
from lastacross.channel.mailbox import Mailbox
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import StoreUnavailableError

log = logs.get("lastacross.channel")

# How long one wait lasts, and therefore how late the reader may notice that no stream is left.
WAIT_MS = 2_000
# The approximate number of messages per read across all client ids, which limits the memory used.
READ_MESSAGES = 1_000
MAX_PER_KEY = 200
# If a stream's thread has been stuck in a write for this long, its browser is considered disconnected.
STUCK_SECONDS = 30.0
STUCK_CHECK_SECONDS = 5.0
WAKEUP_KEEP_SECONDS = 3_600

# Every client id in a read costs Python and Redis time. After a read that has found messages, pause for this
# long, so that the next read finds more than one message.
REST_SECONDS_PER_CLIENT_ID = 20e-6

FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0


class Reader:
    """Delivers messages from Redis to this process's mailboxes.

    Args:
        clock: measures time.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._checked_at = clock.monotonic()
        self._id = os.urandom(8).hex()
        self._wakeup_key = store.channel_wakeup_key(self._id)
        # The number of streams that was last reported to the metrics, and the time of the next report.
        self._reported: int | None = None
        self._report_at = 0.0
        self._wakeup_position = BEGINNING
        self._lock = threading.Lock()
        self._mailboxes: dict[str, set[Mailbox]] = {}
        self._cursors: dict[str, Position] = {}
        self._thread: threading.Thread | None = None
        self._has_list = False
        # This event is never set; it is used only to wait for a while.
        self._rest = threading.Event()

    @property
    def is_running(self) -> bool:
        """Whether the thread is running."""
        return self._thread is not None

    def watch(self, mailbox: Mailbox, newest: Position) -> None:
        """From now on, deliver all new messages to this mailbox.

        Args:
            mailbox: the receiver.
            newest: the newest position of the mailbox's client id; earlier messages are not delivered.
        """
        key = store.channel_key(mailbox.client_id)
        with self._lock:
            self._mailboxes.setdefault(key, set()).add(mailbox)
            is_new = key not in self._cursors
            self._cursors.setdefault(key, newest)
            must_wake = is_new and self._has_list
            if must_wake:
                # One interruption is enough, no matter how many streams open before the reader checks again.
                self._has_list = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lastacross-channel", daemon=True)
                self._thread.start()
        if must_wake:
            self._wake()

    def unwatch(self, mailbox: Mailbox) -> None:
        """Stop delivering to this mailbox."""
        key = store.channel_key(mailbox.client_id)
        with self._lock:
            watching = self._mailboxes.get(key, set())
            watching.discard(mailbox)
            if not watching:
                self._mailboxes.pop(key, None)
                self._cursors.pop(key, None)

    def mailboxes(self) -> list[Mailbox]:
        """All watched mailboxes."""
        with self._lock:
            return [mailbox for watching in self._mailboxes.values() for mailbox in watching]

    def join(self, timeout_seconds: float) -> None:
        """Wait for the thread to end, which it does once no mailbox is watched."""
        thread = self._thread
        if thread is not None:
            self._wake()
            thread.join(timeout_seconds)

    def _wake(self) -> None:
        try:
            store.current().run("send_message", [self._wakeup_key], [1, WAKEUP_KEEP_SECONDS, ""])
        except StoreUnavailableError:
            # The reader has also lost Redis, and builds a new list once Redis is available again.
            log.debug("channel.wake_failed")

    def _run(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            cursors = self._list_or_end()
            if cursors is None:
                return
            try:
                found = self._read(cursors)
                self._deliver(found)
                backoff = FIRST_BACKOFF_SECONDS
                if found:
                    self._rest.wait(len(cursors) * REST_SECONDS_PER_CLIENT_ID)
                self._abandon_stuck()
                self._report()
            except Exception as error:
                # Keep going after any error, because all streams of the process depend on this thread.
                is_expected = isinstance(error, StoreUnavailableError)
                log.warning("channel.reader_lost", reason=str(error), exc_info=not is_expected)
                self._rest.wait(backoff * random.uniform(0.5, 1.0))
                backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
                if not is_expected:
                    self._set_aside_damaged(cursors)

    def _set_aside_damaged(self, cursors: Mapping[str, Position]) -> None:
        """Move aside any keys of the wrong type, because one such key blocks the messages of all others."""
        try:
            streams.set_aside_damaged([self._wakeup_key, *cursors])
        except Exception:
            log.exception("channel.set_aside")

    def _list_or_end(self) -> dict[str, Position] | None:
        """The keys to wait for, or None if there are none; the thread then no longer counts as running."""
        with self._lock:
            if not self._cursors:
                self._thread = None
                self._has_list = False
                return None
            self._has_list = True
            return dict(self._cursors)

    def _read(self, cursors: Mapping[str, Position]) -> dict[str, list[Message]]:
        count = max(1, min(MAX_PER_KEY, READ_MESSAGES // len(cursors)))
        wanted = {self._wakeup_key: self._wakeup_position, **cursors}
        found = streams.wait(wanted, WAIT_MS, count=count)
        wakeups = found.pop(self._wakeup_key, [])
        if wakeups:
            self._wakeup_position = wakeups[-1].position
        return found

    def _deliver(self, found: Mapping[str, list[Message]]) -> None:
        for key, messages in found.items():
            with self._lock:
                watching = list(self._mailboxes.get(key, ()))
                if watching:
                    # A stream that was opened in the meantime may start at a later position.
                    self._cursors[key] = max(self._cursors[key], messages[-1].position)
            for mailbox in watching:
                mailbox.deliver(messages)

    def _report(self) -> None:
        """Report the number of open streams to the metrics. After the last stream, the report expires."""
        now = self._clock.monotonic()
        if now >= self._report_at:
            self._report_at = now + metrics.STREAMS_REPORT_SECONDS
            number = len(self.mailboxes())
            metrics.report_streams(store.current(), self._id, number, self._reported)
            self._reported = number

    def _abandon_stuck(self) -> None:
        now = self._clock.monotonic()
        if now - self._checked_at < STUCK_CHECK_SECONDS:
            return
        self._checked_at = now
        for mailbox in self.mailboxes():
            if mailbox.idle_seconds() > STUCK_SECONDS:
                log.info("channel.abandon", idle_seconds=round(mailbox.idle_seconds(), 1))
                mailbox.abandon()
