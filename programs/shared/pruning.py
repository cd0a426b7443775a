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

from sqlalchemy import ColumnElement, CursorResult, Select, delete, func, or_, select, tuple_

from lastacross import clock, datastore, taskqueue, webapp
from programs.count.models import CountInterval, CountLine, CountRun
from programs.quilt.models import Quilt, Square
from programs.reload.models import ReloadResult, ReloadRun

URL = "/tasks/prune"

KEPT_SECONDS = 30 * 86_400.0
"""How long quilts, counts and reloads are kept; a batch, which knows how far they are, is known as long."""
MAX_SQUARES = 6_000_000
"""Of all quilts that are kept: 0.75 GB, as a square takes 124 bytes in SQLite, and a quilt itself as many."""
MAX_NUMBERS = 80_000_000
"""Of all counts that are kept: 0.96 GB, as a number takes 12 bytes."""
INTERVAL_NUMBERS = 44
"""An interval takes as much beside its numbers, with its lines of the log: 528 bytes."""
MAX_RESULTS = 2_000_000
"""Of all reloads that are kept: 1.1 GB, as a result takes 530 bytes."""
LOST_SECONDS = 86_400.0
"""A run that has not ended by then may go: nothing may be going to end it."""
MAX_ROWS = 500
"""Deleted in one transaction."""
MAX_STEPS = 100
"""Transactions of one call."""
MAX_INTERVALS = 100
"""Of a count, with its row about as many rows."""


Runs = type[Quilt] | type[CountRun] | type[ReloadRun]


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


def prune(now: float) -> bool:
    """Delete the quilts, counts and reloads that ended, or were lost, more than 30 days ago, or are too many.

    Returns:
        False if there are more: it has done its share, and wants to be called again.
    """
    return delete_all(_olds(now), max_rows=MAX_ROWS, max_steps=MAX_STEPS)


def _olds(now: float) -> list[Old]:
    """What belongs to a run goes before the run, with which it would go all at once.

    The size of a run stays the same until it goes itself; a call that ends within a run would else leave the
    rest of it. So the intervals of a count, which are its size, go with it.
    """
    quilts, counts, reloads = (_is_to_go(table, now) for table in (Quilt, CountRun, ReloadRun))
    of_quilt = Square.quilt_id.in_(select(Quilt.id).where(quilts))
    old_counts, old_reloads = select(CountRun.id).where(counts), select(ReloadRun.id).where(reloads)
    of_reload = ReloadResult.run_id.in_(old_reloads)
    return [
        Old(Square, tuple_(Square.quilt_id, Square.row, Square.column), of_quilt),
        Old(Quilt, Quilt.id, quilts),
        Old(CountLine, tuple_(CountLine.run_id, CountLine.number), CountLine.run_id.in_(old_counts)),
        Old(CountRun, CountRun.id, counts, rows_each=MAX_INTERVALS),
        Old(ReloadResult, tuple_(ReloadResult.run_id, ReloadResult.account_id), of_reload),
        Old(ReloadRun, ReloadRun.id, reloads),
    ]


def _is_to_go(table: Runs, now: float) -> ColumnElement[bool]:
    """Which runs of a table ended too long ago, unless their end was never written down, or are too many."""
    before = now - KEPT_SECONDS
    is_old = (table.created_at < before) & or_(table.finished_at.is_(None), table.finished_at < before)
    beyond = _beyond(table)
    if beyond is None:
        return is_old
    is_over = or_(table.finished_at.is_not(None), table.created_at < now - LOST_SECONDS)
    return or_(is_old, (table.created_at <= beyond) & is_over)


def _beyond(table: Runs) -> float | None:
    """When the newest run began that is too much with all that were begun after it; None: there is none."""
    size, most = _sizes()[table]
    runs = size.add_columns(table.created_at).group_by(table.id).subquery()
    total = func.sum(runs.c.size).over(order_by=runs.c.created_at.desc())
    totals = select(runs.c.created_at, total.label("total")).subquery()
    newest: Select[float] = select(func.max(totals.c.created_at)).where(totals.c.total > most)
    with datastore.session(read_only=True) as session:
        return session.scalar(newest)


def _sizes() -> dict[Runs, tuple[Select[int], int]]:
    """How large a run of each table is, and how large all may be together."""
    numbers = func.sum(CountInterval.last - CountInterval.first + 1 + INTERVAL_NUMBERS)
    counts = select(numbers.label("size")).join(CountRun, CountRun.id == CountInterval.run_id)
    return {
        Quilt: (select((Quilt.rows * Quilt.columns + 1).label("size")), MAX_SQUARES),
        CountRun: (counts, MAX_NUMBERS),
        ReloadRun: (select(ReloadRun.total.label("size")), MAX_RESULTS),
    }


class PruneHandler(webapp.RequestHandler):
    """``/tasks/prune``: cron's, once an hour, and its own, where one request is not enough."""

    def get(self) -> None:
        """Delete what is older than 30 days, or too much."""
        is_clean = prune(clock.SYSTEM.now())
        if not is_clean:
            taskqueue.add(url=URL, method="GET")
        self.render_json({"is_clean": is_clean})
