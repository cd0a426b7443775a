"""redis-py is as we rely on it in these versions. Look at another one before you name it here."""

import select
from importlib.metadata import version

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lastacross.store import Store, socket_of
from lastacross.store.redis_compat import connection_class

# `make test-versions` runs these tests with the first and the last of each.
VERSIONS = ("7.0.0", "8.1.0")


def test_the_version_is_one_that_was_looked_at() -> None:
    assert version("redis") in VERSIONS


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "unix:///s"])
def test_our_connections_are_redis_pys_and_look_their_address_up_when_they_connect(url: str) -> None:
    found = connection_class(url)
    original = {"rediss": redis.SSLConnection, "unix": redis.UnixDomainSocketConnection}.get(
        url.partition(":")[0], redis.Connection
    )
    asked: list[str] = []

    def find() -> tuple[str, int]:
        asked.append("found")
        return "127.0.0.1", 1

    made = found(
        on_made=lambda connection: None, on_error=lambda error: None, find=find, retry=Retry(NoBackoff(), 1)
    )

    assert issubclass(found, original)
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            made.connect()
    # Each try asks again; redis-py 7.0 leaves a second one to whoever sends the command.
    assert len(asked) >= 2


def test_a_connections_socket_can_be_waited_for(test_store: Store) -> None:
    pool = test_store.redis.connection_pool
    connection = pool.get_connection()
    connected = socket_of(connection)
    assert connected is not None

    connection.send_command("PING")
    readable, _, _ = select.select([connected], [], [], 5)

    assert readable == [connected]
    assert connection.read_response() == b"PONG"
    connection.disconnect()
    assert socket_of(connection) is None
    connection.connect()
    assert socket_of(connection) not in (None, connected)
    pool.release(connection)
