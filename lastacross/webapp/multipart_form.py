"""Reads multipart forms, including their files, once, as a stream and within limits.

Field values stay in memory, so their size is limited. All files are stored back to back in a single file,
because a form may have a thousand of them, and a process cannot keep that many open.
"""

import binascii
import functools
import io
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    StrictParserError,
)

from lastacross.webapp import content_type
from lastacross.webapp.form_error import UNREADABLE, FormError
from lastacross.webapp.webob_compat import UploadedFile

MEMORY_BYTES = 1_048_576
CHUNK_BYTES = 65_536
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 1_024
MAX_HEADER_BYTES = 262_144
"""The limit for the headers of all parts together, because reading a header takes microseconds."""

_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "base64": binascii.a2b_base64,
    "quoted-printable": binascii.a2b_qp,
}


class Files:
    """The files of one form, stored back to back.

    Args:
        most_bytes: the maximum total size of the files. Up to ``MEMORY_BYTES``, they are kept in memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._file = _container(most_bytes)
        self._lock = threading.Lock()
        self.size = 0

    def write(self, chunk: bytes | bytearray) -> None:
        """Append data to the last file."""
        self._file.write(chunk)
        self.size += len(chunk)

    def read(self, place: int, size: int) -> bytes:
        """Read ``size`` bytes from this offset."""
        with self._lock:
            self._file.seek(place)
            return self._file.read(size)

    def opened(self, start: int, end: int) -> IO[bytes]:
        """A separate file object with the bytes between two offsets."""
        return cast(IO[bytes], io.BufferedReader(_Slice(self, start, end)))

    def close(self) -> None:
        """Discard the files."""
        self._file.close()


def _container(most_bytes: int) -> IO[bytes]:
    return io.BytesIO() if most_bytes <= MEMORY_BYTES else cast(IO[bytes], tempfile.TemporaryFile())


class _Slice(io.RawIOBase):
    """A file object for a range of the stored bytes."""

    def __init__(self, files: Files, start: int, end: int) -> None:
        super().__init__()
        self._files = files
        self._start = start
        self._size = end - start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self._size - self._place, 0))
        found = self._files.read(self._start + self._place, wanted)
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place


class _Parser(PushMultipartParser):  # type: ignore[misc]
    """The multipart package's parser, strict except about the names of parts."""

    header_bytes = 0

    def _create_segment(self, headerlist: list[tuple[str, str]]) -> MultipartSegment:
        self.header_bytes += sum(len(name) + len(value) for name, value in headerlist)
        if self.header_bytes > MAX_HEADER_BYTES:
            more = f"more than {MAX_HEADER_BYTES:,} bytes of headers"
            raise FormError(400, f"The parts of the form have {more}.")
        self.strict = False
        try:
            return super()._create_segment(headerlist)
        finally:
            self.strict = True


class Reader:
    """Reads one form; a part without a name does not count as a field.

    Args:
        boundary: separates its parts.
        max_fields: the maximum number of fields, or None for no limit.
        max_bytes: the maximum total length of names, text and headers, or None for no limit.
        files: an object that receives the contents of the form's files.
    """

    def __init__(self, boundary: str, max_fields: int | None, max_bytes: int | None, files: Files) -> None:
        self._max_fields = max_fields
        self._max_bytes = max_bytes
        self._files = files
        self._fields = 0
        self._bytes = 0
        # Parse strictly, because otherwise a header may span many lines, each of which is joined with all
        # lines before it.
        self._parser = _Parser(
            boundary,
            max_header_size=MAX_PART_HEADER_BYTES,
            max_header_count=MAX_PART_HEADERS,
            strict=True,
        )

    def fields(self, body: IO[bytes], length: int) -> list[tuple[str, Any]]:
        """The fields in order, each with text or a file.

        Args:
            body: the body, which is read from its current position.
            length: the body's length in bytes.

        Raises:
            FormError: the form exceeds a limit, or its parts do not match its Content-Type.
        """
        try:
            return list(self._read(body, length))
        except ParserLimitReached as error:
            limits = (
                f"more than {MAX_PART_HEADERS} headers, or one of more than {MAX_PART_HEADER_BYTES:,} bytes"
            )
            raise FormError(400, f"A part of the form has {limits}.") from error
        except (MultipartError, UnicodeError, LookupError, binascii.Error) as error:
            raise FormError(400, UNREADABLE) from error

    def _read(self, body: IO[bytes], length: int) -> Iterator[tuple[str, Any]]:
        segment: MultipartSegment | None = None
        text = bytearray()
        start = 0
        for event in self._events(body, length):
            if isinstance(event, MultipartSegment):
                segment, start = event, self._files.size
                text.clear()
                self._count_field(segment)
            elif segment is None:
                continue
            elif event is None:
                if segment.name:
                    yield segment.name, self._value(segment, bytes(text), start)
            elif segment.filename:
                self._files.write(event)
            else:
                self._count(len(event))
                text += event

    def _events(self, body: IO[bytes], length: int) -> Iterator[MultipartSegment | bytes | bytearray | None]:
        with self._parser as parser:
            while chunk := body.read(min(CHUNK_BYTES, length)):
                length -= len(chunk)
                try:
                    yield from parser.parse(chunk)
                except StrictParserError:
                    # Ignore bytes after the last boundary. Closing the parser raises any other error again.
                    break

    def _count_field(self, segment: MultipartSegment) -> None:
        self._fields += 1
        if self._max_fields is not None and self._fields > self._max_fields:
            raise FormError.of_fields(self._max_fields)
        self._count(sum(len(name) + len(value) for name, value in segment.headerlist))

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._max_bytes is not None and self._bytes > self._max_bytes:
            raise FormError.of_bytes(self._max_bytes)

    def _value(self, segment: MultipartSegment, text: bytes, start: int) -> Any:
        kind = content_type.parse(segment.header("Content-Type", "text/plain"))
        if segment.filename:
            opened = functools.partial(self._files.opened, start, self._files.size)
            return UploadedFile(
                str(segment.name), segment.filename, kind, header_list=segment.headerlist, opened=opened
            )
        if segment.filename is not None:
            # This is a file field for which no file was chosen.
            return text
        charset = kind.charset
        if charset not in content_type.FORM_CHARSETS or kind.kind.startswith("multipart/"):
            raise FormError(400, UNREADABLE)
        undo = _ENCODINGS.get(segment.header("Content-Transfer-Encoding", "").strip().lower())
        try:
            return content_type.decoded(undo(text) if undo else text, charset)
        except UnicodeDecodeError as error:
            raise FormError.of_charset(str(segment.name), charset) from error
