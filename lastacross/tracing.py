"""Whether this process records spans, and how. With LASTACROSS_TRACES, ``otel`` does so with OpenTelemetry.

This module must not import any other part of the engine, because every part may import it.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

HEADER = "HTTP_TRACEPARENT"
"""W3C's header as a key of a WSGI environ. Its value is the span that the request belongs to."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A task as its spans describe it.

    ``added_by`` is the ``traceparent`` of the span that added the task, and ``previous`` that of its previous
    delivery; '' if there was none.
    """

    queue: str
    task: str
    attempt: int
    added_by: str = ""
    previous: str = ""


class Span(Protocol):
    """An open span."""

    def note(self, *, name: str = "", reason: str = "", error: BaseException | None = None) -> None:
        """Add what is known at the end: a better name, or why it failed."""


class Tracing(Protocol):
    """Records spans."""

    def adding(self, queue: str, count: int) -> AbstractContextManager[object]:
        """The span of adding tasks."""

    def delivering(self, task: Delivered) -> AbstractContextManager[Span]:
        """The span of a delivery, which is a child of the span that added the task."""

    def attempting(self, task: Delivered, parent: str = "") -> AbstractContextManager[Span]:
        """The span in which a handler runs; ``parent`` is used only outside a delivery."""

    def traceparent(self) -> str:
        """The current span as W3C's header; '' if there is none."""

    def flush(self) -> None:
        """Export the finished spans, because the process may be killed."""


active: Tracing | None = None
"""None if this process records no spans, which is the default."""


def use(tracing: Tracing | None) -> None:
    """Record spans this way from now on; None stops recording them."""
    global active
    active = tracing
