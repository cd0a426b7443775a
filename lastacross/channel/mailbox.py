"""The messages that an open stream has yet to write.

The reader delivers messages and the stream's thread takes them. While that thread is only waiting, the reader
writes to the browser itself, because waking a thread for each message costs more than everything else
(docs/internals.md). A browser that cannot keep up with its messages uses bounded memory: a full mailbox is
discarded, and the stream reads from Redis at the browser's pace until it has caught up.
"""

import threading
from collections.abc import Callable, Sequence

from lastacross.channel.direct import DirectWriter
from lastacross.channel.frames import Message, Position
from lastacross.clock import SYSTEM, Clock

CAPACITY_BYTES = 131_072


class Mailbox:
    """Messages for one client id that are in transit to one browser.

    Args:
        client_id: the client id of the messages.
        position: the last message that the browser has.
        abandon: a callable that is called when the stream's thread has not checked in for too long.
        clock: measures time.
        writer: a callable that writes to the browser during a delivery, or None if only the stream's thread
            may write.
    """

    def __init__(
        self,
        client_id: str,
        position: Position,
        abandon: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM,
        *,
        writer: DirectWriter | None = None,
    ) -> None:
        self.client_id = client_id
        self._writer = writer
        # Whether the stream's thread is waiting and therefore not writing.
        self._is_parked = False
        # The rest of a write that the socket accepted only partly.
        self._rest = b""
        self._written_at = clock.monotonic()
        self.abandon = abandon
        self.is_closed = False
        self._clock = clock
        self._condition = threading.Condition()
        self._waiting: list[Message] = []
        self._size = 0
        self._is_behind = False
        self._is_collecting = True
        self._taken = position
        self._touched_at = clock.monotonic()

    @property
    def is_behind(self) -> bool:
        """Whether messages must be read from Redis before the mailbox's own are used."""
        return self._is_behind

    @property
    def taken(self) -> Position:
        """The position of the last message handed out."""
        return self._taken

    @property
    def written_at(self) -> float:
        """The monotonic time of the last write by the reader."""
        return self._written_at

    def idle_seconds(self) -> float:
        """How long ago the stream's thread last checked in; by now it may be writing or stuck in a write."""
        return self._clock.monotonic() - self._touched_at

    def touch(self) -> None:
        """Record that the stream's thread is alive."""
        self._touched_at = self._clock.monotonic()

    def deliver(self, messages: Sequence[Message]) -> None:
        """Add messages, oldest first, except for those that the browser already has."""
        with self._condition:
            if self.is_closed or not self._is_collecting:
                return
            last = self._waiting[-1].position if self._waiting else self._taken
            if messages[0].position <= last:
                messages = [message for message in messages if message.position > last]
            if self._write_now(messages):
                return
            self._waiting.extend(messages)
            self._size += sum(len(message.frame) for message in messages)
            if self._size > CAPACITY_BYTES:
                self._drop()
            self._condition.notify()

    def _write_now(self, messages: Sequence[Message]) -> bool:
        """Write messages directly if the stream's thread is waiting and none are queued; True if written."""
        if self._writer is None or not messages or not self._is_parked:
            return False
        if self._waiting or self._rest or self._is_behind:
            return False
        rest = self._writer.write(b"".join([message.frame for message in messages]))
        if rest is None:
            return False
        self._taken = messages[-1].position
        self._written_at = self._clock.monotonic()
        if rest:
            self._rest = rest
            self._condition.notify()
        return True

    def finish_write(self) -> bool:
        """Send the rest of a partly accepted write; to be called by the stream's thread.

        Returns:
            Whether there was anything to send.

        Raises:
            OSError: the browser has disconnected.
        """
        rest, self._rest = self._rest, b""
        if not rest or self._writer is None:
            return False
        self._writer.finish(rest)
        self.touch()
        return True

    def _drop(self) -> None:
        self._waiting.clear()
        self._size = 0
        self._is_behind = True
        self._is_collecting = False

    def take(self, timeout_seconds: float) -> bytes:
        """All waiting messages in one piece; b"" if none arrived in time or a replay is needed."""
        self.touch()
        with self._condition:
            if not (self._waiting or self.is_closed or self._is_behind or self._rest):
                self._is_parked = True
                self._condition.wait(timeout_seconds)
                self._is_parked = False
            if self._is_behind or self._rest or not self._waiting:
                return b""
            frames = b"".join(message.frame for message in self._waiting)
            self._taken = self._waiting[-1].position
            self._waiting.clear()
            self._size = 0
            self.touch()
            return frames

    def fall_behind(self) -> None:
        """Request a replay from Redis of the messages that neither the browser nor the mailbox has."""
        with self._condition:
            self._is_behind = True

    def replay(self, read_page: Callable[[Position], Sequence[Message]], page_size: int) -> bytes:
        """The next page from Redis in one piece; the last page ends the replay.

        New messages are collected in the meantime, so there is neither a gap nor a repetition.

        Args:
            read_page: a callable that returns the messages after a position, at most ``page_size`` of them.
            page_size: a page with fewer messages is the last one.
        """
        self.touch()
        with self._condition:
            # From now on the mailbox collects messages; those sent earlier are in the page.
            self._is_collecting = True
        page = read_page(self._taken)
        with self._condition:
            if page:
                self._taken = page[-1].position
            self._waiting = [message for message in self._waiting if message.position > self._taken]
            self._size = sum(len(message.frame) for message in self._waiting)
            if len(page) < page_size and self._is_collecting:
                self._is_behind = False
        self.touch()
        return b"".join(message.frame for message in page)

    def close(self) -> None:
        """End the stream by waking its thread, which then sees ``is_closed``."""
        with self._condition:
            self.is_closed = True
            self._waiting.clear()
            self._condition.notify()
