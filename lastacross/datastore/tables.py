"""The declarative bases, and the engine's own tables.

Two bases because there are two Alembic histories: the engine's tables change with the engine's
version, the application's with the application's.
"""

import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Every constraint gets a name, because SQLite's batch migrations can only change what has one.
NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite counts by itself in a column whose type is exactly INTEGER, and nowhere else.
_RowId = sqlalchemy.BigInteger().with_variant(sqlalchemy.Integer(), "sqlite")


class Model(DeclarativeBase):
    """The base of an application's models."""

    metadata = sqlalchemy.MetaData(naming_convention=NAMING_CONVENTION)


class EngineModel(DeclarativeBase):
    """The base of the engine's own tables; their names begin with ``lastacross_``."""

    metadata = sqlalchemy.MetaData(naming_convention=NAMING_CONVENTION)


class OutboxRow(EngineModel):
    """A task written with the data of its transaction: to be sent, or sent a moment ago.

    A sent row is kept until Redis was seen to have kept the task; one that cannot be sent is set aside.
    An id is never given twice, even after its row is gone: a relay that deletes what it has sent
    by id must not meet another task there. Hence AUTOINCREMENT on SQLite.
    """

    __tablename__ = "lastacross_outbox"
    __table_args__ = (
        # One index for both questions: what is still to be sent, and what was sent long enough ago.
        sqlalchemy.Index("ix_lastacross_outbox_sent_at", "sent_at", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_RowId, primary_key=True)
    queue: Mapped[str] = mapped_column(sqlalchemy.String(100))
    # <queue>_<name>: 100 and 500 characters at most.
    task_id: Mapped[str] = mapped_column(sqlalchemy.String(601), unique=True)
    record: Mapped[bytes] = mapped_column(sqlalchemy.LargeBinary)
    """The task as ``taskqueue`` wrote it."""
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    """Seconds since the epoch."""
    sent_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Seconds since the epoch of the last sending; None: not sent."""
    set_aside_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Seconds since the epoch when it could not be sent, whatever is tried; None: it can."""
    error: Mapped[str | None] = mapped_column(sqlalchemy.Text)
    """Why it was set aside."""


class DeferredPayload(EngineModel):
    """The body of a deferred call that was too large for a task; the task carries the id."""

    __tablename__ = "lastacross_deferred_payload"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(_RowId, primary_key=True)
    body: Mapped[bytes] = mapped_column(sqlalchemy.LargeBinary)
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double, index=True)
    """Seconds since the epoch."""
    task_id: Mapped[str | None] = mapped_column(sqlalchemy.String(601))
    """The task that carries the id, noted before it is added; None: nobody has tried to add one."""
    unused_since: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Seconds since the epoch when that task was first found to be gone; None: it was there."""
