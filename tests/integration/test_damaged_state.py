"""Damaged settings, lists, batches, values and channels: each reader goes on, and says so once."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lastacross import channel, config, memcache, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.broker.listing import Listing
from lastacross.broker.record import Leased
from lastacross.broker.steps import Broker
from lastacross.channel import tokens, web
from lastacross.channel.event_stream import Limits
from lastacross.config import Config
from lastacross.errors import BadSignatureError, UnknownBatchError
from lastacross.memcache import cache
from lastacross.signing import Signatures
from lastacross.store import Store
from lastacross.worker.delivery import Outcome
from lastacross.worker.maintenance import Maintenance, Orphans
from lastacross.worker.outcomes import OutcomeRecorder
from lastacross.worker.runners import Runners
from tests.support.browser import request
from tests.support.clock import StoppedClock
from tests.support.damage import BAD_VALUES, MISSING, flip, write_over
from tests.support.processes import wait_until
from tests.support.scripts import Scripts

bad_values = pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)


# --- settings of queues -----------------------------------------------------------------------


@pytest.fixture
def uploaded(test_store: Store, configuration: Config) -> Store:
    queue_directory.upload(test_store, configuration)
    return test_store


def mended_by_a_worker(opened: Store, clock: StoppedClock) -> list[str]:
    """The events that a worker's maintenance logs; then the queue "default" is as queue.yaml says."""
    with capture_logs() as logged:
        maintenance = Maintenance(Broker(opened), ["default"], clock)
        for _ in range(2):
            queue_directory.of(opened).refresh(is_urgent=True)
            maintenance.run_due()
            clock.advance(6)
    found: dict[bytes, bytes] = opened.redis.hgetall(store.settings_key("default"))  # type: ignore[assignment]
    assert (found[b"rate"], found[b"mode"], found[b"group"]) == (b"500.0", b"push", b"default")
    assert queue_directory.of(opened).damaged == {}
    return [entry["event"] for entry in logged]


SETTINGS = (
    "mode",
    "rate",
    "bucket_size",
    "max_concurrent",
    "retry",
    "dead_letter_seconds",
    "group",
    "is_disabled",
)


@bad_values
@pytest.mark.parametrize("field", SETTINGS)
def test_damaged_settings_of_a_queue_are_uploaded_anew_and_meanwhile_the_file_stands_in(
    uploaded: Store, clock: StoppedClock, field: str, value: object
) -> None:
    flip(uploaded.redis, store.settings_key("default"), field, value)
    fresh = queue_directory.QueueDirectory(uploaded)

    queue = fresh.find("default")

    assert queue is not None
    assert (queue.mode, queue.group) == ("push", "default")
    if value is not MISSING and (field, value) != ("max_concurrent", b"") and value != b"":
        assert "queues.damaged" in damage_logged(uploaded, clock, fresh)


def damage_logged(opened: Store, clock: StoppedClock, fresh: queue_directory.QueueDirectory) -> list[str]:
    queue_directory._of_store[opened] = fresh
    queue_directory._last = None
    return mended_by_a_worker(opened, clock)


@pytest.mark.parametrize(
    "key", [store.UPLOAD, store.QUEUE_NAMES, store.SERVICES, store.settings_key("default")]
)
def test_settings_of_the_wrong_type_are_moved_aside_and_uploaded_anew(
    uploaded: Store, clock: StoppedClock, key: str
) -> None:
    write_over(uploaded.redis, key)
    fresh = queue_directory.QueueDirectory(uploaded)

    assert fresh.find("default") is not None

    damage_logged(uploaded, clock, fresh)
    assert uploaded.redis.exists(store.ASIDE_PREFIX + key) == 1


def test_a_queue_that_no_file_lists_is_only_forgotten(uploaded: Store, clock: StoppedClock) -> None:
    uploaded.redis.sadd(store.QUEUE_NAMES, "old", b"\xff")
    uploaded.redis.hset(store.settings_key("old"), mapping={"rate": "x", "mode": "push"})
    fresh = queue_directory.QueueDirectory(uploaded)
    found = fresh.find("old")
    assert found is not None
    assert found.is_disabled

    damage_logged(uploaded, clock, fresh)

    assert uploaded.redis.hget(store.settings_key("old"), "is_disabled") == b"1"


