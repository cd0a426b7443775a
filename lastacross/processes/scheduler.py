"""The scheduler does work that is due at set times, independently of any requests.

It starts the due jobs of the deployed cron.yaml, relays the outbox every second, checks twice a second that
the uploaded queues are the deployed ones, and occasionally tidies the datastore. Under ``lastacross dev`` it
uploads queue.yaml and cron.yaml whenever they change. Any number of schedulers may run, because each step
does nothing if another scheduler got there first.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from lastacross import config, datastore, logs, store
from lastacross.broker import Deployment, deployments, queue_directory
from lastacross.clock import SYSTEM, Clock
from lastacross.config import Config, CronEntry
from lastacross.cronruns import entries, model, ticking
from lastacross.datastore import CronJob, relay
from lastacross.deferred import payloads
from lastacross.errors import ConfigError, DatastoreError, StoreUnavailableError, UnreadableJobError
from lastacross.longtasks import expiry
from lastacross.processes import permissions, presence
from lastacross.processes.probes import Address, Notifier, Probes
from lastacross.processes.start_upload import Differences
from lastacross.processes.step import Step
from lastacross.stop_signals import handle_stop_signals
from lastacross.store import Store

log = logs.get("lastacross.scheduler")

# A new queue.yaml takes effect within two seconds: one tick, plus up to a second until other processes
# notice.
TICK_SECONDS = 0.5
# How often the datastore's jobs are compared with the deployed ones.
COMPARE_SECONDS = 1.0
# How long one step may wait for a silent Redis.
MAX_STEP_SECONDS = 20.0

Stamp = tuple[tuple[str, int, int], ...]


class QueueUpload:
    """Uploads queue.yaml to Redis when it has changed or Redis was flushed; for ``lastacross dev``."""

    def __init__(self, configuration: Config, environ: Mapping[str, str]) -> None:
        self._root = configuration.root
        self._environ = environ
        self._configuration = configuration
        # This is None, because the file may have changed since it was read at startup.
        self._seen: tuple[tuple[str, int, int], ...] | None = None
        self._has_uploaded = False

    def act(self, now: float) -> None:
        """Upload if necessary.

        Raises:
            StoreUnavailableError: Redis is not responding.
        """
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            read = self._read_again()
            # An invalid file must not undo another machine's upload.
            self._has_uploaded = self._has_uploaded and read is self._configuration
            self._configuration = read
        if self._has_uploaded:
            # Another machine's upload stays in effect until this machine's file changes, because the last
            # upload wins.
            queue_directory.upload_if_missing(store.current(), self._read_again)
            return
        queue_directory.upload_if_changed(store.current(), self._configuration)
        self._has_uploaded = True

    def _read_again(self) -> Config:
        try:
            return config.load(self._root, self._environ)
        except ConfigError as error:
            log.error("queues.unusable", error=str(error), until_then="the queues stay as they were")
            return self._configuration

    def _stamp(self) -> Stamp:
        return stamp(self._root, "queue")


class CronFile:
    """Reads the jobs of cron.yaml at startup and after each change. Without the file there are no jobs."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: Stamp | None = None
        self._was_missing = False

    def read(self) -> tuple[CronEntry, ...] | None:
        """The jobs to deploy; None if the file is unchanged or invalid."""
        found = stamp(self._root, "cron")
        if found == self._seen:
            return None
        # A file that is being replaced may be missing for a moment, but it will be back at the next check.
        is_replaced = not found and not self._was_missing
        self._was_missing = not found
        if is_replaced:
            return None
        self._seen = found
        try:
            return config.read_cron(self._root) or ()
        except ConfigError as error:
            log.error("cron.unusable", error=str(error), until_then="the jobs stay as they were")
            return None


