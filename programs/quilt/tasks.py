"""The quilt's tasks. Every function and handler here may run twice."""

import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from lastacross import channel, config, deferred, memcache, taskqueue, webapp
from lastacross.errors import StoreUnavailableError
from lastacross.runtime import worker_number
from programs.quilt import models, together
from programs.shared.queued import queued

HEX_DIGITS = "0123456789ABCDEF"
QUILT_QUEUE = "quilt"

MAX_WHOLE = 64
"""The number of squares that are handed out in one go. A larger quilt is handed out in portions, because a
small one joins the end of the queue with all its squares, and should wait for only a few others."""
MAX_PORTION = 100
KILL_SECONDS = 3600
"""How long a request to kill a worker is remembered, so that its retried task kills only once."""
PORTION_SECONDS = 1.0
"""The work in a portion: three large quilts keep 16 threads busy for at most 0.3 s before a newcomer."""

_in_hand: set[tuple[str, int, int]] = set()
"""The slow squares that this process's threads are colouring, as (quilt, row, column)."""


def rand_hex_color(length: int = 6) -> str:
    """A colour such as ``#A1B2C3``, with ``length`` random hexadecimal digits."""
    return "#" + "".join(random.choice(HEX_DIGITS) for _ in range(length))


@queued
def send_color(row: int, column: int, session_id: str, *, delay_ms: int = 0) -> None:
    """Colour one square of a quilt, store it, and send it to the browsers that watch the quilt.

    This is idempotent: the first colour wins, so a second delivery sends the same colour again.

    Args:
        row: the square's row, where 0 is at the top.
        column: the square's column, where 0 is at the left.
        session_id: the quilt's id, which is also the channel's client id.
        delay_ms: the milliseconds to wait first, to simulate slow work.

    Raises:
        deferred.PermanentTaskFailure: the quilt does not exist, or no longer exists.
    """
    if delay_ms:
        try:
            _in_hand.add((session_id, row, column))
            # This event is never set. The wait lets other threads run; a deadline can take effect after it.
            threading.Event().wait(delay_ms / 1000)
        finally:
            _in_hand.discard((session_id, row, column))
    if not _paint_and_tell(models.Stroke(session_id, row, column, rand_hex_color(length=6))):
        raise deferred.PermanentTaskFailure(f"there is no quilt {session_id}")


def _paint_and_tell_all(strokes: Sequence[models.Stroke]) -> list[bool]:
    """Store these squares and send them; the result says for each square whether its quilt exists."""
    painted = models.paint_all(strokes)
    messages: dict[str, list[str]] = {}
    for stroke, square in zip(strokes, painted, strict=True):
        if square is not None:
            color_dict = {"row": stroke.row, "column": stroke.column, **dataclasses.asdict(square)}
            messages.setdefault(stroke.quilt_id, []).append(json.dumps(color_dict))
    for quilt_id, texts in messages.items():
        channel.send_messages(quilt_id, texts)
    return [square is not None for square in painted]


# The threads of a worker process colour several squares at the same time, but SQLite has only one writer. One
# commit therefore covers the squares of all waiting tasks, and each task continues after its square's commit.
_paint_and_tell = together.Together(_paint_and_tell_all)


def random_order(rows: int, columns: int, seed: str) -> list[tuple[int, int]]:
    """All (row, column) pairs of a quilt in random order. The same seed gives the same order."""
    return list(_random_order(rows, columns, seed))


@functools.lru_cache(maxsize=4)
def _random_order(rows: int, columns: int, seed: str) -> tuple[tuple[int, int], ...]:
    """The order as a tuple, cached because each portion of a quilt needs it."""
    squares = [(row, column) for row in range(rows) for column in range(columns)]
    random.Random(seed).shuffle(squares)
    return tuple(squares)


