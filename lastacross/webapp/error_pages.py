"""Error responses in plain words: a page, JSON for clients that ask for it, or a line of text for a task."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import jinja2

from lastacross import logs
from lastacross.config import Config
from lastacross.errors import ConfigError
from lastacross.webapp import templating
from lastacross.webapp.environ import (
    IS_APPLICATION,
    Body,
    Environ,
    Headers,
    Refusal,
    Start,
    is_internal,
    path_of,
    request_id_of,
    wants_json,
)

_log = logs.get("lastacross.webapp.answers")

TEMPLATE = "_ah/error.html"
MESSAGES: Mapping[int, str] = {
    400: "The request could not be understood.",
    401: "This page is only for signed-in users.",
    403: "You may not open this page.",
    404: "There is nothing at this address.",
    405: "This address does not accept this kind of request.",
    413: "The request is too large.",
    500: "Something went wrong, and the error has been logged. Please try again in a moment.",
    503: "A service that this page needs is temporarily unavailable. Please try again in a moment.",
}
# Maps the engine's own error statuses to app.yaml's error codes.
ERROR_CODES: Mapping[int, str] = {500: "default", 503: "over_quota", 504: "timeout"}


def plain(
    start_response: Start, status: int, body: bytes, content_type: str, headers: Headers | None = None
) -> Body:
    """Start a response that must not be cached, and return its body in one piece."""
    phrase = HTTPStatus(status).phrase
    start_response(
        f"{status} {phrase}",
        [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *(headers or []),
        ],
    )
    return [body]


def send_json(start_response: Start, status: int, value: object, headers: Headers | None = None) -> Body:
    """Start a response that consists of a single JSON value."""
    return plain(start_response, status, json.dumps(value).encode(), "application/json", headers)


@dataclass(frozen=True)
class ErrorFile:
    """A page from app.yaml's ``error_handlers`` for one error code."""

    body: bytes
    content_type: str


class ErrorPages:
    """Turns a Refusal into a response that the client can read.

    Args:
        config: the configuration that provides the templates and ``error_handlers``.

    Raises:
        ConfigError: a file listed in ``error_handlers`` cannot be read.
    """

    def __init__(self, config: Config) -> None:
        self._templates = templating.environment(config.root, config.settings.is_dev)
        self._files = {
            entry.error_code: ErrorFile(_read(config.root, entry.file), entry.mime_type)
            for entry in config.app.error_handlers
        }

    def refuse(self, environ: Environ, start_response: Start, refusal: Refusal) -> Body:
        """Answer with an error page."""
        environ[IS_APPLICATION] = False  # unless it is the application's own page
        body, content_type = self._page(environ, refusal)
        answer = plain(start_response, refusal.status, body, content_type, refusal.headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else answer

    def _page(self, environ: Environ, refusal: Refusal) -> tuple[bytes, str]:
        status = refusal.status
        phrase = HTTPStatus(status).phrase
        message = refusal.message or MESSAGES.get(status, f"{phrase}.")
        request_id = request_id_of(environ)
        # A program that requests /x.json does not have to send an Accept header as well.
        if wants_json(environ) or path_of(environ).endswith(".json"):
            error = {"code": status, "message": message, "request_id": request_id}
            return json.dumps({"error": error}).encode(), "application/json"
        if is_internal(environ):
            return f"{status} {phrase}: {message}\n".encode(), "text/plain; charset=utf-8"
        file = self._files.get(ERROR_CODES.get(status, ""), self._files.get("default"))
        if file is not None and status >= 500:
            environ[IS_APPLICATION] = True
            return file.body, file.content_type
        values = {"status": status, "title": phrase, "message": message, "request_id": request_id}
        try:
            page = self._templates.get_template(TEMPLATE).render(values)
        except (jinja2.TemplateError, OSError) as error:
            # The application may override the page, and a bug in its version must not hide the original
            # error.
            _log.error("page.broken", template=TEMPLATE, error=str(error))
            return f"{status} {phrase}\n\n{message}\n".encode(), "text/plain; charset=utf-8"
        return page.encode(), "text/html; charset=utf-8"


def _read(root: Path, name: str) -> bytes:
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ConfigError(f"error_handlers: file `{name}` is outside the application", file="app.yaml")
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"error_handlers: file `{name}` cannot be read: {error.strerror}"
        raise ConfigError(message, file="app.yaml") from error
