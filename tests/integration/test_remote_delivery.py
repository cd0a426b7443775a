"""Deliveries over HTTP: what is sent, and what every kind of answer, or none, makes of the attempt."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

from lastacross import log_context
from lastacross.broker.record import Leased
from lastacross.clock import SystemClock
from lastacross.http_client import LookUpTimeoutError, Resolver, name_lookup
from lastacross.signing import Signatures
from lastacross.webapp import deliveries
from lastacross.worker import remote
from lastacross.worker.delivery import Outcome, current_of
from lastacross.worker.remote import RemoteDelivery
from tests.support.leased import leased
from tests.support.processes import wait_until
from tests.support.raw_server import Answer, RawServer, raw_server
from tests.support.site import free_port
from tests.support.tls import speaking_tls

SIGNATURES = Signatures("a secret key of the tests, long enough")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


OWN_AND_FORGED = {
    "X-Mine": "1",
    "X_Other": " padded ",
    "Host": "elsewhere.example",
    "X-AppEngine-QueueName": "forged",
    "x-google-thing": "forged",
    "Content-Length": "999",
    "Transfer-Encoding": "chunked",
    "X-AppEngine-FailFast": "true",
    "User-Agent": "Mine/1.0",
}

_senders: list[RemoteDelivery] = []


class MovedClock(SystemClock):
    """The system's, and as much later as a test says."""

    later_seconds = 0.0

    def monotonic(self) -> float:
        """Seconds since an unknown instant."""
        return super().monotonic() + self.later_seconds


def task(**options: Any) -> Leased:
    """A leased task of the service ``counter``."""
    found = leased(**options)
    found.fields[b"group"] = b"counter"
    return found


def delivery(url: str, **options: Any) -> RemoteDelivery:
    """A sender that knows one service."""
    sender = RemoteDelivery(SIGNATURES, {"counter": url}, **options)
    _senders.append(sender)
    return sender


def deliver(url: str, deadline_seconds: float = 20.0, **options: Any) -> Outcome:
    """One attempt, over a connection of its own."""
    return delivery(url, deadline_seconds=deadline_seconds).deliver(task(**options))


def outcome_of(answer: bytes | Answer, deadline_seconds: float = 20.0, **options: Any) -> Outcome:
    """One attempt at a server with this answer."""
    with raw_server(answer) as server:
        return deliver(server.url, deadline_seconds, **options)


def lines_of(request: bytes) -> list[str]:
    """The head of a request in lines."""
    return request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")


def headers_of(request: bytes) -> dict[str, str]:
    """The headers of a request; a name that comes twice fails."""
    pairs = [line.partition(": ") for line in lines_of(request)[1:]]
    found = {name: value for name, _, value in pairs}
    assert len(found) == len(pairs)
    return found


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """No connection outlives its test."""
    yield
    for sender in _senders:
        sender.close()
    _senders.clear()


@pytest.fixture
def app() -> Iterator[RawServer]:
    """A server that says yes."""
    with raw_server(OK) as server:
        yield server


# --- what is sent -------------------------------------------------------------------------


def test_a_request_is_the_tasks_with_app_engines_headers(app: RawServer) -> None:
    sent = task(
        queue="mail",
        name="welcome",
        method="PUT",
        url="/send/%C3%A4?to=%zz",
        payload=b"\x00body",
        failures=2,
        lost=1,
        previous_response=503,
        headers=OWN_AND_FORGED,
    )
    outcome = delivery(app.url).deliver(sent)
    assert (outcome.status, outcome.is_success, outcome.was_reached) == (200, True, True)
    [request] = app.requests
    assert lines_of(request)[0] == "PUT /send/%C3%A4?to=%zz HTTP/1.1"
    assert request.endswith(b"\r\n\r\n\x00body")
    headers = headers_of(request)
    assert len(headers.pop("X-Lastacross-Delivery")) < 4096
    # The service's log has the id of the worker's.
    assert headers.pop("X-Request-Id") == log_context.attempt_id(current_of(sent))
    assert headers == {
        "Host": f"127.0.0.1:{app.port}",
        "Accept-Encoding": "identity",
        "Content-Length": "5",
        "Content-Type": "application/octet-stream",
        "User-Agent": "Mine/1.0 AppEngine-Google; (+http://code.google.com/appengine)",
        "X-AppEngine-QueueName": "mail",
        "X-AppEngine-TaskName": "welcome",
        "X-AppEngine-TaskRetryCount": "3",
        "X-AppEngine-TaskExecutionCount": "2",
        "X-AppEngine-TaskETA": headers["X-AppEngine-TaskETA"],
        "X-AppEngine-TaskPreviousResponse": "503",
        "X-Appengine-Failfast": "true",
        "X-Mine": "1",
        "X-Other": "padded",
    }


