"""Rates and limits across worker processes that are killed: what queue.yaml says holds to the task."""

import itertools
import json
import random
import statistics
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from lastacross import taskqueue
from tests.support.evidence import Evidence, Limit
from tests.support.history import Operation
from tests.support.judging import check
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.monitored import monitored
from tests.support.processes import Started, kill
from tests.support.windows import burst

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RATE = 20.0
TASKS = 160
# So many grants in a row show how fast tasks are handed out.
RUN = 10
KILLS = 6
KILL_EVERY_SECONDS = 1.2
# The time is the Redis server's, but each process measures it for itself; a busy machine delays the answer.
SKEW_SECONDS = 0.025
# How long after its grant an attempt may begin on a busy machine.
START_SECONDS = 0.6

QUEUES = """\
queue:
- name: default
- name: twenty
  rate: 20/s
  bucket_size: 20
- name: one
  rate: 20/s
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
def killing(lab: Lab, running: Started, count: int, every_seconds: float) -> Iterator[None]:
    """Kill -9 a worker process that has work, so many times."""
    chance = random.Random(4)
    stop = threading.Event()

    def go_on() -> None:
        for _ in range(count):
            if stop.wait(every_seconds):
                return
            living = set(worker_pids(running))
            kill(chance.choice(sorted(living & _busy(lab) or living)))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
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


def test_a_rate_holds_whoever_is_killed(lab: Lab) -> None:
    """No window of t seconds has more than rate * t + bucket_size, and work comes as fast as that allows."""
    buckets = {"twenty": 20, "one": 1}
    for queue, size in buckets.items():
        lab.limits[queue] = Limit(RATE, size, allowance=RATE * START_SECONDS)
    with lab.workers(4) as running, monitored(lab.redis_server) as heard:
        for queue in buckets:
            add(queue, TASKS, seconds="0.3")
        with killing(lab, running, KILLS, KILL_EVERY_SECONDS):
            lab.wait_for(2 * TASKS, "/work", 60)
        lab.wait_until_idle(60)
        granted = heard.grants()
    assert len(kills(lab)) >= KILLS - 2
    assert lab.ran(what="begin").total() > lab.ran().total(), "no kill has cut off a task"
    check(
        [grant.operation() for queue in buckets for grant in granted[queue]],
        None,
        {queue: Limit(RATE, size, RATE * SKEW_SECONDS, of="grant") for queue, size in buckets.items()},
    )
    for queue, size in buckets.items():
        early = (burst([grant.now for grant in granted[queue]], RATE) - size) / RATE
        print(f"measured rate of {queue}: a grant came at most {early * 1000:.1f} ms early (allowed: 25)")
    # Kills leave less than the rate allows; between them a queue uses all of it. A bucket of one saves no
    # tokens during a kill, so no burst makes up for a slow hand-over.
    calm = calm_windows(sorted(grant.now for grant in granted["one"]), kills(lab))
    print(
        f"measured rate of one: {RUN} grants in {statistics.median(calm):.2f} s (due: {RUN / RATE:.2f}), "
        f"the middle of {len(calm)} windows without a kill ({min(calm):.2f} to {max(calm):.2f} s)"
    )
    assert len(calm) >= RUN
    assert RUN / statistics.median(calm) >= RATE * 0.9


def calm_windows(instants: Sequence[float], faults: Sequence[Operation]) -> list[float]:
    """The seconds of each run of grants during which nobody was killed."""
    return [
        later - first
        for first, later in zip(instants, instants[RUN:], strict=False)
        if not any(first <= fault.began_at <= later for fault in faults)
    ]


def kills(lab: Lab) -> list[Operation]:
    """The kills so far."""
    return [operation for operation in lab.history() if operation.op == "fault"]


# --- max_concurrent_requests ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "count_of_kills", [pytest.param(0, marks=pytest.mark.long, id="in peace"), pytest.param(3, id="killed")]
)
def test_three_at_once_are_three_at_once_on_eight_processes(lab: Lab, count_of_kills: int) -> None:
    count = 120
    with lab.workers(8) as running:
        add("three", count, seconds="0.2")
        with killing(lab, running, count_of_kills, 2.0):
            lab.wait_for(count, "/work", 90)
        lab.wait_until_idle(60)
    spans = Evidence(lab.history()).spans("three")
    # A task that was cut off is tried alone, in a process that has to start first: the line's end is theirs.
    last = max(note["at"] for note in lab.notes() if note["what"] == "begin" and not note["retry_count"])
    shares = _shares(spans, last)
    cut_off = lab.ran(what="begin").total() - lab.ran().total()
    print(
        f"measured three at once: {len(spans)} runs, {cut_off} cut off, {len(kills(lab))} kills; "
        "share of the time by number: "
        + ", ".join(f"{number}: {share:.3f}" for number, share in sorted(shares.items()))
    )
    # It would be below a third if each freed place waited a second for the workers' next look.
    assert shares[3] >= (0.4 if count_of_kills else 0.7)
    assert (cut_off > 0) == (count_of_kills > 0)


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
