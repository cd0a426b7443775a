"""The datastore models of the batch reload: accounts, runs over them, and what became of each account."""

from sqlalchemy import Double, ForeignKey, Index, String, select, text, tuple_
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore
from programs.shared import pruning
from programs.shared.runs import Run

KEY_LENGTH = 100
TEXT_LENGTH = 300
"""Of a status, or of an answer that is no status: what is longer is cut."""

WAITING, FAILING, OK = "waiting", "failing", "ok"


class Account(datastore.Model):
    """Somebody whose status is fetched. Instants are seconds since the epoch.

    ``status`` is the last that was fetched, ``status_at`` when. ``problem`` says why a later fetch brought
    none; None if it did. ``checked_at``: when the newest fetch that is written down here began.
    """

    __tablename__ = "account"
    __table_args__ = (Index("ix_account_is_active_id", "is_active", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(KEY_LENGTH), unique=True)
    is_active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[float] = mapped_column(Double)
    status: Mapped[str | None] = mapped_column(String(TEXT_LENGTH), default=None)
    status_at: Mapped[float | None] = mapped_column(Double, default=None)
    problem: Mapped[str | None] = mapped_column(String(TEXT_LENGTH), default=None)
    checked_at: Mapped[float | None] = mapped_column(Double, default=None)


class ReloadRun(Run):
    """A run over the accounts that were active when it began. Instants are seconds since the epoch.

    ``done`` counts accounts with a new status; ``changes`` whatever happened. Both are counted in the
    transaction that writes it down, so that a task which runs twice counts once. ``opened_at``: when its
    batch was there; ``loaded_at``: when the last task was on its queue. ``lost_at``: when it was found that
    nothing was going to end it. ``retry_of``: the run whose failed accounts it has; ``retried_as``: the run
    that has this one's. ``place``: 1 from beginning to end, None afterwards; as it is unique, one run at a
    time has it.
    """

    __tablename__ = "reload_run"

    id: Mapped[str] = mapped_column(String(60), primary_key=True)
    started_by: Mapped[str] = mapped_column(String(5))
    retry_of: Mapped[str | None] = mapped_column(String(60), default=None)
    retried_as: Mapped[str | None] = mapped_column(String(60), default=None)
    total: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)
    changes: Mapped[int] = mapped_column(default=0)
    opened_at: Mapped[float | None] = mapped_column(Double, default=None)
    loaded_at: Mapped[float | None] = mapped_column(Double, default=None)
    failed_count: Mapped[int] = mapped_column(default=0)
    lost_at: Mapped[float | None] = mapped_column(Double, default=None)
    place: Mapped[int | None] = mapped_column(index=True, unique=True, default=None)


class ReloadResult(datastore.Model):
    """An account of a run, and how its last fetch there ended. An instant is in seconds since the epoch.

    The rows are written when the run begins: they fix which accounts it has, and in which order. ``outcome``
    is ``waiting``, ``failing`` or ``ok``; ``http_status`` is None where no answer came: ``answer`` says why.
    """

    __tablename__ = "reload_result"
    __table_args__ = (
        # Only what has ended is in them: writing the rows of a run stays cheap.
        Index(
            "ix_reload_result_slow",
            "run_id",
            "duration_ms",
            sqlite_where=text("duration_ms IS NOT NULL"),
            postgresql_where=text("duration_ms IS NOT NULL"),
        ),
        Index(
            "ix_reload_result_failing",
            "run_id",
            "account_id",
            sqlite_where=text("outcome = 'failing'"),
            postgresql_where=text("outcome = 'failing'"),
        ),
    )

    run_id: Mapped[str] = mapped_column(
        String(60), ForeignKey("reload_run.id", ondelete="CASCADE"), primary_key=True
    )
    account_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    account_key: Mapped[str] = mapped_column(String(KEY_LENGTH))
    outcome: Mapped[str] = mapped_column(String(7), default=WAITING)
    attempts: Mapped[int] = mapped_column(default=0)
    http_status: Mapped[int | None] = mapped_column(default=None)
    answer: Mapped[str | None] = mapped_column(String(TEXT_LENGTH), default=None)
    duration_ms: Mapped[int | None] = mapped_column(default=None)
    at: Mapped[float | None] = mapped_column(Double, default=None)


# --- how much is kept ---------------------------------------------------------------------

MAX_RESULTS = 2_000_000
"""Of all reloads that are kept: 1.1 GB, as a result takes 530 bytes."""

KEPT = pruning.Kept(
    ReloadRun,
    size=select(ReloadRun.total.label("size")),
    max_size=MAX_RESULTS,
    parts=(
        pruning.Part(ReloadResult, tuple_(ReloadResult.run_id, ReloadResult.account_id), ReloadResult.run_id),
    ),
)
