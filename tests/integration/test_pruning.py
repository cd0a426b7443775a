"""What is older than thirty days goes a few rows at a time, on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

import main
from lastacross import datastore
from programs.count import pages as count
from programs.count import runs
from programs.count.models import INTERVAL_NUMBERS, MAX_INTERVALS, CountInterval, CountLine, CountRun
from programs.quilt import models
from programs.quilt.models import Quilt, Square
from programs.reload.models import ReloadResult, ReloadRun
from programs.shared import pruning
from tests.support.processes import ROOT
from tests.support.root_application import configured

NOW = 1_800_000_000.0
DAY = 86_400.0
TABLES = (Quilt, Square, CountRun, CountInterval, CountLine, ReloadRun, ReloadResult)
SIZES = {Quilt: 1, Square: 12, CountRun: 1, CountInterval: 3, CountLine: 4, ReloadRun: 1, ReloadResult: 9}
"""Rows of one quilt, one count and one reload."""


@pytest.fixture(autouse=True)
def tables(new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[None]:
    """The tables of the application in the root, in an empty database."""
    with configured(new_database(ROOT), tmp_path):
        yield


def add(name: str, days: float, finished_days: float | None) -> None:
    """Add a quilt, a count and a reload that began and ended so many days ago."""
    began = NOW - days * DAY
    times: dict[str, Any] = {
        "created_at": began,
        "finished_at": None if finished_days is None else NOW - finished_days * DAY,
    }
    with datastore.session() as session:
        session.add(Quilt(id=name, rows=3, columns=4, delay_ms=0, painted=12, **times))
        session.add(CountRun(id=name, name=name, delay_ms=0, **times))
        session.add(ReloadRun(id=name, started_by="cron", total=9, **times))
        session.flush()
        session.add_all(
            Square(quilt_id=name, row=place // 4, column=place % 4, color="#1", position=place + 1)
            for place in range(12)
        )
        session.add_all(CountInterval(run_id=name, place=place, first=1, last=2) for place in range(3))
        session.add_all(
            CountLine(run_id=name, number=number, at=began, instance="a", text="b") for number in range(4)
        )
        session.add_all(
            ReloadResult(run_id=name, account_id=number, account_key=f"k-{number}") for number in range(9)
        )


def names_left() -> set[str]:
    """The runs that are there, each with all that belongs to it."""
    with datastore.session(read_only=True) as session:
        left = set(session.scalars(select(Quilt.id)))
        assert left == set(session.scalars(select(CountRun.id))) == set(session.scalars(select(ReloadRun.id)))
    for table, size in SIZES.items():
        assert count_of(table) == size * len(left), table
    return left


def prune(now: float) -> bool:
    """Prune as the application does."""
    return pruning.prune(main.PruneHandler.kept, now)


def count_of(table: type[datastore.Model]) -> int:
    """How many rows there are."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_what_ended_more_than_thirty_days_ago_goes_with_all_that_belongs_to_it() -> None:
    add("old", 31, 30.1)
    add("began-long-ago", 40, 29.9)
    add("new", 29, 28)
    add("runs", 1, None)
    add("lost", 31, None)

    assert prune(NOW)

    assert names_left() == {"began-long-ago", "new", "runs"}
    assert prune(NOW)
    assert names_left() == {"began-long-ago", "new", "runs"}


def test_a_call_deletes_its_share_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "MAX_ROWS", 5)
    monkeypatch.setattr(pruning, "MAX_STEPS", 4)
    for number in range(4):
        add(f"old-{number}", 31 + number, 31)
    add("new", 1, 1)

    rows = [sum(count_of(table) for table in TABLES)]
    calls = 0
    while not prune(NOW):
        rows.append(sum(count_of(table) for table in TABLES))
        calls += 1
        # One that is interrupted has deleted whole portions, and what is left belongs to something.
        assert 5 <= rows[-2] - rows[-1] <= 5 * (4 + len(TABLES))

    assert calls >= 3
    assert names_left() == {"new"}


def limit(monkeypatch: pytest.MonkeyPatch, runs: float) -> None:
    """Let there be room for so many of the runs of ``add``, of each kind."""
    sizes = (12 + 1, 3 * (2 + INTERVAL_NUMBERS), 9)
    kept = main.PruneHandler.kept
    limited = [replace(each, max_size=int(runs * size)) for each, size in zip(kept, sizes, strict=True)]
    monkeypatch.setattr(main.PruneHandler, "kept", limited)


def test_of_too_many_the_oldest_go_that_have_ended_or_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 3.5)
    add("lost", 2, None)
    add("runs", 0.9, None)
    for number, name in enumerate(["first", "second", "third", "fourth", "fifth"]):
        add(name, 0.8 - number / 10, 0)

    assert prune(NOW)

    assert names_left() == {"runs", "third", "fourth", "fifth"}
    limit(monkeypatch, 4)
    assert prune(NOW)
    assert names_left() == {"runs", "third", "fourth", "fifth"}, "there is just enough room"
    limit(monkeypatch, 0.5)
    assert prune(NOW)
    assert names_left() == {"runs"}, "one alone that is too large goes, too"


def add_sized(name: str, days: float, squares: int, numbers: int, results: int) -> None:
    """Add a quilt, a count and a reload that have ended, of these sizes, without their rows."""
    began = NOW - days * DAY
    times: dict[str, Any] = {"created_at": began, "finished_at": began}
    with datastore.session() as session:
        session.add(Quilt(id=name, rows=1, columns=squares, delay_ms=0, painted=squares, **times))
        session.add(CountRun(id=name, name=name, delay_ms=0, **times))
        session.add(ReloadRun(id=name, started_by="cron", total=results, **times))
        session.flush()
        session.add(CountInterval(run_id=name, place=0, first=1, last=numbers))


