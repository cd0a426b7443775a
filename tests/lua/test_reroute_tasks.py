"""Ready tasks that wait in the wrong place are sent on; deleting and purging find them wherever they are."""

from collections.abc import Sequence
from typing import Any

import pytest

from lastacross import store
from lastacross.broker.steps import Broker
from lastacross.store import Arg
from tests.support.places import FIXED, NOWHERE, PLAIN, Queues, add_for, is_woken, lease, leased, lists
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.fixture
def scripts(scripts: Scripts) -> Scripts:
    """The scripts, with the services "counter" and "mail" beside the default one."""
    scripts.redis.flushall()
    upload(scripts.store, PLAIN, services=["counter", "mail"])
    return scripts


def test_tasks_of_an_unknown_service_wait_for_the_default_one_until_it_comes(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b", target="late")
    scripts.add("default_c")
    scripts.run("register_service", "late")
    is_woken(scripts, "late")

    assert lease(scripts, "default", "default") == ["default_c"]

    assert lists(scripts) == {"default.late": ["default_a", "default_b"]}
    assert is_woken(scripts, "late")
    assert lease(scripts, "late", "default.late") == ["default_a", "default_b"]


def test_what_is_sent_on_takes_no_token(scripts: Scripts) -> None:
    upload(scripts.store, {"default": {"rate": "0.001", "bucket_size": "1"}}, services=[])
    scripts.redis.delete(store.SERVICES)
    scripts.add("default_a", target="late")
    scripts.run("register_service", "late")
    assert lease(scripts, "default", "default") == NOWHERE

    assert lease(scripts, "late", "default.late") == ["default_a"]


CHANGES = [
    # before, after, the task's target, who leases it, from which lists
    (PLAIN, FIXED, "", "counter", ["default"]),
    (PLAIN, FIXED, "mail", "counter", ["default"]),
    (PLAIN, FIXED, "counter", "counter", ["default"]),
    (PLAIN, FIXED, "!mail", "mail", ["default.mail"]),
    (FIXED, PLAIN, "", "default", ["default"]),
    (FIXED, PLAIN, "mail", "mail", ["default.mail"]),
    (FIXED, PLAIN, "!default", "default", ["default"]),
    (FIXED, {"default": {"target": "mail"}}, "", "mail", ["default"]),
    (FIXED, {"default": {"target": "mail"}}, "!counter", "counter", ["default.counter"]),
]


@pytest.mark.parametrize(("before", "after", "target", "group", "names"), CHANGES)
@pytest.mark.parametrize("by", ["leases", "upkeep"])
def test_a_changed_target_of_the_queue_counts_for_what_waits(
    scripts: Scripts,
    *,
    before: Queues,
    after: Queues,
    target: str,
    group: str,
    names: list[str],
    by: str,
) -> None:
    """Sent on by the lease of whoever serves the list, or by any worker's upkeep."""
    upload(scripts.store, before, services=["counter", "mail"])
    add_for(target, scripts)
    upload(scripts.store, after, services=["counter", "mail"])

    found: list[str] = []
    if by == "upkeep":
        Broker(scripts.store).reroute(["default"])
    else:
        for each in ("default", "counter", "mail"):
            # The whole of what runtime.serving lets a worker of this group look at.
            own = str(scripts.redis.hget(store.settings_key("default"), "group").decode()) == each
            taken = lease(scripts, each, *(["default"] if own else []), f"default.{each}")
            assert taken == NOWHERE or each == group
            found += taken
    found += lease(scripts, group, *names)

    assert found == ["default_a"]
    assert lists(scripts) == {}


def test_a_dead_letter_that_rq_requeues_is_sent_to_its_service(scripts: Scripts) -> None:
    """RQ puts it into the list of its origin, whoever serves that."""
    scripts.add("default_a", target="counter")
    scripts.groups = ["counter"]
    [(task_id, lease_id)] = scripts.lease("default.counter")
    scripts.run("dead_letter_task", scripts.now, task_id, lease_id, 500, "no")
    scripts.redis.zrem(store.dead_key("default"), task_id)
    scripts.redis.hset(store.record_key(task_id), "status", "queued")
    scripts.redis.rpush(store.ready_key("default"), task_id)

    # No worker of the default service runs.
    assert Broker(scripts.store).reroute(["default", "other"]) == 1

    assert lists(scripts) == {"default.counter": ["default_a"]}
    assert is_woken(scripts, "counter")


def test_sending_on_leaves_alone_what_is_in_its_place(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b")
    scripts.add("default_c", target="counter")
    before = lists(scripts)

    assert Broker(scripts.store).reroute(["default"]) == 0

    assert lists(scripts) == before


def test_in_a_long_list_every_task_is_looked_at_in_time(scripts: Scripts) -> None:
    ids = [f"default_{number}" for number in range(1000)]
    for first in range(0, 1000, 100):
        scripts.add(*ids[first : first + 100])
    wrong = [f"default_{number}" for number in (0, 99, 100, 555, 899, 900, 999)]
    for each in wrong:
        scripts.redis.hset(store.record_key(each), "target", "counter")

    for sweep in range(10):
        Broker(scripts.store).reroute(["default"], sweep * 100)

    assert sorted(scripts.ready("default.counter")) == sorted(wrong)
    assert scripts.ready() == [each for each in ids if each not in wrong]


def test_tasks_of_a_backend_that_there_is_no_more_go_to_the_default_service(scripts: Scripts) -> None:
    upload(scripts.store, backends=["gone"])
    ids = [f"default_{number}" for number in range(350)]
    for first in range(0, 350, 50):
        scripts.add(*ids[first : first + 50], target="gone")
    upload(scripts.store)

    while Broker(scripts.store).reroute(["default"]):
        pass

    assert sorted(scripts.ready()) == sorted(ids)
    assert lists(scripts).keys() == {"default"}


def test_a_missing_record_in_a_list_that_nobody_serves_does_not_stay_there(scripts: Scripts) -> None:
    scripts.redis.sadd(store.RQ_QUEUES, f"{store.RQ}queue:default.gone")
    scripts.redis.rpush(store.ready_key("default.gone"), "default_none")

    Broker(scripts.store).reroute(["default"])
    assert lease(scripts, "default", "default") == NOWHERE

    assert lists(scripts) == {}


PULLED = {"default": {"mode": "pull"}}


def lease_as_pull_queue(scripts: Scripts, seconds: float = 10) -> list[str]:
    """The names that a client of the pull queue "default" is given, a second later."""
    scripts.clock.advance(1)
    tasks, _ = scripts.run("lease_pull_tasks", scripts.now, "default", seconds, 1000, "", "", "r")
    return [task[0] for task in tasks]


def test_what_was_leased_while_the_queue_was_a_pull_queue_is_delivered_after_its_lease(
    scripts: Scripts,
) -> None:
    scripts.add("default_a", description="POST /a")
    scripts.add("default_b", description="POST /b", target="counter")
    upload(scripts.store, PULLED, services=["counter"])
    Broker(scripts.store).reroute(["default"])
    assert sorted(lease_as_pull_queue(scripts)) == ["a", "b"]
    upload(scripts.store, PLAIN, services=["counter"])

    assert Broker(scripts.store).reroute(["default"]) == 2
    scripts.run("promote_due", scripts.now, 100, "default")
    assert lists(scripts) == {}
    scripts.clock.advance(11)
    scripts.run("promote_due", scripts.now, 100, "default")

    assert lists(scripts) == {"default": ["default_a"], "default.counter": ["default_b"]}
    assert scripts.redis.exists(store.pull_key("default"), store.pull_leased_key("default")) == 0
    assert lease(scripts, "default", "default") == ["default_a"]


def test_who_leased_it_from_the_pull_queue_may_still_delete_it(scripts: Scripts) -> None:
    scripts.add("default_a", description="POST /a")
    upload(scripts.store, PULLED)
    assert lease_as_pull_queue(scripts) == ["a"]
    upload(scripts.store, PLAIN)
    Broker(scripts.store).reroute(["default"])

    assert scripts.run("delete_tasks", scripts.now, "default_a") == [1]

    scripts.clock.advance(11)
    assert scripts.run("promote_due", scripts.now, 100, "default") == [0, ""]
    assert lists(scripts) == {}


def test_a_pull_task_stays_where_it_is_while_its_queue_is_a_push_queue(scripts: Scripts) -> None:
    upload(scripts.store, PULLED)
    strings = ["origin", "default", "description", "PULL "]
    scripts.run("add_pull_tasks", "default_p", scripts.now, len(strings), *strings)
    upload(scripts.store, PLAIN)

    assert Broker(scripts.store).reroute(["default"]) == 0

    assert scripts.redis.zrange(store.pull_key("default"), 0, -1) == [b"p"]


def test_a_pull_queue_hands_out_what_waited_for_another_service(scripts: Scripts) -> None:
    scripts.add("default_a", description="POST /a", target="counter")
    assert lists(scripts) == {"default.counter": ["default_a"]}
    upload(scripts.store, PULLED, services=["counter"])

    assert Broker(scripts.store).reroute(["default"]) == 1

    assert lease_as_pull_queue(scripts) == ["a"]
    assert lists(scripts) == {}


# --- on request ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["delete", "purge"])
def test_deleting_and_purging_find_what_waits_beside_the_queue(scripts: Scripts, how: str) -> None:
    scripts.add("default_a", target="counter", tombstone="60")

    if how == "delete":
        assert scripts.run("delete_tasks", scripts.now, "default_a") == [1]
    else:
        assert scripts.run("purge_queue", scripts.now, "default", 1000, scripts.now) == 1

    assert lists(scripts) == {}
    assert scripts.tombstone_seconds("default_a") == 60
    assert scripts.record("default_a") == {}


def test_deleting_finds_a_task_that_waits_in_the_wrong_list(scripts: Scripts) -> None:
    scripts.add("default_a", target="late")
    scripts.run("register_service", "late")
    assert lists(scripts) == {"default": ["default_a"]}

    assert scripts.run("delete_tasks", scripts.now, "default_a") == [1]

    assert lists(scripts) == {}


def test_purging_finds_the_lists_of_services_that_there_are_no_more(scripts: Scripts) -> None:
    upload(scripts.store, backends=["gone"])
    scripts.add("default_a", target="gone")
    upload(scripts.store)

    assert Broker(scripts.store).purge("default") == 1

    assert lists(scripts) == {}


def test_a_queue_whose_name_begins_like_another_is_another(scripts: Scripts) -> None:
    upload(scripts.store, {"default": {}, "default-2": {}}, services=["counter"])
    scripts.add("default-2_a", target="counter")

    assert Broker(scripts.store).purge("default") == 0
    assert lists(scripts) == {"default-2.counter": ["default-2_a"]}


def test_cancelling_a_batch_drops_members_that_wait_beside_the_queue(scripts: Scripts) -> None:
    scripts.open_batch("b")
    scripts.fill_with("b", ["default_a", "default_b"], target="counter")

    assert scripts.run("cancel_batch", scripts.now, "b", 0, 1000) == -1

    assert scripts.counts("b") == {"total": 2, "cancelled": 2}
    assert lease(scripts, "counter", "default.counter") == NOWHERE


def test_a_dead_letter_stays_one_whatever_becomes_of_its_target(scripts: Scripts) -> None:
    held = leased(scripts)
    scripts.run("dead_letter_task", scripts.now, "default_a", held, 500, "no")

    upload(scripts.store, FIXED, services=["counter", "mail"])
    Broker(scripts.store).reroute(["default"])

    assert scripts.state("default_a") == "dead"
    scripts.run("run_task", "default_a", scripts.now)
    assert lease(scripts, "counter", "default") == ["default_a"]


@pytest.mark.parametrize("step", ["reroute", "sweep_foreign"])
def test_of_many_queues_a_few_are_looked_at_in_a_script(
    scripts: Scripts, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred of them, each with its lists, would hold up everybody for a tenth of a second."""
    queues = [f"queue-{number:02}" for number in range(25)]
    upload(scripts.store, queues, services=["counter"])
    asked: list[list[Arg]] = []
    run = scripts.store.run

    def noted(name: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        asked.append([arg for arg in args if arg in queues])
        return run(name, keys, args)

    monkeypatch.setattr(scripts.store, "run", noted)

    assert not getattr(Broker(scripts.store), step)(queues)

    assert [len(part) for part in asked] == [10, 10, 5]
    assert [queue for part in asked for queue in part] == queues
