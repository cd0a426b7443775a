"""The pipe that ends the worker's sleep."""

import os
import select
import threading
import time

import pytest

from lastacross.worker.leasing import Interrupt


def is_set(interrupt: Interrupt) -> bool:
    """Whether the next sleep would end immediately."""
    return bool(select.select([interrupt.fd], [], [], 0)[0])


def test_a_sleep_ends_when_another_thread_sets_it() -> None:
    interrupt = Interrupt()
    threading.Timer(0.05, interrupt.set).start()
    start = time.monotonic()

    interrupt.wait(60)

    assert time.monotonic() - start < 30
    assert not is_set(interrupt)


def test_an_interrupt_that_was_set_many_times_ends_one_sleep() -> None:
    interrupt = Interrupt()
    for _ in range(100_000):
        interrupt.set()
    assert is_set(interrupt)

    interrupt.wait(60)

    assert not is_set(interrupt)
    start = time.monotonic()
    interrupt.wait(0.01)
    assert time.monotonic() - start >= 0.01


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_setting_at_the_worst_moment_of_a_clearing_does_not_hold_back_later_ones(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another thread sets it around the system call that empties the pipe."""
    interrupt = Interrupt()
    interrupt.set()
    read = os.read

    def read_while_set(fd: int, count: int) -> bytes:
        if moment == "before":
            interrupt.set()
        found = read(fd, count)
        if moment == "after":
            interrupt.set()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", read_while_set)
        interrupt.clear()
    interrupt.set()

    assert is_set(interrupt)


def test_a_setting_counts_after_a_storm_of_settings_and_clearings() -> None:
    interrupt = Interrupt()
    rounds = 20_000

    def set_often() -> None:
        for _ in range(rounds):
            interrupt.set()

    threads = [threading.Thread(target=set_often) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        interrupt.clear()
    interrupt.clear()
    assert not is_set(interrupt)
    interrupt.set()
    assert is_set(interrupt)
