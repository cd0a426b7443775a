"""Loads, calls and inspects the application's code, which app.yaml's ``script:`` names by a dotted name."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import webapp2

from lastacross import config, handler_calls
from lastacross.application_modules import import_own
from lastacross.config import Config
from lastacross.errors import ApplicationModuleError, ConfigError
from lastacross.webapp import frameworks, webapp2_compat
from lastacross.webapp.environ import FAILURE, Body, Environ, Headers, Start, Wsgi, close
from lastacross.webapp.mounting import Mounted

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

# The meaning of `script: auto`: App Engine's Python 3 runtimes serve `app` of main.py.
AUTO = "main.app"


def load_script(dotted: str, root: Path | None = None) -> Wsgi:
    """The application named by a ``script:`` as a WSGI one; the first call imports its module.

    Args:
        dotted: ``module.app``, ``package.module.app`` or ``auto``.
        root: the application's folder, which is put first on ``sys.path``; by default the current folder.

    Raises:
        ConfigError: the module or name does not exist, its import fails, it is not callable, or it is an ASGI
            application and a2wsgi is not installed.
    """
    return _load(dotted, (root or config.current().root).resolve())


@functools.cache
def _load(dotted: str, root: Path) -> Wsgi:
    module_name, _, name = (AUTO if dotted == "auto" else dotted).rpartition(".")
    if not module_name:
        raise _error(dotted, f"must be a module and a name in it, such as `{dotted or 'main'}.app`")
    try:
        module = import_own(module_name, root)
    except ApplicationModuleError as error:
        raise _error(dotted, str(error)) from error
    found = getattr(module, name, None)
    if found is None:
        raise _error(dotted, f"module `{module_name}` has no `{name}`")
    if not callable(found):
        raise _error(dotted, f"`{name}` is a {type(found).__name__}, not a WSGI or ASGI application")
    # The import may have brought a framework along.
    frameworks.watch()
    try:
        return as_wsgi(found, name)
    except ConfigError as error:
        raise _error(dotted, str(error)) from error


def as_wsgi(application: Any, name: str) -> Wsgi:
    """A WSGI or ASGI application as a WSGI one.

    Args:
        application: the application, which is only called when a request arrives.
        name: its name, for error messages.

    Raises:
        ConfigError: it is an ASGI application and a2wsgi is not installed.
    """
    if is_asgi(application):
        return _behind_wsgi(application, name)
    return webapp2_compat.prepare(cast(Wsgi, application))


def is_asgi(application: Any) -> bool:
    """Whether this callable is an ASGI application: a coroutine function, or one with ASGI's parameters."""
    if inspect.isclass(application):
        return hasattr(application, "__await__")
    is_function = inspect.isroutine(application) or isinstance(application, functools.partial)
    call = application if is_function else application.__call__
    if inspect.iscoroutinefunction(call):
        return True
    try:
        return list(inspect.signature(call).parameters) == ["scope", "receive", "send"]
    except (TypeError, ValueError):
        return False


def _behind_wsgi(application: Any, name: str) -> Wsgi:
    """Adapt an ASGI application, with libraries that other applications do not need."""
    try:
        # One application may have several names, and must have one loop and one lifespan.
        adapted: Wsgi = importlib.import_module("lastacross.webapp.asgi").adapter_of(application)
    except ModuleNotFoundError as error:
        if error.name != "a2wsgi":
            raise
        kind = getattr(application, "__name__", type(application).__name__)
        problem = f"`{name}` is an ASGI application ({kind}), which needs a2wsgi; install lastacross[asgi]"
        raise ConfigError(problem) from error
    return adapted


def contained(application: Wsgi) -> Wsgi:
    """The application, wrapped so that children it forks exit instead of returning here with a response."""

    def serve(environ: Environ, start_response: Start) -> Body:
        forks = handler_calls.enter()
        has_failed = False

        def start(
            status: str, headers: Headers, exc_info: "OptExcInfo | None" = None, /
        ) -> Callable[[bytes], object]:
            nonlocal has_failed
            has_failed = status.startswith("5")
            return start_response(status, headers, exc_info)

        try:
            body = application(environ, start)
        except BaseException as error:
            handler_calls.leave(forks, error)
            raise
        handler_calls.leave(forks, environ.get(FAILURE), has_failed=has_failed)
        # A list is already complete, but the application produces any other body while it is being sent.
        return body if isinstance(body, list) else _ContainedBody(body, forks)

    return serve


class _ContainedBody:
    """A lazily produced body."""

    def __init__(self, body: Body, forks: int) -> None:
        self._body = body
        self._forks = forks

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._body:
                handler_calls.leave(self._forks)
                yield chunk
        except BaseException as error:
            handler_calls.leave(self._forks, error)
            raise
        handler_calls.leave(self._forks)

    def close(self) -> None:
        handler_calls.call(close, self._body)


def _error(dotted: str, message: str) -> ConfigError:
    return ConfigError(f"script: {dotted}: {message}", file="app.yaml")


def serves_itself(config: Config, scripts: Callable[[str], Wsgi], path: str) -> bool:
    """Whether the application itself handles a POST to this path.

    True if app.yaml lists the exact path, or if app.yaml's webapp2 application for it has a matching route.
    The routes of other applications cannot be looked up, so app.yaml decides for them.
    """
    for handler in config.app.handlers:
        if not handler.pattern.fullmatch(path):
            continue
        if handler.script is None:
            return False
        if handler.url.strip("^$") == path:
            return True
        return _has_route(scripts(handler.script), path)
    return False


def _has_route(application: Wsgi, path: str) -> bool:
    if isinstance(application, Mounted):
        return application.is_mounted(path) or _has_route(application.application, path)
    if not isinstance(application, webapp2.WSGIApplication):
        return False
    request = application.request_class.blank(path, POST=b"")
    try:
        return application.router.match(request) is not None
    except webapp2.exc.HTTPException:
        return False
