"""Damaged fields and keys of the wrong type, as each script meets them: only the one task is dead."""

from typing import Any

import pytest

from lastacross import store
from tests.support.damage import BAD_VALUES, MISSING, flip, write_over
from tests.support.scripts import LEASE_SECONDS, Lease, Scripts

COUNTS = ("failures", "lost", "unreached", "crashes")
# As a number of attempts -1 can be counted on from.
NO_NUMBERS = {name: value for name, value in BAD_VALUES.items() if name not in ("missing", "negative")}
VICTIM, NEIGHBOUR = "default_b-0", "default_b-1"

no_numbers = pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
bad_values = pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)


@pytest.fixture
def held(scripts: Scripts) -> dict[str, str]:
    """A sealed batch of two tasks, both leased: id → lease."""
    scripts.sealed_batch("b", 2, complete="default_end")
    return dict(scripts.lease())


def flip_record(scripts: Scripts, field: str, value: object) -> None:
    flip(scripts.redis, store.record_key(VICTIM), field, value)


def assert_dead(scripts: Scripts, word: str) -> None:
    """Check that the victim is a dead letter that says why, once in its batch, and in the log of a worker."""
    assert scripts.redis.zscore(store.dead_key("default"), VICTIM) is not None
    raw = scripts.redis.hmget(store.record_key(VICTIM), "status", "error", "dead_at")
    assert raw[0] == b"failed"
    assert raw[1].startswith(b"damaged: its ")
    assert word.encode() in raw[1]
    assert float(raw[2]) == scripts.clock.now()
    assert scripts.counts("b").get("failed") == 1
    assert any(VICTIM in text for text in scripts.store.take_damages())


def finish_neighbour(scripts: Scripts, lease: str) -> None:
    """Check that the batch completes with the other task, and fires once."""
    assert scripts.ack((NEIGHBOUR, lease)) == [1]
    assert scripts.counts("b") == {"total": 2, "done": 1, "failed": 1}
    assert scripts.is_finished("b")
    assert scripts.ready().count("default_end") == 1


# --- push records ---------------------------------------------------------------------------


@bad_values
@pytest.mark.parametrize("state", ["ready", "scheduled", "leased"])
def test_a_status_that_none_has_makes_a_dead_letter_wherever_the_task_is(
    scripts: Scripts, state: str, value: object
) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 2, countdown=1 if state == "scheduled" else None)
    scripts.seal("b")
    leases = dict(scripts.lease()) if state == "leased" else {}
    flip_record(scripts, "status", value)
    scripts.clock.advance(LEASE_SECONDS + 1)

    if state == "leased":
        answer = scripts.run("rescue_expired", scripts.now, 100, "default")
        assert dict(zip(answer[::2], answer[1::2], strict=True)) == {VICTIM: "damaged", NEIGHBOUR: "ready"}
    elif state == "scheduled":
        scripts.run("maintain_queues", scripts.now, 100, 1, "default")
    leases = dict(scripts.lease())

    assert set(leases) == {NEIGHBOUR}
    assert_dead(scripts, "status")
    finish_neighbour(scripts, leases[NEIGHBOUR])


@no_numbers
@pytest.mark.parametrize("field", ["failures", "unreached"])
def test_a_count_that_is_none_makes_a_dead_letter_of_a_failed_attempt(
    scripts: Scripts, held: dict[str, str], field: str, value: object
) -> None:
    flip_record(scripts, field, value)

    assert scripts.run("retry_task", VICTIM, held[VICTIM], scripts.now, 500, scripts.now, 0) == 1

    assert scripts.redis.zcard(store.scheduled_key("default")) == 0
    assert_dead(scripts, field)
    finish_neighbour(scripts, held[NEIGHBOUR])


