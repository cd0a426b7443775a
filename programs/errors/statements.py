"""The SQL statements that write errors, built once and for the tables rather than the models.

On SQLite, one writer makes all others wait. A statement would be built after the write has begun, so building
it each time would lengthen that wait.
"""

from typing import Any, cast

from sqlalchemy import ColumnElement, Table, bindparam, case, or_, update
from sqlalchemy.dialects import postgresql, sqlite

from programs.errors.models import ErrorGroup, ErrorHour, ErrorRefusal, ErrorReport, ErrorUsage

_REPORTS = cast(Table, ErrorReport.__table__)
_GROUPS = cast(Table, ErrorGroup.__table__)
_HOURS = cast(Table, ErrorHour.__table__)
_USAGE = cast(Table, ErrorUsage.__table__)
_REFUSALS = cast(Table, ErrorRefusal.__table__)


def _smaller(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((column < value, column), else_=value)


def _larger(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((column > value, column), else_=value)


def _take_in(dialect: Any) -> Any:
    return dialect.insert(_REPORTS).on_conflict_do_nothing().returning(_REPORTS.c.id)


def _count_in_group(dialect: Any) -> Any:
    """Count an error in its group. Tasks may run in any order, and priority 1 is the highest."""
    insert = dialect.insert(_GROUPS)
    new = insert.excluded
    counted = {
        "count": _GROUPS.c.count + 1,
        "undigested": _GROUPS.c.undigested + 1,
        "first_at": _smaller(_GROUPS.c.first_at, new.first_at),
        "last_at": _larger(_GROUPS.c.last_at, new.last_at),
        "priority": _smaller(_GROUPS.c.priority, new.priority),
    }
    upsert = insert.on_conflict_do_update(index_elements=["account", "fingerprint"], set_=counted)
    return upsert.returning(_GROUPS.c.id, _GROUPS.c.count)


def _count_in_hour(dialect: Any) -> Any:
    one_more = {"count": _HOURS.c.count + 1}
    return dialect.insert(_HOURS).on_conflict_do_update(index_elements=["group_id", "hour"], set_=one_more)


def _count_for_account(dialect: Any) -> Any:
    insert = dialect.insert(_USAGE)
    new = insert.excluded
    counted = {
        "reports": case((_USAGE.c.hour == new.hour, _USAGE.c.reports + 1), else_=1),
        "hour": new.hour,
    }
    is_within = or_(_USAGE.c.hour != new.hour, _USAGE.c.reports < bindparam("max_reports"))
    upsert = insert.on_conflict_do_update(index_elements=["account"], set_=counted, where=is_within)
    return upsert.returning(_USAGE.c.reports)


def _count_bytes(dialect: Any) -> Any:
    insert = dialect.insert(_USAGE)
    total = _USAGE.c.bytes + insert.excluded.bytes
    is_within = total <= bindparam("max_bytes")
    upsert = insert.on_conflict_do_update(index_elements=["account"], set_={"bytes": total}, where=is_within)
    return upsert.returning(_USAGE.c.bytes)


def _count_refusals(dialect: Any) -> Any:
    insert = dialect.insert(_REFUSALS)
    more = {"count": _REFUSALS.c.count + insert.excluded.count}
    return insert.on_conflict_do_update(index_elements=["hour", "reason", "account"], set_=more)


_DIALECTS: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql}

TAKE_IN = {name: _take_in(dialect) for name, dialect in _DIALECTS.items()}
"""By dialect: insert an error; returns its id, or nothing if its account has one with this uid."""

COUNT_IN_GROUP = {name: _count_in_group(dialect) for name, dialect in _DIALECTS.items()}
"""By dialect: create a group for one error, or count one more in it; returns its id and its count."""

COUNT_IN_HOUR = {name: _count_in_hour(dialect) for name, dialect in _DIALECTS.items()}
"""By dialect: the same for a group's hour; returns nothing."""

COUNT_FOR_ACCOUNT = {name: _count_for_account(dialect) for name, dialect in _DIALECTS.items()}
"""By dialect: count a report in an account's hour; returns nothing if it already has ``max_reports``."""

COUNT_BYTES = {name: _count_bytes(dialect) for name, dialect in _DIALECTS.items()}
"""By dialect: count a report's bytes; returns nothing if the total would exceed ``max_bytes``."""

COUNT_REFUSALS = {name: _count_refusals(dialect) for name, dialect in _DIALECTS.items()}
"""By dialect: count refused posts."""

CLAIM = (
    update(_REPORTS)
    .where(_REPORTS.c.id == bindparam("error"), _REPORTS.c.grouped_at.is_(None))
    .values(
        grouped_at=bindparam("at"),
        browser=bindparam("browser"),
        system=bindparam("system"),
        device=bindparam("device"),
    )
    .returning(_REPORTS.c.id)
)
"""Returns the error's id to the first caller that groups it, and nothing to the others."""

PUT_INTO_GROUP = (
    update(_REPORTS).where(_REPORTS.c.id == bindparam("error")).values(group_id=bindparam("group"))
)
"""Set an error's group."""
