"""redis-py is as we rely on it in these versions. Look at another one before you name it here."""

import select
from importlib.metadata import version

from lastacross.store import Store, socket_of

# `make test-versions` runs these tests with the first and the last of each.
VERSIONS = ("7.0.0", "8.1.0")


def test_the_version_is_one_that_was_looked_at() -> None:
    assert version("redis") in VERSIONS


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
