"""The whole outside stack under the real server, attacked over raw sockets."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

APP_YAML = """\
security_headers: {Content-Security-Policy: strict}
handlers:
- url: /.*
  script: main.app
"""
MAIN = """
import webapp2
from lastacross import webapp

SEEN = []

class Echo(webapp.RequestHandler):
    def get(self):
        SEEN.append(self.request.path)
        keys = [k for k in self.request.environ if "APPENGINE" in k.upper() or "GOOGLE" in k.upper()]
        self.render_json({"keys": keys, "seen": SEEN})
    def post(self):
        SEEN.append(self.request.path)
        self.render_json({"got": len(self.request.body)})

class Cookie(webapp.RequestHandler):
    def get(self):
        self.response.set_cookie("a", "b")

app = webapp2.WSGIApplication([("/cookie", Cookie), ("/.*", Echo)])
"""
SERVE = """
import os, pathlib
from lastacross import config, logs, webapp
current = config.load(pathlib.Path(__file__).parent, os.environ)
config.use(current)
logs.configure(current.settings)
site = webapp.outside(current, webapp.load_script, {})
"""
MEGABYTE = 2**20
THREADS = 64
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """gunicorn with threads on a free port; its log goes to a file."""

    def __init__(self, root: Path) -> None:
        self.log = root / "log"
        command = [sys.executable, "-m", "gunicorn", "serve:site", "-k", "gthread", "--threads", str(THREADS)]
        command += ["--bind", "127.0.0.1:0", "--no-control-socket", "--chdir", str(root), "-w", "1"]
        environ = {
            "SECRET_KEY": "a secret key of the tests, long enough",
            "LASTACROSS_ALLOWED_HOSTS": "localhost",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PATH": "/usr/bin:/bin",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        self.port = self._wait_for_port()

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log.read_text())
            if found and "Booting worker" in self.log.read_text():
                return int(found[1])
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def connect(self, timeout: float = 5.0) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def send(self, data: bytes, *, half_close: bool = True) -> bytes:
        """All that comes back for these bytes until the server hangs up."""
        with self.connect() as connection:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def get(self, path: str = "/", *headers: bytes) -> bytes:
        """A GET with these header lines."""
        lines = b"".join(line + b"\r\n" for line in (b"Host: localhost", b"Connection: close", *headers))
        return self.send(b"GET " + path.encode() + b" HTTP/1.1\r\n" + lines + b"\r\n")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(timeout=40)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes or resets."""
    received = bytearray()
    try:
        while chunk := connection.recv(65_536):
            received += chunk
    except (ConnectionResetError, BrokenPipeError):
        pass
    return bytes(received)


def statuses(answer: bytes) -> list[int]:
    """The status of each response in what came back."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of this file."""
    root = tmp_path_factory.mktemp("app")
    (root / "app.yaml").write_text(APP_YAML)
    (root / "main.py").write_text(MAIN)
    (root / "serve.py").write_text(SERVE)
    running = Server(root)
    yield running
    running.stop()


def test_an_answer_has_its_headers_once_and_no_version(server: Server) -> None:
    """The server's own among them."""
    answer = server.get("/cookie")
    head = answer.split(b"\r\n\r\n")[0].lower()
    for name in (
        b"content-security-policy",
        b"x-content-type-options",
        b"referrer-policy",
        b"cross-origin-opener-policy",
        b"x-request-id",
        b"server",
    ):
        assert head.count(b"\r\n" + name + b":") == 1
    assert b"server: gunicorn\r\n" in head
    assert b"httponly; samesite=lax" in head
    assert b"strict-transport-security" not in head


@pytest.mark.parametrize(
    "header",
    [
        b"X-AppEngine-QueueName: default",
        b"x-appengine-queuename: default",
        b"X-APPENGINE-QUEUENAME: default",
        b"X-Appengine-Queuename: default\r\nX-AppEngine-QueueName: default",
        b"X_AppEngine_QueueName: default",
        b"X-AppEngine_QueueName: default",
        b"X--AppEngine-QueueName: default",
        b"X-AppEngine-QueueName:default",
        b"X-AppEngine-QueueName:\tdefault ",
        b"X.AppEngine.QueueName: default",
        b"X-AppEngine-Cron: true",
        b"X-AppEngine-User-Is-Admin: 1",
        b"X-Google-Internal-SkipAdminCheck: true",
        b"Lastacross.Task: 1",
    ],
)
def test_a_forged_engine_header_is_stripped_and_opens_nothing(server: Server, header: bytes) -> None:
    """Fourteen spellings on the wire."""
    assert b'"keys":[]' in server.get("/", header)
    for path in ("/_ah/queue/default", "/_ah/queue/deferred", "/_ah/start", "/_ah/admin/"):
        assert statuses(server.get(path, header)) == [403]


