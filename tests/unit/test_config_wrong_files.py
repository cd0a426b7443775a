"""Wrong files: each mistake names file, line, column, the offending text and the likely meant one."""

from pathlib import Path

import pytest

from lastacross import config
from lastacross.errors import ConfigError

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}

Q = "queue:\n- name: q\n  rate: 5/s\n"
H = "handlers:\n- url: /.*\n  script: main.app\n"

WRONG_QUEUE_FILES = [
    ("queue:\n- name: q\n  rate: [5]\n", "3:9", "rate (a list) must be a single value", None),
    ("queue:\n- name: q\n  bucket-size: 5\n", "3:3", "a queue has no key 'bucket-size'", "bucket_size"),
    (Q + "  bucket_size: many\n", "4:16", "bucket_size 'many' is not a whole number", None),
    ("queue:\n- name:\n  rate: 5/s\n", "2:3", "name (empty) must be a single value", None),
    ("queue:\n- name: my_queue\n  rate: 1/s\n", "2:9", "name 'my_queue' must be 1 to 100", "my-queue"),
    (f"queue:\n- name: {'q' * 101}\n  rate: 1/s\n", "2:9", "must be 1 to 100", "q" * 100),
    (Q + "- 5\n", "4:3", "queue '5' must be a mapping", None),
    (
        "queue:\n  name: q\n  rate: 5/s\n",
        "2:3",
        "queue (a mapping) must be a list of queues; begin each item with '- '",
        None,
    ),
    ("queue: q\n", "1:8", "queue 'q' must be a list of queues", None),
    ("- name: q\n", "1:1", "expected lines of 'key: value', found (a list)", None),
    ("queue\n", "1:1", "expected lines of 'key: value', found 'queue'", None),
    (Q + "  target: 1.1.module\n", "4:11", "Value '1.1.module' for target does not match", "1.module"),
    (Q + "  target: My_Service\n", "4:11", "target 'My_Service' must be 'service' or", "my-service"),
    (Q + "  target: -x\n", "4:11", "target '-x' must be", "x"),
    (Q + "  retry_parameters: 5\n", "4:21", "retry_parameters '5' must be a mapping", None),
    (
        Q + "  retry_parameters:\n    task_retry_limt: 5\n",
        "5:5",
        "no key 'task_retry_limt'",
        "task_retry_limit",
    ),
    (Q + "  retry_parameters:\n    task_age_limit: 0s\n", "5:21", "'0s' must be at least one second", None),
    (Q + "  retry_parameters:\n    max_doublings: .inf\n", "5:20", "max_doublings '.inf'", None),
    (
        Q + "  retry_parameters: {min_backoff_seconds: 20, max_backoff_seconds: 10}\n",
        "4:43",
        "min_backoff_seconds 20 is greater than max_backoff_seconds 10",
        None,
    ),
    (Q + "  acl:\n    user_email: x\n", "5:5", "acl (a mapping) must be a list", None),
    (Q + "  acl:\n  - email: x\n", "5:5", "an acl line has no key 'email'", "user_email"),
    ("total_storage_limit: 5MB\nqueue:\n", "1:22", "total_storage_limit '5MB'", "5M"),
    ("resume_paused_queues: maybe\nqueue:\n", "1:23", "'maybe' must be true or false", None),
    (Q + "---\n", "4:1", "a second document starts here", None),
    ("# nothing but a comment\n", "1:1", "Empty queue configuration", None),
    ("---\n", "1:1", "Empty queue configuration", None),
    ("queue: [a\n", "2:1", "invalid YAML: while parsing a flow sequence", None),
    ('queue: "a\n', "2:1", "invalid YAML: while scanning a quoted scalar", None),
    ("queue: a\x00b\n", "1:9", "the character '\\x00' is not allowed", None),
    ("a: &x 1\nqueue:\n", "1:4", "the anchor '&x'", None),
    ("queue: *x\n", "1:8", "the alias '*x'", None),
    ("? [a]\n: b\n", "1:3", "a key must be a word", None),
    ("{: b}\n", "1:3", "a key is missing before ':'", None),
]

