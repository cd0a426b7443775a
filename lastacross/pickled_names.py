"""Names in pickles: a class or function that has moved keeps the name that queued calls carry.

A queued call or a cached value holds the module and name of every class and function in it. It may wait for
days, and during a deploy an older release must be able to read what this one writes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def pickled_as(module: str) -> Callable[[T], T]:
    """Pickle a class or function under this module, which must export it."""

    def renamed(found: T) -> T:
        found.__module__ = module
        return found

    return renamed
