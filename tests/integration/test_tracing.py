"""Spans of tasks: which belong to one trace, which are linked, and that nothing is loaded without them."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from lastacross import config, deferred, otel, taskqueue, tracing
from lastacross.broker import Broker
from lastacross.config import RetryParameters
from lastacross.errors import ConfigError, TransientError
from lastacross.processes import application
from lastacross.store import Store, record_key
from lastacross.taskqueue import Task
from lastacross.worker import isolation
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import DELIVERY_TRACE, Delivery, Outcome
from lastacross.worker.outcomes import OutcomeRecorder
from lastacross.worker.runners import Attempts
from tests.support import uploads
from tests.support.clock import StoppedClock

PROVIDER = TracerProvider()
EXPORTER = InMemorySpanExporter()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))


@pytest.fixture
def spans(test_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """OpenTelemetry's exporter that keeps spans in memory, on a store with its queues."""
    monkeypatch.setattr(trace, "get_tracer", PROVIDER.get_tracer)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: PROVIDER)
    uploads.upload(test_store)
    EXPORTER.clear()
    tracing.use(otel.OpenTelemetry())
    yield EXPORTER
    tracing.use(None)


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    """The deadlines of handlers."""
    made = Deadlines(on_stuck=print)
    made.start()
    yield made
    made.stop()


answers: list[int] = []
seen: list[dict[str, Any]] = []


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with the next status, after adding another task to ``/more``."""
    seen.append(environ)
    if environ["PATH_INFO"] == "/fan":
        taskqueue.add(url="/more", name="more")
    status = answers.pop(0) if answers else 200
    start_response(f"{status} -", [])
    return [b""]


class Worker:
    """Runs ready tasks one after another."""

    def __init__(self, store: Store, clock: StoppedClock, deadlines: Deadlines) -> None:
        self._broker = Broker(store)
        self._clock = clock
        delivery = Delivery(app, deadlines, direct_calls={deferred.DEFAULT_URL: deferred.outcome})
        isolated: Any = None
        self._attempts = Attempts(
            delivery, isolated, None, broker=self._broker, lease_seconds=8, is_held=lambda task: True
        )
        retry = RetryParameters(task_retry_limit=5)
        self._recorder = OutcomeRecorder(self._broker, lambda _: retry)
        self.outcomes: list[Outcome] = []
        seen.clear()

    def run(self) -> None:
        """Run until nothing is left."""
        while True:
            self._clock.advance(3600)
            self._broker.promote_due(["default"])
            request: Any = {"token": "w", "number": 0, "wanted": 1, "free": 1, "lease_seconds": 8}
            tasks = self._broker.lease(["default"], **request).tasks
            if not tasks:
                return
            made = [self._attempts.make(task) for task in tasks]
            self.outcomes += made
            self._recorder.record(made)


@pytest.fixture
def worker(test_store: Store, clock: StoppedClock, deadlines: Deadlines, spans: object) -> Worker:
    """A worker whose process makes spans."""
    return Worker(test_store, clock, deadlines)


def named(spans: InMemorySpanExporter, start: str) -> list[ReadableSpan]:
    """The ended spans whose names begin like this, in the order of their start."""
    found = [span for span in spans.get_finished_spans() if span.name.startswith(start)]
    return sorted(found, key=lambda span: span.start_time or 0)


def id_of(span: ReadableSpan) -> int:
    """The id of a span."""
    assert span.context is not None
    return int(span.context.span_id)


def parent_of(span: ReadableSpan) -> int | None:
    """The id of a span's parent."""
    return None if span.parent is None else span.parent.span_id


def test_a_task_with_two_retries_is_one_trace_of_linked_siblings(
    spans: InMemorySpanExporter, worker: Worker
) -> None:
    answers[:] = [500, 503, 200]
    taskqueue.add(url="/a", name="a")

    worker.run()

    [add] = named(spans, "add default")
    deliveries, attempts = named(spans, "deliver default"), named(spans, "attempt ")
    assert (len(deliveries), len(attempts)) == (3, 3)
    assert len({span.context.trace_id for span in spans.get_finished_spans() if span.context}) == 1
    assert (add.kind, deliveries[0].kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)
    assert [parent_of(span) for span in deliveries] == [id_of(add)] * 3
    assert [parent_of(span) for span in attempts] == [id_of(span) for span in deliveries]
    links = [[link.context.span_id for link in span.links] for span in deliveries]
    assert links == [[], [id_of(deliveries[0])], [id_of(deliveries[1])]]
    assert [dict(span.attributes or {})["lastacross.attempt"] for span in deliveries] == [1, 2, 3]
    assert [span.status.is_ok for span in deliveries] == [False, False, True]
    assert deliveries[1].status.description == "answered 503"


