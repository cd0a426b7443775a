"""Rates and limits across worker processes that are killed: what queue.yaml says holds to the task."""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lastacross import taskqueue
from tests.support.lab import Lab, kill, running_lab, worker_pids
from tests.support.monitored import Grant, burst, monitored
from tests.support.processes import Started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RATE = 5.0
TASKS = 200
KILL_EVERY_SECONDS = 5.0
# The time is the Redis server's, but each process measures it for itself; it costs this part of a token.
SKEW_TOKENS = 0.02

QUEUES = """\
queue:
- name: default
- name: five
  rate: 5/s
  bucket_size: 5
- name: one
  rate: 5/s
  bucket_size: 1
- name: three
  rate: 500/s
  bucket_size: 500
  max_concurrent_requests: 3
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application with throttled queues, on a Redis of its own."""
    with running_lab(files={"queue.yaml": QUEUES}) as made:
        yield made


@contextmanager
def killing(lab: Lab, running: Started, every_seconds: float) -> Iterator[dict[int, float]]:
    """Kill -9 a worker process that has work, again and again; yields when each died, by its pid."""
    chance = random.Random(4)
    killed: dict[int, float] = {}
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(every_seconds):
            living = set(worker_pids(running))
            pid = chance.choice(sorted(living & _busy(lab) or living))
            if kill(pid):
                killed[pid] = time.time()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def _busy(lab: Lab) -> set[int]:
    """The processes in which a task is under way; read anew, for this is another thread than the test's."""
    open_by_pid: Counter[int] = Counter()
    for line in lab.notes_file.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            note = json.loads(line)
            open_by_pid[note["pid"]] += 1 if note["what"] == "begin" else -1
    return {pid for pid, count in open_by_pid.items() if count > 0}


def add(queue: str, count: int, **params: str) -> None:
    """Add plain tasks to a queue."""
    for first in range(0, count, 100):
        tasks = [taskqueue.Task(url="/work", params=params) for _ in range(min(100, count - first))]
        taskqueue.Queue(queue).add(tasks)


# --- rate and bucket_size -------------------------------------------------------------------------


def test_five_a_second_is_five_a_second_whoever_is_killed(lab: Lab) -> None:
    with lab.workers(4) as running, monitored(lab.redis_server) as heard:
        add("five", TASKS, seconds="0.3")
        add("one", TASKS, seconds="0.3")
        with killing(lab, running, KILL_EVERY_SECONDS) as killed:
            lab.wait_for(2 * TASKS, "/work", 90)
        lab.wait_until_idle(30)
        granted = heard.grants()
    assert len(killed) >= 6
    assert lab.ran(what="begin").total() > lab.ran().total(), "no kill has cut off a task"
    for queue, bucket_size in (("five", 5), ("one", 1)):
        _check_grants(granted[queue], bucket_size)
        notes = [note for note in lab.notes() if note["queue"] == queue]
        # A task that was cut off before starts in a process of its own, some time after its grant.
        begun = [n["at"] for n in notes if n["what"] == "begin" and not n["retry_count"]]
        started = burst(begun, RATE)
        print(f"{queue}: {len(begun)} starts, a bucket of {started:.3f} explains them; {len(killed)} kills")
        assert started <= bucket_size + 1
        assert len({note["task"] for note in notes}) == TASKS


def _check_grants(granted: list[Grant], bucket_size: int) -> None:
    """No window of t seconds has more than rate * t + bucket_size; and while tasks wait none has less."""
    instants = sorted(grant.now for grant in granted)
    explained = burst(instants, RATE)
    # Of the last few, some may be in the hands of a worker that was killed: nothing waits then.
    waiting = instants[: TASKS - 10]
    mean = (len(waiting) - bucket_size) / (waiting[-1] - waiting[0])
    gaps = [later - earlier for earlier, later in itertools.pairwise(waiting[bucket_size:])]
    print(
        f"bucket_size {bucket_size}: {len(granted)} grants in {instants[-1] - instants[0]:.1f} s, "
        f"a bucket of {explained:.4f} explains them; "
        f"mean {mean:.3f}/s while tasks wait, longest gap {max(gaps):.3f} s"
    )
    assert explained <= bucket_size + SKEW_TOKENS
    assert mean == pytest.approx(RATE, rel=0.05)


# --- max_concurrent_requests ----------------------------------------------------------------------


@pytest.mark.parametrize("kill_every_seconds", [None, 2.0], ids=["in peace", "killed"])
def test_three_at_once_are_three_at_once_on_eight_processes(
    lab: Lab, kill_every_seconds: float | None
) -> None:
    count = 200
    with lab.workers(8) as running:
        add("three", count, seconds="0.2")
        with killing(lab, running, kill_every_seconds or 3600.0) as killed:
            lab.wait_for(count, "/work", 90)
        lab.wait_until_idle(30)
    spans = _spans(lab, killed)
    # A task that was cut off is tried alone, in a process that has to start first: the line's end is theirs.
    last = max(note["at"] for note in lab.notes() if note["what"] == "begin" and not note["retry_count"])
    shares = _shares(spans, last)
    cut_off = len(spans) - lab.ran().total()
    print(
        f"{len(spans)} runs, {cut_off} cut off, {len(killed)} kills; share of the time by number under way: "
        + ", ".join(f"{number}: {share:.3f}" for number, share in sorted(shares.items()))
    )
    assert _most(spans) == 3
    assert shares[3] >= (0.95 if kill_every_seconds is None else 0.8)
    assert (cut_off > 0) == (kill_every_seconds is not None)


def _spans(lab: Lab, killed: dict[int, float]) -> list[tuple[float, float]]:
    """From when to when each attempt ran; one without an end ended with its process."""
    begun: dict[tuple[int, str], float] = {}
    spans = []
    for note in lab.notes():
        key = (note["pid"], note["task"])
        if note["what"] == "begin":
            begun[key] = note["at"]
        else:
            spans.append((begun.pop(key), note["at"]))
    # An isolated process has another pid, and ends with the worker that is killed next.
    ends = sorted(killed.values())
    return spans + [
        (at, killed.get(pid) or next(end for end in ends if end >= at)) for (pid, _), at in begun.items()
    ]


def _most(spans: list[tuple[float, float]]) -> int:
    """The most attempts that were under way at once."""
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    return max(itertools.accumulate(change for _, change in changes))


def _shares(spans: list[tuple[float, float]], last: float) -> dict[int, float]:
    """For each number of attempts under way at once: the part of the time until ``last``."""
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    seconds: dict[int, float] = {}
    under_way = 0
    for (at, change), (following, _) in itertools.pairwise(changes):
        under_way += change
        if at < last:
            seconds[under_way] = seconds.get(under_way, 0.0) + min(following, last) - at
    return {number: spent / (last - changes[0][0]) for number, spent in seconds.items()}
