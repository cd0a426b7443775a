"""read_statistics: a queue's numbers at one instant."""

import pytest

from lastacross import store
from lastacross.broker import Broker
from lastacross.broker.answers import QueueNumbers
from tests.support.scripts import Scripts
from tests.support.uploads import upload


def numbers(scripts: Scripts, queue: str = "default") -> QueueNumbers:
    """What the broker makes of the answer."""
    return Broker(scripts.store).read_statistics(queue)[0]


def test_an_empty_queue(scripts: Scripts) -> None:
    upload(scripts.store)

    assert numbers(scripts) == QueueNumbers(0, 0, None, 0, 500.0, "push")


def test_a_queue_that_was_never_uploaded_has_no_rate(scripts: Scripts) -> None:
    assert numbers(scripts, "nowhere") == QueueNumbers(0, 0, None, 0, None, "")


def test_tasks_are_counted_wherever_they_are(scripts: Scripts) -> None:
    upload(scripts.store, services=["counter"])
    scripts.leased("default_leased")
    scripts.dead("default_dead")
    scripts.add("default_ready")
    scripts.add("default_aside", target="counter")
    scripts.add("default_scheduled", "default_now", countdown=60)
    scripts.run("run_task", "default_now", scripts.now)
    scripts.add("other_one")

    found = numbers(scripts)

    assert (found.tasks, found.leased) == (5, 1)


def test_a_ready_task_that_is_to_run_now_is_counted_once(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b")
    scripts.run("run_task", "default_a", scripts.now)

    assert numbers(scripts).tasks == 2


@pytest.mark.parametrize("where", ["ready", "aside", "leased", "scheduled", "now"])
def test_the_oldest_eta_may_be_of_any_task(scripts: Scripts, where: str) -> None:
    upload(scripts.store, services=["counter"])
    eta = scripts.clock.now()
    if where == "leased":
        scripts.leased("default_old")
    elif where in ("scheduled", "now"):
        eta += 5
        scripts.add("default_old", countdown=5, eta=f"{eta:.6f}")
        if where == "now":
            scripts.run("run_task", "default_old", scripts.now)
    elif where == "aside":
        scripts.add("default_old", target="counter")
    else:
        scripts.add("default_old")
    scripts.clock.advance(10)
    scripts.add("default_young", "default_younger")

    assert numbers(scripts).oldest_eta == eta


def test_attempts_of_the_last_minute_are_counted_however_they_ended(scripts: Scripts) -> None:
    for number in range(4):
        name = f"default_{number}"
        lease = scripts.leased(name)
        later = f"{scripts.clock.now() + 1000:.6f}"
        if number == 0:
            scripts.run("retry_task", name, lease, later, 500, scripts.now, 1)
        elif number == 1:
            scripts.run("dead_letter_task", scripts.now, name, lease, 500, "no")
        else:
            scripts.ack((name, lease))
        scripts.clock.advance(10)

    counts = []
    for _ in range(8):
        counts.append(numbers(scripts).executed_last_minute)
        scripts.clock.advance(10)

    assert counts == [4, 4, 3, 2, 1, 0, 0, 0]


def test_an_ack_under_a_lost_lease_and_another_queues_tasks_do_not_count(scripts: Scripts) -> None:
    scripts.leased("default_a")
    scripts.ack(("default_a", "somebody.1"))
    scripts.ack(("other_a", scripts.leased("other_a")))

    assert numbers(scripts).executed_last_minute == 0
    assert numbers(scripts, "other").executed_last_minute == 1


def test_the_counters_are_forgotten(scripts: Scripts) -> None:
    scripts.ack(("default_a", scripts.leased("default_a")))

    [key] = scripts.redis.keys(store.EXECUTED_PREFIX + "*")

    assert 60 < scripts.redis.ttl(key) <= 120


@pytest.mark.parametrize("why", ["paused", "disabled", "suspended"])
def test_the_enforced_rate_is_0_while_nothing_is_handed_out(scripts: Scripts, why: str) -> None:
    upload(scripts.store)
    if why == "paused":
        scripts.run("pause_queue", "default", 1)
    elif why == "disabled":
        upload(scripts.store, ["other"])
    else:
        scripts.redis.set(store.RQ_SUSPENDED, 1)

    assert numbers(scripts).rate == 0.0


def test_reading_changes_nothing(scripts: Scripts) -> None:
    scripts.leased("default_leased")
    scripts.add("default_ready")
    before = {key: scripts.redis.dump(key) for key in scripts.redis.scan_iter()}

    numbers(scripts)

    assert {key: scripts.redis.dump(key) for key in scripts.redis.scan_iter()} == before
