"""The request that the calling code answers, for services that behave differently in one.

Set by the innermost layer of webapp around the application's code.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    """A request under way.

    Args:
        method: such as ``GET``.
        host: as its Host header has it, lower case, with the port if that is given there.
        path: percent-decoded.
    """

    method: str
    host: str
    path: str


_current: ContextVar[CurrentRequest | None] = ContextVar("lastacross_current_request", default=None)


def current_request() -> CurrentRequest | None:
    """The request that the calling code answers, None outside of one."""
    return _current.get()


@contextlib.contextmanager
def answering(request: CurrentRequest) -> Iterator[None]:
    """Make this the current request within the block."""
    token = _current.set(request)
    try:
        yield
    finally:
        _current.reset(token)
