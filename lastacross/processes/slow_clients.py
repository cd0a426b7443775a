"""Clients that are slow to begin, to send, to read, or to hang up. None of them holds a thread for long.

gunicorn bounds each wait for the next bytes, not how many waits there are. It gives a silent connection a
thread for five seconds, and waits for the end of each in its main loop, where it takes new ones.
"""

import contextlib
import socket
import threading
from typing import Any

from gunicorn import util
from gunicorn.workers import gthread
from gunicorn.workers.gthread import TConn

from lastacross.clock import SYSTEM
from lastacross.processes.slow_answers import Answer, is_event_stream
from lastacross.processes.slow_requests import Input, SlowRequests, is_readable
from lastacross.webapp import BODY_RECEIVED, Body, Environ, Start, Wsgi

# How long a thread waits for the first byte of a new connection before it goes back to the main loop.
FIRST_BYTE_MILLISECONDS = 10

MAX_LINGER_SECONDS = 2.0
MAX_LINGER_BYTES = 33_554_432
_LINGER_PAUSE_MILLISECONDS = 250
_CHUNK_BYTES = 65_536


class _Thread(threading.local):
    """The connection that a thread serves: gunicorn's functions get only the socket."""

    connection: "Connection | None" = None


_thread = _Thread()


class Connection(TConn):  # type: ignore[misc]
    """gunicorn's, whose requests arrive in time, and whose end nobody waits for in the main loop."""

    data_ready: bool
    slow: SlowRequests
    input: Input | None = None
    answer: Answer | None = None

    def init(self) -> None:
        """Make ready to read; called in a thread."""
        super().init()
        if self.input is None:
            self.input = self.parser.unreader = Input(self.sock, self.client, self.slow)
        _thread.connection = self

    def end_answer(self) -> None:
        """Begin the next answer from zero."""
        if self.answer is not None:
            self.answer.end()
            self.answer = None

    def leave_thread(self) -> None:
        """Count nothing of it until its next request; called whatever has happened."""
        _thread.connection = None
        self.end_answer()
        if self.input is not None:
            self.input.await_head()

    def wait_for_data(self, _timeout: float) -> bool:
        """Whether the first bytes are there, or come immediately."""
        if not self.data_ready:
            self.data_ready = is_readable(self.sock, FIRST_BYTE_MILLISECONDS)
        return self.data_ready

    def hang_up(self) -> None:
        """Do all that takes time before ``close``."""
        request = self.parser and self.parser.mesg
        is_all_read = not request or not has_unread_body(request)
        hang_up(self.sock, self.client, is_all_read=is_all_read)

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
    util.write_chunk = write_chunk


def telling(application: Wsgi) -> Wsgi:
    """The application, which can tell that it has received a body."""

    def told(environ: Environ, start_response: Start) -> Body:
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            connection = _thread.connection
            if connection is not None and connection.input is not None:
                environ[BODY_RECEIVED] = connection.input.end_body
        return application(environ, start_response)

    return told


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


def write_chunk(connection: socket.socket, data: bytes) -> None:
    """Send a chunk of a body, or its end; called by gunicorn. Raises as ``write`` does."""
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
