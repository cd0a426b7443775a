"""Threads that come with the work and go without it."""

import threading

import pytest

from lastacross.http_client import threads
from lastacross.http_client.threads import Threads
from tests.support.processes import wait_until


def test_no_more_run_at_once_than_may() -> None:
    pool = Threads("test-most", 3)
    lock, running, most, done = threading.Lock(), [0], [0], threading.Semaphore(0)
    gate = threading.Event()

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(10)
        with lock:
            running[0] -= 1
        done.release()

    for _ in range(10):
        pool.run(work)
    wait_until(lambda: running[0] == 3)
    gate.set()
    for _ in range(10):
        assert done.acquire(timeout=10)

    assert most[0] == 3


def test_a_thread_that_is_idle_is_used_again() -> None:
    pool = Threads("test-reuse", 10)
    seen: list[int] = []

    for count in range(1, 4):
        pool.run(lambda: seen.append(threading.get_ident()))
        wait_until(lambda wanted=count: len(seen) == wanted)  # type: ignore[misc]
        # It is idle a moment after it has done its work.
        wait_until(lambda: pool._idle == 1)

    assert len(set(seen)) == 1


def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.01)
    pool = Threads("test-end", 2)
    ran = threading.Event()

    pool.run(ran.set)
    assert ran.wait(10)
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "test-end"])
    ran.clear()
    pool.run(ran.set)

    assert ran.wait(10)
