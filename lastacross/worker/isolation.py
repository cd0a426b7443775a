"""Runs a task alone in a separate process if the task may have killed its worker.

An innocent task simply succeeds. A task that kills its process again kills only this one, so no other task is
harmed. The process is kept for the next suspect and ends with its parent.
"""

import base64
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from lastacross.broker import Leased
from lastacross.worker.delivery import Outcome

READY = b"ready\n"
# How long the process may take to exit after its answers have ended.
ENDING_SECONDS = 5.0


class Crashed(Outcome):
    """The outcome of an attempt during which the isolated process ended."""


class IsolatedProcess:
    """Runs one task at a time in a child process, which starts and ends automatically."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._is_told_to_stop = False

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt; returns ``Crashed`` if the process ended while the task was running."""
        with self._lock:
            try:
                process = self._started()
            except OSError as error:
                return Outcome(task, None, f"no process to run it alone: {error}")
            line = _ask(process, _encoded(task))
            if not line.endswith(b"\n"):
                self._process, self._is_ready = None, False
                return Crashed(task, None, f"its process ended with code {_end(process, ENDING_SECONDS)}")
            try:
                return Outcome(task, *json.loads(line))
            except (ValueError, TypeError) as error:
                # We no longer know which task the process's answers belong to.
                self._process, self._is_ready = None, False
                _end(process, 0)
                return Outcome(
                    task, None, f"the process that ran it alone gave no answer that can be read: {error}"
                )

    def ask_to_stop(self) -> None:
        """Make the process call its shutdown hook; a running task may still finish."""
        self._is_told_to_stop = True
        process = self._process
        if process is not None and self._is_ready:
            # Do not send the signal earlier, because it would kill a process that does not handle it yet.
            process.terminate()

    def close(self) -> None:
        """End the process, interrupting any task that is running in it."""
        process = self._process
        self._process = None
        if process is not None:
            process.kill()
            process.wait()
            # The thread that was waiting for an answer has read the last one by now.
            with self._lock:
                _end(process, ENDING_SECONDS)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        command = [sys.executable, "-m", "lastacross", "--app", str(self._root), "worker-isolated"]
        # Use a separate session, so that a Ctrl-C on the terminal reaches only the supervisor.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._process, self._is_ready = process, False
        # Blame a task for a crash only if it had reached the process.
        if _ask(process, b"") != READY:
            self._process = None
            raise OSError(f"it ended with code {_end(process, ENDING_SECONDS)} before it was ready")
        self._is_ready = True
        if self._is_told_to_stop:
            process.terminate()
        return process


class IsolatedProcesses:
    """Isolated processes, one for each suspect running at the same time; starts one if none is idle."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._all: list[IsolatedProcess] = []
        self._idle: list[IsolatedProcess] = []
        self._is_told_to_stop = False

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt; returns ``Crashed`` if the process ended while the task was running."""
        process = self._take()
        try:
            return process.deliver(task)
        finally:
            with self._lock:
                self._idle.append(process)

    def ask_to_stop(self) -> None:
        """Make the processes call their shutdown hooks; running tasks may still finish."""
        with self._lock:
            self._is_told_to_stop = True
            for process in self._all:
                process.ask_to_stop()

    def close(self) -> None:
        """End the processes, interrupting any tasks that are running in them."""
        for process in self._all:
            process.close()

    def _take(self) -> IsolatedProcess:
        with self._lock:
            if not self._idle:
                self._idle.append(IsolatedProcess(self._root))
                self._all.append(self._idle[-1])
                if self._is_told_to_stop:
                    self._idle[-1].ask_to_stop()
            return self._idle.pop()


def _ask(process: "subprocess.Popen[bytes]", line: bytes) -> bytes:
    """The answer to one line; it is empty or lacks its line end if the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except OSError:
        return b""
    return process.stdout.readline()


def _end(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Wait for an ending process, then kill any processes that it has left behind."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    return process.returncode


class FromWorker:
    """The child's side: reads tasks from standard input until the input ends, then ends the process.

    Create it before anything else, because an application that cannot start must not outlive its worker, and
    because output printed during the application's import must not be taken for an answer.
    """

    def __init__(self) -> None:
        # Keep handlers' input and output apart from the conversation with the worker.
        self._source = os.fdopen(os.dup(0), "rb")
        self._answers = os.fdopen(os.dup(1), "wb")
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        self._tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="from-worker", daemon=True).start()

    def serve(self, deliver: Callable[[Leased], Outcome]) -> None:
        """Report readiness, then deliver incoming tasks; never returns."""
        self._answer(READY)
        while True:
            outcome = deliver(_decoded(self._tasks.get()))
            self._answer(json.dumps([outcome.status, outcome.reason, outcome.is_final]).encode() + b"\n")

    def _answer(self, line: bytes) -> None:
        self._answers.write(line)
        self._answers.flush()

    def _read(self) -> None:
        for line in self._source:
            self._tasks.put(line)
        # The worker has ended and may have been killed. Its tasks will run again elsewhere, and nothing else
        # would end this process.
        os._exit(0)


def _encoded(task: Leased) -> bytes:
    fields = [
        [name.decode("latin-1"), base64.b64encode(value).decode()] for name, value in task.fields.items()
    ]
    return json.dumps([task.id, task.lease_id, fields]).encode() + b"\n"


def _decoded(line: bytes) -> Leased:
    identifier, lease_id, fields = json.loads(line)
    return Leased(
        identifier, lease_id, {name.encode("latin-1"): base64.b64decode(value) for name, value in fields}
    )
