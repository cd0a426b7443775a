"""app.yaml: what a good file means."""

import textwrap
from pathlib import Path

import pytest

from lastacross import config
from lastacross.errors import ConfigError

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}


def load(root: Path, text: str) -> config.Config:
    """The configuration with this app.yaml."""
    (root / "app.yaml").write_text(textwrap.dedent(text))
    return config.load(root, ENVIRON)


ACTED_ON = r"""
service: counter
env_variables:
  DEBUG: no
  VERSION: 1.10
  EMPTY:
default_expiration: 4d 5h
error_handlers:
- file: error.html
- file: slow.html
  error_code: timeout
  mime_type: text/plain
basic_scaling: {}
handlers:
- url: /static/
  static_dir: static
  expiration: 10m
  http_headers:
    X-Robots-Tag: noindex
  mime_type: text/css
  require_matching_file: yes
- url: /img/(.*)\.(png|gif)
  static_files: images/\1.\2
  upload: images/.*\.(png|gif)
- url: /admin/.*
  script: main.app
  login: admin
  auth_fail_action: unauthorized
  secure: always
- url: /.*
  script: auto
"""


def test_every_key_that_is_acted_on_is_read(app_root: Path) -> None:
    """The keys that App Engine documented, at once."""
    (app_root / "static").mkdir()
    (app_root / "error.html").touch()
    (app_root / "slow.html").touch()
    loaded = load(app_root, ACTED_ON)

    app = loaded.app
    assert (app.service, app.default_expiration_seconds) == ("counter", 363_600)
    assert dict(app.env_variables) == {"DEBUG": "no", "VERSION": "1.10", "EMPTY": ""}
    assert app.error_handlers == (
        config.ErrorHandler("error.html"),
        config.ErrorHandler("slow.html", "timeout", "text/plain"),
    )
    assert app.scaling == config.Scaling("basic")
    folder, images, admin, rest = app.handlers
    assert (folder.static_dir, folder.expiration_seconds, folder.mime_type) == ("static", 600, "text/css")
    assert (dict(folder.http_headers), folder.require_matching_file) == ({"X-Robots-Tag": "noindex"}, True)
    assert images.upload is not None
    assert images.upload.fullmatch("images/a.png")
    assert (admin.login, admin.auth_fail_action, admin.secure) == ("admin", "unauthorized", "always")
    assert rest.script == "main.app"
    assert loaded.notices == ()


@pytest.mark.parametrize(
    ("url", "path", "is_match"),
    [
        ("/a", "/a", True),
        ("/a", "/ab", False),
        ("/a", "/x/a", False),
        ("/a|/b", "/b", True),
        ("/a|/b", "/bc", False),
        ("/.*", "/a\n", False),
        ("(?i)/a", "/A", True),
        ("^/a$", "/a", True),
        ("/a", "/a\n", False),
    ],
)
def test_a_pattern_is_anchored_at_both_ends(app_root: Path, url: str, path: str, is_match: bool) -> None:
    """Whether it is used with match, search or fullmatch."""
    [handler] = load(app_root, f"handlers:\n- url: '{url}'\n  script: main.app\n").app.handlers

    for use in (handler.pattern.match, handler.pattern.search, handler.pattern.fullmatch):
        assert (use(path) is not None) is is_match


@pytest.mark.parametrize("url", ["/static", "/static/"])
def test_a_static_folder_takes_what_follows_its_prefix(app_root: Path, url: str) -> None:
    """The group ``path`` is the file in the folder."""
    (app_root / "s").mkdir()
    [handler] = load(app_root, f"handlers:\n- url: {url}\n  static_dir: s\n").app.handlers

    match = handler.pattern.match("/static/js/a.js")

    assert match is not None
    assert match.group("path") == "js/a.js"
    assert handler.pattern.match("/staticx/a.js") is None


def test_without_handlers_everything_goes_to_the_application(app_root: Path) -> None:
    """As App Engine's newer runtimes do."""
    [handler] = load(app_root, "runtime: python39\n").app.handlers

    assert (handler.url, handler.script) == ("/.*", "main.app")


