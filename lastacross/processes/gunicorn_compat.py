"""Our changes to gunicorn; tests/unit/test_gunicorn_compat.py lists the versions that they work with.

gunicorn bounds each wait for the next bytes, but not the number of waits. It gives a silent connection a
thread for five seconds, and it waits for the end of each connection in the main loop, which also accepts new
ones. It has no setting for the ``Server`` header or for its error pages for unreadable requests, which bypass
our layers. That is why we replace its connections, responses and worker, so that no client can hold a thread
for long.
"""

import contextlib
import functools
import html
import logging
import selectors
import signal
import socket
import struct
import sys
import threading
from http import HTTPStatus
from types import FrameType
from typing import Any

from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread
from gunicorn.workers.gthread import TConn, ThreadWorker

from lastacross import logs, runtime
from lastacross.channel import end_streams
from lastacross.clock import SYSTEM, Clock
from lastacross.processes import slow_clients
from lastacross.processes.connection_shares import ConnectionShares
from lastacross.processes.shutdown_hook import call_hook
from lastacross.processes.slow_clients import Answer, SlowRequests, is_event_stream, is_readable
from lastacross.webapp import BODY_RECEIVED, DEFAULTS, Body, Environ, SlowClientError, Start, Wsgi

# How long a thread waits for a new connection's first byte before returning it to the main loop.
FIRST_BYTE_MILLISECONDS = 10
# A client that stalls in the middle of its request loses its thread after this long.
SILENCE_SECONDS = 10
# How long a thread waits for the connection's next request before returning it to the main loop. Going
# through the loop to another thread costs as much as a short response.
LINGER_MILLISECONDS = 10
# How long to leave a new connection to a less loaded process, per surplus connection, and how many times at
# most.
YIELD_SECONDS = 0.001
MAX_YIELDS = 5
# A process that has yielded that many times without effect does not yield again for this long.
TAKES_ALL_SECONDS = 1.0

# How often a process that is stopping checks whether it may exit.
STOPPING_TICK_SECONDS = 0.1

MAX_LINGER_SECONDS = 2.0
MAX_LINGER_BYTES = 33_554_432
_LINGER_PAUSE_MILLISECONDS = 250
_CHUNK_BYTES = 65_536

_HEADERS = (
    ("Connection", "close"),
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    *DEFAULTS,
)
_PAGE = "<!doctype html>\n<html lang=en><title>{title}</title>\n<h1>{title}</h1>\n<p>{message}</p>\n"

_shares = ConnectionShares()

_log = logs.get("lastacross.web")


def use(slow: SlowRequests, *, stopping_linger_seconds: float) -> None:
    """Make gunicorn use our connections and responses in this process and its forks.

    Args:
        slow: the counter of slow requests.
        stopping_linger_seconds: how long a process that is stopping waits for a request on an idle
            connection.
    """
    global _shares
    # Memory shared earlier, by a process from which this one was forked, may hold unrelated numbers.
    _shares = ConnectionShares()
    Connection.slow = slow
    gthread.STOP_KEEPALIVE_LINGER = stopping_linger_seconds
    gthread.TConn = Connection
    wsgi.Response = _Response
    util.write = write
    util.write_chunk = write_chunk
    util.write_error = write_error


# --- connections ---------------------------------------------------------------------------


