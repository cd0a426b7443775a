"""Decides which errors count as the same, by a fingerprint. Pure.

Two errors are in one group if they have the same type, server, status, domain and masked message. Masking
hides the parts that change: numbers, UUIDs, addresses and long hexadecimal ids. Words are never masked,
quoted or not: ``KeyError: 'name'`` and ``KeyError: 'email'`` are two mistakes.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_DOMAIN_LENGTH = 255
MAX_MSG_LENGTH = 500
"""The maximum length of a group's message, which has its own limit because masking may lengthen it."""

# The order matters: a later mask must not split an earlier one's match. Each is linear in the text's length.
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
    """The common properties of a group's errors.

    ``fingerprint`` is 64 hexadecimal digits, the same on every machine and in every version. It covers the
    whole masked message, while ``msg`` may be cut.
    """

    type: str
    server: str
    msg: str
    status: int
    domain: str
    fingerprint: str


def likeness(error_type: str, server: str, msg: str, *, status: int, url: str) -> Likeness:
    """An error's group properties."""
    msg, domain = masked(msg), domain_of(url)
    # JSON separates the parts: "ab", "c" differs from "a", "bc".
    parts = json.dumps([error_type, server, msg, status, domain], ensure_ascii=True)
    fingerprint = hashlib.sha256(parts.encode()).hexdigest()
    shown = msg if len(msg) <= MAX_MSG_LENGTH else f"{msg[: MAX_MSG_LENGTH - 1]}…"
    return Likeness(error_type, server, shown, status, domain, fingerprint)


def masked(msg: str) -> str:
    """The message with its changing parts masked, and with each run of white space reduced to one blank."""
    for pattern, mask in _MASKS:
        msg = pattern.sub(mask, msg)
    return " ".join(msg.split())


def domain_of(url: str) -> str:
    """The host of a URL in lower case, without port and user; "" if it has none."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return ""
    return (host or "")[:MAX_DOMAIN_LENGTH].rstrip(".")
