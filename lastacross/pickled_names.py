"""Keeps the pickled names of moved classes and functions, because queued calls contain these names.

A queued call or a cached value contains the module and name of each class and function in it. The call may
wait for days, and during a deployment, an older release must be able to read the calls that this release
writes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def pickled_as(module: str) -> Callable[[T], T]:
    """Return a decorator that pickles a class or function under this module, which must export it."""

    def renamed(found: T) -> T:
        found.__module__ = module
        return found

    return renamed
