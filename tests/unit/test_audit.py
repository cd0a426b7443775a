"""The audit log: what an entry says, which ones are found, and how many are kept for how long."""

import pytest

from lastacross import audit
from lastacross.accounts import ADMIN, VIEWER, Person
from lastacross.store import AUDIT, Store
from tests.support.clock import StoppedClock

ANNA = Person("anna", ADMIN, "password")
BEN = Person("ben", VIEWER, "proxy")


@pytest.fixture(autouse=True)
def now(test_store: Store, clock: StoppedClock) -> None:
    """The stopped clock stands where the server's is, because the server numbers the entries."""
    seconds, microseconds = test_store.redis.time()
    clock.advance(seconds + microseconds / 1e6 - clock.now())


def test_an_entry_says_who_did_what_to_what_and_from_where(test_store: Store, clock: StoppedClock) -> None:
    audit.record(test_store, ANNA, "queue.pause", ["mail", "feeds"], "203.0.113.9")

    [entry] = audit.read(test_store).entries

    assert (entry.name, entry.role, entry.source) == ("anna", "admin", "password")
    assert (entry.action, entry.ids, entry.count) == ("queue.pause", ("mail", "feeds"), 2)
    assert entry.address == "203.0.113.9"
    assert entry.at == pytest.approx(clock.now(), abs=10)


def test_a_bulk_action_keeps_its_first_ids_and_the_number_of_all(test_store: Store) -> None:
    audit.record(test_store, ANNA, "dead.delete", [f"mail_{number:095}" for number in range(10_000)])

    [entry] = audit.read(test_store).entries

    assert (len(entry.ids), entry.count) == (audit.MAX_IDS_CHARACTERS // 100, 10_000)


def test_pages_lead_from_the_newest_entry_to_the_oldest(test_store: Store) -> None:
    for number in range(5):
        audit.record(test_store, ANNA, "task.run", [str(number)])

    first = audit.read(test_store, limit=2)
    second = audit.read(test_store, limit=2, older_than=first.older_than)
    third = audit.read(test_store, limit=2, older_than=second.older_than)

    pages = [[entry.ids[0] for entry in page.entries] for page in (first, second, third)]
    assert pages == [["4", "3"], ["2", "1"], ["0"]]
    assert third.older_than is None


def test_filters_find_entries_by_person_action_and_id(test_store: Store) -> None:
    audit.record(test_store, ANNA, "task.run", ["mail_1"])
    audit.record(test_store, BEN, "tasks", ["mail_2"])
    audit.record(test_store, ANNA, "task.delete", ["feeds_1"])

    def found(**wanted: str) -> list[str]:
        return [entry.ids[0] for entry in audit.read(test_store, **wanted).entries]  # type: ignore[arg-type]

    assert found(name="anna") == ["feeds_1", "mail_1"]
    assert found(action="task") == ["feeds_1", "mail_1"]
    assert found(action="task.run") == ["mail_1"]
    assert found(text="mail") == ["mail_2", "mail_1"]


def test_a_position_that_is_none_counts_as_none(test_store: Store) -> None:
    audit.record(test_store, ANNA, "task.run", ["1"])

    assert len(audit.read(test_store, older_than="+ COUNT 1").entries) == 1


def test_the_newest_10000_entries_are_kept_for_a_year(test_store: Store, clock: StoppedClock) -> None:
    milliseconds = int(clock.now() * 1000)
    pipe = test_store.redis.pipeline()
    for number in range(audit.MAX_ENTRIES):
        pipe.xadd(AUDIT, {"action": str(number)}, id=f"{milliseconds - 100_000 + number}-0")
    pipe.execute()

    audit.record(test_store, ANNA, "newest")

    assert test_store.redis.xlen(AUDIT) == audit.MAX_ENTRIES
    assert audit.read(test_store, action="0").entries == ()
    assert len(audit.read(test_store, action="1").entries) == 1
    assert 0 < test_store.redis.ttl(AUDIT) <= audit.KEPT_SECONDS

    clock.advance(audit.KEPT_SECONDS + 1)
    assert audit.read(test_store).entries == ()


def test_an_entry_of_another_version_and_a_key_of_another_program_do_no_harm(test_store: Store) -> None:
    test_store.redis.xadd(AUDIT, {b"ids": b"{", b"count": b"many", b"name": b"\xff"})
    [entry] = audit.read(test_store).entries
    assert (entry.name, entry.ids, entry.count) == ("\ufffd", (), 0)

    test_store.redis.set(AUDIT, "overwritten")
    assert audit.read(test_store).entries == ()
    test_store.redis.set(AUDIT, "overwritten")
    audit.record(test_store, ANNA, "task.run")
    assert len(audit.read(test_store).entries) == 1


def test_a_name_that_is_not_utf_8_is_recorded(test_store: Store) -> None:
    audit.record(test_store, Person("an\udcffna", ADMIN, "cli"), "queue.pause", ["m\udcffail"])

    assert audit.read(test_store).entries[0].name == "an?na"