class Input(SocketUnreader):  # type: ignore[misc]
    """Reads a connection's requests as they arrive, with a time limit for each."""

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
        # This is 0 until the first bytes are requested, because the time between requests does not count.
        self._slow_at = self._ends_at = 0.0

    def await_head(self) -> None:
        """Start timing the next request."""
        self._is_body, self._ends_at, self._is_received = False, 0.0, False
        if self.is_slow:
            self.forget()

    def await_body(self) -> None:
        """Start timing the request's body."""
        self._is_body, self._ends_at, self._is_received = True, 0.0, False
        if self.is_slow:
            self.forget()

    def end_body(self) -> None:
        """Stop timing, because the body is complete and the handler's time does not count."""
        self._is_received = True
        if self.is_slow:
            self.forget()

    def forget(self) -> None:
        """Remove the request from its network's slow requests."""
        if self._network is not None:
            self._slow.remove(self._network)
        self._network, self.is_slow = None, False

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes; called by gunicorn.

        Raises:
            SlowClientError: the request took too long, or its network has too many slow requests.
            OSError: nothing arrived for a while, or the connection is broken.
        """
        now = self._clock.monotonic()
        if not self._ends_at:
            self._slow_at = now + slow_clients.SLOW_SECONDS
            self._ends_at = now + (slow_clients.BODY_SECONDS if self._is_body else slow_clients.HEAD_SECONDS)
        elif now > self._ends_at:
            raise SlowClientError(slow_clients.TOO_SLOW)
        elif now > self._slow_at:
            self._count()
        size = min(size_hint, self.max_body_chunk) if size_hint and size_hint > self.mxchunk else self.mxchunk
        try:
            data: bytes = self.sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            data = self._wait_and_receive(size, now)
        if self._is_body:
            credit = self._ends_at + len(data) / slow_clients.MIN_BYTES_PER_SECOND
            self._ends_at = min(
                credit, max(self._ends_at, self._clock.monotonic() + slow_clients.MAX_PAUSE_SECONDS)
            )
        return data

    def _wait_and_receive(self, size: int, now: float) -> bytes:
        if not self.is_slow:
            seconds = max(self._slow_at - now, 0.0)
            if self._slow.is_full(self._peer):
                seconds = min(seconds, slow_clients.FULL_SECONDS)
            if not is_readable(self.sock, int(seconds * 1000)):
                self._count()
        data: bytes = self.sock.recv(size)
        return data

    def _count(self) -> None:
        if not self.is_slow and not self._is_received:
            self._network = self._slow.add(self._peer)
            self.is_slow = True


class _Thread(threading.local):
    """The thread's current connection; it is stored because gunicorn's functions get only the socket."""

    connection: "Connection | None" = None


_thread = _Thread()


class Connection(TConn):  # type: ignore[misc]
    """gunicorn's connection with time limits for requests; closing it does not make the main loop wait."""

    data_ready: bool
    slow: SlowRequests
    input: Input | None = None
    answer: Answer | None = None

    def init(self) -> None:
        """Prepare the connection for reading; called in a thread."""
        super().init()
        if self.input is None:
            self.input = self.parser.unreader = Input(self.sock, self.client, self.slow)
        _thread.connection = self

    def end_answer(self) -> None:
        """Reset the timing for the next response."""
        if self.answer is not None:
            self.answer.end()
            self.answer = None

    def leave_thread(self) -> None:
        """Stop counting the connection until its next request; called whatever has happened."""
        _thread.connection = None
        self.end_answer()
        if self.input is not None:
            self.input.await_head()

    def wait_for_data(self, _timeout: float) -> bool:
        """Whether the first bytes have already arrived or arrive immediately."""
        if not self.data_ready:
            self.data_ready = is_readable(self.sock, FIRST_BYTE_MILLISECONDS)
        return self.data_ready

    def hang_up(self) -> None:
        """Do all the slow work that must precede ``close``."""
        request = self.parser and self.parser.mesg
        is_all_read = not request or not has_unread_body(request)
        hang_up(self.sock, self.client, is_all_read=is_all_read)

    def close(self, graceful: bool = False) -> None:
        """Close the connection; ``hang_up`` has already done the slow work."""
        util.close(self.sock)


def telling(application: Wsgi) -> Wsgi:
    """The application, extended so that it reports when it has received a body."""

    def told(environ: Environ, start_response: Start) -> Body:
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            connection = _thread.connection
            if connection is not None and connection.input is not None:
                environ[BODY_RECEIVED] = connection.input.end_body
        return application(environ, start_response)

    return told


def has_unread_body(request: Any) -> bool:
    """Whether part of the request has yet to arrive, in which case its connection cannot be reused."""
    reader = request.body.reader
    try:
        left = reader.length
    except AttributeError:
        # This is needed for chunked bodies, because gunicorn drops the parser at their end.
        return reader.parser is not None
    return bool(left and (request.body.failed or left > request.unreader.buf.getbuffer().nbytes))


