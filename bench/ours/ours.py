"""Measure Last Across as it is shipped: ``python bench/ours/ours.py MEASURE --redis URL --tasks N``.

Progress goes to standard error; the last line of standard output is one JSON object with the figures.
Exits with 2 and one line on standard error when nothing could be measured.
"""

import argparse
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from bench.ours import adding, draining, fairness, fanin, idle, latency, memory, million, own_server, wsgi
from bench.ours.figures import Figures, versions
from bench.ours.options import Options, add_arguments, options_of, positive
from bench.ours.place import MeasureError, Place, made_place
from lastacross import config, errors

MEASURES: dict[str, Callable[[Place, Options], Figures]] = {
    "bulk": adding.bulk,
    "cpu": draining.cpu,
    "drain": draining.drain,
    "enqueue": adding.enqueue,
    "fairness": fairness.fairness,
    "fanin": fanin.fanin,
    "idle": idle.idle,
    "latency": latency.latency,
    "lpush": adding.lpush,
    "memory": memory.memory,
    "million": million.million,
    "wsgi": wsgi.wsgi,
}
_QUEUES = 2
_MANY_QUEUES = {"idle": 20}


def _settings(place: Place, processes: int) -> Figures:
    """What a reader may want to check."""
    settings = config.current().settings
    append_only: dict[str, str] = place.redis.config_get("append*")  # type: ignore[assignment]
    return {
        "command": f"lastacross worker --processes {processes}",
        "threads": settings.threads,
        "log_level": settings.log_level,
        "lease_seconds": settings.lease_seconds,
        "queue": "rate 50000/s, bucket_size 50000",
        "queues": len(config.current().queues),
        "semantics": "at least once",
        "redis": f"appendonly {append_only['appendonly']}, appendfsync {append_only['appendfsync']}",
    }


def measure(name: str, redis_url: str, options: Options) -> Figures:
    """Measure one thing on this Redis server, which must be empty.

    Raises:
        MeasureError, Error: nothing was measured.
    """
    with made_place(redis_url, options.queues or _MANY_QUEUES.get(name, _QUEUES)) as place:
        figures = MEASURES[name](place, options)
        return {
            "peer": "lastacross",
            "measure": name,
            "kind": options.kind,
            "batch": options.is_batch,
            **figures,
            "settings": _settings(place, figures.get("processes", options.processes)),
            "versions": versions(place.redis),
        }


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ours.py", description="Measures of Last Across.")
    parser.add_argument("measure", choices=sorted(MEASURES))
    parser.add_argument("--redis", metavar="URL", help="an empty server; without it, one is started")
    parser.add_argument("--timeout", type=positive, default=1800, help="seconds after which to give up")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.WARNING)
    _stop_in_order(given.timeout)
    try:
        with contextlib.ExitStack() as stack:
            url = given.redis or stack.enter_context(own_server.running())
            print(json.dumps(measure(given.measure, url, options_of(given))), flush=True)
    except (MeasureError, errors.Error) as error:
        print(f"ours.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _stop_in_order(seconds: int) -> None:
    """End with all that was started, also at SIGTERM and when it takes too long."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        # The second one would interrupt the ending.
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGALRM:
            raise MeasureError(f"not done after {seconds} s; --timeout gives it longer")
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)
    signal.alarm(seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
