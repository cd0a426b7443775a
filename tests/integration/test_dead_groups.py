"""Dead letters are counted by handler, answer and reason in the step that makes or ends them."""

from typing import Any

import pytest

from lastacross import store, taskqueue
from lastacross.broker import Broker, DeadGroups
from lastacross.store import Store
from lastacross.taskqueue import Queue, Task
from lastacross.worker.maintenance import Maintenance
from tests.support.clock import StoppedClock
from tests.support.interference import retry_before_deletions
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.fixture
def groups(scripts: Scripts) -> DeadGroups:
    """The groups of the queues "default" and "other", and of the pull queue "work"."""
    upload(scripts.store, {"default": {}, "other": {}, "work": {"mode": "pull"}})
    return DeadGroups(scripts.store)


def die(
    scripts: Scripts,
    name: str,
    reason: str = "ValueError: no",
    *,
    url: str = "/work",
    queue: str = "default",
    handler: str = "",
) -> None:
    """Make a dead letter."""
    Queue(queue).add(Task(url=url, name=name, method="GET"))
    [(task, lease)] = scripts.lease(queue)
    assert scripts.run("dead_letter_task", scripts.now, task, lease, 500, reason, "{}", handler) == 1


def counted(groups: DeadGroups) -> list[tuple[str, str, str, int]]:
    """The groups without their ids and times."""
    return [(each.handler, each.status, each.reason, each.letters) for each in groups.all()]


def only(groups: DeadGroups) -> str:
    """The id of the only group."""
    [group] = groups.all()
    return group.id


def sets(opened: Store) -> dict[str, int]:
    """The sizes of the groups' sets in Redis, by group."""
    keys: Any = opened.redis.keys(store.DEAD_GROUP_PREFIX + "*")
    redis: Any = opened.redis
    return {key.decode().removeprefix(store.DEAD_GROUP_PREFIX): redis.zcard(key) for key in keys}


# --- counting --------------------------------------------------------------------------------


def test_letters_of_all_queues_are_counted_by_handler_answer_and_reason(
    groups: DeadGroups, scripts: Scripts, clock: StoppedClock
) -> None:
    die(scripts, "a", "KeyError: 'x17'", url="/orders/17?page=2")
    die(scripts, "b", "KeyError: 'y18'", url="/orders/18", queue="other")
    clock.advance(5)
    die(scripts, "c", "answered 500: line 12 of job-8f3a failed\nmore", url="/report")

    assert counted(groups) == [
        ("/orders/*", "500", "KeyError: '*'", 2),
        ("/report", "500", "answered 500: line # of job-# failed", 1),
    ]
    assert [each.newest_at for each in groups.all()] == [clock.now() - 5, clock.now()]


def test_a_long_word_without_a_digit_costs_no_more_than_a_short_one(
    groups: DeadGroups, scripts: Scripts
) -> None:
    microseconds = {}
    for length in (4, 400):
        Queue().add([Task(url="/work", name=f"t{length}-{number}") for number in range(50)])
        leases = scripts.lease()
        scripts.redis.config_resetstat()
        for task, lease in leases:
            scripts.run("dead_letter_task", scripts.now, task, lease, 500, "x" * length)
        calls = scripts.redis.info("commandstats")
        microseconds[length] = sum(
            each["usec"] for name, each in calls.items() if name in ("cmdstat_evalsha", "cmdstat_fcall")
        )

    assert sorted(len(each.reason) for each in groups.all()) == [4, 200]
    assert 0 < microseconds[400] < 10 * microseconds[4], microseconds


def test_the_status_in_a_reason_stays(groups: DeadGroups, scripts: Scripts) -> None:
    die(scripts, "a", "answered 404")
    die(scripts, "b", "answered 404 after 3 redirects of a_b2c")

    reasons = {each.reason for each in groups.all()}

    assert reasons == {"answered 404", "answered 404 after # redirects of #"}


def test_the_handlers_name_comes_before_the_url(groups: DeadGroups, scripts: Scripts) -> None:
    die(scripts, "a", url="/_ah/queue/deferred", handler="shop.mail.send")

    assert counted(groups) == [("shop.mail.send", "500", "ValueError: no", 1)]


def test_poison_has_no_answer(groups: DeadGroups, scripts: Scripts, clock: StoppedClock) -> None:
    taskqueue.add(url="/work", name="a")
    broker = Broker(scripts.store)
    outcomes = []
    for number in range(5):
        [task] = broker.lease(["default"], token="w", number=number, wanted=1, free=1, lease_seconds=8).tasks
        outcomes.append(broker.crash(task))

    assert outcomes[-1] == "poison"
    assert counted(groups) == [
        ("/work", "", "poison: its worker process ended # times in a row while it ran", 1)
    ]


