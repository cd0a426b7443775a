"""Calls of several threads at one moment, made as one."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from programs.quilt import together
from tests.support.processes import wait_until


class Doubling:
    """Doubles numbers; each call waits for ``go``, and is kept."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        """Make one call."""
        self.calls.append(list(numbers))
        assert self.go.wait(10)
        if 13 in numbers:
            raise ValueError("thirteen")
        return [2 * number for number in numbers]


def ask_while_one_is_under_way(
    doubling: Doubling, numbers: Sequence[int], **options: int
) -> list[int | BaseException]:
    """Ask for 0, for the others while that is made, and then let go; the answers in their order."""
    double: together.Together[int, int] = together.Together(doubling, **options)
    with ThreadPoolExecutor(len(numbers) + 1) as threads:
        asked = [threads.submit(double, 0)]
        wait_until(lambda: doubling.calls, what="the first call is under way")
        for count, number in enumerate(numbers, start=1):
            asked.append(threads.submit(double, number))
            wait_until(lambda count=count: len(double._waiting) == count)  # type: ignore[misc]
        doubling.go.set()
    return [each.exception() or each.result() for each in asked]


def test_a_call_that_is_alone_is_made_at_once() -> None:
    doubling = Doubling()
    doubling.go.set()

    assert together.Together(doubling)(21) == 42
    assert doubling.calls == [[21]]


def test_calls_that_come_meanwhile_are_made_as_one_and_each_gets_its_own_answer() -> None:
    doubling = Doubling()

    answers = ask_while_one_is_under_way(doubling, [1, 2, 3])

    assert answers == [0, 2, 4, 6]
    assert doubling.calls == [[0], [1, 2, 3]]


def test_no_call_is_larger_than_it_may_be() -> None:
    doubling = Doubling()

    answers = ask_while_one_is_under_way(doubling, [1, 2, 3, 4, 5], most=2)

    assert answers == [0, 2, 4, 6, 8, 10]
    assert doubling.calls == [[0], [1, 2], [3, 4], [5]]


def test_at_most_a_hundred_calls_are_made_as_one() -> None:
    """So many rows are locked by one transaction."""
    doubling = Doubling()

    answers = ask_while_one_is_under_way(doubling, range(101, 202))

    assert answers == [0, *range(202, 404, 2)]
    assert [len(call) for call in doubling.calls] == [1, 100, 1]


def test_an_error_is_everybodys_and_the_next_call_is_made() -> None:
    doubling = Doubling()

    answers = ask_while_one_is_under_way(doubling, [13, 2, 3], most=2)

    assert [str(answer) for answer in answers] == ["0", "thirteen", "thirteen", "6"]


def test_who_is_ended_while_waiting_leaves_the_way_to_the_others() -> None:
    """As a deadline ends a thread: it must neither be waited for nor keep the lead that it was given."""
    doubling = Doubling()
    doubling.go.set()
    double: together.Together[int, int] = together.Together(doubling)
    gone: together._Call[int, int] = together._Call(5)
    double._is_led, double._waiting = True, [gone]
    leader: together._Call[int, int] = together._Call(1)
    leader.leads = True
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(double, 7)
        wait_until(lambda: len(double._waiting) == 2)
        double._leave(leader)
        assert gone.leads
        double._leave(gone)

        assert asked.result(10) == 14
    assert doubling.calls == [[7]]


@pytest.mark.parametrize("threads", [2, 16])
def test_a_storm_of_calls_gets_every_answer(threads: int) -> None:
    def make(numbers: Sequence[int]) -> list[int]:
        return [2 * number for number in numbers]

    double: together.Together[int, int] = together.Together(make, most=5)
    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(double, range(3000))) == [2 * number for number in range(3000)]
