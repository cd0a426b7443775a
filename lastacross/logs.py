"""Writes logs with one event per line, as coloured text on a terminal and as JSON otherwise.

An event has a name (``task.add``, ``web.request``); everything else is a field. External values are escaped,
so that they can neither begin a line nor send control codes to a terminal. The configuration's secrets are
masked wherever they occur.

structlog is imported when it is needed, because a command such as ``queues list`` usually logs nothing.
"""

import functools
import importlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from datetime import datetime
from typing import Any, TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

from lastacross import clock, log_context
from lastacross.config import Settings

EventDict = MutableMapping[str, Any]
Processor = Callable[[Any, str, EventDict], Any]

MASK = "***"
_LEVEL, _DEFAULT = "LASTACROSS_LOG_LEVEL", "default"
# These libraries log every routine step at level INFO.
_CHATTY = ("alembic", "rq.worker")
# C0, DEL, C1 and Unicode's line separators end a line or start an escape sequence. The others are invisible
# characters that change a line's direction or split a word.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
# The prefix of each traceback line on a terminal, so that the line cannot be mistaken for a log line.
_INDENT = "    | "
# The maximum size of a record, which is 64 kB including the line ending. Log collectors truncate longer ones,
# and no request should fill the disk.
MAX_RECORD_BYTES = 65_535
# How many characters to keep of each string; the first number that makes the record fit is used.
_TEXT_LENGTHS = (16_384, 4_096, 1_024, 256, 64)
_MAX_ITEMS = 50
# If a record is still too long, this many other fields are kept, each as a string.
_FEW = 20
# These fields identify a record, so they are always kept.
_CONTEXT = ("queue", "task", "attempt", "batch", "request_id")
_FIRST = ("ts", "level", "event", "logger", *_CONTEXT, "exception")


class _Logger:
    """A logger that imports structlog on first use, and then keeps each method that it has looked up."""

    def __init__(self, name: str) -> None:
        self.__name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)
        structlog = _structlog()
        if not structlog.is_configured():
            route_to_stdlib()
        found = getattr(structlog.stdlib.get_logger(self.__name), method)
        self.__dict__[method] = found
        return found


def get(name: str) -> Any:
    """Return a module's logger, for calls such as ``log.info("task.add", queue=…, task=…)``."""
    return _Logger(name)


def _structlog() -> Any:
    return importlib.import_module("structlog")


def configure(settings: Settings, stream: TextIO | None = None, *, on_demand: bool = False) -> None:
    """Send this process's logs, including the standard library's, to ``stream`` (standard error).

    Args:
        settings: the level (LASTACROSS_LOG_LEVEL), and the secrets to mask.
        stream: the output stream; the format is text if it is a terminal, else JSON. On a terminal, requests
            with a status below 400 are not shown unless LASTACROSS_LOG_LEVEL is set.
        on_demand: whether to import structlog only for the first line, for a short-lived process without
            threads.
    """
    out = stream if stream is not None else sys.stderr
    render = _Text(is_coloured=_wants_colours()) if out.isatty() else _as_json
    build = functools.partial(_formatter, [_Cleaner(secrets_of(settings)), _Bounded(render)])
    if not on_demand:
        route_to_stdlib()
    handler = logging.StreamHandler(out)
    handler.setFormatter(_OnDemand(build) if on_demand else build())
    if out.isatty() and settings.sources.get(_LEVEL, _DEFAULT) == _DEFAULT:
        handler.addFilter(_is_no_routine_request)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)


def secrets_of(settings: Settings) -> list[str]:
    """Return the values that must not appear in logs: the secret key and all passwords in the two URLs."""
    found = {settings.secret_key}
    for url in (settings.redis_url, settings.database_url):
        parts = urlsplit(url)
        passwords = [value for key, value in parse_qsl(parts.query) if key.endswith("password")]
        for password in (parts.password, *passwords):
            found |= {password, unquote(password)} if password else set()
    return sorted(found - {""}, key=len, reverse=True)


def escape(text: str) -> str:
    """Escape every control character in the text, for example as ``\\n``, ``\\x1b`` or ``\\u2028``."""
    return _CONTROLS.sub(lambda match: repr(match.group())[1:-1], text)


class _OnDemand(logging.Formatter):
    """A formatter that is built for the first record."""

    def __init__(self, build: Callable[[], logging.Formatter]) -> None:
        super().__init__()
        self._build = functools.cache(build)

    def format(self, record: logging.LogRecord) -> str:
        return self._build().format(record)


