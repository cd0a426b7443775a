"""Deletes old and excess rows, a few at a time, because a writer on SQLite makes everybody else wait.

Excess rows go oldest first. If the site refused new runs instead, a few strangers could stop the demo for a
month. Pruning lets them only shorten the retention of results, and one network alone cannot do even that.
Each total exceeds what one network may start in 30 days, or thirty networks in a day (starting.py).

Each step is a transaction of its own and finds the remaining rows by itself. Interrupted, repeated or
concurrent calls therefore delete the same rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Select, delete, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from lastacross import clock, datastore, taskqueue, webapp
from programs.shared.runs import Run

URL = "/tasks/prune"

KEPT_SECONDS = 30 * 86_400.0
"""How long quilts, counts and reloads are kept; a batch, which knows their progress, is kept as long."""
LOST_SECONDS = 86_400.0
"""A run that has not ended by then may be deleted: nothing may ever end it."""
MAX_ROWS = 500
"""The maximum number of rows deleted in one transaction."""
MAX_STEPS = 100
"""The maximum number of transactions per call."""


@dataclass(frozen=True)
class Part:
    """Rows that belong to a run and are deleted before it.

    Attributes:
        table: the rows' table.
        key: its primary key, of one or several columns.
        run_id: the column that names the run.
    """

    table: type[datastore.Model]
    key: Any
    run_id: ColumnElement[str] | InstrumentedAttribute[str]


@dataclass(frozen=True)
class Kept:
    """How much to keep of a program's runs.

    Attributes:
        runs: their table.
        size: selects the column ``size``, a run's size.
        max_size: the maximum for all runs together.
        parts: a run's other rows, without those that make up its size.
        rows_each: how many rows the deletion of a run removes, including the run itself.
    """

    runs: type[Run]
    size: Select[Any]
    max_size: int
    parts: Sequence[Part]
    rows_each: int = 1


@dataclass(frozen=True)
class Old:
    """A table's rows that are due for deletion; a call deletes up to the given number of them.

    Attributes:
        table: the table.
        key: its primary key, of one or several columns.
        is_old: selects the rows.
        rows_each: how many rows the deletion of one row removes, including itself.
    """

    table: type[datastore.Model]
    key: Any
    is_old: ColumnElement[bool]
    rows_each: int = 1

    def __call__(self, max_rows: int) -> int:
        """Delete up to this many rows; returns how many were deleted."""
        columns = getattr(self.key, "clauses", [self.key])
        # On PostgreSQL two concurrent calls delete different rows.
        some = select(*columns).where(self.is_old).limit(max(1, max_rows // self.rows_each))
        some = some.with_for_update(skip_locked=True)
        with datastore.session() as session:
            gone = session.execute(
                delete(self.table).where(self.key.in_(some), self.is_old),
                execution_options={"synchronize_session": False},
            )
            return self.rows_each * int(cast(CursorResult[Any], gone).rowcount)


def delete_all(deleters: Sequence[Callable[[int], int]], *, max_rows: int, max_steps: int) -> bool:
    """Run each deleter until it finds nothing more, one after the other.

    Args:
        deleters: take the maximum number of rows for one transaction, and return how many they deleted.
        max_rows: the limit for one transaction.
        max_steps: the number of transactions after which no full one is started.

    Returns:
        False if there is more to delete, so the caller should call again.
    """
    steps = max_steps
    for delete_some in deleters:
        while True:
            gone = delete_some(max_rows)
            steps -= gone > 0
            if gone < max_rows:
                break
            if steps <= 0:
                return False
    return True


def prune(kept: Sequence[Kept], now: float) -> bool:
    """Delete the runs that ended or were lost more than 30 days ago, and the excess ones.

    Returns:
        False if there is more to delete, so the caller should call again.
    """
    olds = [old for each in kept for old in _olds(each, now)]
    return delete_all(olds, max_rows=MAX_ROWS, max_steps=MAX_STEPS)


def _olds(kept: Kept, now: float) -> list[Old]:
    """A run's other rows are deleted before the run, whose own deletion would remove them all in one step.

    A run's size must not change before the run is deleted, or a call that stops half way would leave the
    rest of the run. Rows that make up the size, such as a count's intervals, are therefore deleted together
    with it.
    """
    is_old = _is_to_go(kept, now)
    runs = select(kept.runs.id).where(is_old)
    parts = [Old(part.table, part.key, part.run_id.in_(runs)) for part in kept.parts]
    return [*parts, Old(kept.runs, kept.runs.id, is_old, rows_each=kept.rows_each)]


def _is_to_go(kept: Kept, now: float) -> ColumnElement[bool]:
    """Selects the excess runs, and the runs that ended (or were lost) too long ago."""
    table, before = kept.runs, now - KEPT_SECONDS
    is_old = (table.created_at < before) & or_(table.finished_at.is_(None), table.finished_at < before)
    beyond = _beyond(kept)
    if beyond is None:
        return is_old
    is_over = or_(table.finished_at.is_not(None), table.created_at < now - LOST_SECONDS)
    return or_(is_old, (table.created_at <= beyond) & is_over)


def _beyond(kept: Kept) -> float | None:
    """The start of the newest run that, with all later runs, exceeds the total; None if there is none."""
    created_at = kept.runs.created_at
    runs = kept.size.add_columns(created_at).group_by(kept.runs.id).subquery()
    total = func.sum(runs.c.size).over(order_by=runs.c.created_at.desc())
    totals = select(runs.c.created_at, total.label("total")).subquery()
    newest: Select[float] = select(func.max(totals.c.created_at)).where(totals.c.total > kept.max_size)
    with datastore.session(read_only=True) as session:
        return session.scalar(newest)


class PruneHandler(webapp.RequestHandler):
    """``/tasks/prune``: called by cron once an hour, and again if one request is not enough."""

    kept: Sequence[Kept] = ()

    def get(self) -> None:
        """Delete everything older than 30 days, or in excess."""
        is_clean = prune(self.kept, clock.SYSTEM.now())
        if not is_clean:
            taskqueue.add(url=URL, method="GET")
        self.render_json({"is_clean": is_clean})
