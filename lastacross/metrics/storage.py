"""Adds counts to Redis and reads them: per minute for 72 hours, and in total."""

from collections.abc import Iterable, Mapping
from typing import Any

from lastacross.metrics.counts import OUTCOMES, Counts, Deltas, counts_of, total, unpacked
from lastacross.store import (
    METRICS_PREFIX,
    METRICS_STREAMS,
    Arg,
    ResponseError,
    Store,
    metrics_all_hour_key,
    metrics_hour_key,
    metrics_names_key,
    metrics_total_key,
    translated_errors,
)

QUEUE = "queue"
HANDLER = "handler"
EVERYTHING = "everything"
"""The kind whose only name is ``QUEUES``."""
QUEUES = "queues"
"""The sum over all queues, which a page may read instead of each queue's counts."""
CRON = "cron"
"""The runs of cron jobs, which have no times: ``done``, ``dead`` (failed) or ``lost``."""
OTHER = "other"
"""The name under which attempts are counted once a kind has its maximum number of names."""

KEPT_MINUTES = 72 * 60
LIMITS = {QUEUE: 200, HANDLER: 200, CRON: 200, EVERYTHING: 1}
"""The maximum number of names per kind. A name without an attempt for 72 hours makes room for a new one."""
MAX_NAME_CHARACTERS = 200
NAMES_PER_CALL = 50
_MINUTE = 60


