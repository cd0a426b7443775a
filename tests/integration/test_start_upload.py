"""Uploading queue.yaml at a start, while Redis is unavailable and when it comes, with a stopped clock."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from lastacross import config
from lastacross.broker import queue_directory
from lastacross.config import Config
from lastacross.processes.start_upload import PATIENCE_SECONDS, StartUpload
from lastacross.store import settings_key
from tests.conftest import SECRET_KEY
from tests.support.clock import StoppedClock
from tests.support.redis_server import RedisServer, running_server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test's own, which it may stop."""
    with running_server() as running:
        yield running


@pytest.fixture
def loaded(server: RedisServer, app_root: Path) -> Config:
    """The configuration of an application on that Redis."""
    (app_root / "queue.yaml").write_text("queue:\n- name: own\n  rate: 7/s\n")
    return config.load(app_root, {"REDIS_URL": server.url, "SECRET_KEY": SECRET_KEY})


def is_uploaded(server: RedisServer) -> bool:
    """Whether the queue's settings are in Redis."""
    with redis.Redis.from_url(server.url) as client:
        return bool(client.exists(settings_key("own")))


def test_it_is_done_once(server: RedisServer, loaded: Config, clock: StoppedClock) -> None:
    upload = StartUpload(loaded, clock)
    assert upload.try_once()
    with redis.Redis.from_url(server.url) as client:
        client.flushall()

    clock.advance(100)

    assert upload.try_once()
    assert not is_uploaded(server)


def test_it_pauses_while_redis_is_unavailable_and_is_done_when_it_is_back(
    server: RedisServer, loaded: Config, clock: StoppedClock
) -> None:
    server.stop()
    upload = StartUpload(loaded, clock)
    with capture_logs() as logged:
        assert not upload.try_once()
        server.start()
        assert not upload.try_once()
        clock.advance(1)
        assert upload.try_once()

    assert is_uploaded(server)
    assert [entry["event"] for entry in logged if entry["event"].endswith((".pause", ".resume"))] == [
        "queues.pause",
        "queues.resume",
    ]


def test_a_missing_right_is_logged_and_tried_again(
    server: RedisServer, loaded: Config, clock: StoppedClock
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.acl_setuser("default", enabled=True, nopass=True, commands=["-evalsha", "-eval"])
        upload = StartUpload(loaded, clock)
        with capture_logs() as logged:
            assert not upload.try_once()
        client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"])
        clock.advance(10)

        assert upload.try_once()

    [line] = logged
    assert (line["event"], line["log_level"]) == ("queues.pause", "warning")
    assert "does not permit its user" in line["error"]
    assert is_uploaded(server)


def test_what_else_goes_wrong_is_logged_and_tried_again(
    server: RedisServer, loaded: Config, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = StartUpload(loaded, clock)
    with monkeypatch.context() as patched, capture_logs() as logged:
        patched.setattr(queue_directory, "upload_if_missing", lambda *_: 1 / 0)
        assert not upload.try_once()
    clock.advance(10)

    assert upload.try_once()

    [line] = logged
    assert (line["event"], line["log_level"], line["exc_info"]) == ("queues.failed", "error", True)
    assert is_uploaded(server)


def test_a_redis_that_is_silent_holds_nobody_up_for_long(
    server: RedisServer, loaded: Config, clock: StoppedClock
) -> None:
    upload = StartUpload(loaded, clock)
    with server.frozen():
        began_at = time.monotonic()
        assert not upload.try_once()
        seconds = time.monotonic() - began_at
    assert PATIENCE_SECONDS / 2 < seconds < 60
