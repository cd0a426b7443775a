"""What is done to errors in the datastore: each step is one transaction, and done twice is done once."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, event, func, select, update

import error_fields
import error_queries
import error_steps
import notifying
from error_models import HOUR, ErrorGroup, ErrorHour, ErrorNotification, ErrorReport
from lastacross import datastore
from lastacross.clock import SYSTEM
from tests.support.processes import ROOT
from tests.support.root_application import configured

GIVEN = {"account": "shop", "url": "https://shop.example/a", "status": 500, "type": "KeyError", "msg": "no 7"}
DAY = 86_400.0


@pytest.fixture
def tables(new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[None]:
    """The tables of the application in the root, in an empty database."""
    # Nobody answers there: tasks stay in the outbox.
    with configured(new_database(ROOT), tmp_path, REDIS_URL=f"unix://{tmp_path}/no.sock"):
        yield


def accept(**changes: object) -> str:
    """Take in an error that differs so from the usual one."""
    return error_steps.accept(error_fields.parse({**GIVEN, **changes}))


def count_of(table: type[datastore.Model]) -> int:
    """How many rows there are."""
    with datastore.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.mark.usefixtures("tables")
def test_a_uid_is_taken_in_once_for_each_account() -> None:
    first = accept(uid="one")

    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda _: accept(uid="one", msg="other"), range(8)))

    assert set(again) == {first}
    assert accept(uid="one", account="other") != first
    assert count_of(ErrorReport) == 2


@pytest.mark.usefixtures("tables")
def test_an_error_whose_task_comes_many_times_at_once_counts_once() -> None:
    errors = [accept(msg=f"no {number}") for number in range(12)]

    with ThreadPoolExecutor(6) as pool:
        grouped = list(pool.map(error_steps.group, errors * 3))

    assert sum(grouped) == 12
    [group] = error_queries.groups(error_queries.Wanted())[0]
    assert (group.count, group.undigested, group.msg) == (12, 12, "no <n>")
    assert sum(error_queries.hours(0, []).values()) == 12
    with datastore.session(read_only=True) as session:
        keys = list(session.scalars(select(ErrorNotification.key)))
    assert sorted(keys) == [f"new-{group.id}-1", f"threshold-{group.id}-10"]
    assert not error_steps.group("nobody has it")


@pytest.mark.usefixtures("tables")
def test_digests_at_once_tell_of_each_error_once() -> None:
    for number in range(6):
        error_steps.group(accept(type=f"Error{number % 3}"))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(notifying.digests, [SYSTEM.now()] * 4))

    assert sorted((len(keys), is_all) for keys, is_all in found) == [(0, True)] * 3 + [(1, True)]
    with datastore.session(read_only=True) as session:
        told = session.scalars(select(ErrorNotification).where(ErrorNotification.kind == "digest")).one()
    assert json.loads(told.body)["errors"] == 6
    assert told.text.splitlines()[0] == "6 errors in 3 groups:"
    assert notifying.waiting_count() == 0


@pytest.mark.usefixtures("tables")
def test_more_groups_than_a_digest_tells_of_have_more_digests_and_each_error_is_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifying, "DIGESTED_AT_ONCE", 2)
    monkeypatch.setattr(notifying, "DIGESTS_OF_A_REQUEST", 2)
    for number in range(2 * 7):
        error_steps.group(accept(type=f"Error{number % 7}"))

    found = [notifying.digests(SYSTEM.now()) for _ in range(3)]

    assert [(len(keys), is_all) for keys, is_all in found] == [(2, False), (2, True), (0, True)]
    with datastore.session(read_only=True) as session:
        told = session.scalars(select(ErrorNotification.body).where(ErrorNotification.kind == "digest"))
        bodies = [json.loads(body) for body in told]
    assert sorted(body["errors"] for body in bodies) == [2, 4, 4, 4]
    assert len({line["group"] for body in bodies for line in body["most"]}) == 7
    assert notifying.waiting_count() == 0


@pytest.mark.usefixtures("tables")
def test_what_is_older_than_seven_days_goes_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        error_steps.group(accept(type=f"Error{number}"))
    now = SYSTEM.now()
    monkeypatch.setattr(error_steps, "CLEANED_AT_ONCE", 2)
    monkeypatch.setattr(error_steps, "STEPS_OF_A_CLEANING", 5)

    assert error_steps.clean(now + 6.9 * DAY)
    assert count_of(ErrorReport) == 7
    cleanings = 1
    while not error_steps.clean(now + 7.1 * DAY):
        cleanings += 1

    assert cleanings > 2
    for table in (ErrorReport, ErrorGroup, ErrorHour, ErrorNotification):
        assert count_of(table) == 0


@pytest.mark.usefixtures("tables")
def test_a_cleaning_deletes_its_share_of_hours_and_a_group_takes_none_of_them_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SYSTEM.now()
    for kind in ("a", "b"):
        error_steps.group(accept(type=kind))
    [dying, living] = error_queries.groups(error_queries.Wanted())[0]
    this_hour = int(now // HOUR) * HOUR
    with datastore.session() as session:
        for place in range(1, 31):
            hour = this_hour - int(8 * DAY) - place * HOUR
            session.add_all([ErrorHour(group_id=each.id, hour=hour, count=1) for each in (dying, living)])
        session.execute(update(ErrorReport).where(ErrorReport.group_id == dying.id).values(received_at=0))
        session.execute(update(ErrorGroup).where(ErrorGroup.id == dying.id).values(last_at=0))
        session.execute(delete(ErrorHour).where(ErrorHour.group_id == dying.id, ErrorHour.hour == this_hour))
    monkeypatch.setattr(error_steps, "CLEANED_AT_ONCE", 3)
    monkeypatch.setattr(error_steps, "STEPS_OF_A_CLEANING", 5)

    left = [count_of(ErrorHour)]
    for _ in range(20):
        is_clean = error_steps.clean(now)
        left.append(count_of(ErrorHour))
        if is_clean:
            break

    assert all(before - after <= 3 * 5 for before, after in pairwise(left))
    assert (count_of(ErrorHour), count_of(ErrorGroup)) == (1, 1)


@pytest.mark.usefixtures("tables")
def test_a_group_that_has_new_errors_keeps_its_count_when_the_old_ones_go() -> None:
    old = accept()
    error_steps.group(old)
    with datastore.session() as session:
        found = session.get(ErrorReport, old)
        assert found is not None
        found.received_at -= 8 * DAY
    error_steps.group(accept())

    assert error_steps.clean(SYSTEM.now())

    [group] = error_queries.groups(error_queries.Wanted())[0]
    assert group.count == 2
    assert len(list(error_queries.errors_of(group.id))) == 1


@pytest.mark.usefixtures("tables")
def test_the_page_counts_errors_by_their_indexes_and_reads_no_traceback() -> None:
    error_steps.group(accept())
    accept(type="ValueError")
    said = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        said.append((statement, parameters))

    engine = datastore.engine()
    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert error_queries.numbers() == {"errors": 2, "groups": 1, "waiting": 1}
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    if engine.dialect.name != "sqlite":
        return  # PostgreSQL keeps long texts apart, and reads them only when they are asked for
    counts = [each for each in said if each[0].startswith("SELECT")]
    with engine.connect() as connection:
        plans = [
            row[3]
            for statement, parameters in counts
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        ]
    assert len(plans) == 3
    assert all("USING COVERING INDEX" in plan for plan in plans), plans
