"""The addresses of a host, looked up within a deadline: the system's own look-up knows none."""

import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from lastacross.http_client.threads import Threads

MAX_LOOKUPS_AT_ONCE = 32
# A resolver that has not answered by then is not going to, and its callers have other things to do.
MAX_LOOKUP_SECONDS = 3.0

LookUp = Callable[[str, int], list[str]]


def system_look_up(host: str, port: int) -> list[str]:
    """The numeric addresses of a host, best first, as this machine's resolver says.

    Raises:
        OSError, UnicodeError: it has none.
    """
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class LookUpTimeoutError(TimeoutError):
    """Raised when the resolver did not answer in time."""


class Resolver:
    """Looks names up, in a bounded number of threads: nobody can interrupt one that waits for a resolver.

    Args:
        look_up: asks the resolver, for as long as that takes.
    """

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._threads = Threads("names", MAX_LOOKUPS_AT_ONCE)

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """The numeric addresses of a host, best first; never none.

        Args:
            host: a name, or an address, which is its own.
            port: where a connection will go.
            seconds: how long to wait; never more than 3.

        Raises:
            LookUpTimeoutError: the resolver did not answer in time.
            OSError, UnicodeError: the host has no address.
        """
        if _is_address(host):
            return [host]
        answer: Future[list[str]] = Future()
        self._threads.run(lambda: self._fill(answer, host, port))
        try:
            found = answer.result(max(0.0, min(seconds, MAX_LOOKUP_SECONDS)))
        except TimeoutError as error:
            if answer.done() and not answer.cancelled():
                raise  # the resolver's own
            # A look-up that has not begun never will: nobody waits for it.
            answer.cancel()
            raise LookUpTimeoutError(f"no answer from the resolver about {host}") from error
        if not found:
            raise OSError(f"no address of {host}")
        return found

    def _fill(self, answer: "Future[list[str]]", host: str, port: int) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(self._look_up(host, port))
        except Exception as error:
            answer.set_exception(error)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