def test_a_task_that_a_handler_adds_belongs_to_the_handlers_trace(
    spans: InMemorySpanExporter, worker: Worker
) -> None:
    taskqueue.add(url="/fan")

    worker.run()

    first, second = named(spans, "add default")
    assert parent_of(second) == id_of(named(spans, "attempt ")[0])
    assert parent_of(named(spans, "deliver ")[1]) == id_of(second)
    assert first.context is not None
    assert second.context is not None
    assert first.context.trace_id == second.context.trace_id


def test_the_request_has_the_attempts_span_as_a_header(spans: InMemorySpanExporter, worker: Worker) -> None:
    taskqueue.add(url="/a")
    taskqueue.add(url="/a", headers={"Traceparent": "its own"})

    worker.run()

    [attempt, _] = named(spans, "attempt ")
    assert attempt.context is not None
    span = f"{attempt.context.trace_id:032x}-{attempt.context.span_id:016x}"
    # The last part has flags.
    found = [environ["HTTP_TRACEPARENT"] for environ in seen]
    assert [found[0].rpartition("-")[0], found[1]] == [f"00-{span}", "its own"]


def test_a_deferred_call_still_runs_without_a_request_and_names_its_span(
    spans: InMemorySpanExporter, worker: Worker
) -> None:
    deferred.defer(divmod, 1, 0)
    deferred.defer(max, 1, 2)

    worker.run()

    assert seen == []
    failed = named(spans, "attempt builtins.divmod")
    assert len(failed) == 6
    assert failed[0].events[0].name == "exception"
    assert str(failed[0].status.description).startswith("ZeroDivisionError")
    assert len(named(spans, "attempt builtins.max")) == 1


def test_members_of_a_batch_carry_the_trace(spans: InMemorySpanExporter, worker: Worker) -> None:
    with taskqueue.Batch() as batch:
        batch.add(Task(url="/a") for _ in range(3))

    worker.run()

    [add] = named(spans, "add default")
    assert dict(add.attributes or {})["messaging.batch.message_count"] == 3
    assert [parent_of(span) for span in named(spans, "deliver ")] == [id_of(add)] * 3


def test_a_failed_add_is_a_failed_span(spans: InMemorySpanExporter, test_store: Store) -> None:
    def fail(*_: object) -> None:
        raise TransientError("Redis is not available")

    broker = pytest.MonkeyPatch()
    broker.setattr(Broker, "add_ready", fail)
    with pytest.raises(TransientError):
        taskqueue.add(url="/a")
    broker.undo()

    [add] = named(spans, "add default")
    assert not add.status.is_ok


def test_the_record_keeps_the_span_beside_the_tasks_headers(
    spans: InMemorySpanExporter, test_store: Store
) -> None:
    taskqueue.add(url="/a", name="a")

    record: Any = test_store.redis.hgetall(record_key("default_a"))
    assert len(record[b"traceparent"]) == 55
    assert b"headers" not in record
    # It is short enough for the record to stay compact.
    assert test_store.redis.object("encoding", record_key("default_a")) in (b"listpack", b"ziplist")


def test_a_damaged_span_begins_a_new_trace(
    spans: InMemorySpanExporter, test_store: Store, worker: Worker
) -> None:
    taskqueue.add(url="/a", name="a")
    test_store.redis.hset(record_key("default_a"), mapping={"traceparent": b"\xff", "attempt_trace": "00-x"})

    worker.run()

    [delivery] = named(spans, "deliver ")
    assert (parent_of(delivery), list(delivery.links)) == (None, [])


def test_an_isolated_attempt_belongs_to_the_workers_delivery(
    spans: InMemorySpanExporter, test_store: Store, deadlines: Deadlines
) -> None:
    taskqueue.add(url="/a")
    request: Any = {"token": "w", "number": 0, "wanted": 1, "free": 1, "lease_seconds": 8}
    [task] = Broker(test_store).lease(["default"], **request).tasks
    assert tracing.active is not None
    with tracing.active.delivering(task.delivered):
        sent = isolation._encoded(task)

    # As in the isolated process.
    received = isolation._decoded(sent)
    assert Delivery(app, deadlines, direct_calls={}).deliver(received).is_success

    assert DELIVERY_TRACE not in task.fields
    assert parent_of(named(spans, "attempt ")[0]) == id_of(named(spans, "deliver ")[0])


# --- a failing exporter -------------------------------------------------------------------


class BrokenProcessor(SpanProcessor):
    """Fails to export."""

    def on_end(self, span: ReadableSpan) -> None:
        """Fail when a span ends."""
        raise RuntimeError("the collector is unavailable")

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Fail to export the rest."""
        raise RuntimeError("the collector is unavailable")


def break_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every later export fail."""
    provider = TracerProvider()
    provider.add_span_processor(BrokenProcessor())
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)


