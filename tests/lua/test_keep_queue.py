"""keep_queue.lua: a queue of the engine's own, which no upload of queue.yaml disables."""

from structlog.testing import capture_logs

from lastacross.broker import queue_directory
from lastacross.broker.steps import Broker
from lastacross.config import Config
from lastacross.store import QUEUE_NAMES, UPLOAD, Store, settings_key
from tests.support.uploads import FIELDS, upload

OWN = "lastacross-cron"


def test_a_kept_queue_has_its_settings_and_says_once_that_it_is_new(test_store: Store) -> None:
    upload(test_store)
    version = int(test_store.redis.hget(UPLOAD, "version") or 0)

    answers = [Broker(test_store).keep_queue(OWN, FIELDS) for _ in range(2)]

    assert answers == [True, False]
    assert test_store.redis.sismember(QUEUE_NAMES, OWN)
    kept = test_store.redis.hgetall(settings_key(OWN))
    assert (kept[b"rate"], kept[b"is_disabled"], kept[b"group"]) == (b"500.0", b"0", b"default")
    assert int(test_store.redis.hget(UPLOAD, "version") or 0) > version


def test_an_upload_that_does_not_list_it_leaves_it_alone(test_store: Store) -> None:
    upload(test_store, ("default", "other"))
    Broker(test_store).keep_queue(OWN, FIELDS)

    upload(test_store, ("default",), digest="another")

    assert test_store.redis.hget(settings_key(OWN), "is_disabled") == b"0"
    assert test_store.redis.hget(settings_key("other"), "is_disabled") == b"1"


def test_an_empty_redis_still_looks_as_if_nothing_was_uploaded(test_store: Store) -> None:
    assert Broker(test_store).keep_queue(OWN, FIELDS)

    assert test_store.redis.exists(settings_key(OWN))
    assert not test_store.redis.exists(UPLOAD)


def test_the_queue_of_cron_is_made_once(configuration: Config, test_store: Store) -> None:
    with capture_logs() as events:
        queue_directory.keep_cron_queue(test_store, configuration)
        test_store.redis.hset(settings_key(OWN), "rate", "7.0")
        queue_directory.keep_cron_queue(test_store, configuration)

    assert test_store.redis.hget(settings_key(OWN), "rate") == b"7.0"
    assert [(event["event"], event["queue"]) for event in events] == [("queues.keep", OWN)]
