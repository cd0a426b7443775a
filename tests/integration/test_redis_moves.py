"""Connections to a server that is a replica now, loads its data, or is to be found by sentinels."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from lastacross import store
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.store import Store, refusals
from lastacross.worker.leasing import Interrupt, MarkerListener
from tests.support.command_line import command_line
from tests.support.processes import wait_until
from tests.support.sentinels import NAME, Node
from tests.support.site import free_port
from tests.support.tls import CERTIFICATE, KEY

_numbers = itertools.count()


def add(opened: Store) -> str:
    """Add a task; returns its id."""
    task_id = f"default_a-{next(_numbers)}"
    opened.run("add_task", (), (task_id, "default", "POST /a", "", "", ""))
    return task_id


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="la-moves-") as name:
        yield Path(name)


@pytest.fixture
def server(folder: Path) -> Iterator[Node]:
    """A server that the test may make a replica."""
    node = Node(folder, ["save ''", "dbfilename one.rdb", "loading-process-events-interval-bytes 1024"])
    node.start()
    yield node
    node.kill()
    node.client.close()


@pytest.fixture
def opened(server: Node) -> Iterator[Store]:
    made = Store(f"redis://127.0.0.1:{server.port}/0", patience_seconds=2)
    yield made
    made.close()


def connections_of(server: Node) -> set[str]:
    """The server's ids of all connections but the test's own and replicas'."""
    own = str(server.client.client_id())
    return {found["id"] for found in server.client.client_list(_type="normal") if found["id"] != own}


def demote(server: Node, master_port: int, **settings: object) -> None:
    """Make the server a replica without closing any connection, as ``REPLICAOF`` does."""
    for name, value in {"min-replicas-to-write": 0, **settings}.items():
        server.client.config_set(name.replace("_", "-"), value)
    server.client.replicaof("127.0.0.1", master_port)


@pytest.mark.parametrize(
    ("serves_old_data", "words"), [("yes", "read only replica"), ("no", "MASTER is down")]
)
def test_one_refusal_of_a_replica_ends_every_connection(
    server: Node, opened: Store, serves_old_data: str, words: str
) -> None:
    add(opened)
    heartbeats = opened.redis.client_id()
    idle = opened.redis.connection_pool.get_connection()
    in_use = opened.redis.connection_pool.get_connection()
    opened.redis.connection_pool.release(idle)
    before = connections_of(server)
    assert len(before) >= 3

    demote(server, free_port(), replica_serve_stale_data=serves_old_data)
    with pytest.raises(StoreUnavailableError, match=words):
        add(opened)
    opened.redis.connection_pool.release(in_use)

    wait_until(lambda: not connections_of(server) & before, 5, "the end of all connections")
    server.client.replicaof("NO", "ONE")
    add(opened)
    assert opened.redis.client_id() != heartbeats


@pytest.mark.slow
def test_a_server_that_loads_a_new_masters_data_ends_every_connection(
    server: Node, opened: Store, folder: Path
) -> None:
    master = Node(folder, ["save ''", "dbfilename two.rdb", "repl-diskless-sync-delay 0"])
    master.start()
    try:
        master.client.mset({f"key{number}": "x" * 100 for number in range(2000)})
        add(opened)
        heartbeats = opened.redis.client_id()
        demote(server, master.port, key_load_delay=5_000)
        wait_until(lambda: _is_loading(server), 10, "the loading")

        with pytest.raises(StoreUnavailableError, match="loading"):
            add(opened)

        assert str(heartbeats) not in _connections_while_loading(server)
    finally:
        master.kill()
        master.client.close()


def _is_loading(server: Node) -> bool:
    try:
        server.client.get("key")
    except redis.exceptions.BusyLoadingError:
        return True
    return False


def _connections_while_loading(server: Node) -> set[str]:
    return {found["id"] for found in server.client.client_list()}


def test_a_listener_leaves_a_server_that_has_been_replaced(server: Node, opened: Store) -> None:
    """The old master may stay one for a while, so it does not end the wait itself."""
    interrupt = Interrupt()
    listener = MarkerListener(opened, ["default"], "lease_tasks", lambda: ())
    assert listener.wait(0, interrupt.fd) is None
    before = connections_of(server)
    opened.redis.connection_pool.reconnect_all()  # type: ignore[attr-defined]

    assert listener.wait(0, interrupt.fd) is None

    wait_until(lambda: not connections_of(server) & before, 5, "the end of the wait there")
    listener.close()


@pytest.mark.parametrize("word", ["READONLY", "LOADING", "MASTERDOWN", "UNBLOCKED"])
def test_the_errors_of_every_version_are_recognized(word: str) -> None:
    assert refusals.must_reconnect("ResponseError", f"{word} You cannot …")
    assert refusals.must_reconnect("ResponseError", f"Command # 1 (SET a) of pipeline caused error: {word} …")
    in_script = (
        f"Error running script (call to f_1a2b): @user_script:12: @user_script: 12: -{word} You cannot …"
    )
    assert refusals.must_reconnect("ResponseError", in_script)
    assert not refusals.must_reconnect("ResponseError", f"ERR not {word}")


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture
def tls(folder: Path) -> Iterator[tuple[Node, Node]]:
    """A server and a sentinel that speak TLS only."""
    (folder / "key.pem").write_text(KEY)
    (folder / "certificate.pem").write_text(CERTIFICATE)
    lines = [f"tls-cert-file {folder}/certificate.pem", f"tls-key-file {folder}/key.pem"]
    lines += [f"tls-ca-cert-file {folder}/certificate.pem", "tls-auth-clients no", "tls-replication yes"]
    nodes = _tls_node(folder, ["save ''", *lines]), _tls_node(folder, lines, ["--sentinel"])
    try:
        for node in nodes:
            node.start()
        nodes[1].client.sentinel_monitor(NAME, "127.0.0.1", nodes[0].port, 1)
        yield nodes
    finally:
        for node in nodes:
            node.kill()
            node.client.close()


