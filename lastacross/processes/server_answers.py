"""Answers that gunicorn makes by itself, as the rest of the site would send them.

It has no setting for either: a ``Server`` header in every answer, and pages for requests that it cannot read,
which do not pass through our layers.
"""

import html
import socket
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi

from lastacross.processes.slow_clients import has_unread_body
from lastacross.webapp import DEFAULTS

_HEADERS = (
    ("Connection", "close"),
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    *DEFAULTS,
)
_PAGE = "<!doctype html>\n<html lang=en><title>{title}</title>\n<h1>{title}</h1>\n<p>{message}</p>\n"


class _Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's, without its name; it ends the connection where a request was not read to its end."""

    def default_headers(self) -> list[str]:
        """The status line and the headers that are the server's to set."""
        if has_unread_body(self.req):
            # What is left of a request must never be taken for the next one.
            self.force_close()
        # They tell an event stream.
        self.req.answer_headers = self.headers
        return [line for line in super().default_headers() if not line.startswith("Server:")]


def use() -> None:
    """Let gunicorn answer so, in this process and those that it forks."""
    wsgi.Response = _Response
    util.write_error = write_error


def write_error(sock: Any, status: int, _reason: str, message: str) -> None:
    """Answer a request that could not be read, and say why; called by gunicorn in place of its own.

    Raises:
        OSError: the client is gone, or does not read.
    """
    title = f"{status} {HTTPStatus(status).phrase}"
    page = _PAGE.format(title=title, message=html.escape(message)).encode("ascii", "xmlcharrefreplace")
    lines = [
        f"HTTP/1.1 {title}",
        *(f"{name}: {value}" for name, value in _HEADERS),
        f"Content-Length: {len(page)}",
    ]
    # Never wait for the client: the page fits into an empty buffer.
    sock.send("\r\n".join([*lines, "", ""]).encode("ascii") + page, socket.MSG_DONTWAIT)
