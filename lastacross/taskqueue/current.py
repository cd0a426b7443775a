"""Provides the current task under the module name that queued calls refer to (see ``pickled_names``)."""

from lastacross.broker import CurrentTask, current_task

__all__ = ["CurrentTask", "current_task"]
