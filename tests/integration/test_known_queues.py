"""What a process knows of the queues: what was uploaded last, looked at again once a second."""

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lastacross import config, store, taskqueue
from lastacross.broker import deployments, queue_directory
from lastacross.broker.queue_directory import KnownQueue, QueueDirectory
from lastacross.config import Config
from lastacross.errors import InvalidQueueModeError, StoreUnavailableError, TransientError, UnknownQueueError
from lastacross.store import Store
from tests.conftest import SECRET_KEY
from tests.support.clock import StoppedClock
from tests.support.redis_server import RedisServer, running_server
from tests.support.uploads import upload
from tests.support.wrong_servers import never_accepting


@pytest.fixture
def queues(test_store: Store) -> QueueDirectory:
    """A view of an empty Redis."""
    return QueueDirectory(test_store)


def commands(opened: Store) -> int:
    """How many commands the server has run, this one not counted."""
    found: Any = opened.redis.info("stats")
    return int(found["total_commands_processed"])


def stamp(opened: Store) -> queue_directory.Stamp:
    """The last upload, as a step reports it."""
    return tuple(opened.redis.hmget(store.UPLOAD, ("digest", "uploaded_at", "version")))  # type: ignore[arg-type]


def machine(folder: Path, name: str, queue_yaml: str | None, **files: str) -> Config:
    """The configuration of another machine: its own folder with its own files."""
    root = folder / name
    root.mkdir()
    shutil.copy(folder / "app.yaml", root)
    if queue_yaml is not None:
        (root / "queue.yaml").write_text("queue:\n" + queue_yaml)
    for file, text in files.items():
        (root / f"{file}.yaml").write_text(text)
    return config.load(root, {"SECRET_KEY": SECRET_KEY})


MAIL = "- name: mail\n  rate: 5/s\n"


# --- looking --------------------------------------------------------------------------------


def test_what_was_uploaded_is_known(queues: QueueDirectory, test_store: Store) -> None:
    retry = "[3, null, 1.0, 10.0, 2]"
    upload(
        test_store,
        {"mail": {"mode": "pull", "retry": retry}, "work": {"target": "v1.counter"}},
        services=["counter"],
    )

    found = queues.all()

    assert found["work"] == KnownQueue("work", "push", "counter", "v1.counter")
    assert found["mail"] == KnownQueue("mail", "pull", retry=config.RetryParameters(3, None, 1.0, 10.0, 2))
    assert queues.services() == {"counter"}
    assert queues.find("none") is None


def test_it_is_looked_at_once_a_second(
    queues: QueueDirectory, test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, ["default"])
    queues.all()
    upload(test_store, ["default", "mail"])

    clock.advance(0.9)
    assert set(queues.all()) == {"default"}
    clock.advance(0.2)
    assert set(queues.all()) == {"default", "mail"}


def test_within_the_second_redis_is_not_asked(
    queues: QueueDirectory, test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, ["default"])
    queues.all()
    before = commands(test_store)

    for _ in range(100):
        assert queues.find("default")
        queues.all()
        queues.services()
        clock.advance(0.009)

    assert commands(test_store) - before == 1


def test_a_look_at_an_unchanged_upload_is_one_command(
    queues: QueueDirectory, test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, [f"q-{number}" for number in range(100)])
    queues.all()
    before = commands(test_store)

    clock.advance(2)
    queues.all()

    assert commands(test_store) - before == 2


def test_a_step_that_reports_another_upload_has_it_looked_at_at_once_and_the_same_one_later(
    queues: QueueDirectory, test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, ["default"])
    queues.all()
    clock.advance(0.9)
    queues.note(stamp(test_store))
    upload(test_store, ["default", "mail"])

    clock.advance(0.9)
    assert set(queues.all()) == {"default"}
    queues.note(stamp(test_store))

    assert set(queues.all()) == {"default", "mail"}


def test_a_queue_that_is_missed_is_looked_for_at_once(queues: QueueDirectory, test_store: Store) -> None:
    upload(test_store, ["default"])
    assert queues.find("mail") is None
    upload(test_store, ["default", "mail"])

    found = queues.find("mail")

    assert found is not None


def test_a_new_service_is_noticed_without_an_upload(
    queues: QueueDirectory, test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, {"mail": {"target": "counter"}})
    assert queues.all()["mail"].group == "default"

    test_store.run("register_service", (), ["counter"])
    clock.advance(1)

    assert queues.all()["mail"].group == "counter"
    assert queues.services() == {"counter"}


def test_a_vanished_queue_is_known_as_disabled(
    queues: QueueDirectory, test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, ["default", "mail"])
    upload(test_store, ["default"])

    assert queues.all()["mail"].is_disabled
    assert not queues.all()["default"].is_disabled


