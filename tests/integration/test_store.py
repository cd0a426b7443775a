"""The store: Redis's time, and the error when Redis is unavailable."""

import time

import pytest
import redis

from lastacross.errors import StoreUnavailableError
from lastacross.store import SYNC_SECONDS, Store, translated_errors
from tests.support.redis_server import RedisServer, running_server


def test_the_time_is_the_servers_and_is_asked_for_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(redis_server.url)
    asked: list[float] = []
    sync = store.sync_clock

    def ask() -> None:
        asked.append(1)
        sync()

    monkeypatch.setattr(store, "sync_clock", ask)

    assert abs(store.now() - time.time()) < 1
    store.now()
    assert len(asked) == 1

    monkeypatch.setattr(store, "_sync_at", store.clock.monotonic() - SYNC_SECONDS)
    store.now()
    assert len(asked) == 2
    store.close()


@pytest.mark.slow
def test_a_clock_that_was_set_goes_on_without_the_server_and_one_that_was_not_says_so() -> None:
    with running_server() as server:
        store, late = Store(server.url), Store(server.url)
        store.now()
        server.kill()
        store._sync_at = 0.0
        assert abs(store.now() - time.time()) < 1
        with pytest.raises(StoreUnavailableError):
            late.now()
        store.close()
        late.close()


@pytest.mark.parametrize(
    "answer",
    [
        redis.ConnectionError("refused"),
        redis.TimeoutError("no answer"),
        redis.ReadOnlyError("You can't write against a read only replica."),
        redis.OutOfMemoryError("command not allowed"),
        redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
        redis.ResponseError("BUSY Redis is busy running a script"),
        redis.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
    ],
)
def test_a_redis_that_is_unavailable_or_takes_no_writes_is_one_error(answer: Exception) -> None:
    with pytest.raises(StoreUnavailableError), translated_errors():
        raise answer


def test_a_mistake_of_ours_stays_what_it_is() -> None:
    with pytest.raises(redis.ResponseError), translated_errors():
        raise redis.ResponseError("ERR unknown command")
