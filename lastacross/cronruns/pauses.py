"""The paused jobs, whose names are in Redis."""

from typing import cast

from lastacross.store import PAUSED_JOBS, ResponseError, Store, translated_errors


def names(opened: Store) -> frozenset[str]:
    """Return the names of the paused jobs.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    with translated_errors():
        try:
            found = cast("set[bytes]", opened.redis.smembers(PAUSED_JOBS))
        except ResponseError:
            if not opened.set_aside({PAUSED_JOBS: "set"}):
                raise
            return frozenset()
    return frozenset(name.decode("utf-8", "replace") for name in found)


def begin(opened: Store, job: str) -> None:
    """Start no new runs of a job until it is resumed; a run in progress continues.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    with translated_errors():
        opened.redis.sadd(PAUSED_JOBS, job)


def end(opened: Store, job: str) -> None:
    """Record that a job is no longer paused; ``model.resume`` also sets its next due time.

    Raises:
        StoreUnavailableError: Redis is not responding.
    """
    with translated_errors():
        opened.redis.srem(PAUSED_JOBS, job)