WRONG_APP_FILES = [
    ("handelrs:\n- url: /\n", "1:1", "app.yaml has no key 'handelrs'", "handlers"),
    (H + "treadsafe: true\n", "4:1", "app.yaml has no key 'treadsafe'", "threadsafe"),
    ("handlers:\n  url: /.*\n  script: main.app\n", "2:3", "begin each item with '- '", None),
    ("handlers: main.app\n", "1:11", "handlers 'main.app' must be a list of handlers", None),
    (H + "  scrpt: x\n", "4:3", "a handler has no key 'scrpt'", "script"),
    ("handlers:\n- script: main.app\n", "2:3", "url is missing: a handler needs one", None),
    (
        "handlers:\n- url: /(a\n  script: main.app\n",
        "2:8",
        "url '/(a' is not a valid regular expression",
        None,
    ),
    ("handlers:\n- url: a/b\n  script: main.app\n", "2:8", "url 'a/b' does not begin with '/'", "/a/b"),
    ("handlers:\n- url: /a\n", "2:3", "the handler for '/a' needs script, static_dir or static_files", None),
    ("handlers:\n- url: /a\n  script: main.py\n", "3:11", "script 'main.py' is a file", "main.app"),
    ("handlers:\n- url: /a\n  script: main:app\n", "3:11", "script 'main:app' is not a dotted", "main.app"),
    ("handlers:\n- url: /a\n  script: main\n", "3:11", "script 'main' is not a dotted name", "main.app"),
    (H + "  login: amdin\n", "4:10", "login 'amdin' must be optional, required or admin", "admin"),
    (H + "  secure: allways\n", "4:11", "secure 'allways'", "always"),
    (H + "  auth_fail_action: deny\n", "4:21", "auth_fail_action 'deny' must be redirect or", None),
    (H + "  expiration: 5m\n", "4:3", "expiration is only for static handlers", None),
    (H + "  static_dir: x\n", "4:3", "static_dir and script cannot be combined", None),
    (H + "  upload: x\n", "4:3", "upload is only for static_files", None),
    ("handlers:\n- url: /s/(.*)\n  static_files: s/\\1\n", "2:3", "upload is missing", None),
    (
        "handlers:\n- url: /s/(.*)\n  static_files: s/\\2\n  upload: s/.*\n",
        "3:17",
        "static_files 's/\\\\2' uses group 2, but url has 1",
        None,
    ),
    (
        "handlers:\n- url: /s\n  static_files: s\n  upload: '['\n",
        "4:11",
        "upload '[' is not a valid regular",
        None,
    ),
    ("handlers:\n- url: /s\n  static_dir: gone\n", "3:15", "static_dir 'gone' does not exist", None),
    (
        "handlers:\n- url: /s/(.*)\n  static_files: s\\q\n  upload: s/.*\n",
        "3:17",
        "static_files 's\\\\q' cannot be expanded: bad escape",
        None,
    ),
    (
        "handlers:\n- url: /w/(.*)\n  static_files: .well-known/\\1\n  upload: .*\n",
        "3:17",
        "contains a name that begins with a dot, which is never served; use static_dir for that folder",
        None,
    ),
    ("handlers:\n- url: /s\n  static_dir: ../etc\n", "3:15", "points outside the application's folder", None),
    (
        "handlers:\n- url: /s\n  static_dir: /etc\n",
        "3:15",
        "must be a path relative to the application's",
        "etc",
    ),
    ("handlers:\n- url: /s/(.*)\n  static_dir: s\n", "2:8", "must not contain groups", None),
    ("handlers:\n- url: /s\n  static_dir: s\n  expiration: 4 days\n", "4:15", "expiration '4 days'", "4d"),
    ("handlers:\n- url: /s\n  static_dir: s\n  mime_type: css\n", "4:14", "mime_type 'css' is not", None),
    (
        "handlers:\n- url: /s\n  static_dir: s\n  http_headers:\n    Content-Length: 5\n",
        "5:5",
        "the header Content-Length is set by the server, so a handler must not set it",
        None,
    ),
    (
        'handlers:\n- url: /s\n  static_dir: s\n  http_headers:\n    X-A: "a\\r\\nX-B: c"\n',
        "5:10",
        "the header value 'a\\r\\nX-B: c' is not printable",
        None,
    ),
    ("service: My Service\n" + H, "1:10", "service 'My Service' must be 1 to 63", "my-service"),
    ("service: a\nmodule: b\n" + H, "2:1", "module is the old name for service", None),
    ("default_expiration: soon\n" + H, "1:21", "default_expiration 'soon' is not a duration", None),
    ("env_variables:\n  A-B: c\n" + H, "2:3", "'A-B' is not a valid variable name", None),
    ("env_variables:\n- A: c\n" + H, "2:1", "env_variables (a list) must be a mapping", None),
    ("env_variables:\n  A: [c]\n" + H, "2:6", "A (a list) must be a single value", None),
    ("inbound_services:\n- wramup\n" + H, "2:3", "'wramup' is not an inbound service", "warmup"),
    ("manual_scaling:\n  instnces: 5\n" + H, "2:3", "manual_scaling has no key 'instnces'", "instances"),
    (
        "manual_scaling:\n  instances: 5\nbasic_scaling:\n  max_instances: 2\n" + H,
        "1:1",
        "manual_scaling is a second kind of scaling",
        None,
    ),
    ("error_handlers:\n- error_code: timeout\n" + H, "2:3", "file is missing: an error handler", None),
    ("error_handlers:\n- file: a.html\n" + H, "2:9", "file 'a.html' is not there", None),
    ("error_handlers:\n- file: .\n" + H, "2:9", "file '.' is not a regular file", None),
    ("error_handlers:\n- file: app.yaml/x\n" + H, "2:9", "cannot be read: Not a directory", None),
    ("error_handlers:\n- file: a\n  error_code: timout\n" + H, "3:15", "error_code 'timout'", "timeout"),
    ("security_headers:\n  Referer-Policy: off\n" + H, "2:3", "no key 'Referer-Policy'", "Referrer-Policy"),
    ("security_headers:\n  Referrer-Policy: ä\n" + H, "2:20", "must be a header's value in printable", None),
    (
        "security_headers:\n  Content-Security-Policy: on\n" + H,
        "2:28",
        "must be a header's value, strict",
        None,
    ),
    ("security_headers: off\n" + H, "1:19", "security_headers 'off' must be a mapping", None),
    ("", "1:1", "Empty app configuration", None),
]

