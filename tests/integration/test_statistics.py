"""``QueueStatistics``: docs/appengine.md, "Statistics"."""

from typing import Any

import pytest

from lastacross import store, taskqueue
from lastacross.errors import InvalidQueueNameError, TransientError
from lastacross.store import Store
from lastacross.taskqueue import Queue, QueueStatistics
from tests.support.clock import StoppedClock
from tests.support.redis_server import running_server
from tests.support.scripts import Scripts
from tests.support.uploads import upload

NOW_USEC = 1_800_000_000_000_000


@pytest.fixture
def scripts(scripts: Scripts) -> Scripts:
    """The steps; "work" is a pull queue."""
    scripts.redis.flushall()
    upload(scripts.store, {"default": {"rate": "0.5"}, "other": {}, "work": {"mode": "pull"}})
    return scripts


def pull(*names: str, **options: Any) -> None:
    """Add pull tasks."""
    Queue("work").add([taskqueue.Task("x", method="PULL", name=name, **options) for name in names])


def test_a_queue_that_nobody_knows_has_no_tasks_and_else_none(scripts: Scripts) -> None:
    found = QueueStatistics.fetch("nowhere")

    assert found == QueueStatistics(Queue("nowhere"))
    assert (found.tasks, found.oldest_eta_usec, found.executed_last_minute) == (0, None, None)
    assert (found.in_flight, found.enforced_rate) == (None, None)


def test_an_empty_queue(scripts: Scripts) -> None:
    assert QueueStatistics.fetch("default") == QueueStatistics(Queue("default"), 0, None, 0, 0, 0.5)


def test_one_gives_one_and_several_give_a_list_in_their_order(scripts: Scripts) -> None:
    assert QueueStatistics.fetch(Queue("other")).queue == Queue("other")
    assert [each.queue.name for each in QueueStatistics.fetch(["other", "default"])] == ["other", "default"]
    assert [each.queue.name for each in QueueStatistics.fetch((Queue("other"),))] == ["other"]
    assert [each.queue.name for each in QueueStatistics.fetch(Queue(n) for n in ("default", "default"))] == [
        "default"
    ] * 2
    assert QueueStatistics.fetch([]) == []


@pytest.mark.parametrize("given", [["default", Queue()], [Queue(), "default"], [7], [None], 7, None])
def test_queues_and_names_do_not_mix_and_nothing_else_is_taken(scripts: Scripts, given: Any) -> None:
    with pytest.raises(TypeError):
        QueueStatistics.fetch(given)


def test_a_name_that_no_queue_can_have_is_refused(scripts: Scripts) -> None:
    with pytest.raises(InvalidQueueNameError):
        QueueStatistics.fetch("no_queue")


def test_a_queue_may_be_asked_itself_and_later(scripts: Scripts) -> None:
    expected = QueueStatistics.fetch("default")

    assert Queue().fetch_statistics() == expected
    assert Queue().fetch_statistics_async().get_result() == expected
    assert QueueStatistics.fetch_async(["default"]).get_result() == [expected]


def test_tasks_oldest_eta_and_deliveries_under_way(scripts: Scripts) -> None:
    taskqueue.add(url="/a", countdown=60)
    assert Queue().fetch_statistics().oldest_eta_usec == NOW_USEC + 60_000_000
    taskqueue.add(url="/a")
    scripts.lease()
    scripts.clock.advance(1.5)
    taskqueue.add(url="/a")

    found = Queue().fetch_statistics()

    assert (found.tasks, found.in_flight, found.oldest_eta_usec) == (3, 1, NOW_USEC)
    scripts.run("purge_queue", scripts.now, "default", 100, scripts.now)
    assert Queue().fetch_statistics() == QueueStatistics(Queue(), 0, None, 0, 0, 0.5)


def test_an_eta_keeps_its_microseconds(scripts: Scripts) -> None:
    scripts.clock.advance(0.123456)
    taskqueue.add(url="/a")

    assert Queue().fetch_statistics().oldest_eta_usec == NOW_USEC + 123_456


def test_executed_last_minute_over_a_minute_of_seconds(scripts: Scripts) -> None:
    """A task each second for 70 s: never more than those of the last 60."""
    upload(scripts.store)
    seen = []
    for second in range(70):
        task = f"default_{second}"
        scripts.ack((task, scripts.leased(task)))
        seen.append(Queue().fetch_statistics().executed_last_minute)
        scripts.clock.advance(1)
    for _ in range(61):
        seen.append(Queue().fetch_statistics().executed_last_minute)
        scripts.clock.advance(1)

    assert seen == [*range(1, 61), *[60] * 10, *range(59, -1, -1), 0]


@pytest.mark.parametrize(
    ("why", "rate"), [("", 0.5), ("paused", 0), ("disabled", 0), ("suspended", 0), ("resumed", 0.5)]
)
def test_the_enforced_rate_is_what_is_handed_out_now(scripts: Scripts, why: str, rate: float) -> None:
    if why in ("paused", "resumed"):
        Queue().pause()
    if why == "resumed":
        Queue().resume()
    if why == "disabled":
        upload(scripts.store, ["other"])
    if why == "suspended":
        scripts.redis.set(store.RQ_SUSPENDED, 1)

    assert Queue().fetch_statistics().enforced_rate == rate


def test_a_pull_queues_leases_are_in_flight_until_they_end(scripts: Scripts) -> None:
    pull("a", "b", "c", tag="t")
    scripts.clock.advance(1)
    leased = Queue("work").lease_tasks(10, 2)
    found = Queue("work").fetch_statistics()
    assert (found.tasks, found.in_flight, found.oldest_eta_usec) == (3, 2, NOW_USEC)

    Queue("work").delete_tasks(leased[0])
    found = Queue("work").fetch_statistics()
    assert (found.tasks, found.in_flight, found.executed_last_minute) == (2, 1, 1)

    scripts.clock.advance(10)
    assert Queue("work").fetch_statistics().in_flight == 0


def test_a_task_that_was_never_leased_is_not_executed_by_deleting_it(scripts: Scripts) -> None:
    pull("a")
    Queue("work").delete_tasks_by_name("a")
    taskqueue.add(url="/a", name="b")
    Queue().delete_tasks_by_name("b")

    assert [each.executed_last_minute for each in QueueStatistics.fetch(["work", "default"])] == [0, 0]


def test_before_the_first_upload_the_file_says_the_rate(test_store: Store, clock: StoppedClock) -> None:
    taskqueue.add(url="/a")

    found = Queue().fetch_statistics()

    assert (found.tasks, found.in_flight, found.enforced_rate) == (1, 0, 500.0)
    assert Queue("nowhere").fetch_statistics() == QueueStatistics(Queue("nowhere"))


def test_without_redis_it_is_a_transient_error(test_store: Store) -> None:
    with running_server() as server:
        opened = Store(server.url)
        store.use(opened)
        server.stop()
        with pytest.raises(TransientError):
            Queue().fetch_statistics()
        opened.close()


def test_a_busy_queue_costs_few_commands(scripts: Scripts) -> None:
    """Whatever waits: what runs in Redis meanwhile is held up by the script."""
    for _ in range(3):
        Queue("other").add([taskqueue.Task(url="/a") for _ in range(100)])
    before: Any = scripts.redis.info("commandstats")

    Queue("other").fetch_statistics()

    after: Any = scripts.redis.info("commandstats")
    calls = sum(each["calls"] - before.get(name, {"calls": 0})["calls"] for name, each in after.items())
    assert 0 < calls < 50
