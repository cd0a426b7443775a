"""The counting program's runs in the datastore: how they start, continue and end.

Each step is one transaction that first locks the run's row. It is idempotent, because tasks may run twice.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lastacross import datastore
from lastacross.clock import SYSTEM
from programs.count.models import LINE_LENGTH, CountInterval, CountLine, CountRun
from programs.shared import starting

LINES_KEPT = 500
"""How many lines of the backend's log are kept per run: the newest ones."""

RUNS_LISTED = 20


@dataclass(frozen=True)
class Row:
    """A run in the list of recent runs, with the number of its finished intervals."""

    run: CountRun
    intervals: int
    counted: int

    @property
    def state(self) -> str:
        """The state according to the datastore."""
        if self.run.finished_at is None:
            return "ready" if self.run.handed_out_at is None else "running"
        if self.counted == self.intervals:
            return "done"
        return "cancelled" if self.run.is_cancelled else "failed"


@dataclass(frozen=True)
class Sums:
    """How many intervals and numbers a run has, and how many of each are done."""

    intervals: int
    done: int
    numbers: int
    counted: int


def begin(run: CountRun, intervals: Sequence[tuple[int, int]], *, is_limited: bool = False) -> bool:
    """Store a new run, once, although both its page and its master task call this.

    The new run replaces an older one with this name, because the name has become free again.

    Args:
        run: the new run.
        intervals: the run's intervals.
        is_limited: whether to apply the limit on open runs (starting.py). A master task was already admitted.

    Returns:
        False if a newer run has the name, because this run's task was very late.

    Raises:
        TooManyError: too many runs are open.
    """
    try:
        return _begin(run, intervals, is_limited)
    except IntegrityError:
        # The page and the master task stored it concurrently, and the other one was first.
        return _begin(run, intervals, is_limited)


def _begin(run: CountRun, intervals: Sequence[tuple[int, int]], is_limited: bool) -> bool:
    with datastore.transaction() as transaction:
        session = transaction.session
        named = session.scalar(select(CountRun).where(CountRun.name == run.name).with_for_update())
        if named is not None:
            if named.id == run.id or named.created_at > run.created_at:
                return named.id == run.id
            for table in (CountLine, CountInterval):
                session.execute(delete(table).where(table.run_id == named.id))
            session.execute(delete(CountRun).where(CountRun.id == named.id))
        if is_limited:
            starting.require_room(session, CountRun)
        session.add(run)
        session.flush()
        session.add_all(
            CountInterval(run_id=run.id, place=place, first=first, last=last)
            for place, (first, last) in enumerate(intervals)
        )
    return True


def find(name: str) -> CountRun | None:
    """The newest run with this name, detached from its session, or None."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(CountRun).where(CountRun.name == name))


def recent() -> list[Row]:
    """The most recent runs, newest first."""
    newest = select(CountRun).order_by(CountRun.created_at.desc()).limit(RUNS_LISTED)
    with datastore.session(read_only=True) as session:
        found = session.scalars(newest).all()
        # Query only these runs' intervals, because a whole month has too many.
        counts = (
            select(CountInterval.run_id, func.count(), func.count(CountInterval.numbers))
            .where(CountInterval.run_id.in_([run.id for run in found]))
            .group_by(CountInterval.run_id)
        )
        numbers = {run_id: (intervals, counted) for run_id, intervals, counted in session.execute(counts)}
    return [Row(run, *numbers[run.id]) for run in found if run.id in numbers]


def sums_of(run_id: str) -> Sums:
    """The totals of a run's intervals."""
    query = select(
        func.count(),
        func.count(CountInterval.numbers),
        func.sum(CountInterval.last - CountInterval.first + 1),
        func.sum(CountInterval.counted),
    ).where(CountInterval.run_id == run_id)
    with datastore.session(read_only=True) as session:
        intervals, done, numbers, counted = session.execute(query).one()
    return Sums(intervals, done, int(numbers or 0), int(counted or 0))


def intervals_of(run_id: str, after: int = 0) -> list[CountInterval]:
    """The intervals that changed after the change ``after`` (0 for all), in their original order."""
    query = select(CountInterval).where(CountInterval.run_id == run_id).order_by(CountInterval.place)
    if after:
        query = query.where(CountInterval.changed > after)
    with datastore.session(read_only=True) as session:
        return list(session.scalars(query))


def lines_of(run: CountRun, after: int = 0) -> list[CountLine]:
    """The log lines after the change ``after`` and up to the last change that ``run`` has seen, in order."""
    number = CountLine.number
    query = select(CountLine).where(CountLine.run_id == run.id, number > after, number <= run.changes)
    with datastore.session(read_only=True) as session:
        return list(session.scalars(query.order_by(CountLine.number)))


# --- changes to one interval --------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """The interval that an instance is going to count, and how many of its numbers are already counted."""

    counted: int
    change: int


def claim(run_id: str, place: int, instance: str, *, retry_count: int) -> Claim | None:
    """Record that this instance is counting this interval from now on.

    Returns:
        None if there is nothing to count, because the interval is done, or its run is over or deleted.
    """
    with datastore.transaction() as transaction:
        session = transaction.session
        change = _change(session, run_id)
        interval = session.get(CountInterval, (run_id, place))
        if change is None or interval is None or interval.numbers is not None:
            return None
        before = interval.instance
        _set(session, interval, change, {"instance": instance})
        span = f"{interval.first}-{interval.last}"
        text = f"counts {span}"
        if interval.counted:
            text = f"continues {span} from {interval.first + interval.counted}"
        if retry_count:
            text += f", retry {retry_count}"
            if before is not None:
                text += f"; {before} did not finish it"
        _write(session, run_id, change, instance, text)
        return Claim(interval.counted, change)


