"""A small quilt beside all that strangers may start: by arithmetic over threads, and on a site that runs."""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

import pytest

from lastacross import config
from programs.quilt import models
from programs.quilt import pages as quilt
from programs.quilt import tasks as workers
from programs.shared import starting
from tests.support.processes import ROOT

THREADS = 16
"""Of ``lastacross dev``: two worker processes with eight each."""

BAR_SECONDS = 2.0
MAX_DELAY_MS = quilt.FIELDS["delay_ms"][1]
LARGEST_TOTAL = 10_000

SMALL = 64
TASK_SECONDS = 0.002
FILL_SECONDS = 0.01
"""A square and a portion without the delay, generously; none waits for another's commit here."""


def threads_held_by_others() -> int:
    """Those that reports and errors hold, if strangers send as many as they can."""
    queues = config.load(ROOT, {"LASTACROSS_DEV": "1"}).queues
    limits = [queues[name].max_concurrent_requests for name in ("reports", "errors")]
    return sum(limit or THREADS for limit in limits)


@dataclass
class Line:
    """The queue of squares, first come first served, and the threads that work it off.

    A job is (quilt, start): a square, or with a start the task that hands out the portion from there.
    """

    threads: int
    quilts: list[models.Quilt]
    waiting: deque[tuple[int, int | None]] = field(default_factory=deque)
    running: list[tuple[float, int, int, int | None]] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    now: float = 0.0

    def fill(self, number: int, start: int = 0) -> None:
        """Hand out a portion, with the task for the next in its middle: as ``workers.fill_quilt``."""
        total = self.quilts[number].total
        end = min(total, start + workers.portion_size(self.quilts[number]))
        squares: list[tuple[int, int | None]] = [(number, None)] * (end - start)
        if end < total:
            squares.insert((end - start + 1) // 2, (number, end))
        self.waiting.extend(squares)

    def step(self) -> tuple[int, int | None]:
        """Let free threads begin, go to the next end of a job, and return that job."""
        while self.waiting and len(self.running) < self.threads:
            number, start = self.waiting.popleft()
            seconds = TASK_SECONDS + self.quilts[number].delay_ms / 1000 if start is None else FILL_SECONDS
            heapq.heappush(self.running, (self.now + seconds, next(self.numbers), number, start))
        self.now, _, number, start = heapq.heappop(self.running)
        if start is not None:
            self.fill(number, start)
        return number, start


def seconds_of_a_small_one(delay_ms: int, *, others: int, threads: int, begun_at: float) -> float:
    """How long an 8 by 8 takes that comes at this instant, beside so many of the largest with its delay."""
    work_ms = max(delay_ms, starting.MIN_SQUARE_MS)
    total = min(LARGEST_TOTAL, starting.MAX_WORK_SECONDS * 1000 // work_ms)
    large = [models.Quilt(rows=total, columns=1, delay_ms=delay_ms) for _ in range(others)]
    line = Line(threads, [*large, models.Quilt(rows=SMALL, columns=1, delay_ms=delay_ms)])
    for number in range(others):
        line.fill(number)
    while line.now < begun_at and others:
        line.step()
    came_at, left = line.now, SMALL
    line.fill(others)
    while left:
        number, _ = line.step()
        left -= number == others
    return line.now - came_at


@pytest.mark.parametrize("delay_ms", [0, 10, 12, 50, 100, 200, 300, 400, 500, MAX_DELAY_MS])
def test_a_small_quilt_is_at_most_two_seconds_later_beside_all_that_strangers_may_start(
    delay_ms: int,
) -> None:
    """Every other place is taken by one of the largest, and reports and errors hold what threads they may."""
    alone = seconds_of_a_small_one(delay_ms, others=0, threads=THREADS, begun_at=0)
    threads = THREADS - threads_held_by_others()

    beside = max(
        seconds_of_a_small_one(
            delay_ms, others=starting.MAX_UNDER_WAY - 1, threads=threads, begun_at=2 + 0.037 * turn
        )
        for turn in range(30)
    )

    assert threads == 12
    assert beside - alone <= BAR_SECONDS