@pytest.mark.parametrize(
    "url",
    [
        "/a%2Fb",
        "/a%2fb%zz",
        "/a/../b",
        "/a//b/./c?x=%c3%a4&&y=%",
        "/a;b=c/@:!$&'()*+,=~-._",
        "/[x]{y}|?q={}|[]",
    ],
)
def test_the_url_is_sent_as_it_is(app: RawServer, url: str) -> None:
    delivery(f"{app.url}/pre%20fix/").deliver(task(url=url, method="GET"))
    assert lines_of(app.requests[0])[0] == f"GET /pre%20fix{url} HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "POST"])
def test_every_method_is_sent(app: RawServer, method: str) -> None:
    delivery(app.url).deliver(task(method=method))
    assert lines_of(app.requests[0])[0] == f"{method} /work HTTP/1.1"
    assert "Content-Type" not in headers_of(app.requests[0])


def test_a_head_has_no_body_to_wait_for() -> None:
    assert outcome_of(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", method="HEAD").is_success


def test_the_token_says_what_the_receiving_server_will_see(app: RawServer) -> None:
    sent = task(
        url="/a%20b?c=%20", method="PUT", payload=b"x" * 100_000, failures=1, batch="b1:7", lease="w.9"
    )
    delivery(f"{app.url}/prefix").deliver(sent)
    claims = deliveries.load_claims(SIGNATURES, headers_of(app.requests[0])["X-Lastacross-Delivery"])
    assert (claims.task, claims.lease, claims.method, claims.member) == ("default_t1", "w.9", "PUT", "b1:7")
    assert (claims.retry_count, claims.execution_count) == (1, 1)
    assert claims.url == deliveries.url_digest("/a b", "c=%20")
    assert claims.body == deliveries.body_digest(b"x" * 100_000)
    assert abs(claims.signed_at - SystemClock().now()) < 60


def test_every_attempt_has_a_token_of_its_own(app: RawServer) -> None:
    sender = delivery(app.url)
    sender.deliver(task(lease="w.1"))
    sender.deliver(task(lease="w.2", lost=1))
    tokens = {headers_of(request)["X-Lastacross-Delivery"] for request in app.requests}
    assert len(tokens) == 2


def test_a_password_in_the_base_url_is_sent_unless_the_task_has_its_own(app: RawServer) -> None:
    url = app.url.replace("//", "//us%20er:p%C3%A4ss@")
    sender = delivery(url)
    sender.deliver(task())
    sender.deliver(task(headers={"authorization": "Bearer x"}))
    found = [headers_of(request)["Authorization"] for request in app.requests]
    assert found == ["Basic " + base64.b64encode("us er:päss".encode()).decode(), "Bearer x"]


def test_proxies_of_the_environment_are_not_asked(app: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert delivery(app.url).deliver(task()).is_success


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "is_success"),
    [
        ("200 OK", True),
        ("204 No Content", True),
        ("299 Fine", True),
        ("304 Not Modified", False),
        ("400 Bad Request", False),
        ("404 Not Found", False),
        ("500 Internal Server Error", False),
        ("999 Odd", False),
    ],
)
def test_200_to_299_is_success_and_nothing_else(line: str, is_success: bool) -> None:
    body = "" if line[:3] in {"204", "304"} else "because"
    outcome = outcome_of(f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    assert (outcome.status, outcome.is_success) == (int(line[:3]), is_success)
    assert outcome.was_reached
    if body and not is_success:
        assert outcome.reason == f"answered {line[:3]}: because"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    with raw_server(OK) as elsewhere:
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        outcome = outcome_of(answer.encode())
        assert (outcome.status, outcome.is_success) == (status, False)
        assert elsewhere.url in outcome.reason
        assert elsewhere.connected == 0


def test_a_chunked_answer_and_one_that_ends_with_the_connection_are_read() -> None:
    chunked = b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    assert outcome_of(chunked).reason == "answered 500: abcdef"

    def until_the_end(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 500 No\r\n\r\nabcdef")
        connection.shutdown(socket.SHUT_RDWR)

    assert outcome_of(until_the_end).reason == "answered 500: abcdef"


def test_of_a_long_answer_the_beginning_is_kept() -> None:
    head = f"HTTP/1.1 500 No\r\nContent-Length: {2**20}\r\n\r\n".encode()
    outcome = outcome_of(head + b"x" * 2**20)
    assert outcome.reason == "answered 500: " + "x" * 2048


@pytest.mark.parametrize(("size", "connections"), [(65_536, 1), (65_537, 2)])
def test_a_connection_is_kept_if_its_answer_was_read_to_the_end(size: int, connections: int) -> None:
    """Up to 64 kB are read: the rest of a longer answer would be taken for the next one."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size
    with raw_server(answer) as app:
        sender = delivery(app.url)
        assert [sender.deliver(task()).status for _ in range(2)] == [200, 200]
        assert app.connected == connections


def test_an_answer_without_end_is_not_waited_for() -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += connection.send(b"x" * 1024)

    assert outcome_of(endless).is_success
    # Read are 64 kB; the rest lies in the buffers of two sockets.
    assert sent < 8 * 2**20


def test_a_deferred_call_that_failed_for_good_is_told_as_in_the_worker_itself() -> None:
    told = b"HTTP/1.1 200 OK\r\nX-Lastacross-Final: 1\r\nX-Lastacross-Failure: No%3A%20%C3%A4\r\n"
    outcome = outcome_of(told + b"Content-Length: 0\r\n\r\n")
    assert (outcome.is_final, outcome.is_success, outcome.reason) == (True, False, "No: ä")


def test_the_handler_that_ran_in_the_service_is_counted() -> None:
    told = b"HTTP/1.1 200 OK\r\nX-Lastacross-Handler: /tasks/.%2A\r\nContent-Length: 0\r\n\r\n"
    assert outcome_of(told).handler == "/tasks/.*"
    assert outcome_of(OK).handler == ""


# --- no answer ----------------------------------------------------------------------------


def test_a_server_that_is_down_was_not_reached_and_then_it_is() -> None:
    port = free_port()
    outcome = deliver(f"http://127.0.0.1:{port}")
    assert (outcome.status, outcome.was_reached, outcome.is_success) == (None, False, False)
    assert outcome.reason == f"127.0.0.1:{port} could not be reached: connection refused"


@pytest.mark.parametrize(
    ("url", "place", "host"),
    [
        ("http://counter.example/base", "counter.example:80", "counter.example"),
        ("https://counter.example", "counter.example:443", "counter.example"),
        ("https://counter.example:443", "counter.example:443", "counter.example"),
        ("https://counter.example:80", "counter.example:80", "counter.example:80"),
        ("https://counter.example:8443", "counter.example:8443", "counter.example:8443"),
        ("http://counter.example:443", "counter.example:443", "counter.example:443"),
        ("http://[::1]", "[::1]:80", "[::1]"),
    ],
)
def test_a_url_without_a_port_has_the_one_of_its_scheme(url: str, place: str, host: str) -> None:
    """The Host header names the port only if it is another one."""
    server = remote._Server(url, 1, SystemClock(), Resolver())

    assert (server.place, server.headers["Host"]) == (place, host)


def test_the_cause_of_a_broken_answer_is_told_without_the_name_of_its_class() -> None:
    cause = ConnectionResetError(104, "Connection reset by peer")

    told = [remote._exchange_problem(error) for error in (cause, ProtocolError("broken", cause))]

    assert told == ["connection reset by peer"] * 2


def test_a_sender_finds_a_server_that_was_down_when_it_is_up() -> None:
    """RetryCount counts the attempt that did not come through; ExecutionCount does not (Outcome)."""
    port = free_port()
    sender = delivery(f"http://127.0.0.1:{port}")
    assert sender.deliver(task()).was_reached is False
    with socket.create_server(("127.0.0.1", port)) as up:

        def answer() -> None:
            connection, _ = up.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(BAD)

        thread = threading.Thread(target=answer)
        thread.start()
        outcome = sender.deliver(task())
        thread.join()
    assert (outcome.status, outcome.was_reached) == (503, True)


def test_a_name_without_an_address_was_not_reached() -> None:
    outcome = deliver("http://no-such-host.invalid:81")
    assert (outcome.status, outcome.was_reached) == (None, False)
    assert outcome.reason == "no-such-host.invalid:81 could not be reached: its name has no address"


def test_a_resolver_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookup, "MAX_LOOKUP_SECONDS", 0.2)
    stop = threading.Event()

    def never(host: str, port: int) -> list[str]:
        stop.wait(20)
        return []

    server = remote._Server("http://counter.example/base", 1, SystemClock(), Resolver(never))
    try:
        with pytest.raises(LookUpTimeoutError) as raised:
            server.connection(60.0)
    finally:
        stop.set()

    assert remote._connecting_problem(raised.value) == "the resolver did not respond within 0.2 s"


def test_the_next_address_of_a_service_is_tried_when_one_is_refused() -> None:
    with raw_server(OK) as server:
        addresses = Resolver(lambda host, port: ["::1", "127.0.0.2", "127.0.0.1"])
        found = remote._Server(f"http://counter.example:{server.port}", 1, SystemClock(), addresses)
        connection = found.connection(5.0)
        try:
            assert connection.is_connected
            assert found.headers["Host"] == f"counter.example:{server.port}"
        finally:
            connection.close()


def test_a_name_that_cannot_be_one_was_not_reached() -> None:
    outcome = deliver(f"http://{'a' * 70}.example")
    assert (outcome.status, outcome.was_reached) == (None, False)


def test_a_server_that_does_not_accept_was_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 0.3)
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for client in [stack.enter_context(socket.socket()) for _ in range(3)]:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        outcome = deliver(f"http://127.0.0.1:{full.getsockname()[1]}")
    assert (outcome.status, outcome.was_reached) == (None, False)
    assert "no connection within 0.3 s" in outcome.reason


def _hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def _sending(answer: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    return send


@pytest.mark.parametrize(
    "answer",
    [
        _hang_up,
        _reset,
        _sending(b"HTTP/1.1 2"),
        _sending(b"HTTP/1.1 200 OK\r\n"),
        _sending(b"HTTP/1.1 200 OK\r\nContent-Le"),
        _sending(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        _sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        _sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab"),
        _sending(b"SSH-2.0-OpenSSH_9.2\r\n"),
        _sending(b"\x15\x03\x01\x00\x02\x02\x16" * 100),
        _sending(b"HTTP/1.1 abc OK\r\n\r\n"),
        _sending(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n"),
        _sending(b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 100_000 + b"\r\n\r\n"),
        _sending(b"HTTP/1.1 " + b"x" * 100_000),
    ],
)
def test_a_connection_that_is_dropped_or_answers_nonsense_has_no_status_but_was_reached(
    answer: Answer,
) -> None:
    outcome = outcome_of(answer, payload=b"x" * 50_000)
    assert (outcome.status, outcome.was_reached, outcome.is_success) == (None, True, False)
    assert outcome.reason.startswith("127.0.0.1:")
    assert outcome.reason.count(":") >= 2


def test_an_answer_before_the_body_was_read_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def refuse() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(
                    b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        outcome = deliver(f"http://127.0.0.1:{listening.getsockname()[1]}", payload=b"x" * 100_000)
        thread.join()
    assert outcome.status == 413


# --- the deadline -------------------------------------------------------------------------


def _dripping(head: bytes) -> Callable[[socket.socket], None]:
    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"1")
            time.sleep(0.02)

    return drip


@pytest.mark.parametrize(
    "answer",
    [
        lambda connection: None,
        _dripping(b"HTTP/1.1 200 "),
        _dripping(b"HTTP/1.1 200 OK\r\nX-A: "),
        _dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
        _dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        _dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n111111\r\n"),
        lambda connection: [connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n") for _ in iter(int, 1)],
    ],
)
def test_the_deadline_is_one_for_the_whole_answer_however_it_drips(answer: Answer) -> None:
    began_at = time.monotonic()
    outcome = outcome_of(answer, deadline_seconds=0.5)
    assert (outcome.status, outcome.was_reached) == (None, True)
    assert "did not complete its response within 0.5 s" in outcome.reason
    assert 0.4 < time.monotonic() - began_at < 10


def test_a_server_that_reads_nothing_does_not_hold_the_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        outcome = deliver(f"http://127.0.0.1:{listening.getsockname()[1]}", 0.5, payload=b"x" * 100_000)
    assert (outcome.status, outcome.was_reached) == (None, True)


def test_a_tasks_own_deadline_counts_more() -> None:
    answers: list[float] = []

    def late(connection: socket.socket) -> None:
        time.sleep(0.4)
        answers.append(1)
        connection.sendall(OK)

    assert outcome_of(late, 0.1, dispatch_deadline_usec=15_000_000).is_success
    assert answers


# --- connections --------------------------------------------------------------------------


def test_connections_are_kept_and_used_again(app: RawServer) -> None:
    sender = delivery(app.url)
    for _ in range(20):
        assert sender.deliver(task()).is_success
    assert (len(app.requests), app.connected) == (20, 1)


def test_a_failure_keeps_the_connection_too() -> None:
    with raw_server(BAD) as server:
        sender = delivery(server.url)
        assert [sender.deliver(task()).status for _ in range(3)] == [503] * 3
        assert server.connected == 1


def test_no_more_connections_are_kept_than_there_are_threads() -> None:
    gate = threading.Barrier(4)

    def together(connection: socket.socket) -> None:
        gate.wait(20)
        connection.sendall(OK)

    with raw_server(together) as server:
        sender = delivery(server.url, threads=2)
        for _ in range(2):
            threads = [threading.Thread(target=sender.deliver, args=(task(),)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert server.connected == 4 + 2


def test_a_connection_that_was_idle_for_long_is_not_used_again(app: RawServer) -> None:
    clock = MovedClock()
    sender = delivery(app.url, clock=clock)
    sender.deliver(task())
    clock.later_seconds = 3.0
    sender.deliver(task())
    assert app.connected == 1
    clock.later_seconds = 7.5
    sender.deliver(task())
    assert app.connected == 2


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    closed = threading.Event()

    def once(connection: socket.socket) -> None:
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    with raw_server(once) as server:
        sender = delivery(server.url)
        assert sender.deliver(task()).is_success
        assert closed.wait(20)
        assert sender.deliver(task()).is_success
        assert server.connected == 2


def test_bytes_that_nobody_asked_for_are_not_taken_for_the_next_answer() -> None:
    with raw_server(OK + b"HTTP/1.1 500 Smuggled\r\nContent-Length: 0\r\n\r\n") as server:
        sender = delivery(server.url)
        assert [sender.deliver(task()).status for _ in range(3)] == [200] * 3


def test_a_deadline_or_a_broken_answer_costs_the_connection(app: RawServer) -> None:
    def silent(connection: socket.socket) -> None:
        if len(server.requests) > 1:
            connection.sendall(OK)

    with raw_server(silent) as server:
        sender = delivery(server.url, deadline_seconds=0.3)
        assert sender.deliver(task()).status is None
        assert sender.deliver(task(dispatch_deadline_usec=20_000_000)).is_success
        assert server.connected == 2


def test_closing_hangs_up_on_every_idle_connection() -> None:
    met = threading.Barrier(3)

    def together(connection: socket.socket) -> None:
        met.wait(20)
        connection.sendall(OK)

    with raw_server(together) as server:
        sender = delivery(server.url)
        threads = [threading.Thread(target=sender.deliver, args=(task(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (server.connected, server.left) == (3, 0)

        sender.close()

        wait_until(lambda: server.left == 3, what="the connections to be closed")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"nonsense\r\n\r\n"])
def test_a_connection_with_a_broken_answer_is_closed(answer: bytes) -> None:
    with raw_server(answer) as server:
        sender = delivery(server.url, deadline_seconds=0.3)

        assert sender.deliver(task()).status is None

        wait_until(lambda: server.left == 1, what="the connection to be closed")


# --- TLS ----------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    with raw_server(OK, speaking_tls(tmp_path)) as server:
        outcome = deliver(f"https://localhost:{server.port}")
    assert (outcome.status, outcome.was_reached) == (None, False)
    assert "its certificate is not trusted: self-signed certificate" in outcome.reason
    assert server.requests == []


def test_a_certificate_of_a_trusted_authority_is_good_for_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap = speaking_tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    with raw_server(OK, wrap) as server:
        sender = delivery(f"https://localhost:{server.port}")
        assert [sender.deliver(task(payload=b"x" * 50_000)).status for _ in range(3)] == [200] * 3
        sender.close()
        assert server.connected == 1
        outcome = deliver(f"https://127.0.0.2:{server.port}")
    assert outcome.was_reached is False


def test_a_server_that_speaks_no_tls_was_not_reached(app: RawServer) -> None:
    outcome = deliver(app.url.replace("http:", "https:"), deadline_seconds=1)
    assert (outcome.status, outcome.was_reached) == (None, False)


# --- which --------------------------------------------------------------------------------


def test_it_serves_the_services_it_knows_and_no_others() -> None:
    sender = delivery("http://127.0.0.1:1")
    assert [sender.serves(name) for name in ("counter", "default", "other")] == [True, False, False]
    outcome = sender.deliver(leased())
    assert (outcome.status, outcome.was_reached) == (None, False)
    assert "LASTACROSS_SERVICES of this worker has no URL for the service default" in outcome.reason


def test_a_record_that_makes_no_request_fails_its_attempt_alone(app: RawServer) -> None:
    broken = task()
    broken.fields[b"headers"] = b"no json"
    sender = delivery(app.url)
    assert sender.deliver(broken).status is None
    broken = task()
    broken.fields[b"description"] = b"POST /a b\r\nX: y"
    assert sender.deliver(broken).status is None
    assert sender.deliver(task()).is_success
    assert [lines_of(request)[0] for request in app.requests] == ["POST /work HTTP/1.1"]
