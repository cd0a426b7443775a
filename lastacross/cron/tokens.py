"""Splits a schedule's text into tokens."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

UNITS: Mapping[str, int] = {"hours": 3600, "mins": 60, "minutes": 60}

_ORDINALS = ["1st first", "2nd second", "3rd third", "4th fourth", "5th fifth"]
_WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
# fmt: off
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
# fmt: on

ORDINALS = {word: number for number, words in enumerate(_ORDINALS, 1) for word in words.split()}
WEEKDAYS = {word: number for number, day in enumerate(_WEEKDAYS) for word in (day[:3], day)}
MONTHS = {word: number for number, month in enumerate(_MONTHS, 1) for word in (month[:3], month)}

_PLAIN = {"every", "from", "to", "synchronized", "of", "day", "month", "quarter"}
WORDS = frozenset({*_PLAIN, *UNITS, *ORDINALS, *WEEKDAYS, *MONTHS})

_TOKEN = re.compile(
    r"(?P<time>[0-9]+:[0-9]*)|(?P<word>[0-9]+(?:st|nd|rd|th)|[^\W\d_]+)|(?P<number>[0-9]+)|(?P<other>\S)"
)
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)

# Only these characters separate words, and they are optional, as in `every5minutes`.
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Token:
    """A word, number, time or sign in the text; ``column`` is counted from 1."""

    kind: str
    text: str
    column: int


def cut(text: str) -> list[Token]:
    """Split a schedule's text into tokens; unknown characters become tokens of the kind ``other``."""
    found: list[Token] = []
    position = 0
    while position < len(text):
        if text[position] in _SPACE:
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            found.append(Token("other", text[position], position + 1))
            position += 1
            continue
        found += _as_words(match, position)
        position = match.end()
    return found


def _as_words(match: re.Match[str], position: int) -> list[Token]:
    """Return a match's tokens; words written without spaces become several tokens."""
    kind, text = str(match.lastgroup), match.group()
    if kind != "word":
        return [Token(kind, text, position + 1)]
    tokens = []
    for part in _split(text):
        tokens.append(Token("word", part, position + 1))
        position += len(part)
    return tokens


def _split(text: str) -> list[str]:
    """Split a string without spaces into known words; return the string itself if that is impossible."""
    if text in WORDS or len(text) > 100:
        return [text]
    # ways[i] is the shortest list of words that make up text[:i].
    ways: list[list[str] | None] = [[], *([None] * len(text))]
    for start in range(len(text)):
        way = ways[start]
        if way is None:
            continue
        for word in WORDS:
            end = start + len(word)
            known = ways[end] if end <= len(text) else None
            if text.startswith(word, start) and (known is None or len(way) + 1 < len(known)):
                ways[end] = [*way, word]
    whole = ways[len(text)]
    return whole or [text]


def clock_time(token: Token) -> tuple[int, int] | None:
    """Return the hour and minute of a time token, or None if it is not a valid time."""
    match = _TIME.fullmatch(token.text) if token.kind == "time" else None
    return None if match is None else (int(match.group(1)), int(match.group(2)))


def likely(text: str, words: Iterable[str]) -> str | None:
    """Return the word that was probably meant, or None."""
    plain = text.lower()
    choices = sorted(set(words))
    if plain in choices:
        return plain
    found = difflib.get_close_matches(plain[:30], choices, n=1, cutoff=0.7)
    if found:
        return found[0]
    return next((word for word in choices if len(plain) > 2 and word.startswith(plain)), None)
