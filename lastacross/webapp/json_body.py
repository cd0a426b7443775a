"""Checks untrusted JSON, which must be UTF-8 and not nested too deeply for Python's reader and ours. Pure."""

import json
from typing import Any

from lastacross.webapp import json_depth

MAX_DEPTH = 100
"""The maximum nesting depth of lists and objects."""

MAX_VALUES = 10_000
"""The limit for JSON read here, because each value becomes an object. Applications' reads have no limit."""


class BadJsonError(ValueError):
    """Raised when JSON is rejected; the message continues a sentence that begins with "The JSON"."""


def check(body: bytes) -> None:
    """Return only if the JSON is safe to read, whatever it contains.

    Raises:
        BadJsonError: the JSON is nested too deeply, or is UTF-16 or UTF-32. Python's reader accepts these
            encodings, but the depth of such a text cannot be determined from its bytes.
    """
    # In UTF-16 and UTF-32 each bracket has a zero byte, which in UTF-8 is only a control character.
    if b"\0" in body:
        raise BadJsonError("contains a zero byte, but JSON must be UTF-8 (RFC 8259, section 8.1)")
    if json_depth.is_deeper(body, MAX_DEPTH):
        most = f"the {MAX_DEPTH} levels that this server accepts"
        raise BadJsonError(f"nests lists and objects deeper than {most}")


def load(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is not JSON. The subclass ``BadJsonError`` also covers too many values.
    """
    check(body)
    if json_depth.max_values(body) > MAX_VALUES:
        raise BadJsonError(f"contains more than the {MAX_VALUES:,} values that are accepted here")
    return json.loads(body)