FROM_APP_ENGINE = """
application: my-app
version: 1
runtime: python27
api_version: 1
threadsafe: true
libraries:
- name: webapp2
  version: latest
builtins:
- deferred: on
automatic_scaling:
  min_idle_instances: 5
  max_concurrent_requests: 10
inbound_services:
- mail
- warmup
handlers:
- url: /.*
  script: main.app
  application_readable: true
"""


def test_a_key_that_is_known_but_not_acted_on_gives_one_notice(app_root: Path) -> None:
    """An application from App Engine loads as it is, and its author learns what has no effect."""
    loaded = load(app_root, FROM_APP_ENGINE)

    named = "application version runtime api_version threadsafe libraries builtins"
    named += " min_idle_instances max_concurrent_requests mail warmup application_readable"
    assert [notice.split("'")[1] for notice in loaded.notices] == named.split()
    assert loaded.notices[0] == "app.yaml:2:1: 'application' of app.yaml is read but not acted on"
    assert loaded.app.scaling.max_concurrent_requests == 10


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 600),
        ("automatic_scaling:\n", 600),
        ("basic_scaling:\n  max_instances: 2\n", 86_400),
        ("manual_scaling:\n  instances: 1\n", 86_400),
    ],
)
def test_the_deadline_follows_the_kind_of_scaling(app_root: Path, text: str, seconds: int) -> None:
    """Ten minutes, or a day where instances are kept."""
    loaded = load(app_root, "handlers:\n- url: /.*\n  script: main.app\n" + text)

    assert loaded.app.deadline_seconds == seconds


def test_module_is_the_old_name_of_service(app_root: Path) -> None:
    """Older files say module."""
    assert load(app_root, "module: counter\n").app.service == "counter"


def test_more_than_a_hundred_handlers_are_taken_with_a_notice(app_root: Path) -> None:
    """App Engine's limit was of its servers."""
    loaded = load(app_root, "handlers:\n" + "- {url: /a, script: main.app}\n" * 101)

    assert len(loaded.app.handlers) == 101
    assert "101 handlers are more than App Engine's 100" in loaded.notices[0]


def test_a_handler_says_that_it_takes_what_pages_of_other_sites_send(app_root: Path) -> None:
    """Only where it says so."""
    loaded = load(
        app_root, "handlers:\n- {url: /in, script: main.app, cross_site: allow}\n- {url: /.*, script: auto}\n"
    )

    assert [handler.allows_cross_site for handler in loaded.app.handlers] == [True, False]


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        ("{url: /a, script: main.app, cross_site: allow, login: admin}", "allow beside login: admin"),
        ("{url: /a, script: main.app, cross_site: allow, login: required}", "allow beside login: required"),
        ("{url: /a, static_dir: a, cross_site: allow}", "cross_site is for scripts"),
        ("{url: /_ah/a, script: main.app, cross_site: allow}", "not for addresses below /_ah/"),
        ("{url: /a, script: main.app, cross_site: allowed}", "did you mean 'allow'?"),
    ],
)
def test_other_sites_are_not_let_in_where_it_would_be_as_somebody(
    app_root: Path, handler: str, problem: str
) -> None:
    """A mistake with its place."""
    with pytest.raises(ConfigError) as caught:
        load(app_root, f"handlers:\n- {handler}\n")

    assert problem in str(caught.value)
    assert "app.yaml:2:" in str(caught.value)


# --- files beside -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "~\n"])
@pytest.mark.parametrize("name", ["dispatch.yaml", "backends.yaml"])
def test_an_empty_file_says_nothing(app_root: Path, name: str, text: str) -> None:
    """As on App Engine."""
    (app_root / name).write_text(text)

    loaded = config.load(app_root, ENVIRON)

    assert (loaded.dispatch, dict(loaded.backends), loaded.notices) == ((), {}, ())
