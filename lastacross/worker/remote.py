"""Delivers leased tasks to services on other machines as signed HTTP requests.

This module neither retries nor follows redirects, because the queue's settings determine the retries.
"""

import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.response import HTTPResponse
from urllib3.util import make_headers

from lastacross import log_context, logs
from lastacross.broker import CurrentTask, Leased
from lastacross.clock import SYSTEM, Clock
from lastacross.http_client import LookUpTimeoutError, Resolver, TimedResponse, name_lookup
from lastacross.signing import Signatures
from lastacross.webapp import FAILURE_HEADER, FINAL_HEADER, HANDLER_HEADER, deliveries
from lastacross.worker.delivery import (
    DEFAULT_DEADLINE_SECONDS,
    KEPT_RESPONSE_BYTES,
    Outcome,
    current_of,
    explained,
    request_headers,
)

CONNECT_SECONDS = 10.0
# This is less than the 5 s after which our web server closes an idle connection, to avoid a race with it.
IDLE_SECONDS = 4.0
# The status alone determines the delivery's outcome, so we do not read the rest of a longer response.
MAX_ANSWER_BYTES = 65_536
# A machine that vanished silently is noticed within about a minute, however long the deadline is.
_LIFE_SIGNS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
_SPELLED = {
    f"HTTP_X_APPENGINE_{name.upper()}": f"X-AppEngine-{name}"
    for name in (
        "QueueName",
        "TaskName",
        "TaskRetryCount",
        "TaskExecutionCount",
        "TaskETA",
        "TaskPreviousResponse",
    )
} | {"HTTP_X_APPENGINE_CRON": "X-Appengine-Cron"}
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"
_UNREACHABLE = (OSError, urllib3.exceptions.HTTPError, UnicodeError)
_TOO_LATE = (TimeoutError, urllib3.exceptions.TimeoutError)

_log = logs.get("lastacross.delivery")


