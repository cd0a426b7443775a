"""delete_tasks, purge_queue, run_task and read_statistics on pull queues."""

import pytest

from lastacross import store
from tests.support.pull import QUEUE, PullScripts
from tests.support.scripts import Scripts


@pytest.fixture
def pull(scripts: Scripts) -> PullScripts:
    """The scripts of pull queues on an empty store."""
    return PullScripts(scripts)


@pytest.mark.parametrize("state", ["waiting", "ahead", "leased", "dead"])
def test_a_task_is_deleted_from_any_place_and_its_name_stays_refused(pull: PullScripts, state: str) -> None:
    pull.add("a", at=60 if state == "ahead" else -1, tag="t", tombstone=777)
    if state == "dead":
        pull.limit(0)
    if state in ("leased", "dead"):
        pull.lease()

    assert pull.run("delete_tasks", pull.at(0), f"{QUEUE}_a", f"{QUEUE}_b") == [1, 0]

    assert pull.places("a", "t") == []
    assert pull.scripts.record(f"{QUEUE}_a") == {}
    assert pull.scripts.tombstone_seconds(f"{QUEUE}_a") == 777
    assert pull.redis.keys(f"{store.OWN}pull*") == []


def test_a_purge_takes_all_but_dead_letters_and_leaves_tombstones(pull: PullScripts) -> None:
    pull.limit(0)
    pull.add("dead")
    pull.lease()
    pull.limit(None)
    pull.add("leased", "waiting", tag="t", tombstone=777)
    pull.lease(most=1)
    pull.add("ahead", at=60)
    pull.add("theirs", queue="other-pulled")

    counts = [pull.run("purge_queue", pull.at(0), QUEUE, 2, pull.at(0)) for _ in range(3)]

    assert counts == [2, 1, 0]
    assert pull.scripts.tombstone_seconds(f"{QUEUE}_leased") == 777
    assert pull.redis.keys(f"{store.RQ}job:{QUEUE}_*") == [f"{store.RQ}job:{QUEUE}_dead".encode()]
    assert pull.redis.keys(f"{store.OWN}pull*") == [store.pull_key("other-pulled").encode()]


# --- run now --------------------------------------------------------------------------------------


def run_now(pull: PullScripts, name: str) -> str:
    """run_task, and then the smallest while that makes an eta of now a past one."""
    word: bytes = pull.run("run_task", f"{QUEUE}_{name}", pull.at(0))
    pull.scripts.clock.advance(0.000001)
    return word.decode()


def test_a_task_that_lies_ahead_may_be_leased_at_once(pull: PullScripts) -> None:
    pull.add("a", at=60, tag="t")

    assert run_now(pull, "a") == "ready"

    assert pull.lease(group="tag", tag="t") == ["a"]


def test_a_task_that_waits_keeps_its_rank(pull: PullScripts) -> None:
    pull.add("b", at=-5)
    pull.add("a", at=-1)

    assert run_now(pull, "b") == "ready"

    assert pull.lease() == ["b", "a"]


def test_a_task_that_somebody_holds_stays_theirs(pull: PullScripts) -> None:
    pull.add("a")
    [held], _ = pull.ask(seconds=10)

    assert run_now(pull, "a") == "running"

    assert pull.lease() == []
    assert pull.modify("a", held.eta, 5)[0] == "ok"
    pull.scripts.clock.advance(6)
    assert run_now(pull, "a") == "ready"


def test_a_dead_letter_is_leased_again_with_its_leases_anew(pull: PullScripts) -> None:
    pull.limit(1)
    pull.add("a", tag="t")
    pull.lease(seconds=0)
    pull.scripts.clock.advance(1)
    assert pull.ask() == ([], ["a"])

    assert run_now(pull, "a") == "ready"

    [again], _ = pull.ask()
    assert (again.name, again.leases) == ("a", 1)
    assert pull.places("a", "t") == ["pull", "leased", "tag"]


# --- statistics -------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_sets(pull: PullScripts) -> None:
    pull.redis.hset(store.settings_key(QUEUE), mapping={"rate": "5", "mode": "pull"})
    assert pull.run("read_statistics", pull.at(0), QUEUE)[0][:3] == [0, 0, b""]
    pull.add("ahead", at=60)
    pull.add("a", "b", "c", "d", at=-3)
    pull.lease(seconds=5, most=1)
    pull.scripts.clock.advance(6)
    pull.lease(seconds=10, most=2)

    tasks, in_flight, oldest, executed, _, mode = pull.run("read_statistics", pull.at(0), QUEUE)[0]

    assert (tasks, in_flight, oldest, executed, mode) == (5, 2, b"1799999997.000000", 0, b"pull")


def test_a_leased_task_that_is_deleted_counts_as_executed(pull: PullScripts) -> None:
    pull.redis.hset(store.settings_key(QUEUE), "rate", "5")
    pull.add("a", "b")
    pull.lease(most=1)

    pull.run("delete_tasks", pull.at(0), f"{QUEUE}_a", f"{QUEUE}_b")

    assert pull.run("read_statistics", pull.at(0), QUEUE)[0][3] == 1
