"""Three real schedulers, killed at random: one task for each due instant, none left out."""

import contextlib
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lastacross import config, datastore
from lastacross.broker.steps import Broker
from lastacross.config import CRON_QUEUE
from lastacross.cronruns import model, tasks
from lastacross.cronruns.recording import note
from lastacross.store import Store
from lastacross.worker.delivery import Outcome
from lastacross.worker.outcomes import OutcomeRecorder
from tests.support import databases, recording
from tests.support.judging import judged
from tests.support.processes import Started, python, started
from tests.support.redis_server import RedisServer

# Kills go on for at least so long before the first instant, and for so long after the last one.
BEFORE_SECONDS = 25
AFTER_SECONDS = 5
JOBS = 15
SECRET_KEY = "a secret key of the tests, long enough"


class Worker:
    """Runs what waits, in no time, and counts."""

    def __init__(self, opened: Store) -> None:
        self._broker = Broker(opened)
        self._recorder = OutcomeRecorder(self._broker, lambda queue: None, note)
        self._leases = 0
        self.ran: Counter[str] = Counter()

    def work(self) -> None:
        """Once."""
        self._leases += 1
        found = self._broker.lease(
            [CRON_QUEUE], token="worker", number=self._leases * 100, wanted=50, free=50, lease_seconds=60
        )
        for task in found.tasks:
            self.ran[task.name] += 1
            recording.note("run", id=task.id)
        self._recorder.record([Outcome(task, 200) for task in found.tasks])


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
    with Store(redis_server.url).redis as client:
        client.flushall()
    with judged(tmp_path / "history.jsonl", redis_server.url) as of_history:
        yield {**environ, **of_history}
    datastore.dispose()
    config.use(None)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.long
@pytest.mark.parametrize("instants", [3])
def test_schedulers_that_are_killed_make_one_task_for_each_due_instant(
    environ: dict[str, str], redis_server: RedisServer, tmp_path: Path, instants: int
) -> None:
    opened = Store(redis_server.url)
    worker, chance = Worker(opened), random.Random(5)
    kills, kill_at = 0, 0.0
    with contextlib.ExitStack() as stack:

        def scheduler() -> Started:
            return stack.enter_context(started(python("-m", "lastacross", "scheduler"), tmp_path, environ))

        running = [scheduler() for _ in range(3)]
        work_until(worker, model.jobs, 90)
        last = (math.ceil((time.time() + BEFORE_SECONDS) / 60) + instants - 1) * 60 + AFTER_SECONDS
        while time.time() < last:
            worker.work()
            time.sleep(0.1)
            # Near a full minute is where it may hurt.
            if time.time() >= kill_at or time.time() % 60 < chance.random() * 2:
                place = chance.randrange(3)
                running[place].send(signal.SIGKILL)
                running[place] = scheduler()
                kills += 1
                kill_at = time.time() + chance.uniform(2, 8)
        names = due_names(last, instants)
        work_until(worker, lambda: names <= set(worker.ran), 60)
        # A second task of the same name would run now.
        work_until(worker, lambda: False, 3)
    opened.close()

    assert kills >= 3
    assert set(worker.ran.values()) == {1}
    assert names <= set(worker.ran)
    check_history(last, instants)


def work_until(worker: Worker, is_over: Callable[[], object], seconds: float) -> None:
    """Run waiting tasks until a condition holds, or for so many seconds."""
    until = time.time() + seconds
    while not is_over() and time.time() < until:
        worker.work()
        time.sleep(0.1)


def due_instants(last: float, instants: int) -> list[float]:
    """The full minutes from the deployment of the jobs to the last moment; there are at least so many."""
    deployed_at = max(job.deployed_at for job in model.jobs())
    due = [minute * 60.0 for minute in range(int(deployed_at // 60) + 1, int(last // 60) + 1)]
    assert len(due) >= instants
    return due


def due_names(last: float, instants: int) -> set[str]:
    """The tasks of these instants: one of each job."""
    jobs, due = model.jobs(), due_instants(last, instants)
    names = {tasks.scheduled_name(job.name, instant) for job in jobs for instant in due}
    assert len(names) == JOBS * len(due)
    return names


def check_history(last: float, instants: int) -> None:
    """Each job has a finished run for each instant."""
    due = due_instants(last, instants)
    for job in model.jobs():
        history = {run.due_at: run.state for run in model.last_runs(job.name, 100)}
        assert {instant: history.get(instant) for instant in due} == dict.fromkeys(due, "done")
