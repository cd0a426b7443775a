"""An application that has its own handler for the engine's deferred URL keeps it."""

from pathlib import Path
from types import MappingProxyType

import pytest
import webapp2

from lastacross import config
from lastacross.webapp import serves_itself
from lastacross.webapp.environ import Wsgi

DEFERRED = "/_ah/queue/deferred"


class Handler(webapp2.RequestHandler):  # type: ignore[misc]  # webapp2 has no types
    """Answers a POST."""

    def post(self) -> None:
        """Say nothing."""


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
