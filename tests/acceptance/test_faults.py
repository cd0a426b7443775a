"""What is left when processes are killed: every task ran, every batch fired once, nothing hangs on."""

import contextlib
import itertools
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from rq import Queue
from rq.registry import clean_registries

from lastacross import taskqueue
from lastacross.errors import TransientError
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import Started, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application that notes what it runs, on a Redis of its own."""
    with running_lab() as made:
        yield made


def add(count: int, **params: Any) -> None:
    """Add so many tasks of the lab's ``/work``."""
    for size in itertools.repeat(100, count // 100):
        taskqueue.Queue().add([taskqueue.Task(url="/work", params=params) for _ in range(size)])


def repeatedly(action: Callable[[], object], every_seconds: float) -> Callable[[], int]:
    """Do something in a thread again and again; calling the answer ends it and says how often."""
    stopping = threading.Event()
    errors: list[BaseException] = []
    times = itertools.count()

    def run() -> None:
        try:
            while not stopping.wait(every_seconds):
                action()
                next(times)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> int:
        stopping.set()
        thread.join()
        assert errors == []
        return next(times)

    return stop


def repeated(lab: Lab, path: str = "/work") -> int:
    """How many deliveries were more than a task needs."""
    began = lab.ran(path, "begin")
    return began.total() - len(began)


def running_now(lab: Lab) -> int:
    """How many attempts have begun and not ended."""
    return lab.ran(what="begin").total() - lab.ran(what="end").total()


# --- workers are killed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "storm_seconds"), [(700, 6), pytest.param(2000, 20, marks=pytest.mark.long)]
)
def test_a_storm_of_kills_under_rq_info_loses_nothing_and_fires_once(
    lab: Lab, tasks: int, storm_seconds: float
) -> None:
    chance = random.Random(2)
    kills = 0
    with lab.workers(4, threads=4) as running:
        with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
            batch.add(taskqueue.Task(url="/member", params={"seconds": "0.05"}) for _ in range(500))
        add(tasks, seconds="0.12")
        # What `rq info` does, without the half second that starting it takes.
        stop_cleaning = repeatedly(lambda: _as_rq_info(lab), 0.1)
        until = time.monotonic() + storm_seconds
        while time.monotonic() < until:
            time.sleep(1)
            kills += any(kill(pid) for pid in chance.sample(worker_pids(running), k=1) or [])
        last_kill_at = time.monotonic()
        lab.wait_for(tasks, "/work", 90)
        lab.wait_for(500, "/member", 60)
        lab.wait_for(1, "/complete", 60)
        lab.wait_until_idle(60)
        seconds = time.monotonic() - last_kill_at
        cleanings = stop_cleaning()
    again = repeated(lab) + repeated(lab, "/member")
    print(
        f"measured storm: {kills} kills, {cleanings} times rq info, {again} deliveries repeated; "
        f"done {seconds:.1f} s after the last kill"
    )
    assert batch.progress().done == 500
    # A kill cuts off four threads, and rarely a task that has ended and whose end is not yet recorded.
    assert again <= kills * 5
    assert lab.dead() == []


def _as_rq_info(lab: Lab) -> None:
    for queue in Queue.all(connection=lab.store.redis):
        clean_registries(queue)
        assert queue.count >= 0


def test_a_poison_task_takes_nobody_with_it(lab: Lab) -> None:
    with lab.workers(2, threads=8):
        add(200)
        taskqueue.Queue().add([taskqueue.Task(url="/long", params={"seconds": "3"}) for _ in range(7)])
        taskqueue.add(url="/poison", name="poison")
        add(300)
        began_at = time.monotonic()
        wait_until(lambda: lab.dead() == ["poison"], 60, "the dead letter")
        seconds = time.monotonic() - began_at
        lab.wait_for(500, "/work", 60)
        lab.wait_for(7, "/long", 60)
        lab.wait_until_idle(60)
    print(
        f"measured poison: buried after {seconds:.1f} s; "
        f"{repeated(lab)} short, {repeated(lab, '/long')} long repeated"
    )
    assert lab.ran("/poison", "begin").total() == 5
    assert lab.record("default_poison")["error"].startswith("poison: ")
    assert lab.dead() == ["poison"]


def test_a_process_killed_three_times_while_it_fills_a_batch_fills_it_once(lab: Lab) -> None:
    with lab.workers(2):
        params = {"count": "10000", "kill_after": "1,4321,9999"}
        taskqueue.add(url="/fill", name="filler", params=params)
        seconds = lab.wait_for(1, "/complete", 90)
        lab.wait_until_idle(60)
    keys: Any = lab.store.redis.keys("lastacross:batch:default_filler-*")
    [batch_id] = {key.decode().split(":")[2] for key in keys}
    progress = taskqueue.Batch.get(batch_id).progress()
    print(
        f"measured batch of 10,000 and three kills: complete after {seconds:.1f} s; {repeated(lab)} repeated"
    )
    assert lab.ran("/fill", "begin").total() == 4
    assert (progress.total, progress.done, progress.failed, progress.sealed) == (10_000, 10_000, 0, True)


def test_the_workers_of_another_machine_give_back_the_tasks_of_one_that_died(lab: Lab) -> None:
    with lab.started_workers(2, threads=4) as running:
        add(100, seconds="1")
        wait_until(lambda: len(lab.ran(what="begin")) == len(_leases(lab)) == 8)
        for pid in [running.pid, *running.others()]:
            kill(pid)
        died_at = time.time()
    leased = _leases(lab)
    with lab.workers(2, threads=16):
        wait_until(lambda: not leased & _leases(lab), 60, "the tasks to be given back")
        back = time.time() - died_at
        lab.wait_for(100, "/work", 60)
        lab.wait_until_idle(60)
    last_begin = {note["task"]: note["at"] - died_at for note in lab.notes() if note["what"] == "begin"}
    again = [last_begin[entry.decode().partition("_")[2].partition(":")[0]] for entry in leased]
    print(
        f"measured dead machine: its 8 tasks were back after {back:.1f} s (promised: 10), "
        f"and began again after {min(again):.1f} to {max(again):.1f} s"
    )
    assert back <= 3 * 10


