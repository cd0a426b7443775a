"""Refused deliveries are counted in a real Redis, without letting a stranger make Redis busy."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import store
from lastacross.clock import SYSTEM
from lastacross.signing import Signatures
from lastacross.store import Store, refused_deliveries_key
from lastacross.webapp import deliveries, refused_in_last_hour
from lastacross.webapp.deliveries import Claims
from lastacross.webapp.refused_deliveries import OUTAGE_SECONDS, WRITE_SECONDS, RefusedDeliveries
from tests.support import web
from tests.support.clock import StoppedClock
from tests.support.redis_server import unavailable_store

MAIN = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'ran']\n"


def minutes(opened: Store) -> dict[int, int]:
    """All numbers in Redis by their minute since the epoch."""
    found: dict[int, int] = {}
    for key in opened.redis.scan_iter(refused_deliveries_key(0)[:-1] + "*"):
        hour = int(key.rpartition(b":")[2])
        fields: Any = opened.redis.hgetall(key)
        found |= {60 * hour + int(field): int(number) for field, number in fields.items()}
    return found


# --- what is refused ----------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, test_store: Store) -> Iterator[web.Site]:
    """A service."""
    with web.site(tmp_path, MAIN) as running:
        yield running


def token(path: str = "/mail", body: bytes = b"", age_seconds: float = 0.0) -> str:
    """A worker's token for a POST."""
    claims = Claims(
        *("mail_t", "w.1", 0, 0, None, "", "POST"),
        url=deliveries.url_digest(path, ""),
        headers=deliveries.headers_digest({}),
        body=deliveries.body_digest(body),
        signed_at=SYSTEM.now() - age_seconds,
    )
    return deliveries.dump_claims(Signatures(web.SECRET_KEY), claims)


@pytest.mark.parametrize("reason", ["token", "time", "url", "body"])
def test_a_refused_delivery_is_counted_whatever_its_reason(
    site: web.Site, test_store: Store, reason: str
) -> None:
    signed = {
        "token": "x",
        "time": token(age_seconds=400),
        "url": token("/other"),
        "body": token(body=b"another"),
    }[reason]

    assert site.post("/mail", HTTP_X_LASTACROSS_DELIVERY=signed).status_int == 403
    assert refused_in_last_hour(test_store) == 1


def test_an_accepted_delivery_and_other_requests_are_not_counted(site: web.Site, test_store: Store) -> None:
    assert site.post("/mail", HTTP_X_LASTACROSS_DELIVERY=token()).status_int == 200
    assert site.get("/mail").status_int == 200
    assert refused_in_last_hour(test_store) == 0


# --- how it is counted ---------------------------------------------------------------------


def test_a_flood_is_written_once_a_second(test_store: Store, clock: StoppedClock) -> None:
    refused = RefusedDeliveries(clock)
    for _ in range(100):
        refused.count()
    assert refused_in_last_hour(test_store) == 1

    clock.advance(WRITE_SECONDS)
    for _ in range(100):
        refused.count()
    assert refused_in_last_hour(test_store) == 101


def test_each_refusal_is_counted_in_its_own_minute_for_an_hour(
    test_store: Store, clock: StoppedClock
) -> None:
    refused = RefusedDeliveries(clock)
    began = int(clock.now() // 60)
    refused.count()
    refused.count()
    clock.advance(59 * 60)
    refused.count()

    assert minutes(test_store) == {began: 2, began + 59: 1}
    assert refused_in_last_hour(test_store) == 3
    clock.advance(60)
    assert refused_in_last_hour(test_store) == 1
    clock.advance(59 * 60)
    assert refused_in_last_hour(test_store) == 0


def test_a_refusal_that_waits_for_over_an_hour_is_forgotten(test_store: Store, clock: StoppedClock) -> None:
    refused = RefusedDeliveries(clock)
    began = int(clock.now() // 60)
    refused.count()
    refused.count()
    clock.advance(61 * 60)
    refused.count()

    assert minutes(test_store) == {began: 1, began + 61: 1}


def test_the_counts_are_gone_after_a_day(test_store: Store, clock: StoppedClock) -> None:
    RefusedDeliveries(clock).count()

    key = refused_deliveries_key(int(clock.now() // 3600))
    assert 86_390 < test_store.redis.ttl(key) <= 86_400


def test_processes_are_counted_together(test_store: Store, clock: StoppedClock) -> None:
    RefusedDeliveries(clock).count()
    RefusedDeliveries(clock).count()

    assert refused_in_last_hour(test_store) == 2


def test_an_outage_raises_nothing_and_is_tried_again_after_a_pause(
    test_store: Store, clock: StoppedClock, tmp_path: Path
) -> None:
    refused = RefusedDeliveries(clock)
    store.use(unavailable_store(tmp_path, clock))
    refused.count()
    store.use(test_store)

    clock.advance(OUTAGE_SECONDS - 1)
    refused.count()
    assert refused_in_last_hour(test_store) == 0
    clock.advance(1)
    refused.count()
    assert refused_in_last_hour(test_store) == 3


def test_a_key_of_another_type_raises_nothing(test_store: Store, clock: StoppedClock) -> None:
    test_store.redis.set(refused_deliveries_key(int(clock.now() // 3600)), "a text")

    RefusedDeliveries(clock).count()
    assert refused_in_last_hour(test_store) == 0


def test_only_one_thread_waits_for_a_slow_redis(test_store: Store, clock: StoppedClock) -> None:
    refused = RefusedDeliveries(clock)
    test_store.redis.execute_command("CLIENT", "PAUSE", 300, "ALL")
    first = threading.Thread(target=refused.count)
    first.start()
    while refused._write_at < float("inf"):
        assert first.is_alive()
    clock.advance(5)

    refused.count()
    assert first.is_alive(), "the second call has waited"
    first.join()
    assert refused_in_last_hour(test_store) == 1
