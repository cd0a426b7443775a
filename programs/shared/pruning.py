"""Deletes what is old or too much, a few rows at a time: a writer on SQLite keeps everybody else waiting.

What is too much goes from the oldest on. To refuse new runs instead would let a few strangers stop the demo
for a month. This way they only shorten the time for which results are kept, and one network alone cannot do
that: each total is more than it may start in 30 days, or thirty such networks in a day (starting.py).

Each step is a transaction of its own, and finds by itself what is left: interrupted, repeated, or called by
two at once, it deletes the same rows.
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
"""How long quilts, counts and reloads are kept; a batch, which knows how far they are, is known as long."""
LOST_SECONDS = 86_400.0
"""A run that has not ended by then may go: nothing may be going to end it."""
MAX_ROWS = 500
"""Deleted in one transaction."""
MAX_STEPS = 100
"""Transactions of one call."""


@dataclass(frozen=True)
class Part:
    """Rows that belong to a run, and are deleted before it.

    Attributes:
        table: theirs.
        key: its primary key, of one column or of several.
        run_id: the column that names the run.
    """

    table: type[datastore.Model]
    key: Any
    run_id: ColumnElement[str] | InstrumentedAttribute[str]


@dataclass(frozen=True)
class Kept:
    """How much of a program's runs is kept.

    Attributes:
        runs: their table.
        size: selects the column ``size``: how large a run is.
        max_size: of all runs together.
        parts: other rows of a run, without those that its size is made of.
        rows_each: how many rows a run takes along, with itself.
    """

    runs: type[Run]
    size: Select[Any]
    max_size: int
    parts: Sequence[Part]
    rows_each: int = 1


@dataclass(frozen=True)
class Old:
    """Rows of a table that are to go; called with a number, it deletes so many at most.

    Attributes:
        table: the table.
        key: its primary key, of one column or of several.
        is_old: which rows.
        rows_each: how many rows one of them takes along, with itself.
    """

    table: type[datastore.Model]
    key: Any
    is_old: ColumnElement[bool]
    rows_each: int = 1

    def __call__(self, max_rows: int) -> int:
        """How many rows went."""
        columns = getattr(self.key, "clauses", [self.key])
        # On PostgreSQL two calls at once delete different rows.
        some = select(*columns).where(self.is_old).limit(max(1, max_rows // self.rows_each))
        some = some.with_for_update(skip_locked=True)
        with datastore.session() as session:
            gone = session.execute(
                delete(self.table).where(self.key.in_(some), self.is_old),
                execution_options={"synchronize_session": False},
            )
            return self.rows_each * int(cast(CursorResult[Any], gone).rowcount)


def delete_all(deleters: Sequence[Callable[[int], int]], *, max_rows: int, max_steps: int) -> bool:
    """Let each delete all that it has, one after the other.

    Args:
        deleters: take the most rows that may go in one transaction, and answer how many went.
        max_rows: of one transaction.
        max_steps: transactions after which no full one is begun any more.

    Returns:
        False if there are more: it has done its share, and wants to be called again.
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
    """Delete the runs that ended, or were lost, more than 30 days ago, or are too many.

    Returns:
        False if there are more: it has done its share, and wants to be called again.
    """
    olds = [old for each in kept for old in _olds(each, now)]
    return delete_all(olds, max_rows=MAX_ROWS, max_steps=MAX_STEPS)


def _olds(kept: Kept, now: float) -> list[Old]:
    """What belongs to a run goes before the run, with which it would go all at once.

    The size of a run stays the same until it goes itself; a call that ends within a run would else leave the
    rest of it. So rows that are its size, as the intervals of a count, go with it.
    """
    is_old = _is_to_go(kept, now)
    runs = select(kept.runs.id).where(is_old)
    parts = [Old(part.table, part.key, part.run_id.in_(runs)) for part in kept.parts]
    return [*parts, Old(kept.runs, kept.runs.id, is_old, rows_each=kept.rows_each)]


def _is_to_go(kept: Kept, now: float) -> ColumnElement[bool]:
    """Which runs ended too long ago, unless their end was never written down, or are too many."""
    table, before = kept.runs, now - KEPT_SECONDS
    is_old = (table.created_at < before) & or_(table.finished_at.is_(None), table.finished_at < before)
    beyond = _beyond(kept)
    if beyond is None:
        return is_old
    is_over = or_(table.finished_at.is_not(None), table.created_at < now - LOST_SECONDS)
    return or_(is_old, (table.created_at <= beyond) & is_over)


def _beyond(kept: Kept) -> float | None:
    """When the newest run began that is too much with all that were begun after it; None: there is none."""
    created_at = kept.runs.created_at
    runs = kept.size.add_columns(created_at).group_by(kept.runs.id).subquery()
    total = func.sum(runs.c.size).over(order_by=runs.c.created_at.desc())
    totals = select(runs.c.created_at, total.label("total")).subquery()
    newest: Select[float] = select(func.max(totals.c.created_at)).where(totals.c.total > kept.max_size)
    with datastore.session(read_only=True) as session:
        return session.scalar(newest)


class PruneHandler(webapp.RequestHandler):
    """``/tasks/prune``: cron's, once an hour, and its own, where one request is not enough."""

    kept: Sequence[Kept] = ()

    def get(self) -> None:
        """Delete what is older than 30 days, or too much."""
        is_clean = prune(self.kept, clock.SYSTEM.now())
        if not is_clean:
            taskqueue.add(url=URL, method="GET")
        self.render_json({"is_clean": is_clean})
