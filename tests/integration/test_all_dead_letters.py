"""Purging, retrying and deleting all tasks of a queue, in steps."""

import functools
import time

import pytest

from lastacross import store
from lastacross.broker import Broker, listing
from lastacross.store import Store, dead_key, ready_key, record_key
from tests.support.interference import retry_before_deletions
from tests.support.scripts import Scripts

MILLION = 1_000_000
MAX_SECONDS = 60.0


def put_dead(opened: Store, count: int, queue: str = "default") -> None:
    """Write dead letters as the scripts leave them."""
    redis = opened.redis
    for first in range(0, count, 10_000):
        with redis.pipeline(transaction=False) as pipeline:
            for number in range(first, min(first + 10_000, count)):
                identifier = f"{queue}_{number:07}"
                fields = {"status": "failed", "dead_at": "1", "description": "POST /x", "eta": "1"}
                pipeline.hset(record_key(identifier), mapping=fields)  # type: ignore[arg-type]
                pipeline.zadd(dead_key(queue), {identifier: 2e9 + number})
            pipeline.execute()


def test_all_dead_letters_are_retried_in_steps(scripts: Scripts) -> None:
    put_dead(scripts.store, 250)
    steps: list[int] = []

    retried = listing.retry_dead(Broker(scripts.store), "default", steps.append)

    assert (len(retried), steps) == (250, [100, 100, 50])
    assert scripts.redis.llen(ready_key("default")) == 250
    assert scripts.redis.zcard(dead_key("default")) == 0


def test_all_dead_letters_are_deleted_and_the_entries_of_other_programs_stay(scripts: Scripts) -> None:
    """An entry without our record is not a dead letter."""
    put_dead(scripts.store, 150)
    scripts.redis.zadd(dead_key("default"), {f"foreign-{number}": number for number in range(120)})

    deleted = listing.delete_dead(Broker(scripts.store), "default")

    assert len(deleted) == 150
    assert scripts.redis.zcard(dead_key("default")) == 120


def test_a_letter_that_is_retried_meanwhile_is_not_deleted(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_dead(scripts.store, 3)
    retry_before_deletions(monkeypatch, "default_0000001")

    deleted = listing.delete_dead(Broker(scripts.store), "default")

    assert deleted == ["default_0000000", "default_0000002"]
    assert scripts.state("default_0000001") == "ready"


def test_a_purge_tells_its_steps(scripts: Scripts) -> None:
    scripts.add(*[f"default_{number}" for number in range(1500)])
    steps: list[int] = []

    assert Broker(scripts.store).purge("default", steps.append) == 1500
    assert steps == [1000, 500]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["retry_dead", "purge", "delete_dead"])
def test_a_million_tasks_are_handled_within_a_minute_beside_other_queues(scripts: Scripts, name: str) -> None:
    put_dead(scripts.store, MILLION)
    broker, waits = Broker(scripts.store), []
    if name == "purge":
        listing.retry_dead(broker, "default")

    def add_elsewhere(_number: int) -> None:
        began_at = time.monotonic()
        scripts.redis.lpush(ready_key("other"), "other_x")
        waits.append(time.monotonic() - began_at)

    began_at = time.monotonic()
    act = broker.purge if name == "purge" else functools.partial(getattr(listing, name), broker)
    handled = act("default", add_elsewhere)
    seconds = time.monotonic() - began_at

    count = handled if isinstance(handled, int) else len(handled)
    print(f"measured {name} of a million tasks: {seconds:.1f} s (promised: {MAX_SECONDS:g} s)")
    assert count == MILLION
    assert scripts.redis.zcard(store.dead_key("default")) == 0
    assert seconds <= 3 * MAX_SECONDS
    assert max(waits) < 1
