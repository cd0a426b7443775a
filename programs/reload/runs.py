"""The batch reload's runs in the datastore: how they start, continue and end.

Each step is one transaction, and is idempotent because tasks may run twice.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, String, case, delete, func, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from lastacross import clock, datastore, taskqueue
from programs.reload.models import FAILING, OK, TEXT_LENGTH, Account, ReloadResult, ReloadRun

FILL_URL = "/tasks/reload-fill"

PAGE = 1000
"""How many of a run's accounts are in memory at a time while it is loaded."""

SLOWEST = 10
FAILING_LISTED = 50
MAX_FAILING_LISTED = 1000
"""The maximum number that a program may request."""
RUNS_LISTED = 50


class NothingToDoError(Exception):
    """Raised when a run would have no accounts."""


def new_id() -> str:
    """An id for a run that is started by hand: the current time, plus a unique suffix."""
    return f"{stamp(clock.SYSTEM.now())}-{secrets.token_hex(4)}"


def stamp(at: float) -> str:
    """A time in the format of cron's task names: ``20261121T031407Z``."""
    return clock.utc(at).strftime("%Y%m%dT%H%M%SZ")


def batch_id(run_id: str) -> str:
    """The id of the batch of a run's tasks."""
    return f"reload-{run_id}"


def run_of_batch(name: str | None) -> str | None:
    """The id of the run that this batch belongs to, or None if it belongs to another program."""
    prefix = batch_id("")
    return name.removeprefix(prefix) if name is not None and name.startswith(prefix) else None


# --- beginning ----------------------------------------------------------------------------


def begin(run_id: str, started_by: str) -> ReloadRun:
    """Store a run with the currently active accounts, and add the task that loads it. A repeated call
    returns the existing run.

    This fixes the run's accounts and their order, because a batch identifies its members by position, and
    accounts may be added or deactivated while the run is loaded. One SQL statement copies the accounts, so
    they are not held in memory.

    Args:
        run_id: the run's id, which is the same in every call for this run.
        started_by: ``cron`` or ``hand``.

    Returns:
        The run, or another run that started at the same moment, because only one run may be open.

    Raises:
        NothingToDoError: no account is active, so no run was stored.
    """
    known = find(run_id)
    if known is not None:
        return known
    try:
        with datastore.transaction() as transaction:
            session = transaction.session
            run = ReloadRun(id=run_id, started_by=started_by, created_at=clock.SYSTEM.now(), place=1)
            _add(session, run, select(Account.id, Account.key).where(Account.is_active))
            add_filling(run_id)
            return run
    except IntegrityError:
        # A concurrent call for the same run or another one was faster.
        known = find(run_id) or _in_place()
        if known is None:
            raise
        return known


def retry(run_id: str) -> ReloadRun:
    """Start a run over the accounts that failed in a finished run, or return the run that already did so.

    Accounts that were deactivated since then are left out. The finished run's counts do not change.

    Returns:
        The new run, or another run that started at the same moment, because only one run may be open.

    Raises:
        NothingToDoError: none of these accounts is active.
    """
    try:
        return _retried(run_id)
    except IntegrityError:
        known = _in_place()
        if known is None:
            raise
        return known


def _retried(run_id: str) -> ReloadRun:
    with datastore.transaction() as transaction:
        session = transaction.session
        now = clock.SYSTEM.now()
        new = ReloadRun(id=new_id(), started_by="retry", retry_of=run_id, created_at=now, place=1)
        claim = update(ReloadRun).where(ReloadRun.id == run_id, ReloadRun.retried_as.is_(None))
        if session.scalar(claim.values(retried_as=new.id).returning(ReloadRun.id)) is None:
            return session.scalars(select(ReloadRun).where(ReloadRun.retry_of == run_id)).one()
        failed = select(Account.id, Account.key).join(ReloadResult, ReloadResult.account_id == Account.id)
        is_failed = (ReloadResult.run_id == run_id) & (ReloadResult.outcome != OK)
        _add(session, new, failed.where(is_failed, Account.is_active))
        add_filling(new.id)
        return new


def _add(session: Session, run: ReloadRun, accounts: Select[int, str]) -> None:
    """Store a run and its accounts; ``accounts`` selects their ids and keys.

    Raises:
        NothingToDoError: there are no accounts.
    """
    session.add(run)
    session.flush()
    rows = accounts.add_columns(literal(run.id, String))
    session.execute(insert(ReloadResult).from_select(["account_id", "account_key", "run_id"], rows))
    of_run = select(func.count()).where(ReloadResult.run_id == run.id)
    run.total = session.scalar(of_run) or 0
    if run.total == 0:
        raise NothingToDoError
    session.flush()


