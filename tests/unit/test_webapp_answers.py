"""Error pages: the engine's, the application's, and one for when that is broken."""

from pathlib import Path

import pytest

from lastacross.errors import ConfigError
from tests.support import web

MAIN = """
import webapp2
from lastacross.errors import StoreUnavailableError

class Broken(webapp2.RequestHandler):
    def get(self):
        raise RuntimeError

class Away(webapp2.RequestHandler):
    def get(self):
        raise StoreUnavailableError("away")

class Slow(webapp2.RequestHandler):
    def get(self):
        self.abort(504)

class Busy(webapp2.RequestHandler):
    def get(self):
        self.abort(503)

ROUTES = [("/broken", Broken), ("/away", Away), ("/slow", Slow), ("/busy", Busy)]
app = webapp2.WSGIApplication(ROUTES)
"""
AGAIN = "Please try again in a moment."
HANDLERS = "handlers:\n- {url: /.*, script: main.app}\n"
ERROR_HANDLERS = """
error_handlers:
- {file: oops.html}
- {error_code: over_quota, file: busy.txt, mime_type: text/plain}
"""


def test_a_page_of_app_yaml_replaces_ours_for_failures(tmp_path: Path) -> None:
    """By its error code, else the default; never for a 404 or for JSON."""
    (tmp_path / "oops.html").write_text("<h1>Oops")
    (tmp_path / "busy.txt").write_text("Busy")
    with web.site(tmp_path, MAIN, HANDLERS + ERROR_HANDLERS) as site:
        assert (site.get("/broken").status_int, site.get("/broken").text) == (500, "<h1>Oops")
        busy = site.get("/away")
        assert (busy.status_int, busy.text, busy.content_type) == (503, "Busy", "text/plain")
        assert "Retry-After" in busy.headers
        assert (site.get("/slow").status_int, site.get("/slow").text) == (504, "<h1>Oops")
        assert "Content-Security-Policy" not in site.get("/slow").headers
        assert "Content-Security-Policy" in site.get("/nowhere").headers
        assert "Oops" not in site.get("/nowhere").text
        assert site.get("/broken", HTTP_ACCEPT="application/json").json["error"]["code"] == 500


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/nowhere", 404, "There is nothing at this address."),
        ("/broken", 500, f"Something went wrong, and the error has been logged. {AGAIN}"),
        ("/busy", 503, f"A service that this page needs is temporarily unavailable. {AGAIN}"),
    ],
)
def test_an_error_page_says_what_is_wrong_and_whether_to_try_again(
    tmp_path: Path, path: str, status: int, message: str
) -> None:
    """In JSON it says the same."""
    with web.site(tmp_path, MAIN, HANDLERS) as site:
        page = site.get(path)
        assert page.status_int == status
        assert message in page.text
        error = site.get(path, HTTP_ACCEPT="application/json").json["error"]
        assert error["code"] == status
        assert error["message"] == message


def test_an_address_that_ends_in_json_is_answered_in_json(tmp_path: Path) -> None:
    """Whoever refuses: no route, a login, the boundary."""
    handlers = HANDLERS.replace("- {", "- {url: /secret.*, script: main.app, login: admin}\n- {", 1)
    with web.site(tmp_path, MAIN, handlers) as site:
        for path, status in (("/nowhere.json", 404), ("/secret.json", 403), ("/a/../b.json", 400)):
            assert site.get(path, REMOTE_ADDR="203.0.113.9").json["error"]["code"] == status
            assert site.get(path[:-5], REMOTE_ADDR="203.0.113.9").content_type == "text/html"


def test_an_error_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    """Found at the start, not at the first failure."""
    with pytest.raises(ConfigError, match=r"oops\.html"), web.site(tmp_path, MAIN, HANDLERS + ERROR_HANDLERS):
        pass


def test_an_error_file_that_leads_out_of_the_application_is_a_configuration_error(tmp_path: Path) -> None:
    """A link, say."""
    root = tmp_path / "app"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "oops.html").symlink_to(tmp_path / "secret")
    (root / "busy.txt").write_text("Busy")
    with pytest.raises(ConfigError, match=r"oops\.html"), web.site(root, MAIN, HANDLERS + ERROR_HANDLERS):
        pass


def test_an_application_may_draw_the_error_page_itself(tmp_path: Path) -> None:
    """By a template of the engine's name."""
    (tmp_path / "templates" / "_ah").mkdir(parents=True)
    (tmp_path / "templates" / "_ah" / "error.html").write_text("Ours: {{ status }} {{ message }}")
    with web.site(tmp_path, MAIN, HANDLERS) as site:
        assert site.get("/nowhere").text == "Ours: 404 There is nothing at this address."


@pytest.mark.parametrize("template", ["{{ nothing }}", "{% if %}", "{% extends 'nowhere.html' %}"])
def test_an_error_page_that_is_itself_broken_hides_nothing(tmp_path: Path, template: str) -> None:
    """The answer is plain text, with the first error's status."""
    (tmp_path / "templates" / "_ah").mkdir(parents=True)
    (tmp_path / "templates" / "_ah" / "error.html").write_text(template)
    with web.site(tmp_path, MAIN, HANDLERS) as site:
        answer = site.get("/nowhere")
        assert (answer.status_int, answer.content_type) == (404, "text/plain")
        assert "There is nothing at this address." in answer.text
