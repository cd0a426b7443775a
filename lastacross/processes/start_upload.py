"""Uploading queue.yaml when a process starts, as deploying did; Redis may be away just then."""

from lastacross.broker import queue_directory
from lastacross.clock import SYSTEM, Clock
from lastacross.config import Config
from lastacross.processes.step import Step
from lastacross.store import Store

# Who has children to look after must not wait long for Redis. Only a host whose name cannot be looked up
# takes longer: that has no limit of its own.
PATIENCE_SECONDS = 1.0


class StartUpload:
    """Uploads once, if the last upload said something else.

    Not for the worker processes themselves: one that is started again after a crash would undo what
    another machine has uploaded since.
    """

    def __init__(self, configuration: Config, clock: Clock = SYSTEM) -> None:
        self._configuration = configuration
        self._clock = clock
        self._step = Step("queues", self._upload)
        self._is_done = False

    def try_once(self) -> bool:
        """Try, if it is time to; returns whether it is done. What goes wrong is logged, and tried again."""
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
