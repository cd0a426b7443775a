"""The function that a stock ``rq worker`` calls if it is started on one of our queues by mistake."""


def refuse() -> None:
    """Fail with an explanation; the task is restored for the workers of its queue.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "this queue is served by `lastacross worker`, not by `rq worker`; the task is put back"
    )