def _tls_node(folder: Path, lines: list[str], arguments: list[str] | None = None) -> Node:
    node = Node(folder, lines, arguments or [])
    node.speak_tls(folder / "certificate.pem")
    return node


def test_tls_to_a_server_and_to_its_sentinels(tls: tuple[Node, Node], folder: Path) -> None:
    server, sentinel = tls
    trusting = f"?ssl_ca_certs={folder}/certificate.pem"
    for url in (
        f"rediss://localhost:{server.port}/0{trusting}",
        f"rediss+sentinel://127.0.0.1:{sentinel.port}/{NAME}/0{trusting}",
    ):
        made = Store(url, patience_seconds=2)
        assert made.redis.exists(store.record_key(add(made)))
        made.close()


def test_a_certificate_that_nobody_signed_is_named(tls: tuple[Node, Node]) -> None:
    made = Store(f"rediss://localhost:{tls[0].port}/0", patience_seconds=2)

    with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
        add(made)

    made.close()


# --- wrong URLs with sentinels --------------------------------------------------------------


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[Node, Node, Node]]:
    """A server, its sentinel, and a sentinel with a password."""
    with tempfile.TemporaryDirectory(prefix="la-moves-") as name:
        folder = Path(name)
        server = Node(folder, ["save ''"])
        lines = [f"sentinel monitor {NAME} 127.0.0.1 {server.port} 1"]
        nodes = (
            server,
            Node(folder, lines, ["--sentinel"]),
            Node(folder, lines, ["--sentinel"], password="sesame"),
        )
        try:
            for node in nodes:
                node.start()
            yield nodes
        finally:
            for node in nodes:
                node.kill()
                node.client.close()


WRONG = [
    ("redis+sentinel://127.0.0.1:{nobody}/mymaster/0", "no sentinel answers at 127.0.0.1:{nobody}"),
    (
        "redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{sentinel}/other/0",
        "the sentinel 127.0.0.1:{sentinel} does not watch a master named other: correct it in REDIS_URL",
    ),
    (
        "redis+sentinel://127.0.0.1:{server}/mymaster/0",
        "the sentinel 127.0.0.1:{server} is not a sentinel: name the sentinels in REDIS_URL",
    ),
    (
        "redis://127.0.0.1:{sentinel}/0",
        "127.0.0.1:{sentinel} is a sentinel: write REDIS_URL as redis+sentinel:",
    ),
    (
        "redis+sentinel://127.0.0.1:{locked}/mymaster",
        "requires a password: put it into REDIS_URL as ?sentinel",
    ),
    (
        "redis+sentinel://127.0.0.1:{locked}/mymaster?sentinel_password=canary",
        "rejects the user or the password: correct sentinel_username and sentinel_password",
    ),
    (
        "redis+sentinel://nobody:canary@127.0.0.1:{sentinel}/mymaster",
        "127.0.0.1:{server} rejects the user or the password in REDIS_URL",
    ),
    ("redis+sentinel://127.0.0.1/", "does not name the master after its hosts"),
]


@pytest.mark.parametrize(("url", "reason"), WRONG)
def test_a_wrong_url_is_one_clear_line(
    watched: tuple[Node, Node, Node],
    app_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
    reason: str,
) -> None:
    server, sentinel, locked = watched
    ports = {"server": server.port, "sentinel": sentinel.port, "locked": locked.port, "nobody": 1}
    monkeypatch.chdir(app_root)
    monkeypatch.setenv("REDIS_URL", url.format(**ports))

    with command_line(capsys) as command:
        code, out, err = command("queues", "list")

    assert (code in {1, 2}, out, err.count("\n")) == (True, "", 1), err
    assert reason.format(**ports) in err
    assert "canary" not in err


def test_the_right_url_leads_to_the_master(watched: tuple[Node, Node, Node]) -> None:
    server, sentinel, locked = watched
    hosts = f"127.0.0.1:1,127.0.0.1:{locked.port},127.0.0.1:{sentinel.port}"
    for password in ("", "?sentinel_password=sesame"):
        made = Store(f"redis+sentinel://{hosts}/{NAME}/2{password}", patience_seconds=2)
        add(made)
        found: Any = made.redis.connection_pool.get_connection()
        assert (found.port, found.db) == (server.port, 2)
        made.redis.connection_pool.release(found)
        made.close()


def test_a_command_accepts_the_right_url(
    watched: tuple[Node, Node, Node],
    app_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(app_root)
    monkeypatch.setenv("REDIS_URL", f"redis+sentinel://127.0.0.1:{watched[1].port}/{NAME}/1")

    with command_line(capsys) as command:
        code, out, err = command("queues", "list")

    assert (code, err) == (0, "")
    assert "default" in out


def test_a_store_refuses_an_unusable_url() -> None:
    with pytest.raises(ConfigError, match="does not name the master"):
        Store("redis+sentinel://127.0.0.1")


def test_a_server_that_is_only_a_replica_is_not_used(watched: tuple[Node, Node, Node]) -> None:
    """Sentinels may name a server before it is promoted, or after it was replaced."""
    server, sentinel, _ = watched
    server.client.replicaof("127.0.0.1", free_port())
    made = Store(f"redis+sentinel://127.0.0.1:{sentinel.port}/{NAME}", patience_seconds=2)
    try:
        with pytest.raises(StoreUnavailableError, match=f"127.0.0.1:{server.port} is not the master"):
            add(made)
    finally:
        server.client.replicaof("NO", "ONE")
        made.close()
