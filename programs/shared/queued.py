"""The public names that queued calls use for deferred functions."""

from collections.abc import Callable
from typing import TypeVar

HOME = "workers"
"""The module that re-exports every deferred function."""

Function = TypeVar("Function", bound=Callable[..., object])


def queued(function: Function) -> Function:
    """Make queued calls refer to this function as ``workers.<name>``, wherever it is defined.

    A queued call is pickled with its function's module and name, and it may wait for days. Later releases
    with a different layout must still be able to import that name, and so must an older release that runs at
    the same time.
    """
    function.__module__ = HOME
    return function
