"""Puts handlers in front of an application of any framework."""

from collections.abc import Callable, Mapping
from typing import Any

import webapp2

from lastacross.webapp import webapp2_compat
from lastacross.webapp.environ import Body, Environ, Start, Wsgi, path_of


class Mounted:
    """A WSGI application whose requests for some paths go to handlers instead.

    Args:
        application: the application that gets all other requests, unchanged.
        handlers: the webapp2 template of each path, such as ``/report/<month>``, and its handler class.
        on_error: answers the handlers' exceptions, as webapp2's error handlers do; None leaves them to the
            layers around the application.
    """

    def __init__(
        self,
        application: Wsgi,
        handlers: Mapping[str, type[webapp2.RequestHandler]],
        on_error: Callable[[Any, Any, Exception], Any] | None = None,
    ) -> None:
        self.application = application
        routes = [webapp2.Route(path, handler) for path, handler in handlers.items()]
        self.handlers = webapp2.WSGIApplication(routes)
        self._patterns = [route.regex for route in routes]
        if on_error is not None:
            self.handlers.error_handlers.update(dict.fromkeys(range(400, 600), on_error))
        webapp2_compat.prepare(self.handlers)

    def is_mounted(self, path: str) -> bool:
        """Whether a handler serves this path."""
        return any(pattern.match(path) for pattern in self._patterns)

    def __call__(self, environ: Environ, start_response: Start) -> Body:
        """Serve one request."""
        own = self.is_mounted(path_of(environ))
        served: Wsgi = self.handlers if own else self.application
        return served(environ, start_response)
