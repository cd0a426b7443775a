"""``enqueue``, ``lpush`` and ``bulk``: tasks are added while no worker runs."""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

from bench.ours.figures import Figures, Spent, microseconds, rate
from bench.ours.memory import PeakMemory
from bench.ours.options import Options
from bench.ours.place import POLL_SECONDS, WORK, MeasureError, Place, say
from lastacross import deferred, taskqueue

COMPLETE = "bench:complete"
_LIST = "bench:lpush"
_BLOCK = 500
_WARM_UP = 100


# --- for the other measures ---------------------------------------------------------------


def add(place: Place, options: Options) -> None:
    """Add the tasks: a hundred a call, or all in a batch that ends in one task more."""
    say(f"{options.tasks} tasks are added")
    tasks = place.tasks(options.kind, options.tasks)
    if options.is_batch:
        with taskqueue.Batch(WORK, on_complete=place.telling(options.kind, COMPLETE)) as batch:
            batch.add(tasks)
        return
    queue = taskqueue.Queue(WORK)
    while chunk := list(itertools.islice(tasks, taskqueue.MAX_TASKS_PER_ADD)):
        queue.add(chunk)


def completed_at(place: Place, seconds: float = 60.0) -> float:
    """The monotonic instant at which the task began that ends the batch.

    Raises:
        MeasureError: not in time, or it ran twice.
    """
    start = place.told(COMPLETE, seconds)
    time.sleep(POLL_SECONDS)
    if place.redis.exists(COMPLETE):
        raise MeasureError("the task that ends the batch ran twice")
    return start.at


def check_batch(place: Place, options: Options) -> None:
    """See that the batch of these tasks, if they had one, has ended once.

    Raises:
        MeasureError: it has not.
    """
    if options.is_batch:
        completed_at(place)


# --- the measures -------------------------------------------------------------------------


def enqueue(place: Place, options: Options) -> Figures:
    """Tasks added one by one, in turns with as many LPUSHes of the same bytes: both see the same machine."""
    bodies = [task.body for task in place.tasks(options.kind, _BLOCK)]
    _add_one_by_one(place, options.kind, range(_WARM_UP))
    ours, bare = _Stretch(place), _Stretch(place)
    indices = iter(range(options.tasks))
    while block := list(itertools.islice(indices, _BLOCK)):
        ours.run(_add_one_by_one, place, options.kind, block)
        bare.run(_push, place, bodies[: len(block)])
    place.redis.delete(_LIST)
    return {
        **rate(options.tasks, ours.seconds),
        "client_cpu_us": microseconds(ours.cpu_seconds, options.tasks),
        "redis_cpu_us": microseconds(ours.redis_seconds, options.tasks),
        "lpush_per_second": round(options.tasks / bare.seconds, 1),
        "lpush_client_cpu_us": microseconds(bare.cpu_seconds, options.tasks),
        "ratio_to_lpush": round(bare.seconds / ours.seconds, 3),
    }


def lpush(place: Place, options: Options) -> Figures:
    """The same bytes pushed to a list by a bare loop: what the client and the server take without us."""
    bodies = [task.body for task in place.tasks(options.kind, _BLOCK)]
    bare = _Stretch(place)
    bare.run(_push, place, itertools.islice(itertools.cycle(bodies), options.tasks))
    place.redis.delete(_LIST)
    return {
        **rate(options.tasks, bare.seconds),
        "client_cpu_us": microseconds(bare.cpu_seconds, options.tasks),
        "redis_cpu_us": microseconds(bare.redis_seconds, options.tasks),
    }


def bulk(place: Place, options: Options) -> Figures:
    """Tasks added by ``Batch.add`` from a generator."""
    stretch = _Stretch(place)
    before = Spent.of(place.redis)
    with PeakMemory() as memory, taskqueue.Batch(WORK) as batch:
        stretch.run(batch.add, place.tasks(options.kind, options.tasks))
    spent = Spent.of(place.redis).since(before)
    return {
        **rate(options.tasks, stretch.seconds),
        **spent.per_task(options.tasks),
        "client_cpu_us": microseconds(stretch.cpu_seconds, options.tasks),
        "bytes_per_task": round(spent.memory / options.tasks),
        "peak_growth_kb": memory.growth_kb,
    }


class _Stretch:
    """Wall time and processor time of several calls; Redis's too."""

    def __init__(self, place: Place) -> None:
        self._redis = place.redis
        self.seconds = self.cpu_seconds = self.redis_seconds = 0.0

    def run(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call and count."""
        before = Spent.of(self._redis)
        began_at, cpu_before = time.monotonic(), time.process_time()
        call(*arguments)
        self.cpu_seconds += time.process_time() - cpu_before
        self.seconds += time.monotonic() - began_at
        self.redis_seconds += Spent.of(self._redis).since(before).cpu_seconds


def _add_one_by_one(place: Place, kind: str, indices: Iterable[int]) -> None:
    """As an application does it."""
    if kind == "deferred":
        for index in indices:
            deferred.defer(place.main.noop, index // 100, index % 100, _queue=WORK)
    else:
        for index in indices:
            params = {"row": index // 100, "column": index % 100}
            taskqueue.add(url="/work", params=params, queue_name=WORK)


def _push(place: Place, bodies: Iterable[bytes]) -> None:
    client = place.redis
    for body in bodies:
        client.lpush(_LIST, body)
