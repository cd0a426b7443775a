"""``events.subscribe``: which steps an application learns of, and that a subscriber harms nothing."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from structlog.testing import capture_logs

from lastacross import events, taskqueue
from lastacross.broker import Broker, Leased, reports
from lastacross.broker.states import TRANSITIONS
from lastacross.config import RetryParameters
from lastacross.events import Event
from lastacross.store import Store
from lastacross.taskqueue import Queue, Task
from lastacross.worker.delivery import Outcome
from lastacross.worker.isolation import Crashed
from lastacross.worker.outcomes import OutcomeRecorder
from tests.support import uploads
from tests.support.clock import StoppedClock

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def store(test_store: Store) -> Store:
    """A store with a push and a pull queue."""
    uploads.upload(test_store, {"default": {}, "pull": {"mode": "pull"}})
    return test_store


@pytest.fixture
def noted() -> Iterator[list[Event]]:
    """All events of the test."""
    found: list[Event] = []
    unsubscribe = events.subscribe("*", found.append)
    yield found
    unsubscribe()


def steps_of(noted: list[Event]) -> list[tuple[str, str]]:
    """The names and tasks of all events so far, which are then forgotten."""
    assert events.flush(60)
    found = [(event.name.removeprefix("task."), event.task) for event in noted]
    noted.clear()
    return found


def lease(store: Store, wanted: int = 10, *queues: str) -> list[Leased]:
    """Lease ready tasks."""
    request: Any = {"token": "w", "number": 0, "wanted": wanted, "free": wanted, "lease_seconds": 8}
    return Broker(store).lease(queues or ("default",), **request).tasks


def test_the_steps_of_a_task_that_succeeds(store: Store, noted: list[Event]) -> None:
    taskqueue.add(url="/a", name="a")
    taskqueue.add(url="/a")
    tasks = lease(store)
    Broker(store).ack(tasks)

    names = [task.name for task in tasks]
    assert steps_of(noted) == [(step, name) for step in ("add", "lease", "ack") for name in names]


def test_the_steps_of_a_task_that_fails_and_is_retried(
    store: Store, clock: StoppedClock, noted: list[Event]
) -> None:
    recorder = OutcomeRecorder(Broker(store), lambda _: RetryParameters(task_retry_limit=1))
    error = ValueError("no such row")
    Queue().add(Task(url="/a", name="a"))
    for _ in range(2):
        recorder.record([Outcome(task, 500, "ValueError: no such row", error=error) for task in lease(store)])
        clock.advance(60)
        Broker(store).promote_due(["default"])
    assert events.flush(60)
    ended = [event for event in noted if event.name in ("task.retry", "task.dead_letter")]
    assert steps_of(noted) == [
        *[("add", "a"), ("lease", "a"), ("retry", "a"), ("promote", "")],
        *[("lease", "a"), ("dead_letter", "a")],
    ]
    assert [(event.queue, event.attempt, event.status, event.reason, event.error) for event in ended] == [
        ("default", 1, 500, "ValueError: no such row", error),
        ("default", 2, 500, "ValueError: no such row", error),
    ]


def test_the_steps_that_people_and_rescues_make(
    store: Store, clock: StoppedClock, noted: list[Event]
) -> None:
    broker, queue = Broker(store), Queue()
    queue.add([Task(url="/a", name=name, countdown=60) for name in ("a", "b", "c", "d")])
    queue.run_now("a")
    queue.delete_tasks_by_name(["b", "unknown"])
    [task] = lease(store)
    broker.release([task])
    [task] = lease(store)
    clock.advance(20)
    broker.rescue_expired(["default"])
    [task] = lease(store)
    OutcomeRecorder(broker, lambda _: None).record([Crashed(task, None, "its process ended")])
    [task] = lease(store)
    broker.dead_letter(task, 503, "answered 503")
    broker.retry_dead([task.id])
    queue.purge()

    seen = steps_of(noted)
    assert seen[:4] == [("add", name) for name in ("a", "b", "c", "d")]
    assert seen[4:] == [
        *[("run_now", "a"), ("delete", "b"), ("lease", "a"), ("release", "a"), ("lease", "a")],
        *[("rescue", "a"), ("lease", "a"), ("rescue", "a"), ("lease", "a")],
        *[("dead_letter", "a"), ("retry_dead", "a"), ("purge", "")],
    ]


def test_the_steps_of_a_batch(store: Store, noted: list[Event]) -> None:
    with taskqueue.Batch(name="b", on_complete=Task(url="/done")) as batch:
        batch.add([Task(url="/a")])
    Broker(store).ack(lease(store))
    lease(store)
    cancelled = taskqueue.Batch(name="c")
    with cancelled:
        cancelled.add([Task(url="/a")])
    cancelled.cancel()

    assert steps_of(noted) == [
        *[("wait", "b-complete"), ("add", "b-0"), ("lease", "b-0"), ("ack", "b-0")],
        *[("fire", "b-complete"), ("lease", "b-complete"), ("add", "c-0"), ("cancel", "")],
    ]


def test_the_steps_of_a_pull_task(store: Store, clock: StoppedClock, noted: list[Event]) -> None:
    queue = Queue("pull")
    queue.add(Task("payload", method="PULL", name="p"))
    clock.advance(1)
    [task] = queue.lease_tasks(60, 10)
    queue.modify_task_lease(task, 120)
    queue.delete_tasks(task)

    assert steps_of(noted) == [("add", "p"), ("lease", "p"), ("modify", "p"), ("delete", "p")]


def test_every_step_of_the_lifecycle_is_an_event_or_happens_inside_of_another() -> None:
    """``lose`` and a batch's end happen inside of scripts that do not name them."""
    inside = {("fire", "fan_in"), ("fire", "seal_batch"), ("fire", "sweep_batches"), ("dead-letter", "lose")}
    steps = {(found.step, found.script) for found in TRANSITIONS}

    assert {step for step in steps if step[1] not in reports.REPORTED} == inside
    assert {f"task.{step.replace(' ', '_').replace('-', '_')}" for step, _ in steps} == set(events.NAMES)


