"""Ends the main thread's sleep from another thread or from a signal handler."""

import contextlib
import os
import select


class Interrupt:
    """A pipe; ``fd`` is readable from ``set`` to ``clear``."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._is_set = False

    def set(self) -> None:
        """End the sleep; cheap when already set."""
        if not self._is_set:
            self._is_set = True
            os.write(self._write_fd, b"!")

    def clear(self) -> None:
        """Reset; the caller must then handle whatever the interrupt was set for."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        # Read only now: an interrupt set before is consumed here or handled by the caller. A byte written
        # since then only costs one sleep.
        self._is_set = False

    def wait(self, seconds: float) -> None:
        """Sleep until it is set, at most ``seconds``, and reset it."""
        select.select([self.fd], [], [], seconds)
        self.clear()
