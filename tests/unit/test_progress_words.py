"""How far a quilt, a count and a reload are, in words and numbers, at one instant."""

from types import SimpleNamespace
from typing import cast

import pytest

from lastacross.taskqueue import QueueStatistics
from programs.count import runs
from programs.count import view as count_view
from programs.count.models import CountInterval, CountRun
from programs.quilt import pace
from programs.quilt import pages as quilt
from programs.quilt.models import Quilt, Square
from programs.reload import view as reload_view
from programs.reload.models import ReloadRun
from programs.shared import operations

BEGAN = 1_000_000.0


def quilt_view(
    painted: int, now: float = BEGAN + 10, state: str = "running", eta_seconds: float | None = None
) -> quilt.View:
    """A quilt of 100 squares that began at ``BEGAN``."""
    row = Quilt(id="q", rows=10, columns=10, delay_ms=0, created_at=BEGAN, painted=painted)
    return quilt.View(row, now, state, 0, eta_seconds)


def count(
    counted: int, now: float = BEGAN + 10, state: str = "running", handed_out: bool = True
) -> count_view.View:
    """A count of 100 numbers in 4 intervals that began at ``BEGAN``."""
    row = CountRun(
        id="c", name="c", delay_ms=0, created_at=BEGAN, handed_out_at=BEGAN if handed_out else None
    )
    sums = runs.Sums(intervals=4, done=counted // 25, numbers=100, counted=counted)
    return count_view.View(row, now, state, 0, sums, None)


def reload(
    done: int, failed: int = 0, now: float = BEGAN + 10, state: str = "running", total: int = 100
) -> reload_view.View:
    """A reload of 100 accounts that began at ``BEGAN``."""
    row = ReloadRun(id="r", started_by="cron", created_at=BEGAN, total=total, done=done, changes=done)
    return reload_view.View(row, now, state, failed)


# --- the time it takes --------------------------------------------------------------------


def test_a_run_that_another_machines_clock_began_later_has_taken_no_time() -> None:
    """Clocks differ by seconds; a page shows no negative time."""
    views = (quilt_view(1, BEGAN - 2), count(1, BEGAN - 2), reload(1, now=BEGAN - 2))

    assert [view.elapsed_seconds for view in views] == [0, 0, 0]
    assert quilt_view(1, BEGAN + 2.5).elapsed_seconds == 2.5


def test_an_ended_run_has_taken_the_time_to_its_end() -> None:
    view = reload(100, now=BEGAN + 1000, state="done")
    view.run.finished_at = BEGAN + 65

    assert (view.elapsed_seconds, view.elapsed_text) == (65, "1 min 05 s")


@pytest.mark.parametrize(("through", "text"), [(0, "-"), (1, "0.1"), (99, "9.9"), (100, "10")])
def test_the_rate_is_counted_over_the_whole_time(through: int, text: str) -> None:
    """After ten seconds; accounts that failed are through too."""
    assert quilt_view(through).rate_text == text
    assert reload(through).rate_text == text
    assert reload(0, failed=through).rate_text == text


def test_the_rate_of_no_time_at_all_can_be_shown() -> None:
    assert (quilt_view(1, BEGAN).rate_text, reload(1, now=BEGAN).rate_text) == ("1000", "1000")


def test_the_time_left_is_named_when_a_twentieth_is_through() -> None:
    """Fewer tell too little; 90 are left after 10 took 10 seconds."""
    assert (count(4).eta_seconds, reload(4).eta_seconds) == (None, None)
    assert (count(5).eta_seconds, reload(5).eta_seconds) == (190, 190)
    assert (count(10).eta_seconds, reload(4, failed=6).eta_seconds) == (90, 90)
    assert (count(10).remaining_text, reload(10).remaining_text) == ("about 2 min", "about 2 min")
    assert (count(4).remaining_text, reload(4).remaining_text) == ("", "")


def test_the_time_left_of_a_small_run_is_named_from_the_third_on() -> None:
    assert (reload(2, total=9).eta_seconds, reload(3, total=9).eta_seconds) == (None, 20)


def test_an_ended_run_has_no_time_left() -> None:
    assert (count(50, state="failed").eta_seconds, reload(50, state="failed").eta_seconds) == (None, None)
    assert quilt_view(50, state="failed", eta_seconds=20).remaining_text == ""


@pytest.mark.parametrize(("painted", "text"), [(4, ""), (5, "about 20 s"), (50, "about 20 s")])
def test_a_quilts_time_left_is_named_when_a_twentieth_is_painted(painted: int, text: str) -> None:
    assert quilt_view(painted, eta_seconds=20).remaining_text == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "a few seconds"),
        (9.9, "a few seconds"),
        (10, "about 10 s"),
        (10.1, "about 20 s"),
        (54.9, "about 60 s"),
        (55, "about 1 min"),
        (89, "about 1 min"),
        (91, "about 2 min"),
        (3600, "about 60 min"),
    ],
)
def test_a_time_left_is_told_roughly(seconds: float, text: str) -> None:
    assert operations.roughly(seconds) == text


