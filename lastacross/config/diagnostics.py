"""How a mistake is worded: the key, the offending text, what it takes, what was likely meant."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from lastacross.errors import ConfigError

SHOWN_CHARACTERS = 60
LONGEST_HINT = 250


class UnusableError(ValueError):
    """Raised when a text cannot be a value of its key.

    Args:
        problem: continues the sentence "<key> <text> …".
        hint: what was likely meant, as it should be written.
    """

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def shown(value: Any) -> str:
    """A value as a message shows it: quoted, on one line, not long."""
    if value is None:
        return "(nothing)"
    if isinstance(value, Mapping):
        return "(a mapping)"
    if isinstance(value, list):
        return "(a list)"
    text = repr(str(value)[: SHOWN_CHARACTERS + 1])
    return text if len(str(value)) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…'"


def likely(word: str, choices: Iterable[str], closeness: float = 0.6) -> str | None:
    """The choice that looks most like the word, or None when none does."""
    by_plain = {choice.lower().replace("-", "_"): choice for choice in choices}
    plain = word[:100].lower().replace("-", "_")
    found = difflib.get_close_matches(plain, by_plain, n=1, cutoff=closeness)
    return by_plain[found[0]] if found else None


def sentence(problem: str, hint: str | None = None) -> str:
    """A problem with its hint, unless that is too long to be read."""
    return problem if hint is None or len(hint) > LONGEST_HINT else f"{problem}, did you mean {hint!r}?"


def together(mistakes: Iterable[ConfigError]) -> ConfigError:
    """One error that carries all of them and speaks of the first."""
    every = tuple(mistakes)
    first = every[0]
    return ConfigError(first.message, file=first.file, line=first.line, column=first.column, mistakes=every)
