"""JSON of strangers: UTF-8, and no deeper than its reader and ours can go. Pure."""

import json
from typing import Any

from lastacross.webapp import json_depth

MAX_DEPTH = 100
"""Lists and objects in each other."""

MAX_VALUES = 10_000
"""Of JSON that is read here: each becomes an object. What an application reads itself has no such limit."""


class BadJsonError(ValueError):
    """Raised when JSON is not read; the message goes on where "The JSON" stands."""


def check(body: bytes) -> None:
    """Pass if the JSON may be read, whatever it says.

    Raises:
        BadJsonError: it is too deep, or UTF-16 or UTF-32 (which Python's reader takes, and in which a depth
            cannot be told from the bytes).
    """
    # Each bracket of those has a byte that is 0, which in UTF-8 stands for a control character only.
    if b"\0" in body:
        raise BadJsonError("has a byte that is 0: JSON is UTF-8 (RFC 8259, section 8.1)")
    if json_depth.is_deeper(body, MAX_DEPTH):
        most = f"the {MAX_DEPTH} that this server takes"
        raise BadJsonError(f"has more lists and objects in each other than {most}")


def load(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or a ``BadJsonError``, which too many values are, too.
    """
    check(body)
    if json_depth.max_values(body) > MAX_VALUES:
        raise BadJsonError(f"has more than the {MAX_VALUES:,} values that are taken here")
    return json.loads(body)