def test_there_is_room_for_6_million_squares_80_million_numbers_and_2_million_results() -> None:
    """A quilt counts for one square more than it has, and an interval for 44 numbers more."""
    add_sized("new", 1, 3_000_000 - 1, 40_000_000 - 44, 1_000_000)
    add_sized("old", 2, 3_000_000 - 1, 40_000_000 - 44, 1_000_000)
    assert prune(NOW)
    assert [count_of(table) for table in (Quilt, CountRun, ReloadRun)] == [2, 2, 2]

    with datastore.session() as session:
        for quilt in session.scalars(select(Quilt).where(Quilt.id == "new")):
            quilt.columns += 1
        for interval in session.scalars(select(CountInterval).where(CountInterval.run_id == "new")):
            interval.last += 1
        for run in session.scalars(select(ReloadRun).where(ReloadRun.id == "new")):
            run.total += 1
    assert prune(NOW)

    with datastore.session(read_only=True) as session:
        for table in (Quilt, CountRun, ReloadRun):
            assert session.scalars(select(table.id)).all() == ["new"]


def test_a_transaction_deletes_at_most_500_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    add("old", 31, 31)
    with datastore.session() as session:
        session.add_all(
            Square(quilt_id="old", row=9 + place, column=0, color="#1", position=13 + place)
            for place in range(1_001 - 12)
        )
        session.add_all(
            CountInterval(run_id="old", place=place, first=1, last=2)
            for place in range(3, count.MAX_INTERVALS)
        )
    portions: dict[str, list[int]] = {}
    delete = pruning.Old.__call__

    def noted(old: pruning.Old, max_rows: int) -> int:
        before = sum(count_of(table) for table in TABLES)
        gone = delete(old, max_rows)
        portions.setdefault(old.table.__name__, []).append(before - sum(count_of(table) for table in TABLES))
        return gone

    monkeypatch.setattr(pruning.Old, "__call__", noted)

    assert prune(NOW)

    assert portions["Square"] == [500, 500, 1]
    assert max(max(each) for each in portions.values()) == 500
    assert names_left() == set()


def test_a_count_is_deleted_as_many_rows_as_the_form_lets_it_have() -> None:
    """A count has at most so many intervals, and so a portion of 500 rows is five counts."""
    assert MAX_INTERVALS == count.MAX_INTERVALS


def test_of_a_run_that_is_too_much_nothing_is_left_wherever_a_call_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruning, "MAX_ROWS", 2)
    monkeypatch.setattr(pruning, "MAX_STEPS", 3)
    limit(monkeypatch, 5.5)
    for number in range(6):
        add(f"run-{number}", 6 - number, 1)

    while not prune(NOW):
        pass

    assert names_left() == {f"run-{number}" for number in range(1, 6)}
    before = [count_of(table) for table in TABLES]
    limit(monkeypatch, 1_000)
    assert prune(NOW)
    assert [count_of(table) for table in TABLES] == before
    # Five runs of each kind, whole.
    assert count_of(ReloadResult) == 5 * 9
    assert (count_of(CountInterval), count_of(CountLine), count_of(Square)) == (5 * 3, 5 * 4, 5 * 12)


def count_all(intervals: list[tuple[int, int]]) -> None:
    """Count a run's intervals to the end, as its tasks do."""
    run, instance = (
        CountRun(id="r" * 22, name="large", delay_ms=0, created_at=NOW),
        "counter on web-7f9c4d, 12345",
    )
    assert runs.begin(run, intervals)
    for place, (first, last) in enumerate(intervals):
        runs.claim(run.id, place, instance, retry_count=0)
        runs.finish_interval(run.id, place, range(first, last + 1), instance)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("numbers", [12, 80])
def test_a_count_of_the_largest_numbers_takes_up_no_more_than_it_counts_for(numbers: int) -> None:
    def disk_bytes() -> int:
        with datastore.engine().connect() as connection:
            return 4096 * int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())

    starts = range(900_000_000, 900_100_000, 1000)
    empty = disk_bytes()

    count_all([(first, first + numbers - 1) for first in starts])

    assert 0 < disk_bytes() - empty <= 12 * 100 * (numbers + INTERVAL_NUMBERS)


def test_two_at_once_and_a_task_that_still_colours_a_square_are_in_nobodys_way() -> None:
    for number in range(6):
        add(f"old-{number}", 31, None)
    add("new", 1, None)

    def paint() -> None:
        for number in range(6):
            models.paint(f"old-{number}", 9, 9, "#2")
        models.paint("new", 2, 3, "#2")

    with ThreadPoolExecutor(3) as pool:
        prunings = [pool.submit(prune, NOW) for _ in range(2)]
        painting = pool.submit(paint)
        assert all(each.result() for each in prunings)
        painting.result()

    assert prune(NOW)
    assert names_left() == {"new"}


def test_the_rows_that_go_are_found_by_an_index() -> None:
    engine = datastore.engine()
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            for table in ("quilt", "count_run", "reload_run"):
                query = f"SELECT id FROM {table} WHERE created_at < 1.0 AND finished_at IS NULL"
                [plan] = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
                assert f"INDEX ix_{table}_created_at" in plan[3]
    else:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT indexname FROM pg_indexes").scalars().all()
        assert {f"ix_{table}_created_at" for table in ("quilt", "count_run", "reload_run")} <= set(found)
