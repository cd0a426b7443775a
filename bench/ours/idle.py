"""``idle``: what worker processes without work cost."""

import time
from collections import Counter
from typing import Any

from bench.ours.figures import Figures
from bench.ours.fleet import cpu_seconds, workers
from bench.ours.options import Options
from bench.ours.place import Place

_SETTLE_SECONDS = 5.0
_END = "bench:end"


def idle(place: Place, options: Options) -> Figures:
    """Processor share and calls of Redis, those of scripts left out, a worker process."""
    with workers(place, options.processes) as fleet:
        fleet.wait_until_ready(place, options.processes)
        time.sleep(_SETTLE_SECONDS)
        pids = fleet.pids
        with place.redis.monitor() as monitor:
            before, began_at = cpu_seconds(pids), time.monotonic()
            time.sleep(options.seconds)
            shares = [after - start for after, start in zip(cpu_seconds(pids), before, strict=True)]
            seconds = time.monotonic() - began_at
            place.redis.echo(_END)
            calls = _calls(monitor)
    return {
        "seconds": round(seconds, 2),
        "processes": options.processes,
        "cpu_percent": round(max(shares) / seconds * 100, 3),
        "each_cpu_percent": [round(share / seconds * 100, 3) for share in shares],
        "calls_per_second": round(calls.total() / seconds / options.processes, 2),
        "calls": {name: round(count / seconds / options.processes, 2) for name, count in calls.most_common()},
    }


def _calls(monitor: Any) -> Counter[str]:
    """The commands that clients sent until now, by name."""
    found: Counter[str] = Counter()
    while True:
        heard: dict[str, str] = monitor.next_command()
        if _END in heard["command"]:
            return found
        if heard["client_type"] != "lua":
            found[heard["command"].split(" ", 1)[0].upper()] += 1
