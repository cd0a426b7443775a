"""What a Redis server was asked, as MONITOR tells it: every grant of a task with its instant."""

import contextlib
import re
import select
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.support.history import OK, Operation
from tests.support.redis_server import RedisServer

_LINE = re.compile(rb"\+(\d+\.\d+) \[\d+ (lua)?[^\]]*\] (.*)")
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Command:
    """One command, of a client or of a script; ``at`` is the server's own instant."""

    at: float
    is_of_script: bool
    words: tuple[str, ...]


@dataclass(frozen=True)
class Grant:
    """One task that was leased; ``now`` is what the lease's caller gave as the time, or the server's own."""

    now: float
    queue: str
    task: str

    def operation(self) -> Operation:
        """The grant as an operation of a history."""
        return Operation("grant", self.now, self.now, OK, {"id": f"{self.queue}_{self.task}"})


class Monitored:
    """All that the server is asked while it is listened to."""

    def __init__(self) -> None:
        self._heard: list[bytes] = []

    def hear(self, connection: socket.socket, stop_fd: int) -> None:
        """Read until ``stop_fd`` is readable."""
        while True:
            readable, _, _ = select.select([connection.fileno(), stop_fd], [], [])
            if connection.fileno() in readable:
                self._heard.append(connection.recv(1 << 20))
            elif stop_fd in readable:
                return

    def commands(self) -> list[Command]:
        """In the order in which the server ran them."""
        lines = b"".join(list(self._heard)).splitlines()
        found = [match for line in lines if (match := _LINE.fullmatch(line))]
        return [
            Command(
                float(match[1]),
                match[2] is not None,
                tuple(word.decode("latin-1") for word in _WORD.findall(match[3])),
            )
            for match in found
        ]

    def grants(self) -> dict[str, list[Grant]]:
        """The leases of each queue, in the order in which they were granted."""
        return grants(self.commands())


@contextlib.contextmanager
def monitored(server: RedisServer) -> Iterator[Monitored]:
    """Listen to a server."""
    heard = Monitored()
    stop, stop_fd = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as connection, stop, stop_fd:
        connection.connect(server.url.removeprefix("unix://"))
        connection.sendall(b"MONITOR\r\n")
        assert connection.recv(5) == b"+OK\r\n"
        thread = threading.Thread(target=heard.hear, args=(connection, stop_fd.fileno()))
        thread.start()
        try:
            yield heard
        finally:
            stop.send(b".")
            thread.join()


def grants(commands: Iterable[Command]) -> dict[str, list[Grant]]:
    """What lease_tasks granted: in it, and nowhere else, a record becomes ``started``."""
    found: dict[str, list[Grant]] = {}
    call: tuple[str, ...] = ()
    for command in commands:
        if not command.is_of_script:
            call = command.words
        elif command.words[0].upper() == "HSET" and command.words[2:4] == ("status", "started"):
            keys = int(call[2])
            queue, _, task = command.words[1].removeprefix("rq:job:").partition("_")
            found.setdefault(queue, []).append(Grant(float(call[3 + keys] or command.at), queue, task))
    return found
