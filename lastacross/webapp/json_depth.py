"""How deep a JSON text goes, and how many values it has, told without reading it. Pure.

Python's reader raises RecursionError at some depth, which no handler expects, and makes an object of each
value before anybody can say that there are too many.
"""

import operator
import re
from itertools import accumulate

MANY = 50_000
"""So many places where a bracket closes the one before it are not looked at one by one."""

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_NO_SEPARATORS = bytes(set(range(256)) - set(b',[{"'))


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether the lists and objects of a JSON text are more than ``limit`` in each other.

    Of what is not JSON it is not too deep only where a reader would not get that deep either.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    # In a string a backslash stands before itself or a quote; each pair of quotes that is left is a string.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = plain.translate(_BRACKETS, _OTHERS).replace(b'""', b"")
    left = b"".join(marks.split(b'"')[::2])
    removed = 0
    while left.count(b"[]") > MANY and removed <= limit:
        # The innermost of all, at once: the others are one less deep.
        left, removed = left.replace(b"[]", b""), removed + 1
    return removed + _depth(left) > limit


def max_values(text: bytes) -> int:
    """At least as many as a JSON text has: each begins the text, a list or an object, or follows a comma."""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = plain.translate(None, _NO_SEPARATORS).replace(b'""', b"")
    left = b"".join(marks.split(b'"')[::2])
    return 1 + len(left)


def _depth(brackets: bytes) -> int:
    """Of brackets only: after each run of opening ones, those that are still open."""
    brackets = brackets.lstrip(b"]")
    opened = accumulate(map(len, re.findall(rb"\[+", brackets)))
    closed = accumulate(map(len, re.findall(rb"\]+", brackets)), initial=0)
    return max(map(operator.sub, opened, closed), default=0)
