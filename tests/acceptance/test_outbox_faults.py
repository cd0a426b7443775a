"""Processes that commit and processes that relay are killed at random: tasks are what was committed, once."""

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from lastacross import config, datastore
from lastacross.datastore import OutboxRow
from tests.support import history, judging, outbox_process
from tests.support.evidence import State
from tests.support.history import FAIL, OK, UNKNOWN, Operation
from tests.support.lab import Lab, running_lab
from tests.support.outbox_process import landed
from tests.support.own_sessions import KINDS
from tests.support.postgres import running_postgres
from tests.support.processes import Started, kill, python, started, wait_until

pytestmark = pytest.mark.slow

EACH_NUMBER_OF_KILLS = pytest.mark.parametrize("kills", [8, pytest.param(25, marks=pytest.mark.long)])
WRITERS = len(KINDS)
SEED = 20260101


@pytest.fixture(params=["sqlite", "postgresql"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab with a datastore of its own, whose Redis keeps what it is told."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(running_lab(append_only=True))
        made.environ["LASTACROSS_APP"] = str(made.root)
        if request.param == "postgresql":
            server = stack.enter_context(running_postgres())
            made.environ["DATABASE_URL"] = server.url(server.new_database())
            made.config = config.load(made.root, made.environ)
            config.use(made.config)
        datastore.upgrade()
        stack.callback(datastore.dispose)
        outbox_process.create_table()
        yield made


class Victims:
    """Writers and schedulers, of which one dies now and then and another takes its place.

    Args:
        lab: where they work.
        stack: ends them.
    """

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        self._lab = lab
        self._stack = stack
        self.random = random.Random(SEED)
        print(f"seed {SEED}")
        self._born = 0
        self.writers = [self._writer(place) for place in range(WRITERS)]
        self.scheduler = self._scheduler()

    def kill_one(self) -> None:
        """Kill a writer, or now and then the scheduler."""
        if self.random.random() < 0.25:
            kill(self.scheduler.pid)
            self.scheduler = self._scheduler()
            return
        place = self.random.randrange(WRITERS)
        kill(self.writers[place].pid)
        self.writers[place] = self._writer(place)

    def kill_writers(self) -> None:
        """Let none write any more."""
        for writer in self.writers:
            kill(writer.pid)
            writer.wait()

    def _writer(self, place: int) -> Started:
        self._born += 1
        commits = str(commits_of(self._lab))
        return self._start(outbox_process.command("write", f"writer{self._born}", commits, KINDS[place]))

    def _scheduler(self) -> Started:
        return self._start(python("-m", "lastacross", "--app", str(self._lab.root), "scheduler"))

    def _start(self, line: list[str]) -> Started:
        return self._stack.enter_context(started(line, self._lab.root, self._lab.environ))


def check_transactions(lab: Lab) -> None:
    """Each committed row has its task, no other task runs, and each transaction is there whole or not at all.

    A commit whose end is unknown has landed if its rows are there.
    """
    rows = frozenset(landed())
    commits = [resolved(commit, rows) for commit in history.read(commits_of(lab))]
    assert {name for commit in commits if commit.outcome == OK for name in commit.asked["ids"]} == rows
    names = {run.asked["id"]: name_of(run) for run in lab.history() if run.op == "run"}
    others = [
        named(operation, names) for operation in lab.history() if operation.op in {"run", "ack", "fault"}
    ]
    judging.check([*commits, *others], State(tombstones=rows))


def resolved(commit: Operation, rows: frozenset[str]) -> Operation:
    """A commit with an unknown end: ok if all its rows are there, fail if none is."""
    names = commit.asked["ids"]
    if commit.outcome != UNKNOWN or not (rows.issuperset(names) or rows.isdisjoint(names)):
        return commit
    return replace(commit, outcome=OK if rows.issuperset(names) else FAIL)


def named(operation: Operation, names: Mapping[str, str]) -> Operation:
    """An operation of a worker, with the names of the rows instead of the tasks' ids."""
    if operation.op == "run":
        return replace(operation, asked={**operation.asked, "id": name_of(operation)})
    if operation.op == "ack":
        ids = [names[task] for task in operation.asked["ids"]]
        return replace(operation, asked={**operation.asked, "ids": ids})
    return operation


def name_of(run: Operation) -> str:
    """The row that an attempt is for."""
    return str(run.asked["url"]).rpartition("/")[2]


def commits_of(lab: Lab) -> Path:
    """The file of the writers' transactions."""
    return lab.root / "commits.jsonl"


def unsent() -> int:
    return outbox_process.count(OutboxRow, OutboxRow.sent_at.is_(None))


@EACH_NUMBER_OF_KILLS
def test_what_ran_is_what_was_committed_and_it_ran_once_whoever_is_killed(lab: Lab, kills: int) -> None:
    with contextlib.ExitStack() as stack, lab.started_workers():
        victims = Victims(lab, stack)
        wait_until(lambda: len(landed()) > 50, 60, "the writers to begin")
        for _ in range(kills):
            time.sleep(victims.random.uniform(0.1, 0.6))
            victims.kill_one()
        wait_until(lambda: len(landed()) > 200, 60, "the writers to have written")
        victims.kill_writers()
        wait_until(lambda: not unsent(), 60, "the relay to send what was left")
        lab.wait_until_idle(120)

        check_transactions(lab)


@EACH_NUMBER_OF_KILLS
def test_what_was_committed_runs_though_redis_and_the_workers_die_too(lab: Lab, kills: int) -> None:
    """Only an attempt that was cut off, or whose end was lost, may be repeated."""
    with contextlib.ExitStack() as stack, lab.started_workers() as workers:
        victims = Victims(lab, stack)
        wait_until(lambda: len(landed()) > 50, 60, "the writers to begin")
        for turn in range(kills):
            time.sleep(victims.random.uniform(0.1, 0.6))
            victims.kill_one()
            if turn % 8 == 3:
                lab.redis_server.kill()
                lab.redis_server.start()
            if turn % 8 == 7:
                kill(victims.random.choice(sorted(workers.others())))
        victims.kill_writers()
        wait_until(lambda: not unsent(), 90, "the relay to send what was left")
        lab.wait_until_idle(120)

        check_transactions(lab)


def test_a_scheduler_sends_again_what_redis_has_lost(lab: Lab) -> None:
    """Redis comes back without its last moments, as after a power cut or from an older copy."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(
            started(outbox_process.command("write", "one", str(commits_of(lab))), lab.root, lab.environ)
        )
        wait_until(lambda: len(landed()) > 50, 60, "the writer to begin")
        writer.send(signal.SIGKILL)
        writer.wait()
        lab.redis_server.flush()
        with datastore.session() as session:
            session.execute(sqlalchemy.update(OutboxRow).values(sent_at=1.0))
        stack.enter_context(lab.started_workers())
        line = python("-m", "lastacross", "--app", str(lab.root), "scheduler")
        stack.enter_context(started(line, lab.root, lab.environ))

        wait_until(lambda: len(lab.ran()) >= len(landed()), 60, "the tasks to run")
        lab.wait_until_idle(60)

        check_transactions(lab)
        # The rules excuse any loss and any repetition after a loss of Redis, but the workers came later.
        runs = Counter(name_of(run) for run in lab.history() if run.op == "run")
        assert runs == Counter(landed())