def add_filling(run_id: str) -> None:
    """Add the task that loads a run, in the current transaction. The task is retried without limit."""
    taskqueue.add(url=FILL_URL, params={"run": run_id}, retry_options=patience(), transactional=True)


def patience() -> taskqueue.TaskRetryOptions:
    """Retry options for a task that ends a run: unlimited retries, and up to a minute between attempts."""
    return taskqueue.TaskRetryOptions(min_backoff_seconds=0.5, max_backoff_seconds=60)


# --- loading ------------------------------------------------------------------------------


def members(run_id: str) -> Iterator[str]:
    """The keys of a run's accounts, in the order of the accounts' ids and read page by page."""
    after = 0
    of_run = ReloadResult.run_id == run_id
    while True:
        page = select(ReloadResult.account_id, ReloadResult.account_key).where(of_run)
        page = page.where(ReloadResult.account_id > after).order_by(ReloadResult.account_id).limit(PAGE)
        with datastore.session(read_only=True) as session:
            rows = session.execute(page).all()
        yield from (key for _, key in rows)
        if len(rows) < PAGE:
            return
        after = rows[-1][0]


def note_opened(run_id: str) -> None:
    """Record that the run's batch exists."""
    _note(run_id, ReloadRun.opened_at)


def note_loaded(run_id: str) -> None:
    """Record that all of the run's tasks have been added."""
    _note(run_id, ReloadRun.loaded_at)


def _note(run_id: str, column: InstrumentedAttribute[float | None]) -> None:
    """Record the time of an event when it happens for the first time."""
    first = update(ReloadRun).where(ReloadRun.id == run_id, column.is_(None))
    with datastore.session() as session:
        session.execute(first.values({column: clock.SYSTEM.now()}))


# --- continuing and ending ----------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """The result of a fetch.

    Attributes:
        is_ok: whether the fetch returned a status.
        http_status: the response's HTTP status, or None if there was no response.
        text: the account's status, the text of any other response, or the reason why there was no response.
        began_at: the start of the fetch, in seconds since the epoch.
        duration_ms: the duration of the fetch, in milliseconds.
    """

    is_ok: bool
    http_status: int | None
    text: str
    began_at: float
    duration_ms: int

    @property
    def kept(self) -> str:
        """The text, cut to the column's length and without characters that a database rejects."""
        plain = self.text.replace("\0", "\ufffd").strip()
        return plain if len(plain) <= TEXT_LENGTH else plain[: TEXT_LENGTH - 1] + "…"

    @property
    def problem(self) -> str:
        """The reason why there is no status."""
        return self.kept if self.http_status is None else f"{self.http_status}: {self.kept}"[:TEXT_LENGTH]


def record(run_id: str | None, key: str, answer: Answer, attempt: int) -> int | None:
    """Store a fetch's result in its account and its run, both or neither.

    Each account counts only once in a run. Once it has a status in this run, later results do not change
    the run. If two runs fetch an account, it keeps the newer result.

    Args:
        run_id: the run's id, or None for a fetch that does not belong to a run.
        key: the account's key.
        answer: the result of the fetch.
        attempt: the number of the attempt; the first is 1.

    Returns:
        The number of the run's change, or None if the run did not change.
    """
    with datastore.session() as session:
        account_id = session.scalar(select(Account.id).where(Account.key == key))
        if account_id is None:
            return None
        _write_account(session, account_id, answer)
        if run_id is None or not _write_result(session, (run_id, account_id), answer, attempt):
            return None
        counted = {"done": ReloadRun.done + int(answer.is_ok), "changes": ReloadRun.changes + 1}
        of_run = update(ReloadRun).where(ReloadRun.id == run_id).values(**counted)
        return session.scalar(of_run.returning(ReloadRun.changes))


def _write_account(session: Session, account_id: int, answer: Answer) -> None:
    values: dict[str, Any] = {"checked_at": answer.began_at}
    if answer.is_ok:
        values |= {"status": answer.kept, "status_at": answer.began_at, "problem": None}
    else:
        values |= {"problem": answer.problem}
    is_newer = or_(Account.checked_at.is_(None), Account.checked_at <= answer.began_at)
    session.execute(update(Account).where(Account.id == account_id, is_newer).values(**values))


def _write_result(session: Session, row: tuple[str, int], answer: Answer, attempt: int) -> bool:
    """Store the result unless the account has a status in this run already; returns whether it was stored."""
    values = {
        "outcome": OK if answer.is_ok else FAILING,
        "attempts": attempt,
        "http_status": answer.http_status,
        "answer": answer.kept,
        "duration_ms": answer.duration_ms,
        "at": answer.began_at,
    }
    is_it = (ReloadResult.run_id == row[0]) & (ReloadResult.account_id == row[1])
    changed = update(ReloadResult).where(is_it, ReloadResult.outcome != OK).values(**values)
    return session.scalar(changed.returning(ReloadResult.account_id)) is not None


