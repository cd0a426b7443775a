"""The data folder, its secrets, and the Redis in it."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from lastacross import config
from lastacross.datastore import engines, url
from lastacross.errors import StartupError
from lastacross.processes import data_folder, embedded, permissions
from lastacross.worker import started
from tests.conftest import SECRET_KEY
from tests.support.processes import wait_until


def test_a_folder_is_made_and_has_one_owner_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "var"
    owner = rf"in use .*process {os.getpid()}.*LASTACROSS_DATA_DIR"

    with data_folder.opened(path), pytest.raises(StartupError, match=owner):
        data_folder.opened(path).__enter__()

    with data_folder.opened(path):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StartupError, match=r"file/var cannot be used .*LASTACROSS_DATA_DIR"):
        data_folder.opened(tmp_path / "file" / "var").__enter__()


def test_a_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path) as folder:
        secret = folder.secret("password")
    with data_folder.opened(tmp_path) as folder:
        assert folder.secret("password") == secret

    assert len(secret) >= 32
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


def test_the_port_and_password_of_last_time_are_taken_again(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path) as folder:
        assert embedded.prepare(folder).url == embedded.prepare(folder).url


def assert_is_free(port: int) -> None:
    """Check that a server can listen there."""
    with socket.socket() as server:
        server.bind((embedded.HOST, port))
        assert server.getsockname()[1] == port


def test_another_port_is_taken_when_the_one_of_last_time_is_not_free(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path) as folder:
        before = embedded.prepare(folder).port
        with socket.socket() as other:
            other.bind((embedded.HOST, before))
            other.listen()
            after = embedded.prepare(folder).port
    assert after != before
    assert_is_free(after)


def test_a_spoilt_port_file_is_no_obstacle(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path) as folder:
        folder.private_folder("redis")
        (tmp_path / "redis" / "port").write_text("99999999999")

        assert_is_free(embedded.prepare(folder).port)


def test_without_a_packed_server_the_one_on_the_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setattr(embedded, "_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert embedded.find_server() == str(server)

    server.unlink()
    with pytest.raises(StartupError, match="apt-get install redis-server"):
        embedded.find_server()


@pytest.mark.slow
@pytest.mark.parametrize("binary", ["packed", "redis-server"])
def test_each_server_takes_the_configuration_and_listens_on_loopback_with_a_password(
    tmp_path: Path, binary: str
) -> None:
    data_dir = tmp_path / 'a "quoted" folder'
    with data_folder.opened(data_dir) as folder:
        server = embedded.prepare(folder)
        program = server.binary if binary == "packed" else shutil.which(binary)
        assert program is not None
        with subprocess.Popen([program, str(server.folder / "redis.conf")]) as process:
            try:
                with redis.Redis.from_url(server.url) as client:
                    wait_until(lambda: _answers(client))
                    assert client.config_get("appendonly", "bind", "appendfsync", "maxmemory-policy") == {
                        "appendonly": "yes",
                        "bind": "127.0.0.1",
                        "appendfsync": "everysec",
                        "maxmemory-policy": "noeviction",
                    }
                with (
                    redis.Redis(port=server.port) as stranger,
                    pytest.raises(redis.AuthenticationError),
                ):
                    stranger.ping()
            finally:
                process.terminate()
    assert (data_dir / "redis" / "appendonlydir").is_dir()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


# --- who may read it ----------------------------------------------------------------------------


def modes(root: Path) -> dict[str, int]:
    """The mode of all that is in a folder, by its path, and of the folder itself."""
    found = {str(path.relative_to(root)): path for path in [root, *root.rglob("*")]}
    return {name: path.lstat().st_mode & 0o777 for name, path in found.items()}


def assert_private(root: Path) -> None:
    """Check that nobody but the owner may do anything with a folder and what is in it."""
    wide = {name: f"{mode:04o}" for name, mode in modes(root).items() if mode & 0o077}
    assert wide == {}


@pytest.fixture
def loose_umask() -> Iterator[None]:
    """Whatever is made without a mode is open to all."""
    before = os.umask(0)
    yield
    os.umask(before)


def settings_of(root: Path, **environ: str) -> config.Settings:
    given = {"SECRET_KEY": SECRET_KEY, "LASTACROSS_DATA_DIR": str(root / "var"), **environ}
    return config.load(root, given).settings


@pytest.mark.usefixtures("loose_umask")
def test_a_database_and_its_journals_are_private_from_the_first_byte(tmp_path: Path) -> None:
    database = url.parse(f"sqlite:///{tmp_path}/var/data.db")
    engines.make_folder(database)
    engine = engines.build(database)

    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE a (b)")
        assert set(modes(tmp_path / "var")) >= {"data.db", "data.db-wal", "data.db-shm"}
        assert_private(tmp_path / "var")
    engine.dispose()


@pytest.mark.usefixtures("loose_umask")
def test_the_files_of_redis_are_private_from_the_first_byte(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path / "var") as folder:
        server = embedded.prepare(folder)
        table = started.StartedTable(folder.private_folder("workers") / "worker-1", "token", 2)
        spec = server.spec(folder.lock_fd)
        with subprocess.Popen(list(spec.command), umask=spec.umask) as process:
            try:
                with redis.Redis.from_url(server.url) as client:
                    wait_until(lambda: _answers(client))
                    client.set("a", "b")
                    client.save()
                    client.bgrewriteaof()
                    wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
                    assert_private(tmp_path / "var")
            finally:
                process.terminate()
        table.close()
    assert len(modes(tmp_path / "var")) > 8
    assert_private(tmp_path / "var")


@pytest.mark.usefixtures("loose_umask")
def test_what_an_older_version_left_open_is_closed_at_the_start_and_told(app_root: Path) -> None:
    folder = app_root / "var"
    for name in (
        "lock",
        "lastacross.db",
        "lastacross.db-wal",
        "redis/appendonlydir/base.rdb",
        "workers/worker-1",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "mine.txt").write_text("not the engine's")
    (folder / "redis" / "link").symlink_to(app_root / "app.yaml")
    mode_of_target = (app_root / "app.yaml").stat().st_mode

    with capture_logs() as logged:
        permissions.narrow(settings_of(app_root))
        permissions.narrow(settings_of(app_root))

    [event] = [entry for entry in logged if entry["event"] == "data.narrowed"]
    assert event["count"] == 9
    found = modes(folder)
    assert found.pop("mine.txt") == 0o666
    assert {name for name, mode in found.items() if mode & 0o077} == {"redis/link"}
    assert (app_root / "app.yaml").stat().st_mode == mode_of_target


@pytest.mark.usefixtures("loose_umask")
def test_a_database_outside_of_the_folder_is_left_alone_and_warned_of(app_root: Path) -> None:
    outside = app_root / "elsewhere.db"
    outside.write_text("")

    with capture_logs() as logged:
        permissions.narrow(settings_of(app_root, DATABASE_URL=f"sqlite:///{outside}"))

    assert outside.stat().st_mode & 0o777 == 0o666
    [event] = [entry for entry in logged if entry["event"] == "data.open_database"]
    assert (event["path"], event["mode"], event["remedy"]) == (str(outside), "0666", "chmod 600")


def test_a_folder_of_somebody_else_is_left_alone_and_warned_of(
    app_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = app_root / "var"
    folder.mkdir(mode=0o755)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with capture_logs() as logged:
        permissions.narrow(settings_of(app_root))

    assert folder.stat().st_mode & 0o777 == 0o755
    assert [(entry["event"], entry["owner"]) for entry in logged] == [("data.foreign_folder", owner)]