# --- lists and registries ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ready", "scheduled", "leased"])
def test_the_tasks_of_a_list_that_was_written_over_are_found_again(
    scripts: Scripts, uploaded: Store, clock: StoppedClock, kind: str
) -> None:
    scripts.add("default_a", countdown=5 if kind == "scheduled" else None)
    if kind == "leased":
        scripts.lease()
    keys = {"ready": store.ready_key, "scheduled": store.scheduled_key, "leased": store.leased_key}
    write_over(scripts.redis, keys[kind]("default"))
    maintenance = Maintenance(Broker(uploaded), ["default"], clock)

    found: list[str] = []
    for _ in range(6):
        maintenance.run_due()
        leases = scripts.lease()
        found += [task for task, _ in leases]
        scripts.ack(*leases)
        clock.advance(6)

    assert found == ["default_a"]


def test_names_that_are_no_text_end_no_search_for_orphans(scripts: Scripts, uploaded: Store) -> None:
    for place in ("rq:workers", "rq:queues"):
        scripts.redis.sadd(place, b"\xff\xfe")
    scripts.redis.hset(b"rq:job:default_\xff", mapping={"status": "queued", "eta": "1"})
    scripts.redis.set("rq:job:default_text", "x")
    scripts.add("default_a")
    scripts.redis.delete(store.ready_key("default"))
    orphans = Orphans(Broker(uploaded))

    assert orphans.restore(["default"]) == []
    assert "default_a" in orphans.restore(["default"])


# --- the parts of a worker ----------------------------------------------------------------------


def leased(name: str, **fields: bytes) -> Leased:
    known_fields = {b"description": b"POST /", b"eta": b"1", b"first_try_at": b"1"}
    return Leased(f"default_{name}", f"w.{name}", known_fields | {k.encode(): v for k, v in fields.items()})


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_no_error_of_a_delivery_ends_a_runner(error: BaseException) -> None:
    has_outcome = threading.Event()

    def deliver(task: Leased) -> Outcome:
        if task.name == "bad":
            raise error
        return Outcome(task, 200)

    runners = Runners(
        1, deliver, deliver_suspect=deliver, suspect_lanes=1, table=None, on_outcome=has_outcome.set
    )
    runners.start()
    runners.put([leased("bad"), leased("bad", suspect=b"1"), leased("good"), leased("good", suspect=b"1")])
    outcomes: list[Outcome] = []

    def have_all_ended() -> bool:
        outcomes.extend(runners.take_outcomes(9))
        return len(outcomes) == 4

    wait_until(have_all_ended, 10)

    assert sorted((outcome.task.name, outcome.status) for outcome in outcomes) == [
        *[("bad", 500)] * 2,
        *[("good", 200)] * 2,
    ]
    assert runners.ended_threads() == []
    runners.stop()


def test_an_outcome_that_cannot_be_settled_keeps_the_others_from_nothing(scripts: Scripts) -> None:
    scripts.add("default_a", "default_b")
    held = {task: Leased(task, lease, leased("x").fields) for task, lease in scripts.lease()}
    odd = Leased("no-underscore", "w.9", {})
    recorder = OutcomeRecorder(Broker(scripts.store), lambda _: None)

    with capture_logs() as logged:
        recorder.record([Outcome(held["default_a"], 200), Outcome(odd, 200), Outcome(odd, 500)])
        recorder.record([Outcome(held["default_b"], 200)])

    assert [scripts.state(task) for task in held] == ["gone", "gone"]
    assert [entry["task"] for entry in logged if entry["event"] == "task.settle_failed"] == ["", ""]


# --- listings -----------------------------------------------------------------------------------


@bad_values
@pytest.mark.parametrize("field", ["status", "eta", "failures", "lost", "headers", "dead_at", "description"])
def test_a_damaged_task_is_listed_and_shown_or_left_out_and_the_others_are_there(
    scripts: Scripts, uploaded: Store, field: str, value: object
) -> None:
    scripts.add("default_a", "default_b")
    scripts.redis.rpush(store.ready_key("default"), b"default_\xff")
    scripts.redis.set("rq:job:default_text", "x")
    scripts.redis.rpush(store.ready_key("default"), "default_text")
    flip(scripts.redis, store.record_key("default_a"), field, value)

    names = [task.name for task in Listing(uploaded).tasks("default")]
    found = Listing(uploaded).find("default", "a")

    assert "b" in names
    assert Listing(uploaded).find("default", "text") is None
    is_hidden = value is MISSING and field in ("status", "eta")
    assert (found is None) == is_hidden


