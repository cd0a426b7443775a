"""Reads the final state from Redis, and fails a test whose history breaks a rule."""

import contextlib
import importlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from lastacross import store
from tests.support import history, recording
from tests.support.evidence import Limit, State
from tests.support.history import Operation, Recorder
from tests.support.history_rules import violations

MAX_SHOWN = 20

# Prefixes of the sorted sets whose entries are task ids.
_SORTED_SETS = {
    store.SCHEDULED_PREFIX: "scheduled",
    store.DEFERRED_PREFIX: "deferred",
    store.DEAD_PREFIX: "dead",
    store.PULL_PREFIX: "pull",
}


@contextlib.contextmanager
def judged(
    path: Path,
    url: str | None,
    limits: Mapping[str, Limit] | None = None,
    *,
    is_of_site: bool = False,
) -> Iterator[dict[str, str]]:
    """Record the block into a file, and judge it at the end. Yields the environment for its processes.

    Args:
        path: the file, which does not have to exist yet.
        url: the URL of the Redis, which may have ended before the judgement; None if it is not known.
        limits: the limits by queue, to which the block may still add some.
        is_of_site: whether this is the history of a running site, which many tests share.
    """
    with _recorded(path, url, is_of_site):
        yield recording.environ_of(path)
    operations = history.read(path)
    if is_of_site:
        check_recorded(operations)
    check(operations, state_of(url) if url else None, limits)


@contextlib.contextmanager
def _recorded(path: Path, url: str | None, is_of_site: bool) -> Iterator[None]:
    for name in recording.STEPS:
        recording.record(importlib.import_module(name))
    recorder = Recorder(path, url, is_of_site=is_of_site)
    recording.Using.recorders.append(recorder)
    try:
        yield
    finally:
        recording.Using.recorders.remove(recorder)
        recorder.close()


def check_recorded(operations: Sequence[Operation]) -> None:
    """Fail if a site's processes recorded nothing, because an empty history does not break any rule."""
    recorded = {operation.asked["module"] for operation in operations if operation.op == "recording"}
    missing = {"lastacross.broker.steps", "lastacross.worker.delivery"} - recorded
    assert not missing, f"the site's processes did not record {sorted(missing)}"


def check(
    operations: Sequence[Operation], state: State | None, limits: Mapping[str, Limit] | None = None
) -> None:
    """Fail with all violated rules, if there are any."""
    found = violations(operations, state, limits=limits)
    print(f"history: {history.summary(operations)}")
    more = [f"… and {len(found) - MAX_SHOWN} more"] if len(found) > MAX_SHOWN else []
    assert not found, "\n".join(["the history is wrong:", *found[:MAX_SHOWN], *more])


def state_of(url: str) -> State | None:
    """The contents of this Redis, or None if it does not answer."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        try:
            return _state(client)
        except redis.ConnectionError:
            return None


def _state(client: Any) -> State:
    places: dict[str, list[str]] = defaultdict(list)
    for key in _keys(client, store.READY_PREFIX):
        for task in client.lrange(store.READY_PREFIX + key, 0, -1):
            places[task].append("ready")
    for prefix, place in _SORTED_SETS.items():
        for key in _keys(client, prefix):
            for task in client.zrange(prefix + key, 0, -1):
                places[task].append(place)
    for key in _keys(client, store.LEASED_PREFIX):
        for entry in client.zrange(store.LEASED_PREFIX + key, 0, -1):
            places[entry.rpartition(":")[0]].append("leased")
    return State(places, _keys(client, store.RECORD_PREFIX), _keys(client, store.TOMBSTONE_PREFIX))


def _keys(client: Any, prefix: str) -> frozenset[str]:
    return frozenset(key.removeprefix(prefix) for key in client.scan_iter(f"{prefix}*", 1000))