class DeployedQueues:
    """Keeps the deployed queues in effect, whichever files this machine and others have.

    A process of the previous release uploads its own queue.yaml when it starts. This undoes that upload.
    """

    def __init__(self, configuration: Config, differences: Differences | None = None) -> None:
        self._configuration = configuration
        self._differences = differences

    def act(self, now: float) -> None:
        """Upload the deployed queues if different ones are uploaded, or the file's if none ever were.

        Raises:
            StoreUnavailableError: Redis is not responding.
        """
        opened = store.current()
        stamps = deployments.read_stamps(opened)
        if stamps.uploaded is None:
            queue_directory.upload_if_missing(opened, lambda: self._configuration)
        elif stamps.deployed is None:
            queue_directory.take_over(opened)
        elif stamps.uploaded != stamps.deployed:
            queue_directory.restore(opened, lambda: self._configuration)
            log.warning("deploy.restore", because="other queues were uploaded by a process that may not")
        if self._differences is not None:
            self._differences.warn(opened)
            self._differences = None


class DeployedCron:
    """Reads the deployed jobs at startup, after each deployment, and when others have replaced them.

    If nothing is deployed yet, the jobs in the datastore, which an earlier release deployed, become the
    deployed ones; if there are none, this folder's jobs do.
    """

    def __init__(
        self, configuration: Config, clock: Clock = SYSTEM, differences: Differences | None = None
    ) -> None:
        self._configuration = configuration
        self._clock = clock
        self._differences = differences
        self._version: str | None = None
        self._is_known = False
        self._compare_at = float("-inf")
        self._unusable: str | None = None

    def read(self) -> tuple[CronEntry, ...] | None:
        """The jobs to write to the datastore; None if they are already there.

        Raises:
            StoreUnavailableError: Redis is not responding.
            DatastoreError: the datastore is not responding.
        """
        opened = store.current()
        try:
            stamps = deployments.read_stamps(opened)
        except StoreUnavailableError:
            if not self._is_known:
                raise
            return None  # due jobs start anyway, because the outbox keeps their tasks
        now = self._clock.monotonic()
        is_new = not self._is_known or stamps.version != self._version
        if not is_new and now < self._compare_at:
            return None
        self._compare_at = now + COMPARE_SECONDS
        jobs = model.jobs()
        last = deployments.read(opened)
        # An emptied Redis has forgotten the pauses, so jobs that were paused must get their next times.
        is_new = is_new or last is None or last.cron is None
        deployed = self._deployed(opened, last, jobs)
        if self._differences is not None:
            self._differences.warn(opened)
            self._differences = None
        if deployed is None:
            return None
        self._is_known, self._version = True, stamps.version
        return None if not is_new and _are_equal(jobs, deployed) else deployed

    def _deployed(
        self, opened: Store, deployed: Deployment | None, jobs: Sequence[CronJob]
    ) -> tuple[CronEntry, ...] | None:
        text = None if deployed is None else deployed.cron
        if text is None:
            there = _readable(jobs)
            if not there and not self._configuration.has_cron_file:
                return None  # another folder has the file
            text = deployments.keep_jobs(opened, entries.dump_all(there or self._configuration.cron))
        try:
            return entries.load_all(text)
        except UnreadableJobError as error:
            if text != self._unusable:
                self._unusable = text
                log.error("cron.unusable", error=str(error), until_then="the jobs stay as they were")
            return None


def _readable(jobs: Sequence[CronJob]) -> list[CronEntry]:
    found = []
    for job in jobs:
        with contextlib.suppress(UnreadableJobError):
            found.append(entries.load_entry(job.entry))
    return found


def _are_equal(jobs: Sequence[CronJob], deployed: Sequence[CronEntry]) -> bool:
    """Whether the datastore has the deployed jobs; a row that cannot be read stays as it is."""
    if [job.name for job in jobs] != [entry.name for entry in deployed]:
        return False
    for job, entry in zip(jobs, deployed, strict=True):
        with contextlib.suppress(UnreadableJobError):
            if entries.load_entry(job.entry) != entry:
                return False
    return True


def stamp(root: Path, name: str) -> Stamp:
    """A value that changes whenever the file ``name``.yaml (or .yml) changes."""
    stamps = []
    for file in (f"{name}.yaml", f"{name}.yml"):
        path = Path(root, file)
        if path.exists():
            status = path.stat()
            stamps.append((file, status.st_mtime_ns, status.st_size))
    return tuple(stamps)


