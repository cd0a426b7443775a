"""The reader: one thread a process that waits in Redis for the messages of all its streams.

It starts with the first stream and ends soon after the last one. A stream for a client id that is
not read yet interrupts the waiting by a message to the reader's own stream; there is no polling.
"""

import os
import random
import threading
from collections.abc import Mapping

from lastacross import logs, store
from lastacross.channel import streams
from lastacross.channel.frames import BEGINNING, Message, Position
from lastacross.channel.mailbox import Mailbox
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import StoreUnavailableError

log = logs.get("lastacross.channel")

# How long one waiting lasts: as late as that the reader sees that no stream is left.
WAIT_MS = 2_000
# Messages of all client ids that one reading takes, roughly: bounds its memory.
READ_MESSAGES = 1_000
MOST_OF_ONE = 200
# A stream whose thread has hung in a write for so long has lost its browser.
STUCK_SECONDS = 30.0
LOOK_FOR_STUCK_EVERY_SECONDS = 5.0
WAKEUP_KEEP_SECONDS = 3_600

# A reading costs by the client ids that it names, in Python and in Redis; after one that found
# something, the next waits for so long that more than one message comes with it.
REST_SECONDS_PER_CLIENT_ID = 20e-6

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 2.0


class Reader:
    """Delivers the messages of Redis to the mailboxes of this process.

    Args:
        clock: what the time is.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._wakeup_key = store.channel_wakeup_key(os.urandom(8).hex())
        self._wakeup_position = BEGINNING
        self._lock = threading.Lock()
        self._mailboxes: dict[str, set[Mailbox]] = {}
        self._cursors: dict[str, Position] = {}
        self._thread: threading.Thread | None = None
        self._has_list = False
        # Never set: to wait for a while.
        self._rest = threading.Event()

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def watch(self, mailbox: Mailbox, newest: Position) -> None:
        """Deliver to this mailbox what is sent from now on.

        Args:
            mailbox: where to.
            newest: where the stream of its client id stands; what came before is not delivered.
        """
        key = store.channel_key(mailbox.client_id)
        with self._lock:
            self._mailboxes.setdefault(key, set()).add(mailbox)
            is_new = key not in self._cursors
            self._cursors.setdefault(key, newest)
            must_wake = is_new and self._has_list
            if must_wake:
                # Once is enough, however many streams open before the reader looks again.
                self._has_list = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lastacross-channel", daemon=True)
                self._thread.start()
        if must_wake:
            self._wake()

    def unwatch(self, mailbox: Mailbox) -> None:
        """Deliver to this mailbox no more."""
        key = store.channel_key(mailbox.client_id)
        with self._lock:
            watching = self._mailboxes.get(key, set())
            watching.discard(mailbox)
            if not watching:
                self._mailboxes.pop(key, None)
                self._cursors.pop(key, None)

    def mailboxes(self) -> list[Mailbox]:
        """All that are delivered to."""
        with self._lock:
            return [mailbox for watching in self._mailboxes.values() for mailbox in watching]

    def join(self, timeout_seconds: float) -> None:
        """Wait for the end of the thread, which comes when nothing is watched."""
        thread = self._thread
        if thread is not None:
            self._wake()
            thread.join(timeout_seconds)

    def _wake(self) -> None:
        try:
            store.current().run("send_message", [self._wakeup_key], [1, WAKEUP_KEEP_SECONDS, ""])
        except StoreUnavailableError:
            # The reader has lost Redis too, and makes a new list when it is back.
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
            except Exception as error:
                # Whatever it is, the streams of the process have only this thread to live by.
                is_expected = isinstance(error, StoreUnavailableError)
                log.warning("channel.reader_lost", reason=str(error), exc_info=not is_expected)
                self._rest.wait(backoff * random.uniform(0.5, 1.0))
                backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
                if not is_expected:
                    self._set_aside_damaged(cursors)

    def _set_aside_damaged(self, cursors: Mapping[str, Position]) -> None:
        """One key that is no stream keeps the messages of all others from being read."""
        try:
            streams.set_aside_damaged([self._wakeup_key, *cursors])
        except Exception:
            log.exception("channel.set_aside")

    def _list_or_end(self) -> dict[str, Position] | None:
        """What to wait for; None, and the thread is none any more, when there is nothing."""
        with self._lock:
            if not self._cursors:
                self._thread = None
                self._has_list = False
                return None
            self._has_list = True
            return dict(self._cursors)

    def _read(self, cursors: Mapping[str, Position]) -> dict[str, list[Message]]:
        count = max(1, min(MOST_OF_ONE, READ_MESSAGES // len(cursors)))
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
                    # A stream that opened meanwhile may have begun further on.
                    self._cursors[key] = max(self._cursors[key], messages[-1].position)
            for mailbox in watching:
                mailbox.deliver(messages)

    def _abandon_stuck(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at < LOOK_FOR_STUCK_EVERY_SECONDS:
            return
        self._looked_at = now
        for mailbox in self.mailboxes():
            if mailbox.idle_seconds() > STUCK_SECONDS:
                log.info("channel.abandon", idle_seconds=round(mailbox.idle_seconds(), 1))
                mailbox.abandon()
