"""Limits how many runs visitors may start, how often and how large, and decides who may cancel a run."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lastacross import datastore, start_limits, webapp
from lastacross.clock import SYSTEM
from lastacross.errors import StartLimitError, StartRefusedError
from programs.shared import forms
from programs.shared.runs import Run

MAX_WORK_SECONDS = 120
"""The maximum work of one quilt or count: its squares, or numbers, times the delay of each."""

MIN_SQUARE_MS = 10
MIN_NUMBER_MS = 1
"""The work that a square or a number counts for even without a delay, because each is stored: a square takes
128 bytes and a number 12 (measured), so a second of work stores at most 12 kB. The largest quilt and the
largest count that the forms accept come to 100 s."""

MAX_UNDER_WAY = 10
"""The maximum number of open quilts, and of open counts. Each run waits for the others' work."""

UNDER_WAY_SECONDS = 3600.0
"""A run's work is bounded, so one that has not ended by then has lost its tasks, or its queue is paused.
It no longer counts as open; otherwise a few such runs would prevent everyone from starting a run."""

RETRY_SECONDS = 10
"""Roughly how long the workers of ``lastacross dev`` take for the largest quilt."""

START_LIMIT = "10/minute;180/day"
"""The number of quilts, counts and reloads that one network may start; each kind has its own limit."""

WORK_UNIT_SECONDS = 10
"""The unit in which work is counted. A run's work is rounded up to it."""

MAX_MINUTE_SECONDS = 600
"""The work that one network may start in a minute: five of the largest quilts. That leaves half of the open
runs to others, and 360 s of the 960 s that the workers of ``lastacross dev`` do in a minute."""

MAX_DAY_SECONDS = 1800
"""The work that one network may start in a day; it limits how fast the datastore fills (see pruning.py)."""

_WORK_LIMIT = f"{MAX_MINUTE_SECONDS // WORK_UNIT_SECONDS}/minute;{MAX_DAY_SECONDS // WORK_UNIT_SECONDS}/day"

_LOCK = 1_301_985
"""The key of PostgreSQL's advisory lock for starting a run: an arbitrary number, but always the same one."""


class TooManyError(Exception):
    """Raised when too many runs are open."""


def check_work(pieces: int, delay_ms: int, *, run: str, piece: str) -> None:
    """Refuse a run that would take too much work.

    Args:
        pieces: the number of pieces of work, such as squares.
        delay_ms: the delay for each piece, in milliseconds.
        run: the kind of run, for the message.
        piece: the word for the pieces, in the message.

    Raises:
        ValueError: the run would take too much work; the message says which delay is allowed.
    """
    if pieces * delay_ms > MAX_WORK_SECONDS * 1000:
        most = MAX_WORK_SECONDS * 1000 // pieces
        raise ValueError(
            f"must be at most {most} ms for {pieces:,} {piece}: a {run}'s work, its {piece} times the "
            f"delay, is limited to {MAX_WORK_SECONDS} s, and this would be {pieces * delay_ms / 1000:,.0f} s."
        )


def count_under_way(session: Session, table: type[Run]) -> int:
    """How many runs were started within the last hour and have not ended."""
    is_under_way = table.created_at > SYSTEM.now() - UNDER_WAY_SECONDS, table.finished_at.is_(None)
    return session.scalar(select(func.count()).select_from(table).where(*is_under_way)) or 0


def require_room(session: Session, table: type[Run]) -> None:
    """Let a transaction start one more run, and make concurrent transactions wait until it commits.

    Raises:
        TooManyError: too many runs are open.
    """
    if session.get_bind().dialect.name == "postgresql":
        # Not needed on SQLite, which has only one writer anyway.
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    if count_under_way(session, table) >= MAX_UNDER_WAY:
        raise TooManyError


def require_room_now(table: type[Run]) -> None:
    """Check the limit before a start or a name is used up. The transaction checks it once more.

    Raises:
        TooManyError: too many runs are open.
    """
    with datastore.session(read_only=True) as session:
        if count_under_way(session, table) >= MAX_UNDER_WAY:
            raise TooManyError


def admit(handler: webapp.RequestHandler, runs: str, *, is_counted: bool = True, work_ms: int = 0) -> None:
    """Check that the client may start a run, and count the start if the run starts now.

    Args:
        handler: the request's handler.
        runs: ``quilts``, ``counts`` or ``reloads``.
        is_counted: whether the run starts now. Callers first check without counting, so that a refused
            request does not use up a start.
        work_ms: how long the run's work will take in milliseconds, or 0 if its work is not limited.

    Raises:
        StartRefusedError: the client has reached its limit of starts or of refused requests.
    """
    if not is_counted:
        _check_refusals(handler, runs, is_counted=False)
    _check_starts(handler, runs, is_counted=False)
    if work_ms:
        _check_work(handler, runs, work_ms, is_counted=is_counted)
    if is_counted:
        _check_starts(handler, runs, is_counted=True)


