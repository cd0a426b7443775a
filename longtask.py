"""Long tasks for any application on the engine: ``import longtask`` and override one method.

    class Report(longtask.LongRunningTaskHandler):
        def execute_task(self, parameters):
            self.log_progress("Reading", step=1, total_steps=12)
            return "the result"

docs/longtasks.md is the manual.
"""

from lastacross.datastore import LongTask
from lastacross.errors import LongTaskError, TaskStoppedError, UnusableResultError, UserError
from lastacross.longtasks import (
    ListHandler,
    LongRunningTaskHandler,
    Parameters,
    ProgressPage,
    ProgressView,
    TaskFunction,
    UploadedFile,
    View,
    function,
    mount,
)

__all__ = [
    "ListHandler",
    "LongRunningTaskHandler",
    "LongTask",
    "LongTaskError",
    "Parameters",
    "ProgressPage",
    "ProgressView",
    "TaskFunction",
    "TaskStoppedError",
    "UnusableResultError",
    "UploadedFile",
    "UserError",
    "View",
    "function",
    "mount",
]
