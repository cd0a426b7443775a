"""How a worker comes to its tasks: a wake-up brings the first, and nothing of what it brings gets lost."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from lastacross import store, taskqueue
from lastacross.broker import queue_directory
from lastacross.broker.steps import Broker
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from lastacross.worker.leasing import Leasing, Serving
from tests.support.clock import StoppedClock
from tests.support.processes import wait_until
from tests.support.uploads import upload

LEASE_SECONDS = 8.0


@pytest.fixture
def leasing(test_store: Store) -> Iterator[Leasing]:
    """A worker's leases, from queue `default`."""
    upload(test_store, ["default"])
    made = leasing_of(test_store)
    # The server learns the script.
    assert made.lease(1, 1).tasks == []
    yield made
    made.close()


def leasing_of(opened: Store) -> Leasing:
    """The leases of a worker with token `w`."""
    return Leasing(
        opened, Serving(queue_directory.of(opened), ["default"]), "w", lease_seconds=LEASE_SECONDS, most=50
    )


@pytest.fixture
def never() -> Iterator[int]:
    """A pipe that nobody writes to."""
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def add_in_silence(opened: Store, name: str) -> None:
    """A ready task whose marker was lost."""
    taskqueue.add(url="/work", name=name)
    opened.redis.delete(store.wakeup_key("default"))


def leased(opened: Store) -> list[str]:
    """The tasks of queue `default` that are leased."""
    redis: Any = opened.redis
    return [entry.decode().partition(":")[0] for entry in redis.zrange("rq:wip:default", 0, -1)]


def test_a_wake_up_brings_the_task_itself(test_store: Store, leasing: Leasing, never: int) -> None:
    assert leasing.wait(0, never, listen=True) is None
    taskqueue.add(url="/work", name="first")

    woken = leasing.wait(10, never, listen=True)

    assert woken is not None
    assert woken.grant is not None
    assert [task.id for task in woken.grant.tasks] == ["default_first"]
    assert not woken.grant.has_more
    assert leased(test_store) == ["default_first"]
    assert Broker(test_store).ack(woken.grant.tasks) == [True]


def test_of_many_tasks_a_wake_up_brings_one_and_says_that_there_are_more(
    leasing: Leasing, never: int
) -> None:
    leasing.wait(0, never, listen=True)
    taskqueue.Queue().add([taskqueue.Task(url="/work", name=f"n{number}") for number in range(3)])

    woken = leasing.wait(10, never, listen=True)

    assert woken is not None
    assert woken.grant is not None
    assert [task.name for task in woken.grant.tasks] == ["n0"]
    assert woken.grant.has_more
    rest = leasing.lease(50, 7)
    assert [task.name for task in rest.tasks] == ["n1", "n2"]
    lease_ids = [task.lease_id for task in woken.grant.tasks + rest.tasks]
    assert len(set(lease_ids)) == 3


def test_the_lease_lasts_from_the_wake_up_not_from_the_question(
    configuration: object, redis_server: object, test_store: Store, never: int
) -> None:
    """With the server's own clock: the question may have waited for minutes."""
    upload(test_store, ["default"])
    taskqueue.add(url="/work", name="leased-at-the-servers-time")
    with_server_time = Store(test_store.url)
    made = leasing_of(with_server_time)
    made.lease(0, 0)
    assert with_server_time.has_server_time
    assert not test_store.has_server_time

    woken = made.wait(10, never, listen=True)

    assert woken is not None
    assert woken.grant is not None
    assert len(woken.grant.tasks) == 1
    redis: Any = test_store.redis
    seconds, microseconds = redis.time()
    [(_, score)] = redis.zrange("rq:wip:default", 0, -1, withscores=True)
    left = score - store.LEASE_SCORE_SHIFT_SECONDS - (seconds + microseconds / 1e6)
    assert LEASE_SECONDS - 5 < left <= LEASE_SECONDS
    made.close()
    with_server_time.close()