B = "backends:\n- name: b\n"

WRONG_BACKENDS_FILES = [
    ("---\n---\n", "2:1", "a second document starts here", None),
    (B + "---\n" + B, "3:1", "a second document starts here", None),
    ("- name: b\n", "1:1", "expected lines of 'key: value', found (a list)", None),
    ("backend:\n- name: b\n", "1:1", "backends.yaml has no key 'backend'", "backends"),
    ("backends:\n  name: b\n", "2:3", "must be a list of backends; begin each item with '- '", None),
    ("backends:\n- b\n", "2:3", "backends 'b' must be a mapping", None),
    ("backends:\n- instances: 2\n", "2:3", "name is missing: a backend needs one", None),
    ("backends:\n- name: My_Backend\n", "2:9", "name 'My_Backend' must be 1 to 100", "my-backend"),
    ("backends:\n- name: -b\n", "2:9", "name '-b' must be 1 to 100 lowercase", "b"),
    (f"backends:\n- name: {'b' * 101}\n", "2:9", "must be 1 to 100 lowercase letters", "b" * 100),
    ("backends:\n- name: default\n", "2:9", "name 'default' is app.yaml's own service", None),
    (B + "- name: b\n", "3:9", "backend 'b' is defined twice; keep only one", None),
    (B + "  clas: B4\n", "3:3", "a backend has no key 'clas'", "class"),
    (B + "  instance_class: B4\n", "3:3", "a backend has no key 'instance_class'", "class"),
    (B + "  dynamic: true\n", "3:3", "a backend has no key 'dynamic'", "options: dynamic"),
    (B + "  instance: 4\n", "3:3", "a backend has no key 'instance'", "instances"),
    (B + "  class: B3\n", "3:10", "class 'B3' must be B1, B2, B4, B4_1G or B8", None),
    (B + "  class: [B1]\n", "3:10", "class (a list) must be a single value", None),
    (B + "  instances: 0\n", "3:14", "instances '0' is not between 1 and 20", None),
    (B + "  instances: 21\n", "3:14", "instances '21' is not between 1 and 20", None),
    (B + "  instances: 1.5\n", "3:14", "instances '1.5' is not a whole number", "1"),
    (B + "  max_concurrent_requests: 0\n", "3:28", "'0' is not between 1 and 1024", None),
    (B + "  options: dynamc\n", "3:12", "options 'dynamc' contains 'dynamc', which is not", "dynamic"),
    (B + "  options: [fast]\n", "3:12", "options (a list) contains 'fast', which is not", "failfast"),
    (B + "  options: {a: b}\n", "3:12", "must be words separated by commas, or a list", None),
    (B + "  options: [[a]]\n", "3:12", "must be words separated by commas, or a list", None),
    (B + "  start: main\n", "3:10", "start 'main' is not a dotted name", "main.app"),
    (B + "  start: /etc/x.py\n", "3:10", "start '/etc/x.py' is a file", "etc.x.app"),
    (B + "  state: start\n", "3:10", "state 'start' must be START or STOP", "START"),
]

