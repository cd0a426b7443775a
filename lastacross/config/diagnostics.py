"""Formats error messages with the key, the offending text, the expected form and a likely correction."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lastacross.errors import ConfigError

SHOWN_CHARACTERS = 60
MAX_HINT_CHARACTERS = 250


class UnusableError(ValueError):
    """Raised when a string is not a valid value for its key.

    ``problem`` continues the sentence "<key> <text> …"; ``hint`` is the likely correction.
    """

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def shown(value: Any) -> str:
    """Format a value for a message: quoted, on one line and shortened."""
    if value is None:
        return "(empty)"
    if isinstance(value, Mapping):
        return "(a mapping)"
    if isinstance(value, list):
        return "(a list)"
    text = repr(str(value)[: SHOWN_CHARACTERS + 1])
    return text if len(str(value)) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…'"


def likely(word: str, choices: Iterable[str], closeness: float = 0.6) -> str | None:
    """Return the choice most similar to the word, or None if no choice is close."""
    by_plain = {choice.lower().replace("-", "_"): choice for choice in choices}
    plain = word[:100].lower().replace("-", "_")
    found = difflib.get_close_matches(plain, by_plain, n=1, cutoff=closeness)
    return by_plain[found[0]] if found else None


def listed(words: Sequence[str]) -> str:
    """Join the words as alternatives: "a, b or c"."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def sentence(problem: str, hint: str | None = None) -> str:
    """Combine a problem with its hint, but leave out a hint that is too long to read."""
    return (
        problem if hint is None or len(hint) > MAX_HINT_CHARACTERS else f"{problem}. Did you mean {hint!r}?"
    )


def together(mistakes: Iterable[ConfigError]) -> ConfigError:
    """Return one error that carries all the others and whose message is the first one's."""
    every = tuple(mistakes)
    first = every[0]
    return ConfigError(first.message, file=first.file, line=first.line, column=first.column, mistakes=every)
