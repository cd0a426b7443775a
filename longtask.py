"""Long tasks for any application on the engine: ``import longtask``, override one method.

    class Report(longtask.LongRunningTaskHandler):
        def execute_task(self, parameters):
            self.log_progress("Reading", step=1, total_steps=12)
            return "the result"

docs/longtasks.md is the manual.
"""

from lastacross.datastore.tables import LongTask
from lastacross.errors import LongTaskError, TaskStoppedError, UnusableResultError, UserError
from lastacross.longtasks.handler import LongRunningTaskHandler
from lastacross.longtasks.listing import ListHandler
from lastacross.longtasks.parameters import Parameters, UploadedFile
from lastacross.longtasks.view import View

__all__ = [
    "ListHandler",
    "LongRunningTaskHandler",
    "LongTask",
    "LongTaskError",
    "Parameters",
    "TaskStoppedError",
    "UnusableResultError",
    "UploadedFile",
    "UserError",
    "View",
]
