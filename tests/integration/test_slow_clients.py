"""Clients that are slow to begin, to send, or to hang up: none of them holds a thread for long."""

import contextlib
import errno
import logging
import re
import socket
import struct
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.workers import gthread

from lastacross.processes import gunicorn_compat, slow_clients
from lastacross.processes.gunicorn_compat import Input
from lastacross.processes.slow_clients import Answer, SlowRequests
from lastacross.webapp import body_limit
from lastacross.webapp.body_limit import SlowClientError
from tests.integration.test_web_processes import MAIN, SMALL, is_answering
from tests.support.clock import StoppedClock
from tests.support.processes import wait_until
from tests.support.redis_server import RedisServer
from tests.support.web_server import WebServer, running_web

pytestmark = pytest.mark.slow

HURRIED = (
    "from lastacross import cli; from lastacross.processes import gunicorn_compat, slow_clients as s; "
    "s.HEAD_SECONDS, s.BODY_SECONDS, s.SLOW_SECONDS, s.FULL_SECONDS = 0.8, 0.4, 0.2, 0.02; "
    "s.MAX_PAUSE_SECONDS, gunicorn_compat.SILENCE_SECONDS = 1, 1; cli.run()"
)
MANY = 4 * (int(SMALL["LASTACROSS_WEB_THREADS"]) + int(SMALL["LASTACROSS_STREAMS"]))
HEAD = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
NEXT = b"GET /?next HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[WebServer]:
    """One process with few threads, and bounds that are a tenth of the usual ones or less."""
    with running_web(redis_server.url, {"main.py": MAIN}, SMALL, ("-c", HURRIED)) as server:
        yield server


class Client:
    """A client that sends a byte now and then, and sees what comes back."""

    def __init__(self, port: int, begin: bytes) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), 20)
        self.connection.sendall(begin)
        self.connection.setblocking(False)
        self.received = b""
        self.is_over = False

    def go_on(self) -> bool:
        """Send a byte; whether the server has hung up."""
        with contextlib.suppress(BlockingIOError):
            try:
                self.connection.send(b"a")
                some = self.connection.recv(65_536)
                self.received += some
                self.is_over = not some
            except (BrokenPipeError, ConnectionResetError):
                self.is_over = True
        return self.is_over


@contextlib.contextmanager
def clients(web: WebServer, begin: bytes, count: int = MANY) -> Iterator[list[Client]]:
    """Many of them, four for each thread."""
    with contextlib.ExitStack() as stack:
        found = [Client(web.port, begin) for _ in range(count)]
        for client in found:
            stack.callback(client.connection.close)
        yield found


@pytest.mark.parametrize(
    "begin",
    [
        HEAD,
        HEAD + b"Content-Length: 100000\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n",
        HEAD + b"X: " + b"a" * 8000,
    ],
)
def test_who_sends_slowly_is_told_so_and_gives_the_thread_back(web: WebServer, begin: bytes) -> None:
    with clients(web, begin) as slow:
        assert is_answering(web.port)
        wait_until(lambda: all([client.go_on() for client in slow]), 20, "all are refused")

    # A refusal may be overtaken by the reset of its connection.
    answers = [client.received for client in slow if client.received]
    assert answers
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert b"too slowly" in answer or b"Your network has 2 requests that take more than" in answer


def test_who_sends_nothing_has_no_thread(web: WebServer) -> None:
    with clients(web, b""):
        assert is_answering(web.port)


