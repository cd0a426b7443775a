"""Checks that a leased record has its required fields and that each field is well-formed.

Pure. Another program may have written the record, or part of it may be lost. The worker checks the record
before it calls the handler, once per attempt, because an incomplete record could run the wrong request.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping

MAX_INSTANT = 253_402_300_800.0
"""The end of the year 9999, in seconds since the epoch."""
MAX_SECONDS = 1e9

MAX_INDEX_DIGITS = 9
"""For a member's position, the same as in ``shared/fan_in.lua``."""

_SHOWN_BYTES = 40
_COUNT = re.compile(rb"[0-9]{1,15}")
_REQUEST = re.compile(rb"(?:GET|POST|HEAD|PUT|DELETE) /[^\x00-\x20\x7f]*|PULL .*")
_RETRY_OPTIONS = 5


def problem(fields: Mapping[bytes, bytes]) -> str | None:
    """Describe the problem in a record; None if the task can be delivered."""
    for name, value in fields.items():
        check = _CHECKS.get(name)
        if check is not None and (wrong := check(value)) is not None:
            shown = repr(value[:_SHOWN_BYTES])[1:]
            return f"damaged: its {name.decode()} is {shown}, {wrong}"
    for name in _NEEDED:
        if name not in fields:
            return f"damaged: its {name.decode()} is missing"
    return None


def _count(value: bytes) -> str | None:
    return None if _COUNT.fullmatch(value) else "not a whole number"


def _instant(value: bytes) -> str | None:
    try:
        # This comparison also rejects NaN.
        if 0 <= float(value) <= MAX_INSTANT:
            return None
    except ValueError:
        pass
    return "not a valid time"


def _seconds(value: bytes) -> str | None:
    try:
        if 0 <= float(value) <= MAX_SECONDS:
            return None
    except ValueError:
        pass
    return "not a number of seconds"


def _text(value: bytes) -> str | None:
    try:
        if not value.isascii():
            value.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    return None


# Caching pays off because tasks added by the same code have identical requests, except for their queries.
@functools.lru_cache(maxsize=256)
def _request(value: bytes) -> str | None:
    return _text(value) if _REQUEST.fullmatch(value) else "not a method and a path"


def _member(value: bytes) -> str | None:
    batch, _, index = value.rpartition(b":")
    if batch and index.isdigit() and len(index) <= MAX_INDEX_DIGITS:
        return _text(batch)
    return "not a batch and a position in it"


@functools.lru_cache(maxsize=256)
def _headers(value: bytes) -> str | None:
    try:
        pairs = json.loads(value)
    except (ValueError, RecursionError):
        return "not JSON"
    if isinstance(pairs, list) and all(_is_pair(pair) for pair in pairs):
        return None
    return "not a list of names and values"


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)


@functools.lru_cache(maxsize=256)
def retry_options(value: bytes | str) -> str | None:
    """Describe the problem in the JSON from ``record.dump_retry``; None if it is valid."""
    try:
        values = json.loads(value)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(values, list) or len(values) != _RETRY_OPTIONS:
        return "not a list of five numbers"
    *limits, min_backoff, max_backoff, doublings = values
    are_limits = all(limit is None or _is_number(limit) for limit in limits)
    is_whole = isinstance(doublings, int)
    if are_limits and is_whole and all(_is_number(each) for each in (min_backoff, max_backoff, doublings)):
        return None
    return "not numbers of retries and seconds"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15


_NEEDED = (b"description", b"eta", b"first_try_at")
_CHECKS: Mapping[bytes, Callable[[bytes], str | None]] = {
    b"description": _request,
    b"eta": _instant,
    b"first_try_at": _instant,
    b"failures": _count,
    b"lost": _count,
    b"unreached": _count,
    b"crashes": _count,
    b"tombstone": _seconds,
    b"deadline": _seconds,
    b"retry": retry_options,
    b"headers": _headers,
    b"batch": _member,
    b"target": _text,
    b"group": _text,
    b"request": _text,
    b"previous_response": _text,
}
