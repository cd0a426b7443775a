"""Whether a client may start a long task: how often it may, and how often it may be refused."""

import contextlib
from collections.abc import Callable, Iterator

import webapp2

from lastacross import start_limits
from lastacross.errors import StartLimitError, StartRefusedError
from lastacross.longtasks.hooks import Hooks
from lastacross.webapp import BadInputError


def title_of(handler: Hooks) -> str:
    """What people call the task."""
    return handler.title or type(handler).__name__


def admit(handler: Hooks, *, is_counted: bool) -> None:
    """Ask whether the client may start this, and count the start if it is one.

    Raises:
        StartRefusedError: it has started it as often as it may.
    """
    seconds = _seconds_to_wait(handler, start_limits.check, is_counted=is_counted)
    if seconds is not None:
        rate = start_limits.in_words(str(handler.start_limit))
        message = f"One network may start “{title_of(handler)}” {rate}."
        raise StartLimitError(429, message, seconds)


@contextlib.contextmanager
def counting_refusals(handler: Hooks) -> Iterator[None]:
    """Count what the block refuses: not as a start, since there is none, but a client may not go on and on.

    Raises:
        StartRefusedError: as many of the client's requests were refused as may be.
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
        message = f"Too many requests of your network to start “{title_of(handler)}” were refused."
        raise StartLimitError(429, message, seconds)


def _seconds_to_wait(handler: Hooks, ask: Callable[..., float | None], *, is_counted: bool) -> float | None:
    """None if the handler has no limit, or the client is within it."""
    if handler.start_limit is None:
        return None
    environ, is_exempt = handler.request.environ, handler.is_exempt_from_limits()
    return ask(_name(handler), handler.start_limit, environ, is_exempt=is_exempt, is_counted=is_counted)


def _name(handler: Hooks) -> str:
    # By the class: whoever may choose the path must not get a limit of their own with each one.
    return f"{type(handler).__module__}.{type(handler).__qualname__}"
