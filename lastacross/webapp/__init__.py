"""What serves HTTP: the layers round an application, and what its handlers are made from."""

from lastacross.webapp.handlers import BadInputError, RequestHandler, TaskHandler, local_path
from lastacross.webapp.script import load_script
from lastacross.webapp.stack import inside, outside

__all__ = [
    "BadInputError",
    "RequestHandler",
    "TaskHandler",
    "inside",
    "load_script",
    "local_path",
    "outside",
]
