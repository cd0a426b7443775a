"""What a worker serves: it follows the uploads, and makes itself known again."""

import pytest
import rq

from lastacross import store
from lastacross.broker import queue_directory
from lastacross.broker.steps import Broker
from lastacross.store import Store
from lastacross.worker.leasing import Serving, groups_of
from lastacross.worker.maintenance import Maintenance
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.mark.parametrize(
    ("service", "urls", "groups"),
    [
        ("default", {}, ["default"]),
        ("default", {"mail": "http://m", "counter": "http://c"}, ["default", "counter", "mail"]),
        ("counter", {}, ["counter"]),
        ("counter", {"mail": "http://m"}, ["counter"]),
        ("default", {"default": "http://d"}, ["default"]),
    ],
)
def test_a_services_own_workers_serve_it_alone(service: str, urls: dict[str, str], groups: list[str]) -> None:
    assert groups_of(service, urls) == groups


def serving(opened: Store, *groups: str, only: tuple[str, ...] = ()) -> Serving:
    """What a worker of these groups serves."""
    return Serving(queue_directory.of(opened), groups or ("default",), only)


def test_a_worker_serves_the_lists_of_its_groups(test_store: Store) -> None:
    upload(
        test_store,
        {"default": {}, "mail": {"target": "counter"}, "work": {"mode": "pull"}},
        services=["counter", "remote"],
    )

    lists = {
        group: serving(test_store, *group.split()).served_queues
        for group in ("default", "counter", "remote", "default remote")
    }

    assert lists == {
        "default": ["default", "mail.default"],
        "counter": ["default.counter", "mail"],
        "remote": ["default.remote", "mail.remote"],
        "default remote": ["default", "default.remote", "mail.default", "mail.remote"],
    }


def test_what_a_group_left_beside_a_queue_that_is_its_own_now_is_looked_at(test_store: Store) -> None:
    upload(test_store, {"mail": {"target": "counter"}}, services=["counter"])

    assert set(serving(test_store, "counter").lists) == {"mail", "mail.counter"}


def test_a_worker_of_some_queues_serves_these_only_and_looks_after_all(test_store: Store) -> None:
    upload(test_store, {"default": {}, "mail": {}, "work": {"mode": "pull"}})

    found = serving(test_store, only=("mail",))

    assert (found.served_queues, found.queues) == (["mail"], ["default", "mail", "work"])


def test_it_follows_the_uploads(test_store: Store, clock: StoppedClock) -> None:
    upload(test_store, ["default"])
    found = serving(test_store)
    assert not found.refresh()

    upload(test_store, {"default": {"mode": "pull"}, "mail": {}})
    assert not found.refresh()
    clock.advance(1)

    assert found.refresh()
    assert (found.served_queues, found.queues) == (["mail"], ["default", "mail"])
    assert not found.refresh()


def test_a_new_target_changes_the_lists(test_store: Store, clock: StoppedClock) -> None:
    upload(test_store, services=["counter"])
    found = serving(test_store, "counter")
    upload(test_store, {"default": {"target": "counter"}}, services=["counter"])
    clock.advance(1)

    assert found.refresh()
    assert found.served_queues == ["default"]


def test_the_lists_take_turns(test_store: Store) -> None:
    upload(test_store, ["a", "b", "c"])
    found = serving(test_store)

    firsts = [found.rotated()[0] for _ in range(len(found.lists))]

    assert sorted(firsts) == sorted(found.lists)


def test_a_list_that_is_asked_for_comes_first_and_the_order_stays(test_store: Store) -> None:
    upload(test_store, ["a", "b", "c"])
    found = serving(test_store)
    twice = found.lists * 2

    for first in [*twice, found.lists[0]]:
        start = twice.index(first)
        assert found.rotated(first) == twice[start : start + len(twice) // 2]
    assert found.rotated("gone") == twice[1 : 1 + len(twice) // 2]


@pytest.mark.parametrize("how", ["emptied", "left out"])
def test_a_service_that_was_forgotten_is_registered_again(
    test_store: Store, clock: StoppedClock, how: str
) -> None:
    upload(test_store, backends=["counter"])
    found = serving(test_store, "counter")
    found.refresh()
    if how == "emptied":
        test_store.redis.flushall()
    clock.advance(0.5)
    upload(test_store)
    assert not test_store.redis.sismember(store.SERVICES, "counter")

    clock.advance(1)
    found.refresh()

    assert test_store.redis.sismember(store.SERVICES, "counter")


def test_a_service_that_is_known_is_not_registered_again(test_store: Store, clock: StoppedClock) -> None:
    upload(test_store, services=["counter"])
    found = serving(test_store, "default", "counter")
    test_store.redis.delete(store.wakeup_key("counter"))

    clock.advance(1)
    found.refresh()

    assert test_store.redis.llen(store.wakeup_key("counter")) == 0


def test_a_worker_without_any_push_queue_looks_after_nothing_and_lives(
    test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, {"default": {"mode": "pull"}})
    maintenance = Maintenance(Broker(test_store), [], clock)

    assert maintenance.run_due()
    maintenance.serve(["default"])
    clock.advance(5)
    assert maintenance.run_due()


def test_maintenance_sends_on_what_waits_for_nobody(scripts: Scripts, clock: StoppedClock) -> None:
    """Many more than one call moves."""
    upload(scripts.store, backends=["gone"])
    for first in range(0, 500, 50):
        scripts.add(*(f"default_{number}" for number in range(first, first + 50)), target="gone")
    upload(scripts.store)

    Maintenance(Broker(scripts.store), ["default"], clock).run_due()

    assert len(scripts.ready()) == 500


def test_tasks_that_were_leased_when_their_queue_became_a_pull_queue_are_rescued(
    scripts: Scripts, clock: StoppedClock
) -> None:
    scripts.leased("default_a")
    upload(scripts.store, {"default": {"mode": "pull"}})
    clock.advance(60)
    found = serving(scripts.store)

    Maintenance(Broker(scripts.store), found.queues, clock).run_due()

    assert scripts.ready() == ["default_a"]


def test_rqs_tools_take_side_lists_for_queues(scripts: Scripts) -> None:
    upload(scripts.store, services=["counter"])
    scripts.add("default_a")
    scripts.add("default_b", "default_c", target="counter")

    found = {queue.name: queue.count for queue in rq.Queue.all(connection=scripts.redis)}

    assert found == {"default": 1, "default.counter": 2}
