"""Fetching from real servers: well-behaved ones, and those that loop, drip, hang up and talk nonsense."""

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lastacross import config, urlfetch
from lastacross.broker.current import CurrentTask, delivering
from lastacross.config import Config
from lastacross.http_client import LookUp, system_look_up
from lastacross.urlfetch import calls, connections
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.exchange import Gunzip
from lastacross.urlfetch.fetching import Fetcher
from lastacross.urlfetch.requests import Request
from lastacross.urlfetch.response import Headers, Response
from lastacross.webapp.request_scope import CurrentRequest, answering
from tests.support.raw_server import RawServer, raw_server
from tests.support.site import free_port
from tests.support.tls import speaking_tls

MIB = 2**20
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STATUSES_WITHOUT_BODY = (204, 304)
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "feed.example")


def redirect(location: str, status: int = 302) -> bytes:
    """An answer that sends on."""
    return f"HTTP/1.1 {status} -\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def use_settings(configuration: Config, **values: object) -> None:
    """Let the process go on with other settings."""
    settings = replace(configuration.settings, **values)  # type: ignore[arg-type]
    config.use(replace(configuration, settings=settings))


@pytest.fixture
def bare(app_root: Path) -> Iterator[Config]:
    """A configuration that lists no host."""
    loaded = config.load(app_root, {"SECRET_KEY": "a secret key of the tests, long enough"})
    config.use(loaded)
    yield loaded
    config.use(None)


@pytest.fixture(autouse=True)
def look_up_by(bare: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[LookUp], None]]:
    """This machine may be fetched from, over connections of the test's own; says who looks names up."""
    use_settings(bare, fetch_private_hosts=LOOPBACK)
    made: list[Fetcher] = []

    def use(looks_up: LookUp) -> None:
        made.append(Fetcher(looks_up))
        monkeypatch.setattr(calls, "_fetcher", made[-1])

    use(look_up)
    yield use
    for fetcher in made:
        fetcher.close()


def look_up(host: str, port: int) -> list[str]:
    """The addresses of the tests' names."""
    found = {"feed.example": ["127.0.0.1"], "localhost": ["127.0.0.1"], "rebound.example": ["127.0.0.1"]}
    if host not in found:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return found[host]


def head_of(request: bytes) -> tuple[str, dict[str, str]]:
    """The first line and the headers of a request."""
    first, *lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines)


# --- what comes back ------------------------------------------------------------------------


def test_a_fetch_gives_the_answer() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
    with raw_server(answer + b"Content-Length: 3\r\n\r\n\xff\x00!") as server:
        result = urlfetch.fetch(f"{server.url}/a?b=c#d")

    assert (result.status_code, result.content, result.final_url) == (200, b"\xff\x00!", None)
    assert result.headers["content-TYPE"] == "text/x"
    assert result.header_msg.get_all("Set-Cookie") == ["a", "b"]
    assert not result.content_was_truncated
    first, headers = head_of(server.requests[0])
    assert first == "GET /a?b=c HTTP/1.1"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert "Content-Length" not in headers


@pytest.mark.parametrize("status", [404, 500, 304, 204, 599, 300])
def test_every_status_is_a_result(status: int) -> None:
    length = "" if status in STATUSES_WITHOUT_BODY else "Content-Length: 0\r\n"
    with raw_server(f"HTTP/1.1 {status} -\r\n{length}\r\n".encode()) as server:
        assert urlfetch.fetch(server.url).status_code == status


def test_a_payload_and_headers_are_sent() -> None:
    with raw_server(OK) as server:
        urlfetch.fetch(
            server.url,
            json.dumps({"a": "ä"}),
            "put",
            {
                "Content-Type": "application/json",
                "Host": "forged.example",
                "Cache-Control": "no-cache,max-age=0",
            },
        )

    first, headers = head_of(server.requests[0])
    assert first == "PUT / HTTP/1.1"
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert headers["Cache-Control"] == "no-cache,max-age=0"
    assert json.loads(server.requests[0].partition(b"\r\n\r\n")[2]) == {"a": "ä"}


