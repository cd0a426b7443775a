"""The result objects of App Engine's ``…_async`` calls, which here finish before they return.

Redis answers faster than a second thread can start, so concurrency would not save any time.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Result(Generic[T]):
    """The outcome of a call: its return value, or an error to raise when the result is read.

    Args:
        value: the call's return value.
        error: the exception that the call raised.
    """

    def __init__(self, value: T | None = None, error: Exception | None = None) -> None:
        self._value = value
        self._error = error

    @classmethod
    def of(cls, call: Callable[[], T]) -> "Result[T]":
        """Make the call and capture its outcome."""
        try:
            return cls(call())
        except Exception as error:
            return cls(error=error)

    def wait(self) -> None:
        """Do nothing, because the call has already finished."""

    def check_success(self) -> None:
        """Raise the call's exception, if it raised one."""
        if self._error is not None:
            raise self._error

    def get_result(self) -> T:
        """Return the value or raise the exception of the method without ``_async``."""
        self.check_success()
        return self._value  # type: ignore[return-value]
