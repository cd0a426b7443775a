"""Three real schedulers, killed at random over minutes: one task for each due instant, none left out."""

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import config, datastore
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import model, tasks
from lastacross.runtime.delivery import Outcome
from lastacross.runtime.settle import Settler
from lastacross.store import Store
from lastacross.taskqueue.broker import Broker
from tests.support import databases
from tests.support.processes import Started, python, started
from tests.support.redis_server import RedisServer

# Two full minutes come in them, though it take half a minute until the first scheduler has deployed.
SECONDS = 150
JOBS = 15
SECRET_KEY = "a secret key of the tests, long enough"


class Worker:
    """Runs what waits, in no time, and counts."""

    def __init__(self, opened: Store) -> None:
        self._broker = Broker(opened)
        self._settler = Settler(self._broker, lambda queue: None)
        self._leases = 0
        self.ran: Counter[str] = Counter()

    def work(self) -> None:
        """Once."""
        self._leases += 1
        found = self._broker.lease(
            [CRON_QUEUE], token="worker", number=self._leases * 100, wanted=50, free=50, lease_seconds=60
        )
        self.ran.update(task.name for task in found.tasks)
        self._settler.settle([Outcome(task, 200) for task in found.tasks])


@pytest.fixture
def environ(app_root: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A folder with fifteen jobs of each minute, its datastore in use, an empty Redis."""
    lines = [f"- url: /job{number}\n  schedule: every 1 minutes synchronized\n" for number in range(JOBS)]
    (app_root / "cron.yaml").write_text("cron:\n" + "".join(lines))
    environ = {
        "REDIS_URL": redis_server.url,
        "SECRET_KEY": SECRET_KEY,
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
        "LASTACROSS_APP": str(app_root),
    }
    config.use(config.load(app_root, environ))
    databases.upgrade()
    yield environ
    datastore.dispose()
    config.use(None)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_schedulers_that_are_killed_make_one_task_for_each_due_instant(
    environ: dict[str, str], redis_server: RedisServer, tmp_path: Path
) -> None:
    opened = Store(redis_server.url)
    opened.redis.flushall()
    worker, chance = Worker(opened), random.Random(5)
    first = time.time()
    kills = 0
    with contextlib.ExitStack() as stack:

        def scheduler() -> Started:
            return stack.enter_context(started(python("-m", "lastacross", "scheduler"), tmp_path, environ))

        running = [scheduler() for _ in range(3)]
        kill_at = first + 5
        while time.time() < first + SECONDS:
            worker.work()
            time.sleep(0.1)
            # Near a full minute is where it may hurt.
            if time.time() >= kill_at or time.time() % 60 < chance.random() * 2:
                place = chance.randrange(3)
                running[place].send(signal.SIGKILL)
                running[place] = scheduler()
                kills += 1
                kill_at = time.time() + chance.uniform(2, 8)
        last = time.time()
        settled_at = last + 20
        while time.time() < settled_at:
            worker.work()
            time.sleep(0.1)
    opened.close()

    assert kills >= 10
    assert set(worker.ran.values()) == {1}
    check_due(worker.ran, last)


def check_due(ran: Counter[str], last: float) -> None:
    """At least two instants came due until the last moment, and each has one task of each job, which ran."""
    # Before the first scheduler was up, nobody had deployed; what is due at the very end may be under way.
    jobs = model.jobs()
    deployed_at = max(job.deployed_at for job in jobs)
    due = [minute * 60.0 for minute in range(int(deployed_at // 60) + 1, int(last // 60) + 1)]
    assert len(due) >= 2
    names = [tasks.scheduled_name(job.name, instant) for job in jobs for instant in due]
    assert len(set(names)) == JOBS * len(due)
    assert {name: ran[name] for name in names} == dict.fromkeys(names, 1)
    for job in jobs:
        history = {run.due_at: run.state for run in model.last_runs(job.name, 100)}
        assert {instant: history.get(instant) for instant in due} == dict.fromkeys(due, "done")
