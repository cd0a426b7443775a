"""Ends a process without dismantling its interpreter.

On exit, an interpreter collects and frees every object one by one. With the heap of a large application that
takes seconds of processor time, three times in a row when a web process, its parent and their supervisor
stop.
"""

import atexit
import gc
import importlib
import io
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from lastacross import runtime

INTERRUPTED = 130
"""The exit code after Ctrl-C."""
THREADS_SECONDS = 30.0
"""How long an exiting process waits for the application's threads."""

# The interpreter flushes an unclosed file when it frees it.
_BUFFERED = frozenset({io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom})


def end_process(code: int) -> NoReturn:
    """End this process like ``sys.exit(code)``, but without freeing its objects; main thread only.

    It ends ASGI applications and waits for threads that are not daemons, up to ``THREADS_SECONDS``. Then it
    runs all ``atexit`` hooks (the application's, logging's, the datastore's) and flushes open files.
    """
    if sys.getprofile() is not None or sys.gettrace() is not None:
        sys.exit(code)  # a profiler or debugger has work to do afterwards
    # A second Ctrl-C ends the wait for a thread or a hook.
    end_at_interrupt()
    _end_in_spite_of_threads(code, THREADS_SECONDS)
    runtime.PROCESS.end()
    threading._shutdown()  # type: ignore[attr-defined]
    signal.setitimer(signal.ITIMER_REAL, 0)
    _finish(code)


def _end_in_spite_of_threads(code: int, seconds: float) -> None:
    """Have a signal end this process after this time, even while the main thread is waiting for others."""

    def end(number: int, frame: FrameType | None) -> None:
        # Imported only now, because commands such as `--version` do not load logging.
        logs = importlib.import_module("lastacross.logs")
        main = threading.main_thread()
        names = [each.name for each in threading.enumerate() if not each.daemon and each is not main]
        logs.get("lastacross.process").warning(
            "process.threads_cut_off", threads=names, after_seconds=seconds
        )
        _finish(code)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _finish(code: int) -> NoReturn:
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        sys.exit(code)  # if output cannot be written, the interpreter reports that with its own exit code
    for file in _open_files():
        try:
            file.flush()
        except (OSError, ValueError):
            continue  # it is closed, or its disk is full; the interpreter would ignore that, too
    os._exit(code)


def end_at_interrupt() -> None:
    """Let Ctrl-C end this process silently from now on, unless it is ignored (``nohup``, ``&``)."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _open_files() -> list[Any]:
    """All buffered files; text files come first, because they write into binary ones."""
    modules = [module for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    # Modules are searched as well, because `gc.freeze` hides the objects that were created before it.
    of_modules = list(itertools.chain.from_iterable(list(vars(module).values()) for module in modules))
    found = {id(file): file for objects in (of_modules, gc.get_objects()) for file in _files_among(objects)}
    return sorted(found.values(), key=lambda file: type(file) is not io.TextIOWrapper)


def _files_among(objects: list[Any]) -> Iterator[Any]:
    # No Python code runs for each object, because there may be millions.
    return itertools.compress(objects, map(_BUFFERED.__contains__, map(type, objects)))
