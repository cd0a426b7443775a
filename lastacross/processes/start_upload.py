"""Compares a starting process's files with the deployed ones, even if Redis is unavailable at first."""

from lastacross import logs
from lastacross.broker import deployments, queue_directory
from lastacross.clock import SYSTEM, Clock
from lastacross.config import Config
from lastacross.cronruns import entries
from lastacross.processes.step import Step
from lastacross.store import Store

# A process that has children must not wait long for Redis. Only looking up the host name may take longer,
# because lookups have no time limit.
PATIENCE_SECONDS = 1.0
REMEDY = "`lastacross deploy` in this folder puts its files into effect; until then the deployed ones apply"

log = logs.get("lastacross.deploy")


class StartUpload:
    """Uploads queue.yaml once if nothing has ever been uploaded, or warns once if the deployed files differ.

    Under ``lastacross dev`` it uploads a file that differs. Worker processes must not use it, because under
    ``dev`` a worker that restarts after a crash would undo a later upload.
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
            if self._configuration.settings.is_dev:
                queue_directory.upload_if_changed(store, self._configuration)
            elif not queue_directory.upload_if_missing(store, lambda: self._configuration):
                Differences(self._configuration).warn(store)
        finally:
            store.close()
        self._is_done = True


class Differences:
    """Warns once about each of a process's files that differs from the deployed one."""

    def __init__(self, configuration: Config) -> None:
        self._configuration = configuration
        self._named: set[str] = set()

    def warn(self, store: Store) -> None:
        """Log a warning if any file that no earlier warning has named differs.

        Raises:
            TransientError: Redis is unavailable.
        """
        files = [name for name in different_files(store, self._configuration) if name not in self._named]
        if files:
            self._named.update(files)
            log.warning("deploy.differs", files=files, remedy=REMEDY)


def different_files(store: Store, configuration: Config) -> list[str]:
    """The names of a folder's files that differ from the deployed ones; empty if nothing is deployed.

    Raises:
        TransientError: Redis is unavailable.
    """
    deployed = deployments.read(store)
    if deployed is None:
        return []
    cron = entries.dump_all(configuration.cron)
    return deployed.differences(queue_directory.upload_of(configuration), configuration, cron)
