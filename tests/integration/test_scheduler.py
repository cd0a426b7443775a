"""What the scheduler does at each tick, with a real Redis and a stopped clock."""

import dataclasses
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lastacross import config, datastore, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.config import CRON_QUEUE, Config
from lastacross.cronruns import ticking
from lastacross.datastore import outbox
from lastacross.errors import DatastoreUnavailableError, StoreUnavailableError
from lastacross.processes import scheduler
from lastacross.processes.scheduler import CronFile, QueueUpload
from lastacross.processes.step import Step
from lastacross.store import Store
from tests.support.clock import StoppedClock

ENVIRON = {"SECRET_KEY": "a secret key of the tests, long enough"}


class Away:
    """A step's act that fails until it is told otherwise.

    Args:
        error: what it raises; None for nothing.
    """

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.calls: list[float] = []

    def __call__(self, now: float) -> None:
        """Note the call."""
        self.calls.append(now)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), DatastoreUnavailableError("away")])
def test_a_step_whose_service_is_unavailable_pauses_longer_and_longer_and_goes_on(
    clock: StoppedClock, error: Exception
) -> None:
    away = Away(error)
    step = Step("outbox", away)
    began = clock.monotonic()

    instants = []
    for _ in range(60):
        before = len(away.calls)
        scheduler.tick([step], clock)
        if len(away.calls) > before:
            instants.append(clock.monotonic() - began)
        clock.advance(1)
    away.error = None
    clock.advance(10)
    scheduler.tick([step], clock)
    clock.advance(1)
    calls = len(away.calls)
    scheduler.tick([step], clock)

    assert instants == [0, 1, 3, 7, 15, 25, 35, 45, 55]
    assert len(away.calls) == calls + 1


def test_a_step_may_be_done_more_rarely_than_at_every_tick(clock: StoppedClock) -> None:
    act = Away(None)
    step = Step("tidy", act, every_seconds=10)
    began = clock.now()

    for _ in range(30):
        scheduler.tick([step], clock)
        clock.advance(1)

    assert [at - began for at in act.calls] == [0, 10, 20]


def test_the_scheduler_tidies_the_datastore_and_does_nothing_on_an_empty_one(
    test_store: Store, configuration: Config, clock: StoppedClock
) -> None:
    datastore.upgrade(configuration.settings.database_url, configuration.root)
    steps = scheduler.steps(configuration, ENVIRON)

    with capture_logs() as logged:
        for _ in range(2):
            scheduler.tick(steps, clock)
            clock.advance(3600)

    assert {"outbox", "outbox_sent", "outbox_set_aside", "deferred"} <= {step.name for step in steps}
    assert [entry for entry in logged if entry["log_level"] in ("warning", "error")] == []
    datastore.dispose()


def test_a_step_that_fails_does_not_keep_the_next_from_being_done(clock: StoppedClock) -> None:
    good = Away(None)

    scheduler.tick([Step("a", Away(RuntimeError("a bug"))), Step("b", good)], clock)

    assert good.calls == [clock.now()]


def test_queue_yaml_is_uploaded_at_the_first_tick(test_store: Store, configuration: Config) -> None:
    QueueUpload(configuration, ENVIRON).act(0.0)

    assert test_store.redis.hget(store.settings_key("default"), "rate") == b"500.0"


def test_a_changed_queue_yaml_is_uploaded_without_a_restart(test_store: Store, configuration: Config) -> None:
    upload = QueueUpload(configuration, ENVIRON)
    upload.act(0.0)

    _write(configuration.root, "queue:\n- name: default\n  rate: 7/s\n")
    upload.act(1.0)

    assert test_store.redis.hget(store.settings_key("default"), "rate") == b"7.0"


def test_a_cron_yaml_is_read_at_the_start_and_when_it_changes_and_left_while_it_is_wrong(
    configuration: Config,
) -> None:
    file, path = CronFile(configuration.root), Path(configuration.root, "cron.yaml")

    path.write_text("cron:\n- url: /x\n  schedule: every 5 mins\n")
    read = file.read()
    assert read is not None
    assert [entry.url for entry in read] == ["/x"]
    assert file.read() is None
    path.write_text("cron:\n- url: /x\n  schedule: every 5 minuts\n")
    with capture_logs() as logged:
        assert file.read() is None
    [line] = logged
    assert line["event"] == "cron.unusable"
    assert line["error"].startswith("cron.yaml:3:")
    path.write_text("cron:\n")
    assert file.read() == ()


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_cron_yaml_that_is_gone_has_no_jobs_whether_or_not_the_scheduler_is_restarted(
    configuration: Config, is_restarted: bool
) -> None:
    file, path = CronFile(configuration.root), Path(configuration.root, "cron.yaml")
    path.write_text("cron:\n- url: /x\n  schedule: every 5 mins\n")
    assert file.read()

    path.unlink()
    file = CronFile(configuration.root) if is_restarted else file

    assert [file.read() for _ in range(3)] == [None, (), None]
    path.write_text("cron:\n- url: /y\n  schedule: every 5 mins\n")
    assert [entry.url for entry in file.read() or ()] == ["/y"]


