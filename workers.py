"""All programs' functions and handlers that a queue can run, by name.

A queued deferred call names its function through this module, as in ``workers.send_color``. Keep such a name
as long as queued calls may use it, and as long as a release that knows only this name is running alongside
this one.
"""

from programs.count.tasks import CompleteHandler as CountCompleteHandler
from programs.count.tasks import MasterHandler, StartHandler, SubHandler
from programs.errors.intake import CleanHandler, CreatedHandler, DigestHandler, NotifyHandler
from programs.intrastat.pages import IntrastatHandler
from programs.quilt.tasks import QuiltCompleteHandler, fill_quilt, kill_worker, send_color
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
    "kill_worker",
    "send_color",
]
