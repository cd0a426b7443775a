"""The batch reload's runs in the datastore: how they begin, go on and end.

Every step is one transaction, and is idempotent: tasks run twice.
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
"""Accounts of a run that are in memory at once while it is loaded."""

SLOWEST = 10
FAILING_LISTED = 50
MOST_FAILING_LISTED = 1000
"""As many as a program may ask for at once."""
RUNS_LISTED = 50


class NothingToDoError(Exception):
    """Raised when a run would have no account."""


def new_id() -> str:
    """The id of a run that somebody starts: the instant, and what tells it from another's."""
    return f"{stamp(clock.SYSTEM.now())}-{secrets.token_hex(4)}"


def stamp(at: float) -> str:
    """``20261121T031407Z``, as in the names of cron's tasks."""
    return clock.utc(at).strftime("%Y%m%dT%H%M%SZ")


def batch_id(run_id: str) -> str:
    """The batch of a run's tasks."""
    return f"reload-{run_id}"


def run_of_batch(name: str | None) -> str | None:
    """The run whose tasks this batch has; None if it is another program's."""
    prefix = batch_id("")
    return name.removeprefix(prefix) if name is not None and name.startswith(prefix) else None


# --- beginning ----------------------------------------------------------------------------


def begin(run_id: str, started_by: str) -> ReloadRun:
    """Write a run down with the accounts that are active now, and add the task that loads it; a second time
    answers the one that is there.

    That fixes the run's accounts and their order, whoever is added or deactivated while they are loaded: a
    member of a batch is known by its position. One statement copies them, so no memory is needed here.

    Args:
        run_id: what makes the run one, however often it is begun.
        started_by: ``cron`` or ``hand``.

    Returns:
        The run; or another one that somebody has begun at this moment: one at a time goes on.

    Raises:
        NothingToDoError: no account is active, and so there is no run.
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
        # Two at once, of the same run or of two, and the other was first.
        known = find(run_id) or _in_place()
        if known is None:
            raise
        return known


def retry(run_id: str) -> ReloadRun:
    """Begin a run over the failed accounts of one that is over, once: a second click leads to the first's.

    Accounts that were deactivated since are left out. What the run itself counts stays as it is.

    Returns:
        The run that retries it; or another one that somebody has begun at this moment: one at a time goes on.

    Raises:
        NothingToDoError: none of them is active.
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
    """Write a run and its accounts: ``accounts`` selects ids and keys.

    Raises:
        NothingToDoError: there is none.
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
    """Add the task that loads a run, with the transaction under way. It does not give up."""
    taskqueue.add(url=FILL_URL, params={"run": run_id}, retry_options=patience(), transactional=True)


def patience() -> taskqueue.TaskRetryOptions:
    """Of a task without which a run would never end: no limit, and at most a minute between attempts."""
    return taskqueue.TaskRetryOptions(min_backoff_seconds=0.5, max_backoff_seconds=60)


# --- loading ------------------------------------------------------------------------------


def members(run_id: str) -> Iterator[str]:
    """The keys of a run's accounts in the order of their ids, a page at a time."""
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
    """Its batch is there."""
    _note(run_id, ReloadRun.opened_at)


def note_loaded(run_id: str) -> None:
    """All its tasks are on their queue."""
    _note(run_id, ReloadRun.loaded_at)


def _note(run_id: str, column: InstrumentedAttribute[float | None]) -> None:
    """Keep when it was so first."""
    first = update(ReloadRun).where(ReloadRun.id == run_id, column.is_(None))
    with datastore.session() as session:
        session.execute(first.values({column: clock.SYSTEM.now()}))


