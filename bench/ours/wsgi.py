"""``wsgi``: handler tasks beside bare WSGI calls of the same handler, in as many processes."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

from bench.ours.adding import add, check_batch
from bench.ours.draining import drain_ready
from bench.ours.figures import Figures, microseconds
from bench.ours.fleet import workers
from bench.ours.options import Options
from bench.ours.place import ROOT, WORK, MeasureError, Place
from lastacross import taskqueue

_SECONDS = 600.0


def wsgi(place: Place, options: Options) -> Figures:
    """Bare calls before and after the tasks, so that a machine that changes its speed counts for both.

    ``ratio`` is tasks a second to calls a second, with Redis on the same processors; for
    ``ratio_without_redis`` the time goes by in which Redis had one of them. The others compare processor
    time: of a call to that of a task in the worker alone, and in worker and Redis together.
    """
    options = dataclasses.replace(options, kind="handler")
    bare = [_bare(place, options)]
    taskqueue.Queue(WORK).pause()
    add(place, options)
    with workers(place, options.processes) as fleet:
        fleet.wait_until_ready(place, options.processes)
        tasks = {**drain_ready(place, options, fleet), "processes": options.processes}
        check_batch(place, options)
    bare.append(_bare(place, options))
    return {**tasks, **_ratios(tasks, bare, options.tasks), "kind": "handler"}


def _ratios(tasks: Figures, bare: list[tuple[float, float]], count: int) -> Figures:
    seconds = sum(seconds for seconds, _ in bare) / len(bare)
    redis_seconds = tasks["redis_cpu_us"] * count / 1e6 / min(tasks["processes"], os.cpu_count() or 1)
    call_us = microseconds(sum(cpu for _, cpu in bare) / len(bare), count)
    return {
        "bare_per_second": round(count / seconds, 1),
        "bare_cpu_us": call_us,
        "ratio": round(seconds / tasks["seconds"], 3),
        "ratio_without_redis": round(seconds / (tasks["seconds"] - redis_seconds), 3),
        "ratio_cpu": round(call_us / tasks["worker_cpu_us"], 3),
        "ratio_cpu_with_redis": round(call_us / (tasks["worker_cpu_us"] + tasks["redis_cpu_us"]), 3),
    }


def _bare(place: Place, options: Options) -> tuple[float, float]:
    """Seconds from the first call to the last, and processor seconds, of all processes together."""
    with contextlib.ExitStack() as stack:
        share = -(-options.tasks // options.processes)
        callers = [stack.enter_context(_caller(place, share)) for _ in range(options.processes)]
        lines = [_line(caller) for caller in callers]
        if lines != ["ready\n"] * options.processes:
            raise MeasureError("a process of bare calls did not start")
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write("go\n")
            caller.stdin.flush()
        found = [json.loads(_line(caller)) for caller in callers]
    began_at = min(each["began_at"] for each in found)
    seconds = max(each["ended_at"] for each in found) - began_at
    cpu_seconds = sum(each["cpu_seconds"] for each in found)
    return seconds * options.tasks / (share * options.processes), cpu_seconds


def _line(caller: subprocess.Popen[str]) -> str:
    assert caller.stdout is not None
    line = caller.stdout.readline()
    if not line:
        raise MeasureError("a process of bare calls ended before its time")
    return line


@contextlib.contextmanager
def _caller(place: Place, calls: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.ours.bare_wsgi", str(place.root), str(calls)],
        cwd=ROOT,
        env=place.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Its end ends the reading of its lines, too.
    limit = threading.Timer(_SECONDS, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.communicate()
