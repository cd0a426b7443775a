"""Reads whole request bodies, enforces their size limit, and keeps at most 1 MiB of each in memory."""

import io
import tempfile
from collections.abc import Generator, Iterator
from typing import IO, Any, cast

from lastacross.webapp import content_type, form_error
from lastacross.webapp.environ import (
    Body,
    Environ,
    Layer,
    Refusal,
    Refuse,
    Start,
    Wsgi,
    expect_program,
    run_and_close,
)

MEMORY_BYTES = 1_048_576
CHUNK_BYTES = 65_536
# The environ key under which a server may provide a function to call when the body is complete.
BODY_RECEIVED = "lastacross.body_received"
BODY_SETTING = "LASTACROSS_MAX_BODY_BYTES"
MAX_SMALL_CHUNKS = 10_000
SMALL_CHUNK_BYTES = 1_024
# Two limits in bytes: one on each chunk's size line, which is low because no client uses chunk extensions;
# and one on all size lines of a body together, to which a fraction of the body's length is added.
MAX_CHUNK_LINE_BYTES = 256
LINE_BYTES = 65_536
LINE_BYTES_DIVISOR = 64
MAX_TRAILER_BYTES = 8_192


class BadBodyError(Exception):
    """Raised when a body ends early or its framing is wrong; ``status`` is the status to answer with."""

    status = 400


class SlowClientError(BadBodyError):
    """Raised by a server's input stream when a request arrives too slowly; the message is for its sender."""

    status = 408


class BodyTooLargeError(Exception):
    """Raised when a body is longer than allowed."""


def layer(limit_bytes: int, refuse: Refuse, form_bytes: int | None = None) -> Layer:
    """Read the whole body first, so that the application is only called with a complete, seekable one.

    JSON and forms without files have a limit of their own, ``form_bytes``, because their readers turn the
    whole body into objects. A body whose declared length exceeds the limit is refused unread. A body of
    unknown length (chunked) is refused as soon as it exceeds the limit. A body of more than 1 MiB is kept in
    a temporary file.
    """

    def limited_by(application: Wsgi) -> Wsgi:
        def limited(environ: Environ, start_response: Start) -> Body:
            limit, setting = limit_bytes, BODY_SETTING
            if form_bytes is not None and form_bytes < limit_bytes and _is_all_read(environ):
                limit, setting = form_bytes, form_error.BYTES_SETTING
            try:
                body = receive(environ, limit)
            except BodyTooLargeError:
                expect_program(environ)
                message = (
                    f"The request is larger than the {limit:,} bytes that this server accepts ({setting})."
                )
                return refuse(environ, start_response, Refusal(413, message))
            except BadBodyError as error:
                return refuse(environ, start_response, Refusal(error.status, str(error)))
            return run_and_close(application, environ, start_response, body.close)

        return limited

    return limited_by


def _is_all_read(environ: Environ) -> bool:
    kind = content_type.parse(environ.get("CONTENT_TYPE") or "")
    return kind.kind == content_type.FORM or kind.is_json


def receive(environ: Environ, limit_bytes: int) -> IO[bytes]:
    """Read the body and put it back into the environ, with its actual length.

    Raises:
        BodyTooLargeError: the body is longer than ``limit_bytes``.
        BadBodyError: the body is shorter than declared, or its length or framing is wrong.
    """
    declared = _declared_length(environ)
    if declared is not None and declared > limit_bytes:
        raise BodyTooLargeError
    is_chunked = declared is None and "HTTP_TRANSFER_ENCODING" in environ
    body = _read(environ, limit_bytes if is_chunked else declared or 0, is_chunked)
    if (tell := environ.get(BODY_RECEIVED)) is not None:
        tell()
    environ["CONTENT_LENGTH"] = str(body.seek(0, io.SEEK_END))
    body.seek(0)
    environ["wsgi.input"] = body
    # The body is no longer chunked, so tell WebOb that it can be rewound, and stop it from looking for
    # chunks.
    environ["webob.is_body_seekable"] = True
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return body


def _declared_length(environ: Environ) -> int | None:
    text = environ.get("CONTENT_LENGTH")
    if not text:
        return None
    # int() alone would also accept "+4", " 4", "4_0" and non-ASCII digits.
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadBodyError("The Content-Length header is not a number of bytes.")
    return int(text)


def _read(environ: Environ, wanted: int, is_chunked: bool) -> IO[bytes]:
    """Read ``wanted`` bytes, or a whole chunked body of up to ``wanted`` bytes."""
    body = _container(None if is_chunked else wanted)
    if is_chunked:
        _bound_chunks(environ["wsgi.input"])
    try:
        received = _copy(environ["wsgi.input"], body, wanted + is_chunked)
        if is_chunked and received > wanted:
            raise BodyTooLargeError
        if not is_chunked and received < wanted:
            raise BadBodyError("The request's body is shorter than its declared length.")
    except BaseException:
        body.close()
        raise
    return body


class _Chunks:
    """Counts a body's chunks, because gunicorn spends microseconds on each chunk and each size line.

    Args:
        reader: gunicorn's reader of chunked bodies.
    """

    def __init__(self, reader: Any) -> None:
        self._size_of = reader.parse_chunk_size
        self._pieces: Iterator[bytes] = reader.parser
        self._count = self._size = self._line_bytes = 0
        reader.parse_chunk_size = self._bounded_size_of
        reader.parser = self._counted()
        reader.limit_trailer_section = MAX_TRAILER_BYTES

    def _counted(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._size += len(piece)
            yield piece

    def _bounded_size_of(self, unreader: Any, data: bytes | None = None) -> Any:
        if self._count > MAX_SMALL_CHUNKS and self._size < self._count * SMALL_CHUNK_BYTES:
            chunks_of = f"{MAX_SMALL_CHUNKS:,} chunks of less than {SMALL_CHUNK_BYTES:,} bytes"
            raise BadBodyError(f"The request's body is sent in more than {chunks_of}.")
        self._count += 1
        # gunicorn's own limit applies only to unfinished size lines.
        line = data or b""
        while (end := line.find(b"\r\n", 0, MAX_CHUNK_LINE_BYTES + 2)) < 0 and len(
            line
        ) <= MAX_CHUNK_LINE_BYTES:
            more = unreader.read()
            if not more:
                raise BadBodyError("The request's body ended in the middle of a chunk's size.")
            line += more
        self._line_bytes += end
        if end < 0 or self._line_bytes > LINE_BYTES + self._size // LINE_BYTES_DIVISOR:
            raise BadBodyError("The request's body has chunk sizes or extensions that are too long.")
        return self._size_of(unreader, line)


def _bound_chunks(source: Any) -> None:
    reader = getattr(source, "reader", None)
    if isinstance(getattr(reader, "parser", None), Generator) and hasattr(reader, "parse_chunk_size"):
        _Chunks(reader)


def _container(length: int | None) -> IO[bytes]:
    """A file-like object that can hold a body of this length (None if unknown)."""
    if length is not None and length <= MEMORY_BYTES:
        return io.BytesIO()
    return cast(IO[bytes], tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES))


def _copy(source: Any, target: Any, most: int) -> int:
    received = 0
    while received < most:
        try:
            chunk = source.read(min(CHUNK_BYTES, most - received))
        except BadBodyError:
            raise
        except Exception as error:
            # Each server raises its own error for a malformed chunk or a disconnected client.
            raise BadBodyError("The request's body could not be read completely.") from error
        if not chunk:
            break
        target.write(chunk)
        received += len(chunk)
    return received