D = "dispatch:\n"

WRONG_DISPATCH_FILES = [
    (D + "---\n" + D, "2:1", "a second document starts here", None),
    ("dispach:\n", "1:1", "dispatch.yaml has no key 'dispach'", "dispatch"),
    (D + "  url: '*/a'\n", "2:3", "must be a list of dispatch rules; begin each item with '- '", None),
    (D + "- '*/a'\n", "2:3", "dispatch '*/a' must be a mapping", None),
    (D + "- url: '*/a'\n", "2:3", "service is missing: a dispatch rule needs one", None),
    (D + "- service: default\n", "2:3", "url is missing: a dispatch rule needs one", None),
    (D + "- {url: '*/a', servce: x}\n", "2:16", "a dispatch rule has no key 'servce'", "service"),
    (D + "- {url: '*/a', service: A_b}\n", "2:25", "service 'A_b' must be 1 to 100 lowercase", "a-b"),
    (D + "- {url: '*/a', service: v1.b}\n", "2:25", "service 'v1.b' must be 1 to 100 lowercase", "v1-b"),
    (
        D + "- {url: /a, service: x}\n",
        "2:9",
        "url '/a' has no host; begin it with '*' to match any host",
        "*/a",
    ),
    (D + "- {url: a.example, service: x}\n", "2:9", "url 'a.example' has no path", "a.example/*"),
    (D + "- {url: 'a b', service: x}\n", "2:9", "url 'a b' has no path", None),
    (D + "- {url: 'http://a/b', service: x}\n", "2:9", "url 'http://a/b' has a scheme", "a/b"),
    (D + "- {url: 'A.example/b', service: x}\n", "2:9", "an invalid host name", "a.example/b"),
    (D + "- {url: '-a/b', service: x}\n", "2:9", "url '-a/b' has an invalid host name", None),
    (D + "- {url: 'a..b/c', service: x}\n", "2:9", "url 'a..b/c' has an invalid host name", None),
    (D + "- {url: '*./c', service: x}\n", "2:9", "url '*./c' has an invalid host name", None),
    (D + "- {url: 'a.b:80/c', service: x}\n", "2:9", "has an invalid host name", None),
    (D + "- {url: 'a.*.b/c', service: x}\n", "2:9", "has a '*' inside the host", None),
    (D + "- {url: '**/c', service: x}\n", "2:9", "has a '*' inside the host", None),
    (D + "- {url: '*/a*b', service: x}\n", "2:9", "has a '*' inside the path", None),
    (D + "- {url: '*/a**', service: x}\n", "2:9", "has a '*' inside the path", None),
    (D + "- {url: '*/a?b=c', service: x}\n", "2:9", "a character that is not allowed in a path", "*/a"),
    (D + "- {url: '*/a b', service: x}\n", "2:9", "a character that is not allowed in a path", None),
    (D + "- {url: 10.0.0.5/a, service: x}\n", "2:9", "has an IP address as its host", "*/a"),
    (D + "- {url: 010.0.0.005/a, service: x}\n", "2:9", "has an IP address as its host", "*/a"),
    (
        D + f"- {{url: '*{'h' * 100}/a', service: x}}\n",
        "2:9",
        "has a host of 101 characters; the limit is 100",
        None,
    ),
    (
        D + f"- {{url: '*/{'p' * 100}', service: x}}\n",
        "2:9",
        "has a path of 101 characters; the limit is 100",
        None,
    ),
    (D + "- {url: '*/a', service: default}\n" * 21, "22:3", "rule 21 exceeds App Engine's limit of 20", None),
]


def only_mistake(root: Path, name: str, text: str) -> ConfigError:
    """The one mistake of a file with this text."""
    (root / name).write_text(text)
    with pytest.raises(ConfigError) as refused:
        config.load(root, ENVIRON)
    assert len(refused.value.mistakes) == 1, [str(mistake) for mistake in refused.value.mistakes]
    return refused.value


def assert_says(error: ConfigError, place: str, words: str, hint: str | None) -> None:
    """The message stands at the place, on one line, with the words and the hint."""
    message = str(error)
    assert message.startswith(f"{place}: ")
    assert words in message
    assert "\n" not in message
    assert message.endswith(f". Did you mean {hint!r}?") if hint else "Did you mean" not in message


