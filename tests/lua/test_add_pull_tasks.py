"""add_pull_tasks: new tasks are in the sets of their pull queue, unless their name is used."""

import pytest

from lastacross import store
from tests.support.pull import QUEUE, PullScripts
from tests.support.scripts import Scripts


@pytest.fixture
def pull(scripts: Scripts) -> PullScripts:
    """The scripts of pull queues on an empty store."""
    return PullScripts(scripts)


def test_a_task_is_in_its_queues_set_with_its_eta_to_the_microsecond(pull: PullScripts) -> None:
    pull.scripts.clock.advance(0.123456)

    assert pull.add("a", at=10, body=b"\x00\xff") == [0]

    assert pull.etas(store.pull_key(QUEUE)) == {"a": 1_800_000_010.123456}
    record = pull.scripts.record(f"{QUEUE}_a")
    assert (record["status"], record["eta"], record["body"]) == (
        "scheduled",
        "1800000010.123456",
        "\x00ÿ",
    )


def test_an_eta_in_the_past_is_kept(pull: PullScripts) -> None:
    pull.add("a", at=-3600)

    assert pull.etas(store.pull_key(QUEUE)) == {"a": 1_799_996_400.0}


@pytest.mark.parametrize("tag", ["t", "t:u_v w", "grün", "日本", "x" * 500, "\x00\n"])
def test_a_tagged_task_is_in_the_set_of_its_tag_as_well(pull: PullScripts, tag: str) -> None:
    pull.add("a", "b", tag=tag)
    pull.add("c")

    assert set(pull.etas(store.pull_tag_key(QUEUE, tag))) == {"a", "b"}
    assert set(pull.etas(store.pull_key(QUEUE))) == {"a", "b", "c"}
    assert pull.redis.keys(f"{store.OWN}pull-tag:*") == [store.pull_tag_key(QUEUE, tag).encode()]


def test_no_worker_and_no_tool_of_rq_hears_of_it(pull: PullScripts) -> None:
    pull.add("a", at=-1)
    pull.add("b", at=60)

    assert pull.scripts.places(f"{QUEUE}_a") == pull.scripts.places(f"{QUEUE}_b") == []
    assert pull.scripts.marker() is None
    assert pull.redis.smembers(store.RQ_QUEUES) == set()


def test_a_name_that_lives_is_refused_and_nothing_of_it_changes(pull: PullScripts) -> None:
    pull.add("a", body="first")

    assert pull.add("a", "b", at=7, tag="t", body="second") == [10, 0]

    assert pull.scripts.record(f"{QUEUE}_a")["body"] == "first"
    assert pull.etas(store.pull_tag_key(QUEUE, "t")).keys() == {"b"}


@pytest.mark.parametrize("end", ["deleted", "dead"])
def test_a_name_that_lived_is_refused_until_its_tombstone_is_over(pull: PullScripts, end: str) -> None:
    pull.add("a", tombstone=100)
    if end == "dead":
        pull.limit(0)
        assert pull.ask() == ([], ["a"])
    else:
        pull.run("delete_tasks", pull.at(0), f"{QUEUE}_a")
    assert pull.add("a") == [11]

    pull.redis.delete(store.tombstone_key(f"{QUEUE}_a"))

    assert pull.add("a", body="again") == [0]
    assert pull.places("a") == ["pull"]
    assert "dead_at" not in pull.scripts.record(f"{QUEUE}_a")
    assert pull.redis.ttl(store.record_key(f"{QUEUE}_a")) == -1


@pytest.mark.parametrize("state", ["waiting", "leased", "dead"])
def test_a_request_that_is_repeated_has_added_its_task_and_another_one_has_not(
    pull: PullScripts, state: str
) -> None:
    pull.add("a", tombstone=100, request="r1")
    if state == "leased":
        assert pull.lease() == ["a"]
    elif state == "dead":
        pull.limit(0)
        pull.lease()
    before = pull.scripts.record(f"{QUEUE}_a")

    assert pull.add("a", tombstone=100, request="r1") == [0]
    assert pull.add("a", tombstone=100, request="r2") in ([10], [11])

    assert pull.scripts.record(f"{QUEUE}_a") == before


def test_one_name_may_live_in_two_queues(pull: PullScripts) -> None:
    assert pull.add("a") == [0]
    assert pull.add("a", queue="other-pulled") == [0]
    assert pull.scripts.add("default_a") == [0]
