"""The threads of a worker process: what runs, what waits, what has ended."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross.broker.record import Leased
from lastacross.worker.delivery import Outcome
from lastacross.worker.runners import Runners
from lastacross.worker.started import StartedTable, started_entries
from tests.support.clock import StoppedClock
from tests.support.leased import leased
from tests.support.processes import wait_until

SECONDS = 20.0


class Handlers:
    """Deliveries that last until they are told to end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.alone: list[str] = []
        self.may_end = threading.Event()

    def deliver(self, task: Leased) -> Outcome:
        """One attempt among others."""
        self.begun.append(task.name)
        self.may_end.wait(SECONDS)
        return Outcome(task, 200)

    def deliver_suspect(self, task: Leased) -> Outcome:
        """One attempt in the isolated process."""
        self.alone.append(task.name)
        self.may_end.wait(SECONDS)
        return Outcome(task, 200)


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    """Deliveries; all end with the test."""
    made = Handlers()
    yield made
    made.may_end.set()


def runners(
    handlers: Handlers,
    threads: int = 2,
    table: StartedTable | None = None,
    clock: StoppedClock | None = None,
    lanes: int = 2,
) -> Runners:
    """Started threads for these deliveries."""
    made = Runners(
        threads,
        handlers.deliver,
        deliver_suspect=handlers.deliver_suspect,
        suspect_lanes=lanes,
        table=table,
        on_outcome=lambda: None,
        clock=clock or StoppedClock(),
    )
    made.start()
    return made


def tasks(*names: str) -> list[Leased]:
    """Leased tasks of these names."""
    return [leased(name=name) for name in names]


def outcomes(of: Runners, count: int) -> list[str]:
    """The names of the next tasks that end."""
    found: list[Outcome] = []

    def look() -> bool:
        found.extend(of.take_outcomes(count - len(found)))
        return len(found) == count

    wait_until(look)
    return [outcome.task.name for outcome in found]


def test_tasks_begin_in_their_order_as_many_as_there_are_threads(handlers: Handlers) -> None:
    made = runners(handlers)
    made.put(tasks("a", "b", "c", "d"))
    wait_until(lambda: len(made.running) == 2)
    assert sorted(handlers.begun) == ["a", "b"]
    assert (made.waiting, made.free, made.is_full, made.is_idle) == (2, 0, True, False)

    handlers.may_end.set()
    assert sorted(outcomes(made, 4)) == ["a", "b", "c", "d"]
    wait_until(lambda: made.is_idle)
    assert (made.waiting, made.free, made.is_full) == (0, 2, False)
    made.stop()


def test_what_waits_can_be_taken_back_and_what_runs_cannot(handlers: Handlers) -> None:
    made = runners(handlers, 1)
    made.put(tasks("a", "b", "c", "d", "e"))
    wait_until(lambda: handlers.begun == ["a"])
    assert made.take_beyond(4) == []
    assert [task.name for task in made.take_beyond(2)] == ["d", "e"]
    assert [task.name for task in made.take_waiting()] == ["b", "c"]
    assert made.take_beyond(2) == []
    handlers.may_end.set()
    assert outcomes(made, 1) == ["a"]
    assert handlers.begun == ["a"]
    made.stop()


def test_a_suspect_runs_apart_and_takes_no_thread_from_the_others(handlers: Handlers) -> None:
    made = runners(handlers, 1, lanes=1)
    made.put([leased(name="suspect", suspect=1), leased(name="second", suspect=1), *tasks("a")])
    wait_until(lambda: handlers.begun == ["a"] and handlers.alone == ["suspect"])
    assert made.is_full
    assert made.waiting == 0
    assert made.take_beyond(0) == []
    assert [task.name for task in made.take_waiting()] == ["second"]
    handlers.may_end.set()
    assert sorted(outcomes(made, 2)) == ["a", "suspect"]
    made.stop()


