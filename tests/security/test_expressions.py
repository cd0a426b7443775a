"""Regular expressions, and the functions that read what a stranger wrote: linear, whatever they get."""

import contextlib
import functools
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lastacross import config, errors, taskqueue, webapp
from lastacross.cron.grammar import parse_schedule
from lastacross.longtasks.operation import wanted_seconds
from lastacross.webapp import boundary, content_type, cookies, local_path
from programs.errors import browsers, grouping
from programs.shared import operations
from tests.security import expressions
from tests.security.expressions import Expression
from tests.security.table import Row
from tests.security.test_header_costs import PATTERNS

pytestmark = pytest.mark.slow

# Characters that an expression gets through in a second, and more: some take a few steps for each.
SPEED = 500_000
# A call that takes this many times longer than it may is given up.
PATIENCE = 3

each_length = pytest.mark.parametrize("length", [10_000, pytest.param(50_000, marks=pytest.mark.long)])

MODULES = expressions.modules()
# Matched with the paths of existing files only, whose length a stranger does not choose.
ON_EXISTING_FILES = {f"lastacross.config.{module}.DEFAULT_SKIP_FILES" for module in ("app", "values")}


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

    The least of three; one that was given up has taken as long as was waited.
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
    """Texts that are hard for this one, and some that are hard for many."""
    general = [(unit * length)[:length] + b"!" for unit in PATTERNS.values()]
    is_text = isinstance(expression.pattern.pattern, str)
    own = list(expressions.hostile(expression.pattern, length))
    return own + [text.decode("latin-1") if is_text else text for text in general]


def slow_texts(expression: Expression, texts: Sequence[Any], length: int) -> list[tuple[Any, float]]:
    """The texts that take too long, each by its beginning."""

    def over(text: Any) -> float | None:
        return seconds_over(length, lambda: expressions.run(expression, text))

    return [(text[:40], seconds) for text in texts if (seconds := over(text)) is not None]


def attack(found: Sequence[Expression], length: int) -> tuple[int, dict[str, list[Any]]]:
    """How many texts they got, and which of them were too slow at which."""
    count = 0
    slow = {}
    for expression in found:
        if expression.where in ON_EXISTING_FILES:
            continue
        texts = texts_for(expression, length)
        count += len(texts)
        if at := slow_texts(expression, texts, length):
            slow[expression.where] = at
    return count, slow


@each_length
@pytest.mark.parametrize("name", MODULES)
def test_the_expressions_of_a_module_are_linear(
    name: str, length: int, attacks: Callable[[Row], None]
) -> None:
    found = expressions.of_module(name, MODULES[name])
    assert found

    variants, slow = attack(found, length)

    attacks(Row(f"regular expressions on {length // 1000} kB", variants, len(slow)))
    assert slow == {}


@pytest.mark.parametrize("text", [r"(a+)+b", r"\s*,\s*\d*\s*;", r"[a-z]+=", r'"(?:\\.|[^"])*"'])
def test_an_expression_that_is_not_linear_is_found(text: str) -> None:
    expression = Expression("made up", re.compile(text), ("search",))

    hard = texts_for(expression, 10_000)
    slow = (seconds_over(10_000, functools.partial(expressions.run, expression, each)) for each in hard)
    assert any(slow)


PATH_BYTES = 4_094


def test_an_address_is_found_in_linear_time(attacks: Callable[[Row], None]) -> None:
    """Its path is compared with app.yaml's handlers and with the application's routes."""
    loaded = config.load(expressions.ROOT, {"SECRET_KEY": "a secret key of the tests, long enough"})
    application: Any = webapp.load_script("main.app", expressions.ROOT)
    found = [Expression(f"app.yaml: {each.url}", each.pattern, ("match",)) for each in loaded.app.handlers]
    found += [Expression(each.template, each.regex, ("match",)) for each in application.router.match_routes]

    variants, slow = attack(found, PATH_BYTES)

    attacks(Row("addresses of 4 kB, compared with handlers and routes", variants, len(slow)))
    assert slow == {}


READERS: dict[str, Callable[[str], object]] = {
    "a schedule": parse_schedule,
    "a queue's name": taskqueue.Queue,
    "a task's name": lambda text: taskqueue.Task(name=text),
    "a task's address": lambda text: taskqueue.Task(url=f"/{text}"),
    "a task's target": lambda text: taskqueue.Task(url="/", target=text),
    "a user agent": browsers.parse,
    "a host": lambda text: boundary.host_problem(text, ("localhost",)),
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

    # The first call also makes things that are kept.
    try_to_read("warm")
    slow = {pattern: seconds for pattern, unit in PATTERNS.items() if (seconds := over(unit)) is not None}

    attacks(Row(f"readers of names, schedules and headers on {length // 1000} kB", len(PATTERNS), len(slow)))
    assert slow == {}
