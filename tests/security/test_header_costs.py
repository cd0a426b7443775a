"""The cost of a header: each that we, WebOb or webapp2 read, filled up with what is hard to read."""

from collections.abc import Callable, Iterator, Sequence

import pytest

from lastacross.webapp.request_limits import MAX_BYTES_OF
from tests.security.measuring import Request, Web, attacked, measured_web
from tests.security.table import Row
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# gunicorn's: a header with its name, and how many of them.
LINE_BYTES = 8_186
LINES = 95
ANSWERS = {200, 206, 301, 304, 400, 401, 403, 404, 416, 431}

# As a site lists them that has them in any private network; each hop is compared with each.
PROXIES = (
    "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,192.0.2.0/24,198.51.100.0/24,203.0.113.0/24,"
    "198.18.0.0/15,fc00::/7,fe80::/10,::1,127.0.0.1"
)

# Each header, and what a value of it may begin with so that a reader goes on.
BEGINNINGS = {
    "Accept": [b"text/html;a=", b'text/html;a="', b"text/html;q=1;"],
    "Accept-Charset": [b"utf-8;q=0."],
    "Accept-Encoding": [b"gzip;q=0."],
    "Accept-Language": [b"en-"],
    "Authorization": [b"Digest ", b'Basic "', b"Bearer ", b"digest "],
    "Cache-Control": [b"max-age="],
    "Content-Disposition": [b'form-data; name="'],
    "Content-Type": [b"multipart/form-data; boundary=", b"text/plain;"],
    "Cookie": [b"a=", b'a="', b"a=\\"],
    "Date": [b"Mon, 01 Jan 2024 "],
    "Forwarded": [b"for="],
    "Host": [b"localhost"],
    "If-Match": [b'"'],
    "If-Modified-Since": [b"Mon, 01 Jan 2024 "],
    "If-None-Match": [b'W/"'],
    "If-Range": [b'W/"'],
    "If-Unmodified-Since": [b"Mon, 01 Jan 2024 "],
    "Last-Event-ID": [b"1-"],
    "Origin": [b"http://"],
    "Pragma": [b"no-"],
    "Prefer": [b"wait="],
    "Range": [b"bytes=", b"bytes=0"],
    "Referer": [b"http://"],
    "Sec-Fetch-Site": [b"same-"],
    "TE": [b"trailers;"],
    "User-Agent": [b"Mozilla/5.0 ("],
    "X-AppEngine-TaskName": [b"a"],
    "X-Forwarded-For": [b"1.2.3.4,", b"127.0.0.1,"],
    "X-Forwarded-Host": [b"a"],
    "X-Forwarded-Port": [b"8"],
    "X-Forwarded-Proto": [b"http,"],
    "X-Lastacross-Delivery": [b"a.", b".eJw"],
    "X-Request-Id": [b"a"],
    "X-Requested-With": [b"XML"],
}
PATTERNS = {
    "letters": b"a",
    "digits": b"0",
    "commas": b",",
    "semicolons": b";",
    "equals": b"=",
    "quotes": b'"',
    "backslashes": b"\\",
    "blanks": b" ",
    "tabs": b"\t ",
    "blanks between commas": b" , ",
    "open brackets": b"([{<",
    "Latin-1": b"\xe4\xff",
    "escapes": b"%41",
    "pairs": b"a=b;",
    "quoted pairs": b'a="b";',
    "open quotes": b';a="',
    "escaped quotes": b'\\"',
    "quoted backslashes": b'"\\\\',
    "items": b"a/b;q=0.1,",
    "entity tags": b'W/"a", ',
    "ranges": b"0-0,",
    "dashes": b"-1",
    "dots": b"a.",
    "colons": b"::1:",
    "words": b"a b ",
}
# Where something else than the application reads headers.
ELSEWHERE = {
    "/static/file.txt": ("Accept-Encoding", "If-Modified-Since", "If-None-Match", "Range"),
    "/_ah/channel/stream": ("Last-Event-ID",),
    "/_ah/channel/jsapi": ("If-None-Match",),
    "/no-such-page": ("Accept",),
}


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[Web]:
    """One server for the tests of this file, behind a proxy: what that says of the client is read."""
    with measured_web(redis_server, {"LASTACROSS_TRUSTED_PROXIES": PROXIES}) as running:
        yield running


def get(path: str, *headers: bytes) -> Request:
    """A GET with these header lines."""
    head = [b"GET " + path.encode() + b" HTTP/1.1", b"Connection: close", *headers]
    if not any(line.startswith(b"Host:") for line in headers):
        head.append(b"Host: localhost")
    return Request(b"\r\n".join(head) + b"\r\n\r\n")


def line(header: str, beginning: bytes, unit: bytes, size: int = LINE_BYTES) -> bytes:
    """A header of this size, which ends with what fits nowhere."""
    room = size - len(header) - 2 - len(beginning) - 1
    return header.encode() + b": " + beginning + (unit * room)[:room] + b"!"


