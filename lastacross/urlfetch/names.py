"""The addresses of a host, looked up within a deadline: the system's own look-up knows none."""

import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from lastacross.errors import DNSLookupFailedError
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.places import Place
from lastacross.urlfetch.threads import Threads

LOOKUPS_AT_ONCE = 32

LookUp = Callable[[str, int], list[str]]


def system_look_up(host: str, port: int) -> list[str]:
    """The numeric addresses of a host, best first, as this machine's resolver says.

    Raises:
        OSError, UnicodeError: it has none.
    """
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Names:
    """Looks names up.

    Args:
        look_up: asks the resolver, for as long as that takes.
    """

    def __init__(self, look_up: LookUp = system_look_up) -> None:
        self._look_up = look_up
        self._threads = Threads("urlfetch-names", LOOKUPS_AT_ONCE)

    def addresses(self, place: Place, deadline: Deadline) -> list[str]:
        """The numeric addresses of a place's host, best first; never none.

        Raises:
            DNSLookupFailedError: it has no address.
            FetchDeadlineExceededError: the resolver did not answer in time.
        """
        if _is_address(place.host):
            return [place.host]
        answer: Future[list[str]] = Future()
        self._threads.run(lambda: _fill(answer, self._look_up, place))
        try:
            found = answer.result(deadline.require(place.url))
        except TimeoutError as error:
            raise deadline.error(place.url) from error
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DNSLookupFailedError(f"the host {place.host} has no address: {reason}") from error
        if not found:
            raise DNSLookupFailedError(f"the host {place.host} has no address")
        return found


def _fill(answer: "Future[list[str]]", look_up: LookUp, place: Place) -> None:
    try:
        answer.set_result(look_up(place.host, place.port))
    except Exception as error:
        answer.set_exception(error)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
