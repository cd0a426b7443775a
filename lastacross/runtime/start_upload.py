"""Uploading queue.yaml when a process starts, as deploying did; Redis may be away just then."""

from lastacross.clock import SYSTEM, Clock
from lastacross.config import Config
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from lastacross.taskqueue import settings

PAUSE_SECONDS = 1.0
# A supervisor has children to look after: it must not wait long for Redis.
PATIENCE_SECONDS = 1.0


class StartUpload:
    """Uploads once, if the last upload said something else.

    Not for the worker processes themselves: one that is started again after a crash would undo what
    another machine has uploaded since.

    Args:
        configuration: as this process has read it.
        clock: when to try again.
    """

    def __init__(self, configuration: Config, clock: Clock = SYSTEM) -> None:
        self._configuration = configuration
        self._clock = clock
        self._try_at = float("-inf")

    def try_once(self) -> bool:
        """Try, if it is time to; returns whether it is done."""
        now = self._clock.monotonic()
        if now < self._try_at:
            return False
        self._try_at = now + PAUSE_SECONDS
        store = Store(self._configuration.settings.redis_url, patience_seconds=PATIENCE_SECONDS)
        try:
            settings.upload_if_changed(store, self._configuration)
        except StoreUnavailableError:
            return False
        finally:
            store.close()
        return True
