"""The release step: updates the tables and puts a folder's files into effect on all machines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lastacross import datastore, store
from lastacross.broker import Broker, Deployment, Listing, queue_directory
from lastacross.config import CRON_QUEUE, Config
from lastacross.cronruns import entries, model
from lastacross.errors import DatastoreError
from lastacross.processes.start_upload import different_files


@dataclass(frozen=True)
class Harm:
    """The work that a deployment would stop.

    Attributes:
        queues: the queues that would be disabled although they have tasks, with their task counts.
        jobs: the cron jobs that would be deleted while they are running.
    """

    queues: dict[str, int]
    jobs: tuple[str, ...]

    def sentences(self) -> Iterator[str]:
        """Describe each affected queue and job."""
        for name, tasks in self.queues.items():
            yield (
                f"queue.yaml does not list the queue {name}, which would be disabled and keep its "
                f"{tasks} {'task' if tasks == 1 else 'tasks'} undelivered"
            )
        for name in self.jobs:
            yield f"cron.yaml does not have the job {name}, which would be deleted during a run"


@dataclass(frozen=True)
class Deployed:
    """The result of a deployment: the deployment itself, and the revisions that were applied, by owner."""

    deployment: Deployment
    files: tuple[str, ...]
    revisions: tuple[tuple[str, Sequence[str]], ...]


def harm_of(configuration: Config) -> Harm:
    """Find the work that deploying this folder would stop.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    return Harm(_emptied_queues(configuration), _dropped_jobs(configuration))


def _emptied_queues(configuration: Config) -> dict[str, int]:
    if not configuration.has_queue_file:
        return {}
    broker, listing = Broker(store.current()), Listing(store.current())
    directory = queue_directory.current()
    directory.refresh(is_urgent=True)
    found = {}
    for name, queue in sorted(directory.all().items()):
        if queue.is_disabled or name in configuration.queues or name == CRON_QUEUE:
            continue
        # The completion tasks of its batches are also waiting.
        tasks = broker.read_statistics(name)[0].tasks + listing.count([name])[name]["waiting"]
        if tasks:
            found[name] = tasks
    return found


def _dropped_jobs(configuration: Config) -> tuple[str, ...]:
    if not configuration.has_cron_file:
        return ()
    kept = {entry.name for entry in configuration.cron}
    try:
        running = {run.job for run in model.open_runs()}
        return tuple(job.name for job in model.jobs() if job.name in running and job.name not in kept)
    except DatastoreError:
        # Before the first migration there are no jobs; any other problem makes the migration that follows
        # fail.
        return ()


def deploy(configuration: Config) -> Deployed:
    """Update the tables, and put the folder's files into effect on all machines.

    A folder without a queue.yaml leaves the deployed queues in effect, and one without a cron.yaml leaves the
    deployed jobs.

    Raises:
        StoreUnavailableError: Redis is not responding.
        DatastoreError: the tables cannot be updated.
    """
    opened = store.current()
    done = datastore.upgrade(configuration.settings.database_url, configuration.root)
    files = tuple(different_files(opened, configuration))
    cron = entries.dump_all(configuration.cron) if configuration.has_cron_file else None
    deployment = queue_directory.deploy(
        opened, configuration, cron=cron, cause="deploy", keeps_cron=cron is None
    )
    if configuration.has_cron_file:
        # This fails if another process deploys at the same time, and must then be repeated.
        while not model.deploy(configuration.cron, opened.now()):
            pass
    revisions = tuple((each.owner, tuple(each.revisions)) for each in done if each.revisions)
    return Deployed(deployment, files, revisions)
