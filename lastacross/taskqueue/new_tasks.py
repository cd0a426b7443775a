"""What an application adds, as the broker takes it: a ``Task`` becomes a record."""

from collections.abc import Sequence

from lastacross import datastore
from lastacross.broker import NewTask, Value, record
from lastacross.datastore import payloads
from lastacross.taskqueue.task import Task


def record_of(
    task: Task,
    queue: str,
    now: float,
    *,
    tombstone: int | None = None,
    member: str | None = None,
    target: str | None = None,
) -> list[Value]:
    """The record of a new task, flat; the rest as ``broker.record.dump``."""
    options = task.retry_options
    return record.dump(
        f"{task.method} {task.url_on(queue)}",
        queue,
        now,
        eta=due_at(task, now) or now,
        body=task.body or b"",
        is_pull=task.method == "PULL",
        headers=task.header_items(),
        retry=None if options is None else options.parameters,
        deadline=task.dispatch_deadline_seconds,
        target=target,
        tombstone=tombstone,
        member=member,
    )


def due_at(task: Task, now: float) -> float | None:
    """The instant from which it may run, seconds since the epoch; None when that is now or was before."""
    due = task.due_at(now)
    return due if due is not None and due > now else None


def new_pull_task(identifier: str, task: Task, fields: list[Value], now: float) -> NewTask:
    """A pull task on its way to Redis. Unlike a push task's, an eta in the past is kept: it is its rank.

    Args:
        identifier: its id.
        task: what the caller gave.
        fields: its record, without its tag.
        now: seconds since the epoch.
    """
    due = task.due_at(now)
    if task.tag:
        fields = [*fields, "tag", task.tag]
    return NewTask(identifier, now if due is None else due, fields, bool(task.name), is_pull=True)


def claim_payloads(
    tasks: Sequence[Task], entries: Sequence[NewTask], transaction: datastore.Transaction | None = None
) -> None:
    """Note the datastore's rows that these tasks need as theirs; the rest as ``datastore.payloads.claim``."""
    payloads.claim(
        [
            (task.payload_row, entry.id)
            for task, entry in zip(tasks, entries, strict=True)
            if task.payload_row is not None
        ],
        transaction,
    )
