"""The queries for the error collector's pages."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import load_only

from lastacross import datastore
from programs.errors.models import ErrorGroup, ErrorHour, ErrorReport

ON_A_PAGE = 25
ERRORS_LISTED = 50
ERRORS_READ_AT_ONCE = 5

SORTS: Mapping[str, Any] = {
    "last": ErrorGroup.last_at.desc(),
    "first": ErrorGroup.first_at.desc(),
    "count": ErrorGroup.count.desc(),
    "priority": ErrorGroup.priority,
}


@dataclass(frozen=True)
class GroupQuery:
    """A selection of groups. None and "" do not filter; the first ``page`` is 1."""

    account: str = ""
    domain: str = ""
    status: int | None = None
    sort: str = "last"
    page: int = 1

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as SQL conditions."""
        found = []
        if self.account:
            found.append(ErrorGroup.account == self.account)
        if self.domain:
            found.append(ErrorGroup.domain == self.domain)
        if self.status is not None:
            found.append(ErrorGroup.status == self.status)
        return found


def groups(wanted: GroupQuery) -> tuple[list[ErrorGroup], int]:
    """The groups on one page, and the total number of selected groups."""
    conditions = wanted.conditions()
    query = select(ErrorGroup).where(*conditions).order_by(SORTS[wanted.sort], ErrorGroup.id)
    some = query.offset((wanted.page - 1) * ON_A_PAGE).limit(ON_A_PAGE)
    with datastore.session(read_only=True) as session:
        count = session.scalar(select(func.count()).select_from(ErrorGroup).where(*conditions))
        return list(session.scalars(some)), count or 0


def group(group_id: str) -> ErrorGroup | None:
    """The group with this id, detached from its session, or None."""
    with datastore.session(read_only=True) as session:
        return session.get(ErrorGroup, group_id)


def report(error_id: str) -> ErrorReport | None:
    """The error with this id, detached from its session, or None."""
    with datastore.session(read_only=True) as session:
        return session.get(ErrorReport, error_id)


def _newest_of(group_id: str) -> Select[ErrorReport]:
    query = select(ErrorReport).where(ErrorReport.group_id == group_id)
    return query.order_by(ErrorReport.received_at.desc()).limit(ERRORS_LISTED)


def lines_of(group_id: str) -> list[ErrorReport]:
    """A group's newest errors, newest first, with the columns that the group's page shows."""
    shown = load_only(
        ErrorReport.received_at, ErrorReport.msg, ErrorReport.url, ErrorReport.browser, ErrorReport.system
    )
    with datastore.session(read_only=True) as session:
        return list(session.scalars(_newest_of(group_id).options(shown)))


def errors_of(group_id: str) -> Iterator[ErrorReport]:
    """A group's newest errors, newest first, read in small batches, because each can take up 140 kB."""
    few = {"yield_per": ERRORS_READ_AT_ONCE}
    with datastore.session(read_only=True) as session:
        yield from session.scalars(_newest_of(group_id), execution_options=few)


def hours(since: int, conditions: list[ColumnElement[bool]]) -> dict[int, int]:
    """A mapping from each hour to the errors in the matching groups, without empty hours."""
    query = select(ErrorHour.hour, func.sum(ErrorHour.count)).where(ErrorHour.hour >= since)
    if conditions:
        query = query.join(ErrorGroup, ErrorGroup.id == ErrorHour.group_id).where(*conditions)
    with datastore.session(read_only=True) as session:
        return {hour: int(count) for hour, count in session.execute(query.group_by(ErrorHour.hour))}


def error_numbers() -> dict[str, int]:
    """The total number of errors that were received, for the front page; errors deleted since count, too."""
    with datastore.session(read_only=True) as session:
        return {"errors_collected": session.scalar(select(func.sum(ErrorGroup.count))) or 0}


def numbers() -> dict[str, int]:
    """How many errors are kept, how many groups there are, and how many errors are waiting for their task."""
    # Read only the indexed column, because the rows' other columns can hold 140 kB of posted text.
    waiting = select(func.count()).select_from(ErrorReport).where(ErrorReport.group_id.is_(None))
    with datastore.session(read_only=True) as session:
        return {
            "errors": session.scalar(select(func.count()).select_from(ErrorReport)) or 0,
            "groups": session.scalar(select(func.count()).select_from(ErrorGroup)) or 0,
            "waiting": session.scalar(waiting) or 0,
        }
