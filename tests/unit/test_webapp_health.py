"""Alive, and ready."""

import threading
from pathlib import Path
from typing import Any

import pytest
from webob import Request

from lastacross import config, store
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from lastacross.webapp import health
from tests.conftest import SECRET_KEY
from tests.support import administrator


@pytest.fixture(autouse=True)
def _in_use(configuration: config.Config) -> None:
    """It says who is the administrator."""


def ask(application: Any, **environ: str) -> Any:
    """One probe."""
    return Request.blank("/_ah/ready", environ=environ).get_response(application)


def passing() -> None:
    """A check that finds nothing wrong."""


def failing() -> None:
    """A check that does."""
    raise RuntimeError("Redis is not available: connection refused")


def test_alive_asks_nobody() -> None:
    """200 and JSON."""
    answer = ask(health.live)
    assert (answer.status_int, answer.json) == (200, {"status": "ok"})


def test_ready_when_every_check_passes() -> None:
    """None at all counts as well."""
    assert ask(health.readiness({"redis": passing, "datastore": passing})).json == {"status": "ready"}
    assert ask(health.readiness({})).status_int == 200


def test_not_ready_is_503_and_the_administrator_is_told_each_reason() -> None:
    """They name what is behind the site."""
    ready = health.readiness({"redis": failing, "datastore": passing})
    answer = ask(ready, **administrator.environ(SECRET_KEY))
    assert answer.status_int == 503
    assert answer.json["reasons"] == {"redis": "Redis is not available: connection refused"}
    assert "Retry-After" in answer.headers


@pytest.mark.parametrize("address", ["203.0.113.9", "127.0.0.1"])
def test_anybody_else_is_told_that_it_is_not_ready(address: str) -> None:
    answer = ask(health.readiness({"redis": failing}), REMOTE_ADDR=address)
    assert (answer.status_int, answer.json) == (503, {"status": "not ready"})
    assert "Retry-After" in answer.headers


def test_a_check_that_hangs_is_not_ready_and_is_not_started_again() -> None:
    """Or each probe would leave a thread behind."""
    release, started = threading.Event(), []

    def hanging() -> None:
        started.append(1)
        release.wait(10)

    ready = health.readiness({"redis": hanging}, limit_seconds=0.01)
    try:
        for _ in range(3):
            answer = ask(ready, **administrator.environ(SECRET_KEY))
            assert (answer.status_int, answer.json["reasons"]) == (503, {"redis": "does not answer in time"})
        assert len(started) == 1
    finally:
        release.set()


def test_a_part_that_came_back_is_ready_again() -> None:
    """Nothing is remembered."""
    problems = [RuntimeError("away")]

    def once() -> None:
        if problems:
            raise problems.pop()

    ready = health.readiness({"redis": once})
    assert [ask(ready).status_int, ask(ready).status_int] == [503, 200]


def test_the_store_is_asked_with_a_ping(test_store: Store) -> None:
    test_store.redis.config_resetstat()

    health.check_store()

    commands: Any = test_store.redis.info("commandstats")
    assert commands["cmdstat_ping"]["calls"] == 1


def test_a_store_that_does_not_answer_is_not_ready(test_store: Store, tmp_path: Path) -> None:
    unavailable = Store(f"unix://{tmp_path}/nobody", test_store.clock)
    store.use(unavailable)

    with pytest.raises(StoreUnavailableError):
        health.check_store()

    unavailable.close()
