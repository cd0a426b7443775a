"""SERVER_SOFTWARE, by which App Engine's programs know where they run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from webob import Request

from lastacross import __version__, config, testing
from lastacross.processes import application
from tests.support.modules import own_modules
from tests.support.redis_server import RedisServer

MAIN = """\
import os

AT_IMPORT = os.environ["SERVER_SOFTWARE"]


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{AT_IMPORT} {os.environ['SERVER_SOFTWARE']} {environ['SERVER_SOFTWARE']}".encode()]
"""


@pytest.fixture(autouse=True)
def environment(app_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process is afterwards as it was before."""
    monkeypatch.setenv("SERVER_SOFTWARE", "what another process has left")
    (app_root / "main.py").write_text(MAIN)
    with own_modules(app_root):
        yield
    config.use(None)


@pytest.mark.parametrize(("dev", "name"), [("1", "Development"), ("0", "Google App Engine")])
def test_modules_and_requests_are_told_where_they_run(app_root: Path, dev: str, name: str) -> None:
    environ = {"SECRET_KEY": "a secret key of the tests, long enough", "LASTACROSS_DEV": dev}
    loaded = application.load(config.load(app_root, environ))

    told = f"{name}/{__version__}"
    for side in (loaded.inside, loaded.outside):
        request = Request.blank("/", environ={"SERVER_SOFTWARE": "gunicorn/27", "REMOTE_ADDR": "127.0.0.1"})
        assert request.get_response(side).text == f"{told} {told} {told}"
    assert os.environ["SERVER_SOFTWARE"] == told


def test_in_tests_it_is_development_already_when_modules_are_imported(
    app_root: Path, redis_server: RedisServer
) -> None:
    with testing.application(app_root, redis_url=redis_server.url) as app:
        told = Request.blank("/").get_response(app.wsgi).text

    assert told == " ".join([f"Development/{__version__}"] * 3)