@no_numbers
def test_the_last_failure_of_a_damaged_task_is_told_all_the_same(
    scripts: Scripts, held: dict[str, str], value: object
) -> None:
    flip_record(scripts, "failures", value)

    assert (
        scripts.run("dead_letter_task", scripts.now, VICTIM, held[VICTIM], "", "damaged: its failures") == 1
    )

    assert scripts.redis.hget(store.record_key(VICTIM), "error") == b"damaged: its failures"
    finish_neighbour(scripts, held[NEIGHBOUR])


@no_numbers
@pytest.mark.parametrize("field", ["crashes", "lost"])
def test_a_count_that_is_none_makes_a_dead_letter_of_a_lost_start(
    scripts: Scripts, held: dict[str, str], field: str, value: object
) -> None:
    flip_record(scripts, field, value)
    entries = [f"{task}:{lease}" for task, lease in held.items()]

    answer = scripts.run("rescue_worker", scripts.now, "w", 0, 1, "default", *entries)

    assert dict(zip(answer[::2], answer[1::2], strict=True)) == {VICTIM: "damaged", NEIGHBOUR: "ready"}
    assert_dead(scripts, field)
    finish_neighbour(scripts, dict(scripts.lease())[NEIGHBOUR])


@bad_values
@pytest.mark.parametrize("end", ["ack", "dead letter"])
def test_a_member_that_does_not_know_its_batch_counts_by_its_id(
    scripts: Scripts, held: dict[str, str], end: str, value: object
) -> None:
    flip_record(scripts, "batch", value)
    raw: Any = b"" if value is MISSING else value

    if end == "ack":
        scripts.run("ack_tasks", scripts.now, VICTIM, held[VICTIM], raw, "", "", *ack_of(held))
    else:
        scripts.run("dead_letter_task", scripts.now, VICTIM, held[VICTIM], "", "")
        scripts.run("ack_tasks", scripts.now, *ack_of(held))
    scripts.run("sweep_batches", scripts.now, 0, 0, 1000)

    lost = {"cancelled": 1} if raw == b"" else {"done": 2}
    assert scripts.counts("b") == {"total": 2, "done": 1, **(lost if end == "ack" else {"failed": 1})}
    assert scripts.is_finished("b")
    assert scripts.ready() == ["default_end"]


def ack_of(held: dict[str, str]) -> tuple[str, ...]:
    return NEIGHBOUR, held[NEIGHBOUR], "b:1", "", ""


def test_a_named_member_that_does_not_know_its_batch_is_found_by_the_sweep(scripts: Scripts) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill_with("b", ["default_own-name"])
    scripts.seal("b")
    [(task, lease)] = scripts.lease()
    scripts.redis.hset(store.record_key(task), "batch", "x")
    scripts.run("dead_letter_task", scripts.now, task, lease, "", "")
    assert not scripts.is_finished("b")

    for _ in range(2):
        scripts.run("sweep_batches", scripts.now, 0, 0, 1000)

    assert scripts.counts("b") == {"total": 1, "failed": 1}
    assert scripts.ready() == ["default_end"]


@bad_values
def test_a_damaged_tombstone_keeps_nobody_from_ending(scripts: Scripts, value: object) -> None:
    leases = [(task, scripts.leased(task, tombstone=9)) for task in ("default_a", "default_b")]
    raw: Any = b"" if value is MISSING else value
    args = [part for task, lease in leases for part in (task, lease, "", raw, "")]

    assert scripts.run("ack_tasks", scripts.now, *args) == [1, 1]

    assert [scripts.state(task) for task, _ in leases] == ["gone", "gone"]


