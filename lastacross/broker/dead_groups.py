"""Dead letters of all queues, counted by handler, answer and reason.

The scripts that create or remove a dead letter also count it, so showing all groups takes one read, however
many letters there are. A sweep by the workers corrects the counts if other programs have changed letters.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lastacross.broker.listing import ListedTask, Listing
from lastacross.broker.record import instant_text
from lastacross.broker.steps import Broker, Steps, transient_errors
from lastacross.store import DEAD_GROUPS, RECORD_PREFIX, dead_group_key

OTHER = "other"
"""The group of all letters for which there was no room in the first 1,000 groups."""
MAX_PAGE = 100
# The maximum number of letters that one step checks to find some that are older than the request.
_MAX_CHUNKS = 10
_SWEEP_LETTERS = 500
_PARTS = 3


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Dead letters that failed in the same way.

    ``handler`` is the function's name or the URL's path, in which ``*`` stands for ids. ``status`` is the
    HTTP status of the last answer, or '' if there was none. ``reason`` has ``#`` and ``*`` in place of the
    parts that differ from letter to letter. ``newest_at`` is in seconds since the epoch.
    """

    id: str
    handler: str
    status: str
    reason: str
    letters: int
    newest_at: float

    @property
    def is_other(self) -> bool:
        """Whether this is the group of the letters for which there was no room in other groups."""
        return self.id == OTHER


class DeadGroups(Steps):
    """Reads and changes dead-letter groups. Methods raise ``TransientError`` if Redis is unavailable."""

    def all(self) -> list[DeadGroup]:
        """All groups (at most 1,001), largest first, in one read."""
        with transient_errors():
            raw: Any = self.store.redis.hgetall(DEAD_GROUPS)
        found = [_group(key.decode("utf-8", "replace"), value) for key, value in raw.items()]
        known = [group for group in found if group is not None]
        return sorted(known, key=lambda group: (group.is_other, -group.letters, -group.newest_at, group.id))

    def find(self, group: str) -> DeadGroup | None:
        """The group with this id; None if it has no letters."""
        with transient_errors():
            raw: Any = self.store.redis.hget(DEAD_GROUPS, group)
        return None if raw is None else _group(group, raw)

    def letters(self, group: str, first: int = 0, limit: int = MAX_PAGE) -> list[ListedTask]:
        """A page of a group's letters, newest first, in two reads.

        Args:
            group: the group's id.
            first: the number of newer letters to skip.
            limit: the size of the page, at most 100.
        """
        most = min(limit, MAX_PAGE)
        with transient_errors():
            raw: Any = self.store.redis.zrevrange(dead_group_key(group), first, first + most - 1)
        return Listing(self.store).listed([each.decode("utf-8", "replace") for each in raw])

    def retry_some(self, group: str, began_at: float) -> int:
        """Run again up to 100 letters that died before ``began_at``, oldest first.

        Returns how many letters left the group; call it again until it returns 0. A letter that fails again
        in the meantime is newer than ``began_at``, so the calls eventually end.
        """
        return self._change_some(group, began_at, Broker(self.store).retry_dead)

    def delete_some(self, group: str, began_at: float) -> int:
        """Delete up to 100 letters; otherwise the same as ``retry_some``."""
        return self._change_some(group, began_at, Broker(self.store).delete_dead)

    def _change_some(self, group: str, began_at: float, change: Callable[[Sequence[Any]], list[bool]]) -> int:
        ids = self._older(group, began_at)
        if not ids:
            return 0
        has_changed = change(ids)
        gone = [each for each, was_dead in zip(ids, has_changed, strict=True) if not was_dead]
        dropped = int(self._run("drop_letters", [group, *gone])) if gone else 0
        return sum(has_changed) + dropped

    def _older(self, group: str, began_at: float) -> list[bytes]:
        """The ids of up to 100 letters that died before ``began_at``, or whose records no longer exist."""
        prefix = RECORD_PREFIX.encode()
        for chunk in range(_MAX_CHUNKS):
            first = chunk * MAX_PAGE
            with transient_errors():
                ids: Any = self.store.redis.zrange(dead_group_key(group), first, first + MAX_PAGE - 1)
                with self.store.redis.pipeline(transaction=False) as pipeline:
                    for each in ids:
                        pipeline.hget(prefix + each, "dead_at")
                    times = pipeline.execute(raise_on_error=False)
            older = [each for each, at in zip(ids, times, strict=True) if _number(at) < began_at]
            if older or not ids:
                return older
        return []

    def sweep(self, group: int, rank: int) -> tuple[int, int]:
        """Correct the counts of up to 500 letters. Returns the arguments for the next call."""
        now = instant_text(self.now())
        next_group, next_rank = self._run("sweep_dead_groups", [now, _SWEEP_LETTERS, group, rank])
        return next_group, next_rank


def _group(identifier: str, value: bytes) -> DeadGroup | None:
    """Parse a group; None if another program has overwritten it."""
    letters, _, rest = value.decode("utf-8", "replace").partition(" ")
    newest_at, _, text = rest.partition(" ")
    try:
        parts = json.loads(text)
        if not isinstance(parts, list) or len(parts) != _PARTS:
            return None
        handler, status, reason = (str(part) for part in parts)
        return DeadGroup(identifier, handler, status, reason, int(letters), float(newest_at))
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
