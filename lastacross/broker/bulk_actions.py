"""The progress of an operator's bulk action, which a task carries out step by step."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lastacross.broker.record import instant_text
from lastacross.broker.steps import Steps, transient_errors
from lastacross.store import bulk_key

KEPT_SECONDS = 7 * 86_400
_FIELDS = ("action", "subject", "title", "by", "began_at", "total", "done", "finished_at", "cancelled_at")


@dataclass(frozen=True, slots=True)
class BulkAction:
    """A bulk action.

    ``action`` is its kind, ``subject`` is what it applies to, and ``title`` is the subject's readable name.
    Times are in seconds since the epoch; ``finished_at`` and ``cancelled_at`` are None until the action
    finishes or is cancelled.
    """

    id: str
    action: str
    subject: str
    title: str
    by: str
    began_at: float
    total: int
    done: int
    finished_at: float | None
    cancelled_at: float | None


class BulkActions(Steps):
    """Keeps bulk actions for a week. Every method raises ``TransientError`` if Redis is unavailable."""

    def begin(self, action: str, subject: str, title: str, by: str, total: int) -> BulkAction:
        """Record a new bulk action on ``total`` tasks."""
        found = BulkAction(
            secrets.token_hex(12), action, subject, title, by, self.now(), total, 0, None, None
        )
        fields: Any = {
            "action": action,
            "subject": subject,
            "title": title,
            "by": by,
            "began_at": instant_text(found.began_at),
            "total": total,
            "done": 0,
        }
        with transient_errors(), self.store.redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(bulk_key(found.id), mapping=fields)
            pipeline.expire(bulk_key(found.id), KEPT_SECONDS)
            pipeline.execute()
        return found

    def find(self, identifier: str) -> BulkAction | None:
        """The bulk action with this id; None if there is none, or if it began more than a week ago."""
        with transient_errors():
            values: Any = self.store.redis.hmget(bulk_key(identifier), _FIELDS)
        found = {
            name: value.decode("utf-8", "replace")
            for name, value in zip(_FIELDS, values, strict=True)
            if value is not None
        }
        return _load(identifier, found) if {"action", "subject", "began_at"} <= found.keys() else None

    def note(self, identifier: str, done: int) -> None:
        """Count this many more tasks as done."""
        with transient_errors():
            self.store.redis.hincrby(bulk_key(identifier), "done", done)

    def finish(self, identifier: str) -> None:
        """Record the end, unless it has already been recorded."""
        self._set_time(identifier, "finished_at")

    def cancel(self, identifier: str) -> None:
        """Let the task stop after its current step."""
        self._set_time(identifier, "cancelled_at")

    def _set_time(self, identifier: str, name: str) -> None:
        with transient_errors():
            self.store.redis.hsetnx(bulk_key(identifier), name, instant_text(self.now()))


def _load(identifier: str, found: Mapping[str, str]) -> BulkAction | None:
    try:
        return BulkAction(
            identifier,
            found["action"],
            found["subject"],
            found.get("title", ""),
            found.get("by", ""),
            float(found["began_at"]),
            int(found.get("total", "0")),
            int(found.get("done", "0")),
            float(found["finished_at"]) if "finished_at" in found else None,
            float(found["cancelled_at"]) if "cancelled_at" in found else None,
        )
    except ValueError:
        return None
