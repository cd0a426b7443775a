"""What an application may do when its process is told to stop: App Engine's ``runtime`` module.

Imports nothing of the engine: whoever imports any part of the processes imports this.
"""

import threading
from collections.abc import Callable

Hook = Callable[[], object]
"""Takes nothing; what it returns is not looked at."""


class Shutdown:
    """The shutdown of one process: what to call, and whether it has begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hook: Hook | None = None
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        """Whether this process has been told to stop."""
        return self._has_begun

    def begin(self) -> None:
        """Note that this process has been told to stop; a signal handler may call it: it takes no lock."""
        self._has_begun = True

    def set_hook(self, hook: Hook | None) -> Hook | None:
        """Put this hook in the place of the one before, which is returned.

        Raises:
            TypeError: it is neither callable nor None.
        """
        if hook is not None and not callable(hook):
            raise TypeError(f"hook must be callable, got {type(hook).__name__}")
        with self._lock:
            before, self._hook = self._hook, hook
        return before

    def take_hook(self) -> Hook | None:
        """The hook, for whoever is to call it; who asks later gets None, so that it is called once."""
        return self.set_hook(None)


PROCESS = Shutdown()
"""That of this process."""


def set_shutdown_hook(hook: Hook | None) -> Hook | None:
    """Have a function called when this process is told to stop.

    It is called once, in a thread of its own, while the tasks that run here are still this process's: it
    has as long as they have (25 s, 5 s under ``dev``) to save what they have done and to make them end. What
    it raises is logged. A process that is killed, or whose machine is, calls nothing.

    Args:
        hook: a callable without arguments; None for no hook. Whoever replaces another should call it.

    Returns:
        The hook that was set before, or None.

    Raises:
        TypeError: it is neither callable nor None.
    """
    return PROCESS.set_hook(hook)


def is_shutting_down() -> bool:
    """Whether this process has been told to stop: a handler that runs long may look, and end early."""
    return PROCESS.has_begun
