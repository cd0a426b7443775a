"""What each task does when it is delivered. Every function and handler here may run twice."""

import dataclasses
import functools
import json
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from lastacross import channel, deferred, taskqueue, webapp
from programs.quilt import models, together
from programs.shared.queued import queued

HEX_DIGITS = "0123456789ABCDEF"
QUILT_QUEUE = "quilt"

MAX_WHOLE = 64
"""Squares of a quilt that are handed out together. A larger quilt is handed out in portions, so that a small
one, whose squares all go to the end of the queue at once, waits for a few of its squares only."""
MAX_PORTION = 100
PORTION_SECONDS = 1.0
"""The work of a portion: three large quilts keep 16 threads busy for at most 0.3 s before a newcomer."""


def rand_hex_color(length: int = 6) -> str:
    """A colour such as ``#A1B2C3``, of ``length`` random hexadecimal digits."""
    return "#" + "".join(random.choice(HEX_DIGITS) for _ in range(length))


@queued
def send_color(row: int, column: int, session_id: str, *, delay_ms: int = 0) -> None:
    """Colour one square of a quilt, keep it in the datastore, and tell whoever watches.

    Idempotent: the first colour wins, so that a second delivery sends the same one again.

    Args:
        row: 0 for the top.
        column: 0 for the left.
        session_id: the quilt's id, which is the channel's client id too.
        delay_ms: milliseconds to wait before, which play slow work.

    Raises:
        deferred.PermanentTaskFailure: there is no such quilt (any more).
    """
    if delay_ms:
        # An event nobody sets: the wait gives way to other threads, and to the deadline when it is over.
        threading.Event().wait(delay_ms / 1000)
    if not _paint_and_tell(models.Stroke(session_id, row, column, rand_hex_color(length=6))):
        raise deferred.PermanentTaskFailure(f"there is no quilt {session_id}")


def _paint_and_tell_all(strokes: Sequence[models.Stroke]) -> list[bool]:
    """Keep these squares and send them; whether there is a quilt for each."""
    painted = models.paint_all(strokes)
    messages: dict[str, list[str]] = {}
    for stroke, square in zip(strokes, painted, strict=True):
        if square is not None:
            color_dict = {"row": stroke.row, "column": stroke.column, **dataclasses.asdict(square)}
            messages.setdefault(stroke.quilt_id, []).append(json.dumps(color_dict))
    for quilt_id, texts in messages.items():
        channel.send_messages(quilt_id, texts)
    return [square is not None for square in painted]


# The threads of a worker process colour several squares at one moment, and SQLite has one writer: each
# task goes on when its own square is committed, and a commit has the squares of all who waited.
_paint_and_tell = together.Together(_paint_and_tell_all)


def random_order(rows: int, columns: int, seed: str) -> list[tuple[int, int]]:
    """Every (row, column) once, shuffled; the same seed gives the same order."""
    return list(_random_order(rows, columns, seed))


@functools.lru_cache(maxsize=4)
def _random_order(rows: int, columns: int, seed: str) -> tuple[tuple[int, int], ...]:
    """Kept, because each portion of a quilt asks for it."""
    squares = [(row, column) for row in range(rows) for column in range(columns)]
    random.Random(seed).shuffle(squares)
    return tuple(squares)


@queued
def fill_quilt(quilt_id: str, start: int = 0) -> None:
    """Fan a quilt out: one task a square, and one for when all are done. Of a large one only a portion, and a
    task among its squares that hands out the next.

    May be retried half way: the shuffle is the same each time, so the batch skips what it has.

    Args:
        quilt_id: the quilt's.
        start: how many squares are handed out already.

    Raises:
        deferred.PermanentTaskFailure: there is no such quilt.
    """
    quilt = models.find_quilt(quilt_id)
    if quilt is None:
        raise deferred.PermanentTaskFailure(f"there is no quilt {quilt_id}")
    if quilt.finished_at is not None:
        return  # cancelled before it began
    own_batch = f"quilt-{quilt_id}"
    # A former release has begun to fill it, as a whole and under a name that the engine chose.
    is_begun_before = quilt.batch_id not in (None, own_batch)
    end = quilt.total if is_begun_before else min(quilt.total, start + portion_size(quilt))
    complete = taskqueue.Task(url="/quilt/complete", params={"quilt": quilt_id})
    name = quilt.batch_id if is_begun_before else own_batch
    with taskqueue.Batch(queue_name=QUILT_QUEUE, on_complete=complete, name=name) as batch:
        # Noted with the first portion; False if the quilt was cancelled meanwhile.
        if quilt.batch_id == batch.id or models.note_batch(quilt_id, batch.id):
            _hand_out(batch, quilt, start, end)


def portion_size(quilt: models.Quilt) -> int:
    """How many squares of a quilt are handed out together."""
    if quilt.total <= MAX_WHOLE:
        return quilt.total
    if quilt.delay_ms == 0:
        return MAX_PORTION
    return max(1, min(MAX_PORTION, int(PORTION_SECONDS * 1000 / quilt.delay_ms)))


def _hand_out(batch: taskqueue.Batch, quilt: models.Quilt, start: int, end: int) -> None:
    """Add the squares from ``start`` to before ``end``, and unless they are the last a task for the others.

    That task is in their middle: the workers still have some to do when it adds more.
    """
    if end == quilt.total:
        batch.add(_square_tasks(quilt, start, end), first=start)
        return
    middle = start + (end - start + 1) // 2
    batch.add(_square_tasks(quilt, start, middle), first=start)
    # It must not be given up, or the quilt would never end. Positions below the total are the squares'.
    patience = taskqueue.TaskRetryOptions(min_backoff_seconds=0.5, max_backoff_seconds=10)
    batch.add(deferred.task(fill_quilt, quilt.id, end, _retry_options=patience), first=quilt.total + end)
    batch.add(_square_tasks(quilt, middle, end), first=middle)
    batch.leave_open()


def _square_tasks(quilt: models.Quilt, start: int, end: int) -> Iterator[taskqueue.Task]:
    # Left out where it is 0: a waiting task takes 64 bytes less of Redis.
    options: dict[str, Any] = {"delay_ms": quilt.delay_ms} if quilt.delay_ms else {}
    for row, column in _random_order(quilt.rows, quilt.columns, quilt.id)[start:end]:
        yield deferred.task(send_color, row, column, quilt.id, **options)


class QuiltCompleteHandler(webapp.TaskHandler):
    """Runs once the last square's task has ended, well or not: keeps the result, says so."""

    def post(self) -> None:
        """Mark the quilt finished; only the call that does so sends the message."""
        quilt_id = self.request.POST["quilt"]
        quilt = models.find_quilt(quilt_id)
        if quilt is None or quilt.batch_id is None:
            return  # nothing to finish, now or at another try
        progress = taskqueue.Batch.get(quilt.batch_id).progress()
        if models.finish_quilt(quilt_id, failed=progress.failed):
            channel.send_message(quilt_id, json.dumps({"complete": True}))
