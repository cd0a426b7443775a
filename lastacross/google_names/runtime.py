"""The names of ``google.appengine.runtime``."""

from lastacross.errors import DeadlineExceededError

__all__ = ["DeadlineExceededError"]
