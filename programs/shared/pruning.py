"""Deletes old and excess rows, a few at a time because on SQLite one writer makes all others wait.

The oldest excess rows are deleted first. If the site refused new runs instead, a few strangers could stop the
demo for a month. With pruning, they can only make results disappear sooner. A single network cannot do even
that, because each maximum exceeds what one network may start in 30 days, or thirty networks in a day
(starting.py).

Each step is a separate transaction that looks up the remaining rows. Interrupted, repeated or concurrent
calls therefore delete the same rows.
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
"""How long quilts, counts and reloads are kept; a batch, which holds their progress, is kept just as long."""
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
        key: its primary key, which has one or more columns.
        run_id: the column with the run's id.
    """

    table: type[datastore.Model]
    key: Any
    run_id: ColumnElement[str] | InstrumentedAttribute[str]


@dataclass(frozen=True)
class Kept:
    """How many of a program's runs to keep.

    Attributes:
        runs: the table of the runs.
        size: a query for a run's size, in the column ``size``.
        max_size: the maximum size of all runs together.
        parts: the other tables with rows of a run, except the rows that make up the run's size.
        rows_each: how many rows are removed when a run is deleted, including the run's own row.
    """

    runs: type[Run]
    size: Select[Any]
    max_size: int
    parts: Sequence[Part]
    rows_each: int = 1


@dataclass(frozen=True)
class Old:
    """The rows of a table that are due for deletion. Each call deletes up to a given number of them.

    Attributes:
        table: the table.
        key: its primary key, which has one or more columns.
        is_old: a condition that selects the rows.
        rows_each: how many rows are removed when one of these is deleted, including that row.
    """

    table: type[datastore.Model]
    key: Any
    is_old: ColumnElement[bool]
    rows_each: int = 1

    def __call__(self, max_rows: int) -> int:
        """Delete up to ``max_rows`` rows; returns how many were deleted."""
        columns = getattr(self.key, "clauses", [self.key])
        # On PostgreSQL, two concurrent calls delete different rows.
        some = select(*columns).where(self.is_old).limit(max(1, max_rows // self.rows_each))
        some = some.with_for_update(skip_locked=True)
        with datastore.session() as session:
            gone = session.execute(
                delete(self.table).where(self.key.in_(some), self.is_old),
                execution_options={"synchronize_session": False},
            )
            return self.rows_each * int(cast(CursorResult[Any], gone).rowcount)


def delete_all(deleters: Sequence[Callable[[int], int]], *, max_rows: int, max_steps: int) -> bool:
    """Run the deleters in turn, each until it has nothing left to delete.

    Args:
        deleters: callables that take the maximum number of rows for one transaction, and return how many
            rows they deleted.
        max_rows: the maximum number of rows for one transaction.
        max_steps: the number of transactions after which the call stops, even if there is more to delete.

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
    """Delete the runs that ended or were lost more than 30 days ago, and excess runs.

    Returns:
        False if there is more to delete, so the caller should call again.
    """
    olds = [old for each in kept for old in _olds(each, now)]
    return delete_all(olds, max_rows=MAX_ROWS, max_steps=MAX_STEPS)


def _olds(kept: Kept, now: float) -> list[Old]:
    """The rows to delete. A run's other rows come first, as deleting the run would remove them all at once.

    A run's size must not change before the run is deleted. Otherwise a call that stops halfway would leave
    the rest of the run undeleted. Rows that make up the size, such as a count's intervals, are therefore
    deleted together with the run.
    """
    is_old = _is_to_go(kept, now)
    runs = select(kept.runs.id).where(is_old)
    parts = [Old(part.table, part.key, part.run_id.in_(runs)) for part in kept.parts]
    return [*parts, Old(kept.runs, kept.runs.id, is_old, rows_each=kept.rows_each)]


def _is_to_go(kept: Kept, now: float) -> ColumnElement[bool]:
    """A condition that selects excess runs and runs that ended (or were lost) too long ago."""
    table, before = kept.runs, now - KEPT_SECONDS
    is_old = (table.created_at < before) & or_(table.finished_at.is_(None), table.finished_at < before)
    beyond = _beyond(kept)
    if beyond is None:
        return is_old
    is_over = or_(table.finished_at.is_not(None), table.created_at < now - LOST_SECONDS)
    return or_(is_old, (table.created_at <= beyond) & is_over)


def _beyond(kept: Kept) -> float | None:
    """The start of the newest run that, together with all later runs, exceeds the maximum size, or None."""
    created_at = kept.runs.created_at
    runs = kept.size.add_columns(created_at).group_by(kept.runs.id).subquery()
    total = func.sum(runs.c.size).over(order_by=runs.c.created_at.desc())
    totals = select(runs.c.created_at, total.label("total")).subquery()
    newest: Select[float] = select(func.max(totals.c.created_at)).where(totals.c.total > kept.max_size)
    with datastore.session(read_only=True) as session:
        return session.scalar(newest)


class PruneHandler(webapp.RequestHandler):
    """``/tasks/prune``: called by cron once an hour, and again if something is left to delete."""

    kept: Sequence[Kept] = ()

    def get(self) -> None:
        """Delete old and excess runs."""
        is_clean = prune(self.kept, clock.SYSTEM.now())
        if not is_clean:
            taskqueue.add(url=URL, method="GET")
        self.render_json({"is_clean": is_clean})
