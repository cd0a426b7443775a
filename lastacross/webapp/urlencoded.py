"""Forms of the kind ``a=1&b=2``, read as ``urllib.parse.parse_qsl`` reads them, and many times as fast. Pure.

A stranger's form may be nothing but escapes, of which Python's own decoder makes an object each.
"""

import binascii
import re

from lastacross.webapp import content_type
from lastacross.webapp.form_error import FormError

MAX_STRAYS = 1_000
"""Per cent signs of a form that begin no escape. A browser sends none."""

_STRAY = re.compile(rb"=(?![0-9A-Fa-f]{2})")


def parse(body: bytes, max_fields: int | None = None, charset: str = "utf-8") -> list[tuple[str, str]]:
    """The fields in their order; one without ``=`` has the value "".

    Args:
        body: the form.
        max_fields: how many it may have, None for any number.
        charset: one of ``content_type.FORM_CHARSETS``.

    Raises:
        FormError: there are more fields, too many per cent signs that begin no escape, or bytes that the
            charset has not.
    """
    if max_fields is not None and body.count(b"&") >= max_fields:
        raise FormError.of_fields(max_fields)
    if charset == "utf-8" and not body.isascii():
        # As where text is decoded before it is taken apart: an escape does not complete what came raw.
        body = body.decode("utf-8", "replace").encode()
    decoder = _Decoder(charset)
    fields = []
    for pair in body.replace(b"+", b" ").split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            try:
                fields.append((decoder.text(name), decoder.text(value)))
            except UnicodeDecodeError as error:
                raise FormError.of_charset(name.decode("ascii", "replace"), charset) from error
    return fields


class _Decoder:
    """Undoes the escapes of one form."""

    def __init__(self, charset: str) -> None:
        self._charset = charset
        self._strays_left = MAX_STRAYS

    def text(self, escaped: bytes) -> str:
        """A name or a value."""
        unescaped = self._unescaped(escaped) if b"%" in escaped else escaped
        return content_type.decoded(unescaped, self._charset)

    def _unescaped(self, escaped: bytes) -> bytes:
        # Quoted-printable has another sign for the same, and a decoder in C.
        printable = escaped.replace(b"=", b"%3D").replace(b"%", b"=")
        decoded = binascii.a2b_qp(printable)
        # Each escape has become shorter by two. A line's end after the sign would, too, and be lost.
        has_line_end = b"=\n" in printable or b"=\r" in printable
        if not has_line_end and len(decoded) == len(printable) - 2 * printable.count(b"="):
            return decoded
        printable, strays = _STRAY.subn(b"=25", printable, self._strays_left + 1)
        self._strays_left -= strays
        if self._strays_left < 0:
            raise FormError(400, f"The form has more than {MAX_STRAYS:,} signs `%` that begin no escape.")
        return binascii.a2b_qp(printable)