def test_a_foreign_id_in_our_list_is_a_dead_letter(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.redis.hset(f"{store.RQ}job:foreign", mapping={"status": "queued", "eta": "1", "data": "x"})
    scripts.redis.lpush(store.ready_key("default"), "foreign")

    assert [task for task, _ in scripts.lease()] == ["default_a"]

    assert scripts.record("foreign")["error"] == "damaged: its id is not valid in this queue"


# --- keys of the wrong type -----------------------------------------------------------------


@pytest.mark.parametrize("state", ["ready", "scheduled", "leased", "retried", "dead"])
def test_a_record_of_the_wrong_type_is_moved_aside_and_its_task_dead(scripts: Scripts, state: str) -> None:
    scripts.open_batch("b", complete="default_end")
    scripts.fill("b", 2, countdown=1 if state == "scheduled" else None)
    scripts.seal("b")
    leases = dict(scripts.lease()) if state not in ("ready", "scheduled") else {}
    write_over(scripts.redis, store.record_key(VICTIM))
    scripts.clock.advance(LEASE_SECONDS + 1)

    if state == "retried":
        scripts.run("retry_task", VICTIM, leases[VICTIM], scripts.now, 500, scripts.now, 1)
    elif state == "dead":
        scripts.run("dead_letter_task", scripts.now, VICTIM, leases[VICTIM], "", "")
    scripts.run("maintain_queues", scripts.now, 100, 1, "default")
    leases = dict(scripts.lease())

    assert set(leases) == {NEIGHBOUR}
    assert_dead(scripts, "its record was a string, not a hash")
    aside = store.ASIDE_PREFIX + store.record_key(VICTIM)
    assert scripts.redis.get(aside) == b"another program's"
    assert 0 < scripts.redis.ttl(aside) <= 30 * 86_400
    finish_neighbour(scripts, leases[NEIGHBOUR])


KEYS = [
    f"{store.RQ}queue:other",
    f"{store.RQ}wip:default",
    f"{store.RQ}scheduled:default",
    f"{store.RQ}failed:default",
    f"{store.RQ}queues",
    f"{store.OWN}queue:other",
    f"{store.OWN}bucket:default",
    f"{store.OWN}wakeup:default",
    f"{store.OWN}paused",
    f"{store.OWN}services",
    f"{store.OWN}queues",
    f"{store.OWN}upload",
    f"{store.OWN}run-now:default",
    f"{store.OWN}batches",
    f"{store.OWN}batch:b",
    f"{store.OWN}batch:b:added",
    f"{store.OWN}batch:b:finished",
    f"{store.OWN}batch:b:failed",
    f"{store.OWN}batch:b:children",
    f"{store.OWN}batch:b:names",
    f"{store.OWN}tombstone:default_a",
]


@pytest.mark.parametrize("key", KEYS)
def test_no_key_of_the_wrong_type_keeps_other_tasks_from_being_done(scripts: Scripts, key: str) -> None:
    scripts.sealed_batch("b", 1, complete="default_end")
    scripts.redis.delete(key)
    is_text = key.startswith((f"{store.OWN}tombstone:", f"{store.OWN}batch:b:"))
    (scripts.redis.rpush if is_text else scripts.redis.set)(key, "another program's")
    scripts.add("default_a")
    scripts.add("other_a")

    done: set[str] = set()
    for _ in range(3):
        scripts.run("maintain_queues", scripts.now, 100, 1, "default", "other")
        scripts.run("reroute_tasks", 100, 0, "default", "other")
        scripts.run("sweep_foreign", 100, 0, "default", "other")
        scripts.run("sweep_batches", scripts.now, 0, 0, 1000)
        leases = scripts.lease("default", "other")
        scripts.ack(*leases)
        done |= {task for task, _ in leases}

    assert "default_a" in done
    if key not in (f"{store.RQ}queue:other", f"{store.OWN}queue:other"):
        assert "other_a" in done
    if key not in (f"{store.OWN}queues", f"{store.OWN}services"):
        assert scripts.redis.exists(store.ASIDE_PREFIX + key) == 1
        assert any(key in text for text in scripts.store.take_damages())


# --- batches --------------------------------------------------------------------------------


@bad_values
@pytest.mark.parametrize("field", ["total", "done", "failed", "cancelled", "sealed"])
def test_a_damaged_batch_completes_once_with_the_right_counts(
    scripts: Scripts, field: str, value: object
) -> None:
    scripts.sealed_batch("b", 5, complete="default_end")
    leases = scripts.lease()
    scripts.ack(*leases[:2])
    task, lease = leases[2]
    scripts.run("dead_letter_task", scripts.now, task, lease, 500, "")
    flip(scripts.redis, store.batch_key("b"), field, value)

    assert scripts.ack(*leases[3:]) == [1, 1]
    scripts.run("sweep_batches", scripts.now, 0, 0, 1000)
    scripts.run("sweep_batches", scripts.now, 0, 0, 1000)

    assert scripts.counts("b") == {"total": 5, "done": 4, "failed": 1}
    assert scripts.is_finished("b")
    assert scripts.ready() == ["default_end"]


@bad_values
@pytest.mark.parametrize("field", ["on_complete", "on_success", "parent", "queue", "created_at"])
def test_no_damaged_field_of_a_batch_keeps_an_ack_from_ending_its_tasks(
    scripts: Scripts, field: str, value: object
) -> None:
    scripts.sealed_batch("b", 1)
    flip(scripts.redis, store.batch_key("b"), field, value)
    scripts.add("default_a")
    leases = scripts.lease()

    assert scripts.ack(*leases) == [1, 1]

    assert scripts.is_finished("b")
    scripts.run("sweep_batches", scripts.now, 0, 0, 1000)


@no_numbers
def test_a_damaged_count_of_children_lets_the_parent_go_on(scripts: Scripts, value: object) -> None:
    scripts.sealed_batch("p", 1, complete="default_end")
    [lease] = scripts.lease()
    assert scripts.open_batch("b", parent="p:0") == 1
    flip(scripts.redis, store.batch_key("p") + ":children", "0", value)
    scripts.ack(lease)

    scripts.seal("b")

    assert scripts.is_finished("p")
    assert scripts.ready() == ["default_end"]


# --- settings and buckets -------------------------------------------------------------------


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize("field", ["rate", "bucket_size", "max_concurrent"])
def test_damaged_settings_are_asked_for_again_and_other_queues_go_on(
    scripts: Scripts, field: str, value: object
) -> None:
    scripts.add("default_a")
    scripts.add("other_a")
    flip(scripts.redis, store.settings_key("default"), field, value)

    leased, _, _, missing, *_ = scripts.ask_lease("default", "other")

    if (field, value) == ("max_concurrent", b""):
        assert missing == []
    else:
        assert missing == ["default"]
        assert [task[0] for task in leased] == ["other_a"]
        assert scripts.redis.exists(store.settings_key("default")) == 0
    scripts.configure("default")
    scripts.lease("default")
    assert scripts.ready() == []


@bad_values
@pytest.mark.parametrize("field", ["tokens", "counted_at"])
def test_a_damaged_bucket_is_a_new_one(scripts: Scripts, field: str, value: object) -> None:
    scripts.add("default_a", "default_b")
    scripts.lease(wanted=1)
    flip(scripts.redis, store.bucket_key("default"), field, value)

    assert [task for task, _ in scripts.lease()] == ["default_b"]


@bad_values
def test_a_damaged_life_of_dead_letters_is_the_usual_one(scripts: Scripts, value: object) -> None:
    flip(scripts.redis, store.settings_key("default"), "dead_letter_seconds", value)

    scripts.dead("default_a")

    assert scripts.redis.ttl(store.record_key("default_a")) == 30 * 86_400


@no_numbers
def test_a_damaged_count_of_attempts_harms_no_statistics(scripts: Scripts, value: object) -> None:
    second = f"{store.OWN}executed:default:{int(scripts.clock.now())}"
    scripts.redis.set(second, value)
    lease: Lease = ("default_a", scripts.leased("default_a"))

    assert scripts.ack(lease) == [1]

    assert scripts.run("read_statistics", scripts.now, "default")[0][0] == 0