# --- going on and ending ------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a fetch brought.

    Attributes:
        is_ok: whether it brought a status.
        http_status: None where no answer came.
        text: the status; or what came instead of it, or why nothing came.
        began_at: seconds since the epoch.
        duration_ms: from there to its end.
    """

    is_ok: bool
    http_status: int | None
    text: str
    began_at: float
    duration_ms: int

    @property
    def kept(self) -> str:
        """As much of the text as has room, without what a database refuses."""
        plain = self.text.replace("\0", "\ufffd").strip()
        return plain if len(plain) <= TEXT_LENGTH else plain[: TEXT_LENGTH - 1] + "…"

    @property
    def problem(self) -> str:
        """Why there is no status."""
        return self.kept if self.http_status is None else f"{self.http_status}: {self.kept}"[:TEXT_LENGTH]


def record(run_id: str | None, key: str, answer: Answer, attempt: int) -> int | None:
    """Write an answer to its account and into its run, both or neither.

    An account that has its status in this run counts, once; whatever comes later changes nothing in the run.
    Of two runs the newer fetch stays on the account.

    Args:
        run_id: None for a fetch outside of any run.
        key: of the account.
        answer: the fetch's.
        attempt: 1 for the first.

    Returns:
        The number of the run's change; None if nothing has changed there.
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
    """Whether it is news: the account has no status in this run yet."""
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
    """Keep how a run ended, and of its results those that failed and the slowest.

    Args:
        run_id: the run.
        failed: how many of its tasks are dead letters. One may have written its status all the same.
        is_lost: nothing was going to end it.

    Returns:
        False if its end is known already, or there is no such run.
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
        # Answers lock a result and then the run, this the run and then results: but only those that are well,
        # which no answer locks again, so that nobody waits for the other.
        is_fine = (ReloadResult.run_id == run_id) & (ReloadResult.outcome == OK)
        kept = _slowest(run_id).with_only_columns(ReloadResult.account_id).subquery()
        session.execute(
            delete(ReloadResult).where(is_fine, ReloadResult.account_id.not_in(select(kept))),
            execution_options={"synchronize_session": False},
        )
    return True


# --- looking ------------------------------------------------------------------------------


def find(run_id: str) -> ReloadRun | None:
    """The run as it is now, detached, or None."""
    with datastore.session(read_only=True) as session:
        return session.get(ReloadRun, run_id)


def recent() -> list[ReloadRun]:
    """The newest runs, newest first."""
    newest = select(ReloadRun).order_by(ReloadRun.created_at.desc(), ReloadRun.id).limit(RUNS_LISTED)
    with datastore.session(read_only=True) as session:
        return list(session.scalars(newest))


def unfinished() -> list[ReloadRun]:
    """The runs whose end is not known, the newest first."""
    newest = select(ReloadRun).where(ReloadRun.finished_at.is_(None)).order_by(ReloadRun.created_at.desc())
    with datastore.session(read_only=True) as session:
        return list(session.scalars(newest))


def _in_place() -> ReloadRun | None:
    """The run that others have to wait for."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(ReloadRun).where(ReloadRun.place.is_not(None)))


def slowest(run_id: str) -> list[ReloadResult]:
    """The accounts whose last fetch took longest, the longest first."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(_slowest(run_id)))


def _slowest(run_id: str) -> Select[ReloadResult]:
    duration = ReloadResult.duration_ms
    of_run = select(ReloadResult).where(ReloadResult.run_id == run_id, duration.is_not(None))
    return of_run.order_by(duration.desc()).limit(SLOWEST)


@dataclass(frozen=True)
class FailingPage:
    """Accounts whose last fetch brought no status, in the order of their ids.

    Attributes:
        results: of this page.
        after: the key that the next page comes after; None if there is none.
    """

    results: list[ReloadResult]
    after: str | None = None


def failing(run_id: str, after_id: int = 0, limit: int = FAILING_LISTED) -> FailingPage:
    """So many at most of a run, after the account of this id."""
    of_run = select(ReloadResult).where(ReloadResult.run_id == run_id, ReloadResult.outcome == FAILING)
    page = of_run.where(ReloadResult.account_id > after_id).order_by(ReloadResult.account_id)
    with datastore.session(read_only=True) as session:
        found = list(session.scalars(page.limit(limit + 1)))
    shown = found[:limit]
    return FailingPage(shown, shown[-1].account_key if len(found) > limit else None)


def id_of(key: str) -> int | None:
    """Of the account of this key, None if there is none."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(Account.id).where(Account.key == key))
