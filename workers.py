"""Everything that a queue can run: the task functions and handlers of all programs, by name.

A queued deferred call names its function by this module: ``workers.send_color``. Such a name stays
for as long as a call may wait, and for as long as a release that knows only this name runs beside this one.
"""

from programs.count.tasks import CompleteHandler as CountCompleteHandler
from programs.count.tasks import MasterHandler, StartHandler, SubHandler
from programs.errors.intake import CleanHandler, CreatedHandler, DigestHandler, NotifyHandler
from programs.intrastat.pages import IntrastatHandler
from programs.quilt.tasks import QuiltCompleteHandler, fill_quilt, send_color
from programs.reload.tasks import CompleteHandler as ReloadCompleteHandler
from programs.reload.tasks import FillHandler, LoaderHandler, WorkerHandler

__all__ = [
    "CleanHandler",
    "CountCompleteHandler",
    "CreatedHandler",
    "DigestHandler",
    "FillHandler",
    "IntrastatHandler",
    "LoaderHandler",
    "MasterHandler",
    "NotifyHandler",
    "QuiltCompleteHandler",
    "ReloadCompleteHandler",
    "StartHandler",
    "SubHandler",
    "WorkerHandler",
    "fill_quilt",
    "send_color",
]
