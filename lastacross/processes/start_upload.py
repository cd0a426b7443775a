"""Uploads queue.yaml when a process starts, like a deployment, even if Redis is unavailable at first."""

from lastacross.broker import queue_directory
from lastacross.clock import SYSTEM, Clock
from lastacross.config import Config
from lastacross.processes.step import Step
from lastacross.store import Store

# A process that has children must not wait long for Redis. Only looking up the host name may take longer,
# because lookups have no time limit.
PATIENCE_SECONDS = 1.0


class StartUpload:
    """Uploads once, if the last upload differs.

    Worker processes must not use it, because a worker that restarts after a crash would undo a later upload
    from another machine.
    """

    def __init__(self, configuration: Config, clock: Clock = SYSTEM) -> None:
        self._configuration = configuration
        self._clock = clock
        self._step = Step("queues", self._upload)
        self._is_done = False

    def try_once(self) -> bool:
        """Try if an attempt is due; returns whether the upload is done. Logs errors and retries later."""
        if not self._is_done:
            self._step.run_if_due(self._clock)
        return self._is_done

    def _upload(self, _now: float) -> None:
        store = Store(self._configuration.settings.redis_url, patience_seconds=PATIENCE_SECONDS)
        try:
            queue_directory.upload_if_changed(store, self._configuration)
        finally:
            store.close()
        self._is_done = True