def _leases(lab: Lab) -> set[bytes]:
    return set(lab.store.redis.zrange("rq:wip:default", 0, -1))  # type: ignore[arg-type]


# --- Redis is killed ------------------------------------------------------------------------


def test_redis_killed_twice_loses_nothing_that_was_taken_in() -> None:
    accepted = itertools.count()
    with running_lab(append_only=True) as lab, lab.workers(2, threads=8) as running:
        pids = set(worker_pids(running))

        def add_some() -> None:
            tasks = [taskqueue.Task(url="/work", params={"seconds": "0.02"}) for _ in range(20)]
            with contextlib.suppress(TransientError):
                taskqueue.Queue().add(tasks)
                next(accepted)

        stop_adding = repeatedly(add_some, 0.03)
        outages = []
        for _ in range(2):
            time.sleep(2)
            lab.redis_server.kill()
            time.sleep(2)
            lab.redis_server.start()
            outages.append(_seconds_until_work(lab))
        stop_adding()
        lab.wait_until_idle(60)
        assert set(worker_pids(running)) == pids, running.text()[-3000:]
        print(
            f"measured Redis killed: work {[round(outage, 2) for outage in outages]} s after its return "
            f"(promised: 5); {repeated(lab)} repeated"
        )
    assert next(accepted) > 50
    assert max(outages) <= 3 * 5


def _seconds_until_work(lab: Lab) -> float:
    began_at = time.monotonic()
    before = lab.ran("/work", "begin").total()
    wait_until(lambda: lab.ran("/work", "begin").total() > before + 16, 60, "work after the outage")
    return time.monotonic() - began_at


# --- RQ's own tools on our queues -----------------------------------------------------------


@pytest.mark.parametrize(
    "queues",
    [
        pytest.param(["default"], marks=pytest.mark.long, id="one queue"),
        pytest.param(["default", "other"], id="two queues"),
    ],
)
def test_a_stock_rq_worker_on_our_queues_loses_no_task(lab: Lab, queues: list[str]) -> None:
    add(300)
    taskqueue.Queue("other").add([taskqueue.Task(url="/work") for _ in range(100)])
    with ExitStack() as stack:
        for _ in range(3):
            stock = stack.enter_context(lab.stock("worker", *queues))
            wait_until(lambda: _refused(lab) >= 1, 30, "the stock worker to take a task")
            time.sleep(random.Random(3).uniform(0.2, 0.6))
            _kill_session(stock)
        stock = stack.enter_context(lab.stock("worker", *queues))
        time.sleep(1.5)
        seen = lab.ran()
        with lab.workers(2):
            seconds = lab.wait_for(400, "/work", 90)
            _kill_session(stock)
            lab.wait_until_idle(60)
            # An entry of RQ's whose task has run since goes at the next sweep.
            try:
                wait_until(lambda: _refused(lab) == 0, 60, "RQ's failed entries to be swept")
            except AssertionError as error:
                raise AssertionError(f"{error}: {lab.dead_records('default', 'other')}") from error
    print(
        f"measured RQ's own worker: {len(seen)} ran before ours; all 400 after {seconds:.1f} s; "
        f"{repeated(lab)} repeated"
    )
    assert len(lab.ran("/work")) == 400


def _refused(lab: Lab) -> int:
    return len(lab.dead()) + len(lab.dead("other"))


def _kill_session(running: Started) -> None:
    """The worker with its work-horse."""
    for pid in [running.pid, *running.others()]:
        kill(pid)
    running.process.wait()


def test_stock_rq_info_is_right_in_the_middle_of_work(lab: Lab) -> None:
    with lab.workers(2, threads=4):
        add(1000, seconds="0.02")
        seen = []
        while lab.open_tasks():
            before = lab.ran().total()
            text = lab.ask_stock("info", "--raw", "-Q")
            after = lab.ran().total()
            if found := re.search(r"^queue default (\d+), (\d+) executing", text, re.M):
                counted = int(found[1]) + int(found[2])
                seen.append((int(found[1]), int(found[2])))
                # A task that has ended waits for the settling of its batch of answers.
                assert 1000 - after <= counted <= 1000 - before + 50, (text, before, after)
    print(f"waiting, executing: {seen}")
    assert len(seen) >= 2


# --- deploying ------------------------------------------------------------------------------


def test_rolling_restarts_lose_and_repeat_nothing(lab: Lab) -> None:
    rounds = iter(range(10))
    stop_adding = repeatedly(
        lambda: add(100, seconds="0.03") if next(rounds, None) is not None else None, 0.8
    )
    with ExitStack() as stack:
        fleet = [stack.enter_context(lab.started_workers(1, threads=4)) for _ in range(2)]
        until = time.monotonic() + 9
        restarts = 0
        while restarts < 3 or time.monotonic() < until:
            time.sleep(1)
            old = fleet.pop(0)
            old.send(signal.SIGTERM)
            assert old.wait(40) == 0
            fleet.append(stack.enter_context(lab.started_workers(1, threads=4)))
            restarts += 1
        stop_adding()
        lab.wait_for(1000, "/work", 60)
        lab.wait_until_idle(60)
    began = lab.ran("/work", "begin")
    print(f"measured rolling restarts: {restarts}, {len(began)} tasks, {repeated(lab)} repeated")
    assert (len(began), repeated(lab)) == (1000, 0)
