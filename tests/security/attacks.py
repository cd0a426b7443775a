"""The attacks of a stranger on a running site, in classes, and whether one of them got in.

Each class builds its requests as the bytes that go over the wire, and judges an answer. The site is the
application in the root under ``lastacross web``.
"""

import itertools
import random
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from lastacross.signing import Signatures
from lastacross.webapp import administrator
from tests.conftest import SECRET_KEY

HOST = "localhost"
EVIL = "evil.example"
TIMEOUT_SECONDS = 20.0

PROTECTED = (
    "/tasks/errors/clean",
    "/tasks/errors/digest",
    "/taskloader/",
    "/worker/",
    "/quilt/complete",
    "/reloads/1/retry",
    "/accounts/a/activate",
    "/errors/groups/1",
    "/_ah/queue/deferred",
    "/_ah/queue/master",
    "/_ah/start",
    "/_ah/stop",
    "/_ah/warmup",
    "/_ah/admin/",
    "/_ah/admin/queues.json",
    "/_ah/admin/queues/default/purge",
    "/_ah/admin/tasks/default/t/delete",
    "/_ah/admin/audit",
    "/_ah/bulk",
    "/_ah/channel/connected/",
)
"""Addresses that only tasks, cron or the administrator may open."""

FORMS = (
    "/quilt",
    "/count",
    "/intrastat",
    "/accounts",
    "/accounts/samples",
    "/errors/sample",
    "/quilt/x/cancel",
)
"""Addresses that take a visitor's POST."""

PAGES = ("/", "/quilt", "/count", "/intrastat/form", "/longtasks", "/accounts", "/reloads", "/errors")


@dataclass(frozen=True)
class Request:
    """The bytes of one request, and what to look for in its answer (empty: nothing)."""

    raw: bytes
    trace: bytes = b""


@dataclass(frozen=True)
class Answer:
    """Everything that came back until the server closed the connection."""

    raw: bytes

    @property
    def statuses(self) -> list[int]:
        """The status of each response."""
        return [int(status) for status in re.findall(rb"(?:\A|\r\n|[^\r\n])HTTP/1\.[01] (\d{3}) ", self.raw)]

    @property
    def status(self) -> int:
        """The first response's; 0 if the server closed the connection without one."""
        found = self.statuses
        return found[0] if found else 0

    @property
    def head(self) -> bytes:
        """Status line and headers."""
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        """Everything after the first head."""
        return self.raw.partition(b"\r\n\r\n")[2]


@dataclass(frozen=True)
class AttackClass:
    """One kind of attack.

    Attributes:
        name: for the table.
        requests: builds every variant.
        is_let_in: whether this answer means that the attack worked.
    """

    name: str
    requests: Callable[[], Iterable[Request]]
    is_let_in: Callable[[Request, Answer], bool]


@dataclass(frozen=True)
class Outcome:
    """What came of one class: the number of variants sent, and the ones that got in."""

    name: str
    variants: int
    let_in: Sequence[tuple[Request, Answer]]


