"""Messages written past the stream's thread: to real sockets, without Redis and a web server."""

import http.client
import io
import socket
import threading
from collections.abc import Iterator

import pytest

from lastacross.channel import frames
from lastacross.channel.direct import DirectWriter
from lastacross.channel.frames import BEGINNING, Message, Position
from lastacross.channel.mailbox import Mailbox
from tests.support.processes import wait_until
from tests.support.sse import parse

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class Browser:
    """Both ends of a connection, and the stream's thread that waits in its mailbox."""

    def __init__(self) -> None:
        self.server_end, self.browser_end = socket.socketpair()
        self.server_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.mailbox = Mailbox("c", BEGINNING, writer=DirectWriter(self.server_end))
        self.written_by_thread: list[bytes] = []
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.mailbox.is_closed:
            frames_to_write = self.mailbox.take(5.0)
            if frames_to_write:
                self.written_by_thread.append(frames_to_write)
                self.server_end.sendall(b"%X\r\n%b\r\n" % (len(frames_to_write), frames_to_write))
            else:
                self.mailbox.finish_write()

    def start_waiting(self) -> None:
        """Start the stream's thread, and pass when it waits."""
        self.thread.start()
        wait_until(lambda: self.mailbox._is_parked, what="the stream's thread waits")

    def close(self) -> None:
        """End the thread and the connection."""
        self.mailbox.close()
        self.browser_end.close()
        if self.thread.is_alive():
            self.thread.join(10)
        self.server_end.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


class _Received:
    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._received)


def body_of(chunks: bytes) -> bytes:
    """What an HTTP client makes of these chunks."""
    response = http.client.HTTPResponse(_Received(HEAD + chunks + LAST_CHUNK))  # type: ignore[arg-type]
    response.begin()
    return response.read()


def a_message(number: int, size: int = 10) -> Message:
    return frames.message(Position(number, 0), b"x" * size)


def test_what_is_delivered_while_the_thread_waits_is_in_the_socket_at_once(browser: Browser) -> None:
    browser.start_waiting()
    browser.mailbox.deliver([a_message(1), a_message(2)])

    received = browser.browser_end.recv(65_536)
    assert [event.id for event in parse(body_of(received))] == ["1-0", "2-0"]
    assert browser.written_by_thread == []
    assert browser.mailbox.taken == Position(2, 0)


def test_while_the_thread_does_something_else_messages_wait_for_it(browser: Browser) -> None:
    browser.mailbox.deliver([a_message(1)])

    assert b"id: 1-0" in browser.mailbox.take(0)


def test_a_browser_that_is_gone_is_left_to_the_thread(browser: Browser) -> None:
    browser.browser_end.close()

    assert DirectWriter(browser.server_end).write(b"data: x\n\n") is None


def test_a_slow_browser_gets_each_message_once_and_in_order_whoever_writes_it(browser: Browser) -> None:
    """A small socket buffer: some writes go out whole, some in part, some by the thread."""
    received = bytearray()

    def read_slowly() -> None:
        while chunk := browser.browser_end.recv(1500):
            received.extend(chunk)

    browser.start_waiting()
    reader = threading.Thread(target=read_slowly)
    reader.start()
    for number in range(1, 1501):
        # The mailbox holds 128 KiB: what comes faster than that is another test's.
        wait_until(lambda: browser.mailbox._size < 60_000, what="the browser has read some")
        browser.mailbox.deliver([a_message(number, size=1 + number * 7 % 3000)])
    wait_until(lambda: received.endswith(b"x\n\n\r\n") and b"id: 1500-0\n" in received)
    browser.server_end.shutdown(socket.SHUT_WR)
    reader.join(10)

    assert browser.written_by_thread, "the socket was never full: this shows nothing"
    assert [event.id for event in parse(body_of(bytes(received)))] == [f"{n}-0" for n in range(1, 1501)]
