"""Finds the metrics, labels and label values that a PromQL expression asks for, without evaluating it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_WORD = re.compile(r"[a-zA-Z_:][\w:]*")
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # a string
    r"|[a-zA-Z_:][\w:]*"  # a name
    r"|\d+(?:\.\d+)?(?:e[+-]?\d+)?"  # a number
    r"|=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},]"
)
_RANGE = re.compile(r"\[[^\]]*\]")
_KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
_AFTER_FUNCTIONS = (["("], ["by"], ["without"])
_GROUPINGS = {"by", "without", "on", "ignoring", "group_left", "group_right"}


@dataclass
class Selector:
    """A metric in an expression, with the matchers of its labels as pairs of operator and value."""

    metric: str
    matchers: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Asked:
    """What an expression asks for."""

    selectors: list[Selector] = field(default_factory=list)
    grouped_by: set[str] = field(default_factory=set)


def asked(expression: str, variables: Mapping[str, str] | None = None) -> Asked:
    """Parse an expression.

    Args:
        expression: the PromQL, without ranges in quotes.
        variables: the values of Grafana's variables, by ``$name``.

    Raises:
        ValueError: the expression has something that this parser does not know.
    """
    text = _RANGE.sub("", expression)
    for name, value in (variables or {}).items():
        text = text.replace(name, value)
    if left := _TOKEN.sub("", text).strip():
        raise ValueError(f"unknown characters {left!r} in {expression!r}")
    tokens = _TOKEN.findall(text)
    if tokens.count("(") != tokens.count(")") or tokens.count("{") != tokens.count("}"):
        raise ValueError(f"unbalanced brackets in {expression!r}")
    found, position = Asked(), 0
    while position < len(tokens):
        token, following = tokens[position], tokens[position + 1 : position + 2]
        position += 1
        if token in _GROUPINGS:
            end = tokens.index(")", position)
            found.grouped_by |= {each for each in tokens[position:end] if _WORD.fullmatch(each)}
            position = end + 1
        elif _WORD.fullmatch(token) and token not in _KEYWORDS and following not in _AFTER_FUNCTIONS:
            selector = Selector(token)
            found.selectors.append(selector)
            if following == ["{"]:
                end = tokens.index("}", position)
                selector.matchers = _matchers(tokens[position + 1 : end])
                position = end + 1
    return found


def _matchers(tokens: list[str]) -> dict[str, tuple[str, str]]:
    found = {}
    for first in range(0, len(tokens), 4):
        label, operator, value = tokens[first : first + 3]
        found[label] = (operator, value[1:-1])
    return found


def problems(expression: Asked, series: Mapping[str, list[dict[str, str]]]) -> list[str]:
    """The parts of an expression for which a scrape has nothing.

    Args:
        expression: the parsed expression.
        series: the labels of each series of a scrape, by metric.
    """
    found, labels = [], set()
    for selector in expression.selectors:
        of_metric = series.get(selector.metric)
        if not of_metric:
            found.append(f"there is no metric {selector.metric}")
            continue
        names = set().union(*of_metric)
        labels |= names
        for label, (operator, value) in selector.matchers.items():
            values = {each[label] for each in of_metric if label in each}
            if not values:
                found.append(f"{selector.metric} has no label {label}")
            elif missing := _missing(operator, value, values):
                found.append(f"{selector.metric} has no {label} {missing}")
    return found + [f"no metric has the label {label}" for label in expression.grouped_by - labels]


def _missing(operator: str, value: str, values: set[str]) -> list[str]:
    """The alternatives of a matcher that match no value of the label."""
    alternatives = value.split("|") if operator in ("=~", "!~") else [re.escape(value)]
    return [each for each in alternatives if not any(re.fullmatch(each, known) for known in values)]