# --- what is said -------------------------------------------------------------------------


@pytest.mark.parametrize("through", [1, 25, 48, 99])
def test_the_headline_has_the_current_number(through: int) -> None:
    assert quilt_view(through).headline == f"{through} % done."
    assert reload(through).headline == f"{through} % through."
    assert reload(0, failed=through).headline == f"{through} % through."
    assert count(through).headline == f"{through} % counted."


def test_before_the_first_percent_the_headline_has_no_number() -> None:
    row = Quilt(id="q", rows=20, columns=20, delay_ms=0, created_at=BEGAN, painted=1)

    assert quilt.View(row, BEGAN, "running", 0).headline == "Under way."


@pytest.mark.parametrize(
    ("columns", "words"), [(1, "the only square is done."), (2, "all 2 squares are done.")]
)
def test_an_end_is_told_of_one_and_of_two(columns: int, words: str) -> None:
    row = Quilt(id="q", rows=1, columns=columns, delay_ms=0, created_at=BEGAN, painted=columns)
    squares = "1 square" if columns == 1 else "2 squares"

    assert quilt.View(row, BEGAN, "done", 0).message.endswith(words)
    assert quilt.View(row, BEGAN, "running", 0).count_text == f"{columns} of {squares} done"
    assert quilt.View(row, BEGAN, "failed", 1).message == f"Finished, but 1 of {squares} failed."


@pytest.mark.parametrize(("worker", "after_ms", "words"), [(2, 1840, ", worker 2, 1.84 s"), (None, None, "")])
def test_the_end_of_a_quilt_names_the_last_square(
    worker: int | None, after_ms: int | None, words: str
) -> None:
    row = Quilt(id="q", rows=8, columns=8, delay_ms=0, created_at=BEGAN, painted=64)
    last = Square(quilt_id="q", row=2, column=4, color="#1", position=64, worker=worker, after_ms=after_ms)

    said = quilt.View(row, BEGAN, "done", 0, last=last).message

    assert said == f"Last across the finish line: row 3, column 5{words}. All 64 squares are done."


def test_the_chart_has_a_bar_for_each_tenth_of_a_second_and_at_most_sixty() -> None:
    assert pace.buckets_of([0, 99, 100, 350, None]) == {0: 2, 1: 1, 3: 1}
    assert pace.as_text({3: 1, 0: 2}) == "0:2 3:1"
    path, most = pace.chart({0: 2, 1: 1, 3: 1})
    assert (path.count("M"), most) == (3, 20)
    assert path.startswith("M0.00 20V0.00H12.75V20Z")
    path, most = pace.chart(dict.fromkeys(range(120), 3))
    assert (path.count("M"), most) == (60, 30)
    assert pace.chart({}) == ("", 0.0)


@pytest.mark.parametrize(
    ("number", "counted", "reloaded"),
    [
        (1, "The only interval is counted", "The only account is up to date."),
        (2, "All 2 intervals are counted", "All 2 accounts are up to date."),
    ],
)
def test_the_end_of_a_run_is_told_of_one_and_of_two(number: int, counted: str, reloaded: str) -> None:
    run = CountRun(id="c", name="c", delay_ms=0, created_at=BEGAN, handed_out_at=BEGAN)
    sums = runs.Sums(intervals=number, done=number, numbers=number, counted=number)

    assert count_view.View(run, BEGAN, "done", 0, sums, None).message.startswith(counted)
    assert reload(number, state="done", total=number).message == reloaded