# What each request wants is that the server sees one request and a proxy another.
BATTERY = {
    "both lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding unknown": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding identity after chunked": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "transfer-encoding not last": b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "content-length twice": b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "content-length with sign": b"Content-Length: +0\r\n\r\n",
    "content-length negative": b"Content-Length: -1\r\n\r\n",
    "content-length list": b"Content-Length: 0, 44\r\n\r\n",
    "host twice": b"Host: other\r\nContent-Length: 0\r\n\r\n",
    "folded header": b"X-A: b\r\n Content-Length: 44\r\n\r\n",
    "space before colon": b"Content-Length : 44\r\n\r\n",
    "bare line feeds": b"X-A: b\nContent-Length: 44\n\n",
    "bare carriage return": b"X-A: b\rContent-Length: 44\r\n\r\n",
    "NUL in a header": b"X-A: \x00b\r\n\r\n",
    "NUL in a name": b"X\x00A: b\r\n\r\n",
    "chunk size with sign": b"Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
    "chunk size in hex notation": b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "chunk without its end": b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n",
    "chunk extension with line feed": b"Transfer-Encoding: chunked\r\n\r\n0;\nGET\r\n\r\n",
    "101 headers": b"".join(b"X-%d: b\r\n" % number for number in range(101)) + b"\r\n",
    "a header of 9 kB": b"X-A: " + b"b" * 9000 + b"\r\n\r\n",
}


OTHER_REFUSALS = {"transfer-encoding unknown": 501, "101 headers": 431, "a header of 9 kB": 431}


@pytest.mark.parametrize("name", BATTERY)
def test_a_smuggled_request_is_never_served(server: Server, name: str) -> None:
    """One refusal, then the connection is closed."""
    answer = server.send(b"POST /first HTTP/1.1\r\nHost: localhost\r\n" + BATTERY[name] + SMUGGLED)
    assert statuses(answer) == [OTHER_REFUSALS.get(name, 400)]
    assert b"gunicorn/" not in answer
    assert b"/smuggled" not in server.get("/")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"get / HTTP/1.1", 400),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1", 414),
        (b"GET  / HTTP/1.1", 400),
        (b"GET / HTTP/1.1 x", 400),
        (b"GET / HTTP/9.9", 400),
        (b"GET", 400),
        (b"\x00", 400),
    ],
)
def test_a_broken_request_line_is_refused_once(server: Server, line: bytes, status: int) -> None:
    """And what follows is not read."""
    answer = server.send(line + b"\r\nHost: localhost\r\n\r\n" + SMUGGLED)
    assert statuses(answer) == [status]
    assert b"/smuggled" not in server.get("/")


def test_an_old_request_without_host_is_refused(server: Server) -> None:
    """HTTP/1.0 allows it, our redirects do not."""
    assert statuses(server.send(b"GET / HTTP/1.0\r\n\r\n")) == [400]


def test_requests_on_one_connection_have_ids_of_their_own(server: Server) -> None:
    """Keep-alive and pipelining."""
    one = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = server.send(one * 3)
    assert statuses(answer) == [200, 200, 200]
    assert len(set(re.findall(rb"X-Request-Id: (\S+)", answer))) == 3


def post(length: str | None, *headers: bytes) -> bytes:
    """The head of a POST."""
    lines = [b"POST /upload HTTP/1.1", b"Host: localhost", b"Connection: close", *headers]
    lines.append(b"Transfer-Encoding: chunked" if length is None else b"Content-Length: " + length.encode())
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_a_body_of_10_mb_is_taken_with_and_without_its_length(server: Server) -> None:
    """The limit itself is allowed."""
    body = bytes(10 * MEGABYTE)
    assert b'{"got":10485760}' in server.send(post(str(len(body))) + body)
    chunks = b"".join(b"100000\r\n" + body[:MEGABYTE] + b"\r\n" for _ in range(10)) + b"0\r\n\r\n"
    assert b'{"got":10485760}' in server.send(post(None) + chunks)


def test_a_declared_50_mb_is_413_before_any_of_it_is_sent(server: Server) -> None:
    """The head is enough."""
    for length in ("52428800", "10485761", "9" * 18):
        answer = server.send(post(length), half_close=False)
        assert statuses(answer) == [413]


