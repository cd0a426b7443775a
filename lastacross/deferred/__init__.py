"""Deferred calls: ``deferred.defer(function, argument, …)`` runs it later, in a task.

The call is pickled and signed with SECRET_KEY, and nothing that does not carry that signature is
ever unpickled: who can write to Redis cannot run code. Rules: docs/appengine.md, "Deferred".

A function must be one that a worker can import: at the top level of a module. Arguments are
copied; a method takes its object along. Like any task a call may happen twice.

A call that is too large for a task is kept in the datastore, and the task carries its key.
"""

from lastacross.deferred.calls import (
    DEFAULT_QUEUE,
    DEFAULT_URL,
    defer,
    invoke_member,
    run,
    run_from_datastore,
    serialize,
    task,
)
from lastacross.deferred.delivery import handle, outcome, set_log_level
from lastacross.errors import DeferredError as Error
from lastacross.errors import PermanentTaskFailure, SingularTaskFailure

__all__ = [
    "DEFAULT_QUEUE",
    "DEFAULT_URL",
    "Error",
    "PermanentTaskFailure",
    "SingularTaskFailure",
    "defer",
    "handle",
    "invoke_member",
    "outcome",
    "payloads",
    "run",
    "run_from_datastore",
    "serialize",
    "set_log_level",
    "task",
]
