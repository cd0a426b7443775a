"""The interface for applications: ``fetch``, and calls that run in the background."""

import contextvars
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any
from urllib.parse import unquote

from lastacross.broker import current_task
from lastacross.clock import SYSTEM
from lastacross.errors import FetchDeadlineExceededError, InvalidFetchUrlError, UrlFetchError
from lastacross.http_client import Threads
from lastacross.urlfetch.deadline import Deadline
from lastacross.urlfetch.fetching import Fetcher
from lastacross.urlfetch.places import PORTS, place_of, shown
from lastacross.urlfetch.requests import (
    GET,
    MAX_RESPONSE_BYTES,
    Payload,
    Request,
    body_of,
    headers_of,
    method_name,
    response_limit,
)
from lastacross.urlfetch.response import Response
from lastacross.webapp import current_request

DEFAULT_DEADLINE_SECONDS = 5.0
MAX_SECONDS_IN_REQUESTS = 60.0
MAX_SECONDS_IN_TASKS = 600.0
CALLS_AT_ONCE = 128
# How long a thread may take to report the timeout itself, because it checks its deadline only from time to
# time.
_GRACE_SECONDS = 1.0

_fetcher = Fetcher()
_threads = Threads("urlfetch", CALLS_AT_ONCE)
_defaults = threading.local()


def set_default_fetch_deadline(value: float | None) -> None:
    """Set the default deadline for this thread's fetches; without it the default is 5 s.

    Args:
        value: the deadline in seconds; None restores 5.

    Raises:
        TypeError, ValueError: the value is not a valid duration.
    """
    _defaults.seconds = None if value is None else _checked(value)


def get_default_fetch_deadline() -> float | None:
    """The value set by ``set_default_fetch_deadline`` in this thread; None if it was not set."""
    found: float | None = getattr(_defaults, "seconds", None)
    return found


class RPC:
    """A fetch that runs in the background. ``create_rpc`` creates it.

    Attributes:
        deadline: the deadline of the whole fetch in seconds, or None for the default.
        callback: a callable that is called once, without arguments, by the thread that first waits for the
            end.
    """

    def __init__(self, deadline: float | None = None, callback: Callable[[], object] | None = None) -> None:
        self.deadline = None if deadline is None else _checked(deadline)
        self.callback = callback
        self._future: Future[Response] | None = None
        self._limit: Deadline | None = None
        self._has_called_back = False

    @property
    def is_finished(self) -> bool:
        """Whether the fetch has ended, with a response or an error."""
        return self._future is not None and self._future.done()

    def wait(self) -> None:
        """Wait until the fetch ends, and call the callback.

        Raises:
            Error: ``make_fetch_call`` was not called.
        """
        future, limit = self._started()
        wait([future], max(0.0, limit.remaining()) + _GRACE_SECONDS)
        if not self._has_called_back:
            self._has_called_back = True
            if self.callback is not None:
                self.callback()

    def check_success(self) -> None:
        """Wait until the fetch ends, and raise its error, if any."""
        self.get_result()

    def get_result(self) -> Response:
        """Wait until the fetch ends, and return the response.

        Raises:
            Error: as for ``fetch``.
        """
        self.wait()
        future, limit = self._started()
        if not future.done():
            # No thread was free, or a system call without a deadline is blocking the thread.
            raise FetchDeadlineExceededError(f"no response within {limit.seconds:g} s")
        return future.result()

    @staticmethod
    def wait_any(rpcs: "Iterable[RPC]") -> "RPC | None":
        """The first of these fetches to finish, after its callback has run; None if there are none."""
        given = list(rpcs)
        if not given:
            return None
        started = [rpc._started() for rpc in given]
        seconds = min(limit.remaining() for _, limit in started)
        wait([future for future, _ in started], max(0.0, seconds) + _GRACE_SECONDS, FIRST_COMPLETED)
        # If no fetch has finished, one has passed its deadline.
        first = min(given, key=lambda rpc: (not rpc.is_finished, rpc._started()[1].remaining()))
        first.wait()
        return first

    @staticmethod
    def wait_all(rpcs: "Iterable[RPC]") -> None:
        """Wait for all fetches to finish, and call their callbacks in the order in which they finish."""
        left = list(rpcs)
        while left:
            ended = RPC.wait_any(left)
            left = [rpc for rpc in left if rpc is not ended]

    def start(self, fetch: Callable[[Deadline], Response]) -> None:
        """Start the fetch; called by ``make_fetch_call``.

        Raises:
            Error: the fetch has already started.
        """
        if self._future is not None:
            raise UrlFetchError("this RPC has already been used; call create_rpc() for another one")
        future: Future[Response] = Future()
        limit = Deadline(SYSTEM, _seconds(self.deadline))
        self._future, self._limit = future, limit
        context = contextvars.copy_context()
        _threads.run(lambda: context.run(_fill, future, lambda: fetch(limit)))

    def _started(self) -> tuple["Future[Response]", Deadline]:
        if self._future is None or self._limit is None:
            raise UrlFetchError("this RPC has no fetch yet; call make_fetch_call(rpc, url) first")
        return self._future, self._limit


def create_rpc(deadline: float | None = None, callback: Callable[[], object] | None = None) -> RPC:
    """Create a fetch that ``make_fetch_call`` can start.

    Args:
        deadline: the deadline of the whole fetch in seconds. None means 5, or the value of
            ``set_default_fetch_deadline``.
        callback: a callable that is called once, without arguments, by the thread that first waits for the
            end.
    """
    return RPC(deadline, callback)


