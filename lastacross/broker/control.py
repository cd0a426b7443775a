"""The steps with which operators control queues and tasks, in addition to those of ``Broker``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lastacross import config
from lastacross.broker import queue_directory
from lastacross.broker.pull import PullSteps
from lastacross.broker.readable import retry_options
from lastacross.broker.record import Value, body_of, dump, load_retry, new_name, task_id, text_of
from lastacross.broker.steps import EXISTS, TOMBSTONED, Broker, NewTask, Steps, transient_errors
from lastacross.config import RetryParameters
from lastacross.errors import (
    InvalidTaskError,
    QueueDrainingError,
    TaskAlreadyExistsError,
    TombstonedTaskError,
)
from lastacross.store import record_key, tombstone_key

MAX_BODY_BYTES = 1_048_576


def refuse_new_tasks(queue: str) -> NoReturn:
    """Raise QueueDrainingError."""
    raise QueueDrainingError(
        f"queue {queue!r} is draining: it delivers its tasks and accepts no new ones until the drain ends; "
        f"try again later, or end the drain with `lastacross queues undrain {queue}`"
    )


class Control(Steps):
    """Steps that run on request. Every step raises ``TransientError`` if Redis is unavailable."""

    def drain(self, queue: str, is_draining: bool) -> bool:
        """Make a queue refuse new tasks, or accept them again. Returns whether its state changed."""
        return bool(self._run("drain_queue", [queue, 1 if is_draining else 0]))

    def forget(self, queue: str) -> int:
        """Forget a disabled queue. Returns 1 if done, 0 if queue.yaml lists it, or -1 if it has tasks."""
        return int(self._run("remove_queue", [queue]))

    def delete_and_free(self, queue: str, names: Sequence[str]) -> list[bool]:
        """Delete up to 100 tasks, and free their names for immediate reuse.

        Returns False for each task that did not exist; its name is freed all the same.
        """
        ids = [task_id(queue, name) for name in names]
        if not ids:
            return []
        deleted = Broker(self.store).delete(ids)
        with transient_errors():
            self.store.redis.delete(*(tombstone_key(each) for each in ids))
        return deleted

    def run_again(
        self, queue: str, name: str, *, body: bytes | None = None, new_task_name: str | None = None
    ) -> str:
        """Add a copy of a task that is dead, ready, scheduled, running or waiting; returns the copy's name.

        The copy has the task's method, URL, headers, retry options, deadline, target and tag. It belongs to
        no batch and is due now.

        Args:
            queue: the task's queue.
            name: the task's name.
            body: the copy's payload; None means the task's own.
            new_task_name: a name for the copy, which must be free; None means a generated one.

        Raises:
            InvalidTaskError: the task no longer exists, or the body is larger than 1 MiB.
            TaskAlreadyExistsError, TombstonedTaskError: ``new_task_name`` is in use, or was used recently.
            TransientError: the queue is draining, or Redis is unavailable.
        """
        known = queue_directory.of(self.store).find(queue)
        if known is not None and known.is_draining:
            refuse_new_tasks(queue)
        if body is not None and len(body) > MAX_BODY_BYTES:
            raise InvalidTaskError(f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed")
        with transient_errors():
            raw: Any = self.store.redis.hgetall(record_key(task_id(queue, name)))
        if b"description" not in raw:
            raise InvalidTaskError(f"queue {queue!r} has no task named {name!r}")
        task = self._copy(queue, raw, body, new_task_name)
        steps = PullSteps(self.store) if task.is_pull else Broker(self.store)
        self._check(steps.add([task])[0], queue, new_task_name)
        return task.id.partition("_")[2]

    def _copy(self, queue: str, raw: Mapping[bytes, bytes], body: bytes | None, name: str | None) -> NewTask:
        now = self.now()
        request = text_of(raw[b"description"])
        is_pull = request.startswith("PULL ")
        target = text_of(raw[b"target"]) if b"target" in raw else None
        fields = dump(
            request,
            queue,
            now,
            eta=now,
            body=body_of(raw) if body is None else body,
            is_pull=is_pull,
            headers=_headers(raw),
            retry=_retry(raw),
            deadline=_deadline(raw),
            target=target,
            tombstone=config.current().settings.tombstone_seconds if name else None,
        )
        fields += _extras(raw, name)
        identifier = task_id(queue, name or new_name())
        return NewTask(identifier, now if is_pull else None, fields, bool(name), target, is_pull)

    @staticmethod
    def _check(code: int, queue: str, name: str | None) -> None:
        if code == EXISTS:
            raise TaskAlreadyExistsError(f"queue {queue!r} already has a task named {name!r}")
        if code == TOMBSTONED:
            raise TombstonedTaskError(
                f"a task named {name!r} was in queue {queue!r}; its name cannot be reused yet"
            )


def _extras(raw: Mapping[bytes, bytes], name: str | None) -> list[Value]:
    fields: list[Value] = ["tag", raw[b"tag"]] if raw.get(b"tag") else []
    if name:
        fields += ("request", new_name())
    return fields


def _headers(raw: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
    try:
        return [(str(key), str(value)) for key, value in json.loads(raw.get(b"headers", b"[]"))]
    except (ValueError, TypeError, RecursionError):
        return []


def _retry(raw: Mapping[bytes, bytes]) -> RetryParameters | None:
    text = raw.get(b"retry", b"")
    return load_retry(json.loads(text)) if text and retry_options(text) is None else None


def _deadline(raw: Mapping[bytes, bytes]) -> float | None:
    try:
        return float(raw[b"deadline"])
    except (KeyError, ValueError):
        return None
