"""App Engine's task queue API, imported with ``from lastacross import taskqueue``.

It offers the names of ``google.appengine.api.taskqueue``, plus ``Batch`` and ``current_task``.
"""

from lastacross.broker import CurrentTask, current_task
from lastacross.errors import (
    BadTaskStateError,
    BadTransactionStateError,
    DuplicateTaskNameError,
    InternalError,
    InvalidDeadlineError,
    InvalidDispatchDeadlineError,
    InvalidEtaError,
    InvalidLeaseTimeError,
    InvalidMaxTasksError,
    InvalidQueueError,
    InvalidQueueModeError,
    InvalidQueueNameError,
    InvalidTagError,
    InvalidTaskError,
    InvalidTaskNameError,
    InvalidTaskRetryOptionsError,
    InvalidUrlError,
    PermissionDeniedError,
    QueuePausedError,
    TaskAlreadyExistsError,
    TaskLeaseExpiredError,
    TaskTooLargeError,
    TombstonedTaskError,
    TooManyTasksError,
    TransactionalRequestTooLargeError,
    TransientError,
    UnknownBatchError,
    UnknownQueueError,
)
from lastacross.errors import TaskQueueError as Error
from lastacross.taskqueue.batch import Batch, Progress
from lastacross.taskqueue.checks import MAX_URL_LENGTH
from lastacross.taskqueue.options import TaskRetryOptions
from lastacross.taskqueue.queue import Queue, QueueStatistics, add
from lastacross.taskqueue.task import MAX_TASKS_PER_ADD, Targets, Task, record_of

__all__ = [
    "MAX_TASKS_PER_ADD",
    "MAX_URL_LENGTH",
    "BadTaskStateError",
    "BadTransactionStateError",
    "Batch",
    "CurrentTask",
    "DuplicateTaskNameError",
    "Error",
    "InternalError",
    "InvalidDeadlineError",
    "InvalidDispatchDeadlineError",
    "InvalidEtaError",
    "InvalidLeaseTimeError",
    "InvalidMaxTasksError",
    "InvalidQueueError",
    "InvalidQueueModeError",
    "InvalidQueueNameError",
    "InvalidTagError",
    "InvalidTaskError",
    "InvalidTaskNameError",
    "InvalidTaskRetryOptionsError",
    "InvalidUrlError",
    "PermissionDeniedError",
    "Progress",
    "Queue",
    "QueuePausedError",
    "QueueStatistics",
    "Targets",
    "Task",
    "TaskAlreadyExistsError",
    "TaskLeaseExpiredError",
    "TaskRetryOptions",
    "TaskTooLargeError",
    "TombstonedTaskError",
    "TooManyTasksError",
    "TransactionalRequestTooLargeError",
    "TransientError",
    "UnknownBatchError",
    "UnknownQueueError",
    "add",
    "current_task",
    "record_of",
]
