"""Defines the declarative bases and the engine's own tables.

There are two bases because there are two Alembic histories. The engine's tables change with the engine's
version, and the application's tables change with the application's version.
"""

import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column

# Every constraint gets a name, because SQLite's batch migrations can change only named constraints.
NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite generates ids only for a column whose type is exactly INTEGER.
_RowId = sqlalchemy.BigInteger().with_variant(sqlalchemy.Integer(), "sqlite")


class Model(DeclarativeBase):
    """The base class of an application's models."""

    metadata = sqlalchemy.MetaData(naming_convention=NAMING_CONVENTION)


class EngineModel(DeclarativeBase):
    """The base class of the engine's own tables, whose names begin with ``lastacross_``."""

    metadata = sqlalchemy.MetaData(naming_convention=NAMING_CONVENTION)


class OutboxRow(EngineModel):
    """A task that was written together with its transaction's data. It has yet to be sent, or was just sent.

    A sent row is kept until it is certain that Redis has kept the task. A row that cannot be sent is set
    aside. SQLite uses AUTOINCREMENT so that an id is never reused, even after its row was deleted. The relay
    deletes rows by id and must not delete another task's row.
    """

    __tablename__ = "lastacross_outbox"
    __table_args__ = (
        # One index finds both the rows that are still to be sent and the rows that were sent long enough ago.
        sqlalchemy.Index("ix_lastacross_outbox_sent_at", "sent_at", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_RowId, primary_key=True)
    queue: Mapped[str] = mapped_column(sqlalchemy.String(100))
    # The id is <queue>_<name>, with at most 100 and 500 characters.
    task_id: Mapped[str] = mapped_column(sqlalchemy.String(601), unique=True)
    record: Mapped[bytes] = mapped_column(sqlalchemy.LargeBinary)
    """The task as ``taskqueue`` wrote it."""
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    """Seconds since the epoch."""
    sent_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """When it was last sent, in seconds since the epoch; None: not sent."""
    set_aside_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """When it was set aside because it cannot be sent, in seconds since the epoch; None: not set aside."""
    error: Mapped[str | None] = mapped_column(sqlalchemy.Text)
    """Why it was set aside."""


class DeferredPayload(EngineModel):
    """The body of a deferred call that was too large for a task. The task contains this row's id instead."""

    __tablename__ = "lastacross_deferred_payload"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(_RowId, primary_key=True)
    body: Mapped[bytes] = mapped_column(sqlalchemy.LargeBinary)
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double, index=True)
    """Seconds since the epoch."""
    task_id: Mapped[str | None] = mapped_column(sqlalchemy.String(601))
    """The task that carries the id, recorded before the task is added; None if no add was tried."""
    unused_since: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """When the task was first found to be gone, in seconds since the epoch; None: it existed."""


OPEN_STATUSES = ("ready", "started", "error")


class LongTask(EngineModel):
    """A long task with its request, the state of its attempts, and its result.

    Times are in seconds since the epoch. Large columns are loaded only on demand.
    """

    __tablename__ = "lastacross_long_task"
    __table_args__ = (
        # Rows stay for a year after their data has expired, so this index finds expiring data without
        # reading all of them.
        sqlalchemy.Index("ix_lastacross_long_task_expiry", "expired_at", "expires_at"),
        # Starting a long task counts the open tasks.
        sqlalchemy.Index("ix_lastacross_long_task_status", "status"),
    )

    id: Mapped[str] = mapped_column(sqlalchemy.String(43), primary_key=True)
    """128 random bits: anyone who knows the id may see the task."""
    path: Mapped[str] = mapped_column(sqlalchemy.Text)
    """The handler's path, percent-encoded."""
    method: Mapped[str] = mapped_column(sqlalchemy.String(8))
    """The method of the request that started it."""
    title: Mapped[str] = mapped_column(sqlalchemy.Text)
    status: Mapped[str] = mapped_column(sqlalchemy.String(10), default="ready")
    """``ready``, ``started``, ``error`` (to be retried), ``done``, ``failed`` or ``cancelled``."""
    queue_name: Mapped[str] = mapped_column(sqlalchemy.String(100))
    task_name: Mapped[str | None] = mapped_column(sqlalchemy.String(500))
    """The name of the task that executes it; None between writing the row and adding the task."""
    join_key: Mapped[str | None] = mapped_column(sqlalchemy.String(64), unique=True)
    """The same for identical requests, which join one task; None: not joinable, or over."""
    attempts: Mapped[int] = mapped_column(default=0)
    """The number of attempts that have begun."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts whose ``execute_task`` raised; a lost worker or datastore does not count."""
    delivery: Mapped[int] = mapped_column(default=0)
    """The number of the delivery that has the claim, as its queue counts them."""
    claim: Mapped[str | None] = mapped_column(sqlalchemy.String(22))
    """The attempt that may write the outcome; None: no attempt may."""
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    started_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Start of the first attempt."""
    attempted_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Start of the newest attempt."""
    finished_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    next_try_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    expires_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    """When its data may be deleted, if it is over."""
    expires_seconds: Mapped[float] = mapped_column(sqlalchemy.Double)
    """How long it is kept after its end."""
    expired_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """When its data was deleted; the row stays to record that."""
    error: Mapped[str | None] = mapped_column(sqlalchemy.Text)
    """The part of the last failure that its user may see."""
    result_kind: Mapped[str | None] = mapped_column(sqlalchemy.String(5))
    """``text``, ``bytes`` or ``json``."""
    result_size: Mapped[int] = mapped_column(default=0)
    """In bytes."""
    stored_bytes: Mapped[int] = mapped_column(sqlalchemy.BigInteger, default=0, server_default="0")
    """Its share of ``LongTaskUsage``; 0 once its data has been deleted."""
    given: Mapped[str] = mapped_column(sqlalchemy.Text)
    """The parameters as received, as JSON."""
    parameters: Mapped[str | None] = deferred(mapped_column(sqlalchemy.Text))
    """The result of ``prepare_task``; None: unchanged parameters."""
    traceback: Mapped[str | None] = deferred(mapped_column(sqlalchemy.Text))
    """The last failure's traceback, for the operator."""
    result: Mapped[bytes | None] = deferred(mapped_column(sqlalchemy.LargeBinary))

    def key(self) -> str:
        """The task's id, under the name that App Engine uses for it."""
        return self.id

    @property
    def is_open(self) -> bool:
        """Whether one of the task's attempts may still begin or end."""
        return self.status in OPEN_STATUSES

    def has_expired(self, at: float) -> bool:
        """Whether the task is over and its expiry time has passed."""
        return self.expired_at is not None or (not self.is_open and self.expires_at <= at)


