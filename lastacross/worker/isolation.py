"""Runs a task alone in a process of its own if the task may have killed or blocked its worker.

An innocent task simply succeeds. A task that kills its process again kills only this one, so no other task is
harmed, and a task that never ends is killed 30 s after its deadline. If a worker has a fork server, a process
runs one task and takes a few milliseconds to start. Otherwise a process is a new interpreter, so there are at
most two, which are kept until there has been no suspect for a while.
"""

import base64
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lastacross import logs, tracing
from lastacross.broker import Leased
from lastacross.clock import SYSTEM, Clock
from lastacross.worker.deadline import GRACE_SECONDS
from lastacross.worker.delivery import DEFAULT_DEADLINE_SECONDS, DELIVERY_TRACE, Outcome, seen

READY = b"ready\n"
# How long a process may take to exit after it has stopped answering.
ENDING_SECONDS = 5.0
MAX_INTERPRETERS = 2
# How long an interpreter is kept for the next suspect.
IDLE_SECONDS = 2.0

_log = logs.get("lastacross.worker")


class Crashed(Outcome):
    """The outcome of an attempt during which the isolated process died."""


class Stuck(Outcome):
    """The outcome of an attempt that was killed because it did not end soon enough after its deadline."""


class Child(Protocol):
    """A process that runs tasks; ``channel`` is the connection to it."""

    channel: socket.socket

    def send_signal(self, number: int, /) -> None:
        """Send a signal unless the process has ended."""

    def wait(self, seconds: float | None = None, /) -> int | None:
        """Wait for the exit, and return the exit code (negative for a signal) or None if it is unknown.

        Raises:
            TimeoutError: the child has not ended after so many seconds.
        """


class Interpreter:
    """A child that is a new interpreter.

    Args:
        root: the application's folder.

    Raises:
        OSError: the system's process or memory limit has been reached.
    """

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "lastacross", "--app", str(root), "worker-isolated"]
        self.channel, theirs = socket.socketpair()
        with theirs:
            # Use a separate session, so that a Ctrl-C on the terminal reaches only the supervisor.
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True
            )

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended."""
        self._process.send_signal(number)

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the exit, then kill any processes that the child has left behind.

        Raises:
            TimeoutError: the child has not ended after so many seconds.
        """
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.returncode