def keep(run_id: str, place: int, counted: int) -> int | None:
    """Save an interval's progress, unless more of it has already been saved.

    Returns:
        The number of the change, or None if the remaining numbers are no longer needed.
    """
    with datastore.transaction() as transaction:
        session = transaction.session
        change = _change(session, run_id)
        interval = session.get(CountInterval, (run_id, place))
        if change is None or interval is None or interval.numbers is not None:
            return None
        _set(session, interval, change, {"counted": max(counted, interval.counted)})
        return change


def release(run_id: str, place: int, instance: str, counted: int) -> int | None:
    """Save an interval's progress, and record that this instance no longer counts it.

    Returns:
        The number of the change, or None if another instance has the interval or it is no longer needed.
    """
    with datastore.transaction() as transaction:
        session = transaction.session
        change = _change(session, run_id)
        interval = session.get(CountInterval, (run_id, place))
        if change is None or interval is None or interval.instance != instance:
            return None
        kept = max(counted, interval.counted)
        _set(session, interval, change, {"counted": kept, "instance": None})
        text = (
            f"shuts down and gives back {interval.first}-{interval.last}, {kept} of {interval.total} counted"
        )
        _write(session, run_id, change, instance, text)
        return change


def finish_interval(run_id: str, place: int, numbers: Sequence[int], instance: str) -> int | None:
    """Save an interval's result, unless it already has one.

    Returns:
        The number of the change, or None if there already is a result, or the run is over or deleted.
    """
    with datastore.transaction() as transaction:
        session = transaction.session
        change = _change(session, run_id)
        interval = session.get(CountInterval, (run_id, place))
        if change is None or interval is None or interval.numbers is not None:
            return None
        result = {"counted": len(numbers), "instance": None, "numbers": json.dumps(list(numbers))}
        _set(session, interval, change, result)
        _write(session, run_id, change, instance, f"{interval.first}-{interval.last}: {shortened(numbers)}")
        return change


def shortened(numbers: Sequence[int]) -> str:
    """The numbers as text (``1, 2, 3, 4, 5``); a long list shows only its first and last numbers."""
    shown = [str(number) for number in numbers]
    if len(shown) > 12:
        shown = [*shown[:8], "…", *shown[-2:]]
    return ", ".join(shown)


# --- changes to a run ---------------------------------------------------------------------


def note(run_id: str, instance: str, text: str, **values: object) -> int | None:
    """Add a line to the run's log, and set the columns in ``values``.

    Returns:
        The number of the change, or None if the run was cancelled or no longer exists.
    """
    with datastore.transaction() as transaction:
        change = _change(transaction.session, run_id, **values)
        if change is not None:
            _write(transaction.session, run_id, change, instance, text)
        return change


def end(run_id: str, instance: str, *, is_cancelled: bool) -> int | None:
    """Record the end of a run, unless it is already recorded.

    Returns:
        The number of the change, or None if its end is already recorded or there is no such run.
    """
    with datastore.transaction() as transaction:
        session = transaction.session
        values = {"finished_at": SYSTEM.now(), "is_cancelled": is_cancelled}
        change = _change(session, run_id, CountRun.finished_at.is_(None), **values)
        if change is None:
            return None
        of_run = CountInterval.run_id == run_id
        total, counted = session.execute(
            select(func.count(), func.count(CountInterval.numbers)).where(of_run)
        ).one()
        word = "cancelled with" if is_cancelled else "run over:"
        _write(session, run_id, change, instance, f"{word} {counted} of {total} intervals counted")
        return change


def _change(session: Session, run_id: str, *conditions: ColumnElement[bool], **values: object) -> int | None:
    """Lock a run that was not cancelled, and assign the next change number.

    A failed run also accepts changes, because its dead letters may be retried.
    """
    numbered: Mapping[str, Any] = {"changes": CountRun.changes + 1, **values}
    changed = update(CountRun).where(CountRun.id == run_id, CountRun.is_cancelled.is_(False), *conditions)
    return session.scalar(changed.values(**numbered).returning(CountRun.changes))


def _set(session: Session, interval: CountInterval, change: int, values: Mapping[str, object]) -> None:
    of_it = (CountInterval.run_id == interval.run_id) & (CountInterval.place == interval.place)
    session.execute(update(CountInterval).where(of_it).values(changed=change, **values))


def _write(session: Session, run_id: str, number: int, instance: str, text: str) -> None:
    if len(text) > LINE_LENGTH:
        text = text[: LINE_LENGTH - 1] + "…"
    session.add(CountLine(run_id=run_id, number=number, at=SYSTEM.now(), instance=instance, text=text))
    session.flush()
    of_run = CountLine.run_id == run_id
    newest = select(CountLine.number).where(of_run).order_by(CountLine.number.desc())
    too_old = newest.offset(LINES_KEPT).limit(1).scalar_subquery()
    session.execute(
        delete(CountLine).where(of_run, CountLine.number <= too_old),
        execution_options={"synchronize_session": False},
    )
