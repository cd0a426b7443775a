"""app.yaml's ``handlers``: the first one whose URL matches serves the request, if its login admits it.

URLs under ``/_ah/`` are blocked unless app.yaml lists them. A handler for the exact path takes precedence,
followed by the engine's own URLs and then by handlers whose URL begins with ``/_ah/``. A catch-all handler
serves these URLs only to tasks and cron. The request that a process makes when it starts or stops goes to the
first matching handler, even a catch-all one, as on App Engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from lastacross.broker import CurrentTask
from lastacross.config import Config, Handler
from lastacross.errors import ConfigError
from lastacross.webapp import boundary, login
from lastacross.webapp.environ import (
    HAS_UNDECLARED_PROXY,
    IS_APPLICATION,
    IS_OUTSIDE,
    TASK,
    Body,
    Environ,
    Refusal,
    Refuse,
    Start,
    Wsgi,
    is_https,
    note_missing_url,
    path_of,
)
from lastacross.webapp.script import AUTO, contained
from lastacross.webapp.static_files import StaticHandler

RESERVED = "/_ah/"
# Only the engine makes these requests, so they are refused from outside even if app.yaml opens their URLs.
TASKS_ONLY = (
    "/_ah/queue",
    "/_ah/bulk",
    "/_ah/start",
    "/_ah/stop",
    "/_ah/warmup",
    "/_ah/channel/connected",
    "/_ah/channel/disconnected",
)
INTERNAL = frozenset({login.Visitor.TASK, login.Visitor.CRON, login.Visitor.SYSTEM})
# The console: viewers may look at it, and only administrators may change things.
CONSOLE = ("/_ah/admin",)
ONLY_HTTPS = "This page is served only over HTTPS."
UNDECLARED_PROXY = (
    "This request came through a proxy that LASTACROSS_TRUSTED_PROXIES does not list, "
    "so the server cannot tell whether it used HTTPS."
)
# The number of paths whose script is remembered, and how long such a path may be.
MAX_REMEMBERED = 1_000
MAX_REMEMBERED_CHARACTERS = 200
UNLISTED_HOST = "LASTACROSS_ALLOWED_HOSTS does not name this host, so there is no redirect to it."


@dataclass(frozen=True)
class _Target:
    """The application that serves a request, and the handler whose rules apply (None: the engine's rules)."""

    serve: Wsgi
    handler: Handler | None = None


class _Entry:
    """A handler together with the application that serves it."""

    def __init__(self, handler: Handler, config: Config, scripts: Callable[[str], Wsgi]) -> None:
        self.handler = handler
        is_static = handler.static_dir is not None or handler.static_files is not None
        try:
            self._static = StaticHandler(handler, config) if is_static else None
            script = None if is_static else contained(scripts(handler.script or AUTO))
        except ConfigError as error:
            raise ConfigError(error.message, file=handler.file, line=handler.line) from error
        # The target of every path that this handler's script serves; None if it serves files.
        self.target = None if script is None else _Target(script, handler)
        self.is_reserved = handler.url.removeprefix("^").startswith(RESERVED)

    def find(self, path: str) -> _Target | None:
        """The target for this path; None if another handler should serve the path."""
        match = self.handler.pattern.match(path)
        if match is None:
            return None
        if self._static is None:
            return self.target
        found = self._static.find(match)
        if found is None and not self.handler.require_matching_file:
            return _Target(_nothing, self.handler)
        return None if found is None else _Target(found, self.handler)


class Dispatcher:
    """The WSGI application built from app.yaml's handlers and the engine's own URLs.

    Args:
        config: the configuration with the handlers and the settings that identify the administrator.
        scripts: a callable that returns the WSGI application of a ``script:``; it is called here, once for
            each handler.
        builtins: a map from each path to the engine's own application; a path that ends in ``/`` covers
            everything under it.
        refuse: a callable that answers with an error page.
    """

    def __init__(
        self, config: Config, scripts: Callable[[str], Wsgi], builtins: Mapping[str, Wsgi], refuse: Refuse
    ) -> None:
        self._settings = config.settings
        self._entries = [_Entry(handler, config, scripts) for handler in config.app.handlers]
        self._builtins = builtins
        self._refuse = refuse
        self._remembered: dict[str, _Target] = {}

    def __call__(self, environ: Environ, start_response: Start) -> Body:
        """Serve one request."""
        path = path_of(environ)
        who = login.visitor(environ, self._settings)
        refusal = self._refusal_for_reserved(path, who, environ)
        if refusal is not None:
            return self._refuse(environ, start_response, refusal)
        target = self._find(path, who)
        if target is None:
            note_missing_url(environ)
            return self._refuse(environ, start_response, Refusal(404))
        if isinstance(task := environ.get(TASK), CurrentTask):
            task.handler = path if target.handler is None else target.handler.url
        if target.handler is not None:
            if who is login.Visitor.USER and _is_at(path, CONSOLE):
                # Under the console's address, even pages that app.yaml lists are only for the administrator.
                return self._refuse(environ, start_response, Refusal(403, login.for_administrator(environ)))
            refusal = self._redirect(target.handler, environ) or login.refusal(target.handler, who, environ)
            if refusal is not None:
                return self._refuse(environ, start_response, refusal)
        # Look for the file only now, so that visitors without access cannot learn which files exist.
        if target.serve is _nothing:
            return self._refuse(environ, start_response, Refusal(404))
        environ[IS_APPLICATION] = target.handler is not None
        return target.serve(environ, start_response)

    def _find(self, path: str, who: login.Visitor) -> _Target | None:
        if not f"{path}/".startswith(RESERVED):
            return self._remembered.get(path) or self._first_for(path)
        builtin = self._builtin(path)
        if who is login.Visitor.SYSTEM:
            return _first(self._entries, path) or (_Target(builtin) if builtin is not None else None)
        named = [entry for entry in self._entries if entry.handler.url.strip("^$") == path]
        return (
            _first(named, path)
            or (_Target(builtin) if builtin is not None else None)
            or _first([entry for entry in self._entries if entry.is_reserved], path)
            or (_first(self._entries, path) if who in INTERNAL else None)
        )

    def _first_for(self, path: str) -> _Target | None:
        """The target of a path that is not reserved, remembered if no file can change it."""
        entry = next((each for each in self._entries if each.handler.pattern.match(path)), None)
        if entry is None or entry.target is None:
            return _first(self._entries, path)
        if len(path) <= MAX_REMEMBERED_CHARACTERS:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[path] = entry.target
        return entry.target

    def _builtin(self, path: str) -> Wsgi | None:
        if path in self._builtins:
            return self._builtins[path]
        above = [name for name in self._builtins if name.endswith("/") and path.startswith(name)]
        return self._builtins[max(above, key=len)] if above else None

    def _refusal_for_reserved(self, path: str, who: login.Visitor, environ: Environ) -> Refusal | None:
        """The refusal if this visitor may not request a reserved address, regardless of app.yaml."""
        if not path.startswith(RESERVED):
            return None
        if _is_at(path, TASKS_ONLY) and who not in INTERNAL:
            return Refusal(403, "This address is only for this application's tasks.")
        if _is_at(path, CONSOLE):
            return login.refusal_of_console(who, environ, self._settings)
        return None

    def _redirect(self, handler: Handler, environ: Environ) -> Refusal | None:
        """Redirect to HTTPS if ``secure: always`` requires it, except under ``dev``, which has no HTTPS."""
        wanted = handler.secure == "always" and environ.get(IS_OUTSIDE) and not self._settings.is_dev
        if not wanted or is_https(environ):
            return None
        host = str(environ.get("HTTP_HOST", ""))
        if environ.get(HAS_UNDECLARED_PROXY):
            # If the request has already arrived over HTTPS, a redirect could loop forever.
            return Refusal(403, f"{ONLY_HTTPS} {UNDECLARED_PROXY}")
        if not boundary.is_listed_host(host, self._settings.allowed_hosts):
            return Refusal(403, f"{ONLY_HTTPS} {UNLISTED_HOST}")
        # Drop the port, because it belongs to plain HTTP. The host has already been checked, and an IPv6
        # address keeps its brackets.
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        path = quote(environ.get("PATH_INFO", "/"), safe="/:@!$&'()*+,;=~-._", encoding="latin-1")
        query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
        location = f"https://{name}{path}{query}"
        return Refusal(handler.redirect_status, ONLY_HTTPS, [("Location", location)])


def _nothing(environ: Environ, start_response: Start) -> Body:
    """A placeholder for a static handler that matches the URL but does not have that file."""
    raise NotImplementedError


def _first(entries: list[_Entry], path: str) -> _Target | None:
    return next((found for entry in entries if (found := entry.find(path)) is not None), None)


def _is_at(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)
