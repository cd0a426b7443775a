"""Requests as they arrive: how long they may take, and how many slow ones a network may have."""

import contextlib
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from gunicorn.http.unreader import SocketUnreader

from lastacross.clock import SYSTEM, Clock
from lastacross.webapp import SlowClientError

# nginx allows 60 s for the headers, Apache's mod_reqtimeout 20 to 40.
HEAD_SECONDS = 20.0
# Apache: 20 s, and 500 bytes a second.
BODY_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 1_000
# The longest pause of a client that has sent or read much, however quick it was before.
MAX_PAUSE_SECONDS = 20.0
# A request that takes longer to arrive counts among the slow ones of its network.
SLOW_SECONDS = 2.0
# How long a request may pause when its network has its share of slow ones: a body may be a packet of its own.
FULL_SECONDS = 0.2

_TOO_SLOW = (
    f"The request came too slowly: its headers may take {HEAD_SECONDS:.0f} s, its body {BODY_SECONDS:.0f} s "
    f"and one more for each {MIN_BYTES_PER_SECOND:,} bytes."
)


class SlowRequests:
    """Counts the requests of a process that are slow to arrive; each holds a thread.

    Args:
        max_per_network: how many one network may have at once.
        network_of: the network of a peer's address; None for one whose requests are not counted.
    """

    def __init__(self, max_per_network: int, network_of: Callable[[Any], str | None]) -> None:
        self._max_per_network = max_per_network
        self._network_of = network_of
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, peer: Any) -> str | None:
        """Count one; its network, to be given to ``remove``, None if it is not counted.

        Raises:
            SlowClientError: its network has as many as it may have.
        """
        network = self._network_of(peer)
        if network is None:
            return None
        with self._lock:
            if self._counts[network] >= self._max_per_network:
                most = (
                    f"{self._max_per_network:,} requests that take more than {SLOW_SECONDS:.0f} s to arrive"
                )
                raise SlowClientError(f"Your network has {most}, and may have no more at once.")
            self._counts[network] += 1
        return network

    @contextlib.contextmanager
    def counted(self, peer: Any) -> Iterator[None]:
        """Count one for the block.

        Raises:
            BlockingIOError: its network has as many as it may have.
        """
        try:
            network = self.add(peer)
        except SlowClientError as error:
            raise BlockingIOError(str(error)) from error
        try:
            yield
        finally:
            if network is not None:
                self.remove(network)

    def is_full(self, peer: Any) -> bool:
        """Whether ``add`` would refuse one."""
        network = self._network_of(peer)
        return network is not None and self._counts[network] >= self._max_per_network

    def remove(self, network: str) -> None:
        """Do not count one any more."""
        with self._lock:
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]


class Input(SocketUnreader):  # type: ignore[misc]
    """The requests of a connection as they arrive, each in its time.

    Args:
        connection: its socket.
        peer: the other side's address.
        slow: counts those that are slow.
        clock: whose time it is.
    """

    def __init__(
        self, connection: socket.socket, peer: Any, slow: SlowRequests, clock: Clock = SYSTEM
    ) -> None:
        super().__init__(connection)
        self._peer = peer
        self._slow = slow
        self._clock = clock
        self._network: str | None = None
        self.is_slow = self._is_received = False
        self._is_body = False
        # 0 until the first bytes are asked for: between requests no time runs.
        self._slow_at = self._ends_at = 0.0

    def await_head(self) -> None:
        """Begin with the next request."""
        self._is_body, self._ends_at, self._is_received = False, 0.0, False
        if self.is_slow:
            self.forget()

    def await_body(self) -> None:
        """Go on with its body."""
        self._is_body, self._ends_at, self._is_received = True, 0.0, False
        if self.is_slow:
            self.forget()

    def end_body(self) -> None:
        """Do not count the rest of the request: its body is complete, and its handler takes its own time."""
        self._is_received = True
        if self.is_slow:
            self.forget()

    def forget(self) -> None:
        """Remove the request from the slow ones of its network."""
        if self._network is not None:
            self._slow.remove(self._network)
        self._network, self.is_slow = None, False

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes; called by gunicorn.

        Raises:
            SlowClientError: the request took too long, or its network has too many that are slow.
            OSError: nothing came for a while, or the connection is broken.
        """
        now = self._clock.monotonic()
        if not self._ends_at:
            self._slow_at = now + SLOW_SECONDS
            self._ends_at = now + (BODY_SECONDS if self._is_body else HEAD_SECONDS)
        elif now > self._ends_at:
            raise SlowClientError(_TOO_SLOW)
        elif now > self._slow_at:
            self._count()
        size = min(size_hint, self.max_body_chunk) if size_hint and size_hint > self.mxchunk else self.mxchunk
        try:
            data: bytes = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            data = self._wait_and_receive(size, now)
        if self._is_body:
            credit = self._ends_at + len(data) / MIN_BYTES_PER_SECOND
            self._ends_at = min(credit, max(self._ends_at, self._clock.monotonic() + MAX_PAUSE_SECONDS))
        return data

    def _wait_and_receive(self, size: int, now: float) -> bytes:
        if not self.is_slow:
            seconds = max(self._slow_at - now, 0.0)
            if self._slow.is_full(self._peer):
                seconds = min(seconds, FULL_SECONDS)
            if not is_readable(self.sock, int(seconds * 1000)):
                self._count()
        data: bytes = self.sock.recv(size)
        return data

    def _count(self) -> None:
        if not self.is_slow and not self._is_received:
            self._network = self._slow.add(self._peer)
            self.is_slow = True


def is_readable(connection: socket.socket, milliseconds: int) -> bool:
    """Whether something comes, or the end, within this time."""
    return is_ready(connection, select.POLLIN, milliseconds)


def is_ready(connection: socket.socket, events: int, milliseconds: int) -> bool:
    """Whether one of these events of ``poll`` comes, or the end, within this time."""
    waiting = select.poll()
    waiting.register(connection, events)
    return bool(waiting.poll(milliseconds))