def test_a_cron_yaml_that_is_missing_for_a_moment_while_it_is_replaced_keeps_its_jobs(
    configuration: Config,
) -> None:
    file, path = CronFile(configuration.root), Path(configuration.root, "cron.yaml")
    text = "cron:\n- url: /x\n  schedule: every 5 mins\n"
    path.write_text(text)
    assert file.read()

    path.unlink()
    assert file.read() is None
    path.write_text(text + "- url: /y\n  schedule: every 5 mins\n")

    assert [entry.url for entry in file.read() or ()] == ["/x", "/y"]
    path.unlink()
    assert file.read() is None, "each time anew"


def test_a_scheduler_without_a_cron_yaml_has_nothing_to_warn_of(
    test_store: Store, configuration: Config, clock: StoppedClock
) -> None:
    datastore.upgrade(configuration.settings.database_url, configuration.root)
    ticker = ticking.Ticker(CronFile(configuration.root).read)

    with capture_logs() as logged:
        for _ in range(5):
            ticker.act(clock.now())
            clock.advance(1)

    assert logged == []
    assert not test_store.redis.exists(store.settings_key(CRON_QUEUE))
    datastore.dispose()


def test_a_queue_yaml_with_a_mistake_changes_nothing(test_store: Store, configuration: Config) -> None:
    upload = QueueUpload(configuration, ENVIRON)
    upload.act(0.0)

    _write(configuration.root, "queue:\n- name: default\n  rate: 7/x\n")
    upload.act(1.0)
    upload.act(2.0)

    assert test_store.redis.hget(store.settings_key("default"), "rate") == b"500.0"


def test_a_queue_yaml_with_a_mistake_does_not_undo_the_upload_of_another_machine(
    test_store: Store, configuration: Config
) -> None:
    upload = QueueUpload(configuration, ENVIRON)
    upload.act(0.0)
    elsewhere = dataclasses.replace(configuration.queues["default"], rate=9.0)
    changed = dataclasses.replace(configuration, queues={"default": elsewhere})
    queue_directory.upload(test_store, changed, cause="deploy")

    _write(configuration.root, "queue:\n- name: default\n  rate: 7/x\n")
    upload.act(1.0)

    assert test_store.redis.hget(store.settings_key("default"), "rate") == b"9.0"


def test_a_queue_yaml_that_changed_while_the_scheduler_started_is_uploaded(
    test_store: Store, configuration: Config
) -> None:
    _write(configuration.root, "queue:\n- name: default\n  rate: 7/s\n")

    upload = QueueUpload(configuration, ENVIRON)
    upload.act(0.0)
    upload.act(1.0)

    assert test_store.redis.hget(store.settings_key("default"), "rate") == b"7.0"


def test_the_upload_of_another_machine_stands_until_this_file_changes(
    test_store: Store, configuration: Config
) -> None:
    upload = QueueUpload(configuration, ENVIRON)
    upload.act(0.0)
    test_store.redis.hset(store.settings_key("default"), "rate", "9")

    upload.act(1.0)

    assert test_store.redis.hget(store.settings_key("default"), "rate") == b"9"


def test_an_emptied_redis_gets_the_settings_again(test_store: Store, configuration: Config) -> None:
    upload = QueueUpload(configuration, ENVIRON)
    upload.act(0.0)
    test_store.redis.flushall()

    upload.act(1.0)

    assert test_store.redis.hget(store.settings_key("default"), "rate") == b"500.0"


def test_a_task_that_was_committed_and_could_not_be_sent_is_relayed(
    test_store: Store,
    configuration: Config,
    clock: StoppedClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    datastore.upgrade(configuration.settings.database_url, configuration.root)
    monkeypatch.setattr(outbox, "now", clock.now)
    store.use(Store(f"unix://{tmp_path}/nobody"))
    with datastore.transaction():
        taskqueue.add(url="/work", transactional=True)
    store.use(test_store)
    assert test_store.redis.llen(store.ready_key("default")) == 0

    clock.advance(60)
    scheduler.tick(scheduler.steps(configuration, ENVIRON), clock)

    assert test_store.redis.llen(store.ready_key("default")) == 1
    datastore.dispose()


def _write(root: Path, text: str) -> None:
    path = root / "queue.yaml"
    path.write_text(text)
    # A change within the file system's resolution of time would go unseen.
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


def test_what_is_uploaded_has_the_digest_of_the_file(test_store: Store, configuration: Config) -> None:
    QueueUpload(configuration, ENVIRON).act(0.0)

    uploaded = test_store.redis.hget(store.UPLOAD, "digest")
    assert config.digest(configuration.queues) in str(uploaded)