def _formatter(last: list[Processor]) -> logging.Formatter:
    stdlib = _structlog().stdlib
    found: logging.Formatter = stdlib.ProcessorFormatter(
        foreign_pre_chain=[stdlib.ExtraAdder(), *_shared()],
        processors=[stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    return found


def route_to_stdlib() -> None:
    """Make structlog write to the standard library's logging.

    Tests call this first, because ``structlog.testing.capture_logs`` counts as a configuration once it has
    been used.
    """
    structlog = _structlog()
    structlog.configure(
        processors=_processors(),
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _stamp(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["ts"] = clock.iso(clock.SYSTEM.now())
    return event


def _add_context(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for key, value in log_context.fields().items():
        event.setdefault(key, value)
    return event


def _shared() -> list[Processor]:
    structlog = _structlog()
    return [
        structlog.contextvars.merge_contextvars,
        _add_context,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.format_exc_info,
        _stamp,
    ]


@functools.cache
def _processors() -> list[Processor]:
    """The one list of processors, because a logger keeps its first list, which tests modify in place."""
    stdlib = _structlog().stdlib
    return [stdlib.filter_by_level, *_shared(), stdlib.ProcessorFormatter.wrap_for_formatter]


class _Cleaner:
    """A processor that masks secrets and escapes control characters in all strings of an event."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = list(secrets)

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        # The renderer itself splits a traceback into lines.
        return {
            escape(self._masked(str(key))): self._masked(value) if key == "exception" else self._clean(value)
            for key, value in event.items()
        }

    def _clean(self, value: Any) -> Any:
        if isinstance(value, bool | int | float | None):
            return value
        if isinstance(value, dict):
            return {escape(self._masked(str(key))): self._clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(item) for item in value]
        return escape(self._masked(str(value)))

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text


class _Bounded:
    """The last processor, which renders a record as text of at most 64 kB and marks each cut."""

    def __init__(self, render: Callable[[Any, str, EventDict], str]) -> None:
        self._render = render

    def __call__(self, logger: Any, method: str, event: EventDict) -> str:
        line = self._render(logger, method, dict(event))
        if _fits(line):
            return line
        first = {key: event[key] for key in _FIRST if key in event}
        rest = {key: value for key, value in event.items() if key not in first}
        for length in _TEXT_LENGTHS:
            line = self._render(logger, method, {**_cut(first, length), **_cut(rest, length)})
            if _fits(line):
                return line
        few = {key: json.dumps(value) for key, value in list(rest.items())[:_FEW]}
        return self._render(logger, method, _cut({**first, **few}, _TEXT_LENGTHS[-1]))


def _fits(line: str) -> bool:
    # A character takes at most four bytes, so only a line near the limit must be encoded and measured.
    if len(line) * 4 <= MAX_RECORD_BYTES:
        return True
    return len(line) <= MAX_RECORD_BYTES and len(line.encode("utf-8", "replace")) <= MAX_RECORD_BYTES


def _cut(value: Any, length: int) -> Any:
    """Cut long strings, lists and mappings in the middle, because both ends matter."""
    if isinstance(value, str):
        if len(value) <= length:
            return value
        half = length // 2
        return f"{value[:half]}…[{len(value) - 2 * half} characters cut]…{value[-half:]}"
    if isinstance(value, dict):
        items = list(value.items())
        kept = {_cut(key, length): _cut(item, length) for key, item in items[:_MAX_ITEMS]}
        return kept if len(items) <= _MAX_ITEMS else {**kept, "…": f"[{len(items) - _MAX_ITEMS} fields cut]"}
    if isinstance(value, list):
        kept_items = [_cut(item, length) for item in value[:_MAX_ITEMS]]
        more = len(value) - _MAX_ITEMS
        return kept_items if more <= 0 else [*kept_items, f"…[{more} items cut]"]
    return value


def _as_json(_logger: Any, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("ts", "level", "event", "logger") if key in event}
    return json.dumps({**first, **event})


# The width of the column of event names; most names are shorter.
_NAME_WIDTH = 22
_RESET, _DIM, _BOLD, _KEY = "\x1b[0m", "\x1b[2m", "\x1b[1m", "\x1b[36m"
_LEVEL_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[1;31m", "debug": _DIM}


def _wants_colours() -> bool:
    """Whether the terminal supports colours and nobody has turned them off (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Text:
    """Renders an event as aligned text for a person, with the local time of day."""

    def __init__(self, *, is_coloured: bool) -> None:
        self._is_coloured = is_coloured

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> str:
        stamp, level, name = event.pop("ts", ""), event.pop("level", ""), event.pop("event", "")
        trace = event.pop("exception", "")
        event.pop("logger", None)
        parts = [
            self._painted(_DIM, _time_of_day(stamp)),
            self._painted(_LEVEL_COLOURS.get(level, ""), f"{level:<8}"),
            self._painted(_BOLD, f"{name:<{_NAME_WIDTH}}"),
            *(f"{self._painted(_KEY, f'{key}=')}{_field(value)}" for key, value in event.items()),
        ]
        line = " ".join(parts).rstrip()
        return "\n".join([line, *(_INDENT + escape(text) for text in trace.splitlines())])

    def _painted(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._is_coloured and colour else text


def _time_of_day(stamp: str) -> str:
    try:
        at = datetime.fromisoformat(stamp).astimezone()
    except ValueError:
        return stamp
    return at.strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03}"


def _is_no_routine_request(record: logging.LogRecord) -> bool:
    """Whether to show a record on a terminal, where a page with many files would hide everything else."""
    event: Any = record.msg
    is_request = isinstance(event, dict) and event.get("event") == "request.answer"
    return not is_request or event.get("status", 500) >= 400


def _field(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if not text.isprintable():
        # Whitespace other than a space could look like the end of a field.
        text = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(' "=') else text
