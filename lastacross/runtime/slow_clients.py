"""Clients that are slow to begin, to send, to read, or to hang up. None of them holds a thread for long.

gunicorn bounds each wait for the next bytes, not how many waits there are. It gives a silent connection a
thread for five seconds, and waits for the end of each in its main loop, where it takes new ones.
"""

import contextlib
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from gunicorn import util
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread
from gunicorn.workers.gthread import TConn

from lastacross.clock import SYSTEM, Clock
from lastacross.webapp.body_limit import SlowClientError

# nginx allows 60 s for the headers, Apache's mod_reqtimeout 20 to 40.
HEAD_SECONDS = 20.0
# Apache: 20 s, and 500 bytes a second.
BODY_SECONDS = 10.0
MIN_BYTES_PER_SECOND = 1_000
# Who has sent or read much may pause for so long, not for all that it was quicker than it had to be.
MAX_PAUSE_SECONDS = 20.0
# A request that takes longer to arrive counts among the slow ones of its network.
SLOW_SECONDS = 2.0
# So long a thread waits for the first byte of a new connection; the main loop waits on.
FIRST_BYTE_MILLISECONDS = 10

MAX_LINGER_SECONDS = 2.0
MAX_LINGER_BYTES = 33_554_432
_LINGER_PAUSE_MILLISECONDS = 250
_CHUNK_BYTES = 65_536

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
        self._is_slow = False
        self._is_body = False
        # 0 until the first bytes are asked for: between requests no time runs.
        self._slow_at = self._ends_at = 0.0

    def await_head(self) -> None:
        """Begin with the next request."""
        self._is_body, self._ends_at = False, 0.0
        if self._is_slow:
            self.forget()

    def await_body(self) -> None:
        """Go on with its body."""
        self._is_body, self._ends_at = True, 0.0
        if self._is_slow:
            self.forget()

    def forget(self) -> None:
        """Count the request among the slow ones no more."""
        if self._network is not None:
            self._slow.remove(self._network)
        self._network, self._is_slow = None, False

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
        if self._is_slow and size_hint and len(data) >= size_hint:
            # That was all of a body: what its handler does with it takes its own time.
            self.forget()
        return data

    def _wait_and_receive(self, size: int, now: float) -> bytes:
        if not self._is_slow:
            # Where its network has as many as it may have, nobody waits for one more.
            seconds = 0.0 if self._slow.is_full(self._peer) else max(self._slow_at - now, 0.0)
            if not is_readable(self.sock, int(seconds * 1000)):
                self._count()
        data: bytes = self.sock.recv(size)
        return data

    def _count(self) -> None:
        if not self._is_slow:
            self._network = self._slow.add(self._peer)
            self._is_slow = True


class Connection(TConn):  # type: ignore[misc]
    """gunicorn's, whose requests arrive in time, and whose end nobody waits for in the main loop."""

    data_ready: bool
    slow: SlowRequests
    input: Input | None = None

    def init(self) -> None:
        """Make ready to read; called in a thread."""
        super().init()
        if self.input is None:
            self.input = self.parser.unreader = Input(self.sock, self.client, self.slow)

    def wait_for_data(self, _timeout: float) -> bool:
        """Whether the first bytes are there, or come at once."""
        if not self.data_ready:
            self.data_ready = is_readable(self.sock, FIRST_BYTE_MILLISECONDS)
        return self.data_ready

    def close(self, graceful: bool = False) -> None:
        """Close it: ``hang_up`` has done all that takes time."""
        util.close(self.sock)


def use(slow: SlowRequests) -> None:
    """Let gunicorn make such connections, in this process and those that it forks.

    Args:
        slow: counts the slow ones of a process.
    """
    Connection.slow = slow
    gthread.TConn = Connection
    util.write = write


def write(connection: socket.socket, data: bytes, chunked: bool = False) -> None:
    """Send, as a chunk of a body or as it is; called by gunicorn.

    Raises:
        BlockingIOError: the client reads too slowly, or its network has too many that are slow.
        OSError: the connection is broken.
    """
    if chunked:
        data = b"%X\r\n%b\r\n" % (len(data), data)
    try:
        sent = connection.send(data, socket.MSG_DONTWAIT)
    except BlockingIOError:
        sent = 0
    if sent < len(data):
        _write_slowly(connection, memoryview(data)[sent:])


def _write_slowly(connection: socket.socket, rest: memoryview) -> None:
    begun_at = SYSTEM.monotonic()
    ends_at = begun_at + BODY_SECONDS
    with contextlib.ExitStack() as stack:
        is_slow = False
        while rest:
            if not is_slow and SYSTEM.monotonic() > begun_at + SLOW_SECONDS:
                is_slow = True
                stack.enter_context(Connection.slow.counted(connection.getpeername()))
            if SYSTEM.monotonic() > ends_at:
                raise BlockingIOError("the client reads its answer too slowly")
            seconds = BODY_SECONDS if is_slow else SLOW_SECONDS
            if is_ready(connection, select.POLLOUT, int(seconds * 1000) + 1):
                sent = connection.send(rest, socket.MSG_DONTWAIT)
                rest = rest[sent:]
                credit = ends_at + sent / MIN_BYTES_PER_SECOND
                ends_at = min(credit, max(ends_at, SYSTEM.monotonic() + MAX_PAUSE_SECONDS))
            elif is_slow:
                raise BlockingIOError("the client does not read its answer")


def is_readable(connection: socket.socket, milliseconds: int) -> bool:
    """Whether something comes, or the end, within this time."""
    return is_ready(connection, select.POLLIN, milliseconds)


def is_ready(connection: socket.socket, events: int, milliseconds: int) -> bool:
    """Whether one of these events of ``poll`` comes, or the end, within this time."""
    waiting = select.poll()
    waiting.register(connection, events)
    return bool(waiting.poll(milliseconds))


def has_unread_body(request: Any) -> bool:
    """Whether a part of gunicorn's request is still to come: then its connection is good for no other."""
    reader = request.body.reader
    try:
        left = reader.length
    except AttributeError:
        # Of chunks: gunicorn drops the parser at their end.
        return reader.parser is not None
    return bool(left and (request.body.failed or left > request.unreader.buf.getbuffer().nbytes))


def hang_up(connection: socket.socket, peer: Any, *, is_all_read: bool) -> None:
    """Say that nothing more comes, and read for a moment what the client may still send.

    Else the kernel resets the connection, and the client may not see the answer; a proxy answers 502 then. It
    counts as a slow request: for a network that has as many as it may have, nobody waits.

    Args:
        connection: to be closed next.
        peer: the other side's address.
        is_all_read: the request was; then nothing more is expected.
    """
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        if is_all_read and not is_readable(connection, 0):
            return
        with Connection.slow.counted(peer):
            _linger(connection)


def _linger(connection: socket.socket) -> None:
    ends_at, left = SYSTEM.monotonic() + MAX_LINGER_SECONDS, MAX_LINGER_BYTES
    while left > 0 and SYSTEM.monotonic() < ends_at and is_readable(connection, _LINGER_PAUSE_MILLISECONDS):
        data = connection.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
        if not data:
            return
        left -= len(data)
