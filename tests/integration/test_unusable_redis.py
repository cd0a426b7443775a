"""A REDIS_URL that leads to anything but a usable Redis is explained in one line, without its password."""

import contextlib
import http.server
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from lastacross import config, deferred, store, taskqueue
from lastacross.errors import ConfigError, StoreUnavailableError
from lastacross.store import Store, socket_of, translated_errors
from lastacross.taskqueue import TransientError
from tests.support.command_line import Capture, command_line
from tests.support.redis_server import RedisServer, running_server
from tests.support.wrong_servers import PASSWORD, answering, replies, with_credentials, with_password

SECRET = quote(PASSWORD, safe="")

pytestmark = pytest.mark.usefixtures("configuration")


@pytest.fixture(scope="module")
def own_server() -> Iterator[RedisServer]:
    """A server whose password a test may set."""
    with running_server() as server:
        yield server


@contextlib.contextmanager
def web_server() -> Iterator[str]:
    """A real web server; gives its host and port."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Leave standard error to the command."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


def assert_explained(url: str, reason: str, tmp_path: Path, capsys: Capture, place: str = "") -> None:
    """Each way to use the URL ends in one line with this reason and place, and without the password."""
    opened = Store(url, patience_seconds=2)
    store.use(opened)
    calls: list[Callable[[], object]] = [
        lambda: taskqueue.add(url="/a"),
        lambda: taskqueue.Queue().add([taskqueue.Task(url="/a"), taskqueue.Task(url="/b", name="n")]),
        lambda: deferred.defer(print),
    ]
    try:
        for call in calls:
            with pytest.raises(TransientError) as raised:
                call()
            assert place in str(raised.value)
            assert reason in str(raised.value)
            shown = "".join(traceback.format_exception(raised.value))
            assert PASSWORD not in shown
            assert SECRET not in shown
    finally:
        store.use(None)
        opened.close()
    with pytest.MonkeyPatch.context() as patch, command_line(capsys) as command:
        patch.chdir(tmp_path)
        patch.setenv("REDIS_URL", url)
        for arguments in (("queues", "list"), ("tasks", "list", "default"), ("queues", "pause", "default")):
            code, out, err = command(*arguments)

            assert (code, out, err.count("\n")) == (1, "", 1), err
            assert err.startswith("lastacross: Redis is not available: ")
            assert place in err
            assert reason in err
            assert PASSWORD not in err
            assert SECRET not in err


def test_a_web_server(tmp_path: Path, capsys: Capture) -> None:
    with web_server() as place:
        assert_explained(
            f"redis://:{SECRET}@{place}/0",
            f"{place} does not answer like a Redis server but like a web server: correct REDIS_URL",
            tmp_path,
            capsys,
        )


def test_a_missing_password(own_server: RedisServer, tmp_path: Path, capsys: Capture) -> None:
    with with_password(own_server):
        assert_explained(own_server.url, "requires a password: put it into REDIS_URL", tmp_path, capsys)


@pytest.mark.parametrize("credentials", [f":{SECRET}x", f"nobody:{SECRET}"])
def test_a_wrong_password(own_server: RedisServer, tmp_path: Path, capsys: Capture, credentials: str) -> None:
    with with_password(own_server):
        url = with_credentials(own_server.url, credentials)

        assert_explained(url, "rejects the user or the password in REDIS_URL", tmp_path, capsys)


def test_the_right_password_is_none_of_these(own_server: RedisServer) -> None:
    with with_password(own_server):
        opened = Store(with_credentials(own_server.url, f":{SECRET}"))
        opened.sync_clock()
        opened.close()


def test_a_database_that_there_is_not(own_server: RedisServer, tmp_path: Path, capsys: Capture) -> None:
    assert_explained(
        f"{own_server.url}?db=99", "does not have the database that REDIS_URL names", tmp_path, capsys
    )


def test_a_user_who_may_not_even_log_in(own_server: RedisServer, tmp_path: Path, capsys: Capture) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        client.acl_setuser("weak", enabled=True, passwords=[f"+{PASSWORD}"], commands=["-@all"])
    url = with_credentials(own_server.url, f"weak:{SECRET}")

    assert_explained(url + "?db=1", "does not permit its user a needed command", tmp_path, capsys)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            f"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' '{PASSWORD}'\r\n",
            "does not know the command HELLO: Redis 6.2, Valkey 7.2 or newer is needed",
        ),
        (
            f"-ERR unknown command `AUTH`, with args beginning with: `{PASSWORD}`, \r\n",
            "does not know the command AUTH: Redis 6.2, Valkey 7.2 or newer is needed",
        ),
        (replies(b"6.0.16"), "has version 6.0.16: Redis 6.2, Valkey 7.2 or newer is needed"),
        ("-MOVED 12 10.0.0.1:6379\r\n", "is a node of a Redis Cluster"),
        ("-MOVED\r\n", "does not answer like a Redis server: correct REDIS_URL"),
        ("-DENIED Redis is running in protected mode because\r\n", "(protected mode)"),
        ("-ERR out of order\r\n", "refuses the connection (out of order): check REDIS_URL"),
        ("-NOAUTH HELLO must be called with the client already authenticated\r\n", "requires a password"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "does not answer like a Redis server: correct REDIS_URL"),
        ("220 mail.example ESMTP\r\n", "does not answer like a Redis server: correct REDIS_URL"),
        ("\x15\x03\x03\x00\x02\x02\x46", "expects TLS: begin REDIS_URL with rediss://"),
        ("%1\r\n$5\r\nproto\r\n:3\r\n", "does not answer like a Redis server: correct REDIS_URL"),
    ],
)
def test_a_server_that_answers_something_else(
    answer: str | bytes, reason: str, tmp_path: Path, capsys: Capture
) -> None:
    given = answer if isinstance(answer, bytes) else answer.encode("latin-1")
    with answering(given) as place:
        assert_explained(f"redis://:{SECRET}@{place}/0", reason, tmp_path, capsys, f" {place} ")


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b":1\r\n",
        b"*0\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"-ERR \xff\xfe\r\n",
        b"%1\r\n\xff\xff\r\n",
    ],
)
def test_any_other_answer_is_no_traceback_either(answer: bytes, tmp_path: Path, capsys: Capture) -> None:
    with answering(answer) as place:
        assert_explained(f"redis://:{SECRET}@{place}/0", "REDIS_URL", tmp_path, capsys)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_a_host_that_cannot_be_one(host: str, tmp_path: Path, capsys: Capture) -> None:
    assert_explained(f"redis://:{SECRET}@{host}:6379/0", "REDIS_URL cannot be used", tmp_path, capsys)


def test_an_option_that_there_is_not(tmp_path: Path, capsys: Capture) -> None:
    assert_explained("redis://127.0.0.1:1/0?colour=red", "REDIS_URL cannot be used", tmp_path, capsys)


def test_an_option_with_a_wrong_value_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL cannot be used: Invalid value for 'db'"):
        Store("redis://127.0.0.1/?db=first")


def test_a_new_enough_server_is_not_refused() -> None:
    with answering(replies(b"6.2.0")) as place:
        opened = Store(f"redis://{place}/0")
        connection = opened.redis.connection_pool.get_connection()
        assert socket_of(connection) is not None
        opened.redis.connection_pool.release(connection)
        opened.close()


def test_the_commands_of_a_user_without_scripts_are_refused_in_one_line(
    own_server: RedisServer, app_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        commands = ["+@all", "-eval", "-evalsha"]
        client.acl_setuser(
            "reader", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], channels=["*"], commands=commands
        )
    monkeypatch.chdir(app_root)
    monkeypatch.setenv("REDIS_URL", with_credentials(own_server.url, f"reader:{SECRET}"))
    with command_line(capsys) as command:
        code, out, err = command("queues", "list")

    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("lastacross: Redis is not available: it does not permit its user a needed command")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (redis.AuthenticationError("Authentication required."), "requires a password"),
        (redis.InvalidResponse('Protocol error, got "H" as reply type byte'), "like a web server"),
        (
            redis.ResponseError(f"unknown command 'EVALSHA', with args beginning with: '{PASSWORD}'"),
            "does not know the command EVALSHA",
        ),
        (redis.exceptions.ClusterDownError("The cluster is down"), "The cluster is down"),
        (redis.exceptions.MovedError("12 127.0.0.1:99"), "is a node of a Redis Cluster"),
        (
            redis.ResponseError("Command # 1 (SET a b) of pipeline caused error: MISCONF no space"),
            "Redis does not accept writes",
        ),
    ],
)
def test_what_a_command_may_meet_later_is_explained_as_well(error: Exception, message: str) -> None:
    with pytest.raises(StoreUnavailableError, match=message) as raised, translated_errors():
        raise error

    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


def test_a_wrong_use_of_a_command_stays_what_it_is(configuration: config.Config) -> None:
    with pytest.raises(redis.ResponseError), translated_errors():
        raise redis.ResponseError("wrong number of arguments for 'set' command")
