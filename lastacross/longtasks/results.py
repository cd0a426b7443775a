"""Encodes the result of ``execute_task`` for storage, and determines how it is sent by default."""

import json
import mimetypes
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from lastacross.errors import UnusableResultError

MAX_BYTES = 32 * 1024 * 1024

# Browsers do not run code in content of these types, so it is safe to show it on our origin.
_SHOWN_AS_THEY_ARE = frozenset(
    {"text/plain", "application/json", "image/png", "image/jpeg", "image/gif", "image/webp"}
)
# Browsers run code in these types, so they are shown in a sandbox: without scripts, and with an origin of
# their own instead of ours.
_SANDBOXED = {"text/html": ".html", "image/svg+xml": ".svg"}
SANDBOX = "; ".join(
    (
        "sandbox",
        "default-src 'none'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_PAGE = re.compile(r"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)
_UNKNOWN = "application/octet-stream"


def encode(result: Any) -> tuple[str, bytes]:
    """Return the result's kind (``text``, ``bytes`` or ``json``) and the bytes to store.

    Raises:
        UnusableResultError: the encoded result exceeds 32 MB, or JSON cannot represent it.
    """
    kind, body = _encoded(result)
    if len(body) > MAX_BYTES:
        raise UnusableResultError(
            f"The result has {len(body):,} bytes; at most {MAX_BYTES:,} can be stored. "
            "Return a smaller one, or store it elsewhere and return its address."
        )
    return kind, body


def _encoded(result: Any) -> tuple[str, bytes]:
    if isinstance(result, bytes | bytearray | memoryview):
        return "bytes", bytes(result)
    if isinstance(result, str):
        try:
            return "text", result.encode()
        except UnicodeEncodeError as error:
            raise UnusableResultError(f"The result is text that UTF-8 cannot encode: {error}") from error
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return "json", text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(result).__name__
        raise UnusableResultError(
            f"The result ({kind}) is neither text nor bytes, and JSON cannot hold it: {error}"
        ) from error


def decode(kind: str, body: bytes) -> Any:
    """Return the original result, except that a tuple becomes a list."""
    if kind == "bytes":
        return body
    return body.decode() if kind == "text" else json.loads(body)


def is_page(result: Any) -> bool:
    """Return whether the result is the text of a whole HTML page."""
    return isinstance(result, str) and _PAGE.match(result) is not None


@dataclass(frozen=True)
class Download:
    """The headers with which a result is sent.

    Attributes:
        content_type: the content type, which includes the charset for text.
        disposition: the value of Content-Disposition.
        policy: the Content-Security-Policy, or None for the page's usual one.
    """

    content_type: str
    disposition: str
    policy: str | None = None


def download(kind: str, path: str, filename: str | None, content_type: str | None) -> Download:
    """Choose the headers for a result of this kind; only harmless or sandboxed ones are shown.

    Args:
        kind: ``text``, ``bytes`` or ``json``.
        path: the handler's path; without ``filename``, its last part names the file.
        filename: the file name for saving the result, or None.
        content_type: the content type, or None to derive it from the file name or the kind.
    """
    known = content_type or (mimetypes.guess_type(filename)[0] if filename else None)
    usual = {"text": ("text/plain", ".txt"), "json": ("application/json", ".json")}
    fallback, ending = usual.get(kind, (_UNKNOWN, ".bin"))
    media_type = (known or fallback).partition(";")[0].strip().lower()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.rstrip("/").rpartition("/")[2]).strip("-.") or "result"
    ending = _SANDBOXED.get(media_type, ending)
    # HTML or SVG on our own origin could act on the visitor's behalf.
    is_shown = filename is None and (media_type in _SHOWN_AS_THEY_ARE or media_type in _SANDBOXED)
    disposition = _disposition("inline" if is_shown else "attachment", filename or f"{stem}{ending}")
    full = known or fallback
    if (media_type.startswith("text/") or media_type == "application/json") and "charset" not in full:
        full = f"{full}; charset=utf-8"
    return Download(full, disposition, SANDBOX if media_type in _SANDBOXED else None)


def _disposition(kind: str, filename: str) -> str:
    """Return a Content-Disposition with the name in ASCII and, if necessary, also in UTF-8 (RFC 6266)."""
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", filename)
    plain = name.encode("ascii", "replace").decode().replace('"', "'").replace("?", "_")
    header = f'{kind}; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"