@bad_values
@pytest.mark.parametrize("field", ["total", "done", "created_at", "finished_at", "queue", "sealed"])
def test_the_progress_of_a_damaged_batch_can_be_read(scripts: Scripts, field: str, value: object) -> None:
    scripts.sealed_batch("b", 2)
    flip(scripts.redis, store.batch_key("b"), field, value)
    try:
        progress = taskqueue.Batch.get("b").progress()
    except UnknownBatchError:
        assert field == "queue"
    else:
        assert progress.done == 0


# --- pull queues --------------------------------------------------------------------------------


@pytest.fixture
def pulled(test_store: Store, configuration: Config, app_root: Path) -> taskqueue.Queue:
    queue = app_root / "queue.yaml"
    queue.write_text(queue.read_text() + "- name: pulled\n  mode: pull\n")
    changed = config.load(app_root, {**ENVIRON, "REDIS_URL": test_store.url})
    config.use(changed)
    queue_directory.upload(test_store, changed)
    return taskqueue.Queue("pulled")


ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough", "DATABASE_URL": "sqlite:////tmp/unused.db"}
PULL_FIELDS = ("eta", "body", "tag", "leases", "retry", "tombstone", "request", "status", "description")


@bad_values
@pytest.mark.parametrize("field", PULL_FIELDS)
def test_a_damaged_pull_task_is_leased_or_dead_and_the_one_behind_it_leased(
    pulled: taskqueue.Queue, test_store: Store, clock: StoppedClock, field: str, value: object
) -> None:
    for name in ("a", "b"):
        pulled.add(taskqueue.Task("body", name=name, method="PULL", tag="t"))
        clock.advance(1)
    flip(test_store.redis, "rq:job:pulled_a", field, value)

    names = [task.name for task in pulled.lease_tasks(60, 10)]

    dead = test_store.redis.zscore(store.dead_key("pulled"), "pulled_a") is not None
    assert names == (["b"] if dead else ["a", "b"])
    if dead:
        error: Any = test_store.redis.hget("rq:job:pulled_a", "error")
        assert error.startswith(b"damaged: ")
    must_die = {"leases": value is not MISSING, "retry": value not in (MISSING, b""), "eta": value is MISSING}
    assert dead or not must_die.get(field, False)
    assert pulled.lease_tasks(60, 10) == []


def test_a_pull_record_of_the_wrong_type_is_dead(pulled: taskqueue.Queue, test_store: Store) -> None:
    pulled.add(taskqueue.Task("body", name="a", method="PULL", countdown=-9))
    write_over(test_store.redis, "rq:job:pulled_a")

    assert pulled.lease_tasks(60, 10) == []

    assert test_store.redis.hget("rq:job:pulled_a", "status") == b"failed"


# --- memcache -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["b", "u", "i", "t", "p", "L", "Z"])
@pytest.mark.parametrize("payload", [b"", b"x", b"-1", b"1e400", b"\0", b"\xff\xfe", b"9" * 5000])
def test_a_damaged_value_of_the_cache_is_one_that_can_be_read_or_none(
    test_store: Store, kind: str, payload: bytes
) -> None:
    memcache.set("good", 1)
    memcache.set("bad", 1)
    redis: Any = test_store.redis
    [key] = redis.keys("lastacross:cache:*:bad")
    head, _, _ = redis.get(key).partition(b"\n")
    redis.set(key, kind.encode() + head[1:] + b"\n" + payload)

    assert memcache.get("good") == 1
    assert set(memcache.get_multi(["good", "bad"])) >= {"good"}
    assert kind not in ("p", "Z") or memcache.get("bad") is None
    assert memcache.get_stats() is not None


