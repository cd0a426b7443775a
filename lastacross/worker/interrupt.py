"""Ends the main thread's sleep from another thread or from a signal handler."""

import contextlib
import os
import select


class Interrupt:
    """A pipe whose ``fd`` stays readable from ``set`` until ``clear``."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._is_set = False

    def set(self) -> None:
        """End the sleep; this is cheap if the interrupt is already set."""
        if not self._is_set:
            self._is_set = True
            os.write(self._write_fd, b"!")

    def clear(self) -> None:
        """Reset the interrupt; the caller must then handle whatever it was set for."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        # Read the pipe only now, because an interrupt set earlier is either consumed here or handled by the
        # caller. A byte written since then only cuts one sleep short.
        self._is_set = False

    def wait(self, seconds: float) -> None:
        """Sleep until the interrupt is set, for at most ``seconds``, and reset it."""
        select.select([self.fd], [], [], seconds)
        self.clear()
