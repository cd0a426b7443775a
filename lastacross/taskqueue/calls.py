"""The rpc of App Engine's ``…_async`` calls, whose deadline limits the wait for Redis."""

import contextlib
from collections.abc import Callable

from lastacross import rpc, store
from lastacross.clock import SYSTEM
from lastacross.errors import CallDeadlineExceededError, TransientError
from lastacross.rpc import RPC, T
from lastacross.taskqueue import checks

SERVICE = "taskqueue"


def create_rpc(deadline: float | None = None, callback: Callable[[], object] | None = None) -> RPC:
    """Create an object for one ``…_async`` call, to be passed as its ``rpc``.

    Args:
        deadline: the limit for the call's wait for Redis, in seconds. A call that takes longer raises
            ``CallDeadlineExceededError``, a ``TransientError``. No call waits for more than 3 s.
        callback: a callable without arguments. It is called once, when the result is first waited for.

    Raises:
        InvalidDeadlineError, TypeError: the deadline leaves no time, or is not a number.
    """
    if deadline is not None:
        checks.check_call_deadline(deadline)
    return RPC(SERVICE, deadline, callback, _within)


def result_of(call: Callable[[], T], given: RPC | None) -> rpc.Result[T]:
    """Make a call, with the rpc that the caller has given, and capture its outcome.

    Raises:
        TypeError: the rpc belongs to another service.
        ValueError: the rpc has already been used.
    """
    made = rpc.checked(given, SERVICE)
    if made is None or made.deadline is None:
        return rpc.Result.of(call, made)
    seconds, ends_at = made.deadline, SYSTEM.monotonic() + made.deadline

    def call_in_time() -> T:
        try:
            return call()
        except TransientError as error:
            if SYSTEM.monotonic() < ends_at:
                raise
            text = f"the call did not end within {seconds:g} s: {error}"
            raise CallDeadlineExceededError(text) from error

    return rpc.Result.of(call_in_time, made)


def _within(seconds: float) -> contextlib.AbstractContextManager[None]:
    return store.current().within(seconds)