def test_suspects_start_at_once_as_many_as_there_are_lanes_and_the_others_follow(handlers: Handlers) -> None:
    made = runners(handlers, 1, lanes=2)
    made.put([leased(name=name, suspect=1) for name in ("slow", "second", "third")])
    wait_until(lambda: sorted(handlers.alone) == ["second", "slow"])
    handlers.may_end.set()
    assert sorted(outcomes(made, 3)) == ["second", "slow", "third"]
    made.stop()


def test_a_lane_has_no_thread_once_there_is_no_suspect_left(handlers: Handlers) -> None:
    before = set(threading.enumerate())
    made = runners(handlers, 1, lanes=2)
    handlers.may_end.set()
    for _ in range(3):
        made.put([leased(name=name, suspect=1) for name in ("a", "b", "c")])
        assert sorted(outcomes(made, 3)) == ["a", "b", "c"]
        wait_until(lambda: len(set(threading.enumerate()) - before) == made.threads)
    made.stop()


def test_a_suspect_without_a_thread_is_kept_for_later(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runners(handlers, 1, lanes=1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("full")))
        made.put([leased(name="suspect", suspect=1)])
        assert not handlers.alone
    handlers.may_end.set()
    made.run_suspects()
    assert outcomes(made, 1) == ["suspect"]
    made.stop()


def test_a_suspect_that_waits_for_a_lane_is_given_to_other_processes_three_times(handlers: Handlers) -> None:
    clock = StoppedClock()
    made = runners(handlers, clock=clock, lanes=1)
    made.put([leased(name="slow", suspect=1)])
    wait_until(lambda: handlers.alone == ["slow"])
    released = []
    for _ in range(4):
        made.put([leased(name="late", suspect=1)])
        clock.advance(0.9)
        assert made.take_late_suspects() == []
        clock.advance(0.1)
        released.append([task.name for task in made.take_late_suspects()])

    assert released == [["late"], ["late"], ["late"], []]
    assert [task.name for task in made.take_waiting()] == ["late"]
    made.stop()


def test_a_suspect_that_runs_does_not_make_the_process_look_full(handlers: Handlers) -> None:
    made = runners(handlers, 1)
    made.put([leased(name="suspect", suspect=1)])
    wait_until(lambda: handlers.alone == ["suspect"])
    assert (made.is_full, made.free) == (False, 1)
    made.stop()


def test_the_table_has_what_runs_suspects_too_but_not_what_waits(handlers: Handlers, tmp_path: Path) -> None:
    table = StartedTable(tmp_path / "table", "w", 4)
    made = runners(handlers, 2, table)
    made.put([*tasks("a", "b", "c"), leased(name="suspect", suspect=1)])
    wait_until(lambda: len(made.running) == 3)
    wait_until(lambda: len(started_entries(tmp_path / "table")[1]) == 3)
    expected = ["default_a:w.1", "default_b:w.1", "default_suspect:w.1"]
    assert sorted(started_entries(tmp_path / "table")[1]) == expected
    handlers.may_end.set()
    outcomes(made, 4)
    wait_until(lambda: not made.running)
    assert started_entries(tmp_path / "table")[1] == []
    made.stop()


def test_every_thread_ends_when_it_is_told_to(handlers: Handlers) -> None:
    before = set(threading.enumerate())
    made = runners(handlers)
    begun = set(threading.enumerate()) - before
    assert len(begun) == made.threads

    made.stop()

    wait_until(lambda: not any(thread.is_alive() for thread in begun))


def test_outcomes_are_taken_no_more_than_asked_for(handlers: Handlers) -> None:
    handlers.may_end.set()
    made = runners(handlers)
    made.put(tasks("a", "b", "c"))
    wait_until(lambda: handlers.begun and not made.running and not made.waiting)
    assert len(made.take_outcomes(2)) == 2
    assert len(made.take_outcomes(2)) == 1
    assert made.take_outcomes(2) == []
    made.stop()


def test_an_outcome_of_another_thread_is_taken_with_the_rest(handlers: Handlers) -> None:
    made = runners(handlers)
    made.leave_outcome(Outcome(leased(name="stuck"), 500, "did not end"))
    assert [outcome.task.name for outcome in made.take_outcomes(5)] == ["stuck"]
    made.stop()
