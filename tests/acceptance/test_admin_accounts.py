"""``lastacross admin set-password``, ``list`` and ``remove``; and what commands leave in the audit log."""

import io
import json
import os
import pty
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastacross import accounts, audit, config, datastore, taskqueue
from lastacross.store import Store
from tests.conftest import SECRET_KEY
from tests.support import databases
from tests.support.command_line import Capture, Command, command_line
from tests.support.redis_server import RedisServer

PASSWORD = "correct horse battery"
USER = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def environ(app_root: Path, redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a site."""
    return {
        "SECRET_KEY": SECRET_KEY,
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/accounts.db",
        "LASTACROSS_APP": str(app_root),
    }


@pytest.fixture
def command(
    environ: dict[str, str],
    app_root: Path,
    test_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> Iterator[Command]:
    """Runs a command of the site."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    config.use(config.load(app_root, environ))
    databases.upgrade()
    with command_line(capsys) as run:
        yield run


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let standard input be a pipe with this text."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def recorded(environ: dict[str, str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """The audit log's entries, oldest first: the person, the action and the ids."""
    opened = Store(environ["REDIS_URL"])
    entries = reversed(audit.read(opened).entries)
    opened.close()
    return [(entry.name, entry.action, entry.ids) for entry in entries]


def has_password(name: str, password: str) -> bool:
    """Whether the account has this password."""
    account = accounts.find(name)
    datastore.dispose()
    return account is not None and accounts.is_password(account.password_hash, password)


def test_a_password_comes_from_a_pipe_and_the_account_can_be_listed_and_removed(
    command: Command, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    assert command("admin", "list")[1].startswith("nobody can sign in with a password")

    typed(monkeypatch, f"{PASSWORD}\nanother line\n")
    assert command("admin", "set-password", "Anna") == (0, "anna may now sign in as an admin\n", "")
    typed(monkeypatch, f"{PASSWORD}\r\n")
    assert command("admin", "set-password", "ben", "--role", "viewer")[1].endswith("as a viewer\n")
    assert has_password("anna", PASSWORD)
    assert has_password("ben", PASSWORD)

    code, out, _ = command("admin", "list", "--json")
    assert code == 0
    assert [(each["name"], each["role"]) for each in json.loads(out)] == [
        ("anna", "admin"),
        ("ben", "viewer"),
    ]
    assert "argon2" not in out
    assert "PASSWORD SET" in command("admin", "list")[1]

    assert command("admin", "remove", "ben") == (0, "ben can no longer sign in\n", "")
    code, _, err = command("admin", "remove", "ben")
    assert (code, "there is no account 'ben'" in err) == (1, True)
    assert recorded(environ) == [
        (USER, "account.set_password", ("anna",)),
        (USER, "account.set_password", ("ben",)),
        (USER, "account.remove", ("ben",)),
    ]


def test_changes_of_accounts_for_programs(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, f"{PASSWORD}\n")
    code, out, _ = command("admin", "set-password", "Anna", "--role", "viewer", "--json")
    assert (code, json.loads(out)) == (0, {"name": "anna", "role": "viewer"})

    code, out, _ = command("admin", "remove", "Anna", "--json")
    assert (code, json.loads(out)) == (0, {"name": "anna", "is_removed": True})


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("anna", "short\n", "needs at least 12"),
        ("anna", "", "there is no password on standard input"),
        ("an na", f"{PASSWORD}\n", "cannot be a name"),
        ("administrator", f"{PASSWORD}\n", "stands for whoever used a link"),
    ],
)
def test_a_bad_name_or_password_is_one_line_on_standard_error(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, line: str, reason: str
) -> None:
    typed(monkeypatch, line)
    code, out, err = command("admin", "set-password", name)

    assert (code, out) == (1, "")
    assert reason in err
    assert len(err.splitlines()) == 1


def test_on_a_terminal_the_password_is_asked_for_twice_and_never_shown(
    command: Command, environ: dict[str, str]
) -> None:
    shown = in_terminal(environ, f"{PASSWORD}\n{PASSWORD}\n", "admin", "set-password", "anna")

    assert PASSWORD not in shown
    assert shown.count("Password") == 1
    assert "The same again" in shown
    assert has_password("anna", PASSWORD)


def in_terminal(environ: dict[str, str], answers: str, *arguments: str) -> str:
    """Run a command on a terminal of its own, type the answers, and return what it showed."""
    main, child = pty.openpty()
    command = [sys.executable, "-m", "lastacross", *arguments]
    given = {**os.environ, **environ}
    try:
        with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=given) as process:
            shown = b""
            for answer in answers.splitlines(keepends=True):
                asked = b""
                while not asked.rstrip().endswith(b":"):
                    asked += os.read(main, 1_000)
                shown += asked
                os.write(main, answer.encode())
            assert process.wait(30) == 0
        os.set_blocking(main, False)
        return (shown + os.read(main, 10_000)).decode()
    finally:
        os.close(child)
        os.close(main)


def test_without_tables_the_remedy_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/new.db")
    typed(monkeypatch, f"{PASSWORD}\n")
    code, _, err = command("admin", "set-password", "anna")
    assert (code, "lastacross db upgrade" in err) == (1, True)


def test_without_redis_the_change_is_made_and_the_user_learns_that_it_was_not_recorded(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nothing.sock")
    typed(monkeypatch, f"{PASSWORD}\n")
    code, _, err = command("admin", "set-password", "anna")

    assert (code, "not recorded in the audit log" in err) == (0, True)
    assert has_password("anna", PASSWORD)


def test_commands_that_change_queues_and_tasks_are_recorded(
    command: Command, environ: dict[str, str]
) -> None:
    for name in ("one", "two"):
        taskqueue.add(url="/work", name=name, eta=None, countdown=3600)
    command("queues", "pause", "default")
    command("queues", "resume", "default")
    command("tasks", "run", "default", "one")
    command("tasks", "delete", "default", "one", "nothing")
    command("tasks", "delete", "default", "nothing")
    command("queues", "list")
    command("queues", "purge", "default", "--yes")

    assert recorded(environ) == [
        (USER, "queue.pause", ("default",)),
        (USER, "queue.resume", ("default",)),
        (USER, "task.run", ("default/one",)),
        (USER, "task.delete", ("default/one",)),
        (USER, "queue.purge", ("default",)),
    ]
