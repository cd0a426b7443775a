"""The result objects of App Engine's ``…_async`` calls, which here finish before they return.

Redis answers faster than a second thread can start, so concurrency would not save any time.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Limit = Callable[[float], contextlib.AbstractContextManager[None]]
"""Makes a block that takes at most so many seconds, and raises an error if it takes longer."""


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
    def of(cls, call: Callable[[], T], rpc: "RPC | None" = None) -> "Result[T]":
        """Make the call and capture its outcome; with an ``rpc``, in that object and within its deadline.

        Raises:
            TypeError, ValueError: as for ``RPC.make``.
        """
        if rpc is not None:
            rpc.make(call)
            return rpc
        try:
            return cls(call())
        except Exception as error:
            return cls(error=error)

    def wait(self) -> None:
        """Do nothing, because the call has already finished."""

    def check_success(self) -> None:
        """Raise the call's exception, if it raised one."""
        self.wait()
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the call's exception, if it raised one, without waiting."""
        if self._error is not None:
            raise self._error

    def get_result(self) -> T:
        """Return the value or raise the exception of the method without ``_async``."""
        self.check_success()
        return self._value  # type: ignore[return-value]


class RPC(Result[Any]):
    """A call that is yet to be made, as ``create_rpc`` returns it.

    Args:
        service: the module whose calls this object is for, such as ``memcache``.
        deadline: the limit for the call in seconds; None leaves it to the Redis connection.
        callback: a callable without arguments, which is called once by the first ``wait``, ``check_success``
            or ``get_result``, even if the call has failed.
        limit: makes the block in which a call with a deadline runs.
    """

    def __init__(
        self,
        service: str,
        deadline: float | None,
        callback: Callable[[], object] | None,
        limit: Limit,
    ) -> None:
        super().__init__()
        self.service = service
        self.deadline = deadline
        self.callback = callback
        self._limit = limit
        self._is_made = False
        self._has_called_back = False

    def make(self, call: Callable[[], object]) -> None:
        """Make the call within the deadline, and capture its outcome.

        Raises:
            ValueError: this object already holds a call.
        """
        if self._is_made:
            raise ValueError("this rpc has already been used; call create_rpc() for another one")
        self._is_made = True
        limit = contextlib.nullcontext() if self.deadline is None else self._limit(self.deadline)
        try:
            with limit:
                self._value = call()
        except Exception as error:
            self._error = error

    def wait(self) -> None:
        """Call the callback at the first time.

        Raises:
            ValueError: no call has been made with this object.
        """
        if not self._is_made:
            raise ValueError("this rpc has no call yet; pass it to an …_async function first")
        if not self._has_called_back:
            self._has_called_back = True
            if self.callback is not None:
                self.callback()

    @staticmethod
    def wait_any(rpcs: "Iterable[RPC]") -> "RPC | None":
        """Wait for the first of these calls, which is the first one given; None if there are none."""
        for rpc in rpcs:
            rpc.wait()
            return rpc
        return None

    @staticmethod
    def wait_all(rpcs: "Iterable[RPC]") -> None:
        """Wait for all of these calls, and call their callbacks."""
        for rpc in rpcs:
            rpc.wait()


def checked(rpc: RPC | None, service: str) -> RPC | None:
    """Return the rpc that a caller passed to a service.

    Raises:
        TypeError: the object was not created by this service's ``create_rpc``.
    """
    if rpc is not None and not (isinstance(rpc, RPC) and rpc.service == service):
        raise TypeError(f"rpc must come from {service}.create_rpc(), not {rpc!r}")
    return rpc