class LongTaskUsage(EngineModel):
    """The total storage of all long tasks, kept in a single row with the id 1."""

    __tablename__ = "lastacross_long_task_usage"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    stored_bytes: Mapped[int] = mapped_column(sqlalchemy.BigInteger)
    """The sum of the column with this name over all long tasks."""


class Account(EngineModel):
    """A person who may sign in with a password. Times are in seconds since the epoch."""

    __tablename__ = "lastacross_account"

    name: Mapped[str] = mapped_column(sqlalchemy.String(100), primary_key=True)
    """In lower case."""
    role: Mapped[str] = mapped_column(sqlalchemy.String(10))
    """``admin`` or ``viewer``."""
    password_hash: Mapped[str] = mapped_column(sqlalchemy.String(255))
    """In the PHC string format, with the algorithm's parameters and the salt."""
    session_key: Mapped[str] = mapped_column(sqlalchemy.String(22))
    """128 random bits, which each session repeats; a new password changes them, which ends the sessions."""
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    changed_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    """When the password was set."""


class CronJob(EngineModel):
    """A deployed job from cron.yaml, with its next due time and its current run.

    Times are in seconds since the epoch.
    """

    __tablename__ = "lastacross_cron_job"

    name: Mapped[str] = mapped_column(sqlalchemy.String(100), primary_key=True)
    position: Mapped[int] = mapped_column()
    """Its position in the file."""
    entry: Mapped[str] = mapped_column(sqlalchemy.Text)
    """Its entry in the file as JSON."""
    schedule: Mapped[str] = mapped_column(sqlalchemy.Text)
    timezone: Mapped[str] = mapped_column(sqlalchemy.String(100))
    deployed_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    """When this schedule was first deployed."""
    next_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """None: not before its run has ended, or never. The process that advances it starts that run."""
    run_id: Mapped[int | None] = mapped_column(_RowId)
    """The run that has not ended; None: a run may start."""


class CronRun(EngineModel):
    """A run or a skipped run of a job, kept for the history."""

    __tablename__ = "lastacross_cron_run"
    __table_args__ = (
        sqlalchemy.Index("ix_lastacross_cron_run_job", "job", "id"),
        sqlalchemy.Index("ix_lastacross_cron_run_state", "state", "created_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_RowId, primary_key=True)
    job: Mapped[str] = mapped_column(sqlalchemy.String(100))
    task_name: Mapped[str | None] = mapped_column(sqlalchemy.String(200), unique=True)
    """Derived from the job and the due time, so each due time has one task; None: skipped."""
    due_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    cause: Mapped[str] = mapped_column(sqlalchemy.String(8))
    """``schedule``, ``misfire`` (made up for after a period without schedulers) or ``hand``."""
    state: Mapped[str] = mapped_column(sqlalchemy.String(8))
    """``open``, ``done``, ``failed``, ``lost`` (its end was not reported), ``skipped`` or ``missed``."""
    created_at: Mapped[float] = mapped_column(sqlalchemy.Double)
    started_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    """Start of the first attempt, known once an attempt has ended."""
    finished_at: Mapped[float | None] = mapped_column(sqlalchemy.Double)
    attempts: Mapped[int] = mapped_column(default=0)
    """The number of attempts that have ended."""
    status: Mapped[int | None] = mapped_column()
    """The last HTTP status."""
    error: Mapped[str | None] = mapped_column(sqlalchemy.Text)
    """Why the last attempt failed."""


class LongTaskFile(EngineModel):
    """A file that was submitted with a long task's parameters."""

    __tablename__ = "lastacross_long_task_file"

    task_id: Mapped[str] = mapped_column(
        sqlalchemy.ForeignKey(LongTask.id, ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    """The parameters refer to the file by this number."""
    body: Mapped[bytes] = mapped_column(sqlalchemy.LargeBinary)
