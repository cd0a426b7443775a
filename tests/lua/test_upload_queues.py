"""upload_queues: what all machines go by, and what becomes of queues and services that are left out."""

import pytest

from lastacross import store
from lastacross.broker.steps import DEFAULT_GROUP
from tests.support.scripts import Scripts
from tests.support.uploads import FIELDS, upload


@pytest.fixture
def scripts(scripts: Scripts) -> Scripts:
    """The scripts on a store without any queue."""
    scripts.redis.flushall()
    return scripts


def settings(scripts: Scripts, queue: str) -> dict[str, str]:
    """The settings that scripts read."""
    raw = scripts.redis.hgetall(store.settings_key(queue))
    return {key.decode(): value.decode() for key, value in raw.items()}


def members(scripts: Scripts, key: str) -> set[str]:
    """A set of Redis."""
    return {each.decode() for each in scripts.redis.smembers(key)}


def test_settings_are_stored_whole(scripts: Scripts) -> None:
    upload(scripts.store, {"mail": {"rate": "0.5", "max_concurrent": "3"}})

    own = {"is_disabled": "0", "group": DEFAULT_GROUP}
    assert settings(scripts, "mail") == {**FIELDS, **own, "rate": "0.5", "max_concurrent": "3"}
    assert members(scripts, store.QUEUE_NAMES) == {"mail"}


def test_a_setting_that_is_not_uploaded_any_more_is_gone(scripts: Scripts) -> None:
    scripts.redis.hset(store.settings_key("mail"), "of_an_older_version", "1")

    upload(scripts.store, ["mail"])

    assert settings(scripts, "mail") == {**FIELDS, "is_disabled": "0", "group": DEFAULT_GROUP}


def test_it_says_which_queues_are_new_or_were_disabled(scripts: Scripts) -> None:
    def ask(*names: str) -> list[str]:
        queues = [text for name in names for text in (name, 2, "rate", "1.0")]
        return sorted(scripts.run("upload_queues", scripts.now, "d", 0, 0, "", *queues))

    assert ask("a", "b") == ["a", "b"]
    assert ask("a", "b") == []
    assert ask("a") == []
    assert ask("a", "b", "c") == ["b", "c"]


def test_digest_and_instant_are_kept_and_each_upload_has_another_version(scripts: Scripts) -> None:
    upload(scripts.store, digest="one")
    first = scripts.redis.hgetall(store.UPLOAD)
    scripts.clock.advance(5)
    upload(scripts.store, digest="one")
    second = scripts.redis.hgetall(store.UPLOAD)

    assert (first[b"digest"], second[b"digest"]) == (b"one", b"one")
    assert float(second[b"uploaded_at"]) - float(first[b"uploaded_at"]) == 5
    assert first[b"version"] != second[b"version"]


def test_a_vanished_queue_keeps_its_tasks_and_hands_out_none_until_it_is_listed_again(
    scripts: Scripts,
) -> None:
    upload(scripts.store, ["default", "mail"])
    scripts.add("mail_waits")
    upload(scripts.store, ["default"])

    assert scripts.lease("mail") == []
    assert scripts.add("mail_later") == [0]
    assert settings(scripts, "mail")["is_disabled"] == "1"

    upload(scripts.store, ["default", "mail"])

    assert [task for task, _ in scripts.lease("mail")] == ["mail_waits", "mail_later"]


def test_a_task_of_a_vanished_queue_that_runs_may_end(scripts: Scripts) -> None:
    upload(scripts.store, ["default", "mail"])
    lease = scripts.leased("mail_a")
    upload(scripts.store, ["default"])

    assert scripts.ack(("mail_a", lease)) == [1]
    assert scripts.state("mail_a") == "gone"


def test_pauses_stand_unless_the_file_resumes_them(scripts: Scripts) -> None:
    upload(scripts.store)
    scripts.run("pause_queue", "default", 1)
    upload(scripts.store)
    assert members(scripts, store.PAUSED) == {"default"}

    upload(scripts.store, resumes=True)

    assert members(scripts, store.PAUSED) == set()


@pytest.mark.parametrize(
    ("target", "group"),
    [
        ("counter", "counter"),
        ("v1.counter", "counter"),
        ("unknown", "default"),
        ("default", "default"),
        ("", "default"),
        ("counter.unknown", "default"),
    ],
)
def test_a_queue_waits_for_its_targets_group_if_anybody_knows_it(
    scripts: Scripts, target: str, group: str
) -> None:
    upload(scripts.store, {"mail": {"target": target}}, services=["counter"])

    assert settings(scripts, "mail")["group"] == group


def test_the_group_of_a_disabled_queue_follows_the_services(scripts: Scripts) -> None:
    upload(scripts.store, {"mail": {"target": "counter"}}, backends=["counter"])
    upload(scripts.store, ["default"])

    assert settings(scripts, "mail")["group"] == "default"


def test_a_backend_that_is_not_listed_any_more_is_forgotten(scripts: Scripts) -> None:
    upload(scripts.store, {"mail": {"target": "counter"}}, backends=["counter", "other"])
    upload(scripts.store, {"mail": {"target": "counter"}}, backends=["other"])

    assert members(scripts, store.SERVICES) == {"other"}
    assert settings(scripts, "mail")["group"] == "default"


@pytest.mark.parametrize("how", ["a worker registered it", "LASTACROSS_SERVICES named it"])
def test_a_service_that_is_no_backend_stays(scripts: Scripts, how: str) -> None:
    if how == "a worker registered it":
        upload(scripts.store)
        scripts.run("register_service", "counter")
    else:
        upload(scripts.store, services=["counter"])

    upload(scripts.store)

    assert members(scripts, store.SERVICES) == {"counter"}


def test_a_backend_that_another_machine_reaches_by_http_stays(scripts: Scripts) -> None:
    upload(scripts.store, backends=["counter"])

    upload(scripts.store, services=["counter"])

    assert members(scripts, store.SERVICES) == {"counter"}


def test_what_was_to_run_now_on_a_forgotten_backend_runs_on_the_default_service(scripts: Scripts) -> None:
    upload(scripts.store, backends=["counter"])
    scripts.add("default_a", target="counter", countdown=60)
    scripts.run("run_task", "default_a", scripts.now)
    assert scripts.lease("default") == []

    upload(scripts.store)

    assert [task for task, _ in scripts.lease("default")] == ["default_a"]


def test_workers_of_every_group_look_again(scripts: Scripts) -> None:
    upload(scripts.store, services=["counter"])

    for group in ("default", "counter"):
        assert scripts.redis.lrange(store.wakeup_key(group), 0, -1) == [b"ready"]


def test_a_new_rate_counts_for_what_waits(scripts: Scripts) -> None:
    upload(scripts.store, {"default": {"rate": repr(1 / 3600), "bucket_size": "1"}})
    scripts.add("default_a", "default_b")
    assert len(scripts.lease()) == 1

    upload(scripts.store, {"default": {"rate": "10.0", "bucket_size": "5"}})
    scripts.clock.advance(0.1)

    assert len(scripts.lease()) == 1