class IsolatedProcess:
    """Runs one task at a time in a child process, which starts and ends automatically.

    Args:
        start: starts a child; may raise OSError.
        is_reused: whether the child is kept for the next task.
        deadline_seconds: the deadline of tasks that have none of their own.
    """

    def __init__(
        self,
        start: Callable[[], Child],
        *,
        is_reused: bool,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
    ) -> None:
        self._start = start
        self._is_reused = is_reused
        self._deadline_seconds = deadline_seconds
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._is_ready = False
        self._is_told_to_stop = self._is_closed = False

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt; returns ``Crashed`` if the process ended while the task was running."""
        with self._lock:
            try:
                child = self._started()
            except OSError as error:
                reason = f"no process could be started to run it alone: {error}"
                return Outcome(task, None, reason, was_reached=False)
            outcome, is_usable = self._converse(child, task)
            if not is_usable:
                self._forget(child, 0)
            elif not self._is_reused:
                self._forget(child, ENDING_SECONDS)
            return outcome

    def _converse(self, child: Child, task: Leased) -> tuple[Outcome, bool]:
        """The attempt's outcome, and whether the child can run another task."""
        seconds = (task.deadline_seconds or self._deadline_seconds) + GRACE_SECONDS
        try:
            line = _ask(child.channel, _encoded(task), seconds)
        except TimeoutError:
            # Its threads may all be blocked, so it cannot end itself.
            _log.error("task.stuck", queue=task.queue, task=task.name, remedy="its own process is killed")
            return Stuck(task, 500, f"did not end {GRACE_SECONDS:g} s after its deadline"), False
        if not line.endswith(b"\n"):
            self._child, self._is_ready = None, False
            code = _end(child, ENDING_SECONDS)
            if code is None:
                return Outcome(task, None, "its process ended together with the fork server"), False
            return Crashed(task, None, f"its process ended with code {code}"), False
        try:
            status, reason, is_final, handler = json.loads(line)
            return Outcome(task, status, reason, is_final, handler=handler), True
        except (ValueError, TypeError) as error:
            # We no longer know which task the process's answers belong to.
            reason = f"the process that ran it alone sent an unreadable reply: {error}"
            return Outcome(task, None, reason), False

    def _forget(self, child: Child, seconds: float) -> None:
        """End the child, which has this many seconds to end by itself."""
        if self._child is child:
            self._child, self._is_ready = None, False
            _end(child, seconds)

    def ask_to_stop(self) -> None:
        """Make the process call its shutdown hook; a running task may still finish."""
        self._is_told_to_stop = True
        child = self._child
        if child is not None and self._is_ready:
            # Do not send the signal earlier, because it would kill a process that does not handle it yet.
            child.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End the process, interrupting any task that is running in it."""
        self._is_closed = True
        child = self._child
        if child is not None:
            child.send_signal(signal.SIGKILL)
        # Once we hold the lock, a thread that was waiting for an answer has seen the connection end.
        with self._lock:
            if self._child is not None:
                self._forget(self._child, 0)

    def _started(self) -> Child:
        if self._child is not None:
            if not _has_ended(self._child.channel):
                return self._child
            self._forget(self._child, ENDING_SECONDS)
        child = self._start()
        self._child, self._is_ready = child, False
        if self._is_closed:
            self._forget(child, 0)
            raise OSError("the worker is ending")
        # Blame a task for a crash only if it had reached the process.
        if _ask(child.channel, b"", None) != READY:
            self._child = None
            raise OSError(f"it ended with code {_end(child, ENDING_SECONDS)} before it was ready")
        self._is_ready = True
        if self._is_told_to_stop:
            child.send_signal(signal.SIGTERM)
        return child


class IsolatedProcesses:
    """Isolated processes, one for each suspect running at the same time; starts one if none is idle.

    Args:
        root: the application's folder.
        fork: forks a child; None if this process has no fork server.
        threads: the number of the worker's threads.
        deadline_seconds: the deadline of tasks that have none of their own.
        clock: a clock whose monotonic time tells how long a process has been idle.
    """

    def __init__(
        self,
        root: Path,
        fork: Callable[[], Child] | None = None,
        *,
        threads: int = MAX_INTERPRETERS,
        deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
        clock: Clock = SYSTEM,
    ) -> None:
        self._root = root
        self._fork = fork
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._all: set[IsolatedProcess] = set()
        self._idle: list[tuple[float, IsolatedProcess]] = []
        self._is_told_to_stop = False
        self.most = threads if fork else min(threads, MAX_INTERPRETERS)
        # A fork server that was killed cannot be replaced, because this process now has threads.
        self.has_lost_fork_server = False

    def _start(self) -> Child:
        if self._fork is not None:
            try:
                return self._fork()
            except OSError as error:
                self.has_lost_fork_server = True
                _log.warning("fork.failed", error=str(error), remedy="a new interpreter starts instead")
        return Interpreter(self._root)

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt; returns ``Crashed`` if the process ended while the task was running."""
        process = self._take()
        try:
            return process.deliver(task)
        finally:
            with self._lock:
                if self._fork is None:
                    self._idle.append((self._clock.monotonic(), process))
                else:
                    self._all.discard(process)

    def ask_to_stop(self) -> None:
        """Make the processes call their shutdown hooks; running tasks may still finish."""
        with self._lock:
            self._is_told_to_stop = True
            for process in self._all:
                process.ask_to_stop()

    def end_idle(self) -> None:
        """End processes that have had no task for a while."""
        now = self._clock.monotonic()
        with self._lock:
            ended = [process for since, process in self._idle if now - since >= IDLE_SECONDS]
            self._idle = [each for each in self._idle if each[1] not in ended]
            self._all.difference_update(ended)
        for process in ended:
            process.close()

    def close(self) -> None:
        """End the processes, interrupting any tasks that are running in them."""
        with self._lock:
            processes = list(self._all)
        for process in processes:
            process.close()

    def _take(self) -> IsolatedProcess:
        with self._lock:
            if self._idle:
                return self._idle.pop()[1]
            process = IsolatedProcess(
                self._start, is_reused=self._fork is None, deadline_seconds=self._deadline_seconds
            )
            self._all.add(process)
            if self._is_told_to_stop:
                process.ask_to_stop()
            return process


