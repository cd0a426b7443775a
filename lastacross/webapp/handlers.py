"""Base classes for the application's handlers: those of webapp2 with safer defaults.

An invalid input value is answered with 400 and the field's name. Redirects lead only to paths of this
application. Pages are rendered by templates that escape values.
"""

import math
import re
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

import webapp2

from lastacross import config
from lastacross.webapp import login, security_headers, templating
from lastacross.webapp.environ import is_internal, wants_json

CONSOLE = "/_ah/admin/"
_LOCAL = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")


def local_path(url: str | None) -> str | None:
    """The URL if it is a path of this application, or None if it might lead a browser to another host.

    Use it for parameters such as ``continue`` and ``next``, which anyone can put into a link.
    """
    return url if url is not None and _LOCAL.fullmatch(url) else None


class BadInputError(Exception):
    """Raised by a handler for input that it cannot use; ``bad_request`` answers it."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(f"{field}: {message}")


class RequestHandler(webapp2.RequestHandler):  # type: ignore[misc]
    """webapp2's handler class, in which the application defines ``get``, ``post`` etc.

    Pages get ``console``, the links to the operator's pages about ``console_queues`` and
    ``console_batches``. It is empty for visitors who may not open these pages.
    """

    console_queues: tuple[str, ...] = ()
    """The names of the queues on which this handler's work runs."""
    console_batches: tuple[str, ...] = ()
    """The ids of the batches that the page shows; a handler sets them before it renders the page."""

    def dispatch(self) -> Any:
        """Call the method's handler; HEAD runs GET without the body unless ``head`` is defined."""
        if self.request.method == "HEAD" and not hasattr(self, "head") and hasattr(self, "get"):
            self.head = self.get
        return super().dispatch()

    def handle_exception(self, exception: Exception, debug: bool) -> Any:
        """Answer a BadInputError; leave other exceptions to webapp2 and our layers."""
        if isinstance(exception, BadInputError):
            return self.bad_request(exception.field, exception.message)
        return super().handle_exception(exception, debug)

    def render(self, template: str, *, status: int = 200, **values: Any) -> None:
        """Answer with a page, which is a template from ``templates/`` rendered with these values."""
        current = config.current()
        page = templating.environment(current.root, current.settings.is_dev).get_template(template)
        self.response.status = status
        self.response.content_type = "text/html"
        self.response.charset = "utf-8"
        self.response.text = page.render({"console": self.console_links(), **values})

    def render_engine_page(self, template: str, *, status: int = 200, **values: Any) -> None:
        """Answer with a page of the engine's, which gets the strict Content-Security-Policy.

        A policy that the handler has set stays, and so does one of app.yaml's ``security_headers``.
        """
        policy = security_headers.policy_of_engine_page(config.current().app.security_headers)
        if policy is not None:
            self.response.headers.setdefault(security_headers.POLICY, policy)
        self.render(template, status=status, **values)

    def console_links(self) -> list[tuple[str, str]]:
        """The text and path of each link to the operator's pages; empty for those who may not open them."""
        if login.signed_in(self.request.environ) is None:
            return []
        links = [("Console", CONSOLE)]
        for name in self.console_queues:
            links.append((f"Queue {name}", f"{CONSOLE}queues/{quote(name)}"))
            links.append((f"Tasks in {name}", f"{CONSOLE}tasks?{urlencode({'queue': name})}"))
        batches = [(batch, urlencode({"batch": batch})) for batch in self.console_batches]
        return links + [(f"Batch {batch}", f"{CONSOLE}batches?{query}") for batch, query in batches]

    def render_json(self, value: Any, status: int = 200) -> None:
        """Answer with a JSON value."""
        self.response.status = status
        self.response.content_type = "application/json"
        self.response.charset = "utf-8"
        self.response.json = value

    def wants_json(self) -> bool:
        """Whether the client prefers JSON to a page. Also adds Vary: Accept for caches."""
        self.response.vary = "Accept"
        return wants_json(self.request.environ)

    def bad_request(self, field: str, message: str) -> None:
        """Respond with 400, the field's name and the values that it accepts, as JSON or as a page.

        Override it to render the form again with the message next to its field (status 400).
        """
        if self.wants_json():
            self.render_json({"error": {"code": 400, "field": field, "message": message}}, 400)
        else:
            self.abort(400, detail=f"{field}: {message}")

    def revalidate(self, etag: str | None = None) -> None:
        """Make the browser revalidate this response before reusing it, and keep it out of shared caches.

        Args:
            etag: a value that changes whenever the response does; a client that already has this response
                gets 304 without a body.
        """
        self.response.headers["Cache-Control"] = "private, no-cache"
        if etag is not None:
            self.response.etag = etag
            self.response.conditional_response = True

    def try_later(self, status: int, message: str, seconds: float) -> None:
        """Answer, with a page or JSON and ``Retry-After``, that the request must be retried later.

        Args:
            status: 429 if this client has sent too many requests, 503 if all clients together have.
            message: a sentence that names the limit, to which the time of the next try is appended.
            seconds: the number of seconds until another try may succeed.
        """
        retry_after = max(1, math.ceil(seconds))
        message = f"{message} Try again in {_in_words(retry_after)}."
        header = {"Retry-After": str(retry_after)}
        if not self.wants_json():
            self.abort(status, detail=message, headers=header)
        error = {"code": status, "message": message, "retry_after_seconds": retry_after}
        self.render_json({"error": error}, status)
        self.response.headers.update({**header, "Cache-Control": "no-store"})

    def see_other(self, url: str) -> None:
        """Respond with 303, so that the browser continues with a GET of this path of the application.

        Raises:
            ValueError: the URL is not a path of this application; see ``local_path``.
        """
        if local_path(url) is None:
            raise ValueError(f"{url!r} is not a path of this application")
        self.response.status = 303
        self.response.location = url

    def is_administrator(self) -> bool:
        """Whether the administrator sent this request; like `login: admin`, but False for tasks and cron."""
        who = login.visitor(self.request.environ, config.current().settings)
        return who is login.Visitor.ADMINISTRATOR

    def require_administrator(self) -> None:
        """Respond with 403 and instructions to sign in, unless the administrator is making this request."""
        if not self.is_administrator():
            self.abort(403, detail=login.for_administrator(self.request.environ))

    def is_exempt_from_limits(self) -> bool:
        """Whether the sender is exempt from visitor limits, as the administrator, tasks and cron are."""
        return is_internal(self.request.environ) or self.is_administrator()


class TaskHandler(RequestHandler):
    """A handler that only tasks can reach, regardless of app.yaml.

    A task is delivered at least once, so ``post`` must be idempotent: running it twice has the same effect as
    running it once (check ``taskqueue.current_task().id``).
    """

    def dispatch(self) -> Any:
        """Refuse any request that does not come from a task, then call the method's handler."""
        if login.visitor(self.request.environ, config.current().settings) is not login.Visitor.TASK:
            refuse_visitor(self)
        return super().dispatch()


def _in_words(seconds: int) -> str:
    """A duration such as ``24 seconds``, ``5 minutes`` or ``2 hours``, always rounded up."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{math.ceil(seconds / length)} {unit}s"
    return f"{seconds} second" + ("s" if seconds != 1 else "")


def refuse_visitor(handler: webapp2.RequestHandler) -> NoReturn:
    """Respond with 403 to a request that does not come from a task."""
    handler.abort(403, detail="This address is only for this application's tasks.")
    raise AssertionError("abort raises")
