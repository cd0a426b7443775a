"""The console over a real Redis and SQLite, asked by an administrator, a viewer or a stranger."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from webtest import TestApp as Client  # under its own name pytest would take it for tests
from webtest import TestResponse

from lastacross import config, console, webapp
from lastacross.accounts import Person
from lastacross.webapp import login
from tests.support import administrator

HOST = "localhost"
ADDRESS = "203.0.113.9"


def application(configuration: config.Config) -> Any:
    """The console as the web server serves it, beside an application without pages."""

    def nothing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"nothing"]

    return webapp.outside(configuration, lambda _name: nothing, {console.ROOT: console.serve})


class Visitor:
    """Somebody who uses the console.

    Args:
        configuration: the site's configuration.
        environ: what the visitor sends with each request.
    """

    def __init__(self, configuration: config.Config, environ: Mapping[str, str]) -> None:
        given = {"HTTP_HOST": HOST, "REMOTE_ADDR": ADDRESS, **environ}
        self.client = Client(application(configuration), extra_environ=given)

    def get(self, path: str, status: int = 200, **headers: str) -> TestResponse:
        """A page; the path is below the console's root."""
        return self.client.get(f"/_ah/admin/{path}", headers=headers, status=status)

    def json(self, path: str, status: int = 200) -> Any:
        """A page's facts."""
        return self.get(path, status, Accept="application/json").json

    def ask(self, path: str) -> TestResponse:
        """An action's confirmation page."""
        page = self.get(path)
        assert page.html.find("form", method="post", attrs={"class": "confirm"}) or "confirm" in page.text
        return page

    def act(self, path: str, **fields: str) -> str:
        """Do an action as a person would; returns the result message."""
        form = self.get(path).forms[1]
        for name, value in fields.items():
            form[name] = value
        answer = form.submit()
        assert answer.status_int == 303, answer.text
        page = answer.follow()
        return " ".join(page.html.find(attrs={"role": "status"}).text.split())


def admin(configuration: config.Config) -> Visitor:
    """An administrator."""
    return Visitor(configuration, administrator.environ(configuration.settings.secret_key))


@contextlib.contextmanager
def signed_in_as(person: Person) -> Iterator[None]:
    """Let every request with the administrator's cookie be this person's."""
    kept = login.person_of
    login.person_of = lambda environ, settings: person if kept(environ, settings) else None
    try:
        yield
    finally:
        login.person_of = kept
