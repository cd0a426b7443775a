"""The whole stack, by hand-made requests: what gets in, as what, and how it is answered."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import web

MAIN = """
import webapp2
from lastacross import errors, webapp

class Echo(webapp.RequestHandler):
    def get(self):
        names = sorted(k for k in self.request.environ if "APPENGINE" in k.upper() or "GOOGLE" in k.upper())
        self.render_json({"path": self.request.path, "names": names})
    def post(self):
        self.render_json({"got": len(self.request.body)})

class Broken(webapp2.RequestHandler):
    def get(self):
        raise RuntimeError("the canary in the message")

class Away(webapp2.RequestHandler):
    def get(self):
        raise errors.StoreUnavailableError("Redis is not available: connection refused")

class Missing(webapp2.RequestHandler):
    def get(self):
        self.abort(404, detail="No quilt <b>of this id</b>.")

app = webapp2.WSGIApplication([
    ("/broken", Broken), ("/away", Away), ("/missing", Missing), ("/.*", Echo),
])
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[web.Site]:
    """A small application in a folder of its own."""
    with web.site(tmp_path, MAIN) as site:
        yield site


def test_a_page_is_served_with_the_security_headers_and_a_request_id(app: web.Site) -> None:
    """The plain case."""
    answer = app.get("/hello")
    assert answer.status_int == 200
    assert answer.json["path"] == "/hello"
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Request-Id"]