def test_before_the_first_it_is_said_what_is_waited_for() -> None:
    assert quilt_view(0).headline == "Waiting for the first square."
    assert reload(0).headline == "Waiting for the first response."
    assert count(0, handed_out=False).headline == "The master task waits for the backend."
    assert count(0).headline == "The master task has handed out 4 intervals."


@pytest.mark.parametrize(("through", "mark"), [(0, "0 %"), (99, "99 %")])
def test_the_title_has_whole_per_cent(through: int, mark: str) -> None:
    assert {quilt_view(through).mark, count(through).mark, reload(through).mark} == {mark}
    assert reload(0, failed=through).mark == mark


def test_the_title_of_an_ended_run_has_its_state() -> None:
    assert (quilt_view(99, state="failed").mark, reload(99, state="failed").mark) == ("Failed", "Failed")


def test_a_reload_of_no_account_is_at_no_per_cent() -> None:
    assert (reload(0, total=0).percent, reload(1, total=1).percent) == (0, 100)


def test_failed_accounts_can_be_tried_again_once_and_when_all_is_over() -> None:
    assert reload(99, failed=1, state="failed").can_retry
    assert not reload(99, failed=1).can_retry
    assert not reload(100, state="done").can_retry
    taken_over = reload(99, failed=1, state="failed")
    taken_over.run.retried_as = "r2"
    assert not taken_over.can_retry


def test_a_browser_asks_again_for_what_has_changed_only() -> None:
    taken_over = reload(99, failed=1, state="failed")
    taken_over.run.retried_as = "r2"
    views = [reload(99), reload(100), reload(99, failed=1), reload(99, failed=1, state="failed"), taken_over]

    assert len({view.etag for view in views}) == 5
    assert reload(99).etag == reload(99, now=BEGAN + 11).etag
    assert count(50).etag == count(50, now=BEGAN + 11).etag != count(50, state="failed").etag


def interval(**values: object) -> CountInterval:
    """The interval from 1 to 10."""
    return CountInterval(run_id="c", place=1, first=1, last=10, **{"counted": 0, **values})


@pytest.mark.parametrize(
    ("values", "state", "text"),
    [
        ({}, "running", "waiting"),
        ({"counted": 3}, "running", "given back, 3 of 10"),
        ({"counted": 3, "instance": "counter-1"}, "running", "counter-1 counts, 3 of 10"),
        ({"counted": 3}, "failed", "not counted, 3 of 10"),
        ({}, "cancelled", "not counted"),
        ({"counted": 10, "numbers": "[1]"}, "running", "10 numbers"),
    ],
)
def test_an_interval_says_who_counts_it_and_how_far(values: dict[str, object], state: str, text: str) -> None:
    assert count_view.interval_text(interval(**values), count(50, state=state)) == text


def test_the_oldest_task_of_a_queue_is_told_as_an_instant() -> None:
    """App Engine counts microseconds."""
    queue = SimpleNamespace(
        queue=SimpleNamespace(name="subtasks"),
        tasks=2,
        in_flight=1,
        executed_last_minute=3,
        oldest_eta_usec=1_000_000_000_000_000,
        enforced_rate=2.5,
    )

    told = count_view.queue_json(cast(QueueStatistics, queue))

    assert (told["oldest_eta"] or "")[:19] == "2001-09-09T01:46:40"
    texts = count_view.queue_texts(told)
    assert (texts["oldest_eta"], texts["enforced_rate"]) == ("01:46:40", "2.5/s")
    queue.oldest_eta_usec = queue.enforced_rate = None
    texts = count_view.queue_texts(count_view.queue_json(cast(QueueStatistics, queue)))
    assert (texts["oldest_eta"], texts["enforced_rate"]) == ("-", "-")
