"""The module under which queued calls carry the current task (``pickled_names``)."""

from lastacross.broker import CurrentTask, current_task

__all__ = ["CurrentTask", "current_task"]
