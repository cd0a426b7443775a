"""Deletes what is old, a few rows at a time: a writer on SQLite keeps everybody else waiting.

Each step is a transaction of its own, and finds by itself what is left: interrupted, repeated, or called by
two at once, it deletes the same rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, delete, or_, select, tuple_

from lastacross import clock, datastore, taskqueue, webapp
from models import CountInterval, CountLine, CountRun, Quilt, Square
from reload_models import ReloadResult, ReloadRun

URL = "/tasks/prune"

KEPT_SECONDS = 30 * 86_400.0
"""How long quilts, counts and reloads are kept; a batch, which knows how far they are, is known as long."""
MAX_ROWS = 500
"""Deleted in one transaction."""
MAX_STEPS = 100
"""Transactions of one call."""


@dataclass(frozen=True)
class Old:
    """Rows of a table that are to go; called with a number, it deletes so many at most.

    Attributes:
        table: the table.
        key: its primary key, of one column or of several.
        is_old: which rows.
    """

    table: type[datastore.Model]
    key: Any
    is_old: ColumnElement[bool]

    def __call__(self, max_rows: int) -> int:
        """How many rows went."""
        columns = getattr(self.key, "clauses", [self.key])
        # On PostgreSQL two calls at once delete different rows.
        some = select(*columns).where(self.is_old).limit(max_rows).with_for_update(skip_locked=True)
        with datastore.session() as session:
            gone = session.execute(
                delete(self.table).where(self.key.in_(some), self.is_old),
                execution_options={"synchronize_session": False},
            )
            return int(cast(CursorResult[Any], gone).rowcount)


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


def prune(now: float) -> bool:
    """Delete the quilts, counts and reloads that ended, or were lost, more than 30 days ago.

    Returns:
        False if there are more: it has done its share, and wants to be called again.
    """
    return delete_all(_olds(now - KEPT_SECONDS), max_rows=MAX_ROWS, max_steps=MAX_STEPS)


def _olds(before: float) -> list[Old]:
    """What belongs to a run goes before the run, with which it would go all at once."""
    quilts = _is_over(Quilt, before)
    counts = _is_over(CountRun, before)
    reloads = _is_over(ReloadRun, before)
    of_quilt = Square.quilt_id.in_(select(Quilt.id).where(quilts))
    old_counts, old_reloads = select(CountRun.id).where(counts), select(ReloadRun.id).where(reloads)
    of_reload = ReloadResult.run_id.in_(old_reloads)
    return [
        Old(Square, tuple_(Square.quilt_id, Square.row, Square.column), of_quilt),
        Old(Quilt, Quilt.id, quilts),
        Old(CountLine, tuple_(CountLine.run_id, CountLine.number), CountLine.run_id.in_(old_counts)),
        Old(
            CountInterval,
            tuple_(CountInterval.run_id, CountInterval.place),
            CountInterval.run_id.in_(old_counts),
        ),
        Old(CountRun, CountRun.id, counts),
        Old(ReloadResult, tuple_(ReloadResult.run_id, ReloadResult.account_id), of_reload),
        Old(ReloadRun, ReloadRun.id, reloads),
    ]


def _is_over(table: type[Quilt] | type[CountRun] | type[ReloadRun], before: float) -> ColumnElement[bool]:
    """Begun before this instant, and ended before it unless its end was never written down."""
    return (table.created_at < before) & or_(table.finished_at.is_(None), table.finished_at < before)


class PruneHandler(webapp.RequestHandler):
    """``/tasks/prune``: cron's, once a day, and its own, where one request is not enough."""

    def get(self) -> None:
        """Delete what is older than 30 days."""
        is_clean = prune(clock.SYSTEM.now())
        if not is_clean:
            taskqueue.add(url=URL, method="GET")
        self.render_json({"is_clean": is_clean})
