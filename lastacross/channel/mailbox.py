"""What one open stream is still to write.

The reader delivers, the stream's thread takes. While that thread only waits, the reader writes to the
browser itself: to wake a thread for each message takes longer than all the rest (docs/internals.md).
A browser that is slower than its messages costs a bounded amount of memory: when its mailbox is full it
is emptied, and the stream reads on from Redis at the browser's own pace, until it has caught up.
"""

import threading
from collections.abc import Callable, Sequence

from lastacross.channel.direct import DirectWriter
from lastacross.channel.frames import Message, Position
from lastacross.clock import SYSTEM, Clock

CAPACITY_BYTES = 131_072


class Mailbox:
    """Messages of one client id on their way to one browser.

    Args:
        client_id: whose messages.
        position: the last message that the browser has.
        abandon: called when the stream's thread has not been seen for too long.
        clock: what the time is.
        writer: to the browser, for whoever delivers; None: the stream's thread alone may write.
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
        # Whether the stream's thread waits, and so writes nothing.
        self._is_parked = False
        # Of a write that the socket took a part of.
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
        """Whether messages must be read from Redis before those of the mailbox."""
        return self._is_behind

    @property
    def taken(self) -> Position:
        """The last message that was handed out."""
        return self._taken

    @property
    def written_at(self) -> float:
        """Monotonic instant of the last write that was not the stream's own."""
        return self._written_at

    def idle_seconds(self) -> float:
        """How long the stream's thread has not been here: it writes, or hangs in writing."""
        return self._clock.monotonic() - self._touched_at

    def touch(self) -> None:
        """Note that the stream's thread lives."""
        self._touched_at = self._clock.monotonic()

    def deliver(self, messages: Sequence[Message]) -> None:
        """Put in messages, oldest first; those that the browser has already are left out."""
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
        """Write them, if the stream's thread waits and nothing waits for it; whether that was done."""
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
        """Send what is left of a write that the socket took a part of; for the stream's thread.

        Returns:
            Whether there was something.

        Raises:
            OSError: the browser is gone.
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
        """All that waits, in one piece; nothing when nothing came in time, or it must be replayed."""
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
        """Ask for a replay from Redis of what lies between the browser and the mailbox."""
        with self._condition:
            self._is_behind = True

    def replay(self, read_page: Callable[[Position], Sequence[Message]], page_size: int) -> bytes:
        """The next page out of Redis, in one piece; the last page ends the replay.

        Messages that come meanwhile are collected: there is neither a gap nor a repetition.

        Args:
            read_page: the messages after a position, at most ``page_size`` of them.
            page_size: fewer than these are the last ones.
        """
        self.touch()
        with self._condition:
            # From here on the mailbox collects, and what was sent before is in the page.
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
        """End the stream: its thread wakes and finds ``is_closed``."""
        with self._condition:
            self.is_closed = True
            self._waiting.clear()
            self._condition.notify()
