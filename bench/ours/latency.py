"""``latency``: from the beginning of an add to the start of the task, on one idle worker process."""

import time

from bench.ours.figures import Figures, milliseconds
from bench.ours.fleet import workers
from bench.ours.options import Options
from bench.ours.place import Place
from lastacross import deferred, taskqueue

_KEY = "bench:told"
_SAMPLES = 500
_WARM_UP = 20
_IDLE_SECONDS = 0.02


def latency(place: Place, options: Options) -> Figures:
    """One process with its stock threads; each time it has been idle for 20 ms."""
    with workers(place, 1) as fleet:
        fleet.wait_until_ready(place, 1)
        for _ in range(_WARM_UP):
            delay(place, options.kind, "work")
        delays = [delay(place, options.kind, "work") for _ in range(min(options.tasks, _SAMPLES))]
    return {"tasks": len(delays), **milliseconds(delays, 50, 95, 99), "processes": 1}


def delay(place: Place, kind: str, queue: str) -> float:
    """Seconds from the add of a task to its start."""
    time.sleep(_IDLE_SECONDS)
    added_at = time.monotonic()
    if kind == "deferred":
        deferred.defer(place.main.tell, _KEY, "-", 0.0, _queue=queue)
    else:
        params = {"key": _KEY, "name": "-", "seconds": 0}
        taskqueue.add(url="/tell", params=params, queue_name=queue)
    return place.told(_KEY).at - added_at