def test_a_head_has_no_body() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n") as server:
        result = urlfetch.fetch(server.url, method=urlfetch.HEAD)

    assert (result.content, result.headers["Content-Length"]) == (b"", "1000")


def test_a_head_of_what_would_be_compressed_says_so() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n") as server:
        result = urlfetch.fetch(server.url, method="HEAD")

    assert (result.headers["Content-Encoding"], result.headers["Content-Length"]) == ("gzip", "9")


def test_a_chunked_answer_and_one_without_a_length_come_whole() -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        connection.shutdown(socket.SHUT_WR)

    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    with raw_server(chunked) as server:
        assert urlfetch.fetch(server.url).content == b"abcde"
    with raw_server(hang_up) as server:
        assert urlfetch.fetch(server.url).content == b"all of it"


def test_connections_are_used_again() -> None:
    with raw_server(OK) as server:
        for _ in range(5):
            urlfetch.fetch(server.url)
        assert server.connected == 1
        # What must not be sent twice by mistake goes over one of its own.
        urlfetch.fetch(server.url, b"x", urlfetch.POST)
        assert server.connected == 2


def test_an_idle_connection_that_died_is_replaced() -> None:
    """The server hangs up at the very moment at which the next request comes."""
    seen: list[bytes] = []

    def answer_once(connection: socket.socket) -> None:
        seen.append(b"x")
        if len(seen) == 2:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.sendall(OK)

    with raw_server(answer_once) as server:
        assert urlfetch.fetch(server.url).content == b"ok"
        assert urlfetch.fetch(server.url).content == b"ok"
        assert (server.connected, len(server.requests)) == (2, 3)


def test_no_more_than_a_hundred_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_IDLE", 1)
    with raw_server(OK) as first, raw_server(OK) as second:
        for url in (first.url, second.url, first.url):
            urlfetch.fetch(url)

    assert (first.connected, second.connected) == (2, 1)


# --- compressed -----------------------------------------------------------------------------


def gzipped(body: bytes) -> bytes:
    """An answer whose body is this, compressed."""
    packed = body if body[:2] == b"\x1f\x8b" else gzip.compress(body)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    return head.encode() + packed


def test_a_compressed_answer_is_decompressed() -> None:
    with raw_server(gzipped(b"hello " * 100_000)) as server:
        result = urlfetch.fetch(server.url)

    assert result.content == b"hello " * 100_000
    assert "Content-Encoding" not in result.headers
    assert "Content-Length" not in result.headers
    assert head_of(server.requests[0])[1]["Accept-Encoding"] == "gzip"


def test_who_asks_for_an_encoding_gets_it_as_it_comes() -> None:
    with raw_server(gzipped(b"hello")) as server:
        result = urlfetch.fetch(server.url, headers={"accept-encoding": "gzip"})

    assert gzip.decompress(result.content) == b"hello"
    assert result.headers["Content-Encoding"] == "gzip"


def test_a_bomb_stops_at_the_limit_of_what_it_unpacks_to() -> None:
    """64 MiB of zeros in 64 KiB."""
    with raw_server(gzipped(bytes(64 * MIB))) as server:
        with pytest.raises(urlfetch.ResponseTooLargeError, match="more than 33554432 bytes") as raised:
            urlfetch.fetch(server.url, deadline=60)
        result = urlfetch.fetch(server.url, allow_truncated=True, deadline=60)

    assert len(result.content) == 32 * MIB
    assert result.content_was_truncated
    carried = raised.value.response
    assert isinstance(carried, Response)
    assert (carried.status_code, len(carried.content)) == (200, 32 * MIB)


def test_several_members_and_padding_are_one_body() -> None:
    packed = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0\0"
    gunzip = Gunzip()

    pieces = b"".join(piece for byte in packed for piece in gunzip.pieces(bytes([byte])))
    gunzip.finish()

    assert pieces == b"one two"
    with raw_server(gzipped(packed)) as server:
        assert urlfetch.fetch(server.url).content == b"one two"