@pytest.mark.parametrize("services", [("counter",), ("counter", "reader"), ("reader", "counter")])
def test_the_configuration_has_the_deployed_rules_of_dispatch_yaml(
    queues: QueueDirectory, test_store: Store, app_root: Path, clock: StoppedClock, services: tuple[str, ...]
) -> None:
    own = config.current()
    queues.all()
    assert queues.configuration() is own
    for service in services:
        rules = f"dispatch:\n- url: '*/count*'\n  service: {service}\n"
        backends = f"backends:\n- name: {service}\n"
        deployed = machine(app_root, service, MAIL, dispatch=rules, backends=backends)
        queue_directory.deploy(test_store, deployed, cron=None, cause="deploy")
        clock.advance(1)
        queues.all()

        found = queues.configuration()

        assert found == dataclasses.replace(own, dispatch=deployed.dispatch)
        assert queues.configuration() is found, "each add asks"
    other = dataclasses.replace(own)
    config.use(dataclasses.replace(other, dispatch=deployed.dispatch))
    assert queues.configuration() is config.current()


def test_the_deployed_rules_go_with_the_present_configuration(
    queues: QueueDirectory, test_store: Store, app_root: Path
) -> None:
    rules = "dispatch:\n- url: '*/count*'\n  service: counter\n"
    deployed = machine(app_root, "full", MAIL, dispatch=rules, backends="backends:\n- name: counter\n")
    queue_directory.deploy(test_store, deployed, cron=None, cause="deploy")
    queues.all()
    queues.configuration()
    other = dataclasses.replace(config.current(), has_cron_file=not config.current().has_cron_file)

    config.use(other)

    assert queues.configuration() == dataclasses.replace(other, dispatch=deployed.dispatch)


# --- the file stands in -----------------------------------------------------------------------


def test_before_the_first_upload_the_file_stands_in(queues: QueueDirectory, configuration: Config) -> None:
    assert set(queues.all()) == set(configuration.queues)


def test_what_stands_in_is_made_once_for_each_configuration(
    queues: QueueDirectory, configuration: Config
) -> None:
    """Each add asks, and may do so for as long as Redis is unavailable."""
    before = queues.all()
    assert queues.all() is before

    config.use(dataclasses.replace(configuration))

    assert queues.all() is not before
    assert queues.all() == before


def test_a_queue_of_the_file_has_the_group_of_a_service_that_is_listed(
    queues: QueueDirectory, configuration: Config
) -> None:
    (configuration.root / "queue.yaml").write_text("queue:\n" + MAIL + "  target: v1.counter\n")
    loaded = config.load(configuration.root, {"SECRET_KEY": SECRET_KEY})
    config.use(loaded)
    assert queues.all()["mail"] == KnownQueue("mail", group="default", target="v1.counter")

    (configuration.root / "backends.yaml").write_text("backends:\n- name: counter\n")
    config.use(config.load(configuration.root, {"SECRET_KEY": SECRET_KEY}))

    assert queues.all()["mail"].group == "counter"
    assert queues.services() == {"counter"}


def test_after_redis_was_emptied_the_file_stands_in(
    queues: QueueDirectory, test_store: Store, clock: StoppedClock
) -> None:
    upload(test_store, ["default", "mail"])
    assert "mail" in queues.all()

    test_store.redis.flushall()
    clock.advance(1)

    assert set(queues.all()) == {"default"}


def test_a_task_for_a_service_that_is_added_before_anybody_uploaded_waits_for_that_service(
    test_store: Store, app_root: Path
) -> None:
    backend = machine(app_root, "backend", MAIL, backends="backends:\n- name: counter\n")
    config.use(backend)

    taskqueue.add(url="/a", queue_name="mail", target="counter")
    with taskqueue.Batch("mail", name="b") as batch:
        batch.add(taskqueue.Task(url="/b", target="counter"))

    assert test_store.redis.llen("rq:queue:mail.counter") == 2


@pytest.fixture
def dying_redis(configuration: Config, clock: StoppedClock) -> Iterator[tuple[RedisServer, Store]]:
    """A server of its own, to be stopped, in use for this test."""
    with running_server() as server:
        opened = Store(server.url, clock)
        store.use(opened)
        yield server, opened
        store.use(None)
        opened.close()


