"""A minimal EventSource for the tests of channels, which calls a WSGI application directly."""

import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

from tests.support.sse import Event, parse


class Answer:
    """A response: the arguments of ``start_response``, and the body as it arrives."""

    def __init__(self, application: Any, environ: dict[str, Any]) -> None:
        self.status = ""
        self.headers: dict[str, str] = {}
        self.body: Iterable[bytes] = application(environ, self._start)
        self._writes: Iterator[bytes] = iter(self.body)
        self.writes: list[bytes] = []

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        self.status = status
        self.headers = dict(headers)

    @property
    def code(self) -> int:
        """The status code."""
        return int(self.status.split()[0])

    @property
    def text(self) -> str:
        """The whole body of a response that ends."""
        self.writes += list(self._writes)
        return b"".join(self.writes).decode()

    @property
    def events(self) -> list[Event]:
        """All events that have arrived so far."""
        return parse(b"".join(self.writes))

    def write(self) -> bytes:
        """The next chunk that the application writes, or b"" at the end."""
        chunk = next(self._writes, b"")
        self.writes.append(chunk)
        return chunk

    def read(self, number: int, seconds: float = 30.0) -> list[Event]:
        """Read on until this many events have arrived in total."""
        deadline = time.monotonic() + seconds
        while len(self.events) < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.events)} of {number} events after {seconds} s")
            if not self.write():
                raise EOFError(f"the stream ended after {len(self.events)} of {number} events")
        return self.events

    def close(self) -> None:
        """Close the response, as a web server does when it has ended or the browser has disconnected."""
        close = getattr(self.body, "close", None)
        if close is not None:
            close()


def request(
    application: Any,
    *,
    method: str = "GET",
    last_event_id: str | None = None,
    address: str = "",
    **parameters: str,
) -> Answer:
    """Send a request with these query parameters from this address."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": "/_ah/channel/stream",
        "QUERY_STRING": urlencode(parameters),
        "REMOTE_ADDR": address,
    }
    if last_event_id is not None:
        environ["HTTP_LAST_EVENT_ID"] = last_event_id
    return Answer(application, environ)
