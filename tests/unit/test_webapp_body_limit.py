"""Request bodies: whole, bounded, and never more than 1 MiB of one in memory."""

import io
import tracemalloc
from typing import Any

import pytest

from lastacross.webapp import body_limit
from lastacross.webapp.body_limit import BadBodyError, BodyTooLargeError

LIMIT = 3 * 2**20


class Endless(io.RawIOBase):
    """A body that never ends; counts what was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        """As many bytes as asked for."""
        assert size > 0
        self.taken += size
        return bytes(size)


class Broken(io.RawIOBase):
    """What a server gives when a chunk is malformed."""

    def read(self, size: int = -1) -> bytes:
        """Raise."""
        raise RuntimeError("InvalidChunkSize")


def environ_of(body: Any, length: str | None = None, chunked: bool = False) -> dict[str, Any]:
    """A request with this input."""
    environ: dict[str, Any] = {"wsgi.input": body}
    if length is not None:
        environ["CONTENT_LENGTH"] = length
    if chunked:
        environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    return environ


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 2**20, 2**20 + 1, LIMIT])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_up_to_the_limit_is_whole_and_can_be_read_again(size: int, chunked: bool) -> None:
    """With and without Content-Length."""
    content = b"x" * size
    environ = environ_of(
        io.BytesIO(content + b"next"[: 0 if chunked else 4]), None if chunked else str(size), chunked
    )
    with body_limit.receive(environ, LIMIT) as body:
        assert body is environ["wsgi.input"]
        assert body.read() == content
        assert environ["CONTENT_LENGTH"] == str(size)
        assert "HTTP_TRANSFER_ENCODING" not in environ


def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    """Not a byte is taken."""
    source = Endless()
    with pytest.raises(BodyTooLargeError):
        body_limit.receive(environ_of(source, str(LIMIT + 1)), LIMIT)
    assert source.taken == 0


def test_an_endless_chunked_body_is_refused_at_the_limit() -> None:
    """With at most 1 MiB of it (and Python's own doubling) in memory."""
    source = Endless()
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLargeError):
            body_limit.receive(environ_of(source, chunked=True), LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.taken == LIMIT + 1
    assert peak < 2.5 * body_limit.MEMORY_BYTES


def test_a_body_that_is_shorter_than_declared_is_refused() -> None:
    """The application would take a part for the whole."""
    with pytest.raises(BadBodyError, match="is shorter than"):
        body_limit.receive(environ_of(io.BytesIO(b"abc"), "4"), LIMIT)


def test_what_follows_a_body_is_left_for_the_next_request() -> None:
    """Not a byte more than declared is read."""
    source = io.BytesIO(b"abcGET / HTTP/1.1")
    body_limit.receive(environ_of(source, "3"), LIMIT)
    assert source.read() == b"GET / HTTP/1.1"


@pytest.mark.parametrize("length", ["+4", "-1", "4_0", " 4", "4 ", "0x4", "٤", "4.0", "abc", "9" * 19])
def test_a_length_that_is_not_a_number_is_refused(length: str) -> None:
    """int() would take some of these."""
    with pytest.raises(BadBodyError):
        body_limit.receive(environ_of(io.BytesIO(b"abcd"), length), LIMIT)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_the_server_cannot_read_is_refused(chunked: bool) -> None:
    """Whatever it raises."""
    with pytest.raises(BadBodyError, match="could not be read"):
        body_limit.receive(environ_of(Broken(), None if chunked else "4", chunked), LIMIT)


def test_a_request_without_a_body_reads_nothing() -> None:
    """Some servers would wait."""
    source = Endless()
    body_limit.receive(environ_of(source), LIMIT)
    assert source.taken == 0
