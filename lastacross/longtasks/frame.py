"""Renders the pages of long tasks, in the frame of the application that has mounted them."""

import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import markupsafe
import webapp2
from webob import exc

from lastacross import config
from lastacross.webapp import (
    RequestHandler,
    framework_context,
    is_internal,
    note_error,
    templating,
    wants_json,
)

Page = Callable[..., str]
"""Takes a page's ``title``, ``head`` and ``body`` as safe HTML; returns the whole page."""

# The key of the frame, and of the application that it belongs to, in the registry of the mounted handlers.
PAGE = "lastacross.longtask.page"
_FRAGMENTS = "longtask/fragments.html"
_KEPT_HEADERS = ("Allow", "Retry-After")


class FramedHandler(RequestHandler):
    """A handler whose pages appear in the application's own frame if ``longtask.mount`` got one."""

    def render_engine_page(self, template: str, *, status: int = 200, **values: Any) -> None:
        """Answer with a page, which gets the application's own headers in the application's frame.

        Raises:
            TypeError: the application's frame did not return a string.
        """
        application, page = self.app.registry.get(PAGE, (None, None))
        if page is None:
            super().render_engine_page(template, status=status, **values)
            return
        boundary = secrets.token_hex(16)
        current = config.current()
        found = templating.environment(current.root, current.settings.is_dev).get_template(template)
        values = {"console": self.console_links(), **values, "frame": _FRAGMENTS, "boundary": boundary}
        title, head, body = (markupsafe.Markup(part.strip()) for part in found.render(values).split(boundary))
        with framework_context(application, self.request.environ):
            html = page(title=title, head=head, body=body)
        if not isinstance(html, str):
            name = getattr(page, "__qualname__", repr(page))
            raise TypeError(f"longtask.mount: page={name} returned a {type(html).__name__}, not a string")
        self.response.status = status
        self.response.content_type = "text/html"
        self.response.charset = "utf-8"
        self.response.text = str(html)


def answer_error(request: webapp2.Request, response: webapp2.Response, error: Exception) -> Any:
    """Show an error in the application's frame; leave errors for programs and failures to the engine."""
    if not isinstance(error, exc.HTTPClientError) or error.has_body or _is_for_program(request):
        return note_error(request, response, error)
    handler = FramedHandler(request, webapp2.Response())
    values = {"name": HTTPStatus(error.code).phrase, "message": str(error.detail or "")}
    handler.render_engine_page("longtask/problem.html", status=error.code, **values)
    kept = [(name, value) for name, value in error.headerlist if name in _KEPT_HEADERS]
    handler.response.headers.update({"Cache-Control": "no-store", **dict(kept)})
    return handler.response


def _is_for_program(request: webapp2.Request) -> bool:
    return is_internal(request.environ) or wants_json(request.environ)
