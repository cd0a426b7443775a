"""One open stream: the body of an unfinished response."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lastacross import logs
from lastacross.channel import frames, streams
from lastacross.channel.mailbox import Mailbox
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import StoreUnavailableError

log = logs.get("lastacross.channel")


@dataclass(frozen=True)
class Limits:
    """The limits on a process's streams.

    ``check_seconds`` is the interval at which a silent stream checks whether its browser is still connected.
    """

    max_streams: int = 1_024
    max_streams_per_token: int = 64
    max_streams_per_client: int = 256
    heartbeat_seconds: float = 15.0
    life_seconds: float = 300.0
    check_seconds: float = 2.0
    retry_ms: int = 1_000
    retry_after_seconds: int = 5
    client_retry_after_seconds: int = 10


class EventStream:
    """An iterable of writes for the web server, which must call ``close`` (as WSGI requires).

    This is a class instead of a generator, because a generator that was never started does not run its
    ``finally``.

    Args:
        mailbox: the source of messages.
        preamble: the first write.
        ends_at: the monotonic time at which the browser has to reconnect.
        limits: the intervals of heartbeats and checks.
        release: a callable that gives back the stream's slot; it is called once.
        connection: the browser's socket, if the web server exposes it.
        clock: measures time.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        preamble: bytes,
        ends_at: float,
        limits: Limits,
        *,
        release: Callable[[], None],
        connection: socket.socket | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._mailbox = mailbox
        self._preamble = preamble
        self._ends_at = ends_at
        self._limits = limits
        self._release = release
        self._connection = connection
        self._clock = clock
        self._written_at = clock.monotonic()
        self._lock = threading.Lock()
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._mailbox.touch()
        if self._preamble:
            # Send it immediately, because the browser's `onopen` waits for the first byte.
            first, self._preamble = self._preamble, b""
            return first
        while not self._is_over():
            chunk = self._next_chunk()
            if chunk:
                self._written_at = self._clock.monotonic()
                self._mailbox.touch()
                return chunk
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the stream and give back its slot; calling it again is harmless."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._mailbox.close()
        self._release()

    def abandon(self) -> None:
        """End a stream whose thread is stuck in a write, by closing the socket so that the write returns."""
        self.close()
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _is_over(self) -> bool:
        return (
            self._mailbox.is_closed
            or self._clock.monotonic() >= self._ends_at
            or has_hung_up(self._connection)
        )

    def _next_chunk(self) -> bytes:
        """The next write, or b"" when it is time to check the connection."""
        is_behind = self._mailbox.is_behind
        chunk = self._replay() if is_behind else self._mailbox.take(self._limits.check_seconds)
        if chunk:
            return chunk
        if self._finish_write():
            return b""
        written_at = max(self._written_at, self._mailbox.written_at)
        is_silent = self._clock.monotonic() - written_at >= self._limits.heartbeat_seconds
        return frames.HEARTBEAT if is_silent else b""

    def _finish_write(self) -> bool:
        """Send the rest of the reader's write; returns whether there was anything to send."""
        try:
            return self._mailbox.finish_write()
        except OSError:
            # The browser has disconnected. This can happen during any write.
            self._mailbox.close()
            return True

    def _replay(self) -> bytes:
        try:
            return self._mailbox.replay(
                lambda position: streams.page_after(self._mailbox.client_id, position), streams.PAGE
            )
        except StoreUnavailableError as error:
            # The browser reconnects and continues where it left off.
            log.warning("channel.replay_failed", reason=str(error))
            self._mailbox.close()
            return b""


def has_hung_up(connection: socket.socket | None) -> bool:
    """Whether the browser has closed its end of the connection; False if that cannot be detected.

    Without this check, only the second write would detect it, two heartbeats later.
    """
    # A TLS socket cannot be checked without blocking or decrypting.
    if type(connection) is not socket.socket:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True