def test_who_keeps_a_connection_that_is_over_keeps_nobody_waiting(web: WebServer) -> None:
    with clients(web, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n") as done:
        assert is_answering(web.port)
        for client in done:
            wait_until(client.go_on, 20, "the server hangs up")
            assert client.received.startswith(b"HTTP/1.1 200 OK")


def test_who_does_not_read_an_answer_gives_the_thread_back(web: WebServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MANY // 4):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", web.port))
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

        wait_until(lambda: web.processes.text().count("/large") == MANY // 4, 20, "all answers are given up")
        assert is_answering(web.port)


# --- what is left of a refused request ----------------------------------------------------


def answers_to(web: WebServer, *sent: bytes) -> bytes:
    """All that comes back until the server hangs up, or is silent for a second."""
    received = b""
    with socket.create_connection(("127.0.0.1", web.port), 20) as connection:
        # The server may have hung up before it has all.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for some in sent:
                connection.sendall(some)
        connection.settimeout(1)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while some := connection.recv(65_536):
                received += some
    return received


def statuses(received: bytes) -> list[bytes]:
    """Those of the answers, interim ones too."""
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", received)


TOO_MUCH = 1_100_000
INNER = b"GET /?inner HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
LONG_FORM = HEAD + FORM + b"Content-Length: %d\r\n\r\n" % TOO_MUCH
LONG = b"Content-Length: 20000000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FOREIGN = HEAD + b"Origin: http://evil.example\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([LONG_FORM, bytes(TOO_MUCH), NEXT], [b"413"]),
        ([LONG_FORM, INNER * 25_000, NEXT], [b"413"]),
        ([LONG_FORM, NEXT], [b"413"]),
        ([HEAD + LONG, bytes(20_000_000), NEXT], [b"413"]),
        ([HEAD + b"Expect: 100-continue\r\n" + LONG, NEXT], [b"100", b"413"]),
        ([CHUNKED + b"1000000\r\n", bytes(16_777_216), b"\r\n0\r\n\r\n", NEXT], [b"413"]),
        ([CHUNKED + b"1;" + b"a" * 300 + b"\r\na\r\n0\r\n\r\n", NEXT], [b"400"]),
        ([FOREIGN + b"Content-Length: 9000\r\n\r\n", NEXT], [b"403"]),
    ],
)
def test_what_follows_a_request_that_was_not_read_to_its_end_is_no_request(
    web: WebServer, sent: list[bytes], expected: list[bytes]
) -> None:
    received = answers_to(web, *sent)

    assert statuses(received) == expected
    assert b"\r\nConnection: close\r\n" in received
    assert b"X-Query" not in received


def test_a_refused_request_that_is_all_there_keeps_its_connection(web: WebServer) -> None:
    last = NEXT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received = answers_to(web, FOREIGN + b"Content-Length: 60\r\n\r\n" + INNER[:60].ljust(60) + last)

    assert statuses(received) == [b"403", b"200"]
    assert re.findall(rb"X-Query: (\S+)", received) == [b"next"]
    assert re.findall(rb"\r\nConnection: (\S+)", received) == [b"keep-alive", b"close"]


# --- answers -------------------------------------------------------------------------------


# More than the kernel keeps for a client that does not read.
LARGE = bytes(20_000_000)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a connection, and the client's; the bounds are small."""
    monkeypatch.setattr(slow_clients, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(slow_clients, "MAX_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(slow_clients, "MIN_BYTES_PER_SECOND", 100_000)
    monkeypatch.setattr(slow_clients, "PROGRESS_MILLISECONDS", 10)
    monkeypatch.setattr(gunicorn_compat.Connection, "slow", SlowRequests(1, str), raising=False)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = socket.socket()
        client.settimeout(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    with server, client:
        yield server, client


@contextlib.contextmanager
def reading(client: socket.socket, size: int, pause_seconds: float) -> Iterator[bytearray]:
    """What a client reads in a thread, so much at a time."""
    received, is_over = bytearray(), threading.Event()

    def read() -> None:
        while not is_over.wait(pause_seconds) and (some := client.recv(size)):
            received.extend(some)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield received
    finally:
        client.shutdown(socket.SHUT_RDWR)
        is_over.set()
        thread.join()


def test_an_answer_arrives_whole_at_a_client_that_reads(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "MAX_PAUSE_SECONDS", 20.0)
    server, client = ends
    answer = bytes(range(256)) * 4_000
    with reading(client, 65_536, 0.0) as received:
        gunicorn_compat.write(server, answer)
        gunicorn_compat.write(server, answer, chunked=True)
        server.shutdown(socket.SHUT_WR)
        wait_until(lambda: len(received) == 2 * len(answer) + 9, 20, "all is read")

    assert received == answer + b"FA000\r\n" + answer + b"\r\n"


def test_who_reads_slowly_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    with (
        reading(client, 500, 0.01),
        pytest.raises(BlockingIOError, match="the client reads its response too slowly"),
    ):
        gunicorn_compat.write(server, LARGE)
    assert not gunicorn_compat.Connection.slow.is_full(server.getpeername())


def test_a_network_has_so_many_slow_answers_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    gunicorn_compat.Connection.slow.add(client.getsockname())

    with pytest.raises(BlockingIOError, match="Your network has 1 requests"):
        gunicorn_compat.write(server, LARGE)


def test_a_client_that_reads_steadily_is_not_given_up_however_much_the_kernel_keeps(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports room only when a third of its buffer is free, which takes longer than the bounds."""
    monkeypatch.setattr(slow_clients, "MAX_PAUSE_SECONDS", 0.5)
    server, client = ends
    fill(server)
    with reading(client, 20_000, 0.02) as received:
        gunicorn_compat.write(server, LARGE[:1_000])
        assert len(received) > 0


def test_a_client_that_reads_each_write_in_time_is_given_up_for_its_rate() -> None:
    answer = Answer("192.0.2.1", SlowRequests(1, str), is_stream=False)
    for _ in range(39):
        answer.add(1.0, 500)
    with pytest.raises(BlockingIOError, match="the client reads its response too slowly"):
        answer.add(1.0, 500)
    answer.end()

    answer = Answer("192.0.2.1", SlowRequests(1, str), is_stream=False)
    for _ in range(1_000):
        answer.add(1.0, 1_001)
    answer.end()


def test_a_client_that_has_read_much_may_pause_for_20_s() -> None:
    answer = Answer("192.0.2.1", SlowRequests(1, str), is_stream=False)
    answer.add(0.0, 10_000_000)
    answer.add(19.9, 0)
    with pytest.raises(BlockingIOError, match="the client reads its response too slowly"):
        answer.add(0.2, 0)


@pytest.fixture
def connection(ends: tuple[socket.socket, socket.socket]) -> Iterator[gunicorn_compat.Connection]:
    """The server's end, as the connection that this thread serves."""
    server, client = ends
    found = gunicorn_compat.Connection(Config(), server, client.getsockname(), server.getsockname())
    found.init()
    yield found
    found.parser.mesg = None
    found.leave_thread()


def fill(connection: socket.socket) -> None:
    """Send until the kernel takes no more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(LARGE[:65_536], socket.MSG_DONTWAIT)


def test_the_writes_of_an_answer_count_together(
    ends: tuple[socket.socket, socket.socket],
    connection: gunicorn_compat.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_clients, "MAX_PAUSE_SECONDS", 20.0)
    server, client = ends
    with reading(client, 20_000, 0.01):
        for _ in range(1_500):
            gunicorn_compat.write(server, bytes(8_192), chunked=True)
            if connection.slow.is_full(connection.client):
                break

        assert connection.slow.is_full(connection.client)
    connection.leave_thread()
    assert not connection.slow.is_full(connection.client)


def test_the_end_of_an_answer_is_bounded_too(
    ends: tuple[socket.socket, socket.socket], connection: gunicorn_compat.Connection
) -> None:
    server, _ = ends
    # Without the bound this test fails instead of hanging.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 2, 0))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "write_chunk", "write_error"):
            patch.setattr(util, name, getattr(util, name))
        patch.setattr(gthread, "TConn", gthread.TConn)
        patch.setattr(wsgi, "Response", wsgi.Response)
        gunicorn_compat.use(connection.slow, stopping_linger_seconds=2)
        answer = object.__new__(wsgi.Response)
        answer.sock, answer.headers_sent, answer.chunked = server, True, True
        fill(server)
        with pytest.raises(BlockingIOError, match="the client reads its response too slowly"):
            answer.close()


def test_an_event_stream_waits_for_a_browser_whatever_the_others_of_its_network_do(
    ends: tuple[socket.socket, socket.socket],
    connection: gunicorn_compat.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_clients, "MAX_PAUSE_SECONDS", 20.0)
    server, client = ends
    connection.slow.add(connection.client)
    request = types.SimpleNamespace(answer_headers=[("Content-Type", "text/event-stream; charset=utf-8")])
    connection.parser.mesg = request
    fill(server)
    with reading(client, 65_536, 0.02) as received:
        gunicorn_compat.write(server, LARGE[:1_000])
        assert len(received) > 0
    connection.end_answer()

    request.answer_headers = [("Content-Type", "text/html")]
    with pytest.raises(BlockingIOError, match="Your network has 1 requests"):
        gunicorn_compat.write(server, LARGE)


def test_an_error_page_does_not_wait_for_its_client(ends: tuple[socket.socket, socket.socket]) -> None:
    server, _ = ends
    fill(server)
    with pytest.raises(BlockingIOError) as failed:
        gunicorn_compat.write_error(server, 408, "", "Too slow.")

    assert failed.value.errno == errno.EAGAIN


class Steps(StoppedClock):
    """A clock that stands at each of these instants once, and then at the last."""

    def __init__(self, *instants: float) -> None:
        super().__init__()
        self._instants = list(instants)

    def monotonic(self) -> float:
        """The next instant."""
        return self._instants.pop(0) if len(self._instants) > 1 else self._instants[0]


def test_a_slow_client_that_resets_its_connection_is_not_counted_any_longer(
    ends: tuple[socket.socket, socket.socket], connection: gunicorn_compat.Connection
) -> None:
    _, client = ends
    client.sendall(HEAD + (b"X: " + b"a" * 995 + b"\r\n") * 30)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert connection.input is not None
    connection.input._clock = Steps(1.0, 1.1, 1_000.0)
    worker: Any = object.__new__(gunicorn_compat.GunicornWorker)
    worker.log, worker.alive, worker.cfg, worker.nr_conns = logging.getLogger(), True, Config(), 1

    assert worker.handle(connection) is False
    assert not connection.slow.is_full(connection.client)


# --- time, by a clock that stands still ---------------------------------------------------


class Lines:
    """Both ends of a connection, and how one of them reads.

    Args:
        slow: counts the slow requests.
        clock: whose time it is.
    """

    def __init__(self, slow: SlowRequests, clock: StoppedClock) -> None:
        self.client, self.server = socket.socketpair()
        self.input = Input(self.server, ("192.0.2.1", 1), slow, clock)

    def sent(self, data: bytes, size_hint: int | None = None) -> bytes:
        """The bytes as they arrive."""
        self.client.sendall(data)
        return self.input.chunk(size_hint)

    def close(self) -> None:
        """Both ends."""
        self.client.close()
        self.server.close()


@pytest.fixture
def slow() -> SlowRequests:
    """Two slow requests for each network."""
    return SlowRequests(2, lambda peer: str(peer[0]))


@pytest.fixture
def lines(slow: SlowRequests, clock: StoppedClock) -> Iterator[list[Lines]]:
    """Three connections of one network."""
    found = [Lines(slow, clock) for _ in range(3)]
    yield found
    for each in found:
        each.close()


def test_headers_have_a_time_however_many_bytes_come(lines: list[Lines], clock: StoppedClock) -> None:
    for _ in range(20):
        assert lines[0].sent(b"a" * 5_000) == b"a" * 5_000
        clock.advance(1.0)
    assert lines[0].sent(b"a") == b"a"
    clock.advance(0.1)

    with pytest.raises(
        SlowClientError, match="headers may take 20 s, and its body 10 s plus one second per 1,000"
    ):
        lines[0].sent(b"a")


def test_a_body_has_a_time_for_each_byte(lines: list[Lines], clock: StoppedClock) -> None:
    lines[0].input.await_body()
    lines[0].sent(b"a" * 5_000)
    for _ in range(100):
        clock.advance(1.0)
        lines[0].sent(b"a" * 1_000)
    clock.advance(14.9)
    lines[0].sent(b"a")
    clock.advance(0.2)

    with pytest.raises(SlowClientError):
        lines[0].sent(b"a")


def test_who_has_sent_much_may_not_pause_for_all_that_it_was_quicker(
    lines: list[Lines], clock: StoppedClock
) -> None:
    lines[0].input.await_body()
    for _ in range(100):
        lines[0].sent(b"a" * 8_000)
    clock.advance(19.9)
    lines[0].sent(b"a")
    clock.advance(0.2)

    with pytest.raises(SlowClientError):
        lines[0].sent(b"a")


def test_the_time_between_requests_does_not_count(lines: list[Lines], clock: StoppedClock) -> None:
    for _ in range(3):
        lines[0].input.await_head()
        assert lines[0].sent(b"GET") == b"GET"
        clock.advance(1.0)
        lines[0].input.await_body()
        clock.advance(1000.0)
        assert lines[0].sent(b"a") == b"a"
        clock.advance(1000.0)


def test_a_network_has_so_many_slow_requests_at_once(lines: list[Lines], clock: StoppedClock) -> None:
    for each in lines:
        each.sent(b"a")
    clock.advance(slow_clients.SLOW_SECONDS + 0.1)
    lines[0].sent(b"b")
    lines[1].sent(b"b")

    with pytest.raises(
        SlowClientError, match="Your network has 2 requests that take more than 2 s to arrive"
    ):
        lines[2].sent(b"b")
    lines[0].input.await_body()
    assert lines[2].input.chunk() == b"b"


@pytest.mark.parametrize("end", [b"bcde", b"4\r\nbcde\r\n0\r\n\r\n", b"4\r\nbcde\r\n"])
def test_a_request_whose_body_is_there_does_not_count_while_its_handler_runs(
    slow: SlowRequests, clock: StoppedClock, end: bytes
) -> None:
    is_chunked = end != b"bcde"
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: 5"
    with contextlib.ExitStack() as stack:
        client, server = (stack.enter_context(each) for each in socket.socketpair())
        parser = RequestParser(Config(), server, ("192.0.2.1", 1))
        arriving = parser.unreader = Input(server, ("192.0.2.1", 1), slow, clock)
        client.sendall(HEAD + framing + b"\r\n\r\n" + (b"1\r\na\r\n" if is_chunked else b"a"))
        environ: dict[str, Any] = {
            "wsgi.input": next(parser).body,
            body_limit.BODY_RECEIVED: arriving.end_body,
        }
        environ["HTTP_TRANSFER_ENCODING" if is_chunked else "CONTENT_LENGTH"] = (
            "chunked" if is_chunked else "5"
        )
        arriving.await_body()
        arriving.is_slow, arriving._network = True, slow.add(("192.0.2.1", 1))
        client.sendall(end)
        if is_chunked and not end.endswith(b"0\r\n\r\n"):
            timer = threading.Timer(0.05, client.sendall, [b"0\r\n\r\n"])
            timer.start()
            stack.callback(timer.join)
        with body_limit.receive(environ, 100) as body:
            assert body.read() == b"abcde"
    assert slow._counts == {}


def test_a_request_does_not_count_again_once_its_body_is_there(
    lines: list[Lines], clock: StoppedClock, slow: SlowRequests
) -> None:
    lines[0].input.await_body()
    lines[0].sent(b"a")
    clock.advance(slow_clients.SLOW_SECONDS + 0.1)
    lines[0].sent(b"b")
    lines[0].input.end_body()
    lines[0].sent(b"c")
    assert slow._counts == {}

    lines[0].input.await_head()
    lines[0].sent(b"d")
    clock.advance(slow_clients.SLOW_SECONDS + 0.1)
    lines[0].sent(b"e")
    assert slow._counts == {"192.0.2.1": 1}


def test_a_body_may_come_a_moment_after_its_headers_however_many_slow_requests_a_network_has(
    lines: list[Lines], slow: SlowRequests
) -> None:
    for _ in range(2):
        slow.add(("192.0.2.1", 1))
    lines[0].input.await_body()
    timer = threading.Timer(0.02, lines[0].client.sendall, [b"a=b"])
    timer.start()

    assert lines[0].input.chunk() == b"a=b"
    with pytest.raises(SlowClientError, match="Your network has 2 requests"):
        lines[0].input.chunk()


def test_the_requests_of_other_networks_and_of_proxies_are_not_counted_with_them(clock: StoppedClock) -> None:
    slow = SlowRequests(1, lambda peer: None if peer == "proxy" else str(peer))

    assert [slow.add(peer) for peer in ("a", "b", "proxy", "proxy")] == ["a", "b", None, None]
    slow.remove("a")
    assert slow.add("a") == "a"
