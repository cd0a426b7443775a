"""A supervisor's child processes: started programs, and processes that the preload process forked."""

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from lastacross import config, store
from lastacross.exit_codes import exit_code_of, print_reason
from lastacross.processes import ending, process_title


class ChildProcess(Protocol):
    """The part of ``subprocess.Popen`` that a supervisor uses."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The return code, negative for a signal; None while the process runs."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process is known to have exited."""

    def terminate(self) -> None:
        """Send SIGTERM."""


class ForkedProcess:
    """A process that another one forked, and that is or will soon be a child of this one.

    Args:
        pid: the process's id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The return code, negative for a signal; None while the process runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                # It is not our child until the process that forked it has exited.
                if not os.path.exists(f"/proc/{self.pid}"):
                    self.returncode = -signal.SIGKILL
                return self.returncode
            if pid == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process is known to have exited."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)


def fork(
    command: Sequence[str],
    run: Callable[[], int],
    environ: Mapping[str, str],
    own_fds: Collection[int],
) -> ForkedProcess:
    """Fork this process instead of starting a program, so that parent and child share memory.

    The child begins like a program: in a session of its own and without signal handlers.

    Args:
        command: the command line that the child shows.
        run: what it runs; returns the exit code.
        environ: its environment.
        own_fds: this process's own open files, which the child closes. Any others may belong to modules that
            both have imported, such as a debugger.

    Raises:
        OSError: the system's process or memory limit has been reached.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # A garbage collection in the child would otherwise write to all objects and thereby copy their memory.
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid:
        return ForkedProcess(pid)
    # Never return to the parent's functions, because their folders and connections are not ours.
    code = 1
    try:
        _begin_anew(command, environ, own_fds)
        code = run()
    except SystemExit as end:  # gunicorn's processes exit like this
        print_reason(end)
        code = exit_code_of(end)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            ending.end_process(code)
        finally:
            os._exit(code)


def can_fork() -> bool:
    """Whether this process has only one thread, so that no other thread can hold a lock during a fork."""
    return len(os.listdir("/proc/self/task")) == 1


def _begin_anew(command: Sequence[str], environ: Mapping[str, str], own_fds: Collection[int]) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        # Like an exec, this keeps ignored signals ignored.
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for fd in (nothing, *own_fds):
        os.close(fd)
    os.environ.clear()
    os.environ.update(environ)
    process_title.show(command)
    config.use(None)
    store.use(None)
