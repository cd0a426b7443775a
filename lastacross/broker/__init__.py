"""The life of a task: its record, its states, and each step between them as one Lua file run in Redis.

docs/lifecycle.md draws it. Other rooms import from here, never from a module inside.
"""

from lastacross.broker.batches import BatchSteps
from lastacross.broker.current import CurrentTask, current_task, delivering
from lastacross.broker.grants import Grant, granted
from lastacross.broker.headers import Headers, checked_items, is_reserved
from lastacross.broker.listing import STATES, ListedTask, Listing, WholeTask
from lastacross.broker.lookup import TaskRecord
from lastacross.broker.names import new_name
from lastacross.broker.pull import PullSteps, PullTask
from lastacross.broker.queue_directory import KnownQueue, KnownQueues
from lastacross.broker.readable import MAX_INSTANT
from lastacross.broker.record import Leased, Value, split_task_id, task_id
from lastacross.broker.retry import backoff_seconds, next_delay_seconds
from lastacross.broker.steps import (
    DEFAULT_GROUP,
    EXISTS,
    LEASE_SCRIPT,
    MOST_PER_QUEUE,
    TOMBSTONED,
    Broker,
    NewTask,
    Wish,
    new_token,
)

__all__ = [
    "DEFAULT_GROUP",
    "EXISTS",
    "LEASE_SCRIPT",
    "MAX_INSTANT",
    "MOST_PER_QUEUE",
    "STATES",
    "TOMBSTONED",
    "BatchSteps",
    "Broker",
    "CurrentTask",
    "Grant",
    "Headers",
    "KnownQueue",
    "KnownQueues",
    "Leased",
    "ListedTask",
    "Listing",
    "NewTask",
    "PullSteps",
    "PullTask",
    "TaskRecord",
    "Value",
    "WholeTask",
    "Wish",
    "backoff_seconds",
    "batches",
    "checked_items",
    "current_task",
    "delivering",
    "granted",
    "is_reserved",
    "lookup",
    "new_name",
    "new_token",
    "next_delay_seconds",
    "queue_directory",
    "readable",
    "record",
    "settings",
    "split_task_id",
    "task_id",
]
