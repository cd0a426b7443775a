"""lease_pull_tasks: tasks whose eta has passed, oldest first; the lease moves their eta."""

import json
from typing import Any

import pytest

from lastacross import store
from tests.support.pull import QUEUE, PullScripts
from tests.support.scripts import Scripts


@pytest.fixture
def pull(scripts: Scripts) -> PullScripts:
    """The scripts of pull queues on an empty store."""
    return PullScripts(scripts)


# --- who is leased, in which order -------------------------------------------------------------


def test_a_task_is_there_only_after_its_eta(pull: PullScripts) -> None:
    pull.add("past", at=-0.000001)
    pull.add("now", at=0)
    pull.add("ahead", at=5)

    assert pull.lease() == ["past"]
    pull.scripts.clock.advance(0.000001)
    assert pull.lease() == ["now"]
    pull.scripts.clock.advance(5)
    assert pull.lease() == ["ahead"]


def test_the_order_is_that_of_eta_and_then_of_the_name(pull: PullScripts) -> None:
    pull.add("b", "a", "B", "10", "9", "_", "-", at=-5)
    pull.add("z", at=-6)

    assert pull.lease() == ["z", "-", "10", "9", "B", "_", "a", "b"]


def test_no_more_are_leased_than_asked_for(pull: PullScripts) -> None:
    pull.add("a", "b", "c")

    assert pull.lease(most=2) == ["a", "b"]
    assert pull.lease(most=2) == ["c"]
    assert pull.lease(most=2) == []


def test_a_leased_task_says_what_it_is(pull: PullScripts) -> None:
    pull.add("a", at=-3, tag="grün", body=b"\x00\xff")
    pull.add("b", at=-2)

    tasks, buried = pull.ask(seconds=7.25)

    assert tasks == [
        ("a", "1800000007.250000", 1, "grün", b"\x00\xff"),
        ("b", "1800000007.250000", 1, "", b""),
    ]
    assert buried == []


def test_a_lease_moves_the_eta_in_every_set_and_in_the_record(pull: PullScripts) -> None:
    pull.add("a", tag="t")
    pull.lease(seconds=0.5)

    for key in (store.pull_key(QUEUE), store.pull_tag_key(QUEUE, "t"), store.pull_leased_key(QUEUE)):
        assert pull.etas(key) == {"a": 1_800_000_000.5}
    record = pull.scripts.record(f"{QUEUE}_a")
    assert (record["eta"], record["leases"], record["status"]) == ("1800000000.500000", "1", "scheduled")


def test_a_lease_that_ran_out_shows_the_task_again_behind_older_ones(pull: PullScripts) -> None:
    pull.add("a", at=-9)
    pull.lease(seconds=10)
    pull.add("older", at=9)
    pull.scripts.clock.advance(10)
    assert pull.lease() == ["older"], "at the very instant the lease is still held"

    pull.scripts.clock.advance(0.000001)

    [again], _ = pull.ask()
    assert (again.name, again.leases) == ("a", 2)


def test_a_lease_of_no_time_is_over_at_once(pull: PullScripts) -> None:
    pull.add("a")

    [first], _ = pull.ask(seconds=0)
    assert first.eta == pull.at(0)
    assert pull.lease(seconds=0) == [], "not in the same microsecond"
    pull.scripts.clock.advance(0.000001)
    assert pull.lease(seconds=0) == ["a"]


def test_the_tasks_of_other_queues_are_left_alone(pull: PullScripts) -> None:
    pull.add("a", queue="other-pulled")
    pull.add("b")

    assert pull.lease() == ["b"]

    assert pull.redis.zscore(store.pull_key("other-pulled"), "a") == pull.scripts.clock.now() - 1


# --- tags -----------------------------------------------------------------------------------------


def test_by_a_tag_only_that_tag_is_leased(pull: PullScripts) -> None:
    pull.add("a", at=-9)
    pull.add("b", at=-8, tag="t")
    pull.add("c", at=-7, tag="u")
    pull.add("d", at=-6, tag="t")
    pull.add("e", at=6, tag="t")

    assert pull.lease(group="tag", tag="t") == ["b", "d"]
    assert pull.lease(group="tag", tag="t") == []
    assert pull.lease(group="tag", tag="nobody's") == []
    assert pull.lease() == ["a", "c"]


