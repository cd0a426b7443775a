"""Records of tasks that something damaged, before a real worker: each is dead or done, and all goes on."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import rq
from rq import command

from lastacross import config, store, taskqueue
from tests.support.damage import BAD_VALUES, flip, write_over
from tests.support.lab import Lab, worker_pids
from tests.support.processes import wait_until
from tests.support.redis_server import running_server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("damaged_tasks")]

# Nothing reads these of a push task, or anything will do. A body is the application's affair.
HARMLESS = {
    "origin",
    "created_at",
    "data",
    "lease",
    "started",
    "suspect",
    "fired_at",
    "fired_by",
    "tag",
    "leases",
}
# One may be missing: then it has its default.
OPTIONAL = {
    *("headers", "retry", "deadline", "tombstone", "request", "target", "failures", "lost", "unreached"),
    *("crashes", "previous_response", "first_try_at", "dead_at", "error", "batch", "group"),
}
# Any text is one.
TEXTS = {"target", "request", "previous_response", "group", "error", "dead_at"}
FIELDS = sorted({"description", "eta", "status"} | HARMLESS | OPTIONAL)

CASES = [(name, kind) for name in FIELDS for kind in BAD_VALUES]


def must_die(name: str, kind: str) -> bool:
    """Whether such a task must not be delivered."""
    if name in HARMLESS or (name in OPTIONAL and kind == "missing"):
        return False
    return name not in TEXTS or (kind == "not UTF-8" and name not in ("error", "dead_at"))


@dataclass
class Seen:
    """The end of it all.

    ``errors`` has, for each case, what its dead letter says, None if it was done.
    """

    errors: dict[tuple[str, str], str | None] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    healthy: int = 0
    progress: taskqueue.Progress | None = None
    completions: int = 0
    wrong_type: str = ""
    log: str = ""
    pids: list[list[int]] = field(default_factory=list)
    was_drained: bool = False


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """All cases at once: one batch, each member damaged in its own way, healthy tasks behind it."""
    with tempfile.TemporaryDirectory(prefix="la-damaged-") as folder, running_server() as server:
        lab = Lab(Path(folder), server)
        config.use(lab.config)
        store.use(lab.store)
        try:
            yield look(lab)
        finally:
            store.use(None)
            config.use(None)
            lab.store.close()


def look(lab: Lab) -> Seen:
    """Damage, work, and look."""
    redis: Any = lab.store.redis
    complete = taskqueue.Task(url="/complete")
    with taskqueue.Batch(name="all", on_complete=complete) as batch:
        batch.add(taskqueue.Task(url="/work") for _ in range(len(CASES) + 1))
    for index, (name, kind) in enumerate(CASES):
        flip(redis, store.record_key(f"default_all-{index}"), name, BAD_VALUES[kind])
    write_over(redis, store.record_key(f"default_all-{len(CASES)}"))
    redis.rpush(store.ready_key("default"), b"default_\xff\xfe")
    redis.hset(b"rq:job:default_\xff\xfe", mapping={"status": "queued", "eta": "1", "data": "x"})
    healthy = [taskqueue.add(url="/healthy") for _ in range(8)]

    seen = Seen()
    with lab.workers(1) as running:
        [worker] = rq.Worker.all(connection=redis)
        seen.pids.append(worker_pids(running))
        redis.publish(worker.pubsub_channel_name, "no JSON")
        redis.publish(worker.pubsub_channel_name, b"\xff\xfe")
        redis.publish(worker.pubsub_channel_name, "[1]")
        lab.wait_for(len(healthy), "/healthy", 120)
        wait_until(lambda: lab.ran("/complete"), 60, "the batch to complete")
        # All eight threads live: eight tasks run at once.
        taskqueue.Queue().add([taskqueue.Task(url="/last", params={"seconds": 0.3}) for _ in range(8)])
        lab.wait_for(8, "/last", 60)
        wait_until(lambda: redis.zcard(store.leased_key("default")) == 0, 20, "all to be settled")
        seen.pids.append(worker_pids(running))
        command.send_shutdown_command(redis, worker.name)
        wait_until(lambda: "worker.drain" in running.text(), 30, "the command to be heard")
        seen.was_drained = True
        seen.log = running.text()
    seen.healthy = lab.ran("/healthy").total()
    seen.completions = lab.ran("/complete").total()
    seen.progress = batch.progress()
    seen.ran = set(lab.ran("/work"))
    for index, case in enumerate(CASES):
        dead = redis.zscore(store.dead_key("default"), f"default_all-{index}") is not None
        error = redis.hget(store.record_key(f"default_all-{index}"), "error") or b""
        seen.errors[case] = error.decode("utf-8", "replace") if dead else None
    found = redis.hget(store.record_key(f"default_all-{len(CASES)}"), "error")
    seen.wrong_type = (found or b"").decode()
    return seen


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case).replace(" ", "_"))
def test_a_damaged_record_is_a_dead_letter_that_says_what_is_wrong(seen: Seen, case: tuple[str, str]) -> None:
    name, kind = case
    error = seen.errors[case]
    has_run = f"all-{CASES.index(case)}" in seen.ran

    assert has_run == (error is None)
    if must_die(name, kind):
        assert error is not None
    if error is not None:
        assert error.startswith("damaged: its ") or "a plain RQ job" in error
        assert name in error or "a plain RQ job" in error


def test_a_record_of_the_wrong_type_is_one_too(seen: Seen) -> None:
    assert seen.wrong_type == "damaged: its record was a string, not a hash"


def test_each_counts_in_its_batch_once_and_the_batch_completes_once(seen: Seen) -> None:
    assert seen.progress is not None
    failed = sum(error is not None for error in seen.errors.values()) + 1
    # A task that has lost the field that names its batch, and has run, is as one that was deleted.
    nameless = 1
    assert seen.progress.total == len(CASES) + 1
    assert seen.progress.failed == failed
    assert seen.progress.cancelled == nameless
    assert seen.progress.done == len(CASES) + 1 - failed - nameless
    assert seen.completions == 1


def test_what_is_healthy_is_done_and_every_thread_lives(seen: Seen) -> None:
    assert seen.healthy == 8
    assert seen.pids[0] == seen.pids[1]
    assert len(seen.pids[0]) == 1
    assert "worker.thread_ended" not in seen.log
    assert "worker.turn_failed" not in seen.log
    assert "worker.command_refused" in seen.log
    assert seen.was_drained


SABOTAGE = """\
    if path == "/sabotage":
        import ctypes
        import threading

        [renewer] = [thread for thread in threading.enumerate() if thread.name == "renewer"]
        end = ctypes.c_void_p(id(SystemExit))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(renewer.ident), end)
"""


def test_a_thread_that_ends_in_spite_of_its_guard_is_replaced_with_its_process() -> None:
    with tempfile.TemporaryDirectory(prefix="la-damaged-") as folder, running_server() as server:
        lab = Lab(Path(folder), server)
        main = lab.root / "main.py"
        main.write_text(main.read_text().replace("    if path ==", f"{SABOTAGE}    if path ==", 1))
        config.use(lab.config)
        store.use(lab.store)
        try:
            with lab.workers(1) as running:
                before = worker_pids(running)
                taskqueue.add(url="/sabotage")
                wait_until(lambda: "worker.thread_ended" in running.text(), 60, "its end to be seen")
                wait_until(lambda: worker_pids(running) not in (before, []), 60, "another process")
                taskqueue.add(url="/healthy")
                lab.wait_for(1, "/healthy", 60)
                assert lab.ran("/healthy").total() == 1
        finally:
            store.use(None)
            config.use(None)
            lab.store.close()
