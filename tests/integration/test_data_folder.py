"""The data folder, its secrets, and the Redis in it."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import redis

from lastacross.errors import StartupError
from lastacross.runtime import data_folder, embedded
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
    monkeypatch.setattr(embedded, "_binary", None)
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