def steps(configuration: Config, environ: Mapping[str, str]) -> list[Step]:
    """All the steps of a scheduler."""
    if configuration.settings.is_dev:
        queues, read_jobs = QueueUpload(configuration, environ).act, CronFile(configuration.root).read
    else:
        differences = Differences(configuration)
        queues = DeployedQueues(configuration, differences).act
        read_jobs = DeployedCron(configuration, differences=differences).read
    return [
        Step("queues", queues),
        Step("cron", ticking.Ticker(read_jobs).act),
        Step(
            "presence",
            lambda _now: presence.beat(store.current(), configuration, "scheduler"),
            every_seconds=presence.BEAT_SECONDS,
        ),
        Step("outbox", _logged("outbox.relay", relay.relay), every_seconds=1),
        Step("outbox_sent", _logged("outbox.send_again", relay.forget_sent), every_seconds=10),
        Step("outbox_set_aside", _logged("outbox.take_up", relay.retry_set_aside), every_seconds=60),
        Step("deferred", payloads.Pruner().act, every_seconds=120),
        Step("cron_history", ticking.prune, every_seconds=600),
        Step("longtasks", expiry.Pruner().act, every_seconds=60),
    ]


def _logged(event: str, act: Callable[[float], int]) -> Callable[[float], None]:
    """Wrap the function so that the number of tasks that it returns is logged, unless it is 0."""

    def act_and_log(now: float) -> None:
        tasks = act(now)
        if tasks:
            log.info(event, tasks=tasks)

    return act_and_log


def tick(steps: Sequence[Step], clock: Clock = SYSTEM, note_turn: Callable[[], None] = lambda: None) -> None:
    """Run the due steps; never raises a step's exceptions. ``note_turn`` is called after each step."""
    for step in steps:
        step.run_if_due(clock)
        note_turn()


class Health:
    """A scheduler's health checks.

    Args:
        settings: the configuration's settings.
    """

    def __init__(self, settings: config.Settings) -> None:
        self._turn_seconds = max(settings.lease_seconds, 2 * MAX_STEP_SECONDS)
        self._store = store.Store(settings.redis_url, patience_seconds=store.PATIENCE_SECONDS)
        self._ticked_at: float | None = None

    def note_tick(self) -> None:
        """Note that the main loop is turning."""
        self._ticked_at = SYSTEM.monotonic()

    def problem(self) -> str | None:
        """The reason why the main loop is not turning; a scheduler that is starting is healthy."""
        since = 0.0 if self._ticked_at is None else SYSTEM.monotonic() - self._ticked_at
        return f"its main loop has not turned for {since:.0f} s" if since > self._turn_seconds else None

    def unreadiness(self) -> str | None:
        """The reason why no job would run: Redis or the database is unavailable."""
        if self._ticked_at is None:
            return "not started"
        try:
            with store.translated_errors():
                self._store.redis.ping()
            datastore.ping()
        except (StoreUnavailableError, DatastoreError) as error:
            return str(error)
        return None


def run(configuration: Config, health_at: Address | None = None) -> int:
    """Tick until SIGTERM, SIGINT or SIGHUP arrives.

    Args:
        configuration: the application's configuration.
        health_at: where to answer ``/healthz`` and ``/readyz``, or None.

    Returns:
        The exit code.

    Raises:
        ConfigError: ``health_at`` cannot be used.
    """
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    handle_stop_signals(stop)
    config.use(configuration)
    health = Health(configuration.settings)
    notifier = Notifier(os.environ)
    probes = Probes(health.problem, health.unreadiness, address=health_at, notifier=notifier)
    store.wait_longer()
    permissions.narrow(configuration.settings)
    log.info("scheduler.start")
    all_steps = steps(configuration, dict(os.environ))
    probes.start()
    while not stopping.wait(TICK_SECONDS):
        tick(all_steps, note_turn=health.note_tick)
    probes.close()
    datastore.dispose()
    return 0
