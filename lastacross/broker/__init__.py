"""The life of a task: its record, its states and its steps. Redis runs each step as one Lua script.

docs/lifecycle.md shows the states and steps. Other packages import from this module, not from its submodules.
"""

from lastacross.broker.answers import QueueNumbers
from lastacross.broker.batches import BatchNode, BatchReader, BatchSummary
from lastacross.broker.bulk_actions import BulkAction, BulkActions
from lastacross.broker.control import Control, refuse_new_tasks
from lastacross.broker.current import CurrentTask, current_task, delivering
from lastacross.broker.dead_groups import DeadGroup, DeadGroups
from lastacross.broker.deployments import Deployment
from lastacross.broker.headers import Headers, checked_items, is_reserved
from lastacross.broker.history import FailedAttempt, History
from lastacross.broker.listing import ListedTask, Listing, TaskRecord, WholeTask
from lastacross.broker.pull import PullSteps, PullTask
from lastacross.broker.queue_directory import KnownQueue, QueueDirectory
from lastacross.broker.queue_facts import (
    Disabled,
    Draining,
    LeasedByClients,
    LimitReached,
    NextDue,
    NothingWaiting,
    NoWorker,
    Paused,
    QueueFacts,
    QueueReader,
    RateIsZero,
    Reason,
    Suspended,
    WaitsForToken,
    WorkersBusy,
)
from lastacross.broker.readable import MAX_INSTANT
from lastacross.broker.record import Leased, Value, new_name, new_token, split_task_id, task_id
from lastacross.broker.retry import backoff_seconds, next_delay_seconds
from lastacross.broker.search import FailingTasks, Search, SearchPage, TaskFilter
from lastacross.broker.states import STATES
from lastacross.broker.steps import (
    DEFAULT_GROUP,
    EXISTS,
    LEASE_SCRIPT,
    MAX_PER_QUEUE,
    NAME_TAKEN,
    NOT_KNOWN,
    TOMBSTONED,
    BatchSteps,
    Broker,
    LeaseRequest,
    LeaseResult,
    NewTask,
    lease_result,
)
from lastacross.broker.workers import (
    OWN_NAME_PREFIX,
    STATUS_FIELD,
    WorkerDirectory,
    WorkerProcess,
    WorkerStatus,
)

__all__ = [
    "DEFAULT_GROUP",
    "EXISTS",
    "LEASE_SCRIPT",
    "MAX_INSTANT",
    "MAX_PER_QUEUE",
    "NAME_TAKEN",
    "NOT_KNOWN",
    "OWN_NAME_PREFIX",
    "STATES",
    "STATUS_FIELD",
    "TOMBSTONED",
    "BatchNode",
    "BatchReader",
    "BatchSteps",
    "BatchSummary",
    "Broker",
    "BulkAction",
    "BulkActions",
    "Control",
    "CurrentTask",
    "DeadGroup",
    "DeadGroups",
    "Deployment",
    "Disabled",
    "Draining",
    "FailedAttempt",
    "FailingTasks",
    "Headers",
    "History",
    "KnownQueue",
    "LeaseRequest",
    "LeaseResult",
    "Leased",
    "LeasedByClients",
    "LimitReached",
    "ListedTask",
    "Listing",
    "NewTask",
    "NextDue",
    "NoWorker",
    "NothingWaiting",
    "Paused",
    "PullSteps",
    "PullTask",
    "QueueDirectory",
    "QueueFacts",
    "QueueNumbers",
    "QueueReader",
    "RateIsZero",
    "Reason",
    "Search",
    "SearchPage",
    "Suspended",
    "TaskFilter",
    "TaskRecord",
    "Value",
    "WaitsForToken",
    "WholeTask",
    "WorkerDirectory",
    "WorkerProcess",
    "WorkerStatus",
    "WorkersBusy",
    "backoff_seconds",
    "checked_items",
    "current_task",
    "delivering",
    "deployments",
    "is_reserved",
    "lease_result",
    "listing",
    "new_name",
    "new_token",
    "next_delay_seconds",
    "queue_directory",
    "readable",
    "record",
    "refuse_new_tasks",
    "split_task_id",
    "task_id",
]
