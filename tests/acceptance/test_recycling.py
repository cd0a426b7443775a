"""``--max-tasks`` and ``--max-memory``: worker processes are drained and replaced, and no task suffers."""

import json
from collections import Counter

import pytest

from lastacross import taskqueue
from tests.support import lab
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import Started, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Each task keeps 8 MB for ever, as a leaking library does.
LEAK = """\
LEAKED = []


def app(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        LEAKED.append(bytearray(b"x" * 8_388_608))
"""


def add(count: int, url: str = "/work", **params: str) -> None:
    """Add tasks."""
    for _ in range(count):
        taskqueue.add(url=url, params=params)


def events(running: Started, name: str) -> list[dict[str, object]]:
    """The log's events of this name."""
    lines = [line for line in running.text().splitlines() if f'"event": "{name}"' in line]
    return [json.loads(line) for line in lines]


def test_after_so_many_tasks_a_process_finishes_its_own_and_is_replaced_at_once() -> None:
    with running_lab() as made, made.workers(1, 4, "--max-tasks", "40") as running:
        add(150, seconds="0.05")

        made.wait_for(150, "/work", 120)
        made.wait_until_idle(60)
        wait_until(lambda: len(events(running, "worker.recycle")) >= 2, 60)

        recycled = events(running, "worker.recycle")
        assert {event["reason"] for event in recycled} == {"tasks"}
        assert all(int(str(event["tasks"])) >= 36 for event in recycled)
        # Nothing ran twice: what ran was finished, and what waited was given back.
        assert set(made.ran("/work", "begin").values()) == {1}
        pids = Counter(note["pid"] for note in made.notes() if note["what"] == "begin")
        assert len(pids) >= 2
        _is_no_crash(made, running)


def test_a_task_that_runs_longer_than_a_stopped_process_may_take_is_not_cut_off() -> None:
    with running_lab() as made:
        made.environ["LASTACROSS_DEV"] = "1"  # which stops within 5 s
        with made.workers(1, 2, "--max-tasks", "10") as running:
            add(1, "/long", seconds="9")
            wait_until(lambda: made.ran("/long", "begin"), 60)
            add(30, seconds="0.01")

            made.wait_for(30, "/work", 120)
            made.wait_for(1, "/long", 60)
            made.wait_until_idle(60)
            assert events(running, "worker.recycle")
            assert made.ran("/long", "begin").total() == 1


def _is_no_crash(made: Lab, running: Started) -> None:
    ends = events(running, "process.exit")
    assert ends
    assert {event["code"] for event in ends} == {75}
    assert not events(running, "task.rescue")
    assert not events(running, "task.crash")
    # Its successor is there at once, and its delay does not grow with the number of ends.
    starts = [event["ts"] for event in events(running, "worker.start")]
    assert len(starts) >= len(ends)
    assert made.open_tasks() == {}


def test_a_process_that_leaks_memory_is_replaced() -> None:
    text = lab.FILES["main.py"].replace("def app(environ, start_response):\n", LEAK, 1)
    with running_lab(files={"main.py": text}) as made, made.workers(1, 2, "--max-memory", "300") as running:
        [first] = worker_pids(running)
        add(60, "/leak", seconds="0.2")

        made.wait_for(60, "/leak", 120)
        wait_until(lambda: first not in worker_pids(running), 60)

        recycled = events(running, "worker.recycle")
        assert recycled[0]["reason"] == "memory"
        assert int(str(recycled[0]["memory_mb"])) >= 270
        assert set(made.ran("/leak", "begin").values()) == {1}
        wait_until(lambda: not made.open_tasks(), 60)
        _is_no_crash(made, running)
