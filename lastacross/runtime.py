"""Lets an application react when its process is told to stop: App Engine's ``runtime`` module.

It imports nothing of the engine, because every part of the processes imports it.
"""

import threading
from collections.abc import Callable

Hook = Callable[[], object]
"""Takes no arguments; its result is ignored."""


class Shutdown:
    """A process's shutdown: its hook, and whether it has begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hook: Hook | None = None
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        """Whether this process has been told to stop."""
        return self._has_begun

    def begin(self) -> None:
        """Note that this process was told to stop; safe in a signal handler, because it takes no lock."""
        self._has_begun = True

    def set_hook(self, hook: Hook | None) -> Hook | None:
        """Set this hook and return the previous one.

        Raises:
            TypeError: it is neither callable nor None.
        """
        if hook is not None and not callable(hook):
            raise TypeError(f"hook must be callable, got {type(hook).__name__}")
        with self._lock:
            before, self._hook = self._hook, hook
        return before

    def take_hook(self) -> Hook | None:
        """The hook, to be called by the caller; later calls return None, so that it is called once."""
        return self.set_hook(None)


PROCESS = Shutdown()
"""This process's shutdown."""


def set_shutdown_hook(hook: Hook | None) -> Hook | None:
    """Register a function to call when this process is told to stop.

    It is called once, in a separate thread, while this process still holds its tasks. Like them, it has 25 s
    (5 s under ``dev``) to save their progress and to make them end. Its exceptions are logged. A process that
    is killed, or whose machine is, does not call it.

    Args:
        hook: a callable without arguments; None for no hook. Code that replaces a hook should call the old
            one.

    Returns:
        The hook that was set before, or None.

    Raises:
        TypeError: it is neither callable nor None.
    """
    return PROCESS.set_hook(hook)


def is_shutting_down() -> bool:
    """Whether this process was told to stop; a long-running handler may check it and end early."""
    return PROCESS.has_begun
