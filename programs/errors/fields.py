"""Checks the fields of a posted error, and truncates long ones. Pure functions."""

import datetime
import email.utils
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from programs.shared import forms

MAX_KEY_LENGTH = 100
"""The limit for ``account`` and ``uid``. They identify things, so a longer value is refused, not cut."""

MAX_LENGTHS = {
    "url": 2000,
    "type": 200,
    "msg": 4096,
    "server": 200,
    "traceback": 65_536,
    "request": 65_536,
    "user_agent": 1000,
    "username": 200,
}
"""Limits in characters: longer text is truncated and marked, so that the report need not be refused."""

REQUIRED = {
    "account": f"must be the account that the error belongs to, in 1 to {MAX_KEY_LENGTH} characters",
    "url": "must be the address at which the error happened",
    "status": "must be the HTTP status of the response, a whole number from 100 to 599",
    "type": "must be the error's class, such as KeyError",
    "msg": "must be the error's message",
}
PRIORITIES = (1, 10)
DEFAULT_PRIORITY = 5
STATUSES = (100, 599)
NO_STATUS = 0
"""Stored for an error of Arecibo's clients without a valid status."""
NO_TYPE = "Error"
"""Stored for an error of Arecibo's clients without a type."""

# NUL, other control characters and lone surrogates, which would break a database or a page.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_EARLIEST, _LATEST = 0.0, 4_102_444_800.0
"""Accepted instants: 1970 to 2099."""
_FIRST_SECONDS, _FIRST_MILLISECONDS = 1e9, 1e12
"""September 2001, in seconds and in milliseconds. A smaller number is probably a date, a year or an error.
A number of seconds above the second limit is not in any accepted year."""
_DIGITS_OF_A_DATE = 8


@dataclass(frozen=True)
class Fields:
    """The fields of a valid error report. ``uid`` and ``happened_at`` are None if they were not given."""

    account: str
    uid: str | None
    happened_at: float | None
    status: int
    priority: int
    texts: Mapping[str, str]


def parse(given: Mapping[str, Any]) -> Fields:
    """Parse an error's fields, and ignore unknown ones.

    Raises:
        FormError: fields are missing or invalid; the message names each of them and what it accepts.
    """
    texts, mistakes = _texts(given)
    _check_required(given, texts, mistakes, REQUIRED)
    numbers = _numbers(texts, mistakes)
    _check_keys(texts, mistakes)
    return _fields(texts, numbers)


def parse_arecibo(given: Mapping[str, Any]) -> Fields:
    """Parse the fields that Arecibo's clients send, of which only ``account`` is required.

    As Arecibo did, it ignores a status, priority or timestamp that is invalid. A priority of 0, the usual
    value there, counts as not given, and one above 10 counts as 10.

    Raises:
        FormError: the account is missing, a field is a file, or ``account`` or ``uid`` is too long.
    """
    texts, mistakes = _texts(given)
    _check_required(given, texts, mistakes, {"account": REQUIRED["account"]})
    _check_keys(texts, mistakes)
    priority = forms.whole_number(texts["priority"]) or 0
    texts["priority"] = str(min(priority, PRIORITIES[1])) if priority > 0 else ""
    texts["type"] = texts["type"].strip() or NO_TYPE
    return _fields(texts, {"status": NO_STATUS} | _numbers(texts, {}))


