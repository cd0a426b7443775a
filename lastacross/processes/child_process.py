"""A supervisor's child processes: started programs, and processes that the preload process forked."""

import contextlib
import os
import signal
from typing import Protocol


class ChildProcess(Protocol):
    """The part of ``subprocess.Popen`` that a supervisor uses."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The return code, negative for a signal; None while the process runs."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has been found to have ended."""

    def terminate(self) -> None:
        """Send SIGTERM."""


class ForkedProcess:
    """A process that another one forked and that became, or is about to become, a child of this one.

    Args:
        pid: the process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The return code, negative for a signal; None while the process runs."""
        if self.returncode is None:
            # Until the process that forked it has ended, it is not our child yet.
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid == self.pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has been found to have ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)