@pytest.mark.parametrize(
    "body", [b"\x1f\x8b not gzip", gzip.compress(b"hello" * 99)[:-9]], ids=["not gzip", "cut off"]
)
def test_damaged_gzip_is_a_malformed_reply(body: bytes) -> None:
    with (
        raw_server(gzipped(body)) as server,
        pytest.raises(urlfetch.MalformedReplyError, match="corrupt gzip"),
    ):
        urlfetch.fetch(server.url)


def test_an_empty_body_is_no_damaged_gzip() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n") as server:
        assert urlfetch.fetch(server.url).content == b""


# --- redirects ------------------------------------------------------------------------------


def test_redirects_are_followed_to_the_end() -> None:
    with raw_server(OK) as last, raw_server(redirect(f"{last.url}/end?x")) as first:
        result = urlfetch.fetch(first.url, b"a=b", urlfetch.POST, {"Authorization": "secret"})

    assert (result.content, result.final_url) == (b"ok", f"{last.url}/end?x")
    line, headers = head_of(last.requests[0])
    assert line == "GET /end?x HTTP/1.1"
    assert "Authorization" not in headers
    assert "Content-Type" not in headers


def test_307_sends_the_same_again() -> None:
    with raw_server(OK) as last, raw_server(redirect(last.url, 307)) as first:
        urlfetch.fetch(first.url, b"a=b", urlfetch.POST)

    assert last.requests[0].startswith(b"POST / ")
    assert last.requests[0].endswith(b"\r\n\r\na=b")


def test_redirects_are_a_result_for_who_does_not_follow_them() -> None:
    with raw_server(redirect("/elsewhere")) as server:
        result = urlfetch.fetch(server.url, follow_redirects=False)

    assert (result.status_code, result.headers["Location"]) == (302, "/elsewhere")
    assert (result.final_url, len(server.requests)) == (None, 1)


def test_a_redirect_without_a_location_is_a_result() -> None:
    with raw_server(b"HTTP/1.1 302 -\r\nContent-Length: 0\r\n\r\n") as server:
        assert urlfetch.fetch(server.url).status_code == 302


def test_a_loop_ends_at_the_sixth_redirect() -> None:
    with raw_server(redirect("/again")) as server:
        with pytest.raises(urlfetch.TooManyRedirectsError, match=r"more than 5 times, last to .*/again"):
            urlfetch.fetch(server.url)
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (redirect("/again?token=secret"), " redirects more than 5 times"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(33 * MIB), " sent more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", " did not complete its response"),
    ],
    ids=["loop", "large", "late"],
)
def test_errors_tell_no_query_of_the_urls_that_they_are_about(answer: bytes, told: str) -> None:
    """Nor that of one which another server has made up: keys to files are queries."""

    def send(connection: socket.socket) -> None:
        connection.sendall(answer)
        if "complete" in told:
            connection.recv(1)

    with raw_server(send) as server:
        with pytest.raises(urlfetch.Error) as raised:
            urlfetch.fetch(f"{server.url}/a?token=secret", deadline=0.3 if "complete" in told else 60)

        assert str(raised.value).startswith(f"{server.url}/a{told}")
        assert "secret" not in str(raised.value)


def test_of_an_answer_no_more_is_read_than_the_caller_wants() -> None:
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000) as server:
        result = urlfetch.fetch(server.url, allow_truncated=True, response_limit_bytes=10)
        rpc = urlfetch.create_rpc()
        urlfetch.make_fetch_call(rpc, server.url, response_limit_bytes=10)
        with pytest.raises(urlfetch.ResponseTooLargeError, match="more than 10 bytes"):
            rpc.get_result()

    assert (result.content, result.content_was_truncated) == (b"x" * 10, True)


def test_an_answer_that_has_just_the_wanted_size_is_whole() -> None:
    with raw_server(OK) as server:
        result = urlfetch.fetch(server.url, response_limit_bytes=2)

    assert (result.content, result.content_was_truncated) == (b"ok", False)


