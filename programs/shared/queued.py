"""The public names of deferred functions, which queued calls carry."""

from collections.abc import Callable
from typing import TypeVar

HOME = "workers"
"""The module that re-exports every deferred function."""

Function = TypeVar("Function", bound=Callable[..., object])


def queued(function: Function) -> Function:
    """Make queued calls name this function ``workers.<its name>``, wherever it is defined.

    A queued call is pickled with its function's module and name, and it may wait for days. A release with
    another layout must be able to import it, and so must an older release that runs beside this one.
    """
    function.__module__ = HOME
    return function
