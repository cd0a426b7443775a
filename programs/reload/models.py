"""The batch reload's datastore models: accounts, runs, and each account's result."""

from sqlalchemy import Double, ForeignKey, Index, String, func, select, text, tuple_
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore
from programs.shared import pruning
from programs.shared.runs import Run

KEY_LENGTH = 100
TEXT_LENGTH = 300
"""The maximum length of a status, or of another response's text; longer text is truncated."""

WAITING, FAILING, OK = "waiting", "failing", "ok"


class Account(datastore.Model):
    """An account whose status is fetched. Times are in seconds since the epoch.

    ``status`` is the last status that was fetched, at ``status_at``. ``problem`` says why a later fetch
    failed, or is None if none failed. ``checked_at`` is the start of the most recent recorded fetch.
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
    """A run over the accounts that were active at its start. Times are in seconds since the epoch.

    * ``done`` counts the accounts with a new status, and ``changes`` counts all changes. Both are counted in
      the transaction that stores the change, so a task that runs twice is counted once.
    * ``opened_at`` is the time when the batch was created, and ``loaded_at`` when its last task was added.
    * ``lost_at`` is the time when the run was found to be unable to end.
    * ``retry_of`` is the run whose failed accounts this run retries, and ``retried_as`` is the run that
      retries this run's failed accounts.
    * ``place`` is 1 until the run ends, and None afterwards. It is unique, so only one run can be open.
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
    """An account in a run, with its last fetch in this run. The time ``at`` is in seconds since the epoch.

    The rows are written when the run starts, which fixes its accounts and their order. ``outcome`` is
    ``waiting``, ``failing`` or ``ok``. ``http_status`` is None if there was no response, and ``answer`` then
    says why.
    """

    __tablename__ = "reload_result"
    __table_args__ = (
        # These indexes contain only completed fetches, so inserting a run's rows stays cheap.
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


def reload_numbers() -> dict[str, int]:
    """The total numbers of finished reloads and of reloaded accounts, for the front page."""
    query = select(func.count(ReloadRun.finished_at), func.sum(ReloadRun.done))
    with datastore.session(read_only=True) as session:
        finished, done = session.execute(query).one()
    return {"reloads_finished": finished, "accounts_reloaded": int(done or 0)}


# --- retention limits ---------------------------------------------------------------------

MAX_RESULTS = 2_000_000
"""The limit for all kept reloads: 1.1 GB, because a result takes 530 bytes."""

KEPT = pruning.Kept(
    ReloadRun,
    size=select(ReloadRun.total.label("size")),
    max_size=MAX_RESULTS,
    parts=(
        pruning.Part(ReloadResult, tuple_(ReloadResult.run_id, ReloadResult.account_id), ReloadResult.run_id),
    ),
)