def test_five_redirects_are_followed() -> None:
    answers = [redirect(f"/{number}") for number in range(5)] + [OK]

    with raw_server(lambda connection: connection.sendall(answers.pop(0))) as server:
        assert urlfetch.fetch(server.url).final_url == f"{server.url}/4"


def test_a_redirect_to_another_protocol_is_not_followed() -> None:
    nowhere = pytest.raises(urlfetch.MalformedReplyError, match="redirects to a URL that cannot be fetched")
    with raw_server(redirect("file:///etc/passwd")) as server, nowhere:
        urlfetch.fetch(server.url)


# --- limits ---------------------------------------------------------------------------------


def test_a_payload_that_is_too_large_is_not_sent() -> None:
    with raw_server(OK) as server:
        with pytest.raises(urlfetch.PayloadTooLargeError, match="at most 10485760"):
            urlfetch.fetch(server.url, bytes(10 * MIB + 1), urlfetch.POST)
        assert server.requests == []
        urlfetch.fetch(server.url, bytes(10 * MIB), urlfetch.POST, deadline=60)


def test_an_endless_answer_stops_at_the_limit() -> None:
    def pour(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(MIB))

    with raw_server(pour) as server:
        with pytest.raises(urlfetch.ResponseTooLargeError):
            urlfetch.fetch(server.url, deadline=60)
        assert len(urlfetch.fetch(server.url, allow_truncated=True, deadline=60).content) == 32 * MIB


def test_an_answer_of_just_the_limit_is_whole() -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {32 * MIB}\r\n\r\n".encode()
    with raw_server(head + bytes(32 * MIB)) as server:
        assert len(urlfetch.fetch(server.url, deadline=60).content) == 32 * MIB


# --- deadlines ------------------------------------------------------------------------------


