"""Provides queue statistics under the module name that queued calls refer to (see ``pickled_names``)."""

from lastacross.taskqueue.queue import QueueStatistics

__all__ = ["QueueStatistics"]
