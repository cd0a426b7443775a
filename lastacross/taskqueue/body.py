"""Encodes the body of a task's request. Text, bytes or form fields become bytes with a content type.

Pure. The rules are in docs/appengine.md, "Tasks".
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from lastacross.errors import InvalidTaskError

FORM = "application/x-www-form-urlencoded"
TEXT = "text/plain; charset=utf-8"

Params = Mapping[Any, Any]

# A value of one of these types is a single form value. Nearly all form values have one of these types.
_SINGLE = frozenset({str, bytes, int, float, bool})
_UNQUOTED = re.compile(r"[A-Za-z0-9_.~-]*")


def encoded(
    method: str, payload: str | bytes | None, params: Params | None, query: str
) -> tuple[bytes | None, str | None, str]:
    """Return the request's body, its content type (if known) and its query.

    Raises:
        InvalidTaskError: the method, query, payload and params contradict each other.
    """
    if payload is not None and not isinstance(payload, str | bytes):
        raise InvalidTaskError(f"a payload must be str or bytes, not {type(payload).__name__}")
    if method in ("POST", "PULL"):
        if payload and params:
            raise InvalidTaskError("payload and params are both given; give only one of them")
        if method == "POST" and query:
            raise InvalidTaskError("the url of a POST task must not have a query; use params instead")
        if params:
            return _form(params).encode(), FORM if method == "POST" else TEXT, ""
        if payload is None and method == "PULL":
            raise InvalidTaskError("a pull task needs a payload or params")
    elif payload and method != "PUT":
        raise InvalidTaskError(f"a payload is allowed only with the methods PULL, POST and PUT, not {method}")
    elif params:
        query = _form(params)
    if isinstance(payload, str):
        return _utf8(payload), TEXT if payload else None, query
    return payload, None, query


def fields(form: bytes) -> dict[str, str | list[str]]:
    """Parse a form's fields. A repeated field becomes a list, and any other field becomes a string.

    Raises:
        ValueError: the bytes are not an encoded form.
    """
    found: dict[str, list[str]] = {}
    if form:
        for key, value in parse_qsl(form.decode(), keep_blank_values=True, strict_parsing=True):
            found.setdefault(key, []).append(value)
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTaskError(f"the text cannot be encoded as UTF-8: {error}") from error


def _form(params: Params) -> str:
    if not isinstance(params, Mapping):
        raise InvalidTaskError(f"params must be a mapping of names to values, not {type(params).__name__}")
    pairs: list[str] = []
    for name, value in params.items():
        key = _quoted(name)
        if type(value) not in _SINGLE and isinstance(value, Iterable) and not isinstance(value, str | bytes):
            pairs.extend(f"{key}={_quoted(part)}" for part in value)
        else:
            pairs.append(f"{key}={_quoted(value)}")
    return "&".join(pairs)


def _quoted(value: object) -> str:
    if isinstance(value, bytes):
        return quote_plus(value)
    text = str(value)
    # Skip quoting where possible. Most names and values need none, and it is the slowest part of encoding.
    return text if _UNQUOTED.fullmatch(text) else quote_plus(_utf8(text))