def drip(first: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    """A server that sends a little now and then, for ever."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            time.sleep(0.05)
            connection.sendall(drop)

    return answer


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["line", "headers", "body", "chunks", "continue"],
)
def test_a_dripping_server_does_not_outlast_the_deadline(first: bytes, drop: bytes) -> None:
    began_at = time.monotonic()

    with raw_server(drip(first, drop)) as server:
        with pytest.raises((urlfetch.DeadlineExceededError, urlfetch.MalformedReplyError)) as raised:
            urlfetch.fetch(server.url, deadline=0.5)
        assert time.monotonic() - began_at < 5

    # A line of nothing but H, or a hundred headers, may be noticed to be nonsense before.
    if drop not in (b"H", b"A: b\r\n"):
        assert "did not complete its response within 0.5 s" in str(raised.value)


def test_a_silent_server_and_a_silent_handshake_do_not_outlast_it_either() -> None:
    def wait(connection: socket.socket) -> None:
        connection.recv(1)

    with raw_server(wait) as server:
        with pytest.raises(
            urlfetch.DeadlineExceededError, match=r"did not complete its response within 0\.3 s"
        ):
            urlfetch.fetch(server.url, deadline=0.3)
        with pytest.raises(urlfetch.DeadlineExceededError, match=r"within 0\.3 s"):
            urlfetch.fetch(server.url.replace("http:", "https:"), deadline=0.3)


def test_the_deadline_is_that_of_all_redirects_together() -> None:
    def slow(connection: socket.socket) -> None:
        time.sleep(0.2)
        connection.sendall(redirect("/again"))

    with raw_server(slow) as server, pytest.raises(urlfetch.DeadlineExceededError):
        urlfetch.fetch(server.url, deadline=0.5)


def test_a_name_server_that_does_not_answer_is_given_up(look_up_by: Callable[[LookUp], None]) -> None:
    stop = threading.Event()

    def never(host: str, port: int) -> list[str]:
        stop.wait(20)
        return []

    look_up_by(never)
    try:
        with pytest.raises(urlfetch.DeadlineExceededError, match=r"within 0\.2 s"):
            urlfetch.fetch("http://slow.example/", deadline=0.2)
    finally:
        stop.set()


class Recorder:
    """Notes the deadlines of fetches."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def fetch(self, url: str, request: Request, deadline: Deadline) -> Response:
        """Note it."""
        self.seconds.append(deadline.seconds)
        return Response(b"", 200, Headers(), None, None)  # type: ignore[arg-type]


def test_deadlines_have_a_default_and_a_most(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(calls, "_fetcher", recorder)
    request = CurrentRequest("GET", "app.example", "/")
    task = CurrentTask("default_t", "t", "default", 1, 0, 0)

    urlfetch.fetch("http://x.example/")
    urlfetch.fetch("http://x.example/", deadline=1000)
    with answering(request):
        urlfetch.fetch("http://x.example/", deadline=1000)
        with delivering(task):
            urlfetch.fetch("http://x.example/", deadline=1000)
            urlfetch.make_fetch_call(urlfetch.create_rpc(deadline=2), "http://x.example/").wait()
    urlfetch.set_default_fetch_deadline(value=20)
    assert urlfetch.get_default_fetch_deadline() == 20
    urlfetch.fetch("http://x.example/")
    urlfetch.fetch("http://x.example/", deadline=1)
    urlfetch.set_default_fetch_deadline(None)
    urlfetch.fetch("http://x.example/")

    assert recorder.seconds == [5, 600, 60, 600, 2, 20, 1, 5]


def test_a_default_deadline_is_that_of_its_thread() -> None:
    urlfetch.set_default_fetch_deadline(20)
    seen: list[float | None] = []
    thread = threading.Thread(target=lambda: seen.append(urlfetch.get_default_fetch_deadline()))
    thread.start()
    thread.join()
    urlfetch.set_default_fetch_deadline(None)

    assert seen == [None]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_deadline_of_no_time_is_refused(seconds: float) -> None:
    for call in (urlfetch.set_default_fetch_deadline, urlfetch.create_rpc):
        with pytest.raises(ValueError, match="more than 0 s"):
            call(seconds)
    with pytest.raises(TypeError, match="a number of seconds, not '5'"):
        urlfetch.fetch("http://x.example/", deadline="5")  # type: ignore[arg-type]


# --- servers that talk nonsense, or not at all ----------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\0\1\2\3\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["ssh", "bytes", "status", "long", "many", "chunk"],
)
def test_nonsense_is_a_malformed_reply(answer: bytes) -> None:
    with (
        raw_server(answer) as server,
        pytest.raises(urlfetch.MalformedReplyError, match="an invalid HTTP response") as raised,
    ):
        urlfetch.fetch(server.url)

    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nA: b\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["nothing", "head", "body", "chunk"],
)
def test_a_server_that_hangs_up_too_early_has_closed_the_connection(answer: bytes) -> None:
    def cut(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    with (
        raw_server(cut) as server,
        pytest.raises(urlfetch.ConnectionClosedError, match="closed the connection"),
    ):
        urlfetch.fetch(server.url)


def test_a_port_that_nobody_listens_on_is_a_download_error() -> None:
    with pytest.raises(urlfetch.DownloadError, match="could not be reached: connection refused") as raised:
        urlfetch.fetch(f"http://127.0.0.1:{free_port()}/")

    assert type(raised.value) is urlfetch.DownloadError


def test_a_host_without_an_address_is_told() -> None:
    with pytest.raises(
        urlfetch.DNSLookupFailedError, match=r"the host no\.example has no address: Name or serv"
    ):
        urlfetch.fetch("http://no.example/")


def test_all_errors_are_in_one_tree() -> None:
    for name in (*("InvalidURLError", "InvalidMethodError", "DownloadError"), "ResponseTooLargeError"):
        assert issubclass(getattr(urlfetch, name), urlfetch.Error)
    for name in (
        "DeadlineExceededError",
        "DNSLookupFailedError",
        "ConnectionClosedError",
        "MalformedReplyError",
    ):
        assert issubclass(getattr(urlfetch, name), urlfetch.DownloadError)
    assert issubclass(urlfetch.TooManyRedirectsError, urlfetch.DownloadError)
    assert issubclass(urlfetch.PrivateAddressError, urlfetch.DownloadError)
    assert issubclass(urlfetch.SSLCertificateError, urlfetch.Error)


# --- addresses ------------------------------------------------------------------------------


def own_addresses() -> list[str]:
    """The addresses of this machine's loopback: it may have no IPv6."""
    found = ["127.0.0.1"]
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        found.append("::1")
    except OSError:
        pass
    return found


@pytest.mark.parametrize("host", own_addresses())
def test_numeric_addresses_need_no_name_server(host: str) -> None:
    with raw_server(OK, host=host) as server:
        assert urlfetch.fetch(server.url).content == b"ok"

    assert head_of(server.requests[0])[1]["Host"] == server.url.removeprefix("http://")


def test_the_next_address_is_tried_when_one_does_not_answer(look_up_by: Callable[[LookUp], None]) -> None:
    look_up_by(lambda host, port: ["::1", "127.0.0.2", "127.0.0.1"])

    with raw_server(OK) as server:
        assert urlfetch.fetch(f"http://feed.example:{server.port}/").content == b"ok"


# --- private networks -----------------------------------------------------------------------

SPELLINGS = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "[::ffff:127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "10.0.0.1", "169.254.169.254", "[fd00::1]", "localhost", "100.64.0.1"),
]


