"""``drain`` and ``cpu``: tasks that wait are worked off."""

import time

from bench.ours.adding import add, check_batch
from bench.ours.figures import Figures, Spent, microseconds, rate
from bench.ours.fleet import Fleet, cpu_seconds, workers
from bench.ours.options import Options
from bench.ours.place import WORK, MeasureError, Place, wait_until
from lastacross import taskqueue

DRAIN_SECONDS = 900.0


def drain(place: Place, options: Options) -> Figures:
    """Tasks are added while no worker runs; then the workers start.

    The time goes from the first task taken to the last one done: the start of processes does not count.
    """
    empty = Spent.of(place.redis)
    add(place, options)
    waiting, _ = place.left()
    full = Spent.of(place.redis)
    with workers(place, options.processes):
        wait_until(lambda: place.left()[0] < waiting, 60, "a worker to take a task")
        began_at, before = time.monotonic(), Spent.of(place.redis)
        place.wait_until_done(DRAIN_SECONDS)
        seconds = time.monotonic() - began_at
        spent = Spent.of(place.redis).since(before)
        check_batch(place, options)
    return {
        **rate(options.tasks, seconds),
        **spent.per_task(options.tasks),
        "bytes_per_task": round(full.since(empty).memory / options.tasks),
    }


def cpu(place: Place, options: Options) -> Figures:
    """Processor time a task of each side: what can be compared on a machine that is busy.

    The queue is paused until the workers are there, so that none of it is the start of a process.
    """
    taskqueue.Queue(WORK).pause()
    before, began_at = Spent.of(place.redis), time.process_time()
    add(place, options)
    adding = microseconds(time.process_time() - began_at, options.tasks)
    spent_adding = Spent.of(place.redis).since(before)
    with workers(place, options.processes) as fleet:
        fleet.wait_until_ready(place, options.processes)
        ready = drain_ready(place, options, fleet)
        check_batch(place, options)
    return {
        **ready,
        "adding_us": adding,
        "redis_adding_us": microseconds(spent_adding.cpu_seconds, options.tasks),
        "redis_adding_commands": round(spent_adding.commands / options.tasks, 2),
    }


def drain_ready(place: Place, options: Options, fleet: Fleet) -> Figures:
    """Let workers that are there work off a paused queue."""
    pids = fleet.pids
    if len(pids) != options.processes:
        raise MeasureError(f"{len(pids)} worker processes run instead of {options.processes}")
    worked, spent = cpu_seconds(pids), Spent.of(place.redis)
    began_at = time.monotonic()
    taskqueue.Queue(WORK).resume()
    place.wait_until_done(DRAIN_SECONDS)
    seconds = time.monotonic() - began_at
    spent = Spent.of(place.redis).since(spent)
    each = [after - before for after, before in zip(cpu_seconds(pids), worked, strict=True)]
    return {
        **rate(options.tasks, seconds),
        **spent.per_task(options.tasks),
        "worker_us": microseconds(sum(each), options.tasks),
        "each_worker_us": [microseconds(one, options.tasks) for one in each],
    }
