"""A task's last failed attempts, which are kept as long as its record.

Pure, except for ``History``, which reads them. A task that succeeds the first time has no history and costs
no extra command.
"""

import json
from dataclasses import dataclass
from typing import Any

from lastacross.broker.record import task_id
from lastacross.broker.steps import Steps, transient_errors
from lastacross.store import history_key, record_key

MAX_ATTEMPTS = 20
MAX_ANSWER_BYTES = 2048
_MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One failed attempt.

    ``started_at`` and ``next_at`` are in seconds since the epoch; ``next_at`` is None if no further attempt
    was scheduled. ``reason`` contains the exception or the first 2 kB of the answer. ``worker`` is the name
    of the worker process. If the process died during the attempt, ``is_lost`` is set, ``status`` and
    ``seconds`` are None, and ``started_at`` is when the loss was noticed.
    """

    started_at: float
    seconds: float | None
    status: int | None
    reason: str
    worker: str
    next_at: float | None = None
    is_lost: bool = False

    def dump(self) -> str:
        """This attempt as it is stored."""
        reason = self.reason[:MAX_ANSWER_BYTES].encode("utf-8", "replace")[:MAX_ANSWER_BYTES]
        fields = {
            "started_at": round(self.started_at, 6),
            "seconds": None if self.seconds is None else round(self.seconds, 6),
            "status": self.status,
            "reason": reason.decode("utf-8", "ignore"),
            "worker": self.worker[:_MAX_NAME],
            "next_at": None if self.next_at is None else round(self.next_at, 6),
        }
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def load(text: bytes) -> FailedAttempt | None:
    """Parse a stored attempt; None if another program has overwritten it."""
    try:
        fields = json.loads(text.decode("utf-8", "replace"))
        if "lease" in fields:
            return _lost(float(fields["ended_at"]), str(fields["lease"]))
        status, seconds, next_at = fields["status"], fields["seconds"], fields["next_at"]
        return FailedAttempt(
            float(fields["started_at"]),
            None if seconds is None else float(seconds),
            None if status is None else int(status),
            str(fields["reason"]),
            str(fields["worker"]),
            None if next_at is None else float(next_at),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _lost(at: float, lease: str) -> FailedAttempt:
    # The last part of a worker's name is the beginning of its leases' token.
    return FailedAttempt(at, None, None, "its worker process ended while it ran", lease[:8], is_lost=True)


class History(Steps):
    """Reads histories. Every method raises ``TransientError`` if Redis is unavailable."""

    def history(self, queue: str, name: str) -> list[FailedAttempt]:
        """A task's last failed attempts, at most 20, oldest first, in one round trip.

        It is empty for a task that has not failed, and for one that no longer exists.
        """
        identifier = task_id(queue, name)
        with transient_errors(), self.store.redis.pipeline(transaction=False) as pipeline:
            pipeline.hget(record_key(identifier), "history")
            pipeline.lrange(history_key(identifier), -MAX_ATTEMPTS, -1)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        has_history, found = answers
        # Without the field, the key belongs to an earlier task with this name.
        if not has_history or isinstance(has_history, Exception) or isinstance(found, Exception):
            return []
        return [attempt for attempt in map(load, found) if attempt is not None]
