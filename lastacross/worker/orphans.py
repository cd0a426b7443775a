"""Tasks that a stock ``rq worker``, started on our queues by mistake, took with it when it was killed.

It takes a task off the list before it notes it anywhere, so that a kill in between leaves the record
and nothing that points to it. Another program that writes over a list or a registry leaves the same. Looking
for such records means reading all of them: it is done only while a foreign worker is registered, and after
a damage was met.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from lastacross import logs
from lastacross.broker import DEFAULT_GROUP, Broker, queue_directory
from lastacross.store import (
    LEASED_PREFIX,
    READY_PREFIX,
    RECORD_PREFIX,
    RQ_QUEUES,
    RQ_WORKER_PREFIX,
    RQ_WORKERS,
    RUN_NOW_PREFIX,
    SCHEDULED_PREFIX,
    translated_errors,
)

OWN_NAME_PREFIX = "lastacross-"
CHUNK = 1000

_log = logs.get("lastacross.worker")


class Orphans:
    """Finds them: a record that was in no list at two looks in a row is put back.

    Args:
        broker: the steps.
        queues: the queues to look after.
    """

    def __init__(self, broker: Broker, queues: Sequence[str]) -> None:
        self._broker = broker
        self._redis = broker.store.redis
        # The caller's own list, which grows and shrinks with queue.yaml.
        self._queues = queues
        self._suspected: set[str] = set()
        self._has_warned = False
        self._looks_after_damage = 0

    def note_damage(self) -> None:
        """A list or a registry may have been lost: look for its tasks."""
        self._looks_after_damage = 2

    def restore(self) -> list[str]:
        """Look once, if there is a foreign worker, there was one at the last look, or a damage was met.

        Returns:
            The ids of the tasks that were put back.
        """
        with translated_errors():
            foreign = self._foreign_workers()
            if not foreign and not self._suspected and not self._looks_after_damage:
                return []
            self._looks_after_damage = max(0, self._looks_after_damage - 1)
            if foreign and not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "worker.foreign", workers=foreign, remedy="run `lastacross worker`, not `rq worker`"
                )
            lost = self._in_no_list()
        twice = lost & self._suspected
        self._suspected = lost - twice
        return self._broker.restore_orphans(sorted(twice))

    def _foreign_workers(self) -> list[str]:
        keys = self._redis.smembers(RQ_WORKERS)
        names = [_text(key).removeprefix(RQ_WORKER_PREFIX) for key in keys]
        return sorted(name for name in names if not name.startswith(OWN_NAME_PREFIX))

    def _in_no_list(self) -> set[str]:
        records = set(self._live_records())
        for queue in self._queues:
            for place in self._places(queue):
                records.difference_update(self._listed(place))
            entries = self._redis.zrange(LEASED_PREFIX + queue, 0, -1)
            records.difference_update(_text(entry).partition(":")[0] for entry in entries)
            scheduled = self._redis.zrange(SCHEDULED_PREFIX + queue, 0, -1)
            records.difference_update(_text(entry) for entry in scheduled)
        for group in self._groups():
            records.difference_update(self._listed(RUN_NOW_PREFIX + group))
        return records

    def _groups(self) -> list[str]:
        return [DEFAULT_GROUP, *queue_directory.of(self._broker.store).services()]

    def _places(self, queue: str) -> list[str]:
        own = READY_PREFIX + queue
        lists = {_text(key) for key in self._redis.smembers(RQ_QUEUES)}
        return [own, *(key for key in lists if key.startswith(f"{own}."))]

    def _live_records(self) -> Iterator[str]:
        """Ids of our records that should be in a ready list, leased or scheduled."""
        for queue in self._queues:
            keys: list[bytes] = []
            for key in self._redis.scan_iter(match=f"{RECORD_PREFIX}{queue}_*", count=CHUNK):
                keys.append(key)
                if len(keys) == CHUNK:
                    yield from self._live(keys)
                    keys = []
            yield from self._live(keys)

    def _live(self, keys: list[bytes]) -> Iterator[str]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hmget(key, "status", "eta", "description")
            for key, found in zip(keys, pipeline.execute(raise_on_error=False), strict=True):
                if isinstance(found, list) and _is_live(*found):
                    yield _text(key).removeprefix(RECORD_PREFIX)

    def _listed(self, key: str) -> Iterator[str]:
        first = 0
        while ids := self._redis.lrange(key, first, first + CHUNK - 1):
            yield from (_text(identifier) for identifier in ids)
            first += CHUNK


def _is_live(status: bytes | None, eta: bytes | None, description: bytes | None) -> bool:
    is_push = not (description or b"").startswith(b"PULL ")
    return eta is not None and (status in (b"queued", b"started") or (status == b"scheduled" and is_push))


def _text(name: Any) -> str:
    # A name that is not UTF-8 is not ours: no script finds it.
    return str(name.decode("utf-8", "replace"))
