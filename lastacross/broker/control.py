"""The steps with which operators control queues and tasks, beside those of ``Broker``."""

from typing import NoReturn

from lastacross.broker.steps import Steps
from lastacross.errors import TransientError


def refuse_new_tasks(queue: str) -> NoReturn:
    """Raise TransientError because a queue is draining."""
    raise TransientError(
        f"queue {queue!r} is draining: it delivers its tasks and accepts no new ones until the drain ends; "
        f"try again later, or end the drain with `lastacross queues undrain {queue}`"
    )


class Control(Steps):
    """Steps on request. Every step raises ``TransientError`` if Redis is unavailable."""

    def drain(self, queue: str, is_draining: bool) -> bool:
        """Make a queue refuse new tasks, or accept them again. Returns whether its state has changed."""
        return bool(self._run("drain_queue", [queue, 1 if is_draining else 0]))
