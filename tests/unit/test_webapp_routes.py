"""An application that has its own handler for the engine's deferred URL keeps it."""

import io
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import webapp2

from lastacross import config
from lastacross.broker import CurrentTask
from lastacross.webapp import inside, serves_itself
from lastacross.webapp.environ import TASK, Wsgi
from lastacross.webapp.webapp2_compat import prepare
from lastacross.worker.delivery import base_environ

DEFERRED = "/_ah/queue/deferred"


class Handler(webapp2.RequestHandler):  # type: ignore[misc]  # webapp2 has no types
    """Answers a POST."""

    def post(self) -> None:
        """Say nothing."""


class Missing(webapp2.RequestHandler):  # type: ignore[misc]
    """Has a route, and answers 404 itself."""

    def post(self) -> None:
        """Say that there is no such order."""
        self.abort(404, detail="There is no such order.")


WITH_ROUTE = webapp2.WSGIApplication([(DEFERRED, Handler), ("/other", Handler)])
WITHOUT_ROUTE = webapp2.WSGIApplication([("/other", Handler)])


def plain(environ: object, start_response: object) -> list[bytes]:
    """An application that cannot be asked for its routes."""
    return [b""]


@pytest.mark.parametrize(
    ("handlers", "application", "expected"),
    [
        ("- url: /.*\n  script: main.app\n", WITH_ROUTE, True),
        ("- url: /.*\n  script: main.app\n", WITHOUT_ROUTE, False),
        ("- url: /.*\n  script: main.app\n", plain, False),
        (f"- url: {DEFERRED}\n  script: main.app\n- url: /.*\n  script: main.app\n", plain, True),
        ("- url: /other\n  script: main.app\n", WITH_ROUTE, False),
    ],
)
def test_a_route_of_the_application_is_found(
    tmp_path: Path, handlers: str, application: Wsgi, expected: bool
) -> None:
    """By app.yaml where it names the path, else by webapp2's router."""
    (tmp_path / "app.yaml").write_text(f"handlers:\n{handlers}")
    environ = MappingProxyType({"SECRET_KEY": "a secret key of the tests, long enough"})
    loaded = config.load(tmp_path, environ)

    assert serves_itself(loaded, lambda _: application, DEFERRED) is expected


@pytest.mark.parametrize(
    ("handlers", "path", "failure"),
    [
        ("- url: /other\n  script: main.app\n", "/new", "this worker does not have /new"),
        ("- url: /.*\n  script: main.app\n", "/new", "this worker does not have /new"),
        ("- url: /.*\n  script: main.app\n", "/missing", ""),
    ],
    ids=["app.yaml", "webapp2", "the handler's own 404"],
)
def test_a_task_for_a_url_that_only_newer_code_has_says_so(
    tmp_path: Path, handlers: str, path: str, failure: str
) -> None:
    (tmp_path / "app.yaml").write_text(f"handlers:\n{handlers}")
    loaded = config.load(tmp_path, {"SECRET_KEY": "a secret key of the tests, long enough"})
    application = webapp2.WSGIApplication([("/other", Handler), ("/missing", Missing)])
    current = CurrentTask("default_t", "t", "default", 1, 0, 0)
    environ = {**base_environ("localhost"), "REQUEST_METHOD": "POST", "PATH_INFO": path, TASK: current}
    environ |= {"CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()}
    statuses: list[str] = []

    def start(status: str, *_: Any) -> Any:
        statuses.append(status)

    inside(loaded, lambda _: prepare(application), {})(environ, start)

    assert statuses == ["404 Not Found"]
    assert current.failure.partition(":")[0] == failure
