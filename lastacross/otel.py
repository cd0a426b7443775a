"""Records the spans of tasks with OpenTelemetry's API. The application sets up the SDK and its exporter.

Adding tasks is a span of the kind PRODUCER, each delivery is a child of it of the kind CONSUMER, and the
handler's run is a child of the delivery. The deliveries of one task are siblings; each is linked to the
previous one.
"""

import contextlib
from collections.abc import Iterator

from opentelemetry import context, trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lastacross import __version__, logs
from lastacross.tracing import Delivered

_SYSTEM = "lastacross"
_HEADER = "traceparent"
_propagator = TraceContextTextMapPropagator()
_log = logs.get("lastacross.trace")


class _Span:
    """An open OpenTelemetry span."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def note(self, *, name: str = "", reason: str = "", error: BaseException | None = None) -> None:
        """Add what is known at the end."""
        if name:
            self._span.update_name(name)
        if error is not None:
            self._span.record_exception(error)
        if reason:
            self._span.set_status(Status(StatusCode.ERROR, reason))


class OpenTelemetry:
    """Records spans with the tracer provider that is set when a span begins."""

    @contextlib.contextmanager
    def adding(self, queue: str, count: int) -> Iterator[None]:
        """The span of adding tasks; an exception marks it as failed.

        An error from a span or its exporter is logged. If it were raised after the tasks had been added, the
        caller would add them again.
        """
        attributes: dict[str, str | int] = {
            "messaging.system": _SYSTEM,
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "messaging.batch.message_count": count,
        }
        opened = contextlib.ExitStack()
        with _errors_logged(queue):
            span = _tracer().start_as_current_span(
                f"add {queue}", kind=SpanKind.PRODUCER, attributes=attributes
            )
            opened.enter_context(span)
        try:
            yield
        except BaseException as error:
            with _errors_logged(queue):
                opened.__exit__(type(error), error, error.__traceback__)
            raise
        with _errors_logged(queue):
            opened.close()

    @contextlib.contextmanager
    def delivering(self, task: Delivered) -> Iterator[_Span]:
        """The span of a delivery."""
        previous = _span_context(task.previous)
        links = [] if previous is None else [Link(previous, {"lastacross.link": "previous attempt"})]
        with _tracer().start_as_current_span(
            f"deliver {task.queue}",
            context=_context(task.added_by),
            kind=SpanKind.CONSUMER,
            attributes=_attributes(task),
            links=links,
        ) as span:
            yield _Span(span)

    @contextlib.contextmanager
    def attempting(self, task: Delivered, parent: str = "") -> Iterator[_Span]:
        """The span in which a handler runs."""
        is_inside = trace.get_current_span().get_span_context().is_valid
        with _tracer().start_as_current_span(
            f"attempt {task.queue}",
            context=None if is_inside else _context(parent or task.added_by),
            attributes=_attributes(task),
        ) as span:
            yield _Span(span)

    def traceparent(self) -> str:
        """The current span as W3C's header; '' if there is none."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get(_HEADER, "")

    def flush(self) -> None:
        """Export the finished spans; with only the API installed (no SDK), there is nothing to export."""
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush()


@contextlib.contextmanager
def _errors_logged(queue: str) -> Iterator[None]:
    """Log exceptions instead of raising them."""
    try:
        yield
    except Exception:
        _log.exception("trace.failed", queue=queue)


def _tracer() -> trace.Tracer:
    return trace.get_tracer("lastacross", __version__)


def _attributes(task: Delivered) -> dict[str, str | int]:
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.type": "process",
        "messaging.destination.name": task.queue,
        "messaging.message.id": task.task,
        "lastacross.attempt": task.attempt,
    }


def _context(traceparent: str) -> context.Context:
    """A header's context; without a valid header, an empty context, so that the span begins a new trace."""
    return _propagator.extract({_HEADER: traceparent}, context=context.Context())


def _span_context(traceparent: str) -> SpanContext | None:
    found = trace.get_current_span(_context(traceparent)).get_span_context()
    return found if found.is_valid else None
