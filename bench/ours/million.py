"""``million``: whether a task costs the same among a million as among ten thousand."""

import dataclasses
import statistics
import time

from bench.ours.adding import COMPLETE, completed_at
from bench.ours.draining import drain_ready
from bench.ours.fanin import fan_in
from bench.ours.figures import Figures, Spent, microseconds
from bench.ours.fleet import Fleet, workers
from bench.ours.memory import PeakMemory
from bench.ours.options import Options
from bench.ours.place import WORK, Place, say
from lastacross import taskqueue

_FEW = 10_000
_ROUNDS = 3
_READS = 200


def million(place: Place, options: Options) -> Figures:
    """Each number of tasks is added to a paused queue in one batch, and then worked off; then the fan-in.

    Ratios are of the cost a task among many to that among few: processor time of all sides, and wall time.
    """
    few = dataclasses.replace(options, tasks=_FEW)
    with workers(place, options.processes) as fleet:
        fleet.wait_until_ready(place, options.processes)
        small = [_whole(place, few, fleet) for _ in range(_ROUNDS)]
        large = _whole(place, options, fleet)
        fan_in_small = statistics.median(fan_in(place, few)["seconds"] for _ in range(_ROUNDS))
        fan_in_large = fan_in(place, options)["seconds"]
    costs = {key: statistics.median(each[key] for each in small) for key in ("cpu_us", "wall_us")}
    return {
        "tasks": options.tasks,
        "small": small,
        "large": large,
        "ratio_cpu": round(large["cpu_us"] / costs["cpu_us"], 3),
        "ratio_wall": round(large["wall_us"] / costs["wall_us"], 3),
        "fanin_seconds": {str(_FEW): fan_in_small, str(options.tasks): fan_in_large},
        "ratio_fanin": round(fan_in_large / options.tasks / (fan_in_small / _FEW), 3),
    }


def _whole(place: Place, options: Options, fleet: Fleet) -> Figures:
    """Add a batch, read its progress, work it off."""
    say(f"{options.tasks} tasks are added")
    taskqueue.Queue(WORK).pause()
    before, cpu_before, began_at = Spent.of(place.redis), time.process_time(), time.monotonic()
    complete = place.telling(options.kind, COMPLETE)
    with PeakMemory() as memory, taskqueue.Batch(WORK, on_complete=complete) as batch:
        batch.add(place.tasks(options.kind, options.tasks))
    seconds, cpu_seconds = time.monotonic() - began_at, time.process_time() - cpu_before
    spent = Spent.of(place.redis).since(before)
    progress_us = _progress_us(batch)
    worked_off = drain_ready(place, options, fleet)
    completed_at(place)
    adding_us = microseconds(cpu_seconds, options.tasks)
    redis_adding_us = microseconds(spent.cpu_seconds, options.tasks)
    sides = (adding_us, redis_adding_us, worked_off["worker_cpu_us"], worked_off["redis_cpu_us"])
    return {
        "tasks": options.tasks,
        "adding_per_second": round(options.tasks / seconds, 1),
        "per_second": worked_off["per_second"],
        "client_cpu_us": adding_us,
        "redis_adding_cpu_us": redis_adding_us,
        "worker_cpu_us": worked_off["worker_cpu_us"],
        "redis_cpu_us": worked_off["redis_cpu_us"],
        "cpu_us": round(sum(sides), 1),
        "wall_us": microseconds(seconds + worked_off["seconds"], options.tasks),
        "bytes_per_task": round(spent.memory / options.tasks),
        "peak_growth_kb": memory.growth_kb,
        "progress_us": progress_us,
    }


def _progress_us(batch: taskqueue.Batch) -> float:
    """Median microseconds of a read of how far the batch is."""
    reads = []
    for _ in range(_READS):
        began_at = time.monotonic()
        batch.progress()
        reads.append(time.monotonic() - began_at)
    return round(statistics.median(reads) * 1e6, 1)
