"""Runs the cache's operations in Redis, each of which is one Lua file.

Every value's key contains the current *generation*, so a flush only has to write a new generation. The old
generation's values are then deleted in batches to free their memory immediately, without blocking Redis.
"""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lastacross import store

# The maximum number of values per Lua call. More would block other Redis clients for too long.
CHUNK = 500

_COUNTED = ("hits", "misses", "byte_hits")
# The leading KEYS of every script that includes lua/cache.lua.
KEYS = (store.CACHE_GENERATION, store.CACHE_PREFIX)
# An entry's header is shorter than this (see lua/cache.lua).
_HEAD_BYTES = 80
_ENTRY_HEAD = re.compile(rb"([A-Za-z]) ([0-9]{1,30}) ([0-9]{1,30}) [0-9a-f]+")


@dataclass(frozen=True)
class Entry:
    """A value in its stored form.

    ``expires_at`` and ``stored_at`` are seconds since the epoch; kind "L" is a lock.
    """

    kind: str
    payload: bytes
    version: str
    expires_at: float
    stored_at: float


def read(keys: Sequence[bytes]) -> list[Entry | None]:
    """Return the entries of these keys, in the same order; a missing entry is None.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    return entries(_in_chunks("cache_get", [instant()], [[key] for key in keys]))


def entries(answers: Sequence[Any]) -> list[Entry | None]:
    """Parse the results of ``cache_get``, or of another script that reads cache entries."""
    return [_entry(answer) if answer else None for answer in answers]


def write(policy: str, expires_at: float, items: Sequence[tuple[bytes, str, bytes, str]]) -> list[bool]:
    """Store the values and return, for each one, whether it was stored.

    An item consists of key, kind, payload, and the version that ``cas`` expects (otherwise "").

    Raises:
        StoreUnavailableError: Redis is unavailable or is refusing writes.
    """
    head = [instant(), _microseconds(expires_at), policy, _new_version()]
    return [answer == 1 for answer in _in_chunks("cache_store", head, items)]


def delete(keys: Sequence[bytes], locked_until: float | None) -> list[int]:
    """Delete values and locks, and return 2 for each key that had either, and 1 for each other key.

    ``add`` refuses the keys until ``locked_until``, in seconds since the epoch; None means no lock.

    Raises:
        StoreUnavailableError: Redis is unavailable or is refusing writes.
    """
    lock = 0 if locked_until is None else _microseconds(locked_until)
    return _in_chunks("cache_delete", [instant(), lock, _new_version()], [[key] for key in keys])


def offset(
    deltas: Sequence[tuple[bytes, int]], expires_at: float, initial_value: int | None
) -> list[int | None]:
    """Add deltas, which may be negative, to numbers and return the results; a missing number gives None.

    Raises:
        StoreUnavailableError: Redis is unavailable or is refusing writes.
    """
    initial = "" if initial_value is None else initial_value
    items = [(key, "-" if delta < 0 else "+", abs(delta)) for key, delta in deltas]
    head = [instant(), _microseconds(expires_at), _new_version(), initial]
    return [None if answer is None else int(answer) for answer in _in_chunks("cache_offset", head, items)]


def flush() -> None:
    """Invalidate all values immediately, then free their memory.

    To free the memory, all key names in Redis are scanned in batches, at about a second per million keys.

    Raises:
        StoreUnavailableError: Redis is unavailable or is refusing writes.
    """
    redis = store.current().redis
    generation = os.urandom(6).hex()
    with store.translated_errors():
        redis.set(store.CACHE_GENERATION, generation)
        kept = f"{store.CACHE_PREFIX}{generation}:".encode()
        for page in _pages(store.CACHE_PREFIX):
            old = [name for name in page if not name.startswith(kept)]
            if old:
                redis.unlink(*old)


def survey() -> dict[str, int]:
    """Return the cache's current items, bytes and oldest_item_age (seconds).

    This scans all key names in Redis and reads the header of each value, in batches.

    Raises:
        StoreUnavailableError: Redis is unavailable.
    """
    now = store.current().now()
    items, size, oldest = 0, 0, now
    with store.translated_errors():
        for page in _pages(f"{store.CACHE_PREFIX}{_generation()}:"):
            for bytes_held, stored_at in _sizes(page, now):
                items += 1
                size += bytes_held
                oldest = min(oldest, stored_at)
    return {"items": items, "bytes": size, "oldest_item_age": int(now - oldest)}


def _generation() -> str:
    try:
        found = cast(bytes | None, store.current().redis.get(store.CACHE_GENERATION))
    except store.ResponseError:
        # While the key is not a string, the scripts use the first generation, too.
        found = None
    return (found or b"0").decode("utf-8", "replace")


def _sizes(names: Sequence[bytes], now: float) -> Iterator[tuple[int, float]]:
    """Yield the bytes and stored_at of each unexpired value among these entries, but not of locks."""
    pipeline = store.current().redis.pipeline(transaction=False)
    for name in names:
        pipeline.getrange(name, 0, _HEAD_BYTES)
        pipeline.strlen(name)
    answers = pipeline.execute(raise_on_error=False)
    for text, length in zip(answers[::2], answers[1::2], strict=True):
        head = text.partition(b"\n")[0] if isinstance(text, bytes) else b""
        entry = _ENTRY_HEAD.fullmatch(head)
        if entry is not None and entry[1] != b"L" and int(entry[2]) / 1e6 > now:
            yield length - len(head) - 1, int(entry[3]) / 1e6


class Counts:
    """Counts this process's hits and misses, and writes them to Redis at most once a second.

    If each ``get`` updated the counts in Redis, every read would also be a write.
    """

    WRITE_EVERY_SECONDS = 1.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending = dict.fromkeys(_COUNTED, 0)
        self._written_at = float("-inf")

    def add(self, entries: Sequence[Entry | None]) -> None:
        """Count the hits and misses of a ``get``.

        Raises:
            StoreUnavailableError: Redis is unavailable or is refusing writes.
        """
        found = [entry for entry in entries if entry is not None and entry.kind != "L"]
        now = store.current().clock.monotonic()
        with self._lock:
            self._pending["hits"] += len(found)
            self._pending["misses"] += len(entries) - len(found)
            self._pending["byte_hits"] += sum(len(entry.payload) for entry in found)
            is_due = not 0 <= now - self._written_at < self.WRITE_EVERY_SECONDS
        if is_due:
            self.write()

    def write(self) -> None:
        """Write the pending counts.

        Raises:
            StoreUnavailableError: Redis is unavailable or is refusing writes.
        """
        now = store.current().clock.monotonic()
        with self._lock:
            counted, self._pending = self._pending, dict.fromkeys(_COUNTED, 0)
            self._written_at = now
        pipeline = store.current().redis.pipeline(transaction=False)
        for name, number in counted.items():
            pipeline.hincrby(store.CACHE_STATISTICS, name, number)
        try:
            with store.translated_errors():
                pipeline.execute()
        except store.ResponseError:
            # Another program has written something other than numbers there, so start again from zero.
            with store.translated_errors():
                store.current().redis.delete(store.CACHE_STATISTICS)

    def totals(self) -> dict[str, int]:
        """Return the hits, misses and byte_hits of all processes.

        Raises:
            StoreUnavailableError: Redis is unavailable.
        """
        try:
            with store.translated_errors():
                numbers = cast(
                    list[bytes | None], store.current().redis.hmget(store.CACHE_STATISTICS, list(_COUNTED))
                )
            return {name: int(number or 0) for name, number in zip(_COUNTED, numbers, strict=True)}
        except (store.ResponseError, ValueError):
            # The stored counts are not numbers; the next write starts again from zero.
            return dict.fromkeys(_COUNTED, 0)


def _in_chunks(script: str, head: list[Any], items: Sequence[Sequence[Any]]) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(items), CHUNK):
        args = [*head, *(part for item in items[start : start + CHUNK] for part in item)]
        answers += store.current().run(script, KEYS, args)
    return answers


def _pages(prefix: str) -> Iterator[list[bytes]]:
    """Yield the names of the keys that begin with the prefix, in batches."""
    redis = store.current().redis
    cursor = 0
    while True:
        cursor, page = cast(tuple[int, list[bytes]], redis.scan(cursor, match=f"{prefix}*", count=1000))
        if page:
            yield page
        if cursor == 0:
            return


def _entry(answer: list[bytes]) -> Entry | None:
    kind, payload, version, expires_at, stored_at = answer
    try:
        return Entry(kind.decode(), payload, version.decode(), int(expires_at) / 1e6, int(stored_at) / 1e6)
    except (ValueError, OverflowError):
        # The entry is malformed, for example because a number has hundreds of digits.
        return None


def instant() -> int:
    """Return the current time in the scripts' unit, microseconds since the epoch."""
    return _microseconds(store.current().now())


def _microseconds(instant: float) -> int:
    return round(instant * 1e6)


def _new_version() -> str:
    """Return 64 random bits, which distinguish each write from every other."""
    return os.urandom(8).hex()
