"""``fanin``: from the first add to the start of the one task that follows when all members are done."""

import dataclasses
import time

from bench.ours.adding import add, completed_at
from bench.ours.figures import Figures, rate
from bench.ours.fleet import workers
from bench.ours.options import Options
from bench.ours.place import WORK, Place

_SECONDS = 900.0


def fanin(place: Place, options: Options) -> Figures:
    """Workers run and are idle; then a batch is filled."""
    with workers(place, options.processes) as fleet:
        fleet.wait_until_ready(place, options.processes)
        return fan_in(place, options)


def fan_in(place: Place, options: Options) -> Figures:
    """The same with workers that are there."""
    began_at = time.monotonic()
    add(place, dataclasses.replace(options, is_batch=True))
    added_at = time.monotonic()
    ended_at = completed_at(place, _SECONDS)
    place.wait_until_done(60, WORK)
    place.check_runs(options.tasks)
    return {
        **rate(options.tasks, ended_at - began_at),
        "batch": True,
        "adding_seconds": round(added_at - began_at, 4),
    }
