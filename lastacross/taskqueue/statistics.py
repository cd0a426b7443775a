"""The module under which queued calls carry a queue's statistics (``pickled_names``)."""

from lastacross.taskqueue.queue import QueueStatistics

__all__ = ["QueueStatistics"]