def test_while_redis_is_unavailable_the_known_queues_hold_and_it_is_asked_rarely(
    dying_redis: tuple[RedisServer, Store], clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, opened = dying_redis
    upload(opened, ["default", "mail"])
    queues = QueueDirectory(opened)
    assert "mail" in queues.all()
    server.stop()
    asked = []
    real = QueueDirectory._read

    def read(self: QueueDirectory) -> None:
        asked.append(self)
        real(self)

    monkeypatch.setattr(QueueDirectory, "_read", read)

    for _ in range(10):
        clock.advance(1)
        assert set(queues.all()) == {"default", "mail"}

    assert len(asked) == 2


def test_a_process_that_starts_without_redis_goes_by_its_file(
    dying_redis: tuple[RedisServer, Store], configuration: Config
) -> None:
    server, opened = dying_redis
    server.stop()

    assert set(QueueDirectory(opened).all()) == set(configuration.queues)
    with pytest.raises(UnknownQueueError):
        taskqueue.add(url="/a", queue_name="mail")
    with pytest.raises(TransientError):
        taskqueue.add(url="/a")


def test_a_call_waits_once_for_a_silent_redis_whatever_it_looks_for_first(
    configuration: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.store, "SAME_WAIT_SECONDS", 60.0)  # however slow the machine is
    with never_accepting() as url:
        opened = Store(url, patience_seconds=0.2)
        store.use(opened)

        with pytest.raises(TransientError, match="did not answer a moment ago"):
            taskqueue.add(url="/a")

        store.use(None)
        opened.close()


# --- what an application sees -------------------------------------------------------------------


def test_tasks_may_be_added_to_a_queue_as_soon_as_it_is_uploaded(test_store: Store) -> None:
    with pytest.raises(UnknownQueueError, match=r"no queue 'mail'; its queues are default"):
        taskqueue.add(url="/a", queue_name="mail")
    upload(test_store, ["default", "mail"])

    assert taskqueue.add(url="/a", queue_name="mail").was_enqueued


def test_a_disabled_queue_accepts_tasks(test_store: Store) -> None:
    upload(test_store, ["default", "mail"])
    upload(test_store, ["default"])

    assert taskqueue.add(url="/a", queue_name="mail").was_enqueued


def test_a_mode_that_was_uploaded_elsewhere_counts_here(test_store: Store, clock: StoppedClock) -> None:
    upload(test_store, {"default": {"mode": "pull"}})
    clock.advance(1)

    with pytest.raises(InvalidQueueModeError):
        taskqueue.add(url="/a")
    assert taskqueue.add("work", method="PULL").was_enqueued


def test_one_view_is_kept_for_each_store(test_store: Store) -> None:
    assert queue_directory.of(test_store) is queue_directory.of(test_store)
    assert queue_directory.current() is queue_directory.of(test_store)


# --- uploading -----------------------------------------------------------------------------------


def test_a_file_that_says_the_same_is_not_uploaded_again(test_store: Store, app_root: Path) -> None:
    here = machine(app_root, "here", MAIL)
    there = machine(app_root, "there", "# another look, the same meaning\n- rate: 300/m\n  name: mail\n")

    with capture_logs() as logged:
        answers = [queue_directory.upload_if_changed(test_store, each) for each in (here, here, there)]

    assert answers == [True, False, False]
    assert logged == [
        {"event": "queues.upload", "queues": 2, "added": ["default", "mail"], "log_level": "info"},
    ]


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("- name: mail\n  rate: 6/s\n", {}),
        (MAIL + "  bucket_size: 6\n", {}),
        (MAIL + "  max_concurrent_requests: 6\n", {}),
        (MAIL + "  target: counter\n", {}),
        (MAIL + "  retry_parameters:\n    task_retry_limit: 2\n", {}),
        ("- name: mail\n  mode: pull\n", {}),
        (MAIL + "- name: more\n  rate: 5/s\n", {}),
        (MAIL, {"backends": "backends:\n- name: counter\n"}),
        (MAIL, {"dispatch": "dispatch:\n- url: '*/count*'\n  service: default\n"}),
    ],
)
def test_every_change_of_meaning_is_uploaded(
    test_store: Store, app_root: Path, text: str, files: dict[str, str]
) -> None:
    queue_directory.upload_if_changed(test_store, machine(app_root, "one", MAIL))

    assert queue_directory.upload_if_changed(test_store, machine(app_root, "two", text, **files))


def test_of_two_machines_the_last_upload_counts_for_both(
    queues: QueueDirectory, test_store: Store, app_root: Path, clock: StoppedClock
) -> None:
    one = machine(app_root, "one", MAIL)
    two = machine(app_root, "two", "- name: web\n  rate: 1/s\n")

    for each, names in ((one, {"default", "mail"}), (two, {"default", "web"}), (one, {"default", "mail"})):
        assert queue_directory.upload_if_changed(test_store, each)
        clock.advance(1)
        assert {name for name, queue in queues.all().items() if not queue.is_disabled} == names