def test_a_damaged_record_is_counted(groups: DeadGroups, scripts: Scripts) -> None:
    taskqueue.add(url="/work", name="a")
    scripts.redis.hset(store.record_key("default_a"), "status", "odd")
    scripts.lease()

    assert counted(groups) == [("/work", "", "damaged: its status is '*', which no task has", 1)]


def test_a_retried_letter_leaves_its_group(groups: DeadGroups, scripts: Scripts) -> None:
    die(scripts, "a")
    die(scripts, "b")

    Queue().retry_dead(["a"])
    assert [each.letters for each in groups.all()] == [1]
    Queue().run_now("b")

    assert (groups.all(), sets(scripts.store)) == ([], {})
    assert "dead_group" not in scripts.record("default_a")


def test_a_deleted_letter_leaves_its_group(groups: DeadGroups, scripts: Scripts) -> None:
    die(scripts, "a")

    Queue().delete_tasks_by_name("a")

    assert (groups.all(), sets(scripts.store)) == ([], {})


def requeue(scripts: Scripts, task: str) -> None:
    """Put a dead letter back into its queue, as RQ's tools do."""
    scripts.redis.zrem(store.dead_key("default"), task)
    scripts.redis.hset(store.record_key(task), "status", "queued")
    scripts.redis.rpush(store.ready_key("default"), task)


def test_a_letter_that_rq_requeues_leaves_its_group_with_its_lease(
    groups: DeadGroups, scripts: Scripts
) -> None:
    die(scripts, "a")
    requeue(scripts, "default_a")

    assert len(scripts.lease()) == 1

    assert (groups.all(), sets(scripts.store)) == ([], {})


def test_a_letter_that_rq_requeues_leaves_its_group_with_a_purge(
    groups: DeadGroups, scripts: Scripts
) -> None:
    die(scripts, "a")
    requeue(scripts, "default_a")

    Queue().purge()

    assert (groups.all(), sets(scripts.store)) == ([], {})


def test_a_letter_that_rq_requeues_leaves_its_group_when_it_is_deleted(
    groups: DeadGroups, scripts: Scripts
) -> None:
    die(scripts, "a")
    requeue(scripts, "default_a")

    assert Broker(scripts.store).delete(["default_a"]) == [True]

    assert (groups.all(), sets(scripts.store)) == ([], {})


def test_a_letter_leaves_its_group_when_its_name_is_used_again(groups: DeadGroups, scripts: Scripts) -> None:
    die(scripts, "a")
    scripts.redis.delete(store.tombstone_key("default_a"))

    taskqueue.add(url="/work", name="a")

    assert groups.all() == []


def test_a_pull_task_is_counted_and_leaves(groups: DeadGroups, scripts: Scripts) -> None:
    Queue("work").add(Task("x", method="PULL", name="a"))
    scripts.run("dead_letter_pull_task", scripts.now, "work", "a", "its body is unreadable")
    assert counted(groups) == [("", "", "damaged: its body is unreadable", 1)]

    Queue("work").retry_dead(["a"])

    assert groups.all() == []


def test_the_number_of_groups_is_bounded(groups: DeadGroups, scripts: Scripts) -> None:
    for number in range(1000):
        scripts.redis.hset(store.DEAD_GROUPS, f"g{number}", '1 1.0 ["/x","500","y"]')
    die(scripts, "a", "one")
    die(scripts, "b", "two")

    last = groups.all()[-1]

    assert (len(groups.all()), last.id, last.letters, last.is_other) == (1001, "other", 2, True)
    assert [task.name for task in groups.letters("other")] == ["b", "a"]


# --- the sweep -------------------------------------------------------------------------------


def sweep(groups: DeadGroups) -> None:
    """Do what a worker's sweep does."""
    Maintenance(Broker(groups.store), ["default", "other"], groups.store.clock).run_due()


def test_letters_of_the_former_release_are_counted_by_the_sweep(groups: DeadGroups, scripts: Scripts) -> None:
    die(scripts, "a")
    die(scripts, "b")
    expected = counted(groups)
    scripts.redis.delete(store.DEAD_GROUPS, store.dead_group_key(only(groups)))
    scripts.redis.hdel(store.record_key("default_a"), "dead_group")
    assert groups.all() == []

    sweep(groups)

    assert counted(groups) == expected


