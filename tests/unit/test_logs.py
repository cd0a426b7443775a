"""How log lines look."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from lastacross import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where a test's log lines go; logging is as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_machine_reads_one_json_object_a_line(stream: io.StringIO) -> None:
    logs.configure(stream=stream)

    structlog.get_logger("lastacross.test").info("task.ack", queue="quilt", attempt=1)

    [line] = stream.getvalue().splitlines()
    event = json.loads(line)
    assert event.pop("at").endswith("Z")
    assert event == {"event": "task.ack", "level": "info", "queue": "quilt", "attempt": 1}


def test_lines_of_libraries_have_the_same_shape(stream: io.StringIO) -> None:
    logs.configure(stream=stream)

    logging.getLogger("library").warning("%s is slow", "this")

    event = json.loads(stream.getvalue())
    assert (event["event"], event["level"]) == ("this is slow", "warning")


def test_a_person_reads_text(stream: io.StringIO) -> None:
    logs.configure(stream=stream, is_text=True)

    structlog.get_logger("lastacross.test").info("task.ack", queue="quilt")

    assert "task.ack" in stream.getvalue()
    assert "queue=quilt" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\x1b[31mred", "a\u2028b", "\x9b31m"])
def test_what_somebody_sent_cannot_forge_a_line_or_a_colour(
    stream: io.StringIO, text: str, is_text: bool
) -> None:
    logs.configure(stream=stream, is_text=is_text)

    structlog.get_logger("lastacross.test").info("request", path=text)
    logging.getLogger("library").info(text)

    assert stream.getvalue().count("\n") == 2
    assert not {"\x1b", "\r", "\x9b"} & set(stream.getvalue())


def test_an_exception_is_shown_without_local_variables(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    secret = "canary"

    try:
        raise ValueError(len(secret))
    except ValueError:
        structlog.get_logger("lastacross.test").exception("task.failed")

    assert "ValueError: 6" in json.loads(stream.getvalue())["exception"]
    assert "canary'" not in stream.getvalue().replace('secret = "canary"', "")


def test_an_exceptions_text_cannot_colour_the_terminal(stream: io.StringIO) -> None:
    logs.configure(stream=stream, is_text=True)

    try:
        raise ValueError("\x1b[31mred")
    except ValueError:
        structlog.get_logger("lastacross.test").exception("task.failed")

    assert "ValueError: \\x1b[31mred" in stream.getvalue().splitlines()


def test_what_is_below_the_level_is_dropped(stream: io.StringIO) -> None:
    logs.configure(stream=stream)

    structlog.get_logger("lastacross.test").debug("task.lease")
    logging.getLogger("library").debug("details")

    assert stream.getvalue() == ""
