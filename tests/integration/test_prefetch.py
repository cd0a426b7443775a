"""How many tasks a worker has in advance: by what it has run just now, fewer when others could run them."""

import threading
from collections.abc import Callable, Iterator

import pytest

from lastacross.broker.record import Leased
from lastacross.worker.delivery import Outcome
from lastacross.worker.leasing import (
    FIRST_PREFETCH,
    MAX_PREFETCH,
    PREFETCH_SECONDS,
    SLOW_TASK_SECONDS,
    SURPLUS_FACTOR,
    Prefetch,
)
from lastacross.worker.runners import Runners
from tests.support.clock import StoppedClock
from tests.support.leased import leased
from tests.support.processes import wait_until

THREADS = 2
# By a hair more than it has to be: floats of a clock do not add up.
MOMENT = PREFETCH_SECONDS + 1e-6


@pytest.fixture
def clock() -> StoppedClock:
    """The time that both go by."""
    return StoppedClock()


@pytest.fixture
def may_end() -> threading.Event:
    """Ends the tasks that run."""
    return threading.Event()


@pytest.fixture
def busy(clock: StoppedClock, may_end: threading.Event) -> Iterator[Runners]:
    """Threads that all run a task, as long as the test does."""

    def deliver(task: Leased) -> Outcome:
        may_end.wait(20)
        return Outcome(task, 200)

    made = Runners(
        THREADS,
        deliver,
        deliver_suspect=deliver,
        suspect_lanes=1,
        table=None,
        on_outcome=lambda: None,
        clock=clock,
    )
    made.start()
    made.put([leased(name=f"runs-{number}") for number in range(THREADS)])
    wait_until(lambda: made.is_full)
    yield made
    may_end.set()
    made.stop()


@pytest.fixture
def prefetch(busy: Runners, clock: StoppedClock) -> Prefetch:
    """It has seen nothing end yet."""
    return Prefetch(busy, clock=clock)


@pytest.fixture
def ends(prefetch: Prefetch, clock: StoppedClock) -> Callable[[float], None]:
    """Tasks have ended for a while, so many a second."""

    def note(per_second: float) -> None:
        clock.advance(MOMENT)
        prefetch.note_ended(round(per_second * PREFETCH_SECONDS))

    return note


def put(runners: Runners, count: int) -> None:
    """So many more wait."""
    runners.put([leased(name=f"waits-{number}") for number in range(count)])


def test_who_has_run_nothing_yet_leases_some(prefetch: Prefetch) -> None:
    assert (prefetch.wanted, prefetch.kept) == (FIRST_PREFETCH, None)


@pytest.mark.parametrize(
    ("per_second", "wanted"),
    [
        (10, THREADS),
        (THREADS / PREFETCH_SECONDS, THREADS),
        (70 / PREFETCH_SECONDS, 70),
        (1_000_000, MAX_PREFETCH),
    ],
)
def test_it_leases_what_it_runs_in_a_moment(
    prefetch: Prefetch, ends: Callable[[float], None], per_second: float, wanted: int
) -> None:
    ends(per_second)

    assert prefetch.wanted == wanted


def test_ends_within_the_moment_count_together(prefetch: Prefetch, clock: StoppedClock) -> None:
    for _ in range(4):
        clock.advance(MOMENT / 4)
        prefetch.note_ended(20)

    assert prefetch.wanted == 80


def test_the_time_without_tasks_does_not_count(
    prefetch: Prefetch, busy: Runners, may_end: threading.Event, clock: StoppedClock
) -> None:
    may_end.set()
    wait_until(lambda: busy.take_outcomes(THREADS) == [] and busy.is_idle)
    clock.advance(10)

    prefetch.note_leased()
    clock.advance(MOMENT)
    prefetch.note_ended(70)

    assert prefetch.wanted == 70


def test_time_in_which_tasks_run_does(prefetch: Prefetch, clock: StoppedClock) -> None:
    clock.advance(SLOW_TASK_SECONDS * 0.9)

    prefetch.note_leased()
    prefetch.note_ended(1)

    assert prefetch.wanted == THREADS


def test_it_leases_more_when_less_than_half_is_left(prefetch: Prefetch, busy: Runners) -> None:
    put(busy, FIRST_PREFETCH // 2)
    assert prefetch.wanted == 0

    busy.take_beyond(FIRST_PREFETCH // 2 - 1)

    assert prefetch.wanted == FIRST_PREFETCH // 2 + 1


def test_behind_slow_tasks_none_is_leased_and_all_that_wait_are_given_back(
    prefetch: Prefetch, busy: Runners, clock: StoppedClock
) -> None:
    put(busy, 3)
    assert prefetch.kept is None

    clock.advance(SLOW_TASK_SECONDS * 1.01)

    assert prefetch.wanted == 0
    assert prefetch.kept == 0


def test_what_has_become_far_too_much_is_given_back(
    prefetch: Prefetch, busy: Runners, ends: Callable[[float], None]
) -> None:
    ends(1_000_000)
    put(busy, MAX_PREFETCH)
    assert prefetch.kept is None

    ends(1.1 * MAX_PREFETCH / SURPLUS_FACTOR / PREFETCH_SECONDS)
    assert prefetch.kept is None

    ends(0.9 * MAX_PREFETCH / SURPLUS_FACTOR / PREFETCH_SECONDS)
    assert prefetch.wanted == 0
    assert prefetch.kept == round(0.9 * MAX_PREFETCH / SURPLUS_FACTOR)


def test_a_task_that_must_start_at_once_waits_for_a_free_thread_and_all_others_with_it(
    prefetch: Prefetch, busy: Runners, may_end: threading.Event
) -> None:
    prefetch.lease_only_when_idle = True
    assert prefetch.wanted == 0

    may_end.set()
    wait_until(lambda: busy.free > 0)

    assert prefetch.wanted == FIRST_PREFETCH
