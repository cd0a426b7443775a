"""Serves the browser's side of channels: ``/_ah/channel/jsapi`` and ``/_ah/channel/stream``.

A stream occupies a thread of the web server, so the number of streams is limited. Above the process's limit
the response is 503 and above a client's limit 429, both with ``Retry-After``; the page then polls.
"""

import functools
import hashlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from lastacross import config, store
from lastacross.channel import frames, streams, tokens
from lastacross.channel.direct import DirectWriter
from lastacross.channel.event_stream import EventStream, Limits
from lastacross.channel.frames import Position
from lastacross.channel.mailbox import Mailbox
from lastacross.channel.reader import Reader
from lastacross.channel.slots import Lack, Slots
from lastacross.channel.tokens import Grant
from lastacross.clock import SYSTEM, Clock
from lastacross.errors import BadSignatureError, ExpiredSignatureError, StoreUnavailableError
from lastacross.webapp import network_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Headers = list[tuple[str, str]]

STREAM_HEADERS: Headers = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    # Without this header, nginx would hold the messages back until its buffer is full.
    ("X-Accel-Buffering", "no"),
]
_MAX_PARAMETERS = 16


class Refusal(Exception):
    """Raised when a stream cannot be opened; contains the response to send."""

    def __init__(self, status: str, body: str, *headers: tuple[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers

    def answer(self, start_response: "StartResponse") -> Iterable[bytes]:
        """Send the response."""
        body = self.body.encode()
        plain = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(self.status, [*plain, ("Cache-Control", "no-store"), *self.headers])
        return [body]


class Streams:
    """All the streams of a process.

    Args:
        limits: the limits on the streams.
        clock: measures time.
    """

    def __init__(self, limits: Limits | None = None, clock: Clock = SYSTEM) -> None:
        self.limits = limits or Limits()
        self.reader = Reader()
        self.slots = Slots(
            self.limits.max_streams, self.limits.max_streams_per_token, self.limits.max_streams_per_client
        )
        self._clock = clock
        self._is_ending = False

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer ``GET /_ah/channel/stream?token=…[&last=<id>]``; HEAD returns the status that GET would."""
        try:
            return self._answer(environ, start_response)
        except Refusal as refusal:
            return refusal.answer(start_response)

    def end(self) -> None:
        """End every stream and refuse new ones, because the process is stopping.

        The browsers reconnect to another process. This may be called from a signal handler.
        """
        self._is_ending = True
        # Use a separate thread, because the thread interrupted by a signal may hold the locks.
        threading.Thread(target=self._close_all, name="lastacross-channel-end").start()

    def _close_all(self) -> None:
        for mailbox in self.reader.mailboxes():
            mailbox.close()

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            raise Refusal("405 Method Not Allowed", "Use GET.", ("Allow", "GET, HEAD"))
        parameters = _parameters(environ)
        token = parameters.get("token", "")
        start = _start(environ, parameters)
        grant = self._grant(token)
        if self._is_ending:
            raise self._busy("Too many streams are open.")
        if method == "HEAD":
            self._refuse(self.slots.lack(token, network_of(environ) or None))
            start_response("200 OK", list(STREAM_HEADERS))
            return []
        stream = self._open(token, grant, start or grant.start, environ)
        start_response("200 OK", list(STREAM_HEADERS))
        return stream

    def _grant(self, token: str) -> Grant:
        try:
            return tokens.read_token(token)
        except ExpiredSignatureError as error:
            raise _unauthorized("Token+timed+out.") from error
        except BadSignatureError as error:
            raise _unauthorized("Invalid+token.") from error
        except StoreUnavailableError as error:
            raise self._busy("The messages cannot be read at the moment.") from error

    def _open(self, token: str, grant: Grant, start: Position, environ: "WSGIEnvironment") -> EventStream:
        client = network_of(environ) or None
        self._refuse(self.slots.take(token, client))
        leave = functools.partial(self.slots.release, token, client)
        try:
            return self._start_stream(grant, start, environ, leave)
        except StoreUnavailableError as error:
            leave()
            raise self._busy("The messages cannot be read at the moment.") from error
        except BaseException:
            leave()
            raise

    def _refuse(self, lack: Lack | None) -> None:
        """If no slot is left, raise a refusal that gives the reason."""
        if lack == "client":
            most = self.limits.max_streams_per_client
            reason = f"One network may have at most {most} open streams (LASTACROSS_STREAMS_PER_CLIENT)."
            retry_after = ("Retry-After", str(self.limits.client_retry_after_seconds))
            raise Refusal("429 Too Many Requests", reason, retry_after)
        if lack is not None:
            raise self._busy("Too many streams are open.")

    def _start_stream(
        self, grant: Grant, start: Position, environ: "WSGIEnvironment", leave: Callable[[], None]
    ) -> EventStream:
        newest = streams.newest(grant.client_id)
        # A browser that is ahead of the stream has seen a message that Redis has since lost.
        start = min(start, newest)
        mailbox = Mailbox(grant.client_id, start, clock=self._clock, writer=_direct_writer(environ))
        retry_ms = round(self.limits.retry_ms * random.uniform(0.5, 1.5))
        stream = EventStream(
            mailbox,
            frames.preamble(retry_ms, start),
            self._clock.monotonic() + self._life_seconds(grant),
            self.limits,
            release=functools.partial(self._release, mailbox, leave),
            connection=_connection(environ),
            clock=self._clock,
        )
        mailbox.abandon = stream.abandon
        if start < newest:
            mailbox.fall_behind()
        self.reader.watch(mailbox, newest)
        return stream

    def _release(self, mailbox: Mailbox, leave: Callable[[], None]) -> None:
        self.reader.unwatch(mailbox)
        leave()

    def _life_seconds(self, grant: Grant) -> float:
        """The time until the browser has to reconnect; it is randomized and ends no later than the token."""
        life = self.limits.life_seconds * random.uniform(0.9, 1.0)
        return min(life, max(0.0, grant.expires_at - store.current().now()))

    def _busy(self, reason: str) -> Refusal:
        retry_after = ("Retry-After", str(self.limits.retry_after_seconds))
        return Refusal("503 Service Unavailable", reason, retry_after)


def _unauthorized(reason: str) -> Refusal:
    # The reason is also in a header, because the script uses HEAD and gets no body.
    return Refusal("401 Unauthorized", reason, ("WWW-Authenticate", f'Channel error="{reason}"'))


def _parameters(environ: "WSGIEnvironment") -> dict[str, str]:
    try:
        pairs = parse_qsl(
            environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS
        )
    except ValueError as error:
        raise Refusal("400 Bad Request", "Too many parameters.") from error
    return dict(pairs)


def _start(environ: "WSGIEnvironment", parameters: dict[str, str]) -> Position | None:
    """The position after which to start, given by the browser or else by the page; None if neither did."""
    for name, text in (
        ("Last-Event-ID", environ.get("HTTP_LAST_EVENT_ID", "")),
        ("last", parameters.get("last", "")),
    ):
        if text:
            try:
                return frames.position(text)
            except ValueError as error:
                raise Refusal("400 Bad Request", f"{name}: {error}.") from error
    return None


def _connection(environ: "WSGIEnvironment") -> Any:
    """The browser's socket, from gunicorn; None if HTTP/2 shares it among several streams."""
    is_shared = environ.get("SERVER_PROTOCOL", "").startswith("HTTP/2") or environ.get("HTTP_VERSION") == "2"
    return None if is_shared else environ.get("gunicorn.socket")


def _direct_writer(environ: "WSGIEnvironment") -> DirectWriter | None:
    """A writer that bypasses the stream's thread, or None if the body's framing is unknown."""
    connection = _connection(environ)
    # Over TLS the writes of two threads would get mixed up, and HTTP/1.0 has no chunks.
    is_plain = type(connection) is socket.socket and environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
    return DirectWriter(connection) if _sends_chunks and is_plain else None


# --- this process's ------------------------------------------------------------------------

_streams: Streams | None = None
_lock = threading.Lock()
_sends_chunks = False


def write_directly() -> None:
    """Let the reader write to browsers directly, bypassing the web server.

    Call this only with a server that sends bodies of unknown length in chunks, as gunicorn does over
    HTTP/1.1.
    """
    global _sends_chunks
    _sends_chunks = True


def current() -> Streams:
    """The streams of this process, created on first use."""
    global _streams
    with _lock:
        if _streams is None:
            settings = config.current().settings
            _streams = Streams(
                Limits(
                    max_streams=settings.max_streams, max_streams_per_client=settings.max_streams_per_client
                )
            )
        return _streams


def _forget() -> None:
    """Reset in a forked process, which has no reader and may have inherited a held lock."""
    global _streams, _lock
    _streams = None
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def stream(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """WSGI application for ``/_ah/channel/stream?token=…[&last=<id>]``: messages as server-sent events."""
    return current()(environ, start_response)


def end_streams() -> None:
    """End all streams because this process is stopping; safe to call in a signal handler."""
    if _streams is not None:
        _streams.end()


def open_streams() -> int:
    """The number of open streams in this process."""
    return 0 if _streams is None else _streams.slots.taken


@functools.cache
def _script() -> tuple[bytes, str]:
    """The script and its ETag."""
    text = resources.files("lastacross.channel").joinpath("jsapi.js").read_bytes()
    return text, f'"{hashlib.sha256(text).hexdigest()[:20]}"'


def jsapi(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """The WSGI application for ``/_ah/channel/jsapi``, the script that defines ``goog.appengine.Channel``."""
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return Refusal("405 Method Not Allowed", "Use GET.", ("Allow", "GET, HEAD")).answer(start_response)
    text, etag = _script()
    headers = [("ETag", etag), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff")]
    if etag in environ.get("HTTP_IF_NONE_MATCH", ""):
        start_response("304 Not Modified", headers)
        return []
    kind = ("Content-Type", "text/javascript; charset=utf-8")
    start_response("200 OK", [kind, ("Content-Length", str(len(text))), *headers])
    return [text] if environ["REQUEST_METHOD"] == "GET" else []