def make_fetch_call(
    rpc: RPC,
    url: str,
    payload: Payload = None,
    method: int | str = GET,
    headers: Mapping[str, Any] | None = None,
    **options: Any,
) -> RPC:
    """Start a fetch; ``rpc.get_result()`` returns the response or raises an error.

    Args:
        rpc: a fetch created by ``create_rpc``.
        url: as for ``fetch``.
        payload: as for ``fetch``.
        method: as for ``fetch``.
        headers: as for ``fetch``.
        **options: ``allow_truncated``, ``follow_redirects``, ``validate_certificate`` and
        ``response_limit_bytes``, as for ``fetch``.

    Returns:
        The rpc.

    Raises:
        InvalidMethodError, TypeError, ValueError: the request is invalid; nothing is sent.
        InvalidURLError: the URL is the current request's own. For any other invalid URL, the rpc's result
            raises this error.
    """
    request = _request(payload, method, headers, **options)
    _refuse_own_url(url, request.method)
    rpc.start(lambda limit: _fetcher.fetch(url, request, limit))
    return rpc


def fetch(
    url: str,
    payload: Payload = None,
    method: int | str = GET,
    headers: Mapping[str, Any] | None = None,
    allow_truncated: bool = False,
    *,
    follow_redirects: bool = True,
    deadline: float | None = None,
    validate_certificate: bool | None = None,
    response_limit_bytes: int = MAX_RESPONSE_BYTES,
) -> Response:
    """Fetch a URL; a response such as 404 is a result like any other.

    Args:
        url: ``http://…`` or ``https://…``.
        payload: the body of a POST, PUT or PATCH; text is sent as UTF-8.
        method: a constant (``POST``) or a name in any case.
        headers: the request's headers; a few are reserved for the engine and dropped.
        allow_truncated: whether to accept the first 32 MB (or ``response_limit_bytes``) of a longer response.
        follow_redirects: whether to follow redirects, up to five.
        deadline: the deadline of the whole fetch in seconds: 5 by default, at most 60 in a request and 600 in
            a task.
        validate_certificate: whether the server's certificate must be valid; False accepts any certificate.
        response_limit_bytes: the maximum number of bytes to read of a response, up to 32 MB.

    Raises:
        InvalidURLError, PayloadTooLargeError, InvalidMethodError: the request is invalid; nothing is sent.
        DownloadError: there was no response; the subclass gives the reason.
        ResponseTooLargeError: the response exceeds the limit; the error contains the part that was read.
        SSLCertificateError: the certificate is not trusted.
        TypeError, ValueError: a payload, headers, a limit or a deadline is invalid.
    """
    request = _request(
        payload,
        method,
        headers,
        allow_truncated=allow_truncated,
        follow_redirects=follow_redirects,
        validate_certificate=validate_certificate,
        response_limit_bytes=response_limit_bytes,
    )
    _refuse_own_url(url, request.method)
    return _fetcher.fetch(url, request, Deadline(SYSTEM, _seconds(deadline)))


def _request(
    payload: Payload,
    method: int | str,
    headers: Mapping[str, Any] | None,
    *,
    allow_truncated: bool = False,
    follow_redirects: bool = True,
    validate_certificate: bool | None = None,
    response_limit_bytes: int = MAX_RESPONSE_BYTES,
) -> Request:
    name = method_name(method)
    body = body_of(name, payload)
    found = {} if headers is None else headers
    kept = headers_of(found, body)
    return Request(
        name,
        kept,
        body,
        decodes=not any(given.lower() == "accept-encoding" for given in found),
        follows=follow_redirects,
        may_be_truncated=allow_truncated,
        validates=validate_certificate is not False,
        most_bytes=response_limit(response_limit_bytes),
    )


def _refuse_own_url(url: str, method: str) -> None:
    """Refuse the current request's URL, because a handler that fetches its own page would never end."""
    request = current_request()
    if request is None or method != "GET":
        return
    try:
        place = place_of(url)
    except InvalidFetchUrlError:
        return  # the fetch itself reports an invalid URL
    host = request.host.removesuffix(f":{PORTS[place.scheme]}")
    if place.authority == host and unquote(place.target.partition("?")[0]) == request.path:
        raise InvalidFetchUrlError(
            f"{shown(url)} is the URL that this request is serving, so the fetch would never end"
        )


def _seconds(deadline: float | None) -> float:
    """A fetch's deadline in seconds; a value above the maximum is reduced to it, as on App Engine."""
    given = _checked(deadline) if deadline is not None else get_default_fetch_deadline()
    is_waited_for = current_request() is not None and current_task() is None
    most = MAX_SECONDS_IN_REQUESTS if is_waited_for else MAX_SECONDS_IN_TASKS
    return min(DEFAULT_DEADLINE_SECONDS if given is None else given, most)


def _checked(seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"a deadline must be a number of seconds, not {seconds!r}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a deadline must be more than 0 s, not {seconds!r}")
    return float(seconds)


def _fill(future: "Future[Response]", fetch: Callable[[], Response]) -> None:
    try:
        future.set_result(fetch())
    except BaseException as error:
        future.set_exception(error)


def _begin_anew() -> None:
    """Reset in a forked child, which has no threads and must not use its parent's connections and locks."""
    global _fetcher, _threads
    of_parent = _fetcher
    _fetcher, _threads = Fetcher(), Threads("urlfetch", CALLS_AT_ONCE)
    of_parent.leave_to_parent()


os.register_at_fork(after_in_child=_begin_anew)
