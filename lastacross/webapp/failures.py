"""Decides what the client sees and what the log records when a handler raises or aborts."""

import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lastacross import logs
from lastacross.errors import DatastoreUnavailableError, QueueDrainingError, StoreUnavailableError
from lastacross.webapp import webob_compat
from lastacross.webapp.environ import (
    FAILURE,
    FRAMEWORK_ERRORS,
    REFUSAL,
    Body,
    Environ,
    Headers,
    Layer,
    Refusal,
    Refuse,
    Start,
    Wsgi,
    close,
    is_internal,
    path_of,
)
from lastacross.webapp.form_error import UNREADABLE, FormError

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

_log = logs.get(__name__)

RETRY_AFTER_SECONDS = 5
UNAVAILABLE: tuple[tuple[type[Exception], str], ...] = (
    (QueueDrainingError, "New work is not accepted at the moment."),
    (StoreUnavailableError, "The task store (Redis) is not responding."),
    (DatastoreUnavailableError, "The datastore is not responding."),
)


def layer(refuse: Refuse) -> Layer:
    """Turn an exception into a 500 (503 if Redis or the datastore is unavailable) and log it once."""

    def guarded_by(application: Wsgi) -> Wsgi:
        def guarded(environ: Environ, start_response: Start) -> Body:
            return _Guard(refuse, environ, start_response).run(application)

        return guarded

    return guarded_by


class _Guard:
    """Handles one request: replaces a response that represents a failure with a proper error response."""

    def __init__(self, refuse: Refuse, environ: Environ, start_response: Start) -> None:
        self._refuse = refuse
        self._environ = environ
        self._start_response = start_response
        self._is_started = False
        self._is_calling = True
        self._noted: list[Exception] = []

    def run(self, application: Wsgi) -> Body:
        self._environ[FRAMEWORK_ERRORS] = self._noted
        try:
            body = application(self._environ, self._start)
        except Exception as error:
            return self._fail(error)
        self._is_calling = False
        failure, refusal = self._environ.get(FAILURE), self._environ.get(REFUSAL)
        if not self._is_started and (failure is not None or refusal is not None):
            close(body)
            # A framework has logged the exceptions that it turned into pages.
            is_logged = failure is not None and any(each is failure for each in self._noted)
            return self._answer(refusal) if failure is None else self._fail(failure, is_logged=is_logged)
        # A list is already complete, but any other body may still raise while it is being sent.
        return body if isinstance(body, list) else _GuardedBody(body, self._fail)

    def _start(
        self, status: str, headers: Headers, exc_info: "OptExcInfo | None" = None, /
    ) -> Callable[[bytes], object]:
        if self._noted and self._is_calling and status.startswith("5") and is_internal(self._environ):
            # Nobody reads a framework's page in the answer to a task.
            self._environ[FAILURE] = self._noted[-1]
        if FAILURE in self._environ or REFUSAL in self._environ:
            return lambda _data: None
        self._is_started = True
        return self._start_response(status, headers, exc_info)

    def _fail(self, error: Exception, *, is_logged: bool = False) -> Body:
        self._environ[FAILURE] = error
        return self._answer(_refusal_for(error, self._environ, is_logged=is_logged))

    def _answer(self, refusal: Refusal | None) -> Body:
        def restart(
            status: str, headers: Headers, _exc_info: "OptExcInfo | None" = None, /
        ) -> Callable[[bytes], object]:
            # Given exc_info, a server replaces a response that has not been sent; otherwise it raises and
            # closes the connection.
            return self._start_response(status, headers, sys.exc_info() if self._is_started else None)

        return self._refuse(self._environ, restart, refusal or Refusal(500))


class _GuardedBody:
    """A lazily produced body; an exception in it becomes the response if nothing has been sent yet."""

    def __init__(self, body: Body, fail: Callable[[Exception], Body]) -> None:
        self._body = body
        self._fail = fail

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except Exception as error:
            yield from self._fail(error)

    def close(self) -> None:
        close(self._body)


def _refusal_for(error: Exception, environ: Environ, *, is_logged: bool) -> Refusal:
    """Log an exception unless that has been done, and return the response to it."""
    for kind, message in UNAVAILABLE:
        if isinstance(error, kind):
            _log.warning("request.unavailable", path=path_of(environ), error=str(error))
            headers = [("Retry-After", str(RETRY_AFTER_SECONDS))]
            return Refusal(503, f"{message} Please try again in a few seconds.", headers)
    if isinstance(error, FormError):
        _log.info("request.unreadable", path=path_of(environ), error=str(error))
        return Refusal(error.status, str(error))
    if _is_raised_by_form(error):
        _log.info("request.unreadable", path=path_of(environ), error=f"{type(error).__name__}: {error}")
        return Refusal(400, UNREADABLE)
    if not is_logged:
        _log.error("request.fail", path=path_of(environ), error=type(error).__name__, exc_info=error)
    # Keep the task's response in the delivery, for anyone who investigates the failure.
    return Refusal(500, f"{type(error).__name__}: {error}" if is_internal(environ) else "")


def _is_raised_by_form(error: Exception) -> bool:
    """Whether the error came from reading the form; WebOb has no error type for bad client data.

    WebOb raises ValueError, LookupError or even DeprecationWarning, so we look at where the error was raised.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is webob_compat.READ_FORM for frame, _ in frames)
