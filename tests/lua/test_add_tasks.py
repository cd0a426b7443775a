"""add_tasks: new tasks become ready or scheduled, unless their name is used."""

from typing import Any

import pytest

from lastacross import store
from tests.support.scripts import Scripts


def test_a_task_without_eta_is_ready_behind_those_that_came_before(scripts: Scripts) -> None:
    assert scripts.add("default_a") == [0]
    assert scripts.add("default_b", "default_c") == [0, 0]

    assert scripts.ready() == ["default_a", "default_b", "default_c"]
    assert scripts.state("default_a") == "ready"


def test_all_fields_that_are_given_are_kept(scripts: Scripts) -> None:
    scripts.add("default_a", body=b"\x00\xff", tombstone=7)

    assert (
        scripts.record("default_a").items() >= {"body": "\x00ÿ", "tombstone": "7", "status": "queued"}.items()
    )


@pytest.mark.parametrize(
    ("countdown", "state"), [(10.0, "scheduled"), (0.000001, "scheduled"), (0.0, "ready"), (-5.0, "ready")]
)
def test_only_an_eta_ahead_makes_a_task_scheduled(scripts: Scripts, countdown: float, state: str) -> None:
    scripts.add("default_a", countdown=countdown)

    assert scripts.state("default_a") == state


def test_the_score_of_a_scheduled_task_is_its_eta_to_the_microsecond(scripts: Scripts) -> None:
    scripts.clock.advance(0.123456)
    scripts.add("default_a", countdown=10)

    assert scripts.redis.zscore(store.scheduled_key("default"), "default_a") == 1_800_000_010.123456


@pytest.mark.parametrize("life", ["ready", "scheduled", "leased"])
def test_a_name_that_lives_is_refused_and_nothing_of_it_changes(scripts: Scripts, life: str) -> None:
    if life == "leased":
        scripts.leased("default_a", body="first")
    else:
        scripts.add("default_a", countdown=10 if life == "scheduled" else None, body="first")

    assert scripts.add("default_a", body="second") == [10]

    assert scripts.state("default_a") == life
    assert scripts.record("default_a")["body"] == "first"


@pytest.mark.parametrize("end", ["done", "dead"])
def test_a_name_that_lived_is_refused_until_its_tombstone_is_over(scripts: Scripts, end: str) -> None:
    if end == "dead":
        scripts.dead("default_a", tombstone=100)
    else:
        scripts.ack(("default_a", scripts.leased("default_a", tombstone=100)))
    assert scripts.add("default_a") == [11]

    scripts.redis.delete(store.tombstone_key("default_a"))

    assert scripts.add("default_a", body="again") == [0]
    assert scripts.state("default_a") == "ready"
    assert "dead_at" not in scripts.record("default_a")
    assert scripts.redis.ttl(store.record_key("default_a")) == -1


def test_a_refusal_does_not_undo_the_other_tasks_of_the_request(scripts: Scripts) -> None:
    scripts.add("default_b")

    assert scripts.add("default_a", "default_b", "default_c") == [0, 10, 0]

    assert scripts.ready() == ["default_b", "default_a", "default_c"]


def test_one_name_may_live_in_two_queues(scripts: Scripts) -> None:
    assert scripts.add("default_a", "other_a") == [0, 0]

    assert (scripts.ready("default"), scripts.ready("other")) == (["default_a"], ["other_a"])


def test_rq_hears_of_the_queues(scripts: Scripts) -> None:
    scripts.add("default_a", "other_a", countdown=10)

    assert scripts.redis.smembers(store.RQ_QUEUES) == {
        f"{store.RQ}queue:default".encode(),
        f"{store.RQ}queue:other".encode(),
    }


@pytest.mark.parametrize(("countdown", "marker"), [(None, "ready"), (10.0, "scheduled")])
def test_one_marker_waits_for_a_worker_however_many_tasks_come(
    scripts: Scripts, countdown: float | None, marker: str
) -> None:
    scripts.add("default_a", "default_b", countdown=countdown)
    scripts.add("default_c", countdown=countdown)

    assert [scripts.marker(), scripts.marker()] == [marker, None]


def test_a_marker_for_ready_tasks_becomes_one_for_scheduled_tasks_and_stays_it(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.add("default_b", countdown=10)
    scripts.add("default_c")

    assert scripts.marker() == "scheduled"


@pytest.mark.parametrize("state", ["ready", "scheduled", "done", "dead"])
def test_a_request_that_is_repeated_has_added_its_task_and_another_one_has_not(
    scripts: Scripts, state: str
) -> None:
    fields: dict[str, Any] = {"tombstone": 777, "request": "r1"}
    if state == "dead":
        scripts.dead("default_a", **fields)
    elif state == "done":
        scripts.ack(("default_a", scripts.leased("default_a", **fields)))
    else:
        scripts.add("default_a", countdown=9 if state == "scheduled" else None, **fields)
    before = scripts.record("default_a")

    assert scripts.add("default_a", **fields) == [0]
    assert scripts.add("default_a", tombstone=777, request="r2") in ([10], [11])

    assert scripts.record("default_a") == before


def test_a_dead_letter_that_is_run_again_lives(scripts: Scripts) -> None:
    scripts.dead("default_a", tombstone=777)
    scripts.redis.zrem(store.dead_key("default"), "default_a")
    scripts.redis.hset(store.record_key("default_a"), "status", "queued")
    scripts.redis.rpush(store.ready_key("default"), "default_a")

    assert scripts.add("default_a", tombstone=777) == [10]


def test_the_name_of_a_task_that_a_stock_worker_failed_is_not_free(scripts: Scripts) -> None:
    scripts.add("default_a", body="first")
    scripts.redis.delete(store.ready_key("default"))
    scripts.redis.hset(store.record_key("default_a"), "status", "failed")
    scripts.redis.zadd(store.dead_key("default"), {"default_a": 4_000_000_000})
    scripts.open_batch("b")

    assert scripts.add("default_a", body="second") == [10]
    assert scripts.fill_with("b", ["default_a"], body="second") == [10]

    assert scripts.run("sweep_foreign", 100, 0, "default") == ["default_a"]
    assert scripts.record("default_a")["body"] == "first"
