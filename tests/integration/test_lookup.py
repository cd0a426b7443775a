"""Tasks looked up by name, and those of a queue listed and counted: every place that they may be in."""

import math

import pytest

from lastacross import store
from lastacross.broker import listing
from lastacross.broker.listing import Listing, TaskRecord
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from tests.support.pull import QUEUE as PULLED
from tests.support.pull import PullScripts
from tests.support.scripts import Scripts


def found(name: str) -> TaskRecord:
    record = listing.find("default", name)
    assert record is not None
    return record


def test_a_task_is_found_wherever_it_waits(scripts: Scripts) -> None:
    scripts.add("default_ready")
    scripts.add("default_later", countdown=60)

    assert (found("ready").status, found("ready").waits, found("ready").is_dead) == ("queued", True, False)
    assert (found("later").status, found("later").waits) == ("scheduled", True)


def test_a_task_that_runs_and_one_that_has_failed_are_told_apart(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    assert (found("a").status, found("a").waits, found("a").is_dead) == ("started", False, False)

    eta = scripts.clock.now() + 30
    scripts.run("retry_task", "default_a", lease, f"{eta:.6f}", 500, scripts.now, 1)
    assert found("a") == TaskRecord("scheduled", eta, failures=1, lost=0)

    scripts.dead("default_b")
    assert (found("b").is_dead, found("b").error, found("b").failures) == (True, "answered 500", 1)


def test_what_another_tool_took_for_failed_waits_to_be_put_back(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.redis.hset(store.record_key("default_a"), "status", "failed")

    assert (found("a").is_dead, found("a").waits) == (False, True)


def test_a_task_that_is_gone_is_none(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    scripts.ack(("default_a", lease))
    scripts.add("default_b")

    assert listing.find("default", "a") is None
    assert [record is None for record in listing.find_all([("default", "a"), ("default", "b")])] == [
        True,
        False,
    ]
    assert listing.find_all([]) == []


def test_an_unavailable_redis_gives_no_answer(scripts: Scripts) -> None:
    store.use(Store("unix:///nowhere/redis.sock"))
    with pytest.raises(StoreUnavailableError):
        listing.find("default", "a")


# --- the tasks of a queue -------------------------------------------------------------------------


@pytest.fixture
def full(scripts: Scripts) -> Listing:
    """The listing of a queue with tasks in every state; of the dead letters, "d3" is the newest."""
    for number in (1, 2, 3):
        scripts.dead(f"default_d{number}")
        scripts.clock.advance(1)
    scripts.leased("default_l")
    scripts.add("default_r", description="POST /a")
    scripts.add("default_s", countdown=60)
    return Listing(scripts.store)


@pytest.fixture
def pulled(scripts: Scripts) -> Listing:
    """The listing of a pull queue of which "l" was leased twice and is held; "s" lies ahead."""
    pull = PullScripts(scripts)
    pull.add("l", at=-2)
    assert pull.lease(seconds=1) == ["l"]
    scripts.clock.advance(2)
    assert pull.lease(seconds=30) == ["l"]
    pull.add("r", at=-1)
    pull.add("s", at=60)
    return Listing(scripts.store)


def names(found: Listing, queue: str, state: str, limit: int = 100) -> list[str]:
    return [task.name for task in found.tasks(queue, [state], limit)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [("ready", ["r"]), ("scheduled", ["s"]), ("leased", ["l"]), ("dead", ["d3", "d2", "d1"])],
)
def test_tasks_are_listed_by_state_and_dead_letters_newest_first(
    full: Listing, state: str, expected: list[str]
) -> None:
    assert names(full, "default", state) == expected


def test_as_many_are_listed_as_were_asked_for(full: Listing) -> None:
    assert names(full, "default", "dead", limit=2) == ["d3", "d2"]


@pytest.mark.parametrize("name", ["ready", "scheduled", "leased"])
def test_pull_tasks_are_listed_by_what_their_eta_says(pulled: Listing, name: str) -> None:
    assert names(pulled, PULLED, name) == [name[0]]


def test_leased_pull_tasks_take_no_room_from_those_that_lie_ahead(scripts: Scripts) -> None:
    pull = PullScripts(scripts)
    pull.add(*(f"l{number}" for number in range(1200)), at=-1)
    assert len(pull.lease(seconds=30, most=1000)) + len(pull.lease(seconds=30, most=1000)) == 1200
    pull.add("s1", "s2", at=60)

    found = Listing(scripts.store)

    assert names(found, PULLED, "scheduled", limit=1) == ["s1"]
    assert names(found, PULLED, "scheduled", limit=1000) == ["s1", "s2"]


def test_the_attempts_of_a_pull_task_are_its_leases_and_those_of_others_what_has_ended(
    scripts: Scripts, full: Listing, pulled: Listing
) -> None:
    assert [task.attempts for task in pulled.tasks(PULLED, ["leased"])] == [2]
    scripts.redis.hset(store.record_key("default_r"), mapping={"failures": 2, "lost": 1})
    assert [task.attempts for task in full.tasks("default", ["ready"])] == [3]


def test_the_tasks_of_each_state_are_counted(scripts: Scripts, full: Listing, pulled: Listing) -> None:
    assert full.count(["default", PULLED]) == {
        "default": {"ready": 1, "scheduled": 1, "leased": 1, "dead": 3, "waiting": 0},
        PULLED: {"ready": 1, "scheduled": 1, "leased": 1, "dead": 0, "waiting": 0},
    }


def test_a_key_of_the_wrong_type_counts_as_empty(scripts: Scripts, full: Listing) -> None:
    scripts.redis.delete(store.dead_key("default"))
    scripts.redis.set(store.dead_key("default"), "no set")

    counted = full.count(["default"])["default"]

    assert (counted["ready"], counted["dead"]) == (1, 0)


@pytest.mark.parametrize("text", ["{no json", "7", "[7]", "[" * 100_000], ids=range(4))
def test_headers_that_cannot_be_read_are_shown_as_they_are(scripts: Scripts, text: str) -> None:
    scripts.add("default_a", description="POST /a", headers=text)

    shown = Listing(scripts.store).find("default", "a")

    assert shown is not None
    assert (shown.headers, shown.fields["headers"]) == ((), text)


def test_a_tombstone_says_until_when_its_name_is_refused(scripts: Scripts) -> None:
    found = Listing(scripts.store)
    scripts.redis.set(store.tombstone_key("default_a"), "1", px=90_000)
    scripts.redis.set(store.tombstone_key("default_b"), "1")

    until = found.name_refused_until("default", "a")

    assert until is not None
    assert scripts.clock.now() + 60 < until <= scripts.clock.now() + 90
    assert found.name_refused_until("default", "b") == math.inf
    assert found.name_refused_until("default", "c") is None


def test_the_oldest_open_batches_are_listed_as_many_as_were_asked_for(scripts: Scripts) -> None:
    for name in ("b", "c", "a"):
        scripts.open_batch(name)
        scripts.clock.advance(1)

    assert Listing(scripts.store).open_batches(2) == ["b", "c"]
