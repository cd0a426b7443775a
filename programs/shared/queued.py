"""The public names of deferred functions: their queued calls carry them."""

from collections.abc import Callable
from typing import TypeVar

HOME = "workers"
"""The module that re-exports every deferred function."""

Function = TypeVar("Function", bound=Callable[..., object])


def queued(function: Function) -> Function:
    """Have queued calls name this function ``workers.<its name>``, wherever it is defined.

    A queued call is pickled with the module and the name of its function, and it may wait for days. A release
    with another layout must be able to import it, and so must an older one that runs beside this one.
    """
    function.__module__ = HOME
    return function