def test_without_a_tag_the_oldest_eligible_task_decides(pull: PullScripts) -> None:
    pull.add("ahead", at=6, tag="u")
    pull.add("a", at=-9, tag="t")
    pull.add("b", at=-8, tag="u")
    pull.add("c", at=-7)
    pull.add("d", at=-6, tag="t")

    assert pull.lease(group="oldest") == ["a", "d"]
    assert pull.lease(group="oldest") == ["b"]
    assert pull.lease(group="oldest") == ["c"]
    assert pull.lease(group="oldest") == []


def test_by_the_oldest_tag_tasks_are_found_beyond_the_first_ones(pull: PullScripts) -> None:
    pull.add("a", at=-9, tag="t")
    pull.add(*[f"u{index}" for index in range(5)], at=-8, tag="u")
    pull.add("b", at=-7, tag="t")

    assert pull.lease(most=2, group="oldest") == ["a", "b"]


def test_when_the_oldest_has_no_tag_the_untagged_of_the_first_ones_are_leased(pull: PullScripts) -> None:
    pull.add("a", at=-9)
    pull.add("b", at=-8, tag="t")
    pull.add("c", at=-7)
    pull.add("d", at=-6)

    assert pull.lease(most=3, group="oldest") == ["a", "c"], "of the first three"
    assert pull.lease(most=3, group="oldest") == ["b"]
    assert pull.lease(most=3, group="oldest") == ["d"]


# --- how often ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_a_task_is_leased_as_often_as_the_limit_and_then_is_a_dead_letter(
    pull: PullScripts, limit: int
) -> None:
    pull.limit(limit)
    pull.add("a", tombstone=777, tag="t")

    for number in range(1, limit + 1):
        [task], buried = pull.ask(seconds=1)
        assert (task.leases, buried) == (number, [])
        pull.scripts.clock.advance(2)

    assert pull.ask() == ([], ["a"])
    assert pull.ask() == ([], [])
    assert pull.places("a", "t") == ["dead"]
    record = pull.scripts.record(f"{QUEUE}_a")
    assert record["status"] == "failed"
    assert record["error"] == f"leased {limit} times without being deleted: task_retry_limit is {limit}"
    assert pull.scripts.tombstone_seconds(f"{QUEUE}_a") == 777


def test_a_task_that_leaves_takes_its_place_in_the_answer(pull: PullScripts) -> None:
    pull.add("a", at=-9, retry=json.dumps([0, None, 0.1, 3600, 16]))
    pull.add("b", at=-8)

    assert pull.ask(most=1) == ([], ["a"])
    assert pull.lease(most=1) == ["b"]


@pytest.mark.parametrize(("limit", "age"), [(0, 0), (0, 60), (None, 0), (None, None)])
def test_with_an_age_limit_as_well_a_task_is_never_taken_out(
    pull: PullScripts, limit: int | None, age: int | None
) -> None:
    pull.limit(limit, age)
    pull.add("a")

    for _ in range(5):
        assert pull.lease(seconds=1) == ["a"]
        pull.scripts.clock.advance(1000)


def test_a_tasks_own_options_replace_the_queues_whole(pull: PullScripts) -> None:
    pull.limit(0)
    pull.add("own", retry=json.dumps([None, None, 0.1, 3600, 16]))
    pull.add("queues")
    tasks, buried = pull.ask()
    assert ([task.name for task in tasks], buried) == (["own"], ["queues"])

    pull.limit(None, 60)
    pull.add("limited", retry=json.dumps([0, None, 0.1, 3600, 16]))
    assert pull.ask() == ([], ["limited"])


def test_a_queue_without_retry_parameters_has_no_limit(pull: PullScripts) -> None:
    pull.redis.hset(store.settings_key(QUEUE), "retry", "")
    pull.add("a")

    for _ in range(30):
        assert pull.lease(seconds=0) == ["a"]
        pull.scripts.clock.advance(1)