@pytest.mark.parametrize("host", SPELLINGS)
def test_private_addresses_are_not_fetched_from_in_any_spelling(
    host: str, bare: Config, look_up_by: Callable[[LookUp], None]
) -> None:
    use_settings(bare, fetch_private_hosts=())
    look_up_by(system_look_up)

    with raw_server(OK) as server:
        with pytest.raises(urlfetch.PrivateAddressError, match="list it in LASTACROSS_FETCH_PRIVATE_HOSTS"):
            urlfetch.fetch(f"http://{host}:{server.port}/")
        assert server.connected == 0


def test_a_name_that_leads_into_a_private_network_is_refused(bare: Config) -> None:
    with raw_server(OK) as server:
        url = f"http://rebound.example:{server.port}/"
        with pytest.raises(
            urlfetch.PrivateAddressError, match=r"rebound.example:\d+ has the address 127.0.0.1, which is in"
        ):
            urlfetch.fetch(url)
        assert server.connected == 0
        use_settings(bare, fetch_private_hosts=(f"rebound.example:{server.port}",))
        assert urlfetch.fetch(url).content == b"ok"


def test_each_redirect_is_checked_anew(bare: Config) -> None:
    with raw_server(OK) as inner, raw_server(redirect(f"{inner.url}/secret")) as outer:
        use_settings(bare, fetch_private_hosts=(f"127.0.0.1:{outer.port}",))
        with pytest.raises(urlfetch.PrivateAddressError):
            urlfetch.fetch(outer.url)
        assert inner.connected == 0


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    bare: Config, monkeypatch: pytest.MonkeyPatch, look_up_by: Callable[[LookUp], None]
) -> None:
    """A name whose address changes between the two looks (DNS rebinding) is looked up once."""
    use_settings(bare, fetch_private_hosts=())
    monkeypatch.setattr(connections, "is_private", lambda address: address != "127.0.0.1")
    answers = [["10.0.0.1", "127.0.0.1"], ["10.0.0.1"]]
    look_up_by(lambda host, port: answers.pop(0))

    with raw_server(OK) as server:
        url = f"http://changing.example:{server.port}/"
        assert urlfetch.fetch(url).content == b"ok"
        assert len(answers) == 1
        with pytest.raises(urlfetch.PrivateAddressError):
            urlfetch.fetch(url, b"x", urlfetch.POST)


def test_a_connection_to_a_listed_host_is_not_for_one_that_is_not(bare: Config) -> None:
    """The list may change with the settings of the process: what was open stays open for nobody else."""
    with raw_server(OK) as server:
        assert urlfetch.fetch(server.url).content == b"ok"
        use_settings(bare, fetch_private_hosts=())
        with pytest.raises(urlfetch.PrivateAddressError):
            urlfetch.fetch(server.url)


