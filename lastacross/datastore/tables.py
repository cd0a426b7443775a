"""The declarative bases, and the engine's own tables.

Two bases because there are two Alembic histories: the engine's tables change with the engine's
version, the application's with the application's.
"""

import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column

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


OPEN_STATUSES = ("ready", "started", "error")


class LongTask(EngineModel):
    """One long task: what was asked for, how far its attempts came, and the result.

    Instants are seconds since the epoch. What may be large is read when it is asked for only.
    """

    __tablename__ = "lastacross_long_task"
    __table_args__ = (
        # Rows stay for a year after their data: what is to be forgotten is found without looking at those.
        sqlalchemy.Index("ix_lastacross_long_task_expiry", "expired_at", "expires_at"),
        # Each start counts the open ones.
        sqlalchemy.Index("ix_lastacross_long_task_status", "status"),
    )

    id: Mapped[str] = mapped_column(sqlalchemy.String(43), primary_key=True)
    """128 random bits: who knows it may see the task."""
    path: Mapped[str] = mapped_column(sqlalchemy.Text)
    """Of its handler, percent-encoded."""
    method: Mapped[str] = mapped_column(sqlalchemy.String(8))
    """Of the request that started it."""
    title: Mapped[str] = mapped_column(sqlalchemy.Text)
    status: Mapped[str] = mapped_column(sqlalchemy.String(10), default="ready")
    """``ready``, ``started``, ``error`` (to be tried again), ``done``, ``failed`` or ``cancelled``."""
    queue_name: Mapped[str] = mapped_column(sqlalchemy.String(100))
    task_name: Mapped[str | None] = mapped_column(sqlalchemy.String(500))
    """Of the task that executes it; None for the moment between the row and the task."""
    join_key: Mapped[str | None] = mapped_column(sqlalchemy.String(64), unique=True)
    """Equal for equal requests that are to be joined; None: not to be, or over."""
    attempts: Mapped[int] = mapped_column(default=0)
    """That were begun."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts whose ``execute_task`` raised; not those whose worker or datastore went away."""
    delivery: Mapped[int] = mapped_column(default=0)
    """The number, by its queue's count, of the delivery that has the claim."""
    claim: Mapped[str | None] = mapped_column(sqlalchemy.String(22))
    """Of the attempt that may say how it ended; None: of none."""
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    started_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Of the first attempt."""
    attempted_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Of the newest attempt."""
    finished_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    next_try_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    expires_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    """From when on its data may be forgotten, if it is over."""
    expires_seconds: Mapped[float] = mapped_column(sqlalchemy.Double)
    """How long it is kept after its end."""
    expired_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """When its data was forgotten; the row stays, to say so."""
    error: Mapped[str | None] = mapped_column(sqlalchemy.Text)
    """What its user may know of the last failure."""
    result_kind: Mapped[str | None] = mapped_column(sqlalchemy.String(5))
    """``text``, ``bytes`` or ``json``."""
    result_size: Mapped[int] = mapped_column(default=0)
    """In bytes."""
    stored_bytes: Mapped[int] = mapped_column(sqlalchemy.BigInteger, default=0, server_default="0")
    """That it counts for in ``LongTaskUsage``; 0 once its data was forgotten."""
    given: Mapped[str] = mapped_column(sqlalchemy.Text)
    """The parameters as they came, as JSON."""
    parameters: Mapped[str | None] = deferred(mapped_column(sqlalchemy.Text))
    """What ``prepare_task`` made of them; None: nothing else."""
    traceback: Mapped[str | None] = deferred(mapped_column(sqlalchemy.Text))
    """Of the last failure, for the operator."""
    result: Mapped[bytes | None] = deferred(mapped_column(sqlalchemy.LargeBinary))

    def key(self) -> str:
        """Its id, under the name that App Engine's models had for it."""
        return self.id

    @property
    def is_open(self) -> bool:
        """Whether an attempt may still begin or end."""
        return self.status in OPEN_STATUSES

    def has_expired(self, at: float) -> bool:
        """Whether it is over, and for so long that it counts as forgotten."""
        return self.expired_at is not None or (not self.is_open and self.expires_at <= at)


class LongTaskUsage(EngineModel):
    """How much all long tasks store together: one row, with the id 1."""

    __tablename__ = "lastacross_long_task_usage"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stored_bytes: Mapped[int] = mapped_column(sqlalchemy.BigInteger)
    """The sum of the column of this name in all long tasks."""


class CronJob(EngineModel):
    """A job of cron.yaml as it was deployed: when it is due next, and whether it runs.

    Instants are seconds since the epoch.
    """

    __tablename__ = "lastacross_cron_job"

    name: Mapped[str] = mapped_column(sqlalchemy.String(100), primary_key=True)
    position: Mapped[int] = mapped_column()
    """In the file."""
    entry: Mapped[str] = mapped_column(sqlalchemy.Text)
    """What the file says of it, as JSON."""
    schedule: Mapped[str] = mapped_column(sqlalchemy.Text)
    timezone: Mapped[str] = mapped_column(sqlalchemy.String(100))
    deployed_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    """When this schedule was first seen."""
    next_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """None: not before its run has ended, or never. Whoever moves it on from an instant has that run."""
    run_id: Mapped[int | None] = mapped_column(_RowId)
    """Of the run that has not ended; None: it may start."""


class CronRun(EngineModel):
    """A run of a job, or one that was left out: the history."""

    __tablename__ = "lastacross_cron_run"
    __table_args__ = (
        sqlalchemy.Index("ix_lastacross_cron_run_job", "job", "id"),
        sqlalchemy.Index("ix_lastacross_cron_run_state", "state", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_RowId, primary_key=True)
    job: Mapped[str] = mapped_column(sqlalchemy.String(100))
    task_name: Mapped[str | None] = mapped_column(sqlalchemy.String(200), unique=True)
    """Made of job and instant: there is one task for each; None: it was left out."""
    due_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    cause: Mapped[str] = mapped_column(sqlalchemy.String(8))
    """``schedule``, ``misfire`` (made up for after a time without schedulers) or ``hand``."""
    state: Mapped[str] = mapped_column(sqlalchemy.String(8))
    """``open``, ``done``, ``failed``, ``lost`` (nobody told how it ended), ``skipped`` or ``missed``."""
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    started_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Of its first attempt, once one has ended."""
    finished_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    attempts: Mapped[int] = mapped_column(default=0)
    """That have ended."""
    status: Mapped[int | None] = mapped_column()
    """Of the last answer."""
    error: Mapped[str | None] = mapped_column(sqlalchemy.Text)
    """Why the last attempt failed."""


class LongTaskFile(EngineModel):
    """A file that came with a long task's parameters."""

    __tablename__ = "lastacross_long_task_file"

    task_id: Mapped[str] = mapped_column(
        sqlalchemy.ForeignKey(LongTask.id, ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    """The number by which the parameters refer to it."""
    body: Mapped[bytes] = mapped_column(sqlalchemy.LargeBinary)