@dataclass(frozen=True, slots=True)
class _Request:
    """A request that is ready to send."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    """A response that has only the beginning of its body."""

    status: int
    headers: Mapping[str, str]
    text: str


class RemoteDelivery:
    """Delivers tasks to services that run on other machines.

    Args:
        signatures: the signatures of this application, whose SECRET_KEY the services share.
        services: a map from each service's name to its base URL.
        deadline_seconds: the deadline of tasks that have none of their own.
        threads: the number of concurrent deliveries, and of connections kept open to each service.
        clock: a clock whose monotonic time measures deadlines and whose time of day is signed.
    """

    def __init__(
        self,
        signatures: Signatures,
        services: Mapping[str, str],
        *,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        threads: int = 8,
        clock: Clock = SYSTEM,
    ) -> None:
        self._signatures = signatures
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        resolver = Resolver()
        self._servers = {name: _Server(url, threads, clock, resolver) for name, url in services.items()}

    def serves(self, group: str) -> bool:
        """Whether this worker delivers the service's tasks."""
        return group in self._servers

    def close(self) -> None:
        """Close all idle connections."""
        for server in self._servers.values():
            server.close()

    def deliver(self, task: Leased) -> Outcome:
        """Make one attempt, which ends no later than its deadline; never raises."""
        group = task.fields.get(b"group", b"default").decode()
        server = self._servers.get(group)
        if server is None:
            reason = f"LASTACROSS_SERVICES of this worker has no URL for the service {group}"
            return Outcome(task, None, reason, was_reached=False)
        try:
            return self._attempt(task, server)
        except Exception as error:
            # Nothing was sent, because the record cannot be turned into a request or our code has a bug.
            _log.exception("task.error", queue=task.queue, task=task.name, service=group)
            return Outcome(task, None, f"{type(error).__name__}: {error}", was_reached=False)

    def _attempt(self, task: Leased, server: "_Server") -> Outcome:
        seconds = task.deadline_seconds or self._deadline_seconds
        ends_at = self._clock.monotonic() + seconds
        try:
            connection = server.connection(seconds)
        except _UNREACHABLE as error:
            reason = f"{server.place} could not be reached: {_connecting_problem(error)}"
            return Outcome(task, None, reason, was_reached=False)
        is_sent = False
        try:
            # Sign only now, so that the time spent waiting for the connection does not count against the
            # token's freshness.
            request = self._request(task, server)
            is_sent = True
            answer = self._exchange(connection, request, ends_at)
        except _TOO_LATE:
            connection.close()
            _log.error("task.deadline", queue=task.queue, task=task.name, seconds=seconds)
            return Outcome(task, None, f"{server.place} did not complete its response within {seconds:g} s")
        except Exception as error:
            connection.close()
            if not is_sent:
                raise
            return Outcome(
                task, None, f"{server.place} was sent the request, and then: {_exchange_problem(error)}"
            )
        server.keep(connection)
        return _outcome(task, answer)

    def _request(self, task: Leased, server: "_Server") -> _Request:
        current = current_of(task)
        method, url = task.method_and_url
        found = {key: value.strip(" \t") for key, value in request_headers(task, current).items()}
        headers = dict(server.headers)
        headers.update((_spelled(key), value) for key, value in found.items())
        # The service's log records then have the same id as this worker's.
        headers.setdefault("X-Request-Id", log_context.attempt_id(current))
        headers[deliveries.DELIVERY_HEADER] = self._token(task, current, found)
        return _Request(method, server.prefix + url, headers, task.body)

    def _token(self, task: Leased, current: CurrentTask, headers: Mapping[str, str]) -> str:
        method, url = task.method_and_url
        path, _, query = url.partition("?")
        claims = deliveries.Claims(
            task=task.id,
            lease=task.lease_id,
            retry_count=current.retry_count,
            execution_count=current.execution_count,
            member=current.member,
            request=current.request,
            method=method,
            url=deliveries.url_digest(unquote_to_bytes(path).decode("latin-1"), query),
            headers=deliveries.headers_digest(headers),
            body=deliveries.body_digest(task.body),
            signed_at=self._clock.now(),
        )
        return deliveries.dump_claims(self._signatures, claims)

    def _exchange(self, connection: HTTPConnection, request: _Request, ends_at: float) -> _Answer:
        def remaining() -> float:
            return ends_at - self._clock.monotonic()

        connection.timeout = max(remaining(), 0.001)
        connection.response_class = functools.partial(TimedResponse, remaining=remaining)  # type: ignore[assignment]
        # A server may answer and disconnect before it has read the whole request; its response still counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Bypass urllib3's pool, which re-encodes the percent signs of its URLs.
            connection.request(
                request.method,
                request.target,
                body=request.body or None,
                headers=request.headers,
                preload_content=False,
                decode_content=False,
            )
        connection.timeout = max(remaining(), 0.001)
        with contextlib.closing(connection.getresponse()) as response:
            kept, is_whole = _read(response)
        if not is_whole:
            connection.close()
        text = kept.decode("utf-8", "replace")
        return _Answer(response.status, response.headers, text)