def test_an_exporters_error_leaves_the_outcome_and_is_logged(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers[:] = [200]
    taskqueue.add(url="/a", name="a")
    break_export(monkeypatch)

    with capture_logs() as logged:
        worker.run()

    assert [(outcome.status, outcome.is_success) for outcome in worker.outcomes] == [(200, True)]
    # One span is the attempt's, the other the delivery's.
    failed = [(each["event"], each["task"]) for each in logged if each["log_level"] == "error"]
    assert failed == [("trace.failed", "a")] * 2


def test_an_exporters_error_leaves_added_tasks_added_and_is_logged(
    spans: InMemorySpanExporter, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_export(monkeypatch)

    with capture_logs() as logged:
        added = taskqueue.add(url="/a", name="a")
        with pytest.raises(taskqueue.TaskAlreadyExistsError):
            taskqueue.add(url="/a", name="a")

    assert added.was_enqueued
    failed = [(each["event"], each["queue"]) for each in logged if each["log_level"] == "error"]
    assert failed == [("trace.failed", "default")] * 2


class LastTask:
    """The input of an isolated process: one task, then no more."""

    def __init__(self, line: bytes) -> None:
        self._lines = [line]

    def get(self) -> bytes:
        """The next task."""
        if not self._lines:
            raise EOFError
        return self._lines.pop()


def test_an_exporters_error_does_not_end_an_isolated_process(
    spans: InMemorySpanExporter, test_store: Store, deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    taskqueue.add(url="/a", name="a")
    request: Any = {"token": "w", "number": 0, "wanted": 1, "free": 1, "lease_seconds": 8}
    [task] = Broker(test_store).lease(["default"], **request).tasks
    # Its constructor would replace this process's input and output.
    child: Any = isolation.FromWorker.__new__(isolation.FromWorker)
    child._tasks = LastTask(isolation._encoded(task))
    here, child._channel = socket.socketpair()
    break_export(monkeypatch)

    with here, child._channel, capture_logs() as logged:
        with pytest.raises(EOFError):
            child.serve(Delivery(app, deadlines, direct_calls={}).deliver)
        answer = here.recv(4096).removeprefix(isolation.READY)

    assert json.loads(answer)[0] == 200
    failed = [(each["event"], each["task"]) for each in logged if each["log_level"] == "error"]
    # One error is the attempt's span, the other the rest.
    assert failed == [("trace.failed", "a")] * 2


# --- without the setting ------------------------------------------------------------------


def test_without_the_setting_records_and_requests_have_no_trace(
    test_store: Store, clock: StoppedClock, deadlines: Deadlines
) -> None:
    uploads.upload(test_store)
    taskqueue.add(url="/a", name="a")
    assert b"traceparent" not in test_store.redis.hgetall(record_key("default_a"))

    Worker(test_store, clock, deadlines).run()

    assert "HTTP_TRACEPARENT" not in seen[0]


def test_a_process_with_spans_keeps_quiet_without_a_tracer_provider(test_store: Store) -> None:
    uploads.upload(test_store)
    tracing.use(otel.OpenTelemetry())
    try:
        taskqueue.add(url="/a", name="a")
        assert tracing.active is not None
        tracing.active.flush()
    finally:
        tracing.use(None)

    assert b"traceparent" not in test_store.redis.hgetall(record_key("default_a"))


def test_nothing_of_opentelemetry_is_loaded_without_the_setting() -> None:
    program = (
        "import sys\n"
        # As if it were not installed; redis-py imports it if it is.
        "sys.modules['opentelemetry'] = None\n"
        "import lastacross.taskqueue, lastacross.deferred, lastacross.processes.worker\n"
        "print('lastacross.tracing' in sys.modules, 'lastacross.otel' in sys.modules)"
    )

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.split() == ["True", "False"]


def test_the_setting_without_the_extra_is_a_mistake_that_names_it(
    app_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lastacross.otel", None)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "lastacross.otel")
    configuration = config.load(app_root, {"SECRET_KEY": "x" * 40, "LASTACROSS_TRACES": "1"})

    with pytest.raises(ConfigError, match=r"install lastacross\[otel\]"):
        application.prepare_process(configuration)

    assert tracing.active is None


def test_the_setting_turns_spans_on(app_root: Path) -> None:
    configuration = config.load(app_root, {"SECRET_KEY": "x" * 40, "LASTACROSS_TRACES": "1"})
    path = list(sys.path)
    try:
        application.prepare_process(configuration)
        assert isinstance(tracing.active, otel.OpenTelemetry)
    finally:
        tracing.use(None)
        sys.path[:] = path
