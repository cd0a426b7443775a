"""Determines the depth and the number of values of a JSON text without parsing it. Pure.

At some depth Python's reader raises RecursionError, which no handler expects. It also creates an object for
each value before anyone can tell that there are too many.
"""

import operator
import re
from itertools import accumulate

MANY = 50_000
"""With this many adjacent bracket pairs or more, pairs are no longer examined one by one."""

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_NO_SEPARATORS = bytes(set(range(256)) - set(b',[{"'))


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether the lists and objects of a JSON text are nested more than ``limit`` levels deep.

    Invalid JSON counts as shallow only if a reader would not go deeper than the limit either.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    # In a string, a backslash escapes another backslash or a quote; each remaining pair of quotes encloses a
    # string.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = plain.translate(_BRACKETS, _OTHERS).replace(b'""', b"")
    left = b"".join(marks.split(b'"')[::2])
    removed = 0
    while left.count(b"[]") > MANY and removed <= limit:
        # Remove all innermost pairs together, so that the text becomes one level less deep.
        left, removed = left.replace(b"[]", b""), removed + 1
    return removed + _depth(left) > limit


def max_values(text: bytes) -> int:
    """An upper bound on the number of values; each begins the text or a container, or follows a comma."""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = plain.translate(None, _NO_SEPARATORS).replace(b'""', b"")
    left = b"".join(marks.split(b'"')[::2])
    return 1 + len(left)


def _depth(brackets: bytes) -> int:
    """The depth of a text that has only brackets: the most that are open after any run of opening ones."""
    brackets = brackets.lstrip(b"]")
    opened = accumulate(map(len, re.findall(rb"\[+", brackets)))
    closed = accumulate(map(len, re.findall(rb"\]+", brackets)), initial=0)
    return max(map(operator.sub, opened, closed), default=0)