def write(store: Store, deltas: Mapping[tuple[str, str], Deltas]) -> None:
    """Add numbers to the counts of the current minute, and to the totals.

    Args:
        store: the Redis to write to.
        deltas: the numbers of each kind and name, as ``Recorder`` collects them.

    Raises:
        StoreUnavailableError: Redis does not answer. Some of the numbers may have been added.
    """
    minute = int(store.now() // _MINUTE)
    names = list(deltas.items())
    if summed := _sum_of_queues(deltas):
        names.append(((EVERYTHING, QUEUES), summed))
    for first in range(0, len(names), NAMES_PER_CALL):
        args: list[Arg] = [minute, KEPT_MINUTES]
        for (kind, name), numbers in names[first : first + NAMES_PER_CALL]:
            args += (kind, name[:MAX_NAME_CHARACTERS], LIMITS[kind], 2 * len(numbers))
            for pair in numbers.items():
                args += pair
        store.run("record_metrics", (METRICS_PREFIX,), args)


def _sum_of_queues(deltas: Mapping[tuple[str, str], Deltas]) -> Deltas:
    found: Deltas = {}
    for (kind, _), numbers in deltas.items():
        if kind == QUEUE:
            for index, number in numbers.items():
                found[index] = found.get(index, 0) + number
    return found


def count(store: Store, kind: str, name: str, outcome: str) -> None:
    """Count one event that is too rare for a ``Recorder``.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    write(store, {(kind, name): {OUTCOMES.index(outcome): 1}})


def minutes(store: Store, kind: str, name: str, since: float, until: float) -> dict[int, Counts]:
    """Read one name's counts per minute.

    Args:
        store: the Redis to read from.
        kind: ``QUEUE``, ``HANDLER`` or ``CRON``.
        name: a queue, a handler, a job (see ``names``), or ``OTHER``.
        since: the first instant of interest, in seconds since the epoch; its whole minute is included.
        until: the end, likewise; its minute is included unless ``until`` is the very beginning of that
            minute.

    Returns:
        The counts by the start of their minute in seconds since the epoch, in ascending order. Minutes
        without an attempt are missing.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    return minutes_of_all(store, kind, [name], since, until)[name]


def minutes_of_all(
    store: Store, kind: str, names: Iterable[str], since: float, until: float
) -> dict[str, dict[int, Counts]]:
    """Read several names' counts per minute in one round trip; the arguments are those of ``minutes``."""
    first, end = int(since // _MINUTE), -int(-until // _MINUTE)
    first = max(first, end - KEPT_MINUTES - _MINUTE)
    hours = range(first // 60, (end - 1) // 60 + 1) if first < end else range(0)
    wanted = list(names)
    with translated_errors(), store.redis.pipeline(transaction=False) as pipeline:
        for name in wanted:
            for hour in hours:
                pipeline.hgetall(metrics_hour_key(kind, hour, name))
        answers = iter(pipeline.execute(raise_on_error=False))
    found: dict[str, dict[int, Counts]] = {name: {} for name in wanted}
    for name in wanted:
        for hour in hours:
            for minute, counts in _minutes_in(_checked(next(answers)), hour):
                if first <= minute < end:
                    found[name][minute * _MINUTE] = counts
    return found


def hours(store: Store, kind: str, since: float, until: float) -> dict[str, Counts]:
    """Sum up the counts of all names over whole hours, in one round trip.

    It reads each name's hour as one value, so a day of 200 names costs as much as an hour of 80 names with
    ``minutes_of_all``.

    Args:
        store: the Redis to read from.
        kind: ``QUEUE`` or ``HANDLER``.
        since: the first instant of interest, in seconds since the epoch. Its hour is left out unless
            ``since`` is the very beginning of that hour.
        until: the end, likewise; its hour is included.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    span = range(-int(-since // 3600), int(until // 3600) + 1)
    with translated_errors(), store.redis.pipeline(transaction=False) as pipeline:
        for hour in span[-KEPT_MINUTES // 60 :]:
            pipeline.hgetall(metrics_all_hour_key(kind, hour))
        answers = pipeline.execute(raise_on_error=False)
    parts: dict[str, list[Counts]] = {}
    for answer in answers:
        for name, packed in _checked(answer).items():
            parts.setdefault(name.decode("utf-8", "replace"), []).append(counts_of(unpacked(packed)))
    return {name: total(found) for name, found in sorted(parts.items())}


def _checked(answer: Any) -> Mapping[bytes, bytes]:
    """The answer of HGETALL; a key of another type, which another program wrote, counts as missing.

    Raises:
        StoreUnavailableError: the answer is any other error.
    """
    if isinstance(answer, ResponseError):
        return {}
    if isinstance(answer, Exception):
        with translated_errors():
            raise answer
    return dict(answer)


def _minutes_in(fields: Mapping[bytes, bytes], hour: int) -> Iterable[tuple[int, Counts]]:
    """The minutes in the hash of an hour, in ascending order."""
    for minute in range(60):
        parts = [fields[field] for field in (b"%d" % minute, b"w%d" % minute) if field in fields]
        if parts:
            numbers: dict[int, float] = {}
            for part in parts:
                numbers |= unpacked(part)
            yield hour * 60 + minute, counts_of(numbers)


def names(store: Store, kind: str, since: float = 0.0) -> list[str]:
    """The names that have had an attempt at this instant or later, sorted; ``OTHER`` is not listed.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    try:
        with translated_errors():
            found: Any = store.redis.zrangebyscore(metrics_names_key(kind), int(since // _MINUTE), "+inf")
    except ResponseError:
        return []
    return sorted(name.decode("utf-8", "replace") for name in found)


def totals(store: Store, kind: str) -> dict[str, Counts]:
    """All names' counts since they were first counted, ``OTHER`` included. They never decrease.

    A name without attempts in the last 72 hours may be missing. Its counts begin at zero if it is used again.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    try:
        with translated_errors():
            found: Any = store.redis.hgetall(metrics_total_key(kind))
    except ResponseError:
        return {}
    return {
        name.decode("utf-8", "replace"): counts_of(unpacked(packed)) for name, packed in sorted(found.items())
    }


# --- open streams -------------------------------------------------------------------------

STREAMS_REPORT_SECONDS = 5.0
# A report from a process that has since ended counts for this long.
_STREAMS_KEEP_SECONDS = 15.0


def report_streams(store: Store, process: str, streams: int, former: int | None = None) -> None:
    """Report how many streams a process has open, every ``STREAMS_REPORT_SECONDS`` while there are any.

    Args:
        store: the Redis to write to.
        process: an id of the process, which must not contain a colon.
        streams: the number of its open streams.
        former: the number that it last reported.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    now = store.now()
    with translated_errors(), store.redis.pipeline(transaction=True) as pipeline:
        pipeline.zremrangebyscore(METRICS_STREAMS, "-inf", now)
        if former is not None and former != streams:
            pipeline.zrem(METRICS_STREAMS, f"{process}:{former}")
        if streams:
            pipeline.zadd(METRICS_STREAMS, {f"{process}:{streams}": now + _STREAMS_KEEP_SECONDS})
        pipeline.execute()


def open_streams(store: Store) -> int:
    """The number of open streams of all web processes, at most 15 seconds old.

    Raises:
        StoreUnavailableError: Redis does not answer.
    """
    try:
        with translated_errors():
            found: Any = store.redis.zrangebyscore(METRICS_STREAMS, store.now(), "+inf")
    except ResponseError:
        return 0
    numbers = [entry.rpartition(b":")[2] for entry in found]
    return sum(int(number) for number in numbers if number.isdigit())
