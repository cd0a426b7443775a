"""The table of what a worker process runs, read by its supervisor after its death."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lastacross import store, taskqueue
from lastacross.broker import queue_directory
from lastacross.broker.steps import Broker
from lastacross.worker import started
from lastacross.worker.started import StartedTable
from tests.support.clock import StoppedClock

LONGEST = f"{'q' * 100}_{'n' * 500}:{'f' * 16}.1234567890"


def test_what_has_begun_and_not_ended_is_read_back(tmp_path: Path) -> None:
    table = StartedTable(tmp_path / "table", "token", 3)
    table.note(0, "default_a:token.1")
    table.note(2, LONGEST)
    table.note(1, "default_b:token.2")
    table.clear(1)
    assert started.started_entries(tmp_path / "table") == ("token", ["default_a:token.1", LONGEST])
    table.close()


def test_a_shorter_entry_leaves_nothing_of_a_longer_one_before(tmp_path: Path) -> None:
    table = StartedTable(tmp_path / "table", "token", 1)
    table.note(0, LONGEST)
    table.note(0, "default_a:token.1")
    assert started.started_entries(tmp_path / "table")[1] == ["default_a:token.1"]
    table.close()


def test_a_process_that_left_no_table_held_nothing(tmp_path: Path, test_store: store.Store) -> None:
    assert started.started_entries(tmp_path / "none") == ("", [])
    assert started.report_death(tmp_path / "none", test_store, ["default"]) == {}


def test_the_next_process_begins_an_empty_table(tmp_path: Path) -> None:
    StartedTable(tmp_path / "table", "one", 2).note(0, "default_a:one.1")
    StartedTable(tmp_path / "table", "two", 2)
    assert started.started_entries(tmp_path / "table") == ("two", [])


def test_the_table_outlives_a_kill(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from lastacross.worker.started import StartedTable\n"
        "table = StartedTable(pathlib.Path(sys.argv[1]), 'token', 1)\n"
        "table.note(0, 'default_a:token.1')\n"
        "print('noted', flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "table")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"noted\n"
        os.kill(process.pid, signal.SIGKILL)
    assert started.started_entries(tmp_path / "table") == ("token", ["default_a:token.1"])


def test_a_death_gives_all_back_and_holds_it_against_what_had_begun(
    tmp_path: Path, test_store: store.Store, clock: StoppedClock
) -> None:
    queue_directory.upload_if_missing(test_store)
    taskqueue.Queue("default").add([taskqueue.Task(url="/w", name=name) for name in ("a", "b", "c")])
    broker = Broker(test_store)
    grant = broker.lease(["default"], token="dead", number=0, wanted=2, free=8, lease_seconds=8)
    others = broker.lease(["default"], token="alive", number=0, wanted=1, free=8, lease_seconds=8)
    table = StartedTable(tmp_path / "table", "dead", 2)
    table.note(1, grant.tasks[0].entry)

    outcomes = started.report_death(tmp_path / "table", test_store, ["default"])

    assert outcomes == {"default_a": "ready", "default_b": "ready"}
    records = {name: test_store.redis.hgetall(f"rq:job:default_{name}") for name in "abc"}
    assert records["a"][b"suspect"] == b"1"
    assert records["a"][b"lost"] == b"1"
    assert b"suspect" not in records["b"]
    assert b"lost" not in records["b"]
    assert records["c"][b"status"] == b"started"
    assert broker.renew(others.tasks, set(), 8) == [True]
    assert not (tmp_path / "table").exists()


def test_noting_costs_next_to_nothing(tmp_path: Path) -> None:
    table = StartedTable(tmp_path / "table", "token", 1)
    began_at = time.process_time()
    for _ in range(10_000):
        table.note(0, "default_a1b2c3d4e5f6:0011223344556677.123")
        table.clear(0)
    each_us = (time.process_time() - began_at) * 100
    table.close()
    print(f"note and clear: {each_us:.1f} µs")
    assert each_us < 100
