"""register_service: tasks for a service wait for it from the moment that its workers come."""

from lastacross import store
from lastacross.broker.steps import Broker
from tests.support.scripts import Scripts
from tests.support.uploads import upload


def group(scripts: Scripts, queue: str) -> str:
    """Whose workers a queue's tasks wait for."""
    return str(scripts.redis.hget(store.settings_key(queue), "group").decode())


def version(scripts: Scripts) -> int:
    """What processes compare to see that something changed."""
    return int(scripts.redis.hget(store.UPLOAD, "version"))


def test_a_new_service_is_known_and_every_process_is_told(scripts: Scripts) -> None:
    upload(scripts.store)
    before = version(scripts)

    assert scripts.run("register_service", "counter") == 1

    assert scripts.redis.smembers(store.SERVICES) == {b"counter"}
    assert version(scripts) == before + 1


def test_the_second_worker_of_a_service_changes_nothing(scripts: Scripts) -> None:
    upload(scripts.store)
    scripts.run("register_service", "counter")
    before = version(scripts)

    assert scripts.run("register_service", "counter") == 0

    assert version(scripts) == before


def test_queues_that_are_targeted_at_it_are_its_own_from_now_on(scripts: Scripts) -> None:
    upload(scripts.store, {"mail": {"target": "v1.counter"}, "web": {"target": "other"}, "default": {}})
    assert group(scripts, "mail") == "default"

    scripts.run("register_service", "counter")

    assert [group(scripts, queue) for queue in ("mail", "web", "default")] == [
        "counter",
        "default",
        "default",
    ]


def test_its_workers_are_woken(scripts: Scripts) -> None:
    upload(scripts.store)
    scripts.redis.delete(store.wakeup_key("counter"), store.wakeup_key("default"))

    scripts.run("register_service", "counter")

    assert scripts.redis.llen(store.wakeup_key("counter")) == 1


def test_before_the_first_upload_it_is_known_as_well(scripts: Scripts) -> None:
    scripts.run("register_service", "counter")
    upload(scripts.store, {"mail": {"target": "counter"}})

    assert group(scripts, "mail") == "counter"


def test_the_broker_makes_a_service_known(scripts: Scripts) -> None:
    Broker(scripts.store).register_service("counter")

    assert scripts.redis.smembers(store.SERVICES) == {b"counter"}
