"""The overview: whether all is running, what needs attention, and what ran in the last hour and day."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lastacross import datastore, store
from lastacross.broker import (
    DeadGroups,
    FailingTasks,
    QueueFacts,
    QueueReader,
    WorkerDirectory,
    WorkerProcess,
)
from lastacross.clock import SYSTEM
from lastacross.console import attention, cron, deployment, queues, throughput, words, workers
from lastacross.console.page import Page, RefusedError, address
from lastacross.errors import DatastoreError
from lastacross.webapp import refused_in_last_hour

OUTBOX_SECONDS = 60.0
SKEW_SECONDS = 5.0
"""The machines' clocks may differ by this much before anybody needs to know."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One fact of the banner; ``state`` is ``good``, ``warn`` or ``bad``."""

    name: str
    value: str
    more: str = ""
    state: str = "good"
    url: str = ""
    at: float | None = field(default=None)


class OverviewPage(Page):
    """The first page of the console."""

    template = "overview.html"
    title = "Overview"
    here = "overview"

    def facts(self, **route: str) -> dict[str, Any]:
        """The banner, the list of what needs attention, and the charts."""
        queue = self.query("queue")
        known = sorted(queues.directory().all())
        if queue and queue not in known:
            raise RefusedError(404, f"There is no queue {words.cut(queue)!r}.")
        now = store.current().now()
        found = QueueReader(store.current()).facts(known)
        database, jobs, outbox = _database(now)
        directory = WorkerDirectory(store.current()).all()
        unserved = workers.unserved(found, directory)
        banner = [_redis(), database, _workers(directory, now), _scheduler(jobs), _oldest(found), _clock()]
        items = [
            *attention.of_unserved(unserved),
            *attention.of_workers(directory, now),
            *attention.of_dead(DeadGroups(store.current()).all()),
            *attention.of_failing(FailingTasks(store.current()).newest()),
            *attention.of_queues(found),
            *attention.of_old_tasks(found, unserved),
            *attention.of_cron(jobs),
            *attention.of_outbox(*outbox),
            *attention.of_refused_deliveries(refused_in_last_hour(store.current())),
            *attention.of_files(deployment.different_files()),
        ]
        return {
            "banner": banner,
            "attention": attention.sorted_by_weight(items),
            "queue": queue,
            "_queues": known,
            "_charts": throughput.charts_of_queue(queue) if queue else throughput.charts_of_all(),
        }


def _redis() -> Tile:
    info = store.current().read_info()
    version = info.get("valkey_version") or info.get("redis_version") or "answers"
    memory, most = (int(info.get(name, "0")) for name in ("used_memory", "maxmemory"))
    # Show whole megabytes, because the rest changes with every look at the page.
    more = f"{memory / 1e6:,.0f} MB used" + (f" of {most / 1e6:,.0f} MB" if most else "")
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Tile("Redis", version, "it cannot write its files; look at its log and its disk", "bad")
    return Tile("Redis", version, more)


def _workers(found: Sequence[WorkerProcess], now: float) -> Tile:
    living = [each for each in found if workers.state_of(each, now) != "silent"]
    if not living:
        more = f"{len(found)} are silent" if found else "nothing runs; start one"
        return Tile("Workers", "none", more, "bad", address("workers"))
    statuses = [each.status for each in living if each.status is not None]
    busy, threads = sum(each.busy for each in statuses), sum(each.threads for each in statuses)
    state = "warn" if len(living) < len(found) else "good"
    more = f"{busy} of {words.counted(threads, 'thread')} busy"
    return Tile("Workers", words.number(len(living)), more, state, address("workers"))


def _scheduler(jobs: Sequence[dict[str, Any]]) -> Tile:
    found = [each for each in workers.others() if each["kind"] == "scheduler"]
    if found:
        host = found[0]["host"] if len(found) == 1 else f"{len(found)} of them"
        return Tile("Scheduler", "runs", f"on {host}" if len(found) == 1 else host, url=address("workers"))
    # Without cron jobs and transactional tasks, nobody will miss it.
    state = "bad" if jobs else "warn"
    return Tile("Scheduler", "none", "no cron job starts; start one", state, address("workers"))


def _database(now: float) -> tuple[Tile, Sequence[dict[str, Any]], tuple[int, int]]:
    try:
        jobs = cron.jobs(now, cron.paused())
        outbox = datastore.outbox.count_stuck(SYSTEM.now() - OUTBOX_SECONDS)
    except DatastoreError as error:
        return Tile("Database", "unavailable", str(error), "bad"), [], (0, 0)
    return (
        Tile("Database", "answers", words.counted(len(jobs), "cron job"), url=address("cron")),
        jobs,
        outbox,
    )


def _oldest(found: Sequence[QueueFacts]) -> Tile:
    waiting = [each for each in found if each.oldest_eta is not None and each.mode == "push"]
    if not waiting:
        return Tile("Oldest task", "none", "nothing waits")
    oldest = min(waiting, key=lambda each: each.oldest_eta or 0.0)
    age = oldest.oldest_age_seconds or 0.0
    state = "warn" if age > attention.OLD_SECONDS else "good"
    url = address("queues", oldest.name)
    return Tile("Oldest task", words.duration(age), f"in queue {oldest.name}", state, url, oldest.oldest_eta)


def _clock() -> Tile:
    skew = SYSTEM.now() - store.current().now()
    if abs(skew) <= SKEW_SECONDS:
        return Tile("Clock", "agrees", f"this machine and Redis, within {words.duration(SKEW_SECONDS)}")
    direction = "ahead of" if skew > 0 else "behind"
    return Tile("Clock", "differs", f"this machine is {words.duration(abs(skew))} {direction} Redis", "warn")
