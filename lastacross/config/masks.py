"""What may be shown of a value that has a secret in it. Pure."""

import re
from urllib.parse import urlsplit

MASK = "********"

_PARAMETER = re.compile(r"((?:password|passwd|sslpassword|secret|token)=)[^&#\s,']*", re.IGNORECASE)


def masked_url(url: str) -> str:
    """The URL with its password, and any parameter that is one, hidden."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    if "@" in parts.path:
        # A password with a slash in it: where it ends cannot be known.
        return masked_text(url)
    credentials, at, place = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    netloc = f"{user}{colon}{MASK}{at}{place}" if colon else parts.netloc
    return _PARAMETER.sub(rf"\1{MASK}", url.replace(f"//{parts.netloc}", f"//{netloc}", 1))


def masked_text(text: str) -> str:
    """Any text without what may be a password: all between the first ``:`` and the last ``@``."""
    start, end = text.find(":"), text.rfind("@")
    if 0 <= start < end:
        text = f"{text[: start + 1]}{MASK}{text[end:]}"
    return _PARAMETER.sub(rf"\1{MASK}", text)
