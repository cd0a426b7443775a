"""The quilt's tables and queries."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    ForeignKey,
    String,
    Table,
    UniqueConstraint,
    bindparam,
    case,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from lastacross import datastore
from lastacross.clock import SYSTEM
from lastacross.runtime import worker_number
from programs.shared import operations, pruning
from programs.shared.runs import Run


class Quilt(Run):
    """A quilt, with its size, its progress and its end. Times are in seconds since the epoch.

    ``painted`` counts and numbers the squares. The row is locked while a square is added, so the numbers
    become visible in order and without gaps. A browser that has all squares up to n can therefore ask for
    the later ones.
    """

    __tablename__ = "quilt"

    id: Mapped[str] = mapped_column(String(22), primary_key=True)
    rows: Mapped[int]
    columns: Mapped[int]
    delay_ms: Mapped[int]
    painted: Mapped[int] = mapped_column(default=0)
    batch_id: Mapped[str | None] = mapped_column(String(400), default=None)
    failed_count: Mapped[int] = mapped_column(default=0)
    cancelled_count: Mapped[int] = mapped_column(default=0)

    @property
    def total(self) -> int:
        """The number of squares in the finished quilt."""
        return self.rows * self.columns


class Square(datastore.Model):
    """A coloured square of a quilt; the first square to be coloured has ``position`` 1.

    ``worker`` is the number of the worker process, and ``after_ms`` the milliseconds since the quilt was
    started. Squares of the previous release have neither.
    """

    __tablename__ = "quilt_square"
    __table_args__ = (UniqueConstraint("quilt_id", "position"),)

    quilt_id: Mapped[str] = mapped_column(
        String(22), ForeignKey("quilt.id", ondelete="CASCADE"), primary_key=True
    )
    row: Mapped[int] = mapped_column(primary_key=True)
    column: Mapped[int] = mapped_column(primary_key=True)
    color: Mapped[str] = mapped_column(String(7))
    position: Mapped[int]
    worker: Mapped[int | None] = mapped_column(default=None)
    after_ms: Mapped[int | None] = mapped_column(default=None)


@dataclass(frozen=True)
class Painted:
    """A square's colour, position, worker and time, as the first call painted it."""

    color: str
    position: int
    worker: int | None = None
    after_ms: int | None = None


# These statements are built once, and use the tables instead of the models. On SQLite, one writer makes all
# others wait, and building the statements each time took four times as long as the rest of the transaction.
_QUILTS = cast(Table, Quilt.__table__)
_SQUARES = cast(Table, Square.__table__)
_COUNT = (
    update(_QUILTS)
    .where(_QUILTS.c.id == bindparam("quilt"))
    .values(painted=_QUILTS.c.painted + bindparam("new"))
    .returning(_QUILTS.c.painted, _QUILTS.c.created_at)
)
_FIND = select(Quilt).where(Quilt.id == bindparam("quilt"))
_AFTER = (
    select(_SQUARES.c.row, _SQUARES.c.column, _SQUARES.c.color, _SQUARES.c.worker, _SQUARES.c.after_ms)
    .where(_SQUARES.c.quilt_id == bindparam("quilt"), _SQUARES.c.position > bindparam("known"))
    .order_by(_SQUARES.c.position)
)
_INSERT_NEW = {
    dialect.dialect.name: dialect.insert(_SQUARES)
    .on_conflict_do_nothing()
    .execution_options(preserve_rowcount=True)
    for dialect in (sqlite, postgresql)
}


@dataclass(frozen=True)
class Stroke:
    """A request to colour a square."""

    quilt_id: str
    row: int
    column: int
    color: str


def paint_all(strokes: Sequence[Stroke]) -> list[Painted | None]:
    """Paint many squares, in one commit if all of them are new; returns the results in order."""
    painted = _paint_new(strokes)
    if painted is None:
        return [paint(each.quilt_id, each.row, each.column, each.color) for each in strokes]
    return painted


def _paint_new(strokes: Sequence[Stroke]) -> list[Painted | None] | None:
    """Paint new squares; if one of them already exists, change nothing and return None."""
    rows: list[dict[str, Any]] = []
    found: dict[Stroke, Painted] = {}
    with datastore.session() as session:
        connection = session.connection()
        # Lock the quilts in a fixed order, so that two processes cannot deadlock.
        for quilt_id in sorted({stroke.quilt_id for stroke in strokes}):
            own = [stroke for stroke in strokes if stroke.quilt_id == quilt_id]
            counted = connection.execute(_COUNT, {"quilt": quilt_id, "new": len(own)}).one_or_none()
            if counted is None:
                continue
            count, created_at = counted
            for position, stroke in enumerate(own, start=count - len(own) + 1):
                square = Painted(stroke.color, position, worker_number(), _after_ms(created_at))
                place = {"quilt_id": quilt_id, "row": stroke.row, "column": stroke.column}
                rows.append({**place, **dataclasses.asdict(square)})
                found[stroke] = square
        if rows and connection.execute(_INSERT_NEW[connection.dialect.name], rows).rowcount != len(rows):
            session.rollback()
            return None
    return [found.get(stroke) for stroke in strokes]