def test_a_task_whose_id_is_no_text_is_a_dead_letter_at_once(test_store: Store, leasing: Leasing) -> None:
    redis: Any = test_store.redis
    redis.hset(b"rq:job:default_\xff", mapping={"status": "queued", "eta": "1", "data": "x"})
    redis.rpush("rq:queue:default", b"default_\xff")
    taskqueue.add(url="/work", name="fine")

    granted = leasing.lease(5, 5)

    assert [task.id for task in granted.tasks] == ["default_fine"]
    assert leased(test_store) == ["default_fine"]
    assert redis.zrange(store.dead_key("default"), 0, -1) == [b"default_\xff"]


def test_a_server_that_does_not_know_the_script_loses_no_task(
    test_store: Store, leasing: Leasing, never: int
) -> None:
    leasing.wait(0, never, listen=True)
    taskqueue.Queue().add([taskqueue.Task(url="/work", name="a"), taskqueue.Task(url="/work", name="b")])
    first = leasing.wait(10, never, listen=True)
    assert first is not None
    pipelines: Any = test_store.redis
    with pipelines.pipeline(transaction=True) as pipeline:
        pipeline.script_flush()
        pipeline.rpush(store.wakeup_key("default"), "ready")
        pipeline.execute()

    woken = leasing.wait(10, never, listen=True)

    assert woken is not None
    assert (woken.marker, woken.grant) == (b"ready", None)
    assert [task.name for task in leasing.lease(50, 8).tasks] == ["b"]


def test_a_sleep_that_is_ended_gives_what_it_brought_all_the_same(
    test_store: Store, leasing: Leasing, never: int
) -> None:
    add_in_silence(test_store, "unheard")
    assert leasing.wait(0, never, listen=True) is None

    ended = leasing.end()

    assert leased(test_store) == [task.id for task in ended] == ["default_unheard"]
    Broker(test_store).release(ended)
    assert leased(test_store) == []
    assert test_store.redis.lrange(store.ready_key("default"), 0, -1) == [b"default_unheard"]


def test_a_wake_up_for_a_queue_that_was_uploaded_during_the_sleep_is_not_the_last_word(
    test_store: Store, never: int
) -> None:
    upload(test_store, ["default"])
    serving = Serving(queue_directory.of(test_store), ["default"])
    made = Leasing(test_store, serving, "w", lease_seconds=LEASE_SECONDS, most=50)
    made.lease(1, 1)
    made.wait(0, never, listen=True)
    upload(test_store, ["default", "newer"])
    assert serving.refresh(is_urgent=True)
    taskqueue.add(url="/work", queue_name="newer")

    woken = made.wait(10, never, listen=True)

    assert woken is not None
    assert woken.grant is not None
    assert (woken.grant.tasks, woken.is_outdated) == ([], True)
    assert [task.queue for task in made.lease(1, 1).tasks] == ["newer"]
    made.close()


@pytest.mark.parametrize("limits", [{"rate": "0.5"}, {"max_concurrent": "3"}])
def test_a_wake_up_leaves_a_throttled_task_to_a_lease_that_knows_which_threads_are_free(
    limits: dict[str, str], test_store: Store, never: int
) -> None:
    """Its token would be spent, and it might find no thread."""
    upload(test_store, {"default": limits})
    made = leasing_of(test_store)
    made.lease(1, 1)
    made.wait(0, never, listen=True)
    taskqueue.add(url="/work", name="throttled")

    woken = made.wait(10, never, listen=True)

    assert woken is not None
    assert woken.grant is not None
    assert (woken.grant.tasks, woken.grant.has_more) == ([], True)
    assert test_store.redis.llen(store.wakeup_key("default")) == 0
    assert [task.name for task in made.lease(50, 1).tasks] == ["throttled"]
    made.close()


