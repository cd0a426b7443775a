"""The pipe that ends the worker's sleep."""

import threading

from lastacross.runtime.interrupt import Interrupt


def test_a_sleep_ends_when_another_thread_sets_it() -> None:
    """Long before its time is over."""
    interrupt = Interrupt()
    threading.Timer(0.05, interrupt.set).start()
    interrupt.wait(60)


def test_set_many_times_it_ends_one_sleep() -> None:
    """What was set before is cleared together."""
    interrupt = Interrupt()
    for _ in range(100_000):
        interrupt.set()
    interrupt.wait(60)
    interrupt.wait(0.01)


def test_no_setting_is_lost_however_close_to_a_clearing() -> None:
    """One after which every later one was held back would hang this test."""
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
    interrupt.set()
    interrupt.wait(60)