def paint(quilt_id: str, row: int, column: int, color: str) -> Painted | None:
    """Store a square. Every later call for the same square returns the first call's colour.

    Returns:
        None if there is no such quilt.
    """
    with datastore.session() as session:
        connection = session.connection()
        counted = connection.execute(_COUNT, {"quilt": quilt_id, "new": 1}).one_or_none()
        if counted is None:
            return None
        position, created_at = counted
        square = Painted(color, position, worker_number(), _after_ms(created_at))
        values = {"quilt_id": quilt_id, "row": row, "column": column, **dataclasses.asdict(square)}
        if connection.execute(_INSERT_NEW[connection.dialect.name], values).rowcount == 1:
            return square
        session.rollback()
    return _painted(quilt_id, row, column)


def _painted(quilt_id: str, row: int, column: int) -> Painted | None:
    with datastore.session(read_only=True) as session:
        square = session.get(Square, (quilt_id, row, column))
        if square is None:
            return None
        return Painted(square.color, square.position, square.worker, square.after_ms)


def _after_ms(created_at: float) -> int:
    """The milliseconds since the quilt was started; clocks of two machines may differ."""
    return max(0, round((SYSTEM.now() - created_at) * 1000))


def add_quilt(session: Session, rows: int, columns: int, delay_ms: int) -> str:
    """Add a new quilt to the session; returns the quilt's id."""
    quilt = Quilt(
        id=operations.new_id(), rows=rows, columns=columns, delay_ms=delay_ms, created_at=SYSTEM.now()
    )
    session.add(quilt)
    return quilt.id


def find_quilt(quilt_id: str) -> Quilt | None:
    """The quilt's current row, detached from its session, or None."""
    with datastore.session(read_only=True) as session:
        return session.scalar(_FIND, {"quilt": quilt_id})


Sewn = tuple[int, int, str, int | None, int | None]
"""A square as (row, column, colour, worker, milliseconds since the quilt's start)."""


def squares_after(quilt_id: str, position: int) -> list[Sewn]:
    """The squares coloured after this position, in order."""
    wanted = {"quilt": quilt_id, "known": position}
    with datastore.session(read_only=True) as session:
        # Fetch all rows together, because fetching them one by one takes three times as long.
        return [tuple(square) for square in session.execute(_AFTER, wanted).all()]


def square_at(quilt_id: str, position: int) -> Square | None:
    """The square with this position in the order of colouring, or None."""
    query = select(Square).where(Square.quilt_id == quilt_id, Square.position == position)
    with datastore.session(read_only=True) as session:
        return session.scalar(query)


def note_batch(quilt_id: str, batch_id: str) -> bool:
    """Record the batch that colours this quilt.

    Returns:
        False if the quilt's end is already recorded, because it was cancelled earlier.
    """
    return _change(quilt_id, Quilt.finished_at.is_(None), {"batch_id": batch_id})


def cancel_unfilled(quilt_id: str) -> bool:
    """End a quilt that has no batch yet. The task that would open the batch then finds that it has ended.

    Returns:
        False if the quilt has a batch, or its end is already recorded.
    """
    return _change(quilt_id, Quilt.finished_at.is_(None) & Quilt.batch_id.is_(None), _ending(0))


def finish_quilt(quilt_id: str, *, failed: int) -> bool:
    """Record a quilt's end. Squares that are neither coloured nor failed count as cancelled.

    Returns:
        False if its end is already recorded, or there is no such quilt.
    """
    return _change(quilt_id, Quilt.finished_at.is_(None), _ending(failed))


def _ending(failed: int) -> dict[str, Any]:
    missing = Quilt.rows * Quilt.columns - Quilt.painted
    # A task may have failed after colouring its square, but a coloured square does not count as failed.
    return {
        "finished_at": SYSTEM.now(),
        "failed_count": case((missing < failed, missing), else_=failed),
        "cancelled_count": case((missing < failed, 0), else_=missing - failed),
    }


def _change(quilt_id: str, condition: ColumnElement[bool], values: dict[str, Any]) -> bool:
    changed = update(Quilt).where(Quilt.id == quilt_id, condition).values(**values).returning(Quilt.id)
    with datastore.session() as session:
        return session.scalar(changed) is not None


def quilt_numbers() -> dict[str, int]:
    """The total numbers of quilts and squares, for the front page."""
    under_way = Quilt.finished_at.is_(None)
    missing = func.sum(Quilt.rows * Quilt.columns - Quilt.painted).filter(under_way)
    query = select(func.count(), func.count(Quilt.finished_at), func.sum(Quilt.painted), missing)
    with datastore.session(read_only=True) as session:
        started, finished, painted, to_come = session.execute(query.select_from(Quilt)).one()
    return {
        "quilts_finished": finished,
        "quilts_under_way": started - finished,
        "squares_coloured": int(painted or 0),
        "squares_to_come": int(to_come or 0),
    }


# --- retention limits ---------------------------------------------------------------------

MAX_SQUARES = 6_000_000
"""The limit for all kept quilts: 0.77 GB, because a square or a quilt's row takes 128 bytes in SQLite."""

KEPT = pruning.Kept(
    Quilt,
    size=select((Quilt.rows * Quilt.columns + 1).label("size")),
    max_size=MAX_SQUARES,
    parts=(pruning.Part(Square, tuple_(Square.quilt_id, Square.row, Square.column), Square.quilt_id),),
)