# --- subscribers --------------------------------------------------------------------------


def test_a_subscriber_that_fails_or_exits_harms_neither_others_nor_the_task(store: Store) -> None:
    found: list[Event] = []

    def fail(event: Event) -> None:
        raise SystemExit("a bug")

    ends = [events.subscribe("task.add", fail), events.subscribe("task.add", found.append)]
    with capture_logs() as log:
        taskqueue.add(url="/a", name="a")
        taskqueue.add(url="/a", name="b")
        assert events.flush(60)
    for end in ends:
        end()

    assert [event.task for event in found] == ["a", "b"]
    assert [line["event"] for line in log] == ["events.subscriber_failed"] * 2
    assert len(lease(store)) == 2


def test_a_slow_subscriber_holds_up_nothing_and_loses_what_is_too_much(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_WAITING", 2)
    may_go, found = threading.Event(), []

    def wait(event: Event) -> None:
        found.append(event.task)
        may_go.wait(60)

    end = events.subscribe("task.add", wait)
    taskqueue.add(url="/a", name="a0")
    while not found:
        threading.Event().wait(0.001)
    with capture_logs() as log:
        for number in range(1, 5):
            taskqueue.add(url="/a", name=f"a{number}")
        assert not events.flush(0.01)
        may_go.set()
        assert events.flush(60)
    end()

    assert found == ["a0", "a1", "a2"]
    assert [line["dropped"] for line in log if line["event"] == "events.drop"] == [2]


def test_a_bug_in_a_report_does_not_undo_a_step(
    store: Store, noted: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(reports._READERS, "add_tasks", lambda args, answer: 1 / 0)
    with capture_logs() as log:
        taskqueue.add(url="/a", name="a")

    assert [line["event"] for line in log] == ["events.report_failed"]
    assert [task.name for task in lease(store)] == ["a"]


def test_without_subscribers_nothing_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(reports, "report", lambda script, *_: calls.append(script))
    taskqueue.add(url="/a")
    end = events.subscribe("task.add", print)
    end()
    end()
    taskqueue.add(url="/a")

    assert calls == []
    assert events.subscribers == {}


def test_only_events_that_exist_and_functions_are_accepted() -> None:
    with pytest.raises(ValueError, match=r"no event 'task.done'; the events are task.add, "):
        events.subscribe("task.done", print)
    with pytest.raises(TypeError, match="cannot be called"):
        events.subscribe("task.add", "print")  # type: ignore[arg-type]
    assert events.subscribers == {}


# --- the recipe for Sentry ----------------------------------------------------------------


class Kept(Transport):
    """sentry-sdk's transport that keeps its events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep the event of an envelope."""
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))


def recipe() -> str:
    """The Python code under "Sentry" in docs/monitoring.md."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    return text.partition("### Sentry")[2].partition("```python\n")[2].partition("```")[0]


def test_the_recipe_reports_failures_to_sentry_with_queue_task_and_attempt(store: Store) -> None:
    kept = Kept()
    sentry_sdk.init(transport=kept, dsn="https://key@sentry.example/1", default_integrations=False)
    before = {name: list(calls) for name, calls in events.subscribers.items()}
    exec(compile(recipe(), "docs/monitoring.md", "exec"), {})
    try:
        recorder = OutcomeRecorder(Broker(store), lambda _: RetryParameters(task_retry_limit=0))
        Queue().add([Task(url="/a", name="a"), Task(url="/a", name="b")])
        first, second = lease(store)
        recorder.record([Outcome(first, 500, "no such row", error=ValueError("no such row"))])
        recorder.record([Outcome(second, 503, "answered 503")])
        assert events.flush(60)
    finally:
        events.subscribers.clear()
        events.subscribers.update(before)
        # init() without arguments would patch http.client for all later tests.
        sentry_sdk.get_global_scope().set_client(None)

    tags = [event["tags"] for event in kept.events]
    assert [{name: str(value) for name, value in each.items()} for each in tags] == [
        {"queue": "default", "task": "a", "attempt": "1"},
        {"queue": "default", "task": "b", "attempt": "1"},
    ]
    assert kept.events[0]["exception"]["values"][0]["value"] == "no such row"
    assert kept.events[1]["message"] == "task.dead_letter: answered 503"
