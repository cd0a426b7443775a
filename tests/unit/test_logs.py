"""Logs: one line an event, nothing forged, nothing secret."""

import dataclasses
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from lastacross import logs
from lastacross.config import Settings

CANARY = 'canary "key" \\ é of sixteen'
SETTINGS = Settings(
    port=1,
    host="127.0.0.1",
    redis_url="redis://:redis-canary@127.0.0.1/0?sentinel_password=sentinel%2Dcanary",
    database_url="postgresql://user:sql%2Fcanary@127.0.0.1/db",
    secret_key=CANARY,
    data_dir=Path("var"),
)
ATTACKS = [
    "a\nb",
    "a\r\n2026-01-01 error task.fail",
    "\x1b[2J\x1b[31mred",
    "\x00",
    "\x07",
    "\x08\x08",
    "\x7f",
    "\x9b31m",
    "\u2028new line",
    "\u2029paragraph",
    "\x85next line",
    "\x0bvertical",
    "\x0cfeed",
    "\x1c",
    "\x1d",
    "\x1e",
    '"} {"level": "error"',
    " level=error",
    "\\n",
    "\ud800",
]


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the logging of the test run as it was, and a terminal without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()


@pytest.fixture(params=[io.StringIO, Terminal])
def stream(request: pytest.FixtureRequest) -> io.StringIO:
    """A file and a terminal in turn."""
    out: io.StringIO = request.param()
    logs.configure(SETTINGS, out)
    return out


def test_a_line_is_json_in_a_file() -> None:
    """With time, level, logger, the event's name first and the fields with their types."""
    out = io.StringIO()
    logs.configure(SETTINGS, out)
    structlog.contextvars.bind_contextvars(request_id="r1")
    logs.get("lastacross.test").info("task.add", queue="default", attempt=1, tags=["a"])
    event = json.loads(out.getvalue())
    assert list(event)[:4] == ["ts", "level", "event", "logger"]
    assert event["event"] == "task.add"
    assert (event["queue"], event["attempt"], event["tags"], event["request_id"]) == (
        "default",
        1,
        ["a"],
        "r1",
    )
    assert event["ts"].endswith("Z")


def test_a_line_is_text_on_a_terminal() -> None:
    """Without quotes where none are needed."""
    out = Terminal()
    logs.configure(SETTINGS, out)
    logs.get("lastacross.test").warning("task.retry", queue="default", reason="a b", wait=0.5)
    [line] = out.getvalue().splitlines()
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} warning  task\.retry             queue=default reason="a b" wait=0\.5', line
    )


def test_the_fields_of_a_terminals_lines_stand_below_each_other() -> None:
    out = Terminal()
    logs.configure(SETTINGS, out)
    log = logs.get("lastacross.test")
    log.info("task.add", queue="default")
    log.error("request.unavailable", path="/")
    first, second = out.getvalue().splitlines()
    assert first.index("queue=") == second.index("path=")


