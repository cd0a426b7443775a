"""What serves HTTP: the layers round an application, and what its handlers are made from."""

from lastacross.webapp.handlers import BadInputError, RequestHandler, TaskHandler, local_path
from lastacross.webapp.script import load_script
from lastacross.webapp.stack import inside, outside
from lastacross.webapp.started import is_started_by, remember_started

__all__ = [
    "BadInputError",
    "RequestHandler",
    "TaskHandler",
    "inside",
    "is_started_by",
    "load_script",
    "local_path",
    "outside",
    "remember_started",
]
