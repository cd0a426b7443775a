"""``lastacross config check``: what is wrong with the files, to the column, and what was likely meant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lastacross import cli
from tests.conftest import SECRET_KEY
from tests.support.processes import ROOT

Capture = pytest.CaptureFixture[str]

Q = "queue:\n- name: mail\n  rate: 5/s\n"

# Each with the whole of what is said of it.
MALFORMED_QUEUES = {
    "a unit that there is not": (
        "queue:\n- name: mail\n  rate: 5/x\n",
        "3:9: rate '5/x' is not a rate: write a number, '/' and a unit (s, m, h or d), or 0. "
        "Did you mean '5/s'?",
    ),
    "a rate without a unit": (
        "queue:\n- name: mail\n  rate: 5\n",
        "3:9: rate '5' is not a rate: write a number, '/' and a unit (s, m, h or d), or 0. "
        "Did you mean '5/s'?",
    ),
    "a misspelt key of a queue": (
        "queue:\n- name: mail\n  raet: 5/s\n",
        "3:3: a queue has no key 'raet'. Did you mean 'rate'?",
    ),
    "a misspelt key of the file": (
        "queues:\n- name: mail\n",
        "1:1: queue.yaml has no key 'queues'. Did you mean 'queue'?",
    ),
    "an underscore in a name": (
        "queue:\n- name: my_mail\n  rate: 5/s\n",
        "2:9: name 'my_mail' must be 1 to 100 letters, digits or hyphens. Did you mean 'my-mail'?",
    ),
    "no name": ("queue:\n- rate: 5/s\n", "2:3: name is missing: a queue needs one"),
    "a mode that there is not": (
        Q + "  mode: psuh\n",
        "4:9: mode 'psuh' must be push or pull. Did you mean 'push'?",
    ),
    "half a token": (
        Q + "  bucket_size: 1.5\n",
        "4:16: bucket_size '1.5' is not a whole number. Did you mean '1'?",
    ),
    "a comma in a number": (
        Q + "  max_concurrent_requests: 1,000\n",
        "4:28: max_concurrent_requests '1,000' is not a whole number. Did you mean '1000'?",
    ),
    "a mapping where a list is expected": (
        "queue:\n  name: mail\n",
        "2:3: queue (a mapping) must be a list of queues; begin each item with '- '",
    ),
    "an item that is a word": (
        "queue:\n- mail\n",
        "2:3: queue 'mail' must be a mapping (lines of 'key: value')",
    ),
    "capitals in a target": (
        Q + "  target: Counter\n",
        "4:11: target 'Counter' must be 'service' or 'version.service', in lowercase letters, "
        "digits and hyphens. Did you mean 'counter'?",
    ),
    "a misspelt retry parameter": (
        Q + "  retry_parameters:\n    retry_limit: 5\n",
        "5:5: retry_parameters has no key 'retry_limit'. Did you mean 'task_retry_limit'?",
    ),
    "a retry limit below zero": (
        Q + "  retry_parameters:\n    task_retry_limit: -1\n",
        "5:23: task_retry_limit '-1' must not be negative. Did you mean '1'?",
    ),
    "an age without a unit": (
        Q + "  retry_parameters:\n    task_age_limit: 2\n",
        "5:21: task_age_limit '2' is not a number followed by a unit (s, m, h or d). Did you mean '2s'?",
    ),
    "a unit after seconds": (
        Q + "  retry_parameters:\n    min_backoff_seconds: 10s\n",
        "5:26: min_backoff_seconds '10s' is not a number of seconds. Did you mean '10'?",
    ),
    "bounds the wrong way round": (
        Q + "  retry_parameters: {min_backoff_seconds: 9, max_backoff_seconds: 1}\n",
        "4:43: min_backoff_seconds 9 is greater than max_backoff_seconds 1",
    ),
    "a storage limit in MB": (
        "total_storage_limit: 5MB\n" + Q,
        "1:22: total_storage_limit '5MB' is not a number with an optional unit (B, K, M, G or T). "
        "Did you mean '5M'?",
    ),
    "a key written twice": (Q + "  rate: 6/s\n", "4:3: the key 'rate' is repeated; keep only one"),
    "a second document": (
        Q + "---\n" + Q,
        "4:1: a second document starts here ('---'); a file may contain only one",
    ),
    "nothing at all": (
        "",
        "1:1: Empty queue configuration: list the queues under 'queue:', or remove the file",
    ),
    "a tab": (
        "queue:\n- name: mail\n\trate: 5/s\n",
        "3:1: invalid YAML: while scanning for the next token found character '\\t' that cannot start "
        "any token; indent with spaces, not tabs, at 'rate: 5/s'",
    ),
    "an indentation too many": (
        "queue:\n- name: mail\n   rate: 5/s\n",
        "3:8: invalid YAML: mapping values are not allowed here, at 'rate: 5/s'",
    ),
    "an alias": ("queue: *all\n", "1:8: the alias '*all' is not allowed; write out its values"),
    "an object of Python's": (
        "queue: !!python/object:os.system {}\n",
        "1:8: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed; write the value without it",
    ),
}

MALFORMED_OTHERS = {
    "an unknown class of backend": (
        "backends.yaml",
        "backends:\n- name: counter\n  class: B3\n",
        "3:10: class 'B3' must be B1, B2, B4, B4_1G or B8",
    ),
    "too many instances": (
        "backends.yaml",
        "backends:\n- name: counter\n  instances: 21\n",
        "3:14: instances '21' is not between 1 and 20",
    ),
    "a misspelt key of a backend": (
        "backends.yaml",
        "backends:\n- name: counter\n  instance: 2\n",
        "3:3: a backend has no key 'instance'. Did you mean 'instances'?",
    ),
    "a rule without a host": (
        "dispatch.yaml",
        "dispatch:\n- url: /work/*\n  service: work\n",
        "2:8: url '/work/*' has no host; begin it with '*' to match any host. Did you mean '*/work/*'?",
    ),
    "an address in a rule": (
        "dispatch.yaml",
        "dispatch:\n- url: 10.0.0.5/work\n  service: work\n",
        "2:8: url '10.0.0.5/work' has an IP address as its host; use a host name. Did you mean '*/work'?",
    ),
    "a rule without a service": (
        "dispatch.yaml",
        "dispatch:\n- url: '*/work'\n",
        "2:3: service is missing: a dispatch rule needs one",
    ),
    "an error page that is not there": (
        "app.yaml",
        "error_handlers:\n- file: sorry.html\n",
        "2:9: file 'sorry.html' is not there",
    ),
}


@pytest.fixture(autouse=True)
def _environment(app_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application's folder to be in, and nothing set but the secret key and the site's name."""
    for name in list(os.environ):
        if name.startswith("LASTACROSS") or name in {"PORT", "HOST", "REDIS_URL", "DATABASE_URL"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    monkeypatch.setenv("LASTACROSS_ALLOWED_HOSTS", "shop.example")
    monkeypatch.chdir(app_root)


def check(capsys: Capture, *options: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    code = cli.run(["config", "check", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def check_in_a_process(root: Path) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it."""
    return subprocess.run(
        [sys.executable, "-m", "lastacross", "--app", str(root), "config", "check"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize("name", MALFORMED_QUEUES)
def test_a_malformed_queue_file_is_told_to_the_column(app_root: Path, capsys: Capture, name: str) -> None:
    text, said = MALFORMED_QUEUES[name]
    (app_root / "queue.yaml").write_text(text)

    assert check(capsys) == (2, "", f"queue.yaml:{said}\n")


@pytest.mark.parametrize("name", MALFORMED_OTHERS)
def test_a_malformed_other_file_is_told_to_the_column(app_root: Path, capsys: Capture, name: str) -> None:
    file, text, said = MALFORMED_OTHERS[name]
    (app_root / file).write_text(text)

    assert check(capsys) == (2, "", f"{file}:{said}\n")


@pytest.mark.parametrize(
    "name", ["a unit that there is not", "a tab", "an object of Python's", "nothing at all"]
)
def test_a_shell_sees_the_mistake_and_exit_code_2(app_root: Path, name: str) -> None:
    text, said = MALFORMED_QUEUES[name]
    (app_root / "queue.yaml").write_text(text)

    ended = check_in_a_process(app_root)

    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"queue.yaml:{said}\n")


def test_a_shell_sees_the_mistakes_of_all_files_at_once(app_root: Path) -> None:
    (app_root / "queue.yaml").write_bytes(b"queue:\n- name: caf\xe9\n")
    (app_root / "backends.yaml").write_text("backends: [[[[\n")
    (app_root / "dispatch.yaml").mkdir()

    ended = check_in_a_process(app_root)

    assert ended.returncode == 2
    assert [line.partition(" ")[0] for line in ended.stderr.splitlines()] == [
        "queue.yaml:2:12:",
        "backends.yaml:2:1:",
        "dispatch.yaml:",
    ]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({}, "app.yaml, queue.yaml"),
        ({"backends.yaml": "backends:\n- name: work\n"}, "app.yaml, queue.yaml, backends.yaml"),
        ({"dispatch.yml": "dispatch:\n"}, "app.yaml, queue.yaml, dispatch.yml"),
    ],
)
def test_the_files_that_were_read_are_named(
    app_root: Path, capsys: Capture, more: dict[str, str], named: str
) -> None:
    for name, text in more.items():
        (app_root / name).write_text(text)

    assert check(capsys) == (0, f"{named} and the environment are valid\n", "")


def test_a_notice_stops_nothing(app_root: Path, capsys: Capture) -> None:
    (app_root / "queue.yaml").write_text(Q + "  target: counter\n")

    code, out, err = check(capsys)

    assert (code, err) == (0, "")
    notice, last = out.splitlines()
    assert notice.startswith(
        "notice: queue.yaml:4:11: target 'counter' names a service that is not in backends.yaml"
    )
    assert last == "app.yaml, queue.yaml and the environment are valid"


def test_a_site_that_answers_for_any_host_is_warned_of(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LASTACROSS_ALLOWED_HOSTS")

    assert "warning" not in "".join(map(str, check(capsys)))
    code, out, err = check(capsys, "--production")

    assert (code, err) == (0, "")
    warning, last = out.splitlines()
    assert warning.startswith("warning: LASTACROSS_ALLOWED_HOSTS=*: requests for any host are accepted; list")
    assert last == "app.yaml, queue.yaml and the environment are valid"


def test_what_can_be_used_has_a_secret_key(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of production starts without one, and the check of the files does not ask for it."""
    monkeypatch.delenv("SECRET_KEY")

    assert check(capsys)[0] == 0
    code, out, err = check(capsys, "--production")

    assert (code, out) == (2, "")
    assert err.startswith("SECRET_KEY is not set; generate one with python -c")
    assert err.count("\n") == 1