def test_letters_that_other_programs_ended_leave_in_the_sweep(groups: DeadGroups, scripts: Scripts) -> None:
    for name in "abc":
        die(scripts, name)
    scripts.redis.delete(store.record_key("default_a"))
    scripts.redis.hset(store.record_key("default_b"), "status", "queued")
    assert groups.all()[0].letters == 3

    sweep(groups)

    assert [(each.letters, [task.name for task in groups.letters(each.id)]) for each in groups.all()] == [
        (1, ["c"])
    ]


def test_expired_letters_leave_in_the_sweep(
    groups: DeadGroups, scripts: Scripts, clock: StoppedClock
) -> None:
    die(scripts, "a")
    clock.advance(10 * 86400)
    die(scripts, "b", "another reason")
    clock.advance(20 * 86400 + 1)
    scripts.redis.delete(store.record_key("default_a"))

    sweep(groups)

    assert [(each.reason, each.letters) for each in groups.all()] == [("another reason", 1)]


def test_a_sweep_checks_a_bounded_number_of_letters_and_goes_on(
    groups: DeadGroups, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde":
        die(scripts, name)
        scripts.redis.delete(store.record_key(f"default_{name}"))
    die(scripts, "f")
    die(scripts, "g", "another reason")
    monkeypatch.setattr("lastacross.broker.dead_groups._SWEEP_LETTERS", 2)

    seen, cursor = [], (0, 0)
    for _ in range(9):
        cursor = groups.sweep(*cursor)
        seen.append(sum(each.letters for each in groups.all()))

    assert seen[-1] == 2
    assert all(before - after <= 2 for before, after in zip([7, *seen], seen, strict=False))


# --- pages and bulk actions -------------------------------------------------------------------


def test_letters_are_read_by_pages_newest_first(
    groups: DeadGroups, scripts: Scripts, clock: StoppedClock
) -> None:
    for name in "abcde":
        die(scripts, name)
        clock.advance(1)

    pages = [[task.name for task in groups.letters(only(groups), first, 2)] for first in (0, 2, 4)]

    assert pages == [["e", "d"], ["c", "b"], ["a"]]
    [task] = groups.letters(only(groups), 0, 1)
    assert (task.state, task.error, task.url) == ("dead", "ValueError: no", "/work")


def test_a_group_is_retried_in_bounded_steps_that_end(
    groups: DeadGroups, scripts: Scripts, clock: StoppedClock
) -> None:
    for number in range(120):
        die(scripts, f"t{number}")
    group, began_at = only(groups), clock.now() + 1
    clock.advance(2)

    assert groups.retry_some(group, began_at) == 100
    # One of them fails again at once.
    [(task, lease)] = scripts.lease(wanted=1)
    scripts.run("dead_letter_task", scripts.now, task, lease, 500, "ValueError: no")

    assert groups.retry_some(group, began_at) == 20
    assert groups.retry_some(group, began_at) == 0
    assert (groups.all()[0].letters, scripts.state(task)) == (1, "dead")


def test_a_group_is_deleted(groups: DeadGroups, scripts: Scripts, clock: StoppedClock) -> None:
    for name in "abc":
        die(scripts, name)
    # RQ's tools have deleted this one.
    scripts.redis.delete(store.record_key("default_a"))
    group = only(groups)

    assert groups.delete_some(group, clock.now() + 1) == 3
    assert groups.delete_some(group, clock.now() + 1) == 0
    assert (groups.find(group), sets(scripts.store)) == (None, {})


def test_a_letter_that_is_retried_meanwhile_is_not_deleted_with_its_group(
    groups: DeadGroups, scripts: Scripts, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        die(scripts, name)
    group = only(groups)
    retry_before_deletions(monkeypatch, "default_b")

    groups.delete_some(group, clock.now() + 1)

    assert [scripts.state(f"default_{name}") for name in "abc"] == ["gone", "ready", "gone"]
    assert (groups.find(group), sets(scripts.store)) == (None, {})


def test_an_id_that_is_not_utf8_does_not_hold_up_a_group(
    groups: DeadGroups, scripts: Scripts, clock: StoppedClock
) -> None:
    die(scripts, "a")
    group = only(groups)
    scripts.redis.zadd(store.dead_group_key(group), {b"default_\xff": 1})

    assert [task.name for task in groups.letters(group)] == ["a"]
    assert groups.retry_some(group, clock.now() + 1) == 2
    assert groups.retry_some(group, clock.now() + 1) == 0
    assert groups.all() == []


def test_a_damaged_group_is_not_shown(groups: DeadGroups, scripts: Scripts) -> None:
    for number, value in enumerate([b"\xff", b"", b"1 2 3", b'x 1 ["","",""]', b'1 1 ["",""]']):
        scripts.redis.hset(store.DEAD_GROUPS, f"g{number}", value)

    assert groups.all() == []
    assert groups.find("nowhere") is None
