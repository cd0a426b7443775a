"""Long tasks: any handler becomes a long computation that is started, watched, bookmarked and fetched.

An application imports ``longtask``, the top-level module; docs/longtasks.md is its manual.
"""

from lastacross.longtasks.handler import LongRunningTaskHandler
from lastacross.longtasks.listing import ListHandler
from lastacross.longtasks.page import ProgressPage
from lastacross.longtasks.parameters import Parameters, UploadedFile
from lastacross.longtasks.view import ProgressView, View

__all__ = [
    "ListHandler",
    "LongRunningTaskHandler",
    "Parameters",
    "ProgressPage",
    "ProgressView",
    "UploadedFile",
    "View",
    "expiry",
]
