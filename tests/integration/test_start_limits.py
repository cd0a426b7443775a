"""Limits on starts: counted in a real Redis, by network, and by each process alone while there is none."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lastacross import start_limits, store
from lastacross.errors import ConfigError
from lastacross.start_limits import Limiter
from lastacross.store import Store
from lastacross.webapp.environ import HAS_UNDECLARED_PROXY
from tests.support.clock import StoppedClock
from tests.support.redis_server import RedisServer, running_server


@pytest.fixture
def opened(redis_server: RedisServer) -> Iterator[Store]:
    """An empty store, in use for this test."""
    found = Store(redis_server.url)
    found.redis.flushall()
    store.use(found)
    yield found
    store.use(None)
    found.close()


def tries(number: int, address: str = "203.0.113.9", limit: str = "3/minute", **environ: Any) -> list[bool]:
    """Whether each of so many starts was admitted."""
    given = {"REMOTE_ADDR": address, **environ}
    return [start_limits.check("test", limit, given) is None for _ in range(number)]


@pytest.mark.usefixtures("opened")
def test_so_many_are_admitted_and_the_next_one_hears_how_long_to_wait() -> None:
    assert tries(4) == [True, True, True, False]

    seconds = start_limits.check("test", "3/minute", {"REMOTE_ADDR": "203.0.113.9"})
    assert seconds is not None
    assert 50 < seconds <= 60


@pytest.mark.usefixtures("opened")
def test_each_network_and_each_name_has_a_limit_of_its_own() -> None:
    tries(3, "2001:db8::1")

    assert tries(1, "2001:db8::2") == [False], "the same /64"
    assert tries(1, "2001:db8:0:1::1") == [True]
    assert tries(1, "203.0.113.9") == [True]
    assert start_limits.check("other", "3/minute", {"REMOTE_ADDR": "2001:db8::1"}) is None


@pytest.mark.usefixtures("opened")
def test_behind_an_undeclared_proxy_the_limit_holds_for_all_of_its_visitors() -> None:
    behind: dict[str, Any] = {HAS_UNDECLARED_PROXY: True}

    assert tries(4, "203.0.113.1", **behind) == [True, True, True, False]
    # A header that pretends to be a proxy gives its sender no second limit.
    assert tries(1, "203.0.113.1") == [False]
    assert tries(1, "203.0.113.2", **behind) == [True]


@pytest.mark.usefixtures("opened")
def test_of_several_limits_each_holds_and_one_that_refuses_uses_up_no_longer_one() -> None:
    assert tries(9, limit="4/day;3/minute") == [True] * 3 + [False] * 6
    # Under another name for the minute, one is left of the day.
    assert tries(2, limit="4/day") == [True, False]


@pytest.mark.usefixtures("opened")
def test_what_the_longer_limit_refuses_uses_up_no_shorter_one() -> None:
    def admitted(cost: int) -> bool:
        environ = {"REMOTE_ADDR": "203.0.113.9"}
        return start_limits.check("test", "24/minute;20/day", environ, cost=cost) is None

    assert [admitted(cost) for cost in (12, 12, 12, 8)] == [True, False, False, True]


@pytest.mark.usefixtures("opened")
def test_a_start_may_count_for_several_and_one_that_is_refused_counts_for_nothing() -> None:
    def admitted(cost: int) -> bool:
        environ = {"REMOTE_ADDR": "203.0.113.9"}
        return start_limits.check("test", "10/minute", environ, cost=cost) is None

    assert [admitted(cost) for cost in (6, 5, 3, 2, 1, 1)] == [True, False, True, False, True, False]


@pytest.mark.usefixtures("opened")
def test_who_is_exempt_is_not_counted() -> None:
    environ = {"REMOTE_ADDR": "203.0.113.9"}

    assert [start_limits.check("test", "3/minute", environ, is_exempt=True) for _ in range(9)] == [None] * 9
    assert tries(3) == [True] * 3


@pytest.mark.usefixtures("opened")
def test_to_ask_is_not_to_start() -> None:
    environ = {"REMOTE_ADDR": "203.0.113.9"}

    assert [start_limits.check("test", "3/minute", environ, is_counted=False) for _ in range(9)] == [None] * 9
    assert tries(4) == [True, True, True, False]
    seconds = start_limits.check("test", "3/minute", environ, is_counted=False)
    assert seconds is not None
    assert 50 < seconds <= 60


@pytest.mark.usefixtures("opened")
def test_an_amount_is_spent_until_it_would_be_too_much_and_counts_more_if_it_is_forced() -> None:
    def spend(amount: int, client: str = "203.0.113.9", *, is_forced: bool = False) -> bool:
        return start_limits.spend("bytes", client, amount, most=1_000, seconds=60, is_forced=is_forced)

    assert [spend(amount) for amount in (600, 500, 400, 1)] == [True, False, True, False]
    assert spend(1_000, "203.0.113.8")
    assert not spend(5_000, "203.0.113.7", is_forced=True)
    assert not spend(1, "203.0.113.7")


@pytest.mark.usefixtures("opened")
def test_refusals_are_counted_beside_the_starts_and_there_may_be_ten_times_as_many() -> None:
    environ = {"REMOTE_ADDR": "203.0.113.9"}
    refusals = [start_limits.check_refusals("test", "3/minute", environ) for _ in range(31)]

    assert (refusals[:30], refusals[30] is not None) == ([None] * 30, True)
    assert start_limits.check_refusals("test", "3/minute", environ, is_counted=False) is not None
    assert start_limits.check_refusals("test", "3/minute", environ, is_exempt=True) is None
    assert start_limits.check_refusals("test", "3/minute", {"REMOTE_ADDR": "203.0.113.8"}) is None
    assert tries(4) == [True, True, True, False]


def test_its_keys_have_our_prefix_and_go_when_the_time_is_over(opened: Store) -> None:
    tries(5)

    [key] = opened.redis.keys("*")
    assert str(key).startswith("b'lastacross:limit:")
    assert "203.0.113.9" in str(key)
    assert 0 < opened.redis.ttl(key) <= 60
    assert opened.redis.llen(key) == 3, "a refused start leaves nothing"


def test_threads_at_once_get_no_more_than_one(opened: Store) -> None:
    admitted: list[bool] = []
    barrier = threading.Barrier(12)

    def start() -> None:
        barrier.wait()
        admitted.extend(tries(2, limit="5/minute"))

    threads = [threading.Thread(target=start) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert admitted.count(True) == 5
    assert len(admitted) == 24


@pytest.mark.parametrize(
    "limit", ["", "many", "30", "0/minute", "-1/minute", "30/fortnight", "30/minute x", "3/minute;0/day"]
)
def test_a_limit_that_cannot_be_read_is_named(limit: str) -> None:
    with pytest.raises(ConfigError, match="start limit"):
        start_limits.rates_of(limit)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("30/minute", "30 times per minute"),
        ("1/hour", "once per hour"),
        ("100 per 2 hours", "100 times per 2 hours"),
        ("200/day;10/minute", "10 times per minute and 200 times per day"),
    ],
)
def test_a_limit_is_said_in_words(limit: str, words: str) -> None:
    assert start_limits.in_words(limit) == words


def test_while_redis_is_unavailable_a_process_counts_by_itself_and_asks_again_later() -> None:
    clock = StoppedClock()
    [rate] = start_limits.rates_of("2/minute")
    with running_server() as server:
        opened = Store(server.url)
        limiter = Limiter(opened, clock)
        server.stop()

        assert [limiter.check(rate, "test", "client") is None for _ in range(3)] == [True, True, False]

        server.start()
        assert limiter.check(rate, "test", "client") is not None, "Redis is left alone for a while"
        clock.advance(start_limits.OUTAGE_SECONDS)
        assert limiter.check(rate, "test", "client") is None
        assert opened.redis.keys("lastacross:limit:*") != []
        opened.close()
