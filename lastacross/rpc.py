"""What App Engine's ``…_async`` calls return: the call is over when they do.

Redis answers in less time than a second thread takes to start, so nothing would be won by going on beside it.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Result(Generic[T]):
    """The end of a call: its value, or the error that it raises when it is asked for.

    Args:
        value: what the call returned.
        error: what it raised.
    """

    def __init__(self, value: T | None = None, error: Exception | None = None) -> None:
        self._value = value
        self._error = error

    @classmethod
    def of(cls, call: Callable[[], T]) -> "Result[T]":
        """Make the call and keep its end."""
        try:
            return cls(call())
        except Exception as error:
            return cls(error=error)

    def wait(self) -> None:
        """Wait for the end of the call."""

    def check_success(self) -> None:
        """Raise what the call raised, if it did."""
        if self._error is not None:
            raise self._error

    def get_result(self) -> T:
        """What the method of the same name without ``_async`` returns or raises."""
        self.check_success()
        return self._value  # type: ignore[return-value]
