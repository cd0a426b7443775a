"""``lastacross admin link``: how somebody becomes the administrator of a site."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from webtest import TestApp as Client  # under its own name pytest would take it for tests

from lastacross import config, store, webapp
from lastacross.store import Store
from tests.conftest import SECRET_KEY
from tests.support.command_line import Capture, Command, command_line
from tests.support.redis_server import RedisServer

LINK = re.compile(r"(https?://[^/]+)/_ah/sign-in#([A-Za-z0-9._-]+)")


@pytest.fixture
def command(
    app_root: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> Iterator[Command]:
    """Runs a command in the application's folder, with the environment of a site."""
    for name in (
        "PORT",
        "HOST",
        "DATABASE_URL",
        "LASTACROSS_APP",
        "LASTACROSS_DATA_DIR",
        "LASTACROSS_ALLOWED_HOSTS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.chdir(app_root)
    with command_line(capsys) as run:
        yield run


@pytest.mark.parametrize(
    ("hosts", "arguments", "url"),
    [
        ("shop.example", (), "https://shop.example"),
        (".shop.example, *, www.shop.example", (), "https://www.shop.example"),
        ("*", ("--url", "https://shop.example/"), "https://shop.example"),
        ("shop.example", ("--url", "http://[::1]:8080"), "http://[::1]:8080"),
    ],
)
def test_the_link_is_of_the_site(
    command: Command, monkeypatch: pytest.MonkeyPatch, hosts: str, arguments: tuple[str, ...], url: str
) -> None:
    monkeypatch.setenv("LASTACROSS_ALLOWED_HOSTS", hosts)

    code, out, err = command("admin", "link", *arguments)

    found = LINK.fullmatch(out.strip())
    assert (code, err) == (0, "")
    assert found is not None
    assert found[1] == url


def test_the_link_signs_one_browser_in(
    command: Command, app_root: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTACROSS_ALLOWED_HOSTS", "shop.example")
    (app_root / "note.txt").write_text("for the administrator")
    (app_root / "app.yaml").write_text("handlers:\n- url: /static\n  static_dir: .\n  login: admin\n")
    found = LINK.fullmatch(command("admin", "link")[1].strip())
    assert found is not None
    environ = {
        "SECRET_KEY": SECRET_KEY,
        "REDIS_URL": redis_server.url,
        "LASTACROSS_ALLOWED_HOSTS": "shop.example",
    }
    configuration = config.load(app_root, environ)
    config.use(configuration)
    opened = Store(redis_server.url)
    store.use(opened)
    site = webapp.outside(configuration, webapp.load_script, {})
    first, second = (Client(site, extra_environ={"HTTP_HOST": "shop.example"}) for _ in range(2))

    form = first.get("/_ah/sign-in").form
    form["code"] = found[2]
    assert form.submit(status=303).headers["Location"].endswith("/")
    second.post("/_ah/sign-in", {"code": found[2]}, status=403)

    assert first.get("/static/note.txt").status_int == 200
    assert "lastacross admin link" in second.get("/static/note.txt", status=403).text
    first.get("/_ah/sign-in").form.submit(status=303)
    first.get("/static/note.txt", status=403)
    store.use(None)
    opened.close()


def test_without_a_name_of_the_site_the_command_asks_for_it(command: Command) -> None:
    code, out, err = command("admin", "link")

    assert (code, out) == (2, "")
    assert "--url" in err


@pytest.mark.parametrize(
    "url", ["shop.example", "ftp://shop.example", "https://shop.example/x", "https://", "https://["]
)
def test_an_address_that_is_none_is_refused(command: Command, url: str) -> None:
    code, out, err = command("admin", "link", "--url", url)

    assert (code, out) == (2, "")
    assert "is not an address such as https://shop.example" in err


def test_without_the_key_there_is_no_link(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY")

    code, out, err = command("admin", "link", "--url", "https://shop.example")

    assert (code, out) == (2, "")
    assert err.startswith("lastacross: SECRET_KEY is not set")
    assert err.count("\n") == 1


def test_without_redis_there_is_no_link(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:1/0")

    code, out, err = command("admin", "link", "--url", "https://shop.example")

    assert (code, out) == (1, "")
    assert err.startswith("lastacross: Redis is not available")
    assert "secret" not in err
