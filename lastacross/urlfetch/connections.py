"""Connects to other servers at checked addresses, and keeps the connections for later fetches."""

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
    """A process's connections.

    Args:
        names: looks up hosts.
        clock: a clock whose monotonic time measures how long a connection has been idle.
    """

    def __init__(self, names: Names, clock: Clock) -> None:
        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        # Idle connections, one list per key, ordered by the time at which they became idle, oldest first.
        self._idle: OrderedDict[int, tuple[Key, HTTPConnection, float]] = OrderedDict()
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def idle(self, key: Key) -> HTTPConnection | None:
        """An idle connection that was used before; None if no connection is idle."""
        while True:
            with self._lock:
                mine = [number for number, entry in self._idle.items() if entry[0] == key]
                if not mine:
                    return None
                _, connection, since = self._idle.pop(mine[-1])
            # If an idle connection is readable, the server has closed it or sent unexpected bytes.
            if self._clock.monotonic() - since < IDLE_SECONDS and connection.is_connected:
                return connection
            connection.close()

    def keep(self, key: Key, connection: HTTPConnection) -> None:
        """Keep a connection for reuse after its response has been read completely."""
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
        """Close all idle connections."""
        with self._lock:
            entries = list(self._idle.values())
            self._idle.clear()
        for _, connection, _ in entries:
            connection.close()

    def leave_to_parent(self) -> None:
        """In a forked child, close its descriptors of the parent's idle connections.

        This sends nothing, because the parent still has descriptors and closing a TLS socket this way sends
        no close notification. If the child kept them open, the server would not notice when the parent closes
        them.
        """
        # Do not take the lock, because a thread that does not exist in this process may hold it.
        for _, connection, _ in self._idle.values():
            connection.close()
        self._idle.clear()

    def connect(self, place: Place, deadline: Deadline, *, validates: bool, is_open: bool) -> HTTPConnection:
        """Open a new connection to an address that has been looked up and checked for this purpose.

        It uses exactly the checked address and does not look up the name again, because its address may have
        changed.

        Args:
            place: the destination.
            deadline: the fetch's deadline.
            validates: whether the server's certificate must be valid.
            is_open: whether the address may be in a private network.

        Raises:
            PrivateAddressError, DNSLookupFailedError, FetchDeadlineExceededError: as their names suggest.
            SSLCertificateError: the certificate is not trusted.
            DownloadError: the server does not accept the connection.
        """
        addresses = self._names.addresses(place, deadline)
        if not is_open:
            addresses = _public(place, addresses)
        problem: Exception | None = None
        for tried, address in enumerate(addresses):
            # An unresponsive address must leave time to try the next one.
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
        f"{place.authority} has the address {addresses[0]}, which is in a private network; {_REMEDY}"
    )


def _in_words(place: Place, deadline: Deadline, error: Exception | None) -> Exception:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SSLCertificateError(
            f"the certificate of {place.authority} was rejected: {error.verify_message}"
        )
    if isinstance(error, CertificateError):
        return SSLCertificateError(f"the certificate of {place.authority} was rejected: {error}")
    # Check this error before timeouts, because urllib3 derives it from a timeout error.
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return DownloadError(f"{place.authority} could not be reached: {_reason(error.__cause__ or error)}")
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return FetchDeadlineExceededError(
            f"{place.authority} did not accept a connection within {deadline.seconds:g} s"
        )
    if isinstance(error, ssl.SSLError):
        return DownloadError(f"the TLS handshake with {place.authority} failed: {error.reason or error}")
    return DownloadError(f"{place.authority} could not be reached: {_reason(error)}")


def _reason(error: BaseException | None) -> str:
    return ((isinstance(error, OSError) and error.strerror) or str(error)).lower()
