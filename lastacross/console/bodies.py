"""Decodes a task's body for display: a form, JSON, text, a pickle's disassembly, or bytes in hex.

Nothing here unpickles: ``pickletools`` reads a pickle's opcodes without running them.
"""

import io
import json
import pickletools
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

MAX_SHOWN_BYTES = 32 * 1024
"""A longer body is shown only up to this length."""
MAX_FIELDS = 200
MAX_OPCODES = 400
MAX_JSON_DEPTH = 60
HEX_BYTES = 2048
_HEX_ROW = 16

# A deferred call is signed: the signature follows the pickle after a dot.
_PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


@dataclass(frozen=True, slots=True)
class Shown:
    """A body for display.

    ``kind`` is ``empty``, ``form``, ``json``, ``text``, ``pickle`` or ``bytes``. A form has ``fields``; all
    others have ``text``. ``is_cut`` says whether something has been left out.
    """

    kind: str
    size: int
    text: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    is_cut: bool = False


def shown(body: bytes, headers: Iterable[tuple[str, str]] = ()) -> Shown:
    """Decode a body according to its Content-Type, or else by what its bytes look like."""
    if not body:
        return Shown("empty", 0)
    kind = next((value for name, value in headers if name.lower() == "content-type"), "").lower()
    if body.startswith(_PICKLE_STARTS):
        return _pickle(body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return _bytes(body)
    if "json" in kind or text.lstrip()[:1] in ("{", "["):
        found = _json(text, len(body))
        if found is not None:
            return found
    if "x-www-form-urlencoded" in kind or (not kind and _looks_like_form(text)):
        return _form(text, len(body))
    if not _is_printable(text):
        return _bytes(body)
    return Shown("text", len(body), text[:MAX_SHOWN_BYTES], is_cut=len(text) > MAX_SHOWN_BYTES)


def _is_printable(text: str) -> bool:
    return all(each.isprintable() or each in "\n\r\t" for each in text[:MAX_SHOWN_BYTES])


def _looks_like_form(text: str) -> bool:
    return "=" in text[:100] and not any(each in text for each in '\n <{"')


def _form(text: str, length: int) -> Shown:
    cut = text[:MAX_SHOWN_BYTES]
    parts = cut.split("&", MAX_FIELDS)
    fields = parse_qsl("&".join(parts[:MAX_FIELDS]), keep_blank_values=True)
    return Shown("form", length, cut, tuple(fields), is_cut=len(parts) > MAX_FIELDS or len(cut) < len(text))


def _json(text: str, length: int) -> Shown | None:
    if length > MAX_SHOWN_BYTES or _is_deeper(text, MAX_JSON_DEPTH):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    # A lone surrogate is valid JSON, but no page can contain it.
    pretty = json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return Shown("json", length, pretty[:MAX_SHOWN_BYTES], is_cut=len(pretty) > MAX_SHOWN_BYTES)


def _is_deeper(text: str, most: int) -> bool:
    depth = 0
    for each in text:
        if each in "[{":
            depth += 1
            if depth > most:
                return True
        elif each in "]}":
            depth -= 1
    return False


def _pickle(body: bytes) -> Shown:
    lines = []
    is_cut = False
    try:
        for place, (opcode, argument, position) in enumerate(pickletools.genops(io.BytesIO(body))):
            if place == MAX_OPCODES:
                is_cut = True
                break
            value = "" if argument is None else f" {_argument(argument)}"
            lines.append(f"{position or 0:>6}  {opcode.name}{value}")
    except Exception as error:
        # pickletools raises many kinds of errors for bytes that are not a pickle.
        lines.append(f"        not a pickle from here on: {_argument(str(error))}")
    return Shown("pickle", len(body), "\n".join(lines), is_cut=is_cut)


def _argument(value: object) -> str:
    text = repr(value) if not isinstance(value, bytes) else repr(value[:120])
    return text if len(text) <= 160 else text[:159] + "…"


def _bytes(body: bytes) -> Shown:
    lines = []
    for first in range(0, min(len(body), HEX_BYTES), _HEX_ROW):
        row = body[first : first + _HEX_ROW]
        plain = "".join(chr(each) if 32 <= each < 127 else "·" for each in row)
        lines.append(f"{first:06x}  {row.hex(' '):<{_HEX_ROW * 3 - 1}}  {plain}")
    return Shown("bytes", len(body), "\n".join(lines), is_cut=len(body) > HEX_BYTES)