def send(port: int, request: Request) -> Answer:
    """Send one request over a connection of its own and read until the server closes it."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
        try:
            connection.sendall(request.raw)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65_536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass  # the server refused before it had read everything
    return Answer(bytes(received))


def run(attack: AttackClass, port: int, most: int, seed: int) -> Outcome:
    """Send up to ``most`` variants of one class, chosen by ``seed``."""
    variants = list(attack.requests())
    if len(variants) > most:
        variants = random.Random(seed).sample(variants, most)
    answers = [(variant, send(port, variant)) for variant in variants]
    return Outcome(attack.name, len(variants), [pair for pair in answers if attack.is_let_in(*pair)])


# --- requests -----------------------------------------------------------------------------


def _request(
    method: str, target: str, *headers: str, body: bytes = b"", host: str = HOST, trace: bytes = b""
) -> Request:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
        if "content-type:" not in "".join(headers).lower():
            lines.append("Content-Type: application/x-www-form-urlencoded")
    return Request("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body, trace)


def _works(_request: Request, answer: Answer) -> bool:
    """A protected handler answered; a 5xx is a fault of ours as well."""
    return not 400 <= answer.status < 500


ENGINE_HEADERS = (
    "X-AppEngine-QueueName: default",
    "X-AppEngine-TaskName: t",
    "X-AppEngine-TaskRetryCount: 0",
    "X-AppEngine-TaskExecutionCount: 0",
    "X-AppEngine-TaskETA: 1",
    "X-AppEngine-Cron: true",
    "X-AppEngine-User-Is-Admin: 1",
    "X-AppEngine-User-Email: admin@example.com",
    "X-AppEngine-Inbound-AppId: app",
    "X-CloudTasks-QueueName: default",
    "X-CloudScheduler: true",
    "X-Google-Internal-SkipAdminCheck: true",
    "Lastacross.Task: 1",
    "lastacross.cron: 1",
    "Lastacross-Delivery: a.b.c",
    "Authorization: Bearer eyJ0YXNrIjoxfQ.x.y",
)


def _spellings(header: str) -> Iterator[str]:
    name, _, value = header.partition(": ")
    yield header
    yield header.lower()
    yield f"{name.upper()}: {value}"
    yield f"{name.replace('-', '_')}: {value}"
    yield f"{name.replace('-', '_', 1)}: {value}"
    yield f"{name.replace('-', '--', 1)}: {value}"
    yield f"{name.replace('-', '.')}: {value}"
    yield f"{name}:{value}"
    yield f"{name}:\t{value} "
    yield f"{name}: {value}\r\n{name.lower()}: {value}"
    yield f"{name}: {value}\r\n{name.replace('-', '_')}: {value}"


def _forged_headers() -> Iterator[Request]:
    for header, path, method in itertools.product(ENGINE_HEADERS, PROTECTED, ("GET", "POST")):
        for spelling in _spellings(header):
            yield _request(method, path, spelling)


FORGED_ADMINISTRATORS = (
    "X-Forwarded-For: 127.0.0.1",
    "X-Real-IP: 127.0.0.1",
    "Forwarded: for=127.0.0.1;proto=https;host=localhost",
    "X-Forwarded-Proto: https\r\nX-Forwarded-For: 127.0.0.1, 127.0.0.1",
    "X-Client-IP: ::1",
    "True-Client-IP: 127.0.0.1",
    "X-Original-URL: /",
    "X-Rewrite-URL: /",
    "Authorization: Basic YWRtaW46YWRtaW4=",
    "Cookie: admin=1; administrator=true; session=admin",
    "Cookie: lastacross_admin=1",
    "Cookie: lastacross_admin=eyJhZG1pbiI6dHJ1ZX0.AAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "Cookie: lastacross_administrator=eyJhZG1pbiI6dHJ1ZX0.AAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAA",
    *(
        f"Cookie: {administrator.cookie_name(SECRET_KEY)}={value}"
        for value in (
            "1",
            Signatures("another key than that of the site").dump_token("administrator", "x"),
            Signatures(SECRET_KEY).dump_token("sign-in", "x"),
            Signatures(SECRET_KEY).dump_token("longtasks", ["x"]),
        )
    ),
    "Cookie: dev_appserver_login=admin@example.com:True:1",
    "Cookie: SACSID=x; ACSID=x",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost",
)


def _forged_administrators() -> Iterator[Request]:
    for header, path, method in itertools.product(FORGED_ADMINISTRATORS, PROTECTED, ("GET", "POST")):
        yield _request(method, path, header)


def _disguises(path: str) -> Iterator[str]:
    """Other ways to write a path."""
    inner = path[1:]
    first, _, rest = inner.partition("/")
    yield from (f"//{inner}", f"///{inner}", f"/./{inner}", f"/x/../{inner}", f"/x/%2e%2e/{inner}")
    yield from (f"/%2e/{inner}", f"/..;/{inner}", f"/;/{inner}", f"/{first};x=1/{rest}", f"/{inner};")
    yield from (f"/{inner}%20", f"/{inner}%00", f"/{inner}%0a", f"/{inner}%09", f"/{inner}.", f"/{inner}/.")
    yield from (f"/{inner}//", f"/{inner}?x", f"/{inner}%3fx", f"/{inner}#x", f"/{inner}%23", f"/{inner}\\")
    yield from (f"/{first}//{rest}", f"/{first}/./{rest}", f"/{first}%2f{rest}", f"/{first}%5c{rest}")
    yield from (f"/{first}%252f{rest}", f"/{first}\\{rest}", f"/{inner.upper()}", f"/{inner.title()}")
    yield "/" + "".join(f"%{ord(letter):02x}" if letter != "/" else "/" for letter in inner)
    yield f"/%{ord(inner[0]):02X}{inner[1:]}"
    yield f"/%25{ord(inner[0]):02x}{inner[1:]}"
    yield f"/%c0%ae%c0%ae/{inner}"
    yield f"/static/../{inner}"
    yield f"/static/%2e%2e/{inner}"
    yield f"/static/..%2f{inner}"
    yield f"http://{HOST}/{inner}"
    yield f"http://{EVIL}/{inner}"
    yield f"*{path}"


def _path_tricks() -> Iterator[Request]:
    for path, method in itertools.product(PROTECTED, ("GET", "POST", "HEAD", "PUT")):
        for disguised in _disguises(path):
            yield _request(method, disguised)


def _static_tricks() -> Iterator[Request]:
    targets = ("app.yaml", "main.py", "var/secret_key", "etc/passwd", ".git/config", "pyproject.toml")
    ups = (
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%5c",
        "..\\",
        "%252e%252e/",
        "..;/",
        "....//",
        "%c0%ae%c0%ae/",
    )
    for prefix, up, times, target in itertools.product(
        ("/static/", "/static/css/", "/_ah/static/", "/static//"), ups, (1, 2, 6), targets
    ):
        yield _request("GET", prefix + up * times + target)
    for prefix, target in itertools.product(("/static/", "/_ah/static/"), targets):
        yield from (_request("GET", f"{prefix}/{target}"), _request("GET", f"{prefix}%2f{target}"))
        yield from (_request("GET", f"{prefix}%00{target}"), _request("GET", f"{prefix}file:///{target}"))


HOSTS = (
    EVIL,
    f"{EVIL}:80",
    f"{HOST}.{EVIL}",
    f"{HOST}@{EVIL}",
    f"{EVIL}#{HOST}",
    f"{HOST}:80@{EVIL}",
    f"{HOST}, {EVIL}",
    f"{HOST} {EVIL}",
    f"{EVIL}/{HOST}",
    f"{HOST}:x",
    f"{HOST}:80:80",
    "127.0.0.1.nip.io",
    "2130706433",
    "0x7f.1",
    "[::ffff:169.254.169.254]",
    "[::1",
    "",
    "-",
    "a" * 300,
    "localhost\x00.evil",
    "LOCALHOST." + EVIL,
)


def _foreign_hosts() -> Iterator[Request]:
    for host, path in itertools.product(HOSTS, (*PAGES, "/static/app.css", "/_ah/queue/deferred")):
        yield _request("GET", path, host=host)
        # RFC 9112, 3.2.2: the host of the request line counts, whatever the Host header says.
        yield _request("GET", f"http://{host}{path}")


EMBEDDED = (
    ("no-cors", "image"),
    ("no-cors", "script"),
    ("no-cors", "empty"),
    ("cors", "empty"),
    ("navigate", "iframe"),
    ("navigate", "object"),
    ("navigate", "embed"),
    ("websocket", "websocket"),
)


def _embedded_starts() -> Iterator[Request]:
    for (mode, dest), site, month in itertools.product(EMBEDDED, ("cross-site", "same-site"), range(1, 4)):
        headers = f"Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: {mode}\r\nSec-Fetch-Dest: {dest}"
        yield _request("GET", f"/intrastat?month=2020-{month:02}", headers)


CROSS_SITE = (
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
    "Sec-Fetch-Site: cross-site\r\nOrigin: http://localhost",
    f"Origin: http://{EVIL}",
    "Origin: null",
    f"Origin: http://{HOST}.{EVIL}",
    f"Origin: http://{HOST}@{EVIL}",
    "Origin: http://[",
    f"Origin: http://{EVIL}\r\nX-Forwarded-Host: {EVIL}",
    f"Origin: http://{EVIL}\r\nContent-Type: text/plain",
    f"Origin: http://{EVIL}\r\nContent-Type: application/json",
)


def _cross_site_writes() -> Iterator[Request]:
    for headers, path, method in itertools.product(CROSS_SITE, FORMS, ("POST", "PUT", "DELETE", "PATCH")):
        yield _request(method, path, headers, body=b"rows=2&columns=2&name=x&intervals=1-2")


def _is_not_403(_request: Request, answer: Answer) -> bool:
    return answer.status != 403


def _redirects() -> Iterator[Request]:
    targets = (
        f"http://{EVIL}/",
        f"//{EVIL}/",
        f"/\\{EVIL}/",
        f"https:{EVIL}",
        f"/%09/{EVIL}",
        f"javascript://{EVIL}/",
    )
    names = ("continue", "next", "url", "return_to", "redirect", "dest", "_longtaskjob")
    for page, name, target in itertools.product(PAGES, names, targets):
        yield _request("GET", f"{page}?{name}={quote(target, safe='')}", trace=EVIL.encode())
    for page, header in itertools.product(
        PAGES,
        (
            f"X-Forwarded-Host: {EVIL}",
            f"Forwarded: host={EVIL}",
            f"X-Host: {EVIL}",
            f"Referer: http://{EVIL}/",
        ),
    ):
        yield _request("GET", page, header, trace=EVIL.encode())
        yield _request("POST", page, header, trace=EVIL.encode())
    for path in (f"//{EVIL}/", f"/\\{EVIL}", f"//{EVIL}/%2e%2e", f"/static//{EVIL}", f"///{EVIL}/static"):
        yield _request("GET", path, trace=EVIL.encode())


def _leads_away(request: Request, answer: Answer) -> bool:
    location = re.search(rb"(?im)^Location: *(\S*)", answer.head)
    return location is not None and request.trace in location[1] and not location[1].startswith(b"/?")


def _splits() -> Iterator[Request]:
    breaks = ("%0d%0a", "%0a", "%0d", "%E5%98%8A%E5%98%8D", "%u000a", "\\r\\n", "%0d%0a%20", "%c4%8d%c4%8a")
    for page, new_line in itertools.product(PAGES, breaks):
        yield _request("GET", f"{page}{new_line}Injected:%20yes")
        yield _request("GET", f"{page}?x={new_line}Injected:%20yes")
        yield _request("GET", f"/count/{new_line}Injected:%20yes")
        yield _request("POST", page, body=f"name={new_line}Injected: yes".encode())


def _is_split(_request: Request, answer: Answer) -> bool:
    return re.search(rb"(?im)^Injected:", answer.head) is not None or len(answer.statuses) > 1


PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "javascript:alert(1)//<x>",
    "{{7*7}}<b>{%raw%}",
    "<!--<script>",
    "\u2028<script>alert(1)</script>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
)


def _markup() -> Iterator[Request]:
    fields = (
        "rows",
        "columns",
        "delay_ms",
        "name",
        "intervals",
        "month",
        "account",
        "message",
        "q",
        "key",
        "after",
    )
    for page, payload in itertools.product((*PAGES, "/intrastat", "/accounts/samples"), PAYLOADS):
        written = quote(payload, safe="")
        trace = payload.encode()
        query = "&".join(f"{field}={written}" for field in fields)
        yield _request("GET", f"{page}?{query}", "Accept: text/html", trace=trace)
        yield _request("POST", page, "Accept: text/html", body=query.encode(), trace=trace)
        yield _request("GET", f"{page.rstrip('/')}/{written}", "Accept: text/html", trace=trace)
        yield _request("GET", page, f"User-Agent: {payload.encode().decode('latin-1')}", trace=trace)


def _is_reflected(request: Request, answer: Answer) -> bool:
    is_page = re.search(rb"(?im)^Content-Type: *text/html", answer.head) is not None
    return (is_page and request.trace in answer.body) or answer.status >= 500


def _guesses() -> Iterator[Request]:
    chance = random.Random(7)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for _ in range(100):
        guess = "".join(chance.choices(letters, k=22))
        for path in (
            "/quilt/{}",
            "/quilt/{}.json",
            "/reloads/{}",
            "/count/{}",
            "/errors/{}",
            "/errors/groups/{}",
        ):
            yield _request("GET", path.format(guess))
        for job in ("query", "status", "result"):
            yield _request("GET", f"/intrastat?_longtaskjob={job}&_longtaskid={guess}")


def _methods() -> Iterator[Request]:
    for method, path in itertools.product(
        ("TRACE", "CONNECT", "PROPFIND", "DEBUG", "PURGE", "X" * 30), PAGES
    ):
        yield _request(method, path)
    for header, path in itertools.product(
        ("X-HTTP-Method-Override: DELETE", "X-HTTP-Method: PUT", "X-Method-Override: POST"), PROTECTED
    ):
        yield _request("GET", path, header)
        yield _request("POST", path, header)


CLASSES = (
    AttackClass("forged engine headers", _forged_headers, _works),
    AttackClass("forged administrators", _forged_administrators, _works),
    AttackClass("disguised paths", _path_tricks, _works),
    AttackClass("static files", _static_tricks, _works),
    AttackClass("foreign hosts", _foreign_hosts, lambda _, answer: answer.status != 400),
    AttackClass("cross-site writes", _cross_site_writes, _is_not_403),
    AttackClass("embedded starts", _embedded_starts, _is_not_403),
    AttackClass("open redirects", _redirects, _leads_away),
    AttackClass("response splitting", _splits, _is_split),
    AttackClass("reflected markup", _markup, _is_reflected),
    AttackClass("guessed bookmarks", _guesses, _works),
    AttackClass("odd methods", _methods, lambda _, answer: answer.status not in (400, 403, 404, 405, 501)),
)
