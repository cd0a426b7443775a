"""A queue that waits for a token costs nothing: no busy polling, however many tasks wait."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import taskqueue
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.monitored import monitored
from tests.support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TASKS = 10_000
SECONDS = 6.0

QUEUES = """\
queue:
- name: default
- name: hourly
  rate: 1/h
  bucket_size: 1
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application with a queue of one task an hour."""
    with running_lab(files={"queue.yaml": QUEUES}) as made:
        yield made


def test_a_worker_on_ten_thousand_tasks_at_one_an_hour_is_idle(lab: Lab) -> None:
    for _ in range(TASKS // 100):
        taskqueue.Queue("hourly").add([taskqueue.Task(url="/work") for _ in range(100)])
    with lab.workers(1) as running:
        lab.wait_for(1, "/work", 60)
        [pid] = worker_pids(running)
        wait_until(lambda: _cpu_share(pid, 0.5) < 0.05, 20, "the worker to have started")
        with monitored(lab.redis_server) as heard:
            share = _cpu_share(pid, SECONDS)
            calls = [command for command in heard.commands() if not command.is_of_script]
        by_name: dict[str, int] = {}
        for command in calls:
            by_name[command.words[0]] = by_name.get(command.words[0], 0) + 1
    print(
        f"measured idle: {TASKS} waiting, {SECONDS:.0f} s: {share:.2%} CPU (usual: 1%), "
        f"{len(calls) / SECONDS:.1f} calls/s: "
        + ", ".join(f"{name} {count / SECONDS:.2f}" for name, count in sorted(by_name.items()))
    )
    # Three times the usual share.
    assert share < 0.03
    assert len(calls) / SECONDS < 10
    assert lab.ran("/work").total() == 1
    assert lab.open_tasks() == {"ready hourly": TASKS - 1}


def _cpu_share(pid: int, seconds: float) -> float:
    """The part of one processor that a process takes over so many seconds."""
    before, began_at = _cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (_cpu_seconds(pid) - before) / (time.monotonic() - began_at)


def _cpu_seconds(pid: int) -> float:
    """User and system time so far, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
