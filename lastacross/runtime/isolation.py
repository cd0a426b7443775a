"""A process of its own for a task that may have ended its worker: it runs there alone.

If it was innocent it simply succeeds; if it kills again, it kills this process and no neighbour. The process is kept
for the next suspect and ends when its parent does.
"""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lastacross.runtime.delivery import Outcome
from lastacross.taskqueue.record import Leased


class Crashed(Outcome):
    """The isolated process ended while it ran the task."""


class IsolatedProcess:
    """Runs one task at a time in a child process; start and end are automatic.

    Args:
        root: the application's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def deliver(self, task: Leased) -> Outcome:
        """Run one attempt; ``Crashed`` when the process ended while the task ran."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(_encoded(task))
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = b""
            if not line:
                code = process.wait()
                self._process = None
                return Crashed(task, None, f"its process ended with code {code}")
            status, reason = json.loads(line)
            return Outcome(task, status, reason)

    def close(self) -> None:
        """End the process; a task that runs in it is cut off."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "lastacross", "--app", str(self._root), "worker-isolated"]
            # Its own session: a Ctrl-C on the terminal is for the supervisor alone.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        return self._process


def serve(deliver: Callable[[Leased], Outcome]) -> None:
    """The child's side: deliver what comes on standard input until it ends."""
    # What the handlers print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source: IO[bytes] = sys.stdin.buffer
    while line := source.readline():
        outcome = deliver(_decoded(line))
        answers.write(json.dumps([outcome.status, outcome.reason]).encode() + b"\n")
        answers.flush()


def _encoded(task: Leased) -> bytes:
    fields = [[name.decode(), base64.b64encode(value).decode()] for name, value in task.fields.items()]
    return json.dumps([task.id, task.lease_id, fields]).encode() + b"\n"


def _decoded(line: bytes) -> Leased:
    identifier, lease_id, fields = json.loads(line)
    return Leased(identifier, lease_id, {name.encode(): base64.b64decode(value) for name, value in fields})