def test_an_endless_chunked_body_is_413_just_after_the_limit(server: Server) -> None:
    """The server stops reading."""
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    sent = 0
    with server.connect(10) as connection:
        connection.sendall(post(None))
        try:
            while sent < 64 * MEGABYTE:
                connection.sendall(chunk)
                sent += 65_536
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        answer = b"" if sent >= 64 * MEGABYTE else read_all(connection)
    # What was still under way makes the kernel answer with a reset, which may overtake the 413.
    assert statuses(answer) in ([413], [])
    assert 10 * MEGABYTE <= sent < 32 * MEGABYTE
    assert '"status": 413' in server.log.read_text()


def test_a_body_shorter_than_declared_is_400(server: Server) -> None:
    """The handler is not called with a part."""
    assert statuses(server.send(post("10") + b"abc")) == [400]
    assert statuses(server.send(post(None) + b"5\r\nabc")) == [400]


def test_a_body_in_many_tiny_chunks_is_refused_and_one_in_some_is_taken(server: Server) -> None:
    """gunicorn needs microseconds for each."""
    tiny, end = b"1\r\na\r\n", b"0\r\nA: b\r\n\r\n"
    assert b'{"got":10000}' in server.send(post(None) + tiny * 10_000 + end)

    answer = server.send(post(None) + tiny * 10_001 + end)

    assert statuses(answer) == [400]
    assert b"more than 10,000 chunks of less than 1,024 bytes" in answer
    small = b"3ff\r\n" + bytes(1023) + b"\r\n"
    assert statuses(server.send(post(None) + small * 10_001 + end)) == [400]
    assert b'{"got":10240000}' in server.send(
        post(None) + (b"400\r\n" + bytes(1024) + b"\r\n") * 10_000 + end
    )
    assert statuses(server.send(post(None) + tiny + b"0\r\nA: " + b"b" * 20_000 + b"\r\n\r\n")) == [400]


@pytest.mark.parametrize(
    ("chunks", "is_taken"),
    [
        ((b"1;" + b"a" * 254 + b"\r\na\r\n") * 250, True),
        ((b"1;" + b"a" * 254 + b"\r\na\r\n") * 260, False),
        (b"1;" + b"a" * 255 + b"\r\na\r\n", False),
        ((b"1;" + b"a" * 8_185 + b"\r\na\r\n") * 3, False),
        ((b"10000;chunk-signature=" + b"a" * 64 + b"\r\n" + bytes(65_536) + b"\r\n") * 150, True),
        (b"0" * 255 + b"1\r\na\r\n", True),
        (b"0" * 256 + b"1\r\na\r\n", False),
    ],
)
def test_the_sizes_of_chunks_with_their_extensions_are_bounded(
    server: Server, chunks: bytes, is_taken: bool
) -> None:
    answer = server.send(post(None) + chunks + b"0\r\n\r\n")

    assert statuses(answer) == [200 if is_taken else 400]
    assert (b"sizes or extensions that are too long" in answer) is not is_taken


def test_a_body_longer_than_declared_is_not_a_request(server: Server) -> None:
    """With Connection: close the rest is dropped."""
    answer = server.send(post("3") + b"abc" + SMUGGLED)
    assert statuses(answer) == [200]
    assert b"/smuggled" not in server.get("/")


def test_slow_clients_on_half_of_the_threads_do_not_slow_the_others(server: Server) -> None:
    """Each sends a byte of its body a second."""
    connections = [server.connect(30) for _ in range(THREADS // 2)]
    done = threading.Event()

    def drip() -> None:
        while not done.wait(1.0):
            for connection in connections:
                connection.sendall(b"x")

    for connection in connections:
        connection.sendall(post("1000"))
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        times = []
        for _ in range(100):
            started = time.monotonic()
            assert statuses(server.get("/_ah/health")) == [200]
            times.append(time.monotonic() - started)
    finally:
        done.set()
        thread.join()
        for connection in connections:
            connection.close()
    assert sorted(times)[94] < 1.0


def test_the_log_is_one_json_line_a_request_and_keeps_no_token(server: Server) -> None:
    """Whatever the address holds."""
    server.get("/logged%1b%5b31m?token=canary")
    server.get("/logged?token=canary", b"X-Request-Id: canary", b"Cookie: canary=1")
    text = server.log.read_text()
    assert '"path": "/logged"' in text
    assert "canary" not in text
    assert "\x1b" not in text
