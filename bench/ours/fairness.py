"""``fairness``: whether a task that takes long, or a queue that is long, holds up other tasks."""

import time

from bench.ours.figures import Figures, milliseconds
from bench.ours.fleet import workers
from bench.ours.latency import delay
from bench.ours.options import Options
from bench.ours.place import QUILT, WORK, MeasureError, Place
from lastacross import taskqueue

_KEY = "bench:fairness"
_SHORT = 100
_LONG = "long"
_LONG_SECONDS = 5.0
_ROUNDS = 3
_WAITING = 100_000


def fairness(place: Place, options: Options) -> Figures:
    """Two experiments on idle workers, each beside the same without what could hold them up."""
    with workers(place, options.processes) as fleet:
        fleet.wait_until_ready(place, options.processes)
        without = [_last_start(place, options.kind, has_long=False) for _ in range(_ROUNDS)]
        beside = [_last_start(place, options.kind, has_long=True) for _ in range(_ROUNDS)]
        alone = [delay(place, options.kind, QUILT) for _ in range(options.tries)]
        crowded = _beside_many(place, options)
    return {
        "long_task": {
            "short_tasks": _SHORT,
            "long_seconds": _LONG_SECONDS,
            "last_start_without_ms": round(max(without) * 1000, 2),
            "last_start_beside_ms": round(max(beside) * 1000, 2),
            "delay_ms": round((max(beside) - min(without)) * 1000, 2),
        },
        "long_queue": {
            "waiting": _WAITING,
            "tries": options.tries,
            "alone": milliseconds(alone, 50, 95),
            "beside": milliseconds(crowded, 50, 95),
        },
    }


def _last_start(place: Place, kind: str, *, has_long: bool) -> float:
    """Seconds from the add of short tasks at once, a long one among them, to the last short one's start."""
    place.redis.delete(_KEY)
    tasks = [place.telling(kind, _KEY, str(number)) for number in range(_SHORT)]
    if has_long:
        long = place.telling(kind, _KEY, _LONG, seconds=_LONG_SECONDS)
        tasks.insert(_SHORT // 2, long)
    added_at = time.monotonic()
    with taskqueue.Batch(WORK) as batch:
        batch.add(tasks)
    told = [place.told(_KEY, _LONG_SECONDS * 3) for _ in tasks]
    place.wait_until_done(_LONG_SECONDS * 3)
    starts = {start.name: start.at for start in told if start.name != _LONG}
    if len(starts) != _SHORT:
        raise MeasureError(f"{len(starts)} of {_SHORT} short tasks ran")
    return max(starts.values()) - added_at


def _beside_many(place: Place, options: Options) -> list[float]:
    """Delays of another queue's tasks while many tasks wait and are worked off."""
    queue = taskqueue.Queue(WORK)
    queue.pause()
    with taskqueue.Batch(WORK) as batch:
        batch.add(place.tasks(options.kind, _WAITING))
    queue.resume()
    delays = [delay(place, options.kind, QUILT) for _ in range(options.tries)]
    if place.left() == 0:
        raise MeasureError(f"{_WAITING} tasks were done before {options.tries} others: fewer --tries")
    place.wait_until_done(600)
    return delays
