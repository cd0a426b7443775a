"""The supervisor's side of preloading: asks the preload process for children.

The two talk over a socket, in JSON messages. The supervisor sends ``{"id", "name", "arguments", "set",
"unset", "umask", "signal"}``, and first of all ``{"upgrade"}``, which says whether to update the datastore's
tables. The preload process sends ``{"state"}``: ``failed`` if it cannot update them, ``loading`` when it
begins to import the application, ``ready`` once it can fork, ``off`` if it must not, ``stale`` if the
application has changed since. For each request it, or the process between it and the new one, sends ``{"id",
"pid"}`` or ``{"id", "error"}``. See ``preload``.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross import logs
from lastacross.clock import Clock
from lastacross.processes.child_process import ForkedProcess

log = logs.get("lastacross.supervisor")

REPORTS = "--reports"
"""The option by which the preload process reports an error in the application itself."""

FORMER_CODE = "the old code keeps running"
"""For the log: the state of things until changed code can be imported."""

SOCKET_FD = "LASTACROSS_PRELOAD_FD"
"""Environment variable: the preload process's end of the socket."""

# An application that takes longer to import is imported by each process itself.
LOAD_SECONDS = 60.0
# A fork takes milliseconds; a preload process that does not answer is killed.
ANSWER_SECONDS = 5.0
# Longer requests do not fit into a socket's buffer.
MAX_REQUEST_BYTES = 65_536
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

Answer = Callable[[ForkedProcess | str | None], None]
"""Receives the process, the reason why it cannot be forked now, or None if there is no preload process."""


@dataclass(frozen=True)
class ForkRequest:
    """A process to fork.

    Args:
        name: the process's name in the log.
        command: the command line that the process shows.
        arguments: the arguments of ``lastacross`` that it runs.
        environ: its environment.
        umask: its umask, or -1 to keep the preload process's.
        death_signal: the signal that it gets when its supervisor dies, or 0.
    """

    name: str
    command: Sequence[str]
    arguments: Sequence[str]
    environ: Mapping[str, str]
    umask: int = -1
    death_signal: int = 0


