"""The rpc of App Engine's ``…_async`` calls, whose deadline limits the wait for Redis."""

import contextlib
from collections.abc import Callable

from lastacross import rpc, store
from lastacross.memcache import encoding
from lastacross.rpc import RPC, T

SERVICE = "memcache"


def create_rpc(deadline: float | None = None, callback: Callable[[], object] | None = None) -> RPC:
    """Create an object for one ``…_async`` call, to be passed as its ``rpc``.

    Args:
        deadline: the limit for the call's wait for Redis, in seconds; a call that takes longer behaves as if
            Redis were unavailable. No call waits for more than 3 s.
        callback: a callable without arguments. It is called once, when the result is first waited for.

    Raises:
        TypeError, ValueError: the deadline is not a positive number.
    """
    if deadline is not None and encoding.whole_seconds(deadline, "deadline") == 0:
        raise ValueError(f"deadline must be more than 0 seconds, not {deadline!r}")
    return RPC(SERVICE, deadline, callback, _within)


def result_of(call: Callable[[], T], given: RPC | None) -> rpc.Result[T]:
    """Make a call, with the rpc that the caller has given. An invalid argument raises its error now.

    Raises:
        TypeError: the rpc belongs to another service.
        ValueError: the rpc has already been used.
    """
    if rpc.checked(given, SERVICE) is None:
        return rpc.Result(call())
    made = rpc.Result.of(call, given)
    made.raise_error()
    return made


def _within(seconds: float) -> contextlib.AbstractContextManager[None]:
    return store.current().within(seconds)
