"""Tasks that a dead or silent process was running go on within seconds, however many others are waiting."""

import os
import signal
import statistics
import time
from collections.abc import Iterator

import pytest

from lastacross import taskqueue
from tests.support import endless_app
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import is_alive, kill, wait_until
from tests.support.weight import private_mb

pytestmark = pytest.mark.slow

WAITING = 3000
CUT_OFF = ("0.05", "3", "60")
# Without preloading only two run at a time.
SHORTER = ("0.05", "1", "4")

ENDLESS = {"main.py": endless_app.MAIN}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application on its own Redis."""
    with running_lab() as made:
        yield made


@pytest.fixture
def endless_lab() -> Iterator[Lab]:
    """An application with handlers that keep the interpreter to themselves."""
    with running_lab(files=ENDLESS) as made:
        yield made


def begins(lab: Lab, path: str) -> dict[str, list[tuple[float, int]]]:
    """When and in which process each task of this path began."""
    found: dict[str, list[tuple[float, int]]] = {}
    for note in lab.notes():
        if note["what"] == "begin" and note["path"] == path:
            found.setdefault(note["task"], []).append((note["at"], note["pid"]))
    return found


@pytest.mark.parametrize("preload", ["1", "0"])
def test_what_a_killed_process_was_running_goes_on_before_the_backlog(lab: Lab, preload: str) -> None:
    lab.environ["LASTACROSS_PRELOAD"] = preload
    with lab.started_workers(2) as running:
        seconds = CUT_OFF if preload == "1" else SHORTER
        cut = [taskqueue.Task(url="/cut", params={"seconds": seconds[index % 3]}) for index in range(16)]
        taskqueue.Queue().add(cut)
        for _ in range(0, WAITING, 100):
            tasks = [taskqueue.Task(url="/work", params={"seconds": "0.02"}) for _ in range(100)]
            taskqueue.Queue().add(tasks)
        wait_until(lambda: len(begins(lab, "/work")) > 20, 60, "tasks of the backlog to begin")
        before = begins(lab, "/cut")
        victim = max(worker_pids(running), key=lambda pid: sum(pid == on[0][1] for on in before.values()))
        others = set(running.others())
        killed_at = time.time()
        kill(victim)
        ended = {note["task"] for note in lab.notes() if note["what"] == "end" and note["pid"] == victim}
        cut_off = {task for task, on in begins(lab, "/cut").items() if on[0][1] == victim} - ended
        assert len(cut_off) >= 2
        wait_until(lambda: all(len(begins(lab, "/cut")[task]) > 1 for task in cut_off), 60)
        second = [begins(lab, "/cut")[task][1] for task in cut_off]
        alone = {pid for _, pid in second} - others
        memory = max((private_mb(pid) for pid in alone), default=0.0)
        left = WAITING - len(begins(lab, "/work"))
    waits = sorted(at - killed_at for at, _ in second)
    print(
        f"measured recovery, preload={preload}: {len(cut_off)} cut off before {left} others, begun again "
        f"p50 {statistics.median(waits):.2f} s, max {waits[-1]:.2f} s; private memory {memory:.1f} MB"
    )
    if preload == "1":
        assert left > 0
        assert len({pid for _, pid in second}) == len(cut_off)
        assert 0 < memory <= 3 * 15
        assert statistics.median(waits) <= 3 * 0.5
        assert waits[-1] <= 3 * 5
    else:
        # Two for each of the two worker processes, which share what waits for longer than a second.
        assert len({pid for _, pid in second}) <= 4


@pytest.mark.parametrize("preload", ["1", pytest.param("0", marks=pytest.mark.long)])
def test_processes_for_single_tasks_do_not_stay(lab: Lab, preload: str) -> None:
    lab.environ["LASTACROSS_PRELOAD"] = preload
    with lab.workers(1, threads=2) as running:
        taskqueue.Queue().add([taskqueue.Task(url="/cut", params={"seconds": "1"}) for _ in range(2)])
        wait_until(lambda: len(begins(lab, "/cut")) == 2, 60)
        kill(worker_pids(running)[0])
        lab.wait_for(2, "/cut", 60)
        ended_at = time.monotonic()
        own = {on[-1][1] for on in begins(lab, "/cut").values()}
        wait_until(lambda: not any(is_alive(pid) for pid in own), 30)
        print(f"measured extra processes, preload={preload}: gone {time.monotonic() - ended_at:.1f} s after")
    assert time.monotonic() - ended_at < 3 * 5


def test_two_tasks_that_never_let_go_do_not_stop_the_others(endless_lab: Lab) -> None:
    lab = endless_lab
    with lab.started_workers(2) as running:
        for number in (1, 2):
            taskqueue.add(url="/endless")
            wait_until(lambda number=number: len(begins(lab, "/endless")) == number, 60)  # type: ignore[misc]
        began_at = time.monotonic()
        taskqueue.Queue().add([taskqueue.Task(url="/work") for _ in range(20)])
        lab.wait_for(20, "/work", 120)
        seconds = time.monotonic() - began_at
        print(f"measured two endless tasks: 20 others done {seconds:.1f} s after the second")
        assert "worker.silent" in running.text()
        assert all(
            int(lab.record(f"default_{task}").get("crashes", 0)) == 0 for task in begins(lab, "/endless")
        )
    assert seconds <= 3 * 15


def test_an_innocent_call_that_keeps_the_interpreter_ends_alone_and_counts_once(endless_lab: Lab) -> None:
    """It runs long enough before that to be known as started, and never twice at the same time."""
    lab = endless_lab
    with lab.workers(2) as running:
        with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
            batch.add([taskqueue.Task(url="/busy", params={"seconds": "12"})])
        lab.wait_for(1, "/complete", 120)
        assert running.text().count("worker.silent") == 1
    assert lab.ran("/busy").total() == 1
    [(first, _), (second, _)] = next(iter(begins(lab, "/busy").values()))
    assert second - first > 4 + lab.config.settings.lease_seconds
    assert lab.dead() == []


def test_a_worker_that_is_stopped_for_longer_than_a_lease_is_replaced(lab: Lab) -> None:
    with lab.workers(1) as running:
        taskqueue.Queue().add([taskqueue.Task(url="/cut", params={"seconds": "2"})])
        wait_until(lambda: len(begins(lab, "/cut")) == 1, 60)
        [stopped] = worker_pids(running)
        os.kill(stopped, signal.SIGSTOP)
        lab.wait_for(1, "/cut", 120)
        wait_until(lambda: not is_alive(stopped), 30)
        lab.wait_until_idle(60)
    assert lab.ran("/cut").total() == 1
