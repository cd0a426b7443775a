"""A way to end the main thread's sleep from another thread, or from a signal handler."""

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
        """End the sleep; cheap when it is set already."""
        if not self._is_set:
            self._is_set = True
            os.write(self._write_fd, b"!")

    def clear(self) -> None:
        """Be ready for the next one; the caller then looks after whatever it was set for."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        # Only now: one set before is read here, or looked after by the caller; a byte written since is one
        # sleep less.
        self._is_set = False

    def wait(self, seconds: float) -> None:
        """Sleep until it is set, ``seconds`` at most, and clear it."""
        select.select([self.fd], [], [], seconds)
        self.clear()