class _Server:
    """The web server at one base URL, and the idle connections to it."""

    def __init__(self, base_url: str, most_idle: int, clock: Clock, resolver: Resolver) -> None:
        parts = urlsplit(base_url)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        host = f"[{self._host}]" if ":" in self._host else self._host
        # A description that omits the URL's password, if any.
        self.place = f"{host}:{self._port}"
        self.prefix = quote(parts.path.rstrip("/"), safe=_PATH_SAFE)
        is_usual_port = self._port == (443 if self._is_tls else 80)
        self.headers = {"Host": host if is_usual_port else self.place}
        if parts.username is not None:
            password = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            basic = make_headers(basic_auth=password.encode().decode("latin-1"))["authorization"]
            self.headers["Authorization"] = basic
        self._context = ssl.create_default_context() if self._is_tls else None
        self._most_idle = most_idle
        self._clock = clock
        self._resolver = resolver
        self._lock = threading.Lock()
        self._idle: list[tuple[HTTPConnection, float]] = []

    def connection(self, seconds: float) -> HTTPConnection:
        """An idle connection, or a new one opened within this many seconds."""
        return self._taken() or self._connected(min(seconds, CONNECT_SECONDS))

    def keep(self, connection: HTTPConnection) -> None:
        """Keep a connection for reuse after its response has been read."""
        with self._lock:
            if not connection.is_closed and len(self._idle) < self._most_idle:
                self._idle.append((connection, self._clock.monotonic()))
                return
        connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _taken(self) -> HTTPConnection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            # If an idle connection is readable, the server has closed it or sent unexpected bytes.
            if self._clock.monotonic() - since < IDLE_SECONDS and connection.is_connected:
                return connection
            connection.close()

    def _connected(self, seconds: float) -> HTTPConnection:
        ends_at = self._clock.monotonic() + seconds
        addresses = self._resolver.addresses(self._host, self._port, seconds)
        problem: Exception | None = None
        for tried, address in enumerate(addresses):
            # An unresponsive address must leave time to try the next one.
            share = max(ends_at - self._clock.monotonic(), 0.001) / (len(addresses) - tried)
            try:
                return self._connected_to(address, share)
            except _UNREACHABLE as error:
                problem = error
        assert problem is not None
        raise problem

    def _connected_to(self, address: str, seconds: float) -> HTTPConnection:
        options: list[tuple[int, int, int | bytes]] = [
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ]
        options += [
            (socket.IPPROTO_TCP, getattr(socket, name), value)
            for name, value in _LIFE_SIGNS.items()
            if hasattr(socket, name)
        ]
        given: dict[str, Any] = {"timeout": seconds, "socket_options": options}
        connection: HTTPConnection
        if self._is_tls:
            connection = HTTPSConnection(
                address,
                self._port,
                ssl_context=self._context,
                server_hostname=self._host.rstrip("."),
                **given,
            )
        else:
            connection = HTTPConnection(address, self._port, **given)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection


def _read(response: HTTPResponse) -> tuple[bytes, bool]:
    """The beginning of the body, and whether it was read completely."""
    kept, received = b"", 0
    while chunk := response.read1(MAX_ANSWER_BYTES):
        kept += chunk[: KEPT_RESPONSE_BYTES - len(kept)]
        received += len(chunk)
        if received > MAX_ANSWER_BYTES:
            return kept, False
    return kept, True


def _outcome(task: Leased, answer: _Answer) -> Outcome:
    failure = unquote(answer.headers.get(FAILURE_HEADER, ""))
    is_final = answer.headers.get(FINAL_HEADER) == "1"
    is_success = 200 <= answer.status <= 299
    reason = f"answered {answer.status}"
    if not is_success:
        reason += explained(answer.status, answer.headers.get("Location"), answer.text)
    handler = unquote(answer.headers.get(HANDLER_HEADER, ""))
    return Outcome(task, answer.status, failure or reason, is_final, handler=handler)


def _spelled(key: str) -> str:
    """A header's name in the form used in a request."""
    return _SPELLED.get(key) or key.removeprefix("HTTP_").replace("_", "-").title()


def _connecting_problem(error: Exception) -> str:
    if isinstance(error, LookUpTimeoutError):
        return f"the resolver did not respond within {name_lookup.MAX_LOOKUP_SECONDS:g} s"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "its name has no address"
    # Check this before time-outs, because in urllib3 it is a subclass of a time-out.
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return _in_words(error.__cause__ or error)
    if isinstance(error, _TOO_LATE):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return _in_words(error)


def _exchange_problem(error: Exception) -> str:
    # urllib3 wraps the error that interrupted a body; the last argument is the original error.
    cause = error.args[-1] if isinstance(error, urllib3.exceptions.ProtocolError) else error
    return _in_words(cause if isinstance(cause, Exception) else error)


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"{type(error).__name__}: {error}"[:KEPT_RESPONSE_BYTES]
