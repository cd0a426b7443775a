"""Long tasks turn a handler into a long computation with progress, a bookmark and a stored result.

An application imports the top-level module ``longtask``; docs/longtasks.md is the manual.
"""

from lastacross.longtasks.functions import TaskFunction, function
from lastacross.longtasks.handler import LongRunningTaskHandler
from lastacross.longtasks.listing import ListHandler
from lastacross.longtasks.mounting import mount
from lastacross.longtasks.page import ProgressPage
from lastacross.longtasks.parameters import Parameters, UploadedFile
from lastacross.longtasks.view import ProgressView, View

__all__ = [
    "ListHandler",
    "LongRunningTaskHandler",
    "Parameters",
    "ProgressPage",
    "ProgressView",
    "TaskFunction",
    "UploadedFile",
    "View",
    "expiry",
    "function",
    "mount",
    "overview",
]
