"""``drain`` and ``cpu``: tasks that wait are worked off."""

import time

from bench.ours.adding import add, check_batch
from bench.ours.figures import Figures, Spent, microseconds, rate
from bench.ours.fleet import START_SECONDS, Fleet, cpu_seconds, workers
from bench.ours.options import Options
from bench.ours.place import WORK, MeasureError, Place, wait_until
from lastacross import taskqueue

DRAIN_SECONDS = 900.0
_LOOKS = 100


def drain(place: Place, options: Options) -> Figures:
    """Tasks are added while no worker runs; then the workers start.

    The time goes from the first task taken to the last one done: the start of processes does not count.
    """
    empty = Spent.of(place.redis)
    add(place, options)
    full = Spent.of(place.redis)
    look = _look(place)
    with workers(place, options.processes) as fleet:
        wait_until(lambda: place.left() < options.tasks, START_SECONDS, "the first task to be done")
        began_at, before, left = time.monotonic(), Spent.of(place.redis), place.left()
        pids = [fleet.process.pid, *fleet.pids]
        worked = cpu_seconds(pids)
        looks = place.wait_until_done(DRAIN_SECONDS)
        seconds = time.monotonic() - began_at
        spent = Spent.of(place.redis).since(before).without(looks, look)
        worked_cpu = sum(cpu_seconds(pids)) - sum(worked)
        check_batch(place, options)
    place.check_runs(options.tasks)
    return {
        **rate(left, seconds),
        **spent.per_task(left),
        "tasks": options.tasks,
        "worker_cpu_us": microseconds(worked_cpu, left),
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
        "client_cpu_us": adding,
        "redis_adding_cpu_us": microseconds(spent_adding.cpu_seconds, options.tasks),
        "redis_adding_commands": round(spent_adding.commands / options.tasks, 2),
    }


def drain_ready(place: Place, options: Options, fleet: Fleet) -> Figures:
    """Let workers that are there work off a paused queue."""
    pids = fleet.pids
    if len(pids) != options.processes:
        raise MeasureError(f"{len(pids)} worker processes run instead of {options.processes}")
    look = _look(place)
    worked, before = cpu_seconds(pids), Spent.of(place.redis)
    began_at = time.monotonic()
    taskqueue.Queue(WORK).resume()
    looks = place.wait_until_done(DRAIN_SECONDS)
    seconds = time.monotonic() - began_at
    spent = Spent.of(place.redis).since(before).without(looks, look)
    each = [after - before for after, before in zip(cpu_seconds(pids), worked, strict=True)]
    return {
        **rate(options.tasks, seconds),
        **spent.per_task(options.tasks),
        "worker_cpu_us": microseconds(sum(each), options.tasks),
        "each_worker_cpu_us": [microseconds(one, options.tasks) for one in each],
    }


def _look(place: Place) -> Spent:
    """What one look at how many tasks are left costs Redis, while nothing else happens."""
    before = Spent.of(place.redis)
    for _ in range(_LOOKS):
        place.left()
    spent = Spent.of(place.redis).since(before)
    return Spent(spent.cpu_seconds / _LOOKS, spent.commands / _LOOKS, 0)
