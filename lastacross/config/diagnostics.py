"""The wording of mistakes: the key, the offending text, the expected form, a likely correction."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lastacross.errors import ConfigError

SHOWN_CHARACTERS = 60
MAX_HINT_CHARACTERS = 250


class UnusableError(ValueError):
    """Raised when a text cannot be a value of its key.

    ``problem`` continues the sentence "<key> <text> …"; ``hint`` is the likely correction.
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
    """The choice that looks most like the word, or None if none is close."""
    by_plain = {choice.lower().replace("-", "_"): choice for choice in choices}
    plain = word[:100].lower().replace("-", "_")
    found = difflib.get_close_matches(plain, by_plain, n=1, cutoff=closeness)
    return by_plain[found[0]] if found else None


def listed(words: Sequence[str]) -> str:
    """The words as a choice: "a, b or c"."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def sentence(problem: str, hint: str | None = None) -> str:
    """A problem with its hint, unless the hint is too long to read."""
    return (
        problem if hint is None or len(hint) > MAX_HINT_CHARACTERS else f"{problem}, did you mean {hint!r}?"
    )


def together(mistakes: Iterable[ConfigError]) -> ConfigError:
    """One error that carries all of them and states the first."""
    every = tuple(mistakes)
    first = every[0]
    return ConfigError(first.message, file=first.file, line=first.line, column=first.column, mistakes=every)
