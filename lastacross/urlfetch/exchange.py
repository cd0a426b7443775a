"""Exchanges a request and its response over one connection, with a distinct error for each failure."""

import contextlib
import functools
import http.client
import ssl
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import urllib3.exceptions
from urllib3.connection import HTTPConnection
from urllib3.response import HTTPResponse

from lastacross.errors import ConnectionClosedError, DownloadError, MalformedReplyError
from lastacross.http_client import TimedResponse
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.places import Place
from lastacross.urlfetch.requests import Request

CHUNK_BYTES = 65_536
_GZIP = ("gzip", "x-gzip")
# The headers that are dropped when a body is decompressed.
_OF_COMPRESSED = ("content-encoding", "content-length")
_TOO_LATE = (TimeoutError, urllib3.exceptions.TimeoutError)
_HUNG_UP = (
    http.client.RemoteDisconnected,
    http.client.IncompleteRead,
    urllib3.exceptions.IncompleteRead,
    ConnectionError,
    ssl.SSLEOFError,
    EOFError,
)
_BROKEN = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError, zlib.error)


class NothingCameError(ConnectionClosedError):
    """Raised when the server disconnects before its response begins, so it may not have seen the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's response."""

    status: int
    headers: list[tuple[str, str]]
    content: bytes
    is_truncated: bool = False

    @property
    def location(self) -> str | None:
        """The target of the response's redirect; None if it is not a redirect."""
        if self.status not in (301, 302, 303, 307, 308):
            return None
        return next((value for name, value in self.headers if name.lower() == "location"), None)


def exchange(connection: HTTPConnection, request: Request, place: Place, deadline: Deadline) -> Answer:
    """Send a request and read its response up to the limit; closes the connection after a partial read.

    Raises:
        FetchDeadlineExceededError, ConnectionClosedError, MalformedReplyError, DownloadError: as their names
        suggest.
    """
    try:
        answer, is_whole = _exchanged(connection, request, place, deadline)
    except BaseException as error:
        connection.close()
        if isinstance(error, _TOO_LATE) or (isinstance(error, _BROKEN) and deadline.remaining() <= 0):
            raise deadline.error(place.url) from error
        if isinstance(error, _BROKEN):
            raise _in_words(error, place) from error
        raise
    if not is_whole:
        connection.close()
    return answer


def _exchanged(
    connection: HTTPConnection, request: Request, place: Place, deadline: Deadline
) -> tuple[Answer, bool]:
    connection.timeout = deadline.require(place.url)
    if connection.sock is not None:
        connection.sock.settimeout(connection.timeout)
    connection.response_class = functools.partial(TimedResponse, remaining=deadline.remaining)  # type: ignore[assignment]
    # A server may answer and disconnect before it has read the whole request; its response still counts.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(
            request.method,
            place.target,
            body=request.body,
            headers={"Host": place.authority, **dict(request.headers)},
            preload_content=False,
            decode_content=False,
        )
    connection.timeout = deadline.require(place.url)
    try:
        response = connection.getresponse()
    except (http.client.RemoteDisconnected, ConnectionResetError) as error:
        raise NothingCameError(f"{place.authority} closed the connection without a response") from error
    with contextlib.closing(response):
        headers = list(response.headers.items())
        is_gzip = request.decodes and response.headers.get("content-encoding", "").strip().lower() in _GZIP
        content, is_whole = _read(response, is_gzip, request.most_bytes)
        if is_gzip and content:
            headers = [item for item in headers if item[0].lower() not in _OF_COMPRESSED]
        is_truncated = len(content) > request.most_bytes
        return Answer(response.status, headers, content[: request.most_bytes], is_truncated), is_whole


def _read(response: HTTPResponse, is_gzip: bool, most_bytes: int) -> tuple[bytes, bool]:
    """The body, decompressed if necessary and cut slightly above the limit, and whether it is complete."""
    body = bytearray()
    gunzip = Gunzip() if is_gzip else None
    while chunk := response.read1(CHUNK_BYTES):
        for piece in (chunk,) if gunzip is None else gunzip.pieces(chunk):
            body += piece
            if len(body) > most_bytes:
                return bytes(body), False
    if gunzip is not None:
        gunzip.finish()
    return bytes(body), True


class Gunzip:
    """Decompresses a body piece by piece, because a small body may expand to a large one."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._has_begun = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Decompress a chunk of the body into pieces of limited size."""
        is_full = False
        while chunk or is_full:
            if self._member.eof:
                # Another gzip member may follow; zeros at the end are padding.
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    return
                self._member = zlib.decompressobj(wbits=31)
            self._has_begun = True
            piece = self._member.decompress(chunk, CHUNK_BYTES)
            # Input that the decompressor has buffered is not in the unconsumed tail yet.
            is_full = len(piece) == CHUNK_BYTES and not self._member.eof
            chunk = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield piece

    def finish(self) -> None:
        """Return only if the compressed data is complete.

        Raises:
            zlib.error: the data is incomplete.
        """
        if self._has_begun and not self._member.eof:
            raise zlib.error("the data is incomplete")


def _in_words(error: Exception, place: Place) -> DownloadError:
    # urllib3 wraps the error that interrupted a body; the last argument is the original error.
    cause: object = error
    if isinstance(error, urllib3.exceptions.ProtocolError) and error.args:
        cause = error.args[-1]
    # http.client treats an invalid chunk length as the end of the body.
    is_nonsense = isinstance(cause, http.client.IncompleteRead) and isinstance(cause.__context__, ValueError)
    if not is_nonsense and (isinstance(error, _HUNG_UP) or isinstance(cause, _HUNG_UP)):
        return ConnectionClosedError(
            f"{place.authority} closed the connection before its response was complete"
        )
    if isinstance(error, zlib.error):
        return MalformedReplyError(f"{place.authority} sent corrupt gzip data: {error}")
    if isinstance(error, OSError):
        return DownloadError(f"the connection to {place.authority} broke: {error.strerror or error}")
    return MalformedReplyError(f"{place.authority} sent an invalid HTTP response: {_shown(error)}")


def _shown(error: Exception) -> str:
    """The beginning of the error's message, which may quote a whole line of the response."""
    return f"{type(error).__name__}: {error}"[:200]