def _check_starts(handler: webapp.RequestHandler, runs: str, *, is_counted: bool) -> None:
    environ, is_exempt = handler.request.environ, handler.is_exempt_from_limits()
    seconds = start_limits.check(runs, START_LIMIT, environ, is_exempt=is_exempt, is_counted=is_counted)
    if seconds is not None:
        words = f"one network may start {runs} {start_limits.in_words(START_LIMIT)}"
        raise StartLimitError(429, f"Nothing was started: {words}.", seconds)


def _check_work(handler: webapp.RequestHandler, runs: str, work_ms: int, *, is_counted: bool) -> None:
    cost = -(-work_ms // (WORK_UNIT_SECONDS * 1000))
    environ, is_exempt = handler.request.environ, handler.is_exempt_from_limits()
    seconds = start_limits.check(
        f"{runs}-work",
        _WORK_LIMIT,
        environ,
        is_exempt=is_exempt,
        is_counted=is_counted,
        cost=cost,
        is_share=True,
    )
    if seconds is not None:
        words = (
            f"one network may start {runs} with {MAX_MINUTE_SECONDS} s of work per minute and "
            f"{MAX_DAY_SECONDS:,} s per day, and each one counts as at least {WORK_UNIT_SECONDS} s"
        )
        raise StartRefusedError(429, f"Nothing was started: {words}.", seconds)


def is_limited(handler: webapp.RequestHandler, runs: str) -> bool:
    """Count a start, or respond with 429 and return True if the client has reached its limit."""
    try:
        admit(handler, runs)
    except StartRefusedError as refused:
        handler.try_later(refused.status, str(refused), refused.seconds)
        return True
    return False


@contextlib.contextmanager
def answering(handler: forms.Handler, runs: str) -> Iterator[None]:
    """Respond to a request that the block refuses. Invalid input counts as a refusal, not as a start.

    Args:
        handler: the request's handler.
        runs: the kind of runs, as in ``admit``.
    """
    try:
        try:
            yield
        except StartLimitError:
            raise
        except (forms.FormError, webapp.BadInputError, TooManyError, StartRefusedError):
            _check_refusals(handler, runs, is_counted=True)
            raise
    except forms.FormError as error:
        handler.refuse(error)
    except TooManyError:
        many = f"{MAX_UNDER_WAY} {runs} are running, which is the limit"
        handler.try_later(503, f"Nothing was started: {many}.", RETRY_SECONDS)
    except StartRefusedError as refused:
        handler.try_later(refused.status, str(refused), refused.seconds)


def _check_refusals(handler: webapp.RequestHandler, runs: str, *, is_counted: bool) -> None:
    environ, is_exempt = handler.request.environ, handler.is_exempt_from_limits()
    seconds = start_limits.check_refusals(
        runs, START_LIMIT, environ, is_exempt=is_exempt, is_counted=is_counted
    )
    if seconds is not None:
        message = f"Nothing was started: too many requests from your network to start {runs} were refused."
        raise StartLimitError(429, message, seconds)


def answer_started(
    handler: webapp.RequestHandler, name: str, location: str, operation: Callable[[], Mapping[str, Any]]
) -> None:
    """Respond that a run has started, and let this browser cancel it.

    Args:
        handler: the request's handler.
        name: the name that ``may_cancel`` takes.
        location: the path of the run's page.
        operation: a callable that returns the JSON for programs.
    """
    webapp.remember_started(handler.request, handler.response, name)
    if not handler.wants_json():
        handler.see_other(location)
        return
    handler.response.headers["Location"] = location
    handler.response.headers["Retry-After"] = "1"
    handler.render_json(operation(), 202)


def may_cancel(handler: webapp.RequestHandler, name: str) -> bool:
    """Whether this browser started the run with this name, or the visitor is the administrator.

    Args:
        handler: the request's handler.
        name: the name that was passed to ``answer_started``.
    """
    return webapp.is_started_by(handler.request, name) or handler.is_exempt_from_limits()


def require_may_cancel(handler: webapp.RequestHandler, name: str) -> None:
    """Respond with 403 if the visitor may not cancel the run."""
    if not may_cancel(handler, name):
        handler.abort(403, detail="Only the administrator or the browser that started this may cancel it.")