def test_under_dev_the_site_fetches_from_itself_as_anybody(bare: Config) -> None:
    with raw_server(OK) as server:
        use_settings(bare, fetch_private_hosts=(), is_dev=True, host="127.0.0.1", port=server.port)
        assert urlfetch.fetch(f"http://localhost:{server.port}/feed").content == b"ok"
        assert not {"Cookie", "Forwarded"} & set(head_of(server.requests[0])[1])

        with raw_server(redirect(f"{server.url}/_ah/admin", 307)) as elsewhere:
            use_settings(
                bare,
                fetch_private_hosts=(f"127.0.0.1:{elsewhere.port}",),
                is_dev=True,
                host="127.0.0.1",
                port=server.port,
            )
            with pytest.raises(urlfetch.PrivateAddressError):
                urlfetch.fetch(elsewhere.url, b"x", urlfetch.POST)
        assert len(server.requests) == 1


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[RawServer]:
    """A server whose certificate no machine trusts."""
    with raw_server(OK, speaking_tls(tmp_path)) as server:
        server.url = server.url.replace("http:", "https:")
        yield server


def test_a_certificate_that_nobody_trusts_is_refused(tls: RawServer) -> None:
    with pytest.raises(urlfetch.SSLCertificateError, match="was rejected: self-signed certificate"):
        urlfetch.fetch(tls.url)
    assert tls.requests == []


def test_any_certificate_will_do_for_who_says_so(tls: RawServer) -> None:
    assert urlfetch.fetch(tls.url, validate_certificate=False).content == b"ok"
    with pytest.raises(urlfetch.SSLCertificateError):
        # The connection that was not checked is not for who wants it checked.
        urlfetch.fetch(tls.url, validate_certificate=True)


def test_a_certificate_is_of_one_host(
    tls: RawServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))

    assert urlfetch.fetch(f"https://localhost:{tls.port}/").content == b"ok"
    assert urlfetch.fetch(tls.url).content == b"ok"
    with pytest.raises(urlfetch.SSLCertificateError, match=r"feed\.example"):
        urlfetch.fetch(f"https://feed.example:{tls.port}/")


def test_a_server_without_tls_is_told_apart() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(100)
            connection.sendall(OK)

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(urlfetch.DownloadError, match=r"^the TLS handshake with 127\.0\.0\.1:\d+ failed: "):
        urlfetch.fetch(f"https://127.0.0.1:{port}/")
    thread.join()
    listening.close()


# --- the URL that this request is serving -----------------------------------------------------------


@pytest.mark.parametrize("host", ["app.example", "app.example:80"])
@pytest.mark.parametrize(
    "url", ["http://app.example/a%20b", "http://app.example:80/a%20b?x#y", "HTTP://APP.example/%61%20b"]
)
def test_a_handler_does_not_fetch_its_own_url(url: str, host: str) -> None:
    with answering(CurrentRequest("GET", host, "/a b")):
        with pytest.raises(urlfetch.InvalidURLError, match="the URL that this request is serving"):
            urlfetch.fetch(url)
        with pytest.raises(urlfetch.InvalidURLError, match="the URL that this request is serving"):
            urlfetch.make_fetch_call(urlfetch.create_rpc(), url)


def test_it_may_fetch_its_neighbours_and_post_to_itself() -> None:
    with raw_server(OK) as server, answering(CurrentRequest("GET", f"127.0.0.1:{server.port}", "/a")):
        assert urlfetch.fetch(f"{server.url}/b").content == b"ok"
        assert urlfetch.fetch(f"{server.url}/a", b"x", urlfetch.POST).content == b"ok"
        with pytest.raises(urlfetch.InvalidURLError, match="is not a URL"):
            urlfetch.fetch("http://[")


# --- several at once ------------------------------------------------------------------------


