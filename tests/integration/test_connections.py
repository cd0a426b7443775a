"""The connections on which scripts run: kept for the next one, given up when answers may be mixed up."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lastacross.errors import StoreUnavailableError
from lastacross.store import Store, connections
from lastacross.store.connections import Connections
from tests.support.redis_server import RedisServer, running_server


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    """A client of redis-py whose pool is to be used."""
    with redis.Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 2)) as opened:
        yield opened


@pytest.fixture
def kept(client: Any) -> Connections:
    """Connections of that pool."""
    return Connections(client.connection_pool)


def number(kept: Connections) -> int:
    """Redis's number of the connection that is used next."""
    return int(kept.call("CLIENT", "ID"))


def test_one_connection_serves_one_call_after_the_other(kept: Connections, client: Any) -> None:
    assert len({number(kept) for _ in range(3)}) == 1
    assert kept.call(b"ECHO", "Größe") == "Größe".encode()
    assert client.client_id() != number(kept)


def test_calls_at_one_time_have_a_connection_each(kept: Connections) -> None:
    begun, found = threading.Barrier(3), []

    def ask() -> None:
        begun.wait()
        kept.call("BLPOP", f"nothing:{threading.get_ident()}", 0.2)
        found.append(kept.call("ECHO", str(threading.get_ident())) == str(threading.get_ident()).encode())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 3


def test_an_error_of_the_server_is_raised_and_the_next_call_has_its_own_answer(kept: Connections) -> None:
    with pytest.raises(redis.ResponseError, match="unknown command"):
        kept.call("NONSENSE")
    assert kept.call("ECHO", "after") == b"after"


class Interrupted(BaseException):
    """What another thread raises in the middle of a call."""


def test_a_call_that_is_interrupted_before_its_answer_leaves_none_for_the_next(
    kept: Connections, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = number(kept)
    read = client.connection_pool.connection_class.read_response

    def interrupt(self: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(client.connection_pool.connection_class, "read_response", read)
        raise Interrupted

    monkeypatch.setattr(client.connection_pool.connection_class, "read_response", interrupt)
    with pytest.raises(Interrupted):
        kept.call("ECHO", "lost")
    assert kept.call("ECHO", "next") == b"next"
    assert number(kept) != before


def test_a_connection_that_the_server_has_closed_is_made_again(kept: Connections, client: Any) -> None:
    closed = number(kept)
    client.client_kill_filter(_id=str(closed))
    assert number(kept) != closed


def test_one_that_was_left_alone_is_looked_at_by_the_pool_first(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is sent on a connection that is known to be closed: without a retry, it would be an error.
    with redis.Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), 0)) as client:
        kept = Connections(client.connection_pool)
        closed = number(kept)
        client.client_kill_filter(_id=str(closed))
        monkeypatch.setattr(connections, "FRESH_SECONDS", 0.0)
        assert number(kept) != closed


def test_a_forked_child_has_connections_of_its_own(kept: Connections) -> None:
    parent = number(kept)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(number(kept)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        found = int(answer.read())
    assert found != parent
    assert number(kept) == parent


def test_a_pool_that_wants_a_connection_made_anew_gets_it_back(kept: Connections, client: Any) -> None:
    before = number(kept)
    kept._free[-1][0].mark_for_reconnect()
    assert number(kept) != before


@pytest.mark.slow
def test_a_store_finds_a_server_again_that_was_unavailable() -> None:
    with running_server() as server:
        store = Store(server.url)
        args = ("default_a-1", "default", "POST /a", "", "", "")
        assert store.run("add_task", (), args) == 0
        server.kill()
        with pytest.raises(StoreUnavailableError):
            store.run("add_task", (), args)
        server.start()
        assert store.run("add_task", (), args) in (0, 10)
        store.close()
