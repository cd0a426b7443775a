"""The outbox's rows after their commit: what cannot be sent, and what Redis has lost after it was sent."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs

from lastacross import clock, config, datastore, store, taskqueue
from lastacross.broker import steps
from lastacross.datastore import OutboxRow, marking, outbox
from lastacross.datastore import relay as relays
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from tests.support.redis_server import RedisServer, server_binary
from tests.support.scripts import Scripts


@pytest.fixture(autouse=True)
def each_database(configuration: config.Config, database: str) -> str:
    """On SQLite and on PostgreSQL; ``configuration`` first, so that this one is in use."""
    return database


@pytest.fixture
def unsent(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of five tasks whose process died after the commit."""
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_send_committed", lambda noted: None)
        with datastore.transaction():
            tasks = [taskqueue.add(url="/work", transactional=True) for _ in range(5)]
    return [f"default_{task.name}" for task in tasks]


def add(count: int = 1) -> list[str]:
    """Commit tasks; they are sent at once, and marked."""
    with datastore.transaction():
        tasks = [taskqueue.add(url="/work", transactional=True) for _ in range(count)]
    marking.flush()
    return [f"default_{task.name}" for task in tasks]


def later(seconds: float = 60) -> float:
    return clock.SYSTEM.now() + seconds


def rows() -> int:
    with datastore.session(read_only=True) as session:
        return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


def change(row: str, **values: Any) -> None:
    with datastore.session() as session:
        session.execute(update(OutboxRow).where(OutboxRow.task_id == row).values(**values))


def row(task_id: str) -> OutboxRow:
    with datastore.session(read_only=True) as session:
        return session.scalars(select(OutboxRow).where(OutboxRow.task_id == task_id)).one()


def record(task_id: str) -> bytes:
    return row(task_id).record


# --- what cannot be sent ------------------------------------------------------------------


