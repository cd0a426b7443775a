"""DeadlineExceededError: raised inside the handler, and never after it."""

import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lastacross.errors import DeadlineExceededError
from lastacross.worker import deadline
from lastacross.worker.deadline import Deadlines
from tests.support.processes import wait_until

SHORT = 0.02


@pytest.fixture
def stuck() -> list[str]:
    """The labels of the handlers that were reported as stuck."""
    return []


@pytest.fixture
def deadlines(stuck: list[str]) -> Iterator[Deadlines]:
    """Deadlines that run."""
    running = Deadlines(stuck.append)
    running.start()
    yield running
    running.stop()


def turn_until(is_over: Callable[[], bool]) -> None:
    """Work in Python until something is the case."""
    while not is_over():
        pass


def test_it_is_raised_inside_the_handler(deadlines: Deadlines) -> None:
    seen = []

    def handler() -> None:
        try:
            turn_until(lambda: False)
        except DeadlineExceededError:
            seen.append("inside")
            raise

    with pytest.raises(DeadlineExceededError):
        deadlines.call(SHORT, "t", handler)
    assert seen == ["inside"]
    assert deadlines.watched == 0


def test_a_handler_in_time_returns_what_it_returns(deadlines: Deadlines) -> None:
    assert deadlines.call(60, "t", lambda: 7) == 7
    assert deadlines.watched == 0


def test_a_handlers_own_error_goes_through(deadlines: Deadlines) -> None:
    with pytest.raises(ZeroDivisionError):
        deadlines.call(60, "t", lambda: 1 // 0)
    assert deadlines.watched == 0


def test_except_exception_does_not_swallow_it(deadlines: Deadlines) -> None:
    def handler() -> None:
        while True:
            try:
                turn_until(lambda: False)
            except Exception:
                continue

    with pytest.raises(DeadlineExceededError):
        deadlines.call(SHORT, "t", handler)


def test_a_handler_that_swallows_it_is_let_go_on_and_reported_after_the_grace(
    deadlines: Deadlines, stuck: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "GRACE_SECONDS", 0.1)
    swallowed = []

    def handler() -> str:
        try:
            turn_until(lambda: False)
        except DeadlineExceededError:
            swallowed.append(True)
        turn_until(lambda: bool(stuck))
        return "ended by itself"

    assert deadlines.call(SHORT, "default_t1:w.1", handler) == "ended by itself"
    assert swallowed == [True]
    assert stuck == ["default_t1:w.1"]
    assert deadlines.watched == 0


def test_a_blocking_call_is_reported_after_the_grace_and_hit_when_it_returns(
    deadlines: Deadlines, stuck: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "GRACE_SECONDS", 0.1)
    free = threading.Event()
    caught = []

    def blocked() -> None:
        try:
            deadlines.call(SHORT, "blocked", free.wait)
        except DeadlineExceededError as error:
            caught.append(error)

    thread = threading.Thread(target=blocked)
    thread.start()
    wait_until(lambda: stuck)
    assert stuck == ["blocked"]
    free.set()
    thread.join(10)
    assert len(caught) == 1


def test_a_later_call_with_an_earlier_deadline_is_not_made_to_wait(deadlines: Deadlines) -> None:
    free = threading.Event()
    thread = threading.Thread(target=lambda: deadlines.call(60, "long", free.wait))
    thread.start()
    wait_until(lambda: deadlines.watched == 1)
    began_at = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        deadlines.call(SHORT, "short", lambda: turn_until(lambda: False))
    assert time.monotonic() - began_at < 5
    free.set()
    thread.join(10)


@pytest.mark.parametrize("rounds", [300, pytest.param(3000, marks=pytest.mark.long)])
def test_it_never_lands_after_the_handler_whatever_the_moment(
    deadlines: Deadlines, stuck: list[str], rounds: int
) -> None:
    """Many handlers that end just about when their deadline comes, in four threads."""
    in_time, exceeded, landed_late = [], [], []

    def handler(end_at: float) -> str:
        turn_until(lambda: time.monotonic() >= end_at)
        return "done"

    def many(seconds: float) -> None:
        try:
            for _ in range(rounds):
                try:
                    end_at = time.monotonic() + seconds
                    deadlines.call(seconds, "t", lambda end_at=end_at: handler(end_at))  # type: ignore[misc]
                    in_time.append(1)
                except DeadlineExceededError:
                    exceeded.append(1)
                # What would be hit by a late one.
                turn_until(iter([False] * 100 + [True]).__next__)
        except BaseException as error:
            landed_late.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=many, args=(0.0005 * (1 + place),)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
    finally:
        sys.setswitchinterval(interval)
    assert landed_late == []
    assert len(in_time) + len(exceeded) == 4 * rounds
    # Both happened, or the moment was missed.
    assert in_time
    assert exceeded
    assert stuck == []
    assert deadlines.watched == 0


def test_calls_that_have_ended_leave_nothing_behind(deadlines: Deadlines) -> None:
    watched = {deadlines.call(600, "t", lambda: deadlines.watched) for _ in range(10_000)}
    assert (watched, deadlines.watched) == ({1}, 0)