def test_a_wake_up_leaves_what_is_to_run_now_and_says_so(
    test_store: Store, leasing: Leasing, never: int
) -> None:
    leasing.wait(0, never, listen=True)
    taskqueue.add(url="/work", name="later", countdown=1000)
    first = leasing.wait(10, never, listen=True)
    assert first is not None
    assert first.marker == b"scheduled"
    leasing.wait(0, never, listen=True)
    taskqueue.Queue().run_now("later")

    woken = leasing.wait(10, never, listen=True)

    assert woken is not None
    assert woken.grant is not None
    assert (woken.grant.tasks, woken.grant.has_more) == ([], True)
    assert [task.name for task in leasing.lease(50, 8).tasks] == ["later"]


def test_an_answer_that_has_lain_unread_for_half_a_lease_is_given_back(
    test_store: Store, never: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was stopped meanwhile; others may have the task."""
    upload(test_store, ["default"])
    made = leasing_of(test_store)
    made.lease(1, 1)
    stopped = StoppedClock()
    monkeypatch.setattr("lastacross.worker.leasing.SYSTEM", stopped)
    made.wait(0, never, listen=True)
    taskqueue.add(url="/work", name="late")
    wait_until(lambda: leased(test_store) == ["default_late"], 30)
    stopped.advance(LEASE_SECONDS / 2 + 0.1)

    woken = made.wait(10, never, listen=True)

    assert woken is not None
    assert woken.grant is None
    assert leased(test_store) == []
    assert [task.name for task in made.lease(50, 8).tasks] == ["late"]
    made.close()


def test_a_lease_that_arrives_when_another_call_found_redis_unavailable_is_kept(
    test_store: Store, leasing: Leasing, never: int
) -> None:
    leasing.wait(0, never, listen=True)
    taskqueue.add(url="/work", name="came")
    wait_until(lambda: leased(test_store) == ["default_came"], 30)

    assert [task.name for task in leasing.close()] == ["came"]
    assert leasing.close() == []


def test_ending_without_a_question_asks_nothing(test_store: Store, leasing: Leasing) -> None:
    add_in_silence(test_store, "waits")

    assert leasing.end() == []

    assert leased(test_store) == []


def test_an_ended_sleep_leaves_no_question_behind(test_store: Store, leasing: Leasing, never: int) -> None:
    leasing.wait(0, never, listen=True)
    assert leasing.end() == []

    taskqueue.add(url="/work", name="later")

    assert test_store.redis.llen(store.wakeup_key("default")) == 1
    assert leased(test_store) == []


def test_a_server_that_goes_away_in_a_sleep_is_an_error_and_the_next_sleep_asks_anew(
    test_store: Store, leasing: Leasing, never: int
) -> None:
    leasing.wait(0, never, listen=True)
    redis: Any = test_store.redis
    blocked = [each["id"] for each in redis.client_list() if "b" in each["flags"]]
    redis.client_kill_filter(_id=blocked[0])

    with pytest.raises(StoreUnavailableError):
        leasing.wait(10, never, listen=True)
    assert leasing.wait(0, never, listen=True) is None
    taskqueue.add(url="/work", name="found")

    woken = leasing.wait(10, never, listen=True)
    assert woken is not None
    assert woken.grant is not None
    assert [task.name for task in woken.grant.tasks] == ["found"]


def test_who_may_not_end_the_wait_at_the_server_closes_the_connection(
    test_store: Store, leasing: Leasing, never: int
) -> None:
    """An account of Redis that may not say CLIENT (its operator's choice)."""
    test_store.redis.execute_command(
        "ACL", "SETUSER", "plain", "on", "nopass", "~*", "&*", "+@all", "-client"
    )
    separator = "&" if "?" in test_store.url else "?"
    opened = Store(f"{test_store.url}{separator}username=plain&password=any", test_store.clock)
    made = leasing_of(opened)
    assert made.wait(0, never, listen=True) is None

    assert made.end() == []

    made.close()
    opened.close()
    test_store.redis.execute_command("ACL", "DELUSER", "plain")