def finish(run_id: str, *, failed: int, is_lost: bool = False) -> bool:
    """Record a run's end. Of its results, only the failed and the slowest ones are kept.

    Args:
        run_id: the run's id.
        failed: how many of its tasks are dead letters; such a task may have stored a status anyway.
        is_lost: whether the run could no longer end by itself.

    Returns:
        False if its end is already recorded, or there is no such run.
    """
    ending = update(ReloadRun).where(ReloadRun.id == run_id, ReloadRun.finished_at.is_(None))
    missing = ReloadRun.total - ReloadRun.done
    now = clock.SYSTEM.now()
    values = {
        "finished_at": now,
        "lost_at": now if is_lost else None,
        "place": None,
        "failed_count": case((missing < failed, missing), else_=failed),
        "changes": ReloadRun.changes + 1,
    }
    with datastore.session() as session:
        if session.scalar(ending.values(**values).returning(ReloadRun.id)) is None:
            return False
        # ``record`` locks a result and then the run; this function locks them in the other order. It locks
        # only successful results, which ``record`` does not lock again, so there cannot be a deadlock.
        is_fine = (ReloadResult.run_id == run_id) & (ReloadResult.outcome == OK)
        kept = _slowest(run_id).with_only_columns(ReloadResult.account_id).subquery()
        session.execute(
            delete(ReloadResult).where(is_fine, ReloadResult.account_id.not_in(select(kept))),
            execution_options={"synchronize_session": False},
        )
    return True


# --- queries ------------------------------------------------------------------------------


def find(run_id: str) -> ReloadRun | None:
    """The run's current row, detached from its session, or None."""
    with datastore.session(read_only=True) as session:
        return session.get(ReloadRun, run_id)


def recent() -> list[ReloadRun]:
    """The most recent runs, newest first."""
    newest = select(ReloadRun).order_by(ReloadRun.created_at.desc(), ReloadRun.id).limit(RUNS_LISTED)
    with datastore.session(read_only=True) as session:
        return list(session.scalars(newest))


def unfinished() -> list[ReloadRun]:
    """The runs whose end is not recorded yet, newest first."""
    newest = select(ReloadRun).where(ReloadRun.finished_at.is_(None)).order_by(ReloadRun.created_at.desc())
    with datastore.session(read_only=True) as session:
        return list(session.scalars(newest))


def _in_place() -> ReloadRun | None:
    """The open run, for which other runs have to wait."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(ReloadRun).where(ReloadRun.place.is_not(None)))


def slowest(run_id: str) -> list[ReloadResult]:
    """The results with the longest last fetch, longest first."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(_slowest(run_id)))


def _slowest(run_id: str) -> Select[ReloadResult]:
    duration = ReloadResult.duration_ms
    of_run = select(ReloadResult).where(ReloadResult.run_id == run_id, duration.is_not(None))
    return of_run.order_by(duration.desc()).limit(SLOWEST)


@dataclass(frozen=True)
class FailingPage:
    """A page of accounts whose last fetch did not return a status, in the order of their ids.

    Attributes:
        results: the results on this page.
        after: the key after which the next page begins, or None if this page is the last.
    """

    results: list[ReloadResult]
    after: str | None = None


def failing(run_id: str, after_id: int = 0, limit: int = FAILING_LISTED) -> FailingPage:
    """A run's failing accounts after the account with the id ``after_id``, up to the limit."""
    of_run = select(ReloadResult).where(ReloadResult.run_id == run_id, ReloadResult.outcome == FAILING)
    page = of_run.where(ReloadResult.account_id > after_id).order_by(ReloadResult.account_id)
    with datastore.session(read_only=True) as session:
        found = list(session.scalars(page.limit(limit + 1)))
    shown = found[:limit]
    return FailingPage(shown, shown[-1].account_key if len(found) > limit else None)


def count_failing(run_id: str) -> int:
    """How many of a run's accounts have failed so far, whether or not they are still retried."""
    query = select(func.count()).where(ReloadResult.run_id == run_id, ReloadResult.outcome == FAILING)
    with datastore.session(read_only=True) as session:
        return session.scalar(query.select_from(ReloadResult)) or 0


def id_of(key: str) -> int | None:
    """The id of the account with this key, or None if there is no such account."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(Account.id).where(Account.key == key))
