"""Regular expressions, and the functions that read what a stranger wrote: linear, whatever they get."""

import contextlib
import functools
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import browsers
import grouping
import main
import operations
from lastacross import config, errors, taskqueue
from lastacross.cron.grammar import parse_schedule
from lastacross.longtasks.operation import wanted_seconds
from lastacross.webapp import content_type, cookies, hosts, local_path
from tests.security import expressions
from tests.security.expressions import Expression
from tests.security.table import Row
from tests.security.test_header_costs import PATTERNS

pytestmark = pytest.mark.slow

# Characters that an expression gets through in a second, and more: some take a few steps for each.
SPEED = 500_000
# What takes this many times longer than it may is not waited for.
PATIENCE = 3

each_length = pytest.mark.parametrize("length", [10_000, pytest.param(50_000, marks=pytest.mark.long)])

PRODUCT = expressions.of_product()


class TooSlowError(Exception):
    """Raised in the middle of an expression."""


@contextlib.contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Give up after so much of this process's CPU time."""

    def give_up(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def seconds_over(length: int, call: Callable[[], object]) -> float | None:
    """The CPU time of a call that takes longer than a text of this length may; None if it does not.

    The least of three; what is not waited for has taken what was waited.
    """
    allowed = length / SPEED
    least = float("inf")
    for _ in range(3):
        started_at = time.process_time()
        with contextlib.suppress(TooSlowError), patient(allowed * PATIENCE):
            call()
        least = min(least, time.process_time() - started_at)
        if least <= allowed:
            return None
    return least


def texts_for(expression: Expression, length: int) -> list[Any]:
    """What is hard for this one, and what is hard for many."""
    general = [(unit * length)[:length] + b"!" for unit in PATTERNS.values()]
    is_text = isinstance(expression.pattern.pattern, str)
    own = list(expressions.hostile(expression.pattern, length))
    return own + [text.decode("latin-1") if is_text else text for text in general]


def slow_texts(expression: Expression, texts: Sequence[Any], length: int) -> list[tuple[Any, float]]:
    """The texts that take too long, each by its beginning."""

    def over(text: Any) -> float | None:
        return seconds_over(length, lambda: expressions.run(expression, text))

    return [(text[:40], seconds) for text in texts if (seconds := over(text)) is not None]


@each_length
@pytest.mark.parametrize("expression", PRODUCT, ids=lambda expression: expression.where)
def test_an_expression_is_linear(expression: Expression, length: int, attacks: Callable[[Row], None]) -> None:
    texts = texts_for(expression, length)

    slow = slow_texts(expression, texts, length)

    attacks(Row(f"regular expressions on {length // 1000} kB", len(texts), len(slow)))
    assert slow == []


@pytest.mark.parametrize("text", [r"(a+)+b", r"\s*,\s*\d*\s*;", r"[a-z]+=", r'"(?:\\.|[^"])*"'])
def test_an_expression_that_is_not_linear_is_found(text: str) -> None:
    expression = Expression("made up", re.compile(text), ("search",))

    hard = texts_for(expression, 10_000)
    slow = (seconds_over(10_000, functools.partial(expressions.run, expression, each)) for each in hard)
    assert any(slow)


PATH_BYTES = 4_094


def of_addresses() -> list[Expression]:
    """What the path of a request is compared with: app.yaml's handlers and the application's routes."""
    loaded = config.load(expressions.ROOT, {"SECRET_KEY": "a secret key of the tests, long enough"})
    handlers = [(f"app.yaml: {each.url}", each.pattern) for each in loaded.app.handlers]
    routes = [(f"main: {each.template}", each.regex) for each in main.app.router.match_routes]
    return [Expression(where, pattern, ("match",)) for where, pattern in (*handlers, *routes)]


@pytest.mark.parametrize("expression", of_addresses(), ids=lambda expression: expression.where)
def test_an_address_is_found_in_linear_time(expression: Expression, attacks: Callable[[Row], None]) -> None:
    texts = [f"/{text}" for text in texts_for(expression, PATH_BYTES)]
    texts += list(expressions.hostile(expression.pattern, PATH_BYTES))

    slow = slow_texts(expression, texts, PATH_BYTES)

    attacks(Row("addresses of 4 kB, compared with handlers and routes", len(texts), len(slow)))
    assert slow == []


READERS: dict[str, Callable[[str], object]] = {
    "a schedule": parse_schedule,
    "a queue's name": taskqueue.Queue,
    "a task's name": lambda text: taskqueue.Task(name=text),
    "a task's address": lambda text: taskqueue.Task(url=f"/{text}"),
    "a task's target": lambda text: taskqueue.Task(url="/", target=text),
    "a user agent": browsers.parse,
    "a host": lambda text: hosts.problem(text, ("localhost",)),
    "a path": local_path,
    "a content type": content_type.parse.__wrapped__,
    "cookies": cookies.parse,
    "a preference": wanted_seconds,
    "an error's message": grouping.masked,
    "an error's address": grouping.domain_of,
    "a fetch's problem": lambda text: operations.fetch_problem(errors.Error(text)),  # type: ignore[arg-type]
}


@each_length
@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_linear(name: str, length: int, attacks: Callable[[Row], None]) -> None:
    def try_to_read(text: str) -> None:
        with contextlib.suppress(errors.Error, ValueError):
            READERS[name](text)

    def over(unit: bytes) -> float | None:
        return seconds_over(length, lambda: try_to_read((unit * length)[:length].decode("latin-1")))

    # What is made at the first call is no part of it.
    try_to_read("warm")
    slow = {pattern: seconds for pattern, unit in PATTERNS.items() if (seconds := over(unit)) is not None}

    attacks(Row(f"readers of names, schedules and headers on {length // 1000} kB", len(PATTERNS), len(slow)))
    assert slow == {}
