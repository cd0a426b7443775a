"""Log lines: text for a person at a terminal, one JSON object a line for machines.

Modules log with ``structlog.get_logger("lastacross.<room>")``, the event named by its verb
(``task.ack``); what libraries log through ``logging`` comes out in the same shape.
"""

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

# A line break or an escape sequence in what somebody sent us would forge lines or colours.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_IN_TRACEBACK = re.compile(_CONTROL.pattern.replace(r"\x0a", r"\x0b"))


def configure(
    *, stream: TextIO | None = None, level: int = logging.INFO, is_text: bool | None = None
) -> None:
    """Make log lines appear; called once by each process.

    Args:
        stream: where they go; by default standard error.
        level: what is below it is dropped.
        is_text: text or JSON; by default text on a terminal, JSON elsewhere.
    """
    stream = sys.stderr if stream is None else stream
    is_text = stream.isatty() if is_text is None else is_text
    first: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_text else "iso", utc=not is_text, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(stream, is_text=is_text),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[*first, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _renderers(stream: TextIO, *, is_text: bool) -> list[Any]:
    """The last processors: an event's values to one line of output."""
    if not is_text:
        # No locals in tracebacks: they hold payloads and secrets.
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    has_colors = stream.isatty() and not os.environ.get("NO_COLOR")
    console = structlog.dev.ConsoleRenderer(colors=has_colors, timestamp_key="at", pad_event_to=20)
    return [structlog.processors.format_exc_info, _escape, console]


def _escaped(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]


def _escape(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show control characters of every text as ``\\x1b``, so that a line stays a line."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = (_CONTROL_IN_TRACEBACK if key == "exception" else _CONTROL).sub(_escaped, value)
    return event
