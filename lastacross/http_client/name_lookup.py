"""Looks up a host's addresses within a deadline, because the system's own lookup does not support one."""

import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from lastacross.http_client.threads import Threads

MAX_LOOKUPS_AT_ONCE = 32
# A resolver that has not answered by then will not answer at all, and its callers have other work.
MAX_LOOKUP_SECONDS = 3.0

LookUp = Callable[[str, int], list[str]]


def system_look_up(host: str, port: int) -> list[str]:
    """A host's numeric addresses from this machine's resolver, best first.

    Raises:
        OSError, UnicodeError: the host has no address.
    """
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class LookUpTimeoutError(TimeoutError):
    """Raised when the resolver does not answer in time."""


class Resolver:
    """Looks up names in a limited number of threads, because a thread in the resolver cannot be interrupted.

    Args:
        look_up: a callable that asks the resolver, however long that takes.
    """

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._threads = Threads("names", MAX_LOOKUPS_AT_ONCE)

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """A host's numeric addresses, best first; there is at least one.

        Args:
            host: a name or an address; an address resolves to itself.
            port: the port to connect to later.
            seconds: how long to wait, at most 3 s.

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
                raise  # an error from the resolver itself
            # Cancel a lookup that has not begun, because no caller is waiting for it any longer.
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
