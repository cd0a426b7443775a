"""Extras of webapp2 with the versions of their libraries that are installed here."""

from pathlib import Path

import pytest

from tests.support import web

MAIN = """
import webapp2

class Page(webapp2.RequestHandler):
    def get(self):
        from webapp2_extras import jinja2
        renderer = jinja2.get_jinja2(app=self.app)
        self.response.write(renderer.render_template("page.html", name="<you>"))

app = webapp2.WSGIApplication([("/page", Page)], config=%s)
"""
APP_YAML = "handlers:\n- {url: /.*, script: main.app}\n"
OWN = """{"webapp2_extras.jinja2": {"template_path": "%s", "environment_args": {
    "autoescape": True, "extensions": ["jinja2.ext.with_", "jinja2.ext.autoescape", "jinja2.ext.do"]}}}"""


@pytest.mark.parametrize(
    ("settings", "template"),
    [
        ("None", "{% with %}Hello {{ name }}{% endwith %}"),
        ("{}", "{% autoescape true %}Hello {{ name }}{% endautoescape %}"),
        (OWN, "{% set words = [] %}{% do words.append('Hello') %}{{ words[0] }} {{ name }}"),
    ],
    ids=["no configuration", "an empty one", "its own extensions"],
)
def test_pages_of_webapp2_extras_are_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, template: str
) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "page.html").write_text(template)
    monkeypatch.chdir(tmp_path)
    settings = settings.replace("%s", str(templates))

    with web.site(tmp_path, MAIN % settings, APP_YAML) as site:
        assert site.get("/page").text == "Hello &lt;you&gt;"