def test_a_folder_without_queue_yaml_leaves_alone_what_is_there(test_store: Store, app_root: Path) -> None:
    queue_directory.upload_if_changed(test_store, machine(app_root, "one", MAIL))

    assert not queue_directory.upload_if_changed(test_store, machine(app_root, "two", None))

    assert "mail" in queue_directory.current().all()


def test_a_folder_without_queue_yaml_is_better_than_nothing(test_store: Store, app_root: Path) -> None:
    assert queue_directory.upload_if_changed(test_store, machine(app_root, "one", None))

    assert set(queue_directory.current().all()) == {"default"}


def test_the_first_folder_with_a_queue_yaml_replaces_what_one_without_has_started(
    test_store: Store, app_root: Path
) -> None:
    bare, full = machine(app_root, "bare", None), machine(app_root, "full", MAIL)

    found = [
        queue_directory.upload_if_missing(test_store, functools.partial(dataclasses.replace, each))
        for each in (bare, full, full)
    ]

    assert found == [True, True, False]
    assert "mail" in queue_directory.current().all()


def test_what_an_earlier_release_has_uploaded_is_taken_over_without_its_disabled_queues(
    test_store: Store, configuration: Config
) -> None:
    upload(test_store, ["a-disabled-one", "default", "mail"])
    upload(test_store, ["default", "mail"])

    queue_directory.take_over(test_store)

    found = deployments.read(test_store)
    assert found is not None
    assert set(found.upload.queues) == {"default", "mail"}


@pytest.mark.parametrize(
    ("words", "is_paused"),
    [("", True), ("resume_paused_queues: False\n", True), ("resume_paused_queues: True\n", False)],
)
def test_an_upload_resumes_paused_queues_if_the_file_says_so(
    test_store: Store, app_root: Path, words: str, is_paused: bool
) -> None:
    taskqueue.Queue().pause()
    folder = app_root / "one"
    folder.mkdir()
    shutil.copy(app_root / "app.yaml", folder)
    (folder / "queue.yaml").write_text(f"{words}queue:\n{MAIL}")

    queue_directory.upload_if_changed(test_store, config.load(folder, {"SECRET_KEY": SECRET_KEY}))

    assert taskqueue.Queue().is_paused() is is_paused


def test_asking_for_paused_queues_to_go_on_is_a_change_of_the_file(
    test_store: Store, configuration: Config
) -> None:
    queue_directory.upload(test_store, configuration)
    taskqueue.Queue().pause()

    changed = dataclasses.replace(configuration, resume_paused_queues=True)

    assert [queue_directory.upload_if_changed(test_store, changed) for _ in range(2)] == [True, False]
    assert not taskqueue.Queue().is_paused()


@pytest.mark.parametrize(("target", "known"), [("shop", "default"), ("v1.shop", "v1.default")])
def test_a_target_that_is_app_yamls_own_service_is_the_default_one(
    queues: QueueDirectory, test_store: Store, configuration: Config, target: str, known: str
) -> None:
    mail = dataclasses.replace(configuration.queues["default"], name="mail", target=target)
    app = dataclasses.replace(configuration.app, service="shop")
    queue_directory.upload(test_store, dataclasses.replace(configuration, app=app, queues={"mail": mail}))

    assert queues.all()["mail"] == KnownQueue("mail", target=known)


def test_settings_that_cannot_be_read_are_replaced_by_the_file_and_the_log_says_why(
    queues: QueueDirectory, test_store: Store, app_root: Path, clock: StoppedClock
) -> None:
    here = machine(app_root, "here", MAIL)
    queue_directory.upload(test_store, here)
    key = store.settings_key("mail")
    intact = test_store.redis.hgetall(key)
    test_store.redis.hset(key, "mode", "fast")
    queues.all()
    assert list(queues.damaged) == ["mail"]

    with capture_logs() as logged:
        queue_directory.repair(test_store, queues.damaged, here)

    assert test_store.redis.hgetall(key) == intact
    [damaged] = [line for line in logged if line["event"] == "queues.damaged"]
    assert (damaged["log_level"], damaged["queue"]) == ("error", "mail")
    assert "fast" in damaged["problem"]
    clock.advance(1)
    queues.all()
    assert queues.damaged == {}


def test_an_upload_without_redis_is_reported(
    dying_redis: tuple[RedisServer, Store], configuration: Config
) -> None:
    server, opened = dying_redis
    server.stop()

    with pytest.raises(StoreUnavailableError):
        queue_directory.upload_if_changed(opened, configuration)