def test_a_dead_letter_that_is_run_again_has_its_leases_anew(pull: PullScripts) -> None:
    pull.limit(1)
    pull.add("a", tag="t", tombstone=9)
    pull.lease(seconds=1)
    pull.scripts.clock.advance(2)
    pull.lease()
    # What `rq requeue` does.
    pull.redis.zrem(store.dead_key(QUEUE), f"{QUEUE}_a")
    pull.redis.hset(store.record_key(f"{QUEUE}_a"), "status", "queued")
    pull.redis.rpush(store.ready_key(QUEUE), f"{QUEUE}_a")

    [task], _ = pull.ask()

    assert (task.name, task.leases, task.tag) == ("a", 1, "t")
    assert pull.places("a", "t") == ["pull", "leased", "tag"]
    assert "dead_at" not in pull.scripts.record(f"{QUEUE}_a")
    assert pull.redis.ttl(store.record_key(f"{QUEUE}_a")) == -1


def test_what_was_added_while_it_was_a_push_queue_is_leased_too(pull: PullScripts) -> None:
    pull.scripts.add(f"{QUEUE}_a", body="x")
    pull.scripts.clock.advance(1)

    assert pull.lease() == ["a"]
    assert pull.places("a") == ["pull", "leased"]


def test_a_body_in_pieces_is_leased_whole(pull: PullScripts) -> None:
    pieces: dict[str, Any] = {"body": "a" * 64, "body.1": "b" * 64, "body.2": "c"}
    pull.scripts.add(f"{QUEUE}_a", **pieces)
    pull.scripts.clock.advance(1)

    [task] = pull.ask()[0]

    assert bytes(task.body).decode() == "".join(pieces.values())
    assert not set(pull.scripts.record(f"{QUEUE}_a")) & {"body.1", "body.2"}


def test_a_plain_rq_job_becomes_a_dead_letter_that_says_why(pull: PullScripts) -> None:
    pull.scripts.put_rq_job("0b8f", QUEUE)

    assert pull.lease() == []
    assert "plain RQ job" in pull.scripts.record("0b8f")["error"]
    assert pull.redis.zscore(store.dead_key(QUEUE), "0b8f") is not None


# --- what may go wrong ----------------------------------------------------------------------------


def test_a_repeated_request_gets_the_tasks_that_it_was_given(pull: PullScripts) -> None:
    pull.add("a", "b", "c", tag="t", body="x")
    first = pull.ask(most=2, request="r1")

    assert pull.ask(most=2, request="r1") == first
    assert pull.ask(most=2, request="other")[0][0].name == "c"
    assert pull.scripts.record(f"{QUEUE}_a")["leases"] == "1"


@pytest.mark.parametrize("group", ["", "tag"])
def test_a_task_whose_record_some_tool_deleted_is_forgotten(pull: PullScripts, group: str) -> None:
    pull.add("a", "b", tag="t")
    pull.redis.delete(store.record_key(f"{QUEUE}_a"))

    assert pull.lease(group=group, tag="t") == ["b"]
    pull.lease(group="tag", tag="t")
    assert pull.etas(store.pull_key(QUEUE)).keys() == {"b"}


def test_a_disabled_queue_hands_out_nothing(pull: PullScripts) -> None:
    pull.add("a")
    pull.redis.hset(store.settings_key(QUEUE), "is_disabled", "1")
    assert pull.lease() == []

    pull.redis.hset(store.settings_key(QUEUE), "is_disabled", "0")
    assert pull.lease() == ["a"]


def test_a_paused_queue_may_be_leased_from(pull: PullScripts) -> None:
    pull.redis.sadd(store.PAUSED, QUEUE)
    pull.add("a")

    assert pull.lease() == ["a"]


def test_an_answer_has_at_most_32_mib_and_one_task_at_least(pull: PullScripts) -> None:
    mib = 1024 * 1024
    pull.add("a", at=-9, body=b"x" * (33 * mib))
    pull.add("b", at=-8, body=b"x" * (31 * mib))
    pull.add("c", at=-7, body=b"x" * mib)
    pull.add("d", at=-6, body=b"x")

    assert [pull.lease(), pull.lease(), pull.lease()] == [["a"], ["b", "c"], ["d"]]


def test_a_thousand_are_leased_in_one_call(pull: PullScripts) -> None:
    names = [f"n{index:04}" for index in range(1001)]
    for first in range(0, 1001, 500):
        pull.add(*names[first : first + 500], tag=f"t{first}")

    assert pull.lease(most=1000) == names[:1000]
    assert len(pull.etas(store.pull_leased_key(QUEUE))) == 1000