@queued
def fill_quilt(quilt_id: str, start: int = 0) -> None:
    """Fan a quilt out into one task per square, and one task for the end. For a large quilt, this adds only a
    portion of the squares, and among them a task that adds the next portion.

    A retry may repeat part of the work. The order is always the same, so the batch skips squares it already
    has.

    Args:
        quilt_id: the quilt's id.
        start: the number of squares that have already been handed out.

    Raises:
        deferred.PermanentTaskFailure: there is no such quilt.
    """
    quilt = models.find_quilt(quilt_id)
    if quilt is None:
        raise deferred.PermanentTaskFailure(f"there is no quilt {quilt_id}")
    if quilt.finished_at is not None:
        return  # cancelled before it began
    own_batch = f"quilt-{quilt_id}"
    # A previous release started to add all squares at once, in a batch whose name the engine chose.
    is_begun_before = quilt.batch_id not in (None, own_batch)
    end = quilt.total if is_begun_before else min(quilt.total, start + portion_size(quilt))
    complete = taskqueue.Task(url="/quilt/complete", params={"quilt": quilt_id})
    name = quilt.batch_id if is_begun_before else own_batch
    with taskqueue.Batch(queue_name=QUILT_QUEUE, on_complete=complete, name=name) as batch:
        # The first portion records the batch, which fails if the quilt was cancelled in the meantime.
        if quilt.batch_id == batch.id or models.note_batch(quilt_id, batch.id):
            _hand_out(batch, quilt, start, end)


@queued
def kill_worker(quilt_id: str, request: str) -> None:
    """Kill the worker process that runs this, as a crash would, and tell the quilt's pages what it cuts off.

    Only processes of ``lastacross dev`` do this, and each only to itself. The killed task is run again, and
    then does nothing.

    Args:
        quilt_id: the quilt whose pages are told.
        request: a different text for each request.

    Raises:
        deferred.PermanentTaskFailure: this is not a worker process of ``lastacross dev``.
    """
    if not config.current().settings.is_dev or worker_number() is None:
        raise deferred.PermanentTaskFailure("only a worker process of `lastacross dev` may be killed")
    if not memcache.add(f"quilt-kill-{request}", 1, time=KILL_SECONDS):
        return
    squares = [(row, column) for quilt, row, column in _in_hand.copy() if quilt == quilt_id]
    # A retry would find the key and do nothing.
    with contextlib.suppress(StoreUnavailableError):
        channel.send_message(quilt_id, json.dumps({"killed": worker_number(), "squares": squares}))
    os.kill(os.getpid(), signal.SIGKILL)


def portion_size(quilt: models.Quilt) -> int:
    """How many of a quilt's squares are handed out at a time."""
    if quilt.total <= MAX_WHOLE:
        return quilt.total
    if quilt.delay_ms == 0:
        return MAX_PORTION
    return max(1, min(MAX_PORTION, int(PORTION_SECONDS * 1000 / quilt.delay_ms)))


def _hand_out(batch: taskqueue.Batch, quilt: models.Quilt, start: int, end: int) -> None:
    """Add the squares from ``start`` up to but not including ``end``, and a task for the rest, if any.

    That task is placed in the middle of the squares, so workers still have squares left when it adds more.
    """
    if end == quilt.total:
        batch.add(_square_tasks(quilt, start, end), first=start)
        return
    middle = start + (end - start + 1) // 2
    batch.add(_square_tasks(quilt, start, middle), first=start)
    # This task must never give up, or the quilt would never end. Positions below the total are for squares.
    patience = taskqueue.TaskRetryOptions(min_backoff_seconds=0.5, max_backoff_seconds=10)
    batch.add(deferred.task(fill_quilt, quilt.id, end, _retry_options=patience), first=quilt.total + end)
    batch.add(_square_tasks(quilt, middle, end), first=middle)
    batch.leave_open()


def _square_tasks(quilt: models.Quilt, start: int, end: int) -> Iterator[taskqueue.Task]:
    # Leaving out a delay of 0 saves 64 bytes in Redis per waiting task.
    options: dict[str, Any] = {"delay_ms": quilt.delay_ms} if quilt.delay_ms else {}
    for row, column in _random_order(quilt.rows, quilt.columns, quilt.id)[start:end]:
        yield deferred.task(send_color, row, column, quilt.id, **options)


class QuiltCompleteHandler(webapp.TaskHandler):
    """Runs once when the last square's task has ended, successfully or not. Stores and announces the end."""

    def post(self) -> None:
        """Mark the quilt as finished. Only the call that marks it sends the message."""
        quilt_id = self.request.POST["quilt"]
        quilt = models.find_quilt(quilt_id)
        if quilt is None or quilt.batch_id is None:
            return  # nothing to finish, now or in a retry
        progress = taskqueue.Batch.get(quilt.batch_id).progress()
        if models.finish_quilt(quilt_id, failed=progress.failed):
            channel.send_message(quilt_id, json.dumps({"complete": True}))
