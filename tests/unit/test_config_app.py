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
  redirect_http_response_code: 307
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
    assert (admin.redirect_status, rest.redirect_status) == (307, 301)
    assert rest.script == "main.app"
    assert loaded.notices == ()


@pytest.mark.parametrize(("value", "is_on"), [("true", True), ("yes", True), ("false", False), ("", False)])
def test_google_names_is_a_switch(app_root: Path, value: str, is_on: bool) -> None:
    """Off unless it is given."""
    loaded = load(app_root, f"google_names: {value}\nhandlers:\n- {{url: /.*, script: main.app}}\n")

    assert loaded.app.google_names is is_on
    assert loaded.notices == ()
    with pytest.raises(ConfigError, match="google_names 'maybe'"):
        load(app_root, "google_names: maybe\n")


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
- remote_api: on
admin_console:
  pages:
  - {name: Users, url: /admin/users}
automatic_scaling:
  min_idle_instances: 5
  max_concurrent_requests: 10
inbound_services:
- mail
- warmup
handlers:
- url: /static/(.*)
  static_files: static/\\1
  upload: static/.*
  application_readable: true
- url: /.*
  script: main.app
"""


def test_a_key_that_is_known_but_not_acted_on_gives_one_notice(app_root: Path) -> None:
    """An application from App Engine loads as it is, and its author learns what has no effect."""
    loaded = load(app_root, FROM_APP_ENGINE)

    named = "application version runtime api_version threadsafe libraries remote_api admin_console"
    named += " min_idle_instances max_concurrent_requests mail warmup"
    assert [notice.split("'")[1] for notice in loaded.notices] == named.split()
    assert loaded.notices[0] == "app.yaml:2:1: 'application' in app.yaml has no effect here"
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
    assert "101 handlers exceed App Engine's limit of 100" in loaded.notices[0]


def test_a_handler_says_that_it_takes_what_pages_of_other_sites_send(app_root: Path) -> None:
    """Only where it says so."""
    loaded = load(
        app_root, "handlers:\n- {url: /in, script: main.app, cross_site: allow}\n- {url: /.*, script: auto}\n"
    )

    assert [handler.allows_cross_site for handler in loaded.app.handlers] == [True, False]


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (
            "{url: /a, script: main.app, cross_site: allow, login: admin}",
            "allow is not permitted with login: admin",
        ),
        (
            "{url: /a, script: main.app, cross_site: allow, login: required}",
            "allow is not permitted with login: required",
        ),
        ("{url: /a, static_dir: a, cross_site: allow}", "cross_site is only for scripts"),
        ("{url: /_ah/a, script: main.app, cross_site: allow}", "not permitted below /_ah/"),
        ("{url: /a, script: main.app, cross_site: allowed}", "Did you mean 'allow'?"),
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


PROTECTION = [
    (
        "api_config: {url: /_ah/api, script: api.app, login: admin}",
        "api_config: there is no Endpoints server",
    ),
    (
        "endpoints_api_service: {name: x}",
        "endpoints_api_service: Google's proxy for Endpoints is not available here",
    ),
    ("beta_settings: {use_endpoints_api_management: true}", "beta_settings.use_endpoints_api_management: "),
    ("network: {instance_tag: inner}", "network.instance_tag: Google's firewall rules"),
    ("network: {instance_ip_mode: internal}", "network.instance_ip_mode: "),
    ("vpc_access_connector: {name: x, egress_setting: all-traffic}", "vpc_access_connector.egress_setting: "),
    ("threadsafe: false", "threadsafe: requests run concurrently in threads here"),
    ("threadsafe: no", "threadsafe: requests run concurrently in threads here"),
]


@pytest.mark.parametrize(("line", "problem"), PROTECTION)
def test_a_key_that_protected_there_and_cannot_here_is_refused(
    app_root: Path, line: str, problem: str
) -> None:
    """Ignored, it would leave a door open without a word."""
    with pytest.raises(ConfigError) as caught:
        load(app_root, f"runtime: python27\n{line}\nhandlers:\n- {{url: /.*, script: main.app}}\n")

    [mistake] = caught.value.mistakes
    assert (mistake.file, mistake.line) == ("app.yaml", 2)
    assert mistake.message.startswith(problem)


@pytest.mark.parametrize(
    "line",
    [
        "threadsafe: true",
        "beta_settings: {use_endpoints_api_management: false, cloud_sql_instances: x}",
        "network: {name: default, instance_ip_mode: external}",
        "vpc_access_connector: {name: x, egress_setting: private-ranges-only}",
        "service_account: x@example.com",
    ],
)
def test_a_key_that_protects_nothing_gives_a_notice(app_root: Path, line: str) -> None:
    """It is read and not acted on."""
    loaded = load(app_root, f"{line}\nhandlers:\n- {{url: /.*, script: main.app}}\n")

    assert [notice.split("'")[1] for notice in loaded.notices] == [line.partition(":")[0]]


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        ("{url: /a, script: main.app, position: head}", "2:31: position is only for included files"),
        ("{url: /a, script: main.app, api_endpoint: on}", "2:31: api_endpoint: there is no Endpoints server"),
        (
            "{url: /a, static_dir: s, application_readable: false}",
            "2:28: application_readable: false cannot be",
        ),
        (
            "{url: /a, script: main.app, application_readable: true}",
            "2:31: application_readable is only for static",
        ),
        (
            "{url: /a, script: main.app, redirect_http_response_code: 308}",
            "2:60: redirect_http_response_code '308'",
        ),
        (
            "{url: /a, script: my-app/main.py}",
            "2:21: script 'my-app/main.py' is a file; write the dotted name of its WSGI",
        ),
        (
            "{url: /a, script: google.appengine.ext.deferred.deferred.application}",
            "2:21: script 'google.appengine.ext.deferred.deferred.application' belongs to App Engine's SDK, "
            "which is not available here; deferred calls need no handler, so remove this handler",
        ),
        (
            "{url: /a, script: $PYTHON_LIB/google/appengine/ext/remote_api/handler.py}",
            "2:21: script '$PYTHON_LIB/google/appengine/ext/remote_api/handler.py' belongs to App",
        ),
    ],
)
def test_a_handlers_key_that_cannot_be_kept_is_refused(app_root: Path, handler: str, problem: str) -> None:
    """Each at its place, with the remedy."""
    (app_root / "s").mkdir()

    with pytest.raises(ConfigError) as caught:
        load(app_root, f"handlers:\n- {handler}\n")

    assert [str(mistake)[: len(problem) + 9] for mistake in caught.value.mistakes] == [f"app.yaml:{problem}"]


def test_a_redirects_code_without_a_redirect_gives_a_notice(app_root: Path) -> None:
    """It belongs to ``secure: always``."""
    loaded = load(
        app_root,
        "handlers:\n- {url: /a, script: main.app, redirect_http_response_code: 302, api_endpoint: off}\n",
    )

    assert loaded.notices == (
        "app.yaml:2:31: redirect_http_response_code has no effect without 'secure: always'",
    )


# --- skip_files ---------------------------------------------------------------------------

SKIPPED = [
    ("", ["a.pyc", "d/a.pyo", "a~", "#a#", "d/#a#", ".git", ".git/config", "d/.env", "d/RCS/a", "d/.x/y/z"]),
    ("skip_files: ^tests/.*$\n", ["tests/a", "tests/d/a"]),
    (
        "skip_files: [^tests$, '.*\\.bak', 'doc']\n",
        ["tests", "tests/a", "tests/d/a", "a.bak", "a.bakery", "docs/a", "doc"],
    ),
    ("skip_files: |\n  ^(.*/)?(\n  (a\\.yaml)|\n  (b)\n  )$\n", ["a.yaml", "d/a.yaml", "d/b", "a/tests/b"]),
    ("skip_files: []\n", []),
]
PATHS = [
    *["a.pyc", "d/a.pyo", "a~", "#a#", "d/#a#", ".git", ".git/config", "d/.env", "d/RCS/a", "d/.x/y/z"],
    *["tests", "tests/a", "tests/d/a", "a.bak", "a.bakery", "docs/a", "doc", "a.yaml", "d/a.yaml", "d/b"],
    *["a", "d/a.py", "a.py", "RCS", "~a", "a#", "d.x", "a/tests/b"],
]


@pytest.mark.parametrize(("text", "skipped"), SKIPPED)
def test_skip_files_name_files_and_folders(app_root: Path, text: str, skipped: list[str]) -> None:
    """From the beginning of the path, as App Engine matched them; a folder takes all in it along."""
    app = load(app_root, text + "handlers:\n- {url: /a, script: main.app}\n").app

    assert [path for path in PATHS if app.is_skipped(path)] == skipped


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("skip_files: (\n", "1:13: skip_files '(' is not a valid regular expression"),
        ("skip_files: [a, (]\n", "1:17: skip_files '(' is not a valid regular expression"),
        ("skip_files: {a: b}\n", "1:13: skip_files (a mapping) must be a regular expression"),
        ("skip_files: [[a]]\n", "1:14: skip_files (a list) must be a regular expression"),
        ("skip_files:\n-\n", "2:2: skip_files (empty) must be a regular expression"),
    ],
)
def test_a_wrong_expression_of_skip_files_is_named(app_root: Path, text: str, problem: str) -> None:
    """At its place."""
    with pytest.raises(ConfigError) as caught:
        load(app_root, text + "handlers:\n- {url: /a, script: main.app}\n")

    assert [str(mistake)[: len(problem) + 9] for mistake in caught.value.mistakes] == [f"app.yaml:{problem}"]


@pytest.mark.parametrize(
    ("text", "folder", "is_served"),
    [
        ("", ".well-known", False),
        ("skip_files: x\n", ".well-known", True),
        ("skip_files: static\n", "static/deep", False),
        ("", "static/deep", True),
        ("", ".", True),
        ("", "./static", True),
    ],
)
def test_a_static_dir_that_is_left_out_is_a_mistake(
    app_root: Path, text: str, folder: str, is_served: bool
) -> None:
    """It would answer 404 to everything."""
    (app_root / ".well-known").mkdir()
    (app_root / "static" / "deep").mkdir(parents=True)
    app_yaml = f"{text}handlers:\n- {{url: /s, static_dir: {folder}}}\n"

    if is_served:
        assert load(app_root, app_yaml).app.handlers[0].static_dir == folder
    else:
        with pytest.raises(ConfigError, match="is excluded by skip_files, so nothing in it is served"):
            load(app_root, app_yaml)


def test_a_list_for_gcloud_is_not_passed_over_in_silence(app_root: Path) -> None:
    """Its files never reached App Engine either."""
    (app_root / ".gcloudignore").write_text("static/private/\n")

    [notice] = load(app_root, "handlers:\n- {url: /a, script: main.app}\n").notices

    assert notice.startswith(
        ".gcloudignore: this file is ignored; static handlers serve the files that it lists"
    )


# --- files beside -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "~\n"])
@pytest.mark.parametrize("name", ["dispatch.yaml", "backends.yaml", "dos.yaml"])
def test_an_empty_file_says_nothing(app_root: Path, name: str, text: str) -> None:
    """As on App Engine."""
    (app_root / name).write_text(text)

    loaded = config.load(app_root, ENVIRON)

    assert (loaded.dispatch, dict(loaded.backends), loaded.notices) == ((), {}, ())


def test_networks_that_dos_yaml_keeps_out_are_not_forgotten(app_root: Path) -> None:
    """Nothing here keeps them out."""
    (app_root / "dos.yaml").write_text("blacklist:\n- {subnet: 192.0.2.0/24, description: loud}\n")

    with pytest.raises(ConfigError, match=r"^dos\.yaml:1:1: blacklist: .* block them in the firewall"):
        config.load(app_root, ENVIRON)