def test_a_hundred_rpcs_are_under_way_at_once() -> None:
    """The server answers none before it has all hundred."""
    barrier = threading.Barrier(100)

    def answer(connection: socket.socket) -> None:
        barrier.wait(30)
        connection.sendall(OK)

    with raw_server(answer) as server:
        rpcs = [urlfetch.create_rpc(deadline=30) for _ in range(100)]
        for rpc in rpcs:
            urlfetch.make_fetch_call(rpc, server.url)
        assert [rpc.get_result().content for rpc in rpcs] == [b"ok"] * 100


def test_a_callback_is_called_once_by_who_waits() -> None:
    called: list[int] = []

    with raw_server(OK) as server:
        rpc = urlfetch.create_rpc(callback=lambda: called.append(threading.get_ident()))
        assert urlfetch.make_fetch_call(rpc, server.url) is rpc
        for _ in range(2):
            rpc.wait()
            rpc.check_success()
        assert rpc.is_finished

    assert called == [threading.get_ident()]


def test_a_callback_may_look_at_the_result() -> None:
    seen: list[bytes] = []

    with raw_server(OK) as server:
        rpc = urlfetch.create_rpc()
        rpc.callback = lambda: seen.append(rpc.get_result().content)
        urlfetch.make_fetch_call(rpc, server.url)
        rpc.wait()

    assert seen == [b"ok"]


def test_an_error_comes_with_the_result() -> None:
    """What is wrong with one URL of many is known where its answer is looked at."""
    rpc = urlfetch.make_fetch_call(urlfetch.create_rpc(), "ftp://x/")

    rpc.wait()
    for look in (rpc.check_success, rpc.get_result):
        with pytest.raises(urlfetch.InvalidURLError, match="does not begin with http"):
            look()


def test_an_rpc_fetches_once() -> None:
    rpc = urlfetch.create_rpc()
    for use in (rpc.wait, rpc.get_result, rpc.check_success):
        with pytest.raises(urlfetch.Error, match=r"call make_fetch_call\(rpc, url\) first"):
            use()
    assert not rpc.is_finished
    with raw_server(OK) as server:
        urlfetch.make_fetch_call(rpc, server.url)
        with pytest.raises(urlfetch.Error, match="has already been used"):
            urlfetch.make_fetch_call(rpc, server.url)
        rpc.wait()


def test_the_first_and_all_can_be_waited_for() -> None:
    gate = threading.Event()

    def slow(connection: socket.socket) -> None:
        gate.wait(20)
        connection.sendall(OK)

    with raw_server(slow) as late, raw_server(OK) as early:
        rpcs = [urlfetch.make_fetch_call(urlfetch.create_rpc(30), url) for url in (late.url, early.url)]
        assert urlfetch.RPC.wait_any(rpcs) is rpcs[1]
        assert urlfetch.RPC.wait_any([]) is None
        gate.set()
        urlfetch.RPC.wait_all(rpcs)

    assert [rpc.is_finished for rpc in rpcs] == [True, True]


def test_a_call_that_no_thread_was_free_for_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(calls, "_threads", threads_that_never_come())
    rpc = urlfetch.make_fetch_call(urlfetch.create_rpc(deadline=0.05), "http://127.0.0.1/")

    with pytest.raises(urlfetch.DeadlineExceededError, match=r"no response within 0\.05 s"):
        rpc.get_result()
    assert urlfetch.RPC.wait_any([rpc]) is rpc


class _Never:
    """Threads of which none is free."""

    def run(self, function: Callable[[], None]) -> None:
        """Do not."""


def threads_that_never_come() -> _Never:
    """Threads of which none is free."""
    return _Never()


def test_a_body_may_be_of_any_bytes() -> None:
    """Not compressed, though it looks so."""
    body = zlib.compress(b"x" * 100)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with raw_server(head + body) as server:
        result = urlfetch.fetch(server.url)

    assert (result.content, result.headers["Content-Encoding"]) == (body, "br")


def test_app_engines_other_names_are_there() -> None:
    assert urlfetch.Fetch is urlfetch.fetch
    assert urlfetch.MAX_REDIRECTS == 5
    assert issubclass(urlfetch.InternalTransientError, urlfetch.Error)
