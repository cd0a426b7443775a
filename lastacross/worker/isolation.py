"""A process of its own for a task that may have ended its worker: it runs there alone.

If it was innocent it simply succeeds; if it kills again, it kills this process and no neighbour. The
process is kept for the next suspect and ends when its parent does.
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
# Between the end of its answers and the end of the process.
ENDING_SECONDS = 5.0


class Crashed(Outcome):
    """The isolated process ended while it ran the task."""


class IsolatedProcess:
    """Runs one task at a time in a child process; start and end are automatic."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._is_told_to_stop = False

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt; ``Crashed`` when the process ended while the task ran."""
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
                # It is not known any more which task its answers are about.
                self._process, self._is_ready = None, False
                _end(process, 0)
                return Outcome(
                    task, None, f"the process that ran it alone gave no answer that can be read: {error}"
                )

    def ask_to_stop(self) -> None:
        """Have it call the shutdown hook; the task that runs in it may still come to its end."""
        self._is_told_to_stop = True
        process = self._process
        if process is not None and self._is_ready:
            # Not before: until it listens, the signal would end it.
            process.terminate()

    def close(self) -> None:
        """End the process; a task that runs in it is cut off."""
        process = self._process
        self._process = None
        if process is not None:
            process.kill()
            process.wait()
            # The thread that waited for an answer has read its last.
            with self._lock:
                _end(process, ENDING_SECONDS)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        command = [sys.executable, "-m", "lastacross", "--app", str(self._root), "worker-isolated"]
        # Its own session: a Ctrl-C on the terminal is for the supervisor alone.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._process, self._is_ready = process, False
        # A task is held to have crashed it only if it had reached it.
        if _ask(process, b"") != READY:
            self._process = None
            raise OSError(f"it ended with code {_end(process, ENDING_SECONDS)} before it was ready")
        self._is_ready = True
        if self._is_told_to_stop:
            process.terminate()
        return process


class IsolatedProcesses:
    """As many isolated processes as suspects run at once; each is started when there is none idle."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._all: list[IsolatedProcess] = []
        self._idle: list[IsolatedProcess] = []
        self._is_told_to_stop = False

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt; ``Crashed`` when the process ended while the task ran."""
        process = self._take()
        try:
            return process.deliver(task)
        finally:
            with self._lock:
                self._idle.append(process)

    def ask_to_stop(self) -> None:
        """Have them call their shutdown hooks; the tasks that run in them may still come to their ends."""
        with self._lock:
            self._is_told_to_stop = True
            for process in self._all:
                process.ask_to_stop()

    def close(self) -> None:
        """End the processes; tasks that run in them are cut off."""
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
    """The answer to one line; without a line end, or empty, when the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except OSError:
        return b""
    return process.stdout.readline()


def _end(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Wait for a process that is ending, and sweep up what it had started."""
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
    """The child's side: what comes on standard input, until it ends and this process with it.

    To be made first of all: an application that cannot start must not outlive its worker, and what it
    prints while it is imported is no answer.
    """

    def __init__(self) -> None:
        # What the handlers read and print must not mix with what the worker says and hears.
        self._source = os.fdopen(os.dup(0), "rb")
        self._answers = os.fdopen(os.dup(1), "wb")
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        self._tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="from-worker", daemon=True).start()

    def serve(self, deliver: Callable[[Leased], Outcome]) -> None:
        """Say that it is ready, and deliver what comes; never returns."""
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
        # The worker has ended, perhaps killed: what runs here will be run again, and nobody would end it.
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
