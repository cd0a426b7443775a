"""Uses a fingerprint to decide which errors count as the same. Pure functions.

Two errors are in one group if they have the same type, server, status, domain and masked message. Masking
hides the parts that change: numbers, UUIDs, addresses and long hexadecimal ids. Words are never masked, even
if they are quoted, because ``KeyError: 'name'`` and ``KeyError: 'email'`` are two different bugs.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_DOMAIN_LENGTH = 255
MAX_MSG_LENGTH = 500
"""The maximum length of a group's message, which has its own limit because masking may lengthen it."""

# The order matters, because a later mask must not split the match of an earlier one. All take linear time.
_MASKS = [
    (re.compile(r"\b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b", re.IGNORECASE | re.ASCII), "<uuid>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE | re.ASCII), "<hex>"),
    (re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"), "<mail>"),
    (re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\d.])"), "<address>"),
    (re.compile(r"(?<![\w:])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE), "<address>"),
    (
        re.compile(r"\b(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE | re.ASCII),
        "<hex>",
    ),
    (re.compile(r"(?<![\w-])-?\d+(?:[.,:]\d+)*|\d+(?:[.,:]\d+)*"), "<n>"),
]


@dataclass(frozen=True)
class Likeness:
    """The properties that a group's errors have in common.

    ``fingerprint`` is 64 hexadecimal digits, the same on every machine and in every version. It covers the
    whole masked message, while ``msg`` may be truncated.
    """

    type: str
    server: str
    msg: str
    status: int
    domain: str
    fingerprint: str


def likeness(error_type: str, server: str, msg: str, *, status: int, url: str) -> Likeness:
    """The properties that decide an error's group."""
    msg, domain = masked(msg), domain_of(url)
    # JSON keeps the parts apart, so that ("ab", "c") differs from ("a", "bc").
    parts = json.dumps([error_type, server, msg, status, domain], ensure_ascii=True)
    fingerprint = hashlib.sha256(parts.encode()).hexdigest()
    shown = msg if len(msg) <= MAX_MSG_LENGTH else f"{msg[: MAX_MSG_LENGTH - 1]}…"
    return Likeness(error_type, server, shown, status, domain, fingerprint)


def masked(msg: str) -> str:
    """The message with its changing parts masked and each run of whitespace collapsed into one space."""
    for pattern, mask in _MASKS:
        msg = pattern.sub(mask, msg)
    return " ".join(msg.split())


def domain_of(url: str) -> str:
    """A URL's host in lower case, without the port and user; "" if the URL has no host."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return ""
    return (host or "")[:MAX_DOMAIN_LENGTH].rstrip(".")