class PreloadClient:
    """The supervisor's end of the socket, and the unanswered requests.

    Args:
        environ: the preload process's environment, on which the children's are based.
        clock: the clock that times its replies.
        must_upgrade: whether the first preload process updates the datastore's tables before anything else.
    """

    def __init__(self, environ: Mapping[str, str], clock: Clock, *, must_upgrade: bool = False) -> None:
        self.environ = environ
        self.is_off = False
        self.has_failed_upgrade = False
        self._must_upgrade = must_upgrade
        self._clock = clock
        self._socket: socket.socket | None = None
        self._is_loading = self._is_ready = self._has_failed = self._is_stale = False
        self._was_told_off = False
        self._load_until: float | None = None
        self._next_id = 1
        self._waiting: list[tuple[ForkRequest, Answer]] = []
        self._sent: dict[int, tuple[float, Answer]] = {}
        self._request_of: dict[int, ForkRequest] = {}

    # --- the preload process --------------------------------------------------------------

    def open(self) -> int:
        """Create a new socket for a preload process that is about to start; returns that process's end."""
        self._close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.send(json.dumps({"upgrade": self._must_upgrade}).encode())
        self._socket = ours
        self._is_loading, self._is_ready, self._is_stale = True, False, False
        # Updating large tables may take a long time.
        self._load_until = None if self._must_upgrade else self._clock.monotonic() + LOAD_SECONDS
        return theirs.detach()

    def note_death(self) -> None:
        """Handle the end of the preload process, after its last messages."""
        self.take()
        if not self._is_ready and not self._is_stale:
            self._has_failed = True
        self._is_loading = self._is_ready = False
        if not self._is_stale:
            self._load_until = None
            self._give_up_waiting()

    @property
    def fd(self) -> int | None:
        """The descriptor that becomes readable when ``take`` has something to do; None without one."""
        return None if self._socket is None else self._socket.fileno()

    @property
    def due_at(self) -> float | None:
        """The monotonic time of the next deadline; None if nothing is pending."""
        instants = [until for until, _ in self._sent.values()]
        if self._load_until is not None:
            instants.append(self._load_until)
        return min(instants, default=None)

    def is_overdue(self) -> bool:
        """Whether the preload process missed a deadline and must be killed; late requests get None."""
        now = self._clock.monotonic()
        is_overdue = False
        if self._load_until is not None and self._load_until <= now:
            log.warning("preload.off", reason=f"importing the application took over {LOAD_SECONDS:g} s")
            self.is_off = is_overdue = True
            self._load_until = None
            self._give_up_waiting()
        late = [number for number, (until, _) in self._sent.items() if until <= now]
        for number in late:
            self._answer(number, None)
        return is_overdue or bool(late)

    def stop(self) -> None:
        """Tell the preload process to end; requests that were already sent are still answered."""
        self._waiting.clear()
        self._load_until = None
        self.is_off = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    # --- requests ---------------------------------------------------------------------------

    @property
    def is_available(self) -> bool:
        """Whether to request a process, even if the request has to wait until the application is imported."""
        if self.is_off:
            return False
        return self._is_ready or self._is_stale or (self._is_loading and not self._has_failed)

    @property
    def is_settled(self) -> bool:
        """Whether the first import has ended, however it did."""
        return self._is_ready or self.is_off or self._has_failed

    @property
    def is_loaded(self) -> bool | None:
        """Whether the imported application can be forked; None during its import, or if that failed."""
        if self._is_ready:
            return True
        return False if self._was_told_off else None

    @property
    def is_asked(self) -> bool:
        """Whether a request is still unanswered, so that an unknown child may be its process."""
        return bool(self._sent)

    def ask(self, request: ForkRequest, answer: Answer) -> None:
        """Have a process forked; ``answer`` is called later, or immediately if nothing can fork it."""
        if not self.is_available:
            answer(None)
        elif not self._is_ready:
            self._waiting.append((request, answer))
        else:
            self._send(request, answer)

    def take(self) -> None:
        """Handle the messages that have arrived."""
        while self._socket is not None:
            try:
                data = self._socket.recv(MAX_REQUEST_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # The preload process left requests unread; this is raised once, before the messages that it
                # sent.
                continue
            if not data:
                self._close()
                return
            message = json.loads(data)
            if "state" in message:
                self._note_state(message["state"])
            else:
                self._note_answer(message)

    def _note_state(self, state: str) -> None:
        self._is_ready = state == "ready"
        self._is_loading = state == "loading"
        if state == "loading":
            self._must_upgrade = False
            self._load_until = self._clock.monotonic() + LOAD_SECONDS
        elif state == "ready":
            self._has_failed = False
            self._load_until = None
            waiting, self._waiting = self._waiting, []
            for request, answer in waiting:
                self._send(request, answer)
        elif state == "stale":
            # The preload process exits and is restarted immediately.
            self._is_stale = True
            self._load_until = self._clock.monotonic() + LOAD_SECONDS
            for number, (_, answer) in list(self._sent.items()):
                self._waiting.append((self._request_of[number], answer))
            self._sent.clear()
            self._request_of.clear()
        else:
            self.is_off = True
            self.has_failed_upgrade = state == "failed"
            self._was_told_off = state == "off"
            self._load_until = None
            self._give_up_waiting()

    def _note_answer(self, message: Mapping[str, Any]) -> None:
        number, pid = message["id"], message.get("pid")
        if number in self._sent:
            self._answer(number, ForkedProcess(pid) if pid is not None else str(message.get("error")))
        elif pid is not None:
            # Another process has been started in its place.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _send(self, request: ForkRequest, answer: Answer) -> None:
        number = self._next_id
        self._next_id += 1
        data = json.dumps({"id": number, **self._fields(request)}).encode()
        try:
            if self._socket is None or len(data) > MAX_REQUEST_BYTES:
                raise OSError
            self._socket.send(data)
        except OSError:
            answer(None)
            return
        self._sent[number] = (self._clock.monotonic() + ANSWER_SECONDS, answer)
        self._request_of[number] = request

    def _fields(self, request: ForkRequest) -> dict[str, Any]:
        environ = request.environ
        return {
            "name": request.name,
            "command": list(request.command),
            "arguments": list(request.arguments),
            "set": {name: value for name, value in environ.items() if self.environ.get(name) != value},
            "unset": [name for name in self.environ if name not in environ],
            "umask": request.umask,
            "signal": request.death_signal,
        }

    def _answer(self, number: int, outcome: ForkedProcess | str | None) -> None:
        _, answer = self._sent.pop(number)
        self._request_of.pop(number, None)
        answer(outcome)

    def _give_up_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self.has_failed_upgrade:
            return
        for _, answer in waiting:
            answer(None)

    def _close(self) -> None:
        """Close the socket; every process that could still answer has exited or closed it."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        for number in list(self._sent):
            self._answer(number, None)


def become_subreaper() -> bool:
    """Make this process the parent of its orphaned descendants; returns whether the system supports this."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
