"""Runs the coroutines that deferred calls and long tasks return, in one event loop per thread.

The loop stays open until its thread or process ends, so that a library may keep its connections there. The
tasks that a call leaves behind are cancelled when the call ends. The call's deadline cancels the coroutine.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import inspect
import os
import sys
import threading
from collections.abc import Awaitable
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from lastacross import cancellation, handler_calls, logs
from lastacross.errors import DeadlineExceededError, PermanentTaskFailure

# How long the tasks that a call leaves behind may take to end after being cancelled.
CLEAN_UP_SECONDS = 5.0
# Above this number of open loops, a loop is closed after its call, because each loop keeps three files open
# and a web process has more than a thousand threads.
MAX_KEPT_LOOPS = 64

_log = logs.get("lastacross.deferred")


def result_of(result: Any, name: str) -> Any:
    """Return a call's result; if it can be awaited, run it to completion first.

    Args:
        result: the value that the call returned.
        name: the function's name, for error messages.

    Raises:
        PermanentTaskFailure: the result stands for code that has not run and cannot be awaited.
        DeadlineExceededError: the deadline cancelled the coroutine.
        Exception: any exception that the coroutine raises.
    """
    if inspect.isawaitable(result):
        _require_awaitable(result, name)
        result = _run(result)
    if isinstance(result, AsyncGeneratorType):
        raise PermanentTaskFailure(
            f"{name} returned an async generator, which cannot be awaited, so its code has not run; "
            "defer a coroutine function that iterates over it"
        )
    return result


def _require_awaitable(result: Awaitable[Any], name: str) -> None:
    if isinstance(result, CoroutineType):
        if inspect.getcoroutinestate(result) != inspect.CORO_CREATED:
            raise PermanentTaskFailure(
                f"{name} returned a coroutine that has already been awaited; return a new one"
            )
    elif asyncio.isfuture(result) and not result.done():
        raise PermanentTaskFailure(
            f"{name} returned a future of another event loop, which cannot be awaited here; "
            "return a coroutine that creates it"
        )


# --- event loops --------------------------------------------------------------------------


class _ThreadLoop:
    """A thread's event loop, which is closed when the thread ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Whether the last call has left nothing behind.
        self.is_clean = True
        self._process = os.getpid()
        _open.add(self.loop)

    def close(self) -> None:
        """Close the loop, unless it is the parent's: a forked child shares the parent's selector."""
        if self._process == os.getpid():
            _open.discard(self.loop)
            # The loop is still running if the deadline's exception has hit the loop itself.
            with contextlib.suppress(RuntimeError):
                self.loop.close()

    def __del__(self) -> None:
        # At the end of the process, `_close_idle` has closed the loop, and this module is being taken apart.
        if not sys.is_finalizing():
            self.close()


# These references also keep a forked child from deleting, and thereby closing, its parent's loops.
_open: set[asyncio.AbstractEventLoop] = set()
_thread = threading.local()


def _own_loop() -> _ThreadLoop:
    held: _ThreadLoop | None = getattr(_thread, "held", None)
    if held is None or not held.is_clean:
        _drop_own_loop()
        held = _thread.held = _ThreadLoop(asyncio.new_event_loop())
    return held


def _drop_own_loop() -> None:
    held: _ThreadLoop | None = getattr(_thread, "held", None)
    if held is not None:
        held.close()
        _thread.held = None


def _close_idle() -> None:
    """Close the loops of threads that did not end before their process."""
    for loop in list(_open):
        if not loop.is_running():
            loop.close()


def _begin_child() -> None:
    """In a forked child, abandon the parent's loop immediately and never use it again."""
    global _thread
    call = cancellation.running_in(threading.get_ident())
    if call is not None:
        call.loop.stop()
    _thread = threading.local()


atexit.register(_close_idle)
os.register_at_fork(after_in_child=_begin_child)

# --- one call -----------------------------------------------------------------------------


def _run(awaitable: Awaitable[Any], *waiting: int) -> Any:
    """Run an awaitable in this thread's event loop, and cancel the tasks that it leaves behind.

    Args:
        awaitable: what to await.
        waiting: the thread that is waiting for this one, whose deadline applies.
    """
    if _is_in_running_loop():
        # For example, a test that is itself a coroutine is running its tasks.
        run, own = contextvars.copy_context().run, threading.get_ident()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(run, _run, awaitable, own).result()
    forks = handler_calls.enter()
    held = _own_loop()
    held.is_clean = False
    main = held.loop.create_task(_awaited(awaitable, forks))
    call = cancellation.Call(held.loop, main.cancel)
    try:
        cancellation.begin(call, *waiting)
        try:
            return held.loop.run_until_complete(main)
        except BaseException as error:
            # A forked child gets here if it has not returned from `main`.
            handler_calls.leave(forks, error)
            raise
        finally:
            held.is_clean = _clean_up(held.loop)
    except asyncio.CancelledError as error:
        if call.is_cancelled:
            raise DeadlineExceededError from error
        raise RuntimeError("the coroutine was cancelled, and not by its deadline") from error
    finally:
        cancellation.end(*waiting)
        if len(_open) > MAX_KEPT_LOOPS:
            _drop_own_loop()


def _is_in_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _awaited(awaitable: Awaitable[Any], forks: int) -> Any:
    try:
        result = await awaitable
        while inspect.isawaitable(result):
            # Otherwise, code whose `await` was forgotten would count as done.
            result = await result
    except BaseException as error:
        handler_calls.leave(forks, error)
        raise
    handler_calls.leave(forks)
    return result


def _clean_up(loop: asyncio.AbstractEventLoop) -> bool:
    """Cancel the tasks that are left in the loop; returns whether they all ended."""
    left = loop.run_until_complete(_cancel_rest())
    if left:
        _log.warning("deferred.tasks_left", tasks=left)
    return not left


async def _cancel_rest() -> list[str]:
    """Cancel all other tasks, and return the names of those that do not end."""
    # Give dropped async generators a turn to schedule the tasks that close them.
    await asyncio.sleep(0)
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    left = (await asyncio.wait(rest, timeout=CLEAN_UP_SECONDS))[1] if rest else ()
    return sorted(task.get_name() for task in left)