def _texts(given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the known fields as text, and the mistakes of the others."""
    texts: dict[str, str] = {}
    mistakes: dict[str, str] = {}
    for name in ("account", "uid", "status", "priority", "timestamp", *MAX_LENGTHS):
        try:
            texts[name] = text_of(given.get(name))
        except ValueError as error:
            texts[name], mistakes[name] = "", str(error)
    return texts, mistakes


def _check_required(
    given: Mapping[str, Any], texts: Mapping[str, str], mistakes: dict[str, str], required: Mapping[str, str]
) -> None:
    for name, takes in required.items():
        if name not in mistakes and not texts[name].strip():
            missing = "it is missing" if given.get(name) is None else "it is empty"
            mistakes[name] = f"{takes}; {missing}."


def _check_keys(texts: Mapping[str, str], mistakes: dict[str, str]) -> None:
    """Check the length of the keys, and raise all mistakes that were found."""
    for name in ("account", "uid"):
        if len(texts.get(name, "")) > MAX_KEY_LENGTH:
            mistakes[name] = f"must have at most {MAX_KEY_LENGTH} characters, not {len(texts[name]):,}."
    if mistakes:
        raise forms.FormError(mistakes)


def _fields(texts: Mapping[str, str], numbers: Mapping[str, float]) -> Fields:
    return Fields(
        account=texts["account"].strip(),
        uid=texts["uid"].strip() or None,
        happened_at=numbers.get("timestamp"),
        status=int(numbers["status"]),
        priority=int(numbers.get("priority", DEFAULT_PRIORITY)),
        texts={
            name: cut(texts[name], most, is_end_better=name == "traceback")
            for name, most in MAX_LENGTHS.items()
        },
    )


def _numbers(texts: Mapping[str, str], mistakes: dict[str, str]) -> dict[str, float]:
    """Parse the numeric fields that were given, and add their mistakes to ``mistakes``."""
    readers = {
        "status": lambda text: forms.number_between(text, *STATUSES),
        "priority": lambda text: forms.number_between(text, *PRIORITIES),
        "timestamp": instant_of,
    }
    found: dict[str, float] = {}
    for name, read in readers.items():
        text = texts.get(name, "")
        if name in mistakes or not text.strip():
            continue
        try:
            found[name] = read(text)
        except ValueError as error:
            mistakes[name] = str(error)
    return found


def text_of(value: object) -> str:
    """A field's value as text: lists and objects become JSON, and None becomes "".

    Raises:
        ValueError: the value is a file.
    """
    if value is None:
        return ""
    if isinstance(value, bool | int | float | list | dict):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        raise ValueError("must be text, not a file.")
    return _UNPRINTABLE.sub("\ufffd", value.replace("\r\n", "\n"))


def cut(text: str, most: int, *, is_end_better: bool = False) -> str:
    """Cut a string to ``most`` characters, keeping the beginning or, if ``is_end_better``, mainly the end."""
    if len(text) <= most:
        return text
    mark = f" [… cut from {len(text):,} to {most:,} characters …] "
    room = most - len(mark)
    # The end of a traceback names the error, and its beginning shows the origin.
    head = room // 4 if is_end_better else room
    return text[:head] + mark + text[len(text) - (room - head) :]


def instant_of(text: str) -> float:
    """Convert a ``timestamp`` to seconds since the epoch.

    The timestamp may be an ISO 8601 time (UTC if it has no time zone), an HTTP date, or a number of seconds
    since 1970. 13 digits are JavaScript's milliseconds (``Date.now()``), and 8 digits are a date.

    Raises:
        ValueError: the text has none of these formats, its year is not between 1970 and 2099, or it is a
            number of seconds and lies before September 2001.
    """
    takes = "must be a time such as 2026-11-21T08:30:00Z, or seconds since 1970"
    text = text.strip()
    try:
        is_number = re.fullmatch(r"[0-9]+(\.[0-9]*)?", text, re.ASCII) and len(text) != _DIGITS_OF_A_DATE
        seconds = _number(text) if is_number else _date(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{takes}{forms.given(text)}.") from None
    if is_number and seconds < _FIRST_SECONDS:
        raise ValueError(f"{takes}, {_FIRST_SECONDS:,.0f} or more{forms.given(text)}.")
    if not math.isfinite(seconds) or not _EARLIEST <= seconds <= _LATEST:
        raise ValueError(f"{takes}, in a year from 1970 to 2099{forms.given(text)}.")
    return seconds


def _number(text: str) -> float:
    seconds = float(text)
    return seconds / 1000 if seconds >= _FIRST_MILLISECONDS else seconds


def _date(text: str) -> float:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        found = email.utils.parsedate_to_datetime(text)
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
