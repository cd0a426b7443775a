"""Deferred coroutines in a worker process: they run, share their thread's loop, and end at their deadline."""

from collections.abc import Iterator

import pytest

from lastacross import store, taskqueue
from tests.support.lab import Lab, running_lab
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FILES = {
    "main.py": '''\
"""Defers coroutines."""

from coroutines import endless, numbers_of, sleep, work

from lastacross import deferred, taskqueue


def app(environ, start_response):
    if environ["PATH_INFO"] == "/more":
        start_response("200 OK", [])
        for number in range(100, 200):
            deferred.defer(work, number)
        return []
    for number in range(100):
        deferred.defer(work, number)
    deferred.defer(numbers_of, _queue="limited", _name="numbers")
    for name, function in (("waits", sleep), ("turns", endless)):
        task = deferred.task(function, _name=name)
        once = taskqueue.TaskRetryOptions(task_retry_limit=0)
        task = taskqueue.Task(
            task.payload, name=name, url=task.url, dispatch_deadline_usec=15_000_000, retry_options=once
        )
        taskqueue.Queue("limited").add(task)
    start_response("200 OK", [])
    return []
''',
    "coroutines.py": '''\
"""Coroutine functions that note what happens to them."""

import asyncio
import json
import os
import threading

from lastacross import taskqueue

NOTES = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(what, **more):
    seen = {"what": what, "task": taskqueue.current_task().name, **more}
    os.write(NOTES, json.dumps(seen).encode() + b"\\n")


async def work(number):
    await asyncio.sleep(0.01)
    note("work", number=number, loop=id(asyncio.get_running_loop()), thread=threading.get_ident())


async def numbers():
    yield 1


def numbers_of():
    return numbers()


async def sleep():
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def endless():
    note("turns")
    while True:
        pass
''',
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The application, on a Redis of its own."""
    with running_lab(files=FILES) as running:
        yield running


def test_coroutines_run_in_a_worker_and_end_at_their_deadline(lab: Lab) -> None:
    def error(name: str) -> str:
        return str(lab.store.redis.hget(store.record_key(f"limited_{name}"), "error") or b"")

    with lab.workers(1, threads=4) as worker:
        taskqueue.add(url="/start")
        wait_until(lambda: len(lab.dead("limited")) == 3, 120, "three dead letters")
        # The loops that a deadline interrupted go on.
        taskqueue.add(url="/more")
        lab.wait_until_idle(60)
        text = worker.text()

    notes = [note for note in lab.notes() if note["what"] == "work"]
    assert sorted(note["number"] for note in notes) == list(range(200))
    assert len({note["thread"] for note in notes}) == len({note["loop"] for note in notes}) <= 4
    assert "PermanentTaskFailure: coroutines.numbers_of returned an async generator" in error("numbers")
    for name in ("waits", "turns"):
        assert "DeadlineExceededError: not done after 15 s" in error(name)
    assert [note["task"] for note in lab.notes() if note["what"] == "cancelled"] == ["waits"]
    assert text.count('"task.deadline"') == 2
    assert "task.stuck" not in text
    assert "was never awaited" not in text
