"""The parts of RQ's worker that we keep: registration, heartbeats, signals, and the command thread.

That thread listens to ``rq:pubsub:<worker>``, where anyone may publish anything.
"""

import threading
from typing import Any

import rq

from lastacross import logs
from lastacross.errors import StoreUnavailableError
from lastacross.store import translated_errors

HEARTBEAT_TTL_SECONDS = 30
COMMAND_PAUSE_SECONDS = 1.0

_SHOWN_BYTES = 100

_log = logs.get("lastacross.worker")


class RqWorker(rq.Worker):
    """A subclass of RQ's worker whose threads survive any message."""

    def _set_connection(self, connection: Any) -> Any:
        """Keep the connection's time-outs, although RQ would lengthen them for its blocking calls."""
        return connection

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Same as RQ's, except that a killed worker disappears from RQ's list after half a minute."""
        super().heartbeat(timeout or HEARTBEAT_TTL_SECONDS, pipeline)

    def handle_payload(self, message: Any) -> None:
        """Handle an RQ command; log anything else."""
        try:
            super().handle_payload(message)  # type: ignore[no-untyped-call]
        except Exception as error:
            shown = repr(message.get("data"))[:_SHOWN_BYTES]
            _log.warning("worker.command_refused", message=shown, reason=f"{type(error).__name__}: {error}")

    def _pubsub_exception_handler(self, exc: Any, pubsub: Any, pubsub_thread: Any) -> None:
        """Keep listening after a pause; without this thread the worker would receive no more commands."""
        if not isinstance(exc, Exception):
            raise exc
        _log.warning("worker.commands", error=str(exc), pause_seconds=COMMAND_PAUSE_SECONDS)
        threading.Event().wait(COMMAND_PAUSE_SECONDS)

    @property
    def hears_commands(self) -> bool:
        """Whether RQ's command thread is running."""
        return self.pubsub_thread is not None and self.pubsub_thread.is_alive()

    def teardown(self) -> None:
        """Unregister; if Redis is unavailable, the registration expires by itself."""
        try:
            with translated_errors():
                self.register_death()
                self.unsubscribe()
        except StoreUnavailableError as error:
            _log.warning("worker.redis", error=str(error))