def hang_up(connection: socket.socket, peer: Any, *, is_all_read: bool) -> None:
    """Announce the end of our data, and briefly read anything that the client is still sending.

    Otherwise the kernel resets the connection and the client may miss the response; a proxy then sends a 502.
    The wait counts as a slow request, and is skipped for a network that already has the maximum number of
    slow requests.

    Args:
        connection: the socket that is about to be closed.
        peer: the other side's address.
        is_all_read: whether the whole request was read, so that no more data is expected.
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


# --- responses -----------------------------------------------------------------------------


class _Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's response without its name; it closes the connection unless the whole request was read."""

    def default_headers(self) -> list[str]:
        """The status line and the headers set by the server."""
        if has_unread_body(self.req):
            # The rest of a request must never be mistaken for the next request.
            self.force_close()
        # These headers show whether the response is an event stream.
        self.req.answer_headers = self.headers
        return [line for line in super().default_headers() if not line.startswith("Server:")]


def write_error(sock: Any, status: int, _reason: str, message: str) -> None:
    """Answer an unreadable request with the reason; called by gunicorn instead of its own function.

    Raises:
        OSError: the client has disconnected or is not reading.
    """
    title = f"{status} {HTTPStatus(status).phrase}"
    page = _PAGE.format(title=title, message=html.escape(message)).encode("ascii", "xmlcharrefreplace")
    lines = [
        f"HTTP/1.1 {title}",
        *(f"{name}: {value}" for name, value in _HEADERS),
        f"Content-Length: {len(page)}",
    ]
    # Never wait for the client; the page fits into an empty send buffer.
    sock.send("\r\n".join([*lines, "", ""]).encode("ascii") + page, socket.MSG_DONTWAIT)


