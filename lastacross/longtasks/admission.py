"""Limits how often a client may start a long task, and how often it may be refused."""

import contextlib
from collections.abc import Callable, Iterator

import webapp2

from lastacross import start_limits
from lastacross.errors import StartLimitError, StartRefusedError
from lastacross.longtasks.hooks import Hooks
from lastacross.webapp import BadInputError


def title_of(handler: Hooks) -> str:
    """Return the task's human-readable title."""
    return handler.title or type(handler).__name__


def admit(handler: Hooks, *, is_counted: bool) -> None:
    """Check that the client may start this task, and count the start if ``is_counted``.

    Raises:
        StartRefusedError: the client has reached the start limit.
    """
    seconds = _seconds_to_wait(handler, start_limits.check, is_counted=is_counted)
    if seconds is not None:
        rate = start_limits.in_words(str(handler.start_limit))
        message = f"One network may start “{title_of(handler)}” {rate}."
        raise StartLimitError(429, message, seconds)


@contextlib.contextmanager
def counting_refusals(handler: Hooks) -> Iterator[None]:
    """Count the requests refused in this block. They are not starts, but they are limited, too.

    Raises:
        StartRefusedError: the client has reached the limit of refused requests.
    """
    _check_refusals(handler, is_counted=False)
    try:
        yield
    except StartLimitError:
        raise
    except (StartRefusedError, BadInputError, webapp2.exc.HTTPClientError):
        _check_refusals(handler, is_counted=True)
        raise


def _check_refusals(handler: Hooks, *, is_counted: bool) -> None:
    seconds = _seconds_to_wait(handler, start_limits.check_refusals, is_counted=is_counted)
    if seconds is not None:
        message = f"Too many requests from your network to start “{title_of(handler)}” were refused."
        raise StartLimitError(429, message, seconds)


def _seconds_to_wait(handler: Hooks, ask: Callable[..., float | None], *, is_counted: bool) -> float | None:
    """Return the seconds to wait, or None if the handler has no limit or the client is within it."""
    if handler.start_limit is None:
        return None
    environ, is_exempt = handler.request.environ, handler.is_exempt_from_limits()
    return ask(_name(handler), handler.start_limit, environ, is_exempt=is_exempt, is_counted=is_counted)


def _name(handler: Hooks) -> str:
    # The limit is named after the class, because a client that can choose the path would otherwise get a
    # new limit with each path.
    return f"{type(handler).__module__}.{type(handler).__qualname__}"
