"""The request that the calling code answers, for services that behave differently in one.

Set by the innermost layer of webapp around the application's code.
"""

from contextvars import ContextVar, Token
from typing import NamedTuple


class CurrentRequest(NamedTuple):
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


class answering:
    """Make this the current request within the block."""

    __slots__ = ("_request", "_token")

    def __init__(self, request: CurrentRequest) -> None:
        self._request = request
        self._token: Token[CurrentRequest | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._request)

    def __exit__(self, *_error: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