@pytest.mark.parametrize("head", [b"", b"b", b"b x y z", b"b " + b"9" * 400 + b" 1 a", b"\xff\xfe 1 1 a"])
def test_an_entry_without_a_head_is_none(test_store: Store, head: bytes) -> None:
    memcache.set("bad", 1)
    redis: Any = test_store.redis
    [key] = redis.keys("lastacross:cache:*:bad")
    redis.set(key, head + b"\nvalue")

    assert memcache.get("bad") is None
    assert cache.survey()["items"] in (0, 1)
    assert memcache.add("bad", 2) or head.startswith(b"b 9")


@pytest.mark.parametrize("key", [store.CACHE_GENERATION, store.CACHE_STATISTICS, "lastacross:cache:0::a"])
def test_keys_of_the_cache_of_the_wrong_type_are_as_if_not_there(test_store: Store, key: str) -> None:
    test_store.redis.rpush(key, "another program's")

    assert memcache.get("a") is None
    assert memcache.set("a", 1)
    assert memcache.get("a") == 1
    assert memcache.get_stats() is not None


# --- channels -----------------------------------------------------------------------------------


@pytest.fixture
def streams(test_store: Store) -> Iterator[web.Streams]:
    opened = web.Streams(Limits(heartbeat_seconds=0.05, check_seconds=0.02))
    yield opened
    for mailbox in opened.reader.mailboxes():
        mailbox.abandon()
    opened.reader.join(10)


def test_a_channel_of_the_wrong_type_does_not_silence_the_others(
    streams: web.Streams, test_store: Store
) -> None:
    tokens_ = {name: channel.create_channel(name) for name in ("bad", "good")}
    answers = {name: request(streams, token=token) for name, token in tokens_.items()}
    write_over(test_store.redis, store.channel_key("bad"))

    channel.send_message("good", "after")

    assert [event.data for event in answers["good"].read(1)] == ["after"]
    assert streams.reader.is_running
    wait_until(lambda: test_store.redis.exists(store.ASIDE_PREFIX + store.channel_key("bad")), 10)
    channel.send_message("bad", "again")
    for answer in answers.values():
        answer.close()


def test_a_channel_that_was_written_over_can_be_opened_anew(streams: web.Streams, test_store: Store) -> None:
    test_store.redis.set(store.channel_key("bad"), "another program's")

    answer = request(streams, token=channel.create_channel("bad"))
    channel.send_message("bad", "after")

    assert [event.data for event in answer.read(1)] == ["after"]
    answer.close()


def test_nor_does_the_wakeup_stream_of_the_reader(streams: web.Streams, test_store: Store) -> None:
    first = request(streams, token=channel.create_channel("first"))
    test_store.redis.set(streams.reader._wakeup_key, "another program's")

    second = request(streams, token=channel.create_channel("second"))
    channel.send_message("second", "after")

    assert [event.data for event in second.read(1)] == ["after"]
    first.close()
    second.close()


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xff\r\n", b"", b"\0"])
def test_a_message_that_is_no_text_does_not_silence_the_others(
    streams: web.Streams, test_store: Store, text: bytes
) -> None:
    answer = request(streams, token=channel.create_channel("a"))
    test_store.redis.xadd(store.channel_key("a"), {"m": text})
    test_store.redis.xadd(store.channel_key("a"), {"other": "field"})

    channel.send_message("a", "after")

    events = answer.read(3)
    assert events[-1].data == "after"
    answer.close()


@pytest.mark.parametrize(
    "content", [None, 1, "x", [], ["a"], ["a", 1, 2], ["a", "x", "0-0"], ["a", 9e9, "x"], {}]
)
def test_a_signed_token_of_another_form_is_refused(test_store: Store, content: object) -> None:
    signed = Signatures(config.current().settings.secret_key).dump_token("channel", content)

    with pytest.raises(BadSignatureError):
        tokens.read_token(signed)


def test_what_is_told_of_damages_is_bounded(scripts: Scripts) -> None:
    for number in range(1100):
        scripts.redis.rpush(store.DAMAGES, json.dumps(number))
    write_over(scripts.redis, "rq:job:default_a")
    scripts.redis.rpush(store.ready_key("default"), "default_a")
    scripts.lease()

    assert scripts.redis.llen(store.DAMAGES) == 1000
    write_over(scripts.redis, store.DAMAGES)
    assert scripts.store.take_damages() == []
    assert len(scripts.store.take_damages()) == 1