def write(connection: socket.socket, data: bytes, chunked: bool = False) -> None:
    """Send data unchanged or as a chunk of a body; called by gunicorn.

    Raises:
        BlockingIOError: the client reads too slowly, or its network has too many slow clients.
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


def write_chunk(connection: socket.socket, data: bytes) -> None:
    """Send a chunk of a body, or its end; called by gunicorn. Raises the same errors as ``write``."""
    write(connection, data, chunked=True)


def _write_slowly(connection: socket.socket, rest: memoryview) -> None:
    served = _thread.connection
    if served is not None and served.sock is connection:
        if served.answer is None:
            is_stream = is_event_stream(getattr(served.parser.mesg, "answer_headers", ()))
            served.answer = Answer(served.client, served.slow, is_stream=is_stream)
        served.answer.write(connection, rest)
        return
    answer = Answer(connection.getpeername(), Connection.slow, is_stream=False)
    try:
        answer.write(connection, rest)
    finally:
        answer.end()


# --- the worker ----------------------------------------------------------------------------


class GunicornWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's thread worker, changed so that no client can hold a thread for long.

    When it has to stop, it ends the browsers' streams, which would otherwise outlast the grace period. It
    always drops clients that begin a request and then fall silent. It leaves new connections to processes
    that have fewer.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Workers are created in the parent, one at a time, before each process is forked."""
        super().__init__(*args, **options)
        self.share = _shares.take()
        self._takes_all_until = 0.0
        self._ends_pending_at: float | None = None

    def init_signals(self) -> None:
        """Handle signals; called in the new process. SIGHUP, sent when a terminal closes, also stops it."""
        is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else self.handle_exit)
        signal.siginterrupt(signal.SIGHUP, False)

    def notify(self) -> None:
        """Report that this process is alive; called in each iteration of its main loop."""
        if self.alive:
            _shares.note(self.share, self.nr_conns)
        else:
            self._cap_pending()
        super().notify()

    def _cap_pending(self) -> None:
        """Close connections that have not sent a byte after the same time as kept-alive ones.

        Browsers open them in advance. gunicorn would wait for each of them as long as it does while serving.
        """
        if self._ends_pending_at is None:
            self._ends_pending_at = SYSTEM.monotonic() + gthread.STOP_KEEPALIVE_LINGER
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, self._ends_pending_at)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, but only briefly while the process is stopping, as connections may time out."""
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, STOPPING_TICK_SECONDS))

    def accept(self, listener: Any) -> None:
        """Accept a connection, unless another process has already accepted it."""
        has_to_yield = SYSTEM.monotonic() >= self._takes_all_until
        waits = min(_shares.surplus(self.share), MAX_YIELDS) if has_to_yield else 0
        if waits > 0:
            threading.Event().wait(YIELD_SECONDS * waits)
        before = self.nr_conns
        super().accept(listener)
        if waits == MAX_YIELDS and self.nr_conns > before:
            # No other process took the connection, so the others are stuck or busier than their numbers
            # suggest.
            self._takes_all_until = SYSTEM.monotonic() + TAKES_ALL_SECONDS
        if self.alive:
            _shares.note(self.share, self.nr_conns)

    def finish_request(self, conn: Any, future: Any) -> None:
        """Take a connection back from its thread; called in the main thread.

        A stopping process keeps a new connection briefly, because the client may be sending its request.
        gunicorn closes it at once.
        """
        is_silent = not self.alive and not future.cancelled() and future.exception() is None
        if not is_silent or future.result() is not gthread._DEFER:
            super().finish_request(conn, future)
            return
        conn.sock.setblocking(False)
        conn.timeout = SYSTEM.monotonic() + gthread.STOP_KEEPALIVE_LINGER
        self.pending_conns.append(conn)
        readable = functools.partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def handle(self, conn: Any) -> Any:
        """Serve a connection's next request and any that follow it closely; called in a thread."""
        # Set the kernel's time-out, because gunicorn clears the socket's own.
        silence = struct.pack("ll", SILENCE_SECONDS, 0)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, silence)
        # This covers data that does not pass through gunicorn, because streams write to the socket directly.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, silence)
        kept: Any = False
        try:
            kept = super().handle(conn)
            while kept is True and self._asks_again_soon(conn):
                kept = super().handle(conn)
        finally:
            # A kept-alive connection may start its next request, unless the rest of the previous one was
            # slow.
            if kept is not True or conn.input.is_slow:
                conn.leave_thread()
            if kept is False:
                conn.hang_up()
        return kept

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose headers have arrived."""
        conn.input.await_body()
        kept = super().handle_request(req, conn)
        if conn.answer is not None:
            conn.end_answer()
        conn.input.await_head()
        return kept

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request whose headers are unreadable or have not arrived."""
        if isinstance(exc, SlowClientError):
            _log.info("web.slow_client", address=addr[0] if isinstance(addr, tuple) else None, error=str(exc))
            # The client may have disconnected.
            with contextlib.suppress(OSError):
                write_error(client, exc.status, "", str(exc))
        else:
            super().handle_error(req, client, addr, exc)
            hang_up(client, addr, is_all_read=False)

    def _asks_again_soon(self, conn: Any) -> bool:
        """Wait briefly for a kept-alive connection's next request; returns whether it arrived.

        It waits only while there is a thread for each connection, so that no other connection needs this one.
        """
        if not self.alive or self.nr_conns >= self.cfg.threads or conn.parser.unreader.buf.getvalue():
            return False
        return is_readable(conn.sock, LINGER_MILLISECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; called as a signal handler."""
        runtime.PROCESS.begin()
        _shares.leave(self.share)
        end_streams()
        # Leave this to the main loop, because a signal handler must not start a thread if it may itself
        # interrupt the start of one.
        if self.alive:
            self.method_queue.defer(_begin_hook)
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until told to stop, and finish running requests."""
        super().run()
        # The main loop may have ended without another iteration.
        _begin_hook()


def give_back_share(_arbiter: Any, worker: GunicornWorker) -> None:
    """Free this process's slot for another one; called by gunicorn after the process has exited."""
    _shares.give_back(worker.share)


def _begin_hook() -> None:
    """Call the application's shutdown hook once, while requests are still being served.

    The process waits for the hook, but gunicorn kills it if its grace period is not long enough.
    """
    if runtime.PROCESS.has_begun:
        threading.Thread(target=call_hook, name="shutdown-hook").start()


class GunicornLogger(Logger):  # type: ignore[misc]
    """Writes gunicorn's log lines in our format and omits its start messages."""

    def setup(self, cfg: Any) -> None:
        """Forward everything to the root logger."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        """Log an exception, unless a client has fallen silent, because that is not our fault."""
        if not isinstance(sys.exc_info()[1], BlockingIOError):
            super().exception(msg, *args, **kwargs)
