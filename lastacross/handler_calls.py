"""Wraps each call to the application's code, and keeps the engine out of the processes that this code forks.

If a child forked by a handler returned into the engine, it would be a second runner: it would answer the
request, report the task's outcome and run the next task. Therefore, the child exits where it leaves the
application's code, with the exit code that it asked for. ``subprocess`` and ``multiprocessing`` are not
affected, because their children never return.
"""

import contextlib
import contextvars
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from lastacross import logs
from lastacross.exit_codes import exit_code_of

P = ParamSpec("P")
T = TypeVar("T")

# How long a child may take to log that it is exiting.
REPORT_SECONDS = 1.0

# The packages whose signal handlers have no meaning in a child.
_SERVERS = ("lastacross", "gunicorn", "rq")

_ONLY_IN_MAIN_THREAD = " only works in main thread"
_REMEDY = (
    "handlers run in other threads, and the engine itself handles the signals of its processes; "
    "use runtime.set_shutdown_hook(), or runtime.is_shutting_down(), to learn that the process is to stop"
)

_has_entered = False
# The number of forks between the program's start and this process; comparing it is cheaper than ``getpid``.
_forks = 0
# This is per thread, because two threads may fork at the same time.
_forking = threading.local()

_log = logs.get("lastacross.handler")


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the application's function; a child process that it forks exits instead of returning."""
    # This does the same as enter() and leave(), without the cost of calling them for each task.
    global _has_entered
    _has_entered = True
    forks = _forks
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        leave(forks, error)
        raise
    if _forks != forks:
        leave(forks)
    return result


def enter() -> int:
    """Record that the application's code is about to run; returns a value for ``leave``."""
    global _has_entered
    _has_entered = True
    return _forks


def leave(forks: int, error: BaseException | None = None, *, has_failed: bool = False) -> None:
    """End this process if it is a child that was forked since ``enter``.

    Args:
        forks: the value that ``enter`` returned.
        error: the exception with which the code ended, if any.
        has_failed: whether the code failed but has turned its exception into a response.
    """
    if error is not None and isinstance(error, ValueError | RuntimeError):
        _explain(error)
    if _forks != forks:
        _end(error, exit_code_of(error) if error is not None else int(has_failed))


def _end(error: BaseException | None, code: int) -> NoReturn:
    try:
        # Use another thread, because one of the parent's threads may have held a stream's lock during the
        # fork.
        run = contextvars.copy_context().run
        report = threading.Thread(target=run, args=(_report, error, code), daemon=True)
        report.start()
        report.join(REPORT_SECONDS)
    finally:
        os._exit(code)


def _report(error: BaseException | None, code: int) -> None:
    seen: dict[str, object] = {"parent": os.getppid(), "pid": os.getpid(), "code": code}
    if isinstance(error, SystemExit):
        if not isinstance(error.code, int | None):
            seen["error"] = str(error.code)
    elif error is not None:
        seen["exc_info"] = error
    _log.warning("handler.child_end", **seen)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _explain(error: ValueError | RuntimeError) -> None:
    """Add the reason and the remedy to the error of code that tried to handle a signal."""
    text = error.args[0] if error.args else None
    # RuntimeError is asyncio's, for the loop's add_signal_handler.
    if isinstance(text, str) and _ONLY_IN_MAIN_THREAD in text and not text.endswith(_REMEDY):
        error.args = (f"{text}: {_REMEDY}", *error.args[1:])


# --- signals ------------------------------------------------------------------------------


def _hold_signals() -> None:
    """Before a fork, hold back signals until the child has restored their default effect."""
    # The engine itself forks before any handler has been called; it prepares its own children.
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()) if _has_entered else None


def _release_signals() -> None:
    mask = getattr(_forking, "mask", None)
    if mask is not None:
        _forking.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _begin_child() -> None:
    """Count the fork, and restore the default effect of the signals that the engine handles.

    Otherwise the child could not be terminated, and signals to it would reach its parent, too.
    """
    global _forks
    _forks += 1
    if _has_entered:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            module = getattr(signal.getsignal(number), "__module__", None) or ""
            if module.partition(".")[0] in _SERVERS:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
    _release_signals()


os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_begin_child)
