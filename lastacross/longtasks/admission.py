"""Limits how often a client may start a long task, and how often it may be refused."""

import contextlib
from collections.abc import Callable, Iterator

import webapp2

from lastacross import start_limits
from lastacross.errors import StartLimitError, StartRefusedError
from lastacross.longtasks.hooks import Hooks
from lastacross.webapp import BadInputError


def title_of(handler: Hooks) -> str:
    """The task's title for people."""
    return handler.title or type(handler).__name__


def admit(handler: Hooks, *, is_counted: bool) -> None:
    """Check that the client may start this, and count the start if it is one.

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
    """Count the refusals in the block. They are not starts, but a client may not cause them without end.

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
    """None if the handler has no limit, or the client is within it."""
    if handler.start_limit is None:
        return None
    environ, is_exempt = handler.request.environ, handler.is_exempt_from_limits()
    return ask(_name(handler), handler.start_limit, environ, is_exempt=is_exempt, is_counted=is_counted)


def _name(handler: Hooks) -> str:
    # The class names the limit: otherwise a client who may choose the path would get a new limit with each
    # path.
    return f"{type(handler).__module__}.{type(handler).__qualname__}"