def variants_of(header: str, path: str, size: int = LINE_BYTES) -> dict[str, Request]:
    """A request for each pattern, at once and after each of the header's beginnings."""
    return {
        f"{header}: {beginning.decode()}{name}": get(path, line(header, beginning, unit, size))
        for name, unit in PATTERNS.items()
        for beginning in (b"", *BEGINNINGS[header])
    }


HARMLESS = get("/read", line("X-Padding", b"", b"a"))
MANY_HARMLESS = get("/read", *(line(f"X-Padding-{number}", b"", b"a") for number in range(LINES)))

each_choice = pytest.mark.parametrize(
    "patterns",
    [["letters"], pytest.param(list(PATTERNS), marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
    ids=["letters", "all"],
)


@pytest.mark.parametrize("header", BEGINNINGS)
def test_a_header_costs_no_more_than_a_harmless_one_whatever_is_in_it(
    web: Web, header: str, attacks: Callable[[Row], None]
) -> None:
    outcome = attacked(web, HARMLESS, variants_of(header, "/read"), ANSWERS)

    attacks(outcome.row("headers of 8 kB, one line"))
    assert outcome.over == {}


@pytest.mark.parametrize("key", MAX_BYTES_OF)
def test_a_header_at_a_limit_of_its_own_costs_no_more_than_a_harmless_one(
    web: Web, key: str, attacks: Callable[[Row], None]
) -> None:
    header = key.removeprefix("HTTP_").replace("_", "-").title()
    size = MAX_BYTES_OF[key] + len(header) + 2

    outcome = attacked(web, HARMLESS, variants_of(header, "/read", size), ANSWERS - {431})

    attacks(outcome.row("headers as long as their own limit"))
    assert outcome.over == {}


@pytest.mark.parametrize("path", ELSEWHERE)
def test_what_is_not_the_applications_reads_headers_as_cheaply(
    web: Web, path: str, attacks: Callable[[Row], None]
) -> None:
    variants = {
        name: request for header in ELSEWHERE[path] for name, request in variants_of(header, path).items()
    }

    outcome = attacked(web, HARMLESS, variants, ANSWERS)

    attacks(outcome.row("headers of 8 kB, at the engine's own addresses"))
    assert outcome.over == {}


@each_choice
def test_a_header_of_many_lines_costs_no_more_than_as_many_harmless_ones(
    web: Web, patterns: Sequence[str], attacks: Callable[[Row], None]
) -> None:
    variants = {
        f"{header}: {name}": get("/read", *[line(header, beginnings[0], PATTERNS[name])] * LINES)
        for header, beginnings in BEGINNINGS.items()
        for name in patterns
    }
    # Each hop is a trusted proxy, so the one before it is looked at.
    variants |= {
        f"{header}: hops": get("/read", *[f"{header}: ".encode() + b",".join([hop] * count)] * LINES)
        for header, hop, count in (
            ("X-Forwarded-For", b"127.0.0.1", 810),
            ("Forwarded", b"for=127.0.0.1", 580),
        )
    }

    outcome = attacked(web, MANY_HARMLESS, variants, ANSWERS)

    attacks(outcome.row("headers of 780 kB, in 95 lines"))
    assert outcome.over == {}


def test_a_headers_name_costs_no_more_than_its_value(web: Web, attacks: Callable[[Row], None]) -> None:
    def named(unit: str) -> Request:
        return get("/read", *(f"{unit * 8_000}"[:8_000].encode() + b"%d: a" % n for n in range(LINES)))

    variants = {unit: named(unit) for unit in ("A", "A-", "-", "X-AppEngine-", "X.", "~!")}

    outcome = attacked(web, MANY_HARMLESS, variants, ANSWERS)

    attacks(outcome.row("names of headers of 8 kB, 95 of them"))
    assert outcome.over == {}


ADDRESS_BYTES = 4_050
ADDRESSES = ("/", "/read/", "/read?", "/read?a=", "/static/", "/_ah/", "/_ah/channel/stream?", "/a.json?")
UNITS = (
    "a",
    "/",
    "//",
    "a/",
    "../",
    "%2e%2e/",
    ".",
    "&",
    "a&",
    ";",
    "a=1&",
    "=",
    "%41",
    "%",
    "%4",
    "+",
    "%ff",
    "%25",
    "\\",
)


def test_an_address_costs_no_more_than_a_harmless_one(web: Web, attacks: Callable[[Row], None]) -> None:
    harmless = get("/read?a=" + "a" * ADDRESS_BYTES)
    variants = {
        f"{beginning}{unit}": get(beginning + (unit * ADDRESS_BYTES)[: ADDRESS_BYTES - len(beginning)])
        for beginning in ADDRESSES
        for unit in UNITS
    }

    outcome = attacked(web, harmless, variants, ANSWERS)

    attacks(outcome.row("addresses of 4 kB"))
    assert outcome.over == {}
