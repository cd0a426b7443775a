"""The counting program's runs in the datastore, by many at once, on SQLite and on PostgreSQL."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lastacross import datastore
from programs.count import runs
from programs.count.models import CountLine, CountRun
from tests.support.processes import ROOT
from tests.support.root_application import configured


@pytest.fixture(autouse=True)
def tables(new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[None]:
    """The tables of the application in the root, in an empty database."""
    with configured(new_database(ROOT), tmp_path):
        yield


def new_run(run_id: str = "one", name: str = "seed", created_at: float = 1.0) -> CountRun:
    """A run that is not written down."""
    return CountRun(id=run_id, name=name, delay_ms=0, created_at=created_at)


def at_once(actions: list[Callable[[], object]]) -> list[object]:
    """Call each in a thread of its own."""
    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(action) for action in actions]]


def test_a_run_that_several_write_down_at_once_is_there_once() -> None:
    for number in range(10):
        name = f"run-{number}"
        begun = at_once([lambda name=name: runs.begin(new_run(name, name), [(1, 3), (4, 6)])] * 6)  # type: ignore[misc]

        assert begun == [True] * 6
        run = runs.find(name)
        assert run is not None
        assert [(each.first, each.last) for each in runs.intervals_of(run.id)] == [(1, 3), (4, 6)]


def test_a_newer_run_of_the_name_takes_the_place_of_the_older_whole() -> None:
    runs.begin(new_run(), [(1, 3), (4, 6)])
    runs.note("one", "counter 1", "a line")

    assert runs.begin(new_run("two", created_at=2.0), [(7, 8)])
    assert not runs.begin(new_run("one", created_at=1.0), [(1, 3)])

    assert runs.intervals_of("one") == []
    with datastore.session(read_only=True) as session:
        assert session.query(CountLine).count() == 0
    found = runs.find("seed")
    assert found is not None
    assert found.id == "two"
    assert runs.claim("one", 0, "counter 1", retry_count=0) is None


def test_changes_by_many_at_once_are_numbered_without_a_double() -> None:
    runs.begin(new_run(), [(1, 10), (11, 20)])

    changes = at_once([lambda: runs.note("one", "counter 1", "a line")] * 8)
    changes += at_once([lambda: runs.keep("one", random.randrange(2), 1)] * 8)

    assert sorted(changes, key=str) == sorted(range(1, 17), key=str)
    run = runs.find("seed")
    assert run is not None
    assert run.changes == 16
    assert [line.number for line in runs.lines_of(run)] == list(range(1, 9))


def test_a_result_is_kept_once_whoever_brings_it() -> None:
    runs.begin(new_run(), [(1, 3)])

    changes = at_once([lambda: runs.finish_interval("one", 0, [1, 2, 3], "counter 1")] * 6)

    assert len([change for change in changes if change is not None]) == 1
    [interval] = runs.intervals_of("one")
    assert interval.result == [1, 2, 3]
    assert runs.sums_of("one") == runs.Sums(intervals=1, done=1, numbers=3, counted=3)
    run = runs.find("seed")
    assert run is not None
    assert [line.text for line in runs.lines_of(run)] == ["1-3: 1, 2, 3"]


def test_a_cancelled_run_takes_no_numbers_any_more_and_one_that_is_gone_none_at_all() -> None:
    """Its subtasks may still be running."""
    runs.begin(new_run(), [(1, 3)])
    runs.end("one", "a visitor", is_cancelled=True)

    for run_id, place in (("one", 0), ("two", 0)):
        assert runs.claim(run_id, place, "counter 1", retry_count=0) is None
        assert runs.keep(run_id, place, 2) is None
        assert runs.finish_interval(run_id, place, [1, 2, 3], "counter 1") is None

    [interval] = runs.intervals_of("one")
    assert (interval.counted, interval.result, interval.instance) == (0, None, None)


def test_an_interval_that_a_run_does_not_have_takes_no_numbers() -> None:
    runs.begin(new_run(), [(1, 3)])

    assert runs.claim("one", 1, "counter 1", retry_count=0) is None
    assert runs.keep("one", 1, 2) is None
    assert runs.finish_interval("one", 1, [1, 2, 3], "counter 1") is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (3, "1, 2, 3"),
        (12, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
        (13, "1, 2, 3, 4, 5, 6, 7, 8, …, 12, 13"),
    ],
)
def test_many_numbers_are_shown_by_the_first_and_the_last(count: int, text: str) -> None:
    assert runs.shortened(range(1, count + 1)) == text


def test_the_end_of_a_run_is_kept_once() -> None:
    runs.begin(new_run(), [(1, 3)])

    changes = at_once([lambda: runs.end("one", "counter 1", is_cancelled=False)] * 6)

    assert len([change for change in changes if change is not None]) == 1


def test_an_interval_is_released_by_who_holds_it_only() -> None:
    runs.begin(new_run(), [(1, 9)])
    runs.claim("one", 0, "counter 1", retry_count=0)
    runs.claim("one", 0, "counter 2", retry_count=1)

    assert runs.release("one", 0, "counter 1", 5) is None
    assert runs.release("one", 0, "counter 2", 3) is not None
    [interval] = runs.intervals_of("one")
    assert (interval.instance, interval.counted) == (None, 3)


def test_the_recent_runs_are_the_newest_twenty() -> None:
    for number in range(25):
        runs.begin(new_run(f"id-{number}", f"run-{number}", float(number)), [(1, 2)])
    runs.finish_interval("id-24", 0, [1, 2], "counter 1")
    runs.end("id-24", "counter 1", is_cancelled=False)
    runs.end("id-23", "a visitor", is_cancelled=True)
    runs.end("id-22", "counter 1", is_cancelled=False)

    listed = runs.recent()

    assert [row.run.name for row in listed] == [f"run-{number}" for number in range(24, 4, -1)]
    assert [row.state for row in listed[:4]] == ["done", "cancelled", "failed", "ready"]
