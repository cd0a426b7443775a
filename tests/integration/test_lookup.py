"""One task looked up by its name: every place that it may be in."""

import pytest

from lastacross import store
from lastacross.broker import listing
from lastacross.broker.listing import TaskRecord
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from tests.support.scripts import Scripts


def found(name: str) -> TaskRecord:
    record = listing.find("default", name)
    assert record is not None
    return record


def test_a_task_is_found_wherever_it_waits(scripts: Scripts) -> None:
    scripts.add("default_ready")
    scripts.add("default_later", countdown=60)

    assert (found("ready").status, found("ready").waits, found("ready").is_dead) == ("queued", True, False)
    assert (found("later").status, found("later").waits) == ("scheduled", True)


def test_a_task_that_runs_and_one_that_has_failed_are_told_apart(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    assert (found("a").status, found("a").waits, found("a").is_dead) == ("started", False, False)

    eta = scripts.clock.now() + 30
    scripts.run("retry_task", "default_a", lease, f"{eta:.6f}", 500, scripts.now, 1)
    assert found("a") == TaskRecord("scheduled", eta, failures=1, lost=0)

    scripts.dead("default_b")
    assert (found("b").is_dead, found("b").error, found("b").failures) == (True, "answered 500", 1)


def test_what_another_tool_took_for_failed_waits_to_be_put_back(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.redis.hset(store.record_key("default_a"), "status", "failed")

    assert (found("a").is_dead, found("a").waits) == (False, True)


def test_a_task_that_is_gone_is_none(scripts: Scripts) -> None:
    lease = scripts.leased("default_a")
    scripts.ack(("default_a", lease))
    scripts.add("default_b")

    assert listing.find("default", "a") is None
    assert [record is None for record in listing.find_all([("default", "a"), ("default", "b")])] == [
        True,
        False,
    ]
    assert listing.find_all([]) == []


def test_an_unavailable_redis_gives_no_answer(scripts: Scripts) -> None:
    store.use(Store("unix:///nowhere/redis.sock"))
    with pytest.raises(StoreUnavailableError):
        listing.find("default", "a")
