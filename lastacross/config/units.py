"""Parses the notations of the YAML files: rates, durations, sizes and counts. All functions are pure.

Each function takes the text as written and raises UnusableError if its form is invalid.
"""

import math
import re

from lastacross.config.diagnostics import UnusableError

UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

# Redis scripts calculate with doubles, which represent every whole number up to this one exactly.
_MAX_NUMBER = 2**53

_RATE = re.compile(r"0|[0-9]+(\.[0-9]*)?/[smhd]", re.ASCII)
_AGE = re.compile(r"([0-9]++\.?[0-9]*+|\.[0-9]+)([eE][+-]?[0-9]+)?[smhd]", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]++\.?[0-9]*+|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_EXPIRATION = re.compile(r"\s*[0-9]+[dhms]?(\s+[0-9]+[dhms]?)*\s*", re.ASCII | re.IGNORECASE)
_STORAGE = re.compile(r"([0-9]+(?:\.[0-9]*)?)([BKMGT]?)", re.ASCII)
_ROUGH = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\W*(?:per|a|an)?\W*([A-Za-z]?)", re.ASCII)

RATE_FORM = "is not a rate: write a number, '/' and a unit (s, m, h or d), or 0"
AGE_FORM = "is not a number followed by a unit (s, m, h or d)"
EXPIRATION_FORM = "is not a duration such as '4d 5h' (units: d, h, m, s)"


def parse_rate(text: str) -> float:
    """Convert a queue's ``rate``, such as ``20/m``, ``7200./h`` or ``0``, to tasks per second."""
    if not _RATE.fullmatch(text):
        raise UnusableError(RATE_FORM, _likely_quantity(text, "/"))
    if text == "0":
        return 0.0
    number, unit = text.split("/")
    return _bounded(float(number)) / UNIT_SECONDS[unit]


def parse_age_limit(text: str) -> int:
    """Convert a ``task_age_limit`` such as ``2d`` or ``1.5e2m`` to whole seconds, at least 1."""
    text = text.strip()
    if not _AGE.fullmatch(text):
        raise UnusableError(AGE_FORM, _likely_quantity(text, ""))
    seconds = int(_bounded(float(text[:-1]) * UNIT_SECONDS[text[-1]]))
    if seconds <= 0:
        raise UnusableError("must be at least one second")
    return seconds


def parse_expiration(text: str) -> int:
    """Convert an ``expiration`` such as ``4d 5h`` to seconds; a number without a unit is in seconds."""
    if not _EXPIRATION.fullmatch(text):
        raise UnusableError(EXPIRATION_FORM, _likely_quantity(text, ""))
    total = 0.0
    for part in text.lower().split():
        number, unit = (part[:-1], part[-1]) if part[-1] in UNIT_SECONDS else (part, "s")
        total += float(number) * UNIT_SECONDS[unit]
    return int(_bounded(total))


def parse_storage_limit(text: str) -> int:
    """Convert a ``total_storage_limit`` to bytes; the units B, K, M, G and T are powers of 1024."""
    match = _STORAGE.fullmatch(text.strip())
    if match is None:
        upper = text.strip().upper().removesuffix("B")
        raise UnusableError(
            "is not a number with an optional unit (B, K, M, G or T)",
            upper if _STORAGE.fullmatch(upper) and upper != text.strip() else None,
        )
    number, unit = match.groups()
    return int(_bounded(float(number) * 1024 ** "BKMGT".index(unit or "B")))


def parse_integer(text: str) -> int:
    """Parse a whole number in decimal digits."""
    if not _INTEGER.fullmatch(text):
        near = text.strip().partition(".")[0].replace(",", "").replace("_", "")
        hint = near if near != text and _INTEGER.fullmatch(near) else None
        raise UnusableError("is not a whole number", hint)
    # int() raises its own error for thousands of digits, so check the bound on a float first.
    return int(_bounded(float(text)) and int(text))


def parse_between(text: str, lowest: int, highest: int) -> int:
    """Parse a whole number and check that it is within the bounds."""
    number = parse_integer(text)
    if not lowest <= number <= highest:
        raise UnusableError(f"is not between {lowest} and {highest}")
    return number


def parse_count(text: str) -> int:
    """Parse a non-negative integer."""
    number = parse_integer(text)
    if number < 0:
        raise UnusableError("must not be negative", text.strip().lstrip("-"))
    return number


def parse_seconds(text: str) -> float:
    """Parse a duration in seconds: 0 or more, with an optional fraction."""
    if not _FLOAT.fullmatch(text):
        rough = _ROUGH.fullmatch(text.rstrip("econds "))
        raise UnusableError("is not a number of seconds", rough.group(1) if rough else None)
    seconds = _bounded(float(text))
    if seconds < 0:
        raise UnusableError("must not be negative", text.strip().lstrip("-"))
    return seconds


def parse_switch(text: str) -> bool:
    """Parse a boolean in any of YAML 1.1's spellings, because the files are older than YAML 1.2."""
    lowered = text.lower()
    if lowered in {"true", "yes", "on", "y", "t", "1"}:
        return True
    if lowered in {"false", "no", "off", "n", "f", "0"}:
        return False
    raise UnusableError("must be true or false")


def _bounded(number: float) -> float:
    """Return the number if a double can hold it exactly, else raise UnusableError."""
    if not math.isfinite(number) or abs(number) > _MAX_NUMBER:
        raise UnusableError("is too large")
    return number


def _likely_quantity(text: str, separator: str) -> str | None:
    """Guess the correct spelling of a number with its unit."""
    match = _ROUGH.search(text[:100])
    if match is None:
        return None
    number, unit = match.groups()
    value = float(number)
    if not math.isfinite(value):
        return None
    unit = unit.lower() if unit.lower() in UNIT_SECONDS else "s"
    return f"{value:.15g}{separator}{unit}"
