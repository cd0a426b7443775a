"""Tells an orchestrator whether a process is working, over HTTP (``/healthz``, ``/readyz``) and to systemd.

An orchestrator restarts a process that is not healthy, and waits for one that is not ready. So an unavailable
service makes a process unready, but never unhealthy.
"""

import importlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lastacross import logs
from lastacross.errors import ConfigError

NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
"""systemd's environment variables, which it sets for the process that it starts (sd_notify(3))."""
NOTIFY_SECONDS = 1.0
SEND_SECONDS = 5.0

_log = logs.get("lastacross.probes")

Check = Callable[[], str | None]
"""Returns the problem, or None if there is none."""


class Address(NamedTuple):
    """Where to answer ``/healthz`` and ``/readyz``."""

    host: str
    port: int


class Notifier:
    """Sends systemd's notifications; without systemd, it does nothing.

    Args:
        environ: the process's environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get(NOTIFY_SOCKET, "")
        # A name that begins with @ is in the abstract namespace.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        is_for_us = environ.get(WATCHDOG_PID, str(os.getpid())) == str(os.getpid())
        microseconds = environ.get(WATCHDOG_USEC, "")
        is_number = microseconds.isascii() and microseconds.isdigit()
        self.watchdog_seconds = int(microseconds) / 1e6 if is_number and is_for_us else 0.0

    @property
    def is_on(self) -> bool:
        """Whether systemd is waiting for notifications."""
        return bool(self._address)

    def send(self, state: str) -> None:
        """Send a notification such as ``READY=1``; a failure is only logged."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(SEND_SECONDS)
                sender.sendto(state.encode(), self._address)
        except OSError as error:
            _log.warning("systemd.notify", error=str(error), state=state)


def without_systemd(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for child processes, whose notifications systemd would refuse."""
    return {
        key: value
        for key, value in environ.items()
        if key not in {NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID}
    }


class Probes:
    """Answers probes and notifies systemd, in threads of its own.

    Args:
        health: a check of whether the process must be restarted; it must not wait.
        readiness: a check of whether the process can work; it may wait for a few seconds.
        address: where to answer over HTTP, or None.
        notifier: sends systemd's notifications.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(
        self, health: Check, readiness: Check, *, address: Address | None, notifier: Notifier
    ) -> None:
        self._health = health
        self._readiness = readiness
        self._notifier = notifier
        self._is_stopping = threading.Event()
        self._has_started = False
        self._is_ready = False
        self._server = None if address is None else _bound(address, self.problem_of)
        if self._server is not None:
            # A fork must not keep the port open.
            os.register_at_fork(after_in_child=self._server.socket.close)

    @property
    def port(self) -> int:
        """The port; 0 without an address."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Start the threads."""
        self._has_started = True
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, name="probes", daemon=True).start()
        if self._notifier.is_on:
            threading.Thread(target=self._notify, name="systemd", daemon=True).start()

    def note_stop(self) -> None:
        """Report as not ready from now on, because the process is stopping."""
        if not self._is_stopping.is_set():
            self._is_stopping.set()
            self._notifier.send("STOPPING=1")

    def close(self) -> None:
        """End the server."""
        self.note_stop()
        if self._server is not None:
            if self._has_started:
                self._server.shutdown()
            self._server.server_close()

    def problem_of(self, path: str) -> str | None:
        """The problem that a path reports.

        Raises:
            KeyError: there is no such path.
        """
        check = {"/healthz": self._health, "/readyz": self._ready}[path]
        try:
            return check()
        except Exception as error:
            _log.exception("probes.failed", path=path)
            return f"{type(error).__name__}: {error}"

    def _ready(self) -> str | None:
        return "is stopping" if self._is_stopping.is_set() else self._health() or self._readiness()

    def _notify(self) -> None:
        seconds = NOTIFY_SECONDS
        if self._notifier.watchdog_seconds:
            seconds = min(seconds, self._notifier.watchdog_seconds / 2)
        while not self._is_stopping.wait(seconds):
            if not self._is_ready and self.problem_of("/readyz") is None:
                self._is_ready = True
                self._notifier.send("READY=1")
            # A stopping process must still report as healthy; systemd's TimeoutStopSec= limits how long it
            # may take.
            self._watch()
        while self._notifier.watchdog_seconds:
            self._watch()
            threading.Event().wait(seconds)

    def _watch(self) -> None:
        if self._notifier.watchdog_seconds and self.problem_of("/healthz") is None:
            self._notifier.send("WATCHDOG=1")


def _bound(address: Address, problem_of: Callable[[str], str | None]) -> Any:
    """The server, already listening, so that a port in use is reported before anything starts."""
    # It takes 0.02 s to load; a process without a port can save that time.
    serving = importlib.import_module("lastacross.processes.probe_server")
    try:
        return serving.ProbeServer(tuple(address), problem_of)
    except OSError as error:
        place = f"--health-host {address.host} --health-port {address.port}"
        raise ConfigError(f"{place} cannot be used: {error.strerror or error}") from error
