"""What a stock ``rq worker`` finds when it is started on one of our queues by mistake."""


def refuse() -> None:
    """Say so, and fail: the task is put back for the workers it belongs to.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "this queue is served by `lastacross worker`, not by `rq worker`; the task is put back"
    )
