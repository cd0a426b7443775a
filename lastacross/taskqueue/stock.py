"""Contains the function that a stock ``rq worker`` calls if it runs on one of our queues by mistake."""


def refuse() -> None:
    """Fail with an explanation. The engine then restores the task for its queue's own workers.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "this queue is served by `lastacross worker`, not by `rq worker`; the task will be restored"
    )
