"""Deferred calls: ``deferred.defer(function, argument, …)`` runs a function later, in a task.

The call is pickled and signed with SECRET_KEY. Only calls with a valid signature are unpickled, so access
to Redis is not enough to run code. The rules are in docs/appengine.md, "Deferred".

A worker must be able to import the function, so it must be at the top level of a module. The arguments are
copied, and so is the object that a method belongs to. Like any task, a call may run twice.

If a call is too large for a task, it is stored in the datastore and the task contains only its key.
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
from lastacross.deferred.delivery import Handler, application, handle, outcome, set_log_level
from lastacross.errors import DeferredError as Error
from lastacross.errors import PermanentTaskFailure, SingularTaskFailure

__all__ = [
    "DEFAULT_QUEUE",
    "DEFAULT_URL",
    "Error",
    "Handler",
    "PermanentTaskFailure",
    "SingularTaskFailure",
    "application",
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
