"""Serves long tasks beside an application of any framework."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lastacross.longtasks import frame
from lastacross.longtasks.functions import TaskFunction, function
from lastacross.longtasks.handler import LongRunningTaskHandler
from lastacross.longtasks.listing import ListHandler
from lastacross.webapp import Mounted, as_wsgi, is_asgi

Task = type[LongRunningTaskHandler] | type[ListHandler] | TaskFunction[Any, Any] | Callable[..., Any]

# Variables as in webapp2's templates, such as `/report/<month>` or `/report/<year:\\d+>`.
_PATH = re.compile(r"/(?!/)(?:[\w.~!$&',;=@%+-]|/(?!/)|<\w+(?::[^<>]+)?>)*")


def mount(
    application: Any,
    tasks: Mapping[str, Task] | Iterable[TaskFunction[Any, Any]],
    *,
    page: frame.Page | None = None,
    list_path: str | None = None,
) -> Mounted:
    """Serve long tasks at some paths of an application, and everything else by the application itself.

    Args:
        application: a WSGI or ASGI application, such as Flask's, Django's or FastAPI's.
        tasks: each path and its ``LongRunningTaskHandler`` class or function; a list of functions decorated
            with ``function`` is enough, because they have their own paths. A path may have variables, such
            as ``/report/<month>``; a path without variables takes precedence.
        page: the application's own frame, called as ``page(title=…, head=…, body=…)``. All three are safe
            HTML; it returns the whole page. Flask's context is there.
        list_path: the path of the visitor's own tasks; None for no list.

    Returns:
        The WSGI application that ``script:`` in app.yaml names.

    Raises:
        TypeError: an argument is not of these types.
        ValueError: a path is invalid, or is mounted twice.
        ConfigError: the application is an ASGI application and a2wsgi is not installed.
    """
    _check_application(application)
    if page is not None and not callable(page):
        raise TypeError(f"longtask.mount: page must be a callable, not a {type(page).__name__}")
    handlers: dict[str, type[Any]] = {}
    for path, handler in _handlers(tasks, list_path):
        if not isinstance(path, str) or _PATH.fullmatch(path) is None:
            raise ValueError(f"longtask.mount: {path!r} is not a path such as '/report' or '/report/<month>'")
        if path in handlers:
            raise ValueError(f"longtask.mount: {path!r} is mounted twice")
        handlers[path] = handler
    # A path without variables is more specific: `/report/mine` must not be a month of `/report/<month>`.
    handlers = dict(sorted(handlers.items(), key=lambda item: "<" in item[0]))
    name = getattr(application, "__name__", type(application).__name__)
    on_error = None if page is None else frame.answer_error
    mounted = Mounted(as_wsgi(application, name), handlers, on_error)
    if page is not None:
        mounted.handlers.registry[frame.PAGE] = application, page
    return mounted


def _check_application(application: Any) -> None:
    """Refuse anything that is neither a WSGI nor an ASGI application.

    Raises:
        TypeError: with the remedy, for example for a function that makes an application.
    """
    takes = "longtask.mount takes a WSGI or ASGI application, not"
    if not callable(application) or inspect.ismodule(application):
        raise TypeError(f"{takes} a {type(application).__name__}")
    name = getattr(application, "__name__", type(application).__name__)
    if inspect.isclass(application) and not hasattr(application, "__iter__") and not is_asgi(application):
        raise TypeError(f"{takes} the class {name}; make an instance of it first")
    if not is_asgi(application) and not _takes_two(application):
        raise TypeError(f"{takes} {name}; if it makes an application, mount {name}()")


def _takes_two(application: Any) -> bool:
    """Whether a WSGI server may call this with its two arguments; True if nobody can know."""
    try:
        inspect.signature(application).bind({}, None)
    except TypeError:
        return False
    except ValueError:
        # Some callables written in C have no signature.
        pass
    return True


def _handlers(
    tasks: Mapping[str, Task] | Iterable[TaskFunction[Any, Any]], list_path: str | None
) -> Iterator[tuple[str, type[Any]]]:
    if isinstance(tasks, Mapping):
        pairs = list(tasks.items())
    elif isinstance(tasks, Iterable) and not isinstance(tasks, str):
        pairs = [(getattr(each, "path", ""), each) for each in tasks]
    else:
        raise TypeError(
            f"longtask.mount takes {{'/path': task}} or a list of functions, not a {type(tasks).__name__}"
        )
    for path, task in pairs:
        yield path, _handler_of(path, task)
    if list_path is not None:
        yield list_path, ListHandler


def _handler_of(path: str, task: object) -> type[frame.FramedHandler]:
    if isinstance(task, TaskFunction):
        return task.handler
    if isinstance(task, type) and issubclass(task, LongRunningTaskHandler | ListHandler):
        return task
    if inspect.isfunction(task):
        return function(path)(task).handler
    name = getattr(task, "__qualname__", repr(task))
    raise TypeError(
        f"longtask.mount: {name} at {path!r} is neither a LongRunningTaskHandler class nor a function"
    )
