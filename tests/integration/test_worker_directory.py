"""Worker processes show what they run, and each can be drained alone."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rq import command

from lastacross import __version__, store, taskqueue
from lastacross.broker import STATUS_FIELD, WorkerDirectory, WorkerProcess, WorkerStatus
from lastacross.broker.workers import load_status
from lastacross.store import Store
from lastacross.worker.rq_compat import RqWorker
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import is_alive, wait_until

STATUS = WorkerStatus(
    "1.2", 8, 1, 3, (("default_a", 1_800_000_000.5),), 98_000_000, ("default",), False, "no", "default_b", 5.0
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application that notes what it runs, on a Redis of its own."""
    with running_lab() as made:
        yield made


def test_a_status_can_be_stored() -> None:
    assert load_status(STATUS.dump().encode()) == STATUS


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"\xff", b"{}", b'{"release":"1","last_error_at":null}'])
def test_a_malformed_status_is_left_out(text: bytes) -> None:
    assert load_status(text) is None


def test_a_status_is_bounded() -> None:
    running = tuple((f"default_{number}", 1.0) for number in range(1000))
    text = WorkerStatus("1", 8, 8, 0, running, 1, ("default",), last_error="x" * 5000).dump()

    assert len(text) < 3000


def registered(opened: Store, name: str) -> Any:
    """A registered worker of RQ's."""
    worker: Any = RqWorker(["default", "other"], name=name, connection=opened.redis)
    worker.register_birth()
    return worker


def test_workers_of_rq_and_of_the_former_release_have_no_status(test_store: Store) -> None:
    registered(test_store, "lastacross-host-7")
    registered(test_store, "stock")

    ours, stock = WorkerDirectory(test_store).all()

    assert (ours.name, ours.is_ours, stock.is_ours) == ("lastacross-host-7", True, False)
    assert (ours.queues, ours.status, ours.done) == (("default", "other"), None, 0)
    assert ours.heartbeat_at is not None
    assert ours.heartbeat_at == ours.born_at


def test_ended_and_expired_workers_are_left_out(test_store: Store) -> None:
    ended, _ = registered(test_store, "lastacross-ended"), registered(test_store, "lastacross-expired")
    ended.register_death()
    test_store.redis.sadd(store.RQ_WORKERS, ended.key)
    test_store.redis.delete("rq:worker:lastacross-expired")
    test_store.redis.sadd(store.RQ_WORKERS, "rq:worker:lastacross-string")
    test_store.redis.set("rq:worker:lastacross-string", "x")

    assert WorkerDirectory(test_store).all() == []


def test_only_a_listening_worker_of_ours_is_drained(test_store: Store) -> None:
    directory = WorkerDirectory(test_store)
    assert not directory.drain("lastacross-nobody")
    with test_store.redis.pubsub() as listener:
        listener.subscribe("rq:pubsub:stock")
        listener.get_message(timeout=1)
        assert not directory.drain("stock")


def test_the_drain_is_the_command_of_rq(test_store: Store) -> None:
    messages: list[Any] = []
    with test_store.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(command.PUBSUB_CHANNEL_TEMPLATE % "lastacross-a")
        listener.get_message(timeout=1)
        assert WorkerDirectory(test_store).drain("lastacross-a")
        command.send_shutdown_command(test_store.redis, "lastacross-a")
        while len(messages) < 2:
            if message := listener.get_message(timeout=5):
                messages.append(json.loads(message["data"]))

    assert messages[0] == messages[1]


@pytest.mark.slow
def test_a_worker_shows_what_it_runs_and_is_drained(lab: Lab) -> None:
    directory = WorkerDirectory(lab.store)

    def shown() -> tuple[WorkerProcess, WorkerStatus]:
        [worker] = directory.all()
        assert worker.status is not None
        return worker, worker.status

    with lab.workers(1, threads=2) as running:
        taskqueue.Queue().add(taskqueue.Task(url="/work", name="fails", params={"statuses": "500,200"}))
        taskqueue.Queue().add(taskqueue.Task(url="/work", name="slow", params={"seconds": "4"}))
        wait_until(lambda: all(each.status is not None for each in directory.all()), 30)
        wait_until(lambda: shown()[1].last_error != "", 30)
        wait_until(lambda: [task for task, _ in shown()[1].running] == ["default_slow"], 30)
        worker, status = shown()
        [pid] = worker_pids(running)
        assert (worker.pid, worker.state, status.release) == (pid, "busy", __version__)
        assert (status.threads, status.busy, status.groups) == (2, 1, ("default",))
        assert (status.last_error, status.last_error_task) == ("answered 500", "default_fails")
        memory_mb = status.memory_bytes / 1e6
        assert memory_mb > 10
        [(_, started_at)] = status.running
        assert 0 <= lab.store.now() - started_at < 60

        assert directory.drain(worker.name)
        wait_until(lambda: shown()[1].is_draining, 10)
        wait_until(lambda: not is_alive(pid), 30)
        assert lab.ran("/work")["slow"] == 1
        wait_until(lambda: [each.name for each in directory.all()] not in ([], [worker.name]), 60)


def test_the_status_is_one_field_of_rqs_hash(test_store: Store) -> None:
    worker = registered(test_store, "lastacross-host-7")
    test_store.redis.hset(worker.key, STATUS_FIELD, STATUS.dump())

    [found] = WorkerDirectory(test_store).all()
    worker.refresh()

    assert found.status == STATUS
