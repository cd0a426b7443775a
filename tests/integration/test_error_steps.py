"""What is done to errors in the datastore: each step is one transaction, and done twice is done once."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import delete, func, select, update

from lastacross import datastore
from lastacross.clock import SYSTEM, iso
from programs.errors import fields as error_fields
from programs.errors import limits as error_limits
from programs.errors import notifying
from programs.errors import queries as error_queries
from programs.errors import steps as error_steps
from programs.errors.models import HOUR, ErrorGroup, ErrorHour, ErrorNotification, ErrorRefusal, ErrorReport
from tests.support.clock import StoppedClock
from tests.support.processes import ROOT
from tests.support.root_application import with_unavailable_store
from tests.support.statements import plans_of, seen_statements

GIVEN = {"account": "shop", "url": "https://shop.example/a", "status": 500, "type": "KeyError", "msg": "no 7"}
DAY = 86_400.0


@pytest.fixture
def tables(new_database: Callable[[Path], str], tmp_path: Path) -> Iterator[None]:
    """The tables of the application in the root, in an empty database."""
    with with_unavailable_store(new_database(ROOT), tmp_path):
        error_limits._full_until.clear()
        yield
        error_limits._full_until.clear()


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
    [group] = error_queries.groups(error_queries.GroupQuery())[0]
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
    monkeypatch.setattr(error_steps, "STEPS_OF_A_CLEANING", 7)

    assert error_steps.clean(now + 6.9 * DAY)
    assert count_of(ErrorReport) == 7
    cleanings = 1
    while not error_steps.clean(now + 7.1 * DAY):
        cleanings += 1

    assert cleanings > 2
    for table in (ErrorReport, ErrorGroup, ErrorHour, ErrorNotification):
        assert count_of(table) == 0


@pytest.mark.usefixtures("tables")
def test_refused_posts_are_counted_for_seven_days() -> None:
    now = (int(SYSTEM.now()) // HOUR) * HOUR
    hours = [now - int(7 * DAY) - HOUR, now - int(7 * DAY), now]
    with datastore.session() as session:
        session.add_all([ErrorRefusal(hour=hour, reason="size", account="", count=1) for hour in hours])

    assert error_steps.clean(now)

    with datastore.session(read_only=True) as session:
        assert session.scalars(select(ErrorRefusal.hour).order_by(ErrorRefusal.hour)).all() == hours[1:]


@pytest.mark.usefixtures("tables")
def test_a_cleaning_deletes_its_share_of_hours_and_a_group_takes_none_of_them_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SYSTEM.now()
    for kind in ("a", "b"):
        error_steps.group(accept(type=kind))
    [dying, living] = error_queries.groups(error_queries.GroupQuery())[0]
    this_hour = int(now // HOUR) * HOUR
    with datastore.session() as session:
        for place in range(1, 31):
            hour = this_hour - int(8 * DAY) - place * HOUR
            session.add_all([ErrorHour(group_id=each.id, hour=hour, count=1) for each in (dying, living)])
        session.execute(update(ErrorReport).where(ErrorReport.group_id == dying.id).values(received_at=0))
        session.execute(update(ErrorGroup).where(ErrorGroup.id == dying.id).values(last_at=0))
        session.execute(delete(ErrorHour).where(ErrorHour.group_id == dying.id, ErrorHour.hour == this_hour))
    monkeypatch.setattr(error_steps, "CLEANED_AT_ONCE", 3)
    monkeypatch.setattr(error_steps, "STEPS_OF_A_CLEANING", 7)

    left = [count_of(ErrorHour)]
    for _ in range(20):
        is_clean = error_steps.clean(now)
        left.append(count_of(ErrorHour))
        if is_clean:
            break

    assert all(before - after <= 3 * 7 for before, after in pairwise(left))
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

    [group] = error_queries.groups(error_queries.GroupQuery())[0]
    assert group.count == 2
    assert len(list(error_queries.errors_of(group.id))) == 1


@pytest.mark.usefixtures("tables")
def test_the_page_counts_errors_by_their_indexes_and_reads_no_traceback() -> None:
    error_steps.group(accept())
    accept(type="ValueError")

    with seen_statements() as seen:
        assert error_queries.numbers() == {"errors": 2, "groups": 1, "waiting": 1}

    if datastore.engine().dialect.name != "sqlite":
        return  # PostgreSQL keeps long texts apart, and reads them only when they are asked for
    plans = plans_of(seen)
    assert len(plans) == 3
    assert all("USING COVERING INDEX" in plan for plan in plans), plans


# --- limits -------------------------------------------------------------------------------


@pytest.mark.usefixtures("tables")
def test_an_account_that_has_posted_its_share_of_an_hour_is_refused_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(error_limits.MAX_REPORTS, "5")
    for number in range(5):
        accept(uid=f"uid-{number}")
    assert accept(uid="uid-0"), "what comes again is not counted again"

    for _ in range(2):
        with pytest.raises(error_limits.RefusedError) as caught:
            accept()
        assert caught.value.reason == "reports"
        assert 1 <= caught.value.seconds <= 3600

    accept(account="other")
    assert count_of(ErrorReport) == 6


@pytest.mark.usefixtures("tables")
def test_many_posts_at_once_are_accepted_up_to_the_limit_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(error_limits.MAX_REPORTS, "10")

    def post(_number: int) -> bool:
        try:
            accept()
        except error_limits.RefusedError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        accepted = list(pool.map(post, range(24)))

    assert sum(accepted) == count_of(ErrorReport) == 10


@pytest.mark.usefixtures("tables")
def test_in_the_next_hour_an_account_may_post_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(error_limits.MAX_REPORTS, "1")
    clock = StoppedClock()
    monkeypatch.setattr(error_limits, "SYSTEM", clock)
    accept()
    with pytest.raises(error_limits.RefusedError) as caught:
        accept()

    clock.advance(caught.value.seconds)

    accept()
    assert count_of(ErrorReport) == 2


@pytest.mark.parametrize("name", ["type", "server"])
def test_a_text_counts_for_each_row_that_repeats_it(name: str) -> None:
    """The report, its group and its notification each have one."""
    short, long = ({**GIVEN, "traceback": "x" * 5000, name: "x" * length} for length in (1, 101))

    more = error_limits.size_of(error_fields.parse(long)) - error_limits.size_of(error_fields.parse(short))

    assert more >= 3 * 100


@pytest.mark.parametrize("name", ["account", "uid"])
def test_a_key_counts_for_its_row_and_its_index_and_not_many_times_over(name: str) -> None:
    short, long = ({**GIVEN, name: "x" * length} for length in (1, 51))

    more = error_limits.size_of(error_fields.parse(long)) - error_limits.size_of(error_fields.parse(short))

    # A report counts twice, for pages that are half full; an account is in its group and notification, too.
    assert more == {"uid": 2 * 2, "account": 2 * 2 + 2 * 2 + 2}[name] * 50


@pytest.mark.usefixtures("tables")
def test_reports_take_up_bytes_until_they_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(error_limits.MAX_BYTES, "1000000")
    clock = StoppedClock(SYSTEM.now())
    monkeypatch.setattr(error_limits, "SYSTEM", clock)
    large = {"traceback": "ä" * 65_536, "request": "x" * 65_536}
    accepted = 1_000_000 // (3 * 65_536 + 3 * error_limits.OVERHEAD_BYTES)
    for _ in range(accepted):
        accept(**large)

    with pytest.raises(error_limits.RefusedError) as caught:
        accept(**large)

    assert caught.value.reason == "bytes"
    assert count_of(ErrorReport) == accepted
    assert 3 * 65_536 * accepted < error_limits.kept_bytes() <= 1_000_000
    with pytest.raises(error_limits.RefusedError):
        accept(account="other")
    assert error_steps.clean(SYSTEM.now() + 7.1 * DAY)
    assert error_limits.kept_bytes() == 0
    clock.advance(2)
    accept(**large)


@pytest.mark.usefixtures("tables")
def test_what_takes_up_bytes_is_freed_once_whoever_deletes_it() -> None:
    for number in range(6):
        accept(type=f"Error{number}")
    kept = error_limits.kept_bytes()

    with ThreadPoolExecutor(3) as pool:
        later = SYSTEM.now() + 7.1 * DAY
        deleted = sum(pool.map(lambda _: error_limits.delete_reports(later, 4), range(3)))

    assert kept > 6 * error_limits.OVERHEAD_BYTES
    assert deleted == 6
    assert error_limits.kept_bytes() == 0


@pytest.mark.usefixtures("tables")
def test_refused_posts_are_counted_by_reason_logged_and_forgotten_after_seven_days(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for reason, account, count in (("reports", "shop", 3), ("account", "", 2), ("reports", "other", 1)):
        for _ in range(count):
            error_limits.note_refusal(reason, account)
        error_limits.write_refusals()
    error_limits.note_refusal("reports", "shop")
    error_limits.write_refusals()
    error_limits.write_refusals()

    assert error_limits.refused() == [("reports", "shop", 4), ("account", "", 2), ("reports", "other", 1)]
    told = [vars(record) for record in caplog.records if record.getMessage() == "errors.refused"]
    assert [(line["account"], line["count"]) for line in told] == [
        ("shop", 3),
        ("", 2),
        ("other", 1),
        ("shop", 1),
    ]
    assert error_steps.clean(SYSTEM.now() + 8 * DAY)
    assert error_limits.refused() == []


@pytest.mark.usefixtures("tables")
def test_refusals_that_cannot_be_written_down_are_kept_until_they_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(error_limits, "WRITE_SECONDS", 3600.0)

    def fail() -> None:
        raise datastore.DatastoreUnavailableError("locked")

    with monkeypatch.context() as patched:
        patched.setattr(datastore, "session", fail)
        error_limits.note_refusal("size")
        error_limits.write_refusals()
    error_limits.write_refusals()

    assert error_limits.refused() == [("size", "", 1)]


@pytest.mark.parametrize("text", ["0", "x", "1e3", "-1", "1000000000000000"])
def test_a_limit_that_cannot_be_used_is_logged_and_the_default_stands(
    text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(error_limits.MAX_REPORTS, text)

    assert error_limits.limit(error_limits.MAX_REPORTS) == 10_000

    assert "ERROR_MAX_REPORTS must be a whole number from 1 to 100000000" in caplog.text


@pytest.mark.usefixtures("tables")
def test_a_flood_of_new_groups_is_one_notification_and_one_digest_has_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifying, "MAX_TOLD", 2)
    clock = StoppedClock(1_800_000_000.0)
    monkeypatch.setattr(notifying, "clock", SimpleNamespace(SYSTEM=clock, iso=iso))
    for letter in "abcdef":
        error_steps.group(accept(type=letter))

    assert kinds_told() == {"new": 2, "flood": 1}
    keys, is_all = notifying.digests(clock.now())
    assert (len(keys), is_all) == (1, True)
    [digest] = told("digest")
    assert digest.text.splitlines()[0] == "6 errors in 6 groups:"
    assert json.loads(digest.body)["groups"] == 6
    assert notifying.waiting_count() == 0

    clock.advance(notifying.DIGEST_SECONDS)
    error_steps.group(accept(type="Later"))
    assert kinds_told() == {"new": 3, "flood": 1, "digest": 1}


def told(kind: str) -> list[ErrorNotification]:
    """The notifications of a kind."""
    with datastore.session(read_only=True) as session:
        return list(session.scalars(select(ErrorNotification).where(ErrorNotification.kind == kind)))


def kinds_told() -> dict[str, int]:
    """How many notifications of each kind there are."""
    query = select(ErrorNotification.kind, func.count()).group_by(ErrorNotification.kind)
    with datastore.session(read_only=True) as session:
        return {kind: count for kind, count in session.execute(query)}
