"""What all long tasks together may hold, on SQLite and on PostgreSQL: counted exactly, however they come."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from lastacross import datastore, taskqueue
from lastacross.datastore.tables import LongTask, LongTaskFile, LongTaskUsage, OutboxRow
from lastacross.longtasks import expiry, model, quotas
from tests.support.longtask_lab import JSON, Lab, running_lab
from tests.support.redis_server import RedisServer
from tests.support.stored import count, counted_bytes, set_limits, summed_bytes

HTML = {"Accept": "text/html"}
RAW = {**JSON, "Content-Type": "image/x-own"}


@pytest.fixture
def lab(app_root: Path, redis_server: RedisServer, new_database: Callable[[Path], str]) -> Iterator[Lab]:
    """An application with long tasks, on each kind of datastore."""
    with running_lab(app_root, redis_server.url, new_database(app_root)) as running:
        yield running


def test_no_more_are_open_than_the_setting_says(lab: Lab) -> None:
    set_limits(open_longtasks=2)
    lab.start()
    lab.start()

    refused = lab.client.get("/told", headers=JSON, status=503)
    assert refused.headers["Retry-After"] == "30"
    assert "LASTACROSS_OPEN_LONGTASKS" in refused.json["error"]["message"]
    page = lab.client.get("/told", headers=HTML, status=503)
    assert "Try again in 30 seconds." in page.text
    assert (count(LongTask), count(OutboxRow)) == (2, 2)

    lab.run()
    lab.start()


def test_no_more_is_stored_than_the_setting_says(lab: Lab) -> None:
    set_limits(longtask_bytes=250_000)
    lab.client.put("/told", b"x" * 200_000, headers={"Content-Type": "image/x-own"}, status=303)

    refused = lab.client.put("/told", b"x" * 50_000, headers=RAW, status=503)

    assert refused.headers["Retry-After"] == "3600"
    assert "LASTACROSS_LONGTASK_BYTES" in refused.json["error"]["message"]
    assert (count(LongTask), count(LongTaskFile), count(OutboxRow)) == (1, 1, 1)
    assert counted_bytes() == summed_bytes() < 202_000
    lab.start()


def test_results_and_failures_are_counted_and_what_is_forgotten_is_not(lab: Lab) -> None:
    ids = [lab.start(), lab.start("/once")]
    before = counted_bytes()
    lab.execute(lambda handler, given: "x" * 10_000)
    lab.run()
    assert 10_000 <= counted_bytes() - before <= 10_010
    lab.execute(lambda handler, given: 1 / 0)
    lab.run()
    assert counted_bytes() == summed_bytes() > before + 10_100

    with datastore.session() as session:
        session.execute(update(LongTask).values(expires_at=1.0))
    expiry.Pruner().act(10.0)

    assert [lab.row(task_id).expired_at for task_id in ids] == [10.0, 10.0]
    assert counted_bytes() == summed_bytes() == 0


def test_an_empty_task_counts_for_something(lab: Lab) -> None:
    lab.start()

    assert counted_bytes() >= quotas.ROW_BYTES


def test_of_starts_at_once_none_is_admitted_beyond_the_setting(lab: Lab) -> None:
    set_limits(open_longtasks=3)
    statuses: list[int] = []
    barrier = threading.Barrier(10)

    def start() -> None:
        barrier.wait()
        statuses.append(lab.client.get("/told", headers=JSON, status=(202, 503)).status_int)

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [202] * 3 + [503] * 7
    assert count(LongTask) == 3
    assert counted_bytes() == summed_bytes()


def test_of_files_at_once_none_is_stored_beyond_the_setting(lab: Lab) -> None:
    set_limits(longtask_bytes=350_000)
    statuses: list[int] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        statuses.append(lab.client.put("/told", b"x" * 100_000, headers=RAW, status=(202, 503)).status_int)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [202] * 3 + [503] * 5
    assert count(LongTaskFile) == 3
    assert counted_bytes() == summed_bytes() <= 350_000


def test_rows_that_were_deleted_by_hand_are_noticed_within_an_hour(lab: Lab) -> None:
    lab.start()
    lab.start()
    with datastore.session() as session:
        session.execute(delete(LongTask))
    assert counted_bytes() > 0

    expiry.Pruner().act(0.0)

    assert counted_bytes() == 0


def test_a_lost_count_is_made_again(lab: Lab) -> None:
    lab.start()
    with datastore.session() as session:
        session.execute(delete(LongTaskUsage))
    lab.start()
    quotas.recount()

    assert counted_bytes() == summed_bytes() > 2 * quotas.ROW_BYTES


def test_tasks_that_redis_has_lost_do_not_use_up_the_open_ones(lab: Lab) -> None:
    set_limits(open_longtasks=2)
    lost = [lab.start(), lab.start()]
    for task_id in lost:
        taskqueue.Queue("default").delete_tasks_by_name(lab.row(task_id).task_name or "")
    lab.forget_sending()
    lab.client.get("/told", status=503)

    expiry.Pruner().act(0.0)

    assert [lab.row(task_id).status for task_id in lost] == ["failed", "failed"]
    lab.start()


def test_the_pruner_looks_at_all_open_tasks_in_turn(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "CHUNK", 2)
    ids = [lab.start() for _ in range(5)]
    for task_id in ids:
        taskqueue.Queue("default").delete_tasks_by_name(lab.row(task_id).task_name or "")
    lab.forget_sending()
    pruner = expiry.Pruner()

    for _ in range(3):
        pruner.act(0.0)

    assert {lab.row(task_id).status for task_id in ids} == {"failed"}


def test_only_so_many_addresses_say_that_there_was_something(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "MAX_TOMBSTONES", 3)
    ids = [lab.start() for _ in range(6)]
    for number, task_id in enumerate(ids):
        lab.run()
        with datastore.session() as session:
            session.execute(update(LongTask).where(LongTask.id == task_id).values(expires_at=1.0))
        expiry.Pruner().act(10.0 + number)

    assert [model.find(task_id) is not None for task_id in ids] == [False] * 3 + [True] * 3


# --- what one network may have of it ----------------------------------------------------------

FILE_BYTES = 90_000


def put(lab: Lab, address: str, **headers: str) -> Any:
    """The answer to a file from this address."""
    environ = {"REMOTE_ADDR": address}
    body = b"x" * FILE_BYTES
    return lab.client.put(
        "/told", body, headers={**RAW, **headers}, extra_environ=environ, expect_errors=True
    )


def statuses(lab: Lab, number: int, address: str, **headers: str) -> list[int]:
    """What so many files from this address are answered."""
    return [put(lab, address, **headers).status_int for _ in range(number)]


def test_one_network_fills_half_of_the_room_and_an_eighth_and_others_still_have_theirs(lab: Lab) -> None:
    set_limits(longtask_bytes=800_000)

    assert statuses(lab, 8, "203.0.113.9") == [202] * 5 + [429] * 3
    refused = put(lab, "203.0.113.9")

    assert refused.headers["Retry-After"] == "3600"
    assert "LASTACROSS_LONGTASK_BYTES" in refused.json["error"]["message"]
    assert (count(LongTask), count(LongTaskFile), count(OutboxRow)) == (5, 5, 5)
    assert statuses(lab, 2, "198.51.100.1") == [202, 429]
    assert statuses(lab, 2, "2001:db8::1") == [202, 429]
    assert put(lab, "2001:db8::2").status_int == 429, "the same /64"
    assert statuses(lab, 2, "198.51.100.2") == [202, 503], "that was the last room for anybody"


def test_who_has_used_up_a_share_may_not_ask_on_and_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try brings a body that is read."""
    set_limits(longtask_bytes=800_000)
    statuses(lab, 5, "203.0.113.9")
    monkeypatch.setattr(lab.main.Told, "start_limit", "1/minute")

    told = [put(lab, "203.0.113.9").json["error"]["message"] for _ in range(11)]

    assert ["LASTACROSS_LONGTASK_BYTES" in message for message in told] == [True] * 10 + [False]
    assert "were refused" in told[-1]


