"""A fork server: a single-threaded process that has loaded the application and forks a child on request.

A worker process forks it before starting any threads. A process with threads cannot be forked safely, because
a lock that another thread holds at that moment stays locked in the child forever. Linux only.
"""

import contextlib
import gc
import io
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from lastacross import logs
from lastacross.clock import SYSTEM
from lastacross.exit_codes import exit_code_of, print_reason
from lastacross.processes import process_title
from lastacross.processes.die_with_parent import signal_at_parents_death, supervisor_fd

RunChild = Callable[[socket.socket], None]

_MAX_REQUEST_BYTES = 64
# How long a worker may take to exit after its supervisor's death; more than it needs to drain.
KILL_SECONDS = 35.0
_FORK = b"fork"
# The names of the two kinds of processes in titles and in the log.
_SERVER, _CHILD = "fork-server", "single-task"

_log = logs.get("lastacross.fork")


class ForkedChild:
    """A child of the fork server.

    Args:
        control: the connection to the fork server.
        channel: the connection to the child.
        status: the file descriptor that yields the child's pid and, once it has exited, its exit code.

    Raises:
        OSError: the child could not be forked.
    """

    def __init__(self, control: socket.socket, channel: socket.socket, status: int) -> None:
        self.channel = channel
        self._control = control
        self._status = io.FileIO(status)
        text = _line(self._status)
        if not text.isdigit():
            self._status.close()
            channel.close()
            raise OSError(text or "the fork server has ended")
        self.pid = int(text)

    def send_signal(self, number: int) -> None:
        """Have the fork server send a signal unless the child has exited, which only the server can tell."""
        with contextlib.suppress(OSError):
            self._control.send(f"signal {self.pid} {number}".encode())

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until the child has exited; returns its exit code (negative for a signal), or None if unknown.

        Raises:
            TimeoutError: the child did not exit within this time.
        """
        if not select.select([self._status.fileno()], [], [], seconds)[0]:
            raise TimeoutError
        text = _line(self._status)
        self._status.close()
        return int(text) if text else None


class ForkServer:
    """A connection to a fork server."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self._pid = pid

    @classmethod
    def start(cls, run_child: RunChild) -> "ForkServer":
        """Fork the server; call this in the main thread, before there are any others.

        The server and its children die with this process.

        Args:
            run_child: a function that each child runs with its connection to this process.

        Raises:
            OSError: the system's process or memory limit has been reached.
        """
        # The garbage collector writes to every object that it visits, and would thereby copy the shared
        # memory.
        gc.collect()
        gc.freeze()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid:
            theirs.close()
            return cls(ours, pid)
        ours.close()
        _run_and_exit(_SERVER, lambda: _Server(theirs, run_child).serve(parent))
        raise AssertionError("unreachable")

    def fork(self) -> ForkedChild:
        """Fork a child.

        Raises:
            OSError: the child could not be forked, or the fork server has exited.
        """
        ours, theirs = socket.socketpair()
        status_read, status_write = os.pipe()
        try:
            socket.send_fds(self._control, [_FORK], [theirs.fileno(), status_write])
        except OSError:
            ours.close()
            os.close(status_read)
            raise
        finally:
            theirs.close()
            os.close(status_write)
        return ForkedChild(self._control, ours, status_read)

    def close(self) -> None:
        """End the server and its children."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


class _Server:
    """The server's side."""

    def __init__(self, control: socket.socket, run_child: RunChild) -> None:
        self._control = control
        self._run_child = run_child
        # Maps each child's pid to the file descriptor that receives its exit code.
        self._children: dict[int, int] = {}
        self._woken, self._wakeup = os.pipe()
        self._supervisor_fd = supervisor_fd()
        self._kill_at: float | None = None

    def serve(self, parent: int) -> None:
        """Fork children until the connection is closed."""
        signal_at_parents_death(signal.SIGKILL)
        if os.getppid() != parent:
            return
        process_title.show(["lastacross", _SERVER])
        for fd in (self._woken, self._wakeup):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # A signal to the process group is meant for the worker, which closes the connection once it has
        # finished.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        while True:
            watched = [self._control.fileno(), self._woken]
            if self._supervisor_fd is not None and self._kill_at is None:
                watched.append(self._supervisor_fd)
            readable, _, _ = select.select(watched, [], [], self._timeout_seconds(parent))
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
            if self._supervisor_fd in readable:
                self._kill_at = SYSTEM.monotonic() + KILL_SECONDS
            if self._control.fileno() in readable and not self._take_request():
                return

    def _timeout_seconds(self, parent: int) -> float | None:
        """How long to wait; also kills the worker once its time is up.

        A worker ends itself when its supervisor dies, unless a task refuses to release the interpreter.
        """
        if self._kill_at is None:
            return None
        seconds = self._kill_at - SYSTEM.monotonic()
        if seconds <= 0 and os.getppid() == parent:
            os.kill(parent, signal.SIGKILL)
        return max(0.0, seconds)

    def _take_request(self) -> bool:
        request, fds, _, _ = socket.recv_fds(self._control, _MAX_REQUEST_BYTES, 2)
        if request == _FORK:
            self._fork(*fds)
        elif request:
            _, pid, number = request.split()
            if int(pid) in self._children:
                os.kill(int(pid), int(number))
        return bool(request)

    def _fork(self, channel: int, status: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _tell(status, str(error))
            os.close(status)
        else:
            if not pid:
                _run_and_exit(_CHILD, lambda: self._become_child(channel, status, server))
            self._children[pid] = status
            _tell(status, str(pid))
        os.close(channel)

    def _become_child(self, channel: int, status: int, server: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for fd in (self._woken, self._wakeup, status, *self._children.values()):
            os.close(fd)
        self._control.close()
        # Processes that the child starts belong to its group and are killed once it has exited.
        os.setsid()
        signal_at_parents_death(signal.SIGKILL)
        process_title.show(["lastacross", _CHILD])
        if os.getppid() == server:
            self._run_child(socket.socket(fileno=channel))

    def _reap(self) -> None:
        while self._children:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            # The pid still belongs to the dead child, so this cannot hit another group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            fd = self._children.pop(ended.si_pid, None)
            if fd is not None:
                _tell(fd, str(os.waitstatus_to_exitcode(status)))
                os.close(fd)


def _run_and_exit(name: str, function: Callable[[], None]) -> None:
    """Run a forked process's function and end the process, without returning to its parent's code.

    ``name`` is the process's name in the log.
    """
    code = 1
    try:
        function()
        code = 0
    except SystemExit as end:
        print_reason(end)
        code = exit_code_of(end)
    except BaseException:
        _log.exception("fork.failed", process=name, pid=os.getpid())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _tell(fd: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, f"{text}\n".encode())


def _line(file: io.FileIO) -> str:
    """One line of an unbuffered file; empty if the writer has exited."""
    text = b""
    while not text.endswith(b"\n") and (byte := file.read(1)):
        text += byte
    return text.decode().strip()