WRONG_FILES = {
    "queue.yaml": WRONG_QUEUE_FILES,
    "app.yaml": WRONG_APP_FILES,
    "backends.yaml": WRONG_BACKENDS_FILES,
    "dispatch.yaml": WRONG_DISPATCH_FILES,
}


@pytest.mark.parametrize(
    ("file", "text", "place", "words", "hint"),
    [(file, *row) for file, rows in WRONG_FILES.items() for row in rows],
)
def test_a_wrong_file_is_reported_to_the_column(
    app_root: Path, file: str, text: str, place: str, words: str, hint: str | None
) -> None:
    """``tests/acceptance/test_config_check.py`` has more of them, with the whole message."""
    assert_says(only_mistake(app_root, file, text), f"{file}:{place}", words, hint)


def test_a_number_that_is_no_address_may_be_a_host(app_root: Path) -> None:
    """Only what a browser would take for an address is refused."""
    (app_root / "dispatch.yaml").write_text(D + "- {url: 300.0.0.1/a, service: default}\n")

    assert config.load(app_root, ENVIRON).dispatch[0].host == "300.0.0.1"


def test_all_mistakes_of_all_files_come_at_once_in_their_order(app_root: Path) -> None:
    """One run of ``config check`` is enough to mend everything."""
    (app_root / "app.yaml").write_text("handlers:\n- url: /a\n  scrpt: x\n")
    (app_root / "queue.yaml").write_text("queue:\n- name: a_b\n  rate: 5/x\n- nam: c\nqueeu: x\n")
    (app_root / "backends.yaml").write_text("backends: x\n")
    (app_root / "dispatch.yaml").write_text("[]")

    with pytest.raises(ConfigError) as refused:
        config.load(app_root, ENVIRON | {"PORT": "http"})

    places = [(one.file, one.line, one.column) for one in refused.value.mistakes]
    assert places == [
        ("app.yaml", 3, 3),
        ("queue.yaml", 2, 9),
        ("queue.yaml", 3, 9),
        ("queue.yaml", 4, 3),
        ("queue.yaml", 4, 3),
        ("queue.yaml", 5, 1),
        ("backends.yaml", 1, 11),
        ("dispatch.yaml", 1, 1),
        (None, None, None),
    ]
    assert str(refused.value) == str(refused.value.mistakes[0])


def test_a_long_text_is_cut_in_the_message(app_root: Path) -> None:
    """One line for a person."""
    error = only_mistake(app_root, "queue.yaml", f"queue:\n- name: q\n  rate: {'x' * 5000}\n")

    assert str(error).startswith("queue.yaml:3:9: rate 'xxx")
    assert len(str(error)) < 200


def test_a_file_that_is_not_utf_8_is_told_to_the_byte(app_root: Path) -> None:
    """Latin-1 from an old editor."""
    (app_root / "queue.yaml").write_bytes(b"queue:\n- name: caf\xe9\n")

    with pytest.raises(ConfigError, match=r"^queue\.yaml:2:12: byte 0xe9 is not UTF-8"):
        config.load(app_root, ENVIRON)


def test_a_byte_order_mark_does_no_harm(app_root: Path) -> None:
    """Some editors write one."""
    (app_root / "queue.yaml").write_bytes(b"\xef\xbb\xbfqueue:\r\n- name: q\r\n  rate: 1/s\r\n")

    assert config.load(app_root, ENVIRON).queues["q"].rate == 1


def test_a_folder_in_place_of_a_file_is_told(app_root: Path) -> None:
    """Not a traceback of open()."""
    (app_root / "queue.yaml").unlink()
    (app_root / "queue.yaml").mkdir()

    with pytest.raises(ConfigError, match=r"^queue\.yaml: expected a file, found a folder"):
        config.load(app_root, ENVIRON)


def test_a_missing_app_file_names_the_remedy(tmp_path: Path) -> None:
    """Most often the command was started in the wrong folder."""
    with pytest.raises(
        ConfigError, match=r"^app\.yaml: there is no such file in .* name that folder with --app"
    ):
        config.load(tmp_path, ENVIRON)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """``--app`` with a slip."""
    with pytest.raises(ConfigError, match=r"the application's folder .*nowhere does not exist"):
        config.load(tmp_path / "nowhere", ENVIRON)