UNREADABLE = {
    "empty": b"",
    "no JSON": b"\x80\x04K\x01.",
    "cut off": b'["default_a", null, ["orig',
    "a newer version's": b'{"version": 2, "task": {}}',
    "another task's": b'["default_other", null, ["description", "POST /x"], [false, false]]',
    "no text": b'["TASK", null, ["description", 5], [false, false]]',
    "a field without a value": b'["TASK", null, ["description"], [false]]',
    "an instant that is none": b'["TASK", NaN, ["description", "POST /x"], [false, false]]',
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("damaged", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_row_that_cannot_be_read_is_set_aside_and_the_others_go_out(
    scripts: Scripts, unsent: list[str], damaged: bytes
) -> None:
    change(unsent[1], record=damaged.replace(b"TASK", unsent[1].encode()))

    with capture_logs() as logged:
        assert relays.relay(later()) == 4
        assert relays.relay(later()) == 0

    assert scripts.ready() == [unsent[0], *unsent[2:]]
    [event] = [entry for entry in logged if entry["event"] == "outbox.set_aside"]
    assert (event["task"], event["log_level"]) == (unsent[1], "error")
    assert "newer version" in event["remedy"]
    with datastore.session(read_only=True) as session:
        row = session.scalars(select(OutboxRow).where(OutboxRow.task_id == unsent[1])).one()
    assert (row.error, row.sent_at) == (event["error"], None)
    assert row.set_aside_at is not None


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_record_that_was_made_text_by_hand_does_not_stop_the_others(
    scripts: Scripts, unsent: list[str]
) -> None:
    """PostgreSQL would refuse the text."""
    with datastore.session() as session:
        statement = text("UPDATE lastacross_outbox SET record = 'by hand' WHERE task_id = :id")
        session.execute(statement, {"id": unsent[0]})

    assert relays.relay(later()) == 4
    assert scripts.ready() == unsent[1:]


def test_a_row_that_redis_refuses_is_set_aside_alone(
    scripts: Scripts, unsent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason, here one that shows in sending only."""
    add_tasks = steps.Broker.add

    def refuse_one(self: steps.Broker, tasks: list[steps.NewTask]) -> list[int]:
        if unsent[2] in [task.id for task in tasks]:
            raise RuntimeError("refused")
        return add_tasks(self, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(steps.Broker, "add", refuse_one)
        assert relays.relay(later()) == 4
    assert scripts.ready() == [*unsent[:2], *unsent[3:]]

    assert relays.retry_set_aside(later()) == 1
    assert scripts.ready()[-1] == unsent[2]


def test_what_was_set_aside_is_taken_up_by_a_program_that_can_read_it(
    scripts: Scripts, unsent: list[str]
) -> None:
    """It is kept until then, and told once."""
    good = record(unsent[0])
    change(unsent[0], record=b'{"version": 2}')
    relays.relay(later())

    with capture_logs() as logged:
        assert relays.retry_set_aside(later(120)) == 0
    assert logged == []
    change(unsent[0], record=good)

    assert (relays.retry_set_aside(later(180)), relays.retry_set_aside(later(240))) == (1, 0)
    assert scripts.ready() == [*unsent[1:], unsent[0]]
    relays.forget_sent(later(300))
    assert rows() == 0


def test_what_was_set_aside_and_then_sent_can_be_set_aside_again(scripts: Scripts, unsent: list[str]) -> None:
    """Once by a program that cannot read it; and when Redis has lost it, by that program again."""
    good, unreadable = record(unsent[0]), b'{"version": 2}'
    change(unsent[0], record=unreadable)
    relays.relay(later())
    change(unsent[0], record=good)
    relays.retry_set_aside(later(120))
    assert (row(unsent[0]).set_aside_at, row(unsent[0]).error) == (None, None)
    change(unsent[0], record=unreadable)
    scripts.redis.flushall()

    again = later(240)
    with capture_logs() as logged:
        assert relays.forget_sent(again) == 4
        assert relays.forget_sent(again) == 0

    assert [entry["task"] for entry in logged if entry["event"] == "outbox.set_aside"] == [unsent[0]]
    assert (row(unsent[0]).sent_at, row(unsent[0]).set_aside_at) == (None, again)


def test_a_row_that_is_noted_as_sent_and_as_set_aside_is_set_aside(
    scripts: Scripts, unsent: list[str]
) -> None:
    """As an earlier version left it."""
    change(unsent[0], record=b"?", sent_at=later(-600), set_aside_at=later(-900))

    assert relays.forget_sent(later(0)) == 0

    assert row(unsent[0]).sent_at is None


def test_lost_rows_that_stay_as_they_are_are_met_once_each(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that cannot be sent, or noted, keeps a scheduler from its other work."""
    add(5)
    add(2)
    scripts.redis.flushall()
    met: list[int] = []

    def send_again(ids: Sequence[int], at: float) -> int:
        met.extend(ids)
        assert len(met) < 20
        return 0

    monkeypatch.setattr(relays, "_send_again", send_again)
    monkeypatch.setattr(relays, "FORGET_CHUNK", 2)
    relays.forget_sent(later(62))

    assert (len(met), len(set(met))) == (7, 7)


def test_a_hundred_rows_that_cannot_be_read_do_not_hold_up_the_next(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "_send_committed", lambda noted: None)
        ids = [each for _ in range(22) for each in add(5)]
    with datastore.session() as session:
        session.execute(update(OutboxRow).where(OutboxRow.task_id.in_(ids[:105])).values(record=b"?"))

    assert relays.relay(later()) == 5

    assert scripts.ready() == ids[105:]
    assert rows() == 110


def test_an_outage_sets_nothing_aside(scripts: Scripts, unsent: list[str]) -> None:
    there = store.current()
    store.use(Store("unix:///nowhere/redis.sock"))
    with pytest.raises(StoreUnavailableError):
        relays.relay(later())
    store.use(there)

    assert relays.relay(later()) == 5


def test_a_task_of_a_queue_that_is_gone_is_sent_and_waits_there(scripts: Scripts, unsent: list[str]) -> None:
    """As what was in that queue before: it runs when queue.yaml lists it again."""
    task_id = unsent[0].replace("default_", "vanished_")
    fields = json.loads(record(unsent[0]).replace(b"default", b"vanished"))
    change(unsent[0], queue="vanished", task_id=task_id, record=json.dumps(fields).encode())

    assert relays.relay(later()) == 5

    assert scripts.ready("vanished") == [task_id]
    assert len(scripts.ready()) == 4
    scripts.configure("vanished")
    assert [each for each, _ in scripts.lease("vanished")] == [task_id]


# --- what Redis has lost ------------------------------------------------------------------


def test_a_sent_row_is_kept_for_a_minute(scripts: Scripts) -> None:
    add(3)
    assert rows() == 3

    assert relays.forget_sent(later(58)) == 0
    assert rows() == 3
    assert relays.forget_sent(later(62)) == 0
    assert rows() == 0


@pytest.mark.parametrize("end", ["waits", "done", "dead", "deleted", "purged"])
def test_a_task_that_redis_has_kept_or_that_has_ended_is_not_sent_again(scripts: Scripts, end: str) -> None:
    [task_id] = add()
    if end == "deleted":
        taskqueue.Queue().delete_tasks_by_name(task_id.partition("_")[2])
    elif end == "purged":
        taskqueue.Queue().purge()
    elif end != "waits":
        [lease] = scripts.lease()
        if end == "done":
            scripts.ack(lease)
        else:
            scripts.run("dead_letter_task", scripts.now, *lease, 500, "")
    before = scripts.state(task_id)

    assert relays.forget_sent(later(62)) == 0

    assert (scripts.state(task_id), rows()) == (before, 0)


def test_what_redis_has_lost_is_sent_again_and_kept_for_another_minute(scripts: Scripts) -> None:
    [kept, lost] = add(2)
    scripts.redis.delete(store.record_key(lost))
    scripts.redis.lrem(store.ready_key("default"), 0, lost)

    assert relays.forget_sent(later(62)) == 1

    assert scripts.ready() == [kept, lost]
    assert rows() == 1
    assert (relays.forget_sent(later(124)), rows()) == (0, 0)


def test_an_emptied_redis_gets_the_tasks_of_the_last_minute_again(scripts: Scripts) -> None:
    ids = [each for _ in range(150) for each in add(5)]
    scripts.redis.flushall()

    assert relays.forget_sent(later(62)) == 750

    assert sorted(scripts.ready()) == sorted(ids)


def test_a_task_that_ended_more_than_an_hour_ago_is_not_taken_for_lost(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scheduler ran for an hour, and the markers are gone."""
    monkeypatch.setattr(scripts.redis, "info", lambda section: {"uptime_in_seconds": 86_400})
    add()
    scripts.ack(*scripts.lease())
    scripts.redis.delete(*scripts.redis.keys("lastacross:tombstone:*"))

    assert relays.forget_sent(later(3700)) == 0

    assert (scripts.ready(), rows()) == ([], 0)


def test_rows_sent_to_another_life_of_redis_are_sent_again_however_long_it_was_unavailable(
    scripts: Scripts,
) -> None:
    [task_id] = add()
    change(task_id, sent_at=clock.SYSTEM.now() - 7 * 86_400)
    scripts.redis.flushall()

    assert relays.forget_sent(later(0)) == 1

    assert scripts.ready() == [task_id]


@pytest.fixture
def one_redis(tmp_path: Path, scripts: Scripts) -> Iterator[RedisServer]:
    """A server for one test, with an append-only file, in use by this process."""
    server = RedisServer(server_binary(), tmp_path, append_only=True)
    server.start()
    before = store.current()
    opened = Store(server.url)
    store.use(opened)
    yield server
    store.use(before)
    opened.close()
    server.stop()


@pytest.mark.slow
def test_a_power_cut_that_costs_redis_its_last_second_costs_no_task(
    one_redis: RedisServer, tmp_path: Path
) -> None:
    [kept] = add()
    [log] = tmp_path.glob("appendonlydir/*.incr.aof")
    length = log.stat().st_size
    lost = add(2)
    one_redis.kill()
    assert log.stat().st_size > length
    with log.open("ab") as file:
        file.truncate(length)
    one_redis.start()
    ready = store.ready_key("default")
    assert store.current().redis.lrange(ready, 0, -1) == [kept.encode()]

    assert relays.forget_sent(later(62)) == 2

    assert store.current().redis.lrange(ready, 0, -1) == [each.encode() for each in [kept, *lost]]
