"""The commands that a Redis server has run, from MONITOR, and each grant of a task with its time."""

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
    """One command from a client or a script; ``at`` is the server's own time."""

    at: float
    is_of_script: bool
    words: tuple[str, ...]


@dataclass(frozen=True)
class Grant:
    """One leased task; ``now`` is the time that the lease's caller passed, or the server's own time."""

    now: float
    queue: str
    task: str

    def operation(self) -> Operation:
        """The grant as an operation of a history."""
        return Operation("grant", self.now, self.now, OK, {"id": f"{self.queue}_{self.task}"})


class Monitored:
    """All commands that the server runs while its monitor is read."""

    def __init__(self) -> None:
        self._heard: list[bytes] = []

    def hear(self, connection: socket.socket, stop_fd: int) -> None:
        """Read the monitor until ``stop_fd`` is readable."""
        while True:
            readable, _, _ = select.select([connection.fileno(), stop_fd], [], [])
            if connection.fileno() in readable:
                self._heard.append(connection.recv(1 << 20))
            elif stop_fd in readable:
                return

    def commands(self) -> list[Command]:
        """All commands, in the order in which the server ran them."""
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
        """Each queue's leases, in the order in which they were granted."""
        return grants(self.commands())


@contextlib.contextmanager
def monitored(server: RedisServer) -> Iterator[Monitored]:
    """Monitor a server during the block."""
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
    """The grants of lease_tasks, found because only that script makes a record ``started``."""
    found: dict[str, list[Grant]] = {}
    call: tuple[str, ...] = ()
    for command in commands:
        if not command.is_of_script:
            call = command.words
        elif command.words[0].upper() == "HSET" and command.words[2:4] == ("status", "started"):
            keys = int(call[2])
            queue, _, task = command.words[1].removeprefix("rq:job:").partition("_")
            now = call[3 + keys].partition("~")[0]
            found.setdefault(queue, []).append(Grant(float(now or command.at), queue, task))
    return found
