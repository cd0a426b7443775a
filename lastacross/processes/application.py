"""Loads a folder's application, together with the engine's own URLs, as two WSGI callables."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lastacross import config, console, datastore, deferred, google_names, tracing, webapp
from lastacross.channel import web
from lastacross.config import Config
from lastacross.errors import ConfigError
from lastacross.processes import metrics_page, presence
from lastacross.webapp import SERVER_SOFTWARE, Body, Environ, Start, Wsgi, error_pages, health, login


@dataclass(frozen=True)
class Application:
    """A loaded application.

    Args:
        outside: the WSGI callable that the web server serves to the outside world.
        inside: the WSGI callable for tasks and cron.
        direct_calls: the functions that a task calls without a request. These are deferred calls, unless the
            application serves their URL itself.
    """

    outside: Wsgi
    inside: Wsgi
    direct_calls: Mapping[str, Callable[[bytes], int]]


_kept: tuple[Config, Application] | None = None


def load_for_forks(configuration: Config) -> None:
    """Load the application in a process that will fork others; in the forks, ``load`` only looks it up.

    Raises:
        ConfigError: as for ``load``.
    """
    global _kept
    _kept = configuration, load(configuration)


def load(configuration: Config, *, server_software: str | None = None) -> Application:
    """Load this configuration's application and make it the process's current one.

    Args:
        configuration: the configuration of the application's folder.
        server_software: as for ``prepare_process``.

    Raises:
        ConfigError: app.yaml names a missing script, folder or file, or the script's import fails.
    """
    config.use(configuration)
    prepare_process(configuration, server_software=server_software)
    if _kept is not None and _kept[0] == configuration:
        return _kept[1]
    scripts = functools.partial(webapp.load_script, root=configuration.root)
    is_own = webapp.serves_itself(configuration, scripts, deferred.DEFAULT_URL)
    builtins = {
        path: wsgi for path, wsgi in _builtins().items() if path != deferred.DEFAULT_URL or not is_own
    }
    return Application(
        outside=webapp.outside(configuration, scripts, builtins),
        inside=webapp.inside(configuration, scripts, builtins),
        direct_calls={} if is_own else {deferred.DEFAULT_URL: deferred.outcome},
    )


def prepare_process(configuration: Config, *, server_software: str | None = None) -> None:
    """Set up everything that the application's modules rely on when they are imported.

    Args:
        configuration: the configuration of the application's folder.
        server_software: the value of SERVER_SOFTWARE, or None to use the configuration's.

    Raises:
        ConfigError: LASTACROSS_TRACES is on, but the extra ``otel`` is not installed; or app.yaml has
            ``google_names``, but the real ``google.appengine`` is installed.
    """
    if configuration.settings.traces:
        enable_traces()
    for name, value in configuration.app.env_variables.items():
        # The operator's environment overrides the file.
        os.environ.setdefault(name, value)
    # The operator's environment cannot set this, because child processes of other kinds would inherit it.
    os.environ[SERVER_SOFTWARE] = server_software or configuration.settings.server_software
    root = str(configuration.root)
    sys.path[:] = [root, *(entry for entry in sys.path if entry != root)]
    if configuration.app.google_names:
        google_names.install()


def enable_traces() -> None:
    """Start recording spans.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    try:
        tracing.use(importlib.import_module("lastacross.otel").OpenTelemetry())
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("opentelemetry"):
            raise
        problem = "LASTACROSS_TRACES is on, but OpenTelemetry is not installed; install lastacross[otel]"
        raise ConfigError(problem) from error


def _builtins() -> Mapping[str, Wsgi]:
    console.list_processes_with(presence.living)
    return {
        "/_ah/ready": health.readiness({"redis": health.check_store, "datastore": datastore.ping}),
        metrics_page.PATH: metrics_page.serve,
        "/_ah/start": _ok,
        "/_ah/stop": _ok,
        "/_ah/warmup": _ok,
        deferred.DEFAULT_URL: deferred.handle,
        console.ROOT.removesuffix("/"): console.serve,
        console.ROOT: console.serve,
        console.WORK_URL: console.work,
        "/_ah/channel/jsapi": web.jsapi,
        "/_ah/channel/stream": web.stream,
        login.SIGN_IN_PATH: _sign_in,
    }


def _sign_in(environ: Environ, start_response: Start) -> Body:
    """Serve the sign-in page, importing its libraries on first use."""
    serve: Wsgi = importlib.import_module("lastacross.signin").serve
    return serve(environ, start_response)


def _ok(environ: Environ, start_response: Start) -> Body:
    """Answer OK if the application does not have a handler of its own."""
    return error_pages.plain(start_response, 200, b"ok\n", "text/plain; charset=utf-8")
