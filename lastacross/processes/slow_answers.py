"""Answers that their clients do not read immediately: how long they may take."""

import fcntl
import select
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Any

from lastacross.clock import SYSTEM, Clock
from lastacross.processes import slow_requests
from lastacross.webapp import SlowClientError

# How often to measure what a client has read: the socket is writable only when a third of its buffer is free.
PROGRESS_MILLISECONDS = 500


class Answer:
    """An answer that its client does not read immediately, over all the writes that it is made of.

    Only the time counts in which a thread waits for the client.

    Args:
        peer: the other side's address.
        slow: counts the slow ones.
        is_stream: never count it. The event streams of a network have a limit of their own.
        clock: whose time it is.
    """

    def __init__(
        self, peer: Any, slow: slow_requests.SlowRequests, *, is_stream: bool, clock: Clock = SYSTEM
    ) -> None:
        self._peer = peer
        self._slow = slow
        self._clock = clock
        self._network: str | None = None
        self._is_counted = is_stream
        self._waited = 0.0
        # What it has read before the first wait is not known: the kernel has taken it.
        self._left = slow_requests.MAX_PAUSE_SECONDS

    def write(self, connection: socket.socket, rest: memoryview) -> None:
        """Send the rest of a write as the client reads.

        Raises:
            BlockingIOError: the client reads too slowly, or its network has too many that are slow.
            OSError: the connection is broken.
        """
        queued = _queued_bytes(connection)
        while rest:
            begun_at = self._clock.monotonic()
            is_writable = slow_requests.is_ready(connection, select.POLLOUT, PROGRESS_MILLISECONDS)
            sent = _send(connection, rest) if is_writable else 0
            rest, queued_before, queued = rest[sent:], queued, _queued_bytes(connection)
            self.add(self._clock.monotonic() - begun_at, queued_before + sent - queued)

    def add(self, seconds: float, read: int) -> None:
        """Note how long a thread has waited, and how many bytes the client has read meanwhile.

        Raises:
            BlockingIOError: the client reads too slowly, or its network has too many that are slow.
        """
        self._waited += seconds
        credit = self._left + max(read, 0) / slow_requests.MIN_BYTES_PER_SECOND
        self._left = min(credit, slow_requests.MAX_PAUSE_SECONDS) - seconds
        if self._left < 0:
            raise BlockingIOError("the client reads its answer too slowly")
        if not self._is_counted and self._waited > slow_requests.SLOW_SECONDS:
            try:
                self._network = self._slow.add(self._peer)
            except SlowClientError as error:
                raise BlockingIOError(str(error)) from error
            self._is_counted = True

    def end(self) -> None:
        """Remove it from the slow ones of its network."""
        if self._network is not None:
            self._slow.remove(self._network)
            self._network = None


def is_event_stream(headers: Sequence[tuple[str, str]]) -> bool:
    """Whether an answer with these headers is one of server-sent events."""
    kinds = (value for name, value in headers if name.lower() == "content-type")
    return any(kind.lower().startswith("text/event-stream") for kind in kinds)


def _send(connection: socket.socket, data: memoryview) -> int:
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


def _queued_bytes(connection: socket.socket) -> int:
    """How many bytes the kernel keeps that the client has not accepted; 0 where it does not say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0