def test_what_a_task_stores_in_the_end_counts_for_who_started_it(lab: Lab) -> None:
    set_limits(longtask_bytes=800_000)
    statuses(lab, 5, "198.51.100.1")
    for _ in range(5):
        lab.run()
    for path, function in (("/told", lambda handler, given: "x" * 95_000), ("/once", _fail_at_length)):
        lab.execute(function)
        address = f"203.0.113.{len(path)}"
        start = {"headers": JSON, "extra_environ": {"REMOTE_ADDR": address}, "expect_errors": True}
        assert lab.client.get(path, **start).status_int == 202
        lab.run()
        assert lab.client.get("/plain", {"a": "x" * 80_000}, **start).status_int == 429
    assert statuses(lab, 1, "198.51.100.2") == [202]


def _fail_at_length(handler: Any, given: Any) -> str:
    raise RuntimeError("x" * 30_000)


def test_one_network_opens_half_of_the_tasks_and_an_eighth_until_they_come_to_an_end(lab: Lab) -> None:
    set_limits(open_longtasks=16)

    def start(address: str) -> Any:
        environ = {"REMOTE_ADDR": address}
        return lab.client.get("/plain", headers=JSON, extra_environ=environ, expect_errors=True)

    assert [start("203.0.113.9").status_int for _ in range(12)] == [202] * 10 + [429] * 2
    refused = start("203.0.113.9")
    assert refused.headers["Retry-After"] == "30"
    assert "LASTACROSS_OPEN_LONGTASKS" in refused.json["error"]["message"]
    assert [start("198.51.100.1").status_int for _ in range(3)] == [202, 202, 429]

    for _ in range(5):
        lab.run()

    assert [start("203.0.113.9").status_int for _ in range(2)] == [202, 429]


def test_as_long_as_there_is_room_nothing_is_kept_of_anybody(lab: Lab) -> None:
    set_limits(longtask_bytes=800_000, open_longtasks=16)

    assert statuses(lab, 4, "203.0.113.9") == [202] * 4
    lab.run()

    assert lab.store.redis.keys("lastacross:limit:*") == []


def test_behind_an_undeclared_proxy_the_site_as_a_whole_has_all_the_room(lab: Lab) -> None:
    """Unless it is nobody but the client who says so: then a header would be worth a share of its own."""
    set_limits(longtask_bytes=800_000)
    told = {"X-Forwarded-For": "192.0.2.1"}

    assert statuses(lab, 6, "8.8.8.8", **told) == [202] * 5 + [429]
    assert statuses(lab, 4, "10.0.0.5", **told) == [202] * 3 + [503]