def _ask(channel: socket.socket, line: bytes, seconds: float | None) -> bytes:
    """The answer to one line; it is empty or lacks its newline if the process has ended.

    Raises:
        TimeoutError: there was no answer within this many seconds.
    """
    channel.settimeout(seconds)
    answer = b""
    try:
        channel.sendall(line)
        while not answer.endswith(b"\n") and (chunk := channel.recv(65_536)):
            answer += chunk
    except TimeoutError:
        raise
    except OSError:
        return b""
    return answer


def _has_ended(channel: socket.socket) -> bool:
    channel.settimeout(0)
    try:
        return channel.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _end(child: Child, seconds: float) -> int | None:
    """Close the connection so that the child ends, and kill the child if it does not end in time.

    Returns:
        the child's exit code.
    """
    child.channel.close()
    try:
        if seconds:
            return child.wait(seconds)
    except TimeoutError:
        pass
    child.send_signal(signal.SIGKILL)
    return child.wait()


class FromWorker:
    """The child's side: reads tasks until the input ends, then ends the process.

    Create it before anything else, because an application that cannot start must not outlive its worker, and
    because output printed during the application's import must not be mistaken for an answer.

    Args:
        channel: the connection to the worker; None means standard input and output.
    """

    def __init__(self, channel: socket.socket | None = None) -> None:
        # Keep handlers' input and output apart from the conversation with the worker.
        if channel is None:
            channel = socket.socket(fileno=os.dup(0))
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        self._channel = channel
        self._tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="from-worker", daemon=True).start()

    def serve(self, deliver: Callable[[Leased], Outcome]) -> None:
        """Report readiness, then deliver incoming tasks; never returns."""
        self._channel.sendall(READY)
        while True:
            task = _decoded(self._tasks.get())
            outcome = deliver(task)
            if tracing.active is not None:
                try:
                    tracing.active.flush()
                except Exception:
                    # The task has ended, so an exporter's error must not look like a crash.
                    _log.exception("trace.failed", **seen(task))
            # The process may be killed as soon as it has answered.
            sys.stdout.flush()
            answer = json.dumps([outcome.status, outcome.reason, outcome.is_final, outcome.handler])
            self._channel.sendall(answer.encode() + b"\n")

    def _read(self) -> None:
        with self._channel.makefile("rb") as source:
            for line in source:
                self._tasks.put(line)
        # The worker has ended and may have been killed. Its tasks will run again elsewhere, and nothing else
        # would end this process.
        os._exit(0)


def _encoded(task: Leased) -> bytes:
    found = task.fields
    if tracing.active is not None:
        found = {**found, DELIVERY_TRACE: tracing.active.traceparent().encode()}
    fields = [[name.decode("latin-1"), base64.b64encode(value).decode()] for name, value in found.items()]
    return json.dumps([task.id, task.lease_id, fields]).encode() + b"\n"


def _decoded(line: bytes) -> Leased:
    identifier, lease_id, fields = json.loads(line)
    return Leased(
        identifier, lease_id, {name.encode("latin-1"): base64.b64decode(value) for name, value in fields}
    )
