"""App Engine's ``namespace_manager``: the namespace of memcache's keys where a call names none.

A namespace belongs to the request or the task that sets it, and to what runs in its context, a body that is
produced while it is sent included. A thread's next request or task begins without one.
"""

import re
from contextvars import ContextVar

from lastacross import log_context
from lastacross.errors import BadNamespaceError

__all__ = [
    "BadValueError",
    "Current",
    "begin_request",
    "get_namespace",
    "google_apps_namespace",
    "set_namespace",
    "validate_namespace",
]

BadValueError = BadNamespaceError

_NAMESPACE = re.compile(r"[0-9A-Za-z._-]{0,100}")

Current = tuple[str, object]
"""A namespace, and the task that set it (None outside of tasks)."""

_NONE: Current = ("", None)
_current: ContextVar[Current] = ContextVar("lastacross_namespace", default=_NONE)


def set_namespace(namespace: str | None) -> None:
    """Set the namespace of this request or task; None means none.

    Raises:
        BadValueError: the namespace is not valid.
    """
    if namespace is not None:
        validate_namespace(namespace)
    _current.set((namespace or "", log_context.task_in_progress.get()))


def get_namespace() -> str:
    """The namespace that this request or task has set; '' if it has set none."""
    namespace, task = _current.get()
    return namespace if task is log_context.task_in_progress.get() else ""


def google_apps_namespace() -> str | None:
    """The Google Apps domain of the request; there is none here."""
    return None


def validate_namespace(value: object, exception: type[Exception] = BadNamespaceError) -> None:
    """Raise the exception if the value is not a valid namespace: 0 to 100 letters, digits or ``. _ -``."""
    if not isinstance(value, str) or not _NAMESPACE.fullmatch(value):
        raise exception(f"namespace {value!r} must be at most 100 letters, digits or . _ -")


def begin_request() -> None:
    """Begin a request without a namespace."""
    _current.set(_NONE)
