"""Connections to other servers: made to an address that was checked, and kept for the next fetch."""

import ssl
import threading
from collections import OrderedDict
from typing import Any

import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_match_hostname import CertificateError

from lastacross import logs
from lastacross.clock import Clock
from lastacross.errors import (
    DownloadError,
    FetchDeadlineExceededError,
    PrivateAddressError,
    SSLCertificateError,
)
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.names import Names
from lastacross.urlfetch.places import Place
from lastacross.urlfetch.private_networks import is_private

MAX_IDLE = 100
IDLE_SECONDS = 15.0

Key = tuple[str, str, int, bool, bool]

_log = logs.get("lastacross.urlfetch")
_REMEDY = "if the application may fetch from it, list it in LASTACROSS_FETCH_PRIVATE_HOSTS"


class Connections:
    """The connections of a process.

    Args:
        names: looks hosts up.
        clock: its monotonic time says how long a connection has been idle.
    """

    def __init__(self, names: Names, clock: Clock) -> None:
        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        # By when they became idle, the oldest first: all of one key behind each other in a list.
        self._idle: OrderedDict[int, tuple[Key, HTTPConnection, float]] = OrderedDict()
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def idle(self, key: Key) -> HTTPConnection | None:
        """A connection that was used before and is idle now, None when there is none."""
        while True:
            with self._lock:
                mine = [number for number, entry in self._idle.items() if entry[0] == key]
                if not mine:
                    return None
                _, connection, since = self._idle.pop(mine[-1])
            # The server's goodbye, or bytes that nobody asked for, can be read from it.
            if self._clock.monotonic() - since < IDLE_SECONDS and connection.is_connected:
                return connection
            connection.close()

    def keep(self, key: Key, connection: HTTPConnection) -> None:
        """Take back a connection whose answer was read to its end."""
        dropped = [connection]
        with self._lock:
            if not connection.is_closed:
                self._idle[id(connection)] = (key, connection, self._clock.monotonic())
                dropped = []
            if len(self._idle) > MAX_IDLE:
                dropped.append(self._idle.popitem(last=False)[1][1])
        for each in dropped:
            each.close()

    def close(self) -> None:
        """Close those that are idle."""
        with self._lock:
            entries = list(self._idle.values())
            self._idle.clear()
        for _, connection, _ in entries:
            connection.close()

    def leave_to_parent(self) -> None:
        """In a fork's child: close its descriptors of its parent's idle connections.

        Nothing goes over the wire: the parent has descriptors too, and closing a TLS socket says no goodbye.
        Kept open here, the server would not hear of it when the parent closes them.
        """
        # Without the lock, which a thread that is not here may hold.
        for _, connection, _ in self._idle.values():
            connection.close()
        self._idle.clear()

    def connect(self, place: Place, deadline: Deadline, *, validates: bool, is_open: bool) -> HTTPConnection:
        """A new connection, to an address that was looked up, and checked, for it.

        The very address that was checked: a name whose address has changed since is not asked again.

        Args:
            place: where to.
            deadline: of the fetch.
            validates: whether the server's certificate must be right.
            is_open: whether it may be in a private network.

        Raises:
            PrivateAddressError, DNSLookupFailedError, FetchDeadlineExceededError: as they say.
            SSLCertificateError: the certificate is refused.
            DownloadError: nobody takes the connection.
        """
        addresses = self._names.addresses(place, deadline)
        if not is_open:
            addresses = _public(place, addresses)
        problem: Exception | None = None
        for tried, address in enumerate(addresses):
            # An address that does not answer must leave time for the next.
            seconds = deadline.require(place.url) / (len(addresses) - tried)
            try:
                return self._connected(place, address, seconds, validates)
            except (OSError, urllib3.exceptions.HTTPError, CertificateError) as error:
                problem = error
        raise _in_words(place, deadline, problem) from problem

    def _connected(self, place: Place, address: str, seconds: float, validates: bool) -> HTTPConnection:
        given: dict[str, Any] = {"timeout": seconds}
        connection: HTTPConnection
        if place.scheme == "https":
            context = self._context(validates)
            name = place.host.rstrip(".")
            connection = HTTPSConnection(
                address,
                place.port,
                ssl_context=context,
                server_hostname=name,
                assert_hostname=None if validates else False,
                **given,
            )
        else:
            connection = HTTPConnection(address, place.port, **given)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def _context(self, validates: bool) -> ssl.SSLContext:
        with self._lock:
            found = self._contexts.get(validates)
            if found is None:
                found = self._contexts[validates] = ssl.create_default_context()
                if not validates:
                    found.check_hostname = False
                    found.verify_mode = ssl.CERT_NONE
            return found


def _public(place: Place, addresses: list[str]) -> list[str]:
    found = [address for address in addresses if not is_private(address)]
    if found:
        return found
    _log.warning("urlfetch.refuse", host=place.host, port=place.port, addresses=addresses)
    raise PrivateAddressError(
        f"{place.authority} is {addresses[0]}, which is in a private network; {_REMEDY}"
    )


def _in_words(place: Place, deadline: Deadline, error: Exception | None) -> Exception:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SSLCertificateError(f"the certificate of {place.authority} is refused: {error.verify_message}")
    if isinstance(error, CertificateError):
        return SSLCertificateError(f"the certificate of {place.authority} is refused: {error}")
    # Before time-outs, of which urllib3 takes it to be one.
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return DownloadError(f"{place.authority} was not reached: {_reason(error.__cause__ or error)}")
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return FetchDeadlineExceededError(
            f"{place.authority} took no connection within {deadline.seconds:g} s"
        )
    if isinstance(error, ssl.SSLError):
        return DownloadError(f"{place.authority} does not speak TLS as we do: {error.reason or error}")
    return DownloadError(f"{place.authority} was not reached: {_reason(error)}")


def _reason(error: BaseException | None) -> str:
    return ((isinstance(error, OSError) and error.strerror) or str(error)).lower()