COLOURS = re.compile(r"\x1b\[(?:[0-2]|3[136]|1;31)m")


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_has_colours_unless_they_are_turned_off(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    out = Terminal()
    logs.configure(SETTINGS, out)
    logs.get("lastacross.test").warning("task.retry", queue="default", reason="a b")

    assert bool(COLOURS.search(out.getvalue())) == (not variables)
    plain = COLOURS.sub("", out.getvalue())
    assert plain.endswith('warning  task.retry             queue=default reason="a b"\n')


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_value_from_outside_cannot_use_the_colours(monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    logs.configure(SETTINGS, out)
    log = logs.get("lastacross.test")
    log.info("e", value="harmless")
    harmless = out.getvalue().count("\x1b")
    log.info(attack, value=attack)
    log.info("e", **{"key" + attack: attack})

    assert out.getvalue().count("\x1b") == 3 * harmless
    assert out.getvalue().count("\n") == 3


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("source", ["default", "environment"])
def test_a_terminal_shows_requests_that_went_well_only_if_a_level_is_set(
    kind: type[io.StringIO], source: str
) -> None:
    out = kind()
    logs.configure(dataclasses.replace(SETTINGS, sources={"LASTACROSS_LOG_LEVEL": source}), out)
    log = logs.get("lastacross.test")
    for status in (200, 304, 404, 500):
        log.info("request.answer", path=f"/{status}", status=status)
    log.info("task.add")

    shown = re.findall(r"/(\d{3})", out.getvalue())
    is_quiet = kind is Terminal and source == "default"
    assert shown == (["404", "500"] if is_quiet else ["200", "304", "404", "500"])
    assert "task.add" in out.getvalue()


def test_the_standard_librarys_loggers_write_the_same_lines() -> None:
    """With their arguments filled in and their extra fields."""
    out = io.StringIO()
    logs.configure(SETTINGS, out)
    logging.getLogger("some.library").warning("lost %s of %d", "one", 2, extra={"queue": "default"})
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("old news", stacklevel=1)
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["event"], first["queue"], first["logger"]) == ("lost one of 2", "default", "some.library")
    assert "old news" in second["event"]


def test_the_level_is_the_settings() -> None:
    """LASTACROSS_LOG_LEVEL."""
    out = io.StringIO()
    logs.configure(SETTINGS, out)
    logs.get("lastacross.test").debug("task.add")
    assert out.getvalue() == ""
    logs.get("lastacross.test").info("task.add")
    assert "task.add" in out.getvalue()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_value_from_outside_cannot_begin_a_line_or_paint_the_terminal(
    stream: io.StringIO, attack: str
) -> None:
    """In every place where a value can be: text, field, name of a field."""
    log: Any = logs.get("lastacross.test")
    log.info(attack)
    log.info("e", value=attack, **{"key" + attack: 1})
    log.info("e", value=[attack], nested={attack: (attack,)}, other=Path(attack.replace("\0", "0")))
    logging.getLogger("other").info("value %s", attack)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 5
    assert lines.pop() == ""
    for line in lines:
        assert line.isascii() or line.isprintable() or "\ud800" in line
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u200b", "\u202e", "\u2066", " ", ""])
def test_a_value_from_outside_cannot_pass_for_further_fields(space: str) -> None:
    stream = Terminal()
    logs.configure(SETTINGS, stream)
    logs.get("lastacross.test").info("request", path=f"/a{space}status=200")

    [line] = stream.getvalue().splitlines()
    assert ' path="/a' in line
    assert line.endswith('status=200"')
    assert line.isascii()


def test_an_exceptions_text_cannot_begin_a_line(stream: io.StringIO) -> None:
    """A traceback has several lines on a terminal; each is marked as part of it."""
    try:
        raise ValueError("bad\n2026-01-01T00:00:00Z error forged\x1b[31m")
    except ValueError:
        logs.get("lastacross.test").exception("task.error")
    first, *others = stream.getvalue().splitlines()
    assert "task.error" in first
    assert all(line.startswith("    | ") for line in others)
    assert "\x1b" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


@pytest.mark.parametrize("secret", [CANARY, "redis-canary", "sql%2Fcanary", "sql/canary", "sentinel-canary"])
def test_a_secret_is_masked_wherever_it_turns_up(stream: io.StringIO, secret: str) -> None:
    """In fields, in text and in tracebacks."""
    log = logs.get("lastacross.test")
    log.info("e", value=secret)
    log.info("e", nested={"url": f"x://user:{secret}@host"})
    logging.getLogger("other").info("connecting with %s", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("e")
    assert "canary" not in stream.getvalue()
    assert stream.getvalue().count("***") == 4


def test_without_configuration_a_library_user_hears_warnings_only() -> None:
    """As with any other library's logger: in a process of its own, as pytest has handlers here."""
    program = (
        "from lastacross import logs\n"
        "log = logs.get('lastacross.test')\n"
        "log.info('task.add')\n"
        "log.warning('task.lost')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    [line] = ran.stderr.splitlines()
    assert "task.lost" in line


# --- bounded ------------------------------------------------------------------------------

HUGE: list[dict[str, Any]] = [
    {"text": "x" * 10_000_000},
    {"text": "\x1b" * 100_000},
    {"text": "é🙂" * 50_000},
    {"text": "\n" * 100_000},
    {"text": '"' * 100_000},
    {f"field{n}": "x" * 1000 for n in range(1000)},
    {f"{'k' * 5000}{n}": 1 for n in range(100)},
    {"items": ["x" * 1000] * 1000},
    {"items": list(range(100_000))},
    {"tree": [[[["🙂" * 100] * 40] * 40] * 40]},
    {"mapping": {str(n): {"a": "x" * 100} for n in range(10_000)}},
]


@pytest.mark.parametrize("fields", HUGE, ids=range(len(HUGE)))
def test_a_record_has_64_kb_at_most_and_marks_its_cut(stream: io.StringIO, fields: dict[str, Any]) -> None:
    """Whatever is in it: time, level and event stay."""
    logs.get("lastacross.test").warning("task.fail", **fields)

    line = stream.getvalue()
    assert len(line.encode()) <= 65_536
    assert line.count("\n") == 1
    assert " cut]" in line
    assert "task.fail" in line
    assert "warning" in line
    if not isinstance(stream, Terminal):
        assert list(json.loads(line))[:4] == ["ts", "level", "event", "logger"]


def test_a_long_traceback_keeps_both_ends(stream: io.StringIO) -> None:
    """Where it began, and what was raised."""

    def fall(depth: int) -> None:
        if depth:
            fall(depth - 1)
        raise ValueError("🙂" * 60_000 + " the end")

    try:
        fall(300)
    except ValueError:
        logs.get("lastacross.test").exception("task.error", task="t1")

    line = stream.getvalue()
    assert len(line.encode()) <= 65_536
    assert "Traceback (most recent call last)" in line
    assert "the end" in line
    assert "characters cut]" in line
    assert "t1" in line


def test_a_long_event_of_another_library_is_cut_too() -> None:
    """Its message is the event."""
    out = io.StringIO()
    logs.configure(SETTINGS, out)

    logging.getLogger("some.library").error("lost %s", "x" * 100_000)

    found = json.loads(out.getvalue())
    assert found["event"].startswith("lost xxx")
    assert len(out.getvalue()) <= 65_536


@pytest.mark.parametrize("size", [60_000, 65_000])
def test_a_record_that_fits_is_whole(size: int) -> None:
    """Up to the limit nothing is cut."""
    out = io.StringIO()
    logs.configure(SETTINGS, out)

    logs.get("lastacross.test").info("task.add", text="x" * size)

    assert json.loads(out.getvalue())["text"] == "x" * size


def test_a_secret_at_the_cut_is_masked() -> None:
    """Half of it would be too much."""
    out = io.StringIO()
    logs.configure(SETTINGS, out)
    half = 16_384 // 2

    logs.get("lastacross.test").info("task.add", text="x" * (half - 10) + CANARY + "y" * 100_000)

    assert CANARY[:8] not in out.getvalue()
    assert "***" in out.getvalue()
