"""What a status poll of a long task asks Redis: once, and what it says when there is no answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import memcache, store
from lastacross.longtasks import looking, progress
from lastacross.store import Store
from tests.support import databases
from tests.support.longtask_lab import Lab, running_lab
from tests.support.monitored import monitored
from tests.support.redis_server import RedisServer


@pytest.fixture
def lab(app_root: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[Lab]:
    with running_lab(
        app_root, redis_server.url, databases.migrated_sqlite(tmp_path / "polls.db", app_root)
    ) as running:
        yield running


def reported(task_id: str, step: int) -> None:
    memcache.set(progress.KEY % task_id, {"message": "at it", "step": step, "total_steps": 12})


def test_a_poll_asks_redis_once(lab: Lab, redis_server: RedisServer) -> None:
    task_id = lab.start()
    reported(task_id, 3)
    lab.query(task_id)  # the script is known, the time was asked for, hits were counted in this second

    with monitored(redis_server) as heard:
        metadata = lab.query(task_id)["metadata"]
        store.current().redis.ping()
    asked = [command.words[0] for command in heard.commands() if not command.is_of_script]

    assert (metadata["state"], metadata["message"], metadata["step"]) == ("ready", "at it", 3)
    assert [word for word in asked if word.upper() not in ("PING", "HINCRBY", "CLIENT")] == ["EVALSHA"]


def test_each_of_several_tasks_has_its_own_state_and_report(lab: Lab) -> None:
    ids = [lab.start(number=str(number)) for number in range(3)]
    reported(ids[0], 1)
    reported(ids[2], 2)

    memcache.set(progress.KEY % ids[1], "no report", namespace="other")

    views = looking.views_of(ids)

    assert [(view.id, view.state, view.step) for view in views] == [
        (ids[0], "ready", 1),
        (ids[1], "ready", 0),
        (ids[2], "ready", 2),
    ]


def test_a_poll_counts_as_a_reader_of_the_cache(lab: Lab) -> None:
    task_id = lab.start()
    lab.query(task_id)
    before = stats()
    reported(task_id, 3)
    lab.query(task_id)

    assert stats()["hits"] == before["hits"] + 1
    memcache.delete(progress.KEY % task_id)
    lab.query(task_id)
    assert stats()["misses"] == before["misses"] + 1


def test_a_report_that_is_not_ours_is_none(lab: Lab) -> None:
    task_id = lab.start()
    memcache.set(progress.KEY % task_id, "no report")

    assert lab.query(task_id)["metadata"]["step"] == 0


def test_while_redis_is_unavailable_the_row_is_shown(lab: Lab) -> None:
    task_id = lab.start()
    store.use(Store("unix:///nowhere/redis.sock"))

    metadata = lab.query(task_id)["metadata"]

    assert (metadata["state"], metadata["is_blind"]) == ("ready", True)


def stats() -> dict[str, Any]:
    found = memcache.get_stats()
    assert found is not None
    return found
