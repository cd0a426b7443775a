"""Server-sent events, read as the HTML standard (section 9.2.6) tells browsers to."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """An event that a browser dispatches."""

    id: str
    type: str
    data: str


def parse(stream: bytes) -> list[Event]:
    """The events in a stream. Text after the last blank line is not an event yet."""
    events: list[Event] = []
    last_id, kind = "", ""
    data: list[str] = []
    for line in re.split(r"\r\n|\n|\r", stream.decode(errors="replace").removeprefix("\ufeff"))[:-1]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append(Event(last_id, kind or "message", "\n".join(data)))
            kind, data = "", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events
