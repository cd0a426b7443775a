"""The batch reload's steps in the datastore, by many at once, on SQLite and on PostgreSQL."""

import functools
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import func, insert, select

from lastacross import clock, datastore, store, taskqueue
from programs.reload import accounts
from programs.reload import runs as reloading
from programs.reload import tasks as reloads
from programs.reload.models import Account, ReloadResult, ReloadRun
from programs.reload.runs import Answer
from tests.support import uploads
from tests.support.processes import ROOT
from tests.support.redis_server import RedisServer
from tests.support.root_application import with_empty_store

T = TypeVar("T")

KEYS = [f"k-{number:03}" for number in range(100)]


@pytest.fixture(autouse=True)
def tables(new_database: Callable[[Path], str], redis_server: RedisServer, tmp_path: Path) -> Iterator[None]:
    """The tables of the application in the root in an empty database, and an empty store."""
    with with_empty_store(redis_server, tmp_path, new_database(ROOT)):
        uploads.upload(store.current(), ("default", reloads.QUEUE))
        yield


def at_once(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Call each in a thread of its own."""
    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(action) for action in actions]]


def fine(text: str = "fine") -> Answer:
    """An answer that is a status."""
    return Answer(True, 200, text, clock.SYSTEM.now(), 10)


def trouble(text: str = "trouble") -> Answer:
    """An answer that is none."""
    return Answer(False, 503, text, clock.SYSTEM.now(), 10)


def found(run_id: str) -> ReloadRun:
    """A run that is there."""
    run = reloading.find(run_id)
    assert run is not None
    return run


def test_a_run_that_several_begin_at_once_is_there_once() -> None:
    accounts.add(KEYS)

    for number in range(5):
        name = f"run-{number}"
        begun = at_once([lambda name=name: reloading.begin(name, "cron").total] * 6)  # type: ignore[misc]

        assert begun == [100] * 6
        assert list(reloading.members(name)) == KEYS
        reloading.finish(name, failed=0)
    assert taskqueue.QueueStatistics.fetch(["default"])[0].tasks == 5, "each has one task that loads it"


def test_of_runs_that_are_begun_at_once_one_is_begun() -> None:
    accounts.add(KEYS)

    for number in range(5):
        names = [f"run-{number}-{place}" for place in range(6)]
        begun = at_once([functools.partial(reloading.begin, name, "hand") for name in names])

        [one] = {run.id for run in begun}
        assert [run.id for run in reloading.unfinished()] == [one]
        reloading.finish(one, failed=0)


def test_an_account_that_many_tasks_answer_for_at_once_counts_once() -> None:
    accounts.add(KEYS[:10])
    reloading.begin("run", "cron")

    answers = [fine(), trouble(), fine("later")]
    actions = [
        functools.partial(reloading.record, "run", key, answer, 1) for answer in answers for key in KEYS[:10]
    ]
    changes = at_once(actions)

    run = found("run")
    assert run.done == 10
    news = [change for change in changes if change is not None]
    assert sorted(news) == list(range(1, run.changes + 1)), "each change has a number of its own"


def test_a_retry_that_several_ask_for_at_once_is_one() -> None:
    accounts.add(KEYS)
    reloading.begin("run", "cron")
    for key in KEYS:
        reloading.record("run", key, trouble() if key < "k-030" else fine(), 3)
    assert reloading.finish("run", failed=30)

    runs = at_once([lambda: reloading.retry("run")] * 6)

    [one] = {run.id for run in runs}
    assert list(reloading.members(one)) == KEYS[:30]
    assert taskqueue.QueueStatistics.fetch(["default"])[0].tasks == 2, "one of each run"


def test_of_retries_and_a_run_that_are_begun_at_once_one_is_begun() -> None:
    accounts.add(KEYS)
    for name in ("one", "two", "three"):
        reloading.begin(name, "cron")
        reloading.record(name, KEYS[0], trouble(), 3)
        assert reloading.finish(name, failed=1)

    retries = [functools.partial(reloading.retry, name) for name in ("one", "two", "three")] * 2
    actions: list[Callable[[], ReloadRun]] = [*retries, lambda: reloading.begin("four", "hand")]
    begun = at_once(actions)

    [goes_on] = reloading.unfinished()
    assert {run.id for run in begun} == {goes_on.id}
    retried = {name: found(name).retried_as for name in ("one", "two", "three")}
    assert {name for name, as_ in retried.items() if as_} == {goes_on.retry_of} - {None}


def test_the_end_is_kept_once_with_the_slowest_and_the_failing() -> None:
    accounts.add(KEYS)
    reloading.begin("run", "cron")
    for number, key in enumerate(KEYS):
        is_ok = number % 10 != 0
        answer = Answer(is_ok, 200 if is_ok else 500, "text", clock.SYSTEM.now(), number)
        reloading.record("run", key, answer, 1)

    assert at_once([lambda: reloading.finish("run", failed=10)] * 4).count(True) == 1

    assert found("run").failed_count == 10
    assert [each.account_key for each in reloading.failing("run").results] == KEYS[::10]
    assert [each.account_key for each in reloading.slowest("run")] == KEYS[:-11:-1]
    with datastore.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(ReloadResult)) == 19


def test_an_answer_that_is_being_written_and_the_end_do_not_wait_for_each_other() -> None:
    """On PostgreSQL each would hold a row that the other wants; SQLite has one writer at a time anyway."""
    accounts.add(KEYS)
    for number in range(2):
        name = f"run-{number}"
        reloading.begin(name, "cron")
        for key in KEYS[:50]:
            reloading.record(name, key, trouble() if key < "k-025" else fine(), 1)

        answers = [functools.partial(reloading.record, name, key, fine(), 2) for key in KEYS] * 2
        actions: list[Callable[[], object]] = [*answers]
        actions[100:100] = [functools.partial(reloading.finish, name, failed=0)] * 2
        with ThreadPoolExecutor(12) as pool:
            ends = list(pool.map(lambda action: action(), actions))[100:102]

        assert sorted(map(bool, ends)) == [False, True]
        assert found(name).done == 100


@pytest.mark.parametrize("outcome", [fine, trouble])
def test_a_run_ends_while_an_answer_is_half_written(outcome: Callable[[], Answer]) -> None:
    accounts.add(KEYS[:3])
    reloading.begin("run", "cron")
    for key in KEYS[:2]:
        reloading.record("run", key, fine() if key == KEYS[0] else trouble(), 1)
    if datastore.engine().dialect.name == "sqlite":
        assert reloading.finish("run", failed=0), "nothing is half written there while another writes"
        return

    with datastore.session() as session:
        for account_id in session.scalars(select(Account.id)).all():
            reloading._write_result(session, ("run", account_id), outcome(), 2)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(reloading.finish, "run", failed=0).result(timeout=30)


def test_a_text_that_a_database_refuses_is_kept_without_it() -> None:
    accounts.add(["anna"])
    reloading.begin("run", "cron")

    reloading.record("run", "anna", trouble("a\0b" + "ü" * 500), 1)

    [result] = reloading.failing("run").results
    assert result.answer is not None
    assert result.answer.startswith("a\ufffdbü")
    assert len(result.answer) == 300


@pytest.mark.slow
@pytest.mark.parametrize("accounts", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_many_accounts_are_loaded_in_bounded_memory(accounts: int) -> None:
    rows = ({"key": f"k-{n:06}", "is_active": True, "created_at": 0.0} for n in range(accounts))
    with datastore.session() as session:
        session.execute(insert(Account), list(rows))
    before = clock.SYSTEM.monotonic()
    run = reloading.begin("large", "cron")
    begun = clock.SYSTEM.monotonic()
    tracemalloc.start()
    reloads.fill(run.id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    filled = clock.SYSTEM.monotonic()

    print(
        f"measured {accounts:,} accounts: begun in {begun - before:.1f} s, loaded in {filled - begun:.1f} s",
        end="",
    )
    print(f" (traced), at most {peak / 1e6:.1f} MB at once")
    progress = taskqueue.Batch.get(reloading.batch_id("large")).progress()
    assert (progress.total, progress.sealed) == (accounts, True)
    assert found("large").total == accounts
    # All accounts at once would be more than 4 MB.
    assert peak < 3e6
