"""The cost of a body: forms and JSON at their limits and far above them, made of what is hard to read."""

import json
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.security.measuring import MEGABYTE, Request, Web, attacked, measured_web
from tests.security.table import Row
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
LARGE = 10 * MEGABYTE


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[Web]:
    """One server for the tests of this file."""
    with measured_web(redis_server) as running:
        yield running


def post(path: str, kind: str, body: bytes) -> Request:
    """A POST of this body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return Request(f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body, len(body))


def filled(unit: bytes, size: int, beginning: bytes = b"") -> bytes:
    """As many of a unit as make this size."""
    return (beginning + unit * ((size - len(beginning)) // len(unit) + 1))[:size]


URLENCODED = {
    "escapes": b"%41",
    "escapes between letters": b"%41a",
    "escapes of bytes": b"%ff",
    "per cent signs": b"%",
    "half escapes": b"%4",
    "two per cent signs": b"%%41",
    "a line's ends": b"%\r\n",
    "fields": b"a&",
    "empty fields": b"&",
    "values": b"a=1&",
    "equals": b"=",
    "plus signs": b"+",
    "semicolons": b";",
    "bytes that are not UTF-8": b"\xff",
    "continuation bytes": b"\x80",
    "NULs": b"\0",
}


@pytest.mark.parametrize("size", [MEGABYTE, LARGE], ids=["1 MB", "10 MB"])
def test_a_form_costs_no_more_than_a_harmless_one(
    web: Web, size: int, attacks: Callable[[Row], None]
) -> None:
    harmless = post("/form", FORM, filled(b"a", MEGABYTE, b"a="))
    variants = {
        name: post("/form", FORM, filled(unit, size, beginning))
        for unit_name, unit in URLENCODED.items()
        for beginning in (b"", b"a=")
        for name in (f"{beginning.decode()}{unit_name}",)
    }

    outcome = attacked(web, harmless, variants, {200, 400} if size == MEGABYTE else {413, 0})

    attacks(outcome.row(f"urlencoded forms of {size // MEGABYTE} MB"))
    assert outcome.over == {}


def part(headers: bytes, content: bytes = b"") -> bytes:
    """One part of a form."""
    return b"--x\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


FIELD = b"Content-Disposition: form-data; name=a"
FILE = b'Content-Disposition: form-data; name=a; filename="b"\r\nContent-Type: text/plain'
END = b"--x--\r\n"


# Python's "replace" calls a function of its own for each of them.
NOT_OF_CHARSETS = {
    "us-ascii": b"\xff",
    "windows-1252": b"\x81",
    "cp1253": b"\xff",
    "windows-1255": b"\xd9",
    "iso-8859-7": b"\xff",
    "iso-8859-8": b"\xff",
    "utf-16": b"\xd8",
    "shift_jis": b"\xff",
    "euc-jp": b"\xff",
    "euc-kr": b"\xff",
    "gb18030": b"\xff",
    "big5": b"\xff",
    "iso-2022-jp": b"\xff",
}


def in_charset(name: str, byte: bytes) -> bytes:
    """A form with a field of such bytes."""
    return part(FIELD + f"\r\nContent-Type: text/plain; charset={name}".encode(), byte * 1_000_000) + END


def multipart_bodies() -> Mapping[str, bytes]:
    """By their names."""
    return {
        "205,000 parts": part(FIELD) * 205_000,
        "1,000 fields": part(FIELD, b"1") * 1_000 + END,
        "1,000 files": part(FILE, b"1") * 1_000 + END,
        "1,000 files of 9 kB": part(FILE, bytes(9_000)) * 1_000 + END,
        "10 MB of text": part(FIELD, bytes(10_000_000)) + END,
        "10 MB before the first boundary": filled(b"\r\n--y", LARGE),
        "10 MB after the last boundary": part(FIELD) + END + filled(b"\r\n--x", LARGE - 200),
        "near boundaries in a file": part(FILE, filled(b"\r\n--\r\n-", LARGE - 1_000)) + END,
        "line ends in a file": part(FILE, filled(b"\r\n", LARGE - 1_000)) + END,
        "backslashes in a name": part(b'Content-Disposition: form-data; name="' + b"\\" * 3_000) + END,
        "open quotes in a name": part(b"Content-Disposition: form-data" + b';a="' * 1_000) + END,
        "blanks in a name": part(b"Content-Disposition: form-data;" + b" " * 3_000 + b"name") + END,
        "letters in a name": part(b"Content-Disposition: form-data;" + b"a" * 3_000) + END,
        "a header without end": b"--x\r\nContent-Disposition: " + b"a" * (LARGE - 100),
        "headers": b"--x\r\n" + b"A: b\r\n" * 1_000_000,
        "colons": b"--x\r\n" + b":" * MEGABYTE,
        "base64": part(FIELD + b"\r\nContent-Transfer-Encoding: base64", b"YQ==" * 250_000) + END,
        "quoted-printable": part(FIELD + b"\r\nContent-Transfer-Encoding: quoted-printable", b"=41" * 330_000)
        + END,
        "a charset": part(FIELD + b"\r\nContent-Type: text/plain; charset=punycode", b"a" * 900_000) + END,
        **{f"bytes that are not {name}": in_charset(name, byte) for name, byte in NOT_OF_CHARSETS.items()},
        "parameters of parts": part(FIELD + b';a=""' * 180) * 999 + END,
        "parameters of files": part(FILE + b';a=""' * 180) * 999 + END,
        "one parameter of parts": part(FIELD + b";a=" + b"a" * 900) * 999 + END,
        "headers of parts": part(FIELD + b"\r\nA: b" * 7) * 999 + END,
        "parts in parts": part(FIELD + b"\r\nContent-Type: multipart/mixed; boundary=y", b"--y\r\n" * 99)
        + END,
        "bytes that are not UTF-8": part(FIELD, b"\xff" * 1_000_000) + END,
    }


def test_a_form_in_parts_costs_no_more_than_a_harmless_one(web: Web, attacks: Callable[[Row], None]) -> None:
    bodies = multipart_bodies()
    shorter_than = 0
    for size in (100_000, MEGABYTE, LARGE):
        harmless = part(FILE, bytes(size - 1_000)) + END
        variants = {
            name: post("/form", MULTIPART, body)
            for name, body in bodies.items()
            if shorter_than < len(body) <= size or shorter_than == MEGABYTE < len(body)
        }
        shorter_than = size

        outcome = attacked(web, post("/form", MULTIPART, harmless), variants, {200, 400, 413, 0})

        attacks(outcome.row("forms in parts"))
        assert outcome.over == {}


def chunked(*chunks: bytes, after: bytes = b"\r\n") -> Request:
    """A POST of a body in these chunks."""
    head = (
        b"POST /quiet HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    wire = b"".join(chunks) + b"0\r\n" + after
    return Request(head + wire, len(wire))


def in_chunk(size: int) -> bytes:
    """A chunk of this size."""
    return b"%x\r\n%b\r\n" % (size, b"a" * size)


def test_a_body_in_chunks_costs_no_more_than_a_harmless_one(web: Web, attacks: Callable[[Row], None]) -> None:
    tiny, small, larger = b"1\r\na\r\n", in_chunk(64), in_chunk(65)
    variants = {
        "of a byte": chunked(tiny * (MEGABYTE // len(tiny))),
        "10 MB, of a byte": chunked(tiny * (LARGE // len(tiny))),
        "of 64 bytes": chunked(small * (MEGABYTE // len(small))),
        "of a byte, after a large one": chunked(b"10000\r\n" + b"a" * 65_536 + b"\r\n", tiny * 170_000),
        "with an extension": chunked(b"1;" + b"a" * MEGABYTE + b"\r\na\r\n"),
        "with extensions": chunked((b"1;" + b"a" * 90 + b"\r\na\r\n") * 10_000),
        "9 MB, of 65 bytes": chunked(larger * 138_000),
        "with extensions of 8 kB": chunked((b"1;" + b"a" * 8_185 + b"\r\na\r\n") * 9_000),
        "with extensions of 250 bytes": chunked((b"1;" + b'a="b";' * 41 + b"a\r\na\r\n") * 9_000),
        "of long sizes": chunked(b"0" * MEGABYTE + tiny),
        "with trailers": chunked(tiny, after=b"A: b\r\n" * 175_000 + b"\r\n"),
        "with a trailer": chunked(tiny, after=b"A: " + b"b" * MEGABYTE + b"\r\n\r\n"),
    }

    outcome = attacked(web, post("/quiet", "text/plain", b"a" * MEGABYTE), variants, {200, 400, 0})

    attacks(outcome.row("bodies in chunks"))
    assert outcome.over == {}


JSON = {
    "lists": b"[",
    "empty lists": b"[],",
    "objects": b'{"a":',
    "strings": b'"",',
    "strings of brackets": b'"[",',
    "quotes": b'"',
    "escaped quotes": b'\\"',
    "backslashes": b"\\",
    "depth at the limit": b"[" * 99 + b"]" * 99 + b",",
    "depth above the limit": b"[" * 101 + b"]" * 101 + b",",
    "numbers": b"1,",
    "digits": b"1",
    "closed lists": b"]",
}


def test_json_costs_no_more_than_a_harmless_one(web: Web, attacks: Callable[[Row], None]) -> None:
    harmless = post("/quiet", "application/json", json.dumps(["a" * (MEGABYTE - 10)]).encode())
    variants = {
        name: post("/quiet", "application/json", filled(unit, MEGABYTE, b"[")) for name, unit in JSON.items()
    }
    variants |= {
        f"10 MB: {name}": post("/quiet", "application/json", filled(JSON[name], LARGE)) for name in JSON
    }
    for charset in ("utf-16-le", "utf-32-be"):
        hidden = ('["\\"", ' + "[" * 100_000).encode(charset)
        variants[f"{charset}: lists after a quote"] = post("/quiet", "application/json", hidden)

    outcome = attacked(web, harmless, variants, {200, 400, 413, 0})

    attacks(outcome.row("JSON"))
    assert outcome.over == {}


KINDS = [
    *(
        f"text/plain; charset={name}"
        for name in ("punycode", "idna", "hex", "unicode_escape", "utf-7", "bz2")
    ),
    *(f"{FORM}; charset={name}" for name in ("punycode", "idna", "rot13", "undefined", "a" * 900)),
    "multipart/form-data; boundary=" + "x" * 900,
    'multipart/form-data; boundary="' + "\\" * 900,
    "multipart/form-data" + ";boundary*0=x" * 60,
    "",
    ";" * 1_000,
]


def test_a_type_that_lies_costs_no_more_than_a_harmless_one(web: Web, attacks: Callable[[Row], None]) -> None:
    body = b"a" * 1_000_000
    variants = {kind[:80]: post("/form", kind, body) for kind in KINDS}
    for name, byte in NOT_OF_CHARSETS.items():
        for unit in (byte, b"%%%02x" % byte[0]):
            kind = f"{FORM}; charset={name}"
            variants[f"{kind}, {unit!r}"] = post("/form", kind, filled(unit, 1_000_000, b"a="))

    outcome = attacked(web, post("/form", FORM, body), variants, {200, 400})

    attacks(outcome.row("content types"))
    assert outcome.over == {}
