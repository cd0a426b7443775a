"""Formats messages for the browser as server-sent events. Pure.

The rules are in the HTML standard, section 9.2. A message's id is the id that Redis gave it in its stream.
"""

import json
import re
from typing import NamedTuple

MAX_MESSAGE_LENGTH = 32_767

# A comment line that keeps proxies from closing a silent connection.
HEARTBEAT = b":\n\n"

_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)
_LIMIT = 2**64


class Position(NamedTuple):
    """The id of a message in its stream; comparing positions yields the order of the messages."""

    milliseconds: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"


BEGINNING = Position(0, 0)


class Message(NamedTuple):
    """A message in the form in which it is written to every watching browser."""

    position: Position
    frame: bytes


def position(text: str) -> Position:
    """Parse an id.

    Raises:
        ValueError: the id does not have the form ``1700000000000-0``.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise ValueError("a message id must look like 1700000000000-0")
    found = Position(int(match[1]), int(match[2] or 0))
    if max(found) >= _LIMIT:
        raise ValueError("a message id must have two numbers below 2^64")
    return found


def preamble(retry_ms: int, start: Position) -> bytes:
    """A stream's beginning: the delay before reconnecting, and the position before the first message."""
    return f"retry: {retry_ms}\nid: {start}\n\n".encode()


def message(at: Position, text: bytes) -> Message:
    """Format a message as an event.

    A browser treats a carriage return as the end of a line. A message that contains one is therefore sent as
    JSON in an event of type ``escaped``, which the script of ``/_ah/channel/jsapi`` decodes.
    """
    head = b"id: %d-%d\n" % at
    if b"\r" in text:
        body = b"event: escaped\ndata: " + json.dumps(text.decode("utf-8", "replace")).encode() + b"\n\n"
    else:
        body = b"data: " + text.replace(b"\n", b"\ndata: ") + b"\n\n"
    return Message(at, head + body)
