"""The command line, as a person or a script meets it: answers, mistakes, exit codes."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import lastacross
from tests.conftest import SECRET_KEY
from tests.support.command_line import Capture, Command, command_line


@pytest.fixture
def command(app_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Iterator[Command]:
    """Runs a command in the application's folder; gives exit code, standard output and error."""
    for name in ("PORT", "HOST", "REDIS_URL", "DATABASE_URL", "LASTACROSS_APP", "LASTACROSS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    monkeypatch.chdir(app_root)
    with command_line(capsys) as run:
        yield run


def test_help_lists_the_commands_and_gives_examples(command: Command) -> None:
    code, out, _ = command("--help")

    assert code == 0
    for name in ("dev", "web", "worker", "scheduler", "queues", "tasks", "config", "db", "admin"):
        assert f"\n  {name} " in out
    assert "lastacross worker --processes 4" in out
    assert "worker-process" not in out


@pytest.mark.parametrize(
    "name",
    [
        *("dev", "web", "worker", "scheduler", "config check", "config show", "db upgrade"),
        "admin link",
        *("queues list", "queues pause", "queues resume", "queues drain", "queues undrain", "queues purge"),
        *("tasks list", "tasks show", "tasks run", "tasks delete", "tasks retry"),
    ],
)
def test_each_command_explains_itself(command: Command, name: str) -> None:
    code, out, _ = command(*name.split(), "--help")

    assert code == 0
    assert "--app" in out


def test_the_version_is_the_packages(command: Command) -> None:
    assert command("--version")[:2] == (0, f"lastacross, version {lastacross.__version__}\n")


def test_an_unknown_command_exits_with_2(command: Command) -> None:
    code, out, err = command("wroker")

    assert (code, out) == (2, "")
    assert "wroker" in err


def test_config_check_of_a_right_configuration_exits_with_0(command: Command) -> None:
    code, out, err = command("config", "check")

    assert (code, err) == (0, "")
    assert "are valid" in out


def test_config_check_names_every_mistake_with_its_place(command: Command, app_root: Path) -> None:
    (app_root / "queue.yaml").write_text("queue:\n- name: a\n  rate: 5/x\n- name: b\n  rat: 5/s\n")

    code, _, err = command("config", "check")

    assert code == 2
    assert [line[:15] for line in err.splitlines()] == ["queue.yaml:3:9:", "queue.yaml:5:3:"]
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["web", "worker", "scheduler", "dev", "db upgrade", "config show"])
def test_no_command_starts_with_a_mistake_in_the_configuration(
    command: Command, app_root: Path, name: str
) -> None:
    (app_root / "queue.yaml").write_text("queue:\n- name: a\n  rate: 5/x\n")

    code, _, err = command(*name.split())

    assert code == 2
    assert err.startswith("lastacross: queue.yaml:3:9:")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["web", "worker", "scheduler"])
def test_no_process_starts_without_a_secret_key(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("SECRET_KEY")

    code, _, err = command(name)

    assert code == 2
    assert err.startswith("lastacross: SECRET_KEY is not set")
    assert err.count("\n") == 1


def test_config_show_hides_secrets_and_says_where_values_come_from(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:canary@127.0.0.1:7/0")

    code, out, _ = command("config", "show")

    assert code == 0
    assert "canary" not in out
    assert SECRET_KEY not in out
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["REDIS_URL"].endswith("environment")
    assert lines["PORT"].split() == ["PORT", "8080", "default"]


def test_config_show_says_which_service_this_process_belongs_to(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTACROSS_SERVICE", "counter")

    _, out, _ = command("config", "show", "--json")

    assert json.loads(out)["LASTACROSS_SERVICE"] == {"value": "counter", "source": "environment"}


@pytest.mark.parametrize("is_dev", ["0", "1"])
@pytest.mark.parametrize("name", ["config show", "db upgrade"])
def test_who_signs_nothing_needs_no_secret_key(
    command: Command, app_root: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_dev: str
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("LASTACROSS_DEV", is_dev)

    code, _, err = command(*name.split())

    assert (code, err) == (0, "")
    assert not (app_root / "var" / "secret_key").exists()


def test_config_show_says_that_there_is_no_secret_key(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_KEY")

    _, out, _ = command("config", "show", "--json")

    assert json.loads(out)["SECRET_KEY"] == {"value": "", "source": "not set"}


def test_config_show_for_programs_is_json(command: Command) -> None:
    _, out, _ = command("config", "show", "--json")

    assert json.loads(out)["PORT"] == {"value": "8080", "source": "default"}


@pytest.mark.parametrize("arguments", ["--app {} config check", "config check --app {}"])
def test_the_applications_folder_may_be_named_before_or_after_the_command(
    command: Command, tmp_path: Path, arguments: str
) -> None:
    missing = tmp_path / "nowhere"

    code, _, err = command(*arguments.format(missing).split())

    assert code == 2
    assert str(missing) in err


def test_the_applications_folder_may_come_from_the_environment(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTACROSS_APP", str(tmp_path / "nowhere"))

    assert command("config", "check")[0] == 2


@pytest.mark.parametrize(("name", "word"), [("web", "PORT"), ("dev", "port")])
def test_a_port_that_is_taken_is_named_with_the_remedy(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, word: str
) -> None:
    monkeypatch.setenv("HOST", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("PORT", str(port))

        code, _, err = command(name)

    assert code == 1
    assert err.startswith(f"lastacross: {word} {port} on 127.0.0.1 is in use")
    assert err.count("\n") == 1


def test_a_host_that_is_not_this_machines_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "192.0.2.1")

    code, _, err = command("web")

    assert code == 1
    assert "HOST 192.0.2.1" in err


def test_a_web_server_without_tables_says_what_to_run(command: Command) -> None:
    code, _, err = command("web")

    assert code == 1
    assert "lastacross db upgrade" in err


def test_db_upgrade_makes_the_tables_and_may_be_repeated(command: Command, app_root: Path) -> None:
    for _ in range(2):
        code, out, err = command("db", "upgrade")
        assert (code, err) == (0, "")

    assert "is up to date" in out
    assert (app_root / "var" / "lastacross.db").exists()


def test_a_worker_for_a_queue_that_is_not_there_does_not_start(command: Command) -> None:
    code, _, err = command("worker", "--queues", "default,mial")

    assert code == 2
    assert "mial" in err
    assert err.count("\n") == 1


def test_a_worker_takes_only_sensible_numbers(command: Command) -> None:
    assert command("worker", "--processes", "0")[0] == 2
    assert command("worker", "--threads", "many")[0] == 2
