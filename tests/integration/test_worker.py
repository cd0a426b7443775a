"""Worker processes at work: when they deliver, how they share, how they stop, what RQ's tools see."""

import inspect
import re
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rq
from rq import command, registry, suspension
from rq import worker as rq_worker

from lastacross import store, taskqueue
from lastacross.store import ready_key
from lastacross.worker.rq_compat import RqWorker
from lastacross.worker.worker import Worker
from tests.support import recording
from tests.support.history import EMPTIED
from tests.support.lab import Lab, running_lab, worker_pids
from tests.support.processes import is_alive, wait_until
from tests.support.uploads import upload

slow = pytest.mark.slow


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application that notes what it runs, on a Redis of its own."""
    with running_lab() as made:
        yield made


def work(**params: Any) -> taskqueue.Task:
    """A task of the lab's ``/work``."""
    return taskqueue.Task(url="/work", params=params)


def add_short_tasks(count: int) -> None:
    """Tasks of 5 ms of ``default``, which no limit binds."""
    with taskqueue.Batch() as batch:
        batch.add(work(seconds="0.005") for _ in range(count))


def change_handler(lab: Lab, line: str) -> None:
    """Let the lab's handler do something else first."""
    main = lab.root / "main.py"
    main.write_text(main.read_text().replace("    if path ==", f"{line}    if path ==", 1))


# --- retries ------------------------------------------------------------------------------


@slow
def test_a_task_that_fails_twice_is_delivered_at_the_times_of_the_back_off_table(lab: Lab) -> None:
    options = taskqueue.TaskRetryOptions(min_backoff_seconds=0.5, max_doublings=5)
    with lab.workers(1):
        taskqueue.add(
            url="/work", name="third-time", params={"statuses": "503,404,200"}, retry_options=options
        )
        lab.wait_until_idle(60)

    begun = [note for note in lab.notes() if note["what"] == "begin"]
    ended = [note for note in lab.notes() if note["what"] == "end"]
    waits = [begin["at"] - end["at"] for begin, end in zip(begun[1:], ended, strict=False)]
    print(f"waits before the retries: {[round(wait, 3) for wait in waits]} s; the table says 0.5, 1")
    # Never early; how late depends on the machine.
    assert 0.5 <= waits[0] < 10
    assert 1.0 <= waits[1] < 10
    assert [note["retry_count"] for note in begun] == [0, 1, 2]
    assert [note["execution_count"] for note in begun] == [0, 1, 2]
    assert [note["previous_response"] for note in begun] == [None, "503", "404"]


@slow
def test_a_task_that_fails_for_good_is_a_dead_letter_and_failed_in_its_batch(lab: Lab) -> None:
    with lab.workers(1):
        complete = taskqueue.Task(url="/complete")
        with taskqueue.Batch("limited", on_complete=complete) as batch:
            batch.add([work(statuses="500"), work(), work()])
        lab.wait_for(1, "/complete", 60)

    progress = batch.progress()
    assert (progress.total, progress.done, progress.failed) == (3, 2, 1)
    assert lab.ran("/complete").total() == 1
    assert lab.ran("/work", "begin")[f"{batch.id}-0"] == 2
    assert lab.dead("limited") == [f"{batch.id}-0"]
    assert lab.record(f"limited_{batch.id}-0")["error"] == "answered 500"


@slow
def test_a_handler_over_its_deadline_is_cut_off_and_retried(lab: Lab) -> None:
    params = {"turns": "1", "statuses": "200"}
    taskqueue.add(url="/work", name="turns", params=params)
    taskqueue.add(url="/work", name="short")
    # Shorter than an application may ask for.
    lab.store.redis.hset(store.record_key("default_turns"), "deadline", "1.0")
    with lab.workers(1):
        lab.wait_for(2, "/work", 60)
    begun = [note for note in lab.notes() if note["task"] == "turns" and note["what"] == "begin"]
    took = begun[1]["at"] - begun[0]["at"]
    print(f"deadline 1 s, back-off 0.1 s: the second attempt began {took:.2f} s after the first")
    assert 1.1 <= took < 15
    assert begun[1]["previous_response"] == "500"
    assert begun[0]["pid"] == begun[1]["pid"]


# --- stopping -----------------------------------------------------------------------------


@slow
def test_sigterm_lets_running_tasks_finish_and_gives_the_others_back(lab: Lab) -> None:
    may_end = lab.root / "may-end"
    change_handler(lab, f"    while not os.path.exists({str(may_end)!r}):\n        time.sleep(0.02)\n")
    with lab.started_workers(1, threads=2) as running:
        taskqueue.Queue().add([work() for _ in range(10)])
        wait_until(lambda: len(lab.ran(what="begin")) == 2)
        running.send(signal.SIGTERM)
        wait_until(lambda: lab.open_tasks() == {"ready default": 8, "leased default": 2}, what="released")
        may_end.touch()
        assert running.wait() == 0
    assert lab.ran("/work").total() == 2
    assert lab.open_tasks() == {"ready default": 8}

    with lab.workers(2):
        lab.wait_for(10, "/work", 60)
    assert set(lab.ran("/work", "begin").values()) == {1}


@slow
def test_a_task_longer_than_the_patience_of_dev_is_given_back_and_not_suspect(lab: Lab) -> None:
    """`dev` kills what has not ended 10 s after Ctrl-C: a task must not become poison by that."""
    lab.environ["LASTACROSS_DEV"] = "1"
    with lab.started_workers(1, threads=1) as running:
        taskqueue.add(url="/work", name="long", params={"seconds": "60"})
        wait_until(lambda: lab.ran(what="begin").total() == 1)
        running.send(signal.SIGTERM)
        assert running.wait(30) == 0
    assert lab.open_tasks() == {"ready default": 1}
    assert lab.record("default_long").keys().isdisjoint({"crashes", "suspect", "lost", "lease"})


@slow
def test_the_shutdown_command_of_rq_drains_one_worker_process(lab: Lab) -> None:
    with lab.workers(1, threads=2) as running:
        [name] = [worker.name for worker in rq.Worker.all(connection=lab.store.redis)]
        taskqueue.Queue().add([work(seconds="1") for _ in range(2)])
        wait_until(lambda: len(lab.ran(what="begin")) == 2)
        [pid] = worker_pids(running)
        command.send_shutdown_command(lab.store.redis, name)
        wait_until(lambda: not is_alive(pid), 30)
        assert set(lab.ran("/work").values()) == {1}
        assert len(lab.ran("/work")) == 2
        # The supervisor's business is to have one.
        wait_until(lambda: len(worker_pids(running)) == 1)


# --- waking up and sharing ----------------------------------------------------------------


@slow
@pytest.mark.alone
def test_an_idle_worker_starts_a_task_within_milliseconds_and_asks_redis_little(lab: Lab) -> None:
    with lab.workers(1):
        time.sleep(1.5)
        calls = _calls_per_second(lab, 5.0)
        delays_ms = []
        for index in range(30):
            time.sleep(0.05)
            added_at = time.time()
            taskqueue.add(url="/work", name=f"n{index}")
            wait_until(lambda index=index: f"n{index}" in lab.ran(), 30)  # type: ignore[misc]
            [begin] = [
                note for note in lab.notes() if note["task"] == f"n{index}" and note["what"] == "begin"
            ]
            delays_ms.append((begin["at"] - added_at) * 1000)
    delays_ms.sort()
    print(
        f"measured idle worker: {calls:.1f} calls/s; add to start: median {delays_ms[15]:.1f} ms "
        f"(promised: 20), worst {delays_ms[-1]:.1f} ms"
    )
    # Each second: promote, rescue, lease, and whether there was another upload; the rest every five seconds.
    assert calls < 7
    assert delays_ms[15] < 60


def _calls_per_second(lab: Lab, seconds: float) -> float:
    """Commands that clients send; INFO would count those inside of scripts too."""
    heard = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(lab.redis_server.url.removeprefix("unix://"))
        connection.sendall(b"MONITOR\r\n")
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([connection], [], [], left)[0]:
                heard += connection.recv(65536)
    # A transaction goes as one; what scripts do costs no round trip.
    calls = [line for line in heard.splitlines()[1:] if not re.search(rb' lua\] |"(MULTI|EXEC)"', line)]
    return len(calls) / seconds


@slow
def test_seven_long_tasks_do_not_hold_up_the_short_ones(lab: Lab) -> None:
    with lab.workers(2, threads=4):
        taskqueue.Queue().add([work(seconds="5") for _ in range(7)])
        taskqueue.Queue().add([taskqueue.Task(url="/short") for _ in range(90)])
        seconds = lab.wait_for(90, "/short", 60)
        print(f"90 short tasks beside 7 long ones on 8 threads: {seconds:.2f} s")
        assert lab.ran("/work").total() == 0
        lab.wait_for(7, "/work", 60)


@slow
def test_limited_queues_and_tasks_to_run_now_are_served_while_others_keep_all_threads_busy(lab: Lab) -> None:
    """Tasks of queues with limits of their own, and one that an operator runs now."""
    limited = taskqueue.Queue("limited")
    limited.add(taskqueue.Task(url="/short", name="hurry", countdown=1000))
    with lab.workers(1):
        add_short_tasks(6000)
        lab.wait_for(100, "/work", 60)
        starts: list[Callable[[], object]] = [
            lambda: limited.add(taskqueue.Task(url="/short")),
            lambda: taskqueue.Queue("three").add(taskqueue.Task(url="/short")),
            lambda: limited.run_now("hurry"),
        ]
        for number, start in enumerate(starts, 1):
            start()
            seconds = lab.wait_for(number, "/short", 60)
            waiting = lab.store.redis.llen(ready_key("default"))
            print(f"it was run {seconds:.3f} s after it was asked for, {waiting} others still wait")
            assert waiting > 1000


SLOW_RATE = """\
queue:
- name: slow-rate
  rate: 1/s
  bucket_size: 1
- name: three
  rate: 50000/s
  bucket_size: 500
  max_concurrent_requests: 3
"""


@slow
def test_a_full_worker_passes_on_the_marker_of_a_queue_with_a_limit() -> None:
    """It still waits for one: what it runs came by the bucket's time."""
    with running_lab(files={"queue.yaml": SLOW_RATE}) as lab, lab.workers(2, threads=1):
        for number in range(3):
            taskqueue.Queue("slow-rate").add([work(), work(seconds="2")])
            wait_until(lambda number=number: lab.ran("/work", "begin").total() == 2 * number + 2)  # type: ignore[misc]
            taskqueue.Queue("three").add(taskqueue.Task(url="/short"))
            seconds = lab.wait_for(number + 1, "/short", 60)
            print(f"a task of three was run {seconds:.3f} s after it was added")
            assert seconds < 1.5
            lab.wait_until_idle(60)


@slow
def test_two_workers_share_tasks_that_are_slower_than_those_before(lab: Lab) -> None:
    with lab.workers(2, threads=1):
        with taskqueue.Batch() as batch:
            batch.add(taskqueue.Task(url="/short") for _ in range(4000))
        lab.wait_for(4000, "/short", 180)
        taskqueue.Queue().add([work(seconds="0.04") for _ in range(100)])
        lab.wait_for(100, "/work", 60)
    pids = Counter(note["pid"] for note in lab.notes() if note["path"] == "/work" and note["what"] == "end")
    print(f"100 tasks of 40 ms: {sorted(pids.values())}")
    assert min(pids[pid] for pid in pids) >= 30
    assert len(pids) == 2


@slow
def test_a_full_bucket_is_spent_on_tasks_that_run() -> None:
    with running_lab(
        files={"queue.yaml": "queue:\n- name: default\n  rate: 1/s\n  bucket_size: 100\n"}
    ) as lab:
        taskqueue.Queue().add([work(seconds="0.2") for _ in range(80)])
        with lab.workers(2):
            lab.wait_for(1, "/work", 60)
            lab.wait_for(80, "/work", 40)


@slow
def test_a_queue_of_three_at_once_never_has_a_fourth_under_way(lab: Lab) -> None:
    with lab.workers(2, threads=4):
        taskqueue.Queue("three").add([work(seconds="0.05") for _ in range(60)])
        seconds = lab.wait_for(60, "/work", 60)
    under_way, most = 0, 0
    for note in lab.notes():
        under_way += 1 if note["what"] == "begin" else -1
        most = max(most, under_way)
    print(f"60 tasks of 50 ms, three at once: {seconds:.2f} s (1.0 at best), at most {most} under way")
    assert most == 3
    # Twenty seconds, if each freed place waited for the next look of the workers.
    assert seconds < 10


@slow
def test_a_queue_that_its_file_does_not_list_and_an_emptied_redis_forgot_holds_up_nobody(lab: Lab) -> None:
    """Another machine has a newer queue.yaml, adds to its queue, and Redis knows no settings for it."""
    redis: Any = lab.store.redis
    with lab.workers(1):
        upload(lab.store, ["default", "newer"])
        wait_until(lambda: "newer" in {queue.name for queue in rq.Worker.all(connection=redis)[0].queues}, 30)
        taskqueue.add(url="/work", name="waits", queue_name="newer", countdown=1000)
        record = redis.hgetall(store.record_key("newer_waits"))
        recording.fault(EMPTIED, "all but one task")
        with redis.pipeline(transaction=True) as pipeline:
            pipeline.flushall()
            pipeline.hset(store.record_key("newer_waits"), mapping={**record, b"status": b"queued"})
            pipeline.rpush(store.ready_key("newer"), "newer_waits")
            pipeline.rpush(store.wakeup_key("default"), "ready")
            pipeline.execute()
        wait_until(lambda: redis.exists(store.UPLOAD), 30, "the worker's own file was uploaded")
        taskqueue.add(url="/work", name="goes-on")
        lab.wait_for(1, "/work", 60)
        assert redis.hincrby(store.UPLOAD, "version", 0) <= 3
    assert lab.ran("/work") == {"goes-on": 1}
    assert redis.lrange(store.ready_key("newer"), 0, -1) == [b"newer_waits"]


@slow
def test_a_handler_that_exits_takes_no_thread_with_it(lab: Lab) -> None:
    change_handler(lab, "    if path == '/exit': exit(1)\n")
    with lab.workers(1, threads=2):
        taskqueue.Queue("limited").add([taskqueue.Task(url="/exit") for _ in range(5)])
        wait_until(lambda: len(lab.dead("limited")) == 5, 20)
        taskqueue.add(url="/work")
        lab.wait_for(1, "/work", 60)


# --- RQ's own tools -----------------------------------------------------------------------


@slow
def test_rq_suspend_resume_and_requeue_work(lab: Lab) -> None:
    with lab.workers(1):
        lab.ask_stock("suspend")
        taskqueue.add(url="/work", name="waits")
        wait_until(lambda: "suspended" in lab.ask_stock("info", "-W"), 60)
        assert lab.ran() == {}
        lab.ask_stock("resume")
        lab.wait_for(1, "/work", 60)

        taskqueue.add(url="/work", name="again", queue_name="limited", params={"statuses": "500,500,200"})
        wait_until(lambda: lab.dead("limited") == ["again"], 30)
        lab.ask_stock("requeue", "--queue", "limited", "--all")
        lab.wait_until_idle(60)
    # A dead letter run again has its retries before it again: its third attempt is its first.
    attempts = [
        note["retry_count"] for note in lab.notes() if note["task"] == "again" and note["what"] == "begin"
    ]
    assert attempts == [0, 1, 0, 1]


@slow
def test_stock_rq_info_counts_right_while_work_is_under_way(lab: Lab) -> None:
    go = lab.root / "go"
    wait_for_go = f"    while path == '/work' and not os.path.exists({str(go)!r}): time.sleep(0.05)\n"
    change_handler(lab, wait_for_go)
    with lab.workers(2, threads=2):
        taskqueue.Queue().add([work() for _ in range(10)])
        taskqueue.Queue("other").add(taskqueue.Task(url="/work", countdown=60))
        wait_until(lambda: len(lab.ran("/work", "begin")) >= 4)
        wait_until(lambda: lab.open_tasks().get("leased default") == 4, 30, "the others to be released")
        wait_until(lambda: lab.ask_stock("info", "--raw").count(" busy default, limited, other") == 2, 60)
        text = lab.ask_stock("info", "--raw")
        assert "queue default 6, 4 executing, 0 finished, 0 failed" in text, text
        started = registry.StartedJobRegistry("default", connection=lab.store.redis)
        scheduled = registry.ScheduledJobRegistry("other", connection=lab.store.redis)
        assert started.get_job_count(cleanup=True) == 4
        assert scheduled.get_job_count() == 1
        go.touch()
        lab.wait_for(10, "/work", 60)
        wait_until(lambda: lab.ask_stock("info", "--raw").count(" idle default, limited, other") == 2, 60)
    assert "worker lastacross-" not in lab.ask_stock("info", "--raw")


# --- what we rely on in RQ ------------------------------------------------------------------

OVERRIDDEN = {
    "_set_connection": ["self", "connection"],
    "request_stop": ["self", "signum", "frame"],
    "work": None,
    "teardown": ["self"],
    "heartbeat": ["self", "timeout", "pipeline"],
    "handle_payload": ["self", "message"],
    "_pubsub_exception_handler": ["self", "exc", "pubsub", "pubsub_thread"],
}
CALLED = {
    "register_birth": ["self"],
    "register_death": ["self"],
    "subscribe": ["self"],
    "unsubscribe": ["self"],
    "set_state": ["self", "state", "pipeline"],
    "serialize": ["self"],
}


@pytest.mark.parametrize(("name", "parameters"), [*OVERRIDDEN.items(), *CALLED.items()])
def test_rq_worker_still_has_what_ours_overrides_and_calls(name: str, parameters: list[str] | None) -> None:
    method = getattr(rq_worker.BaseWorker, name)
    assert callable(method)
    if parameters is not None:
        assert list(inspect.signature(method).parameters) == parameters
    ours = inspect.signature(getattr(Worker, name))
    if parameters is not None and name in OVERRIDDEN:
        assert list(ours.parameters) == parameters


def test_everything_else_that_ours_overrides_is_meant_to_be_new() -> None:
    """A private name of ours that RQ begins to use would change its worker silently."""
    classes = [vars(Worker), vars(RqWorker)]
    own = {name for members in classes for name in members if not name.startswith("__")}
    stock = [vars(base) for base in Worker.__mro__ if not base.__module__.startswith("lastacross.")]
    assert {name for name in own if any(name in members for members in stock)} == set(OVERRIDDEN)


def test_no_attribute_of_ours_hides_one_of_rqs(lab: Lab) -> None:
    stock = vars(rq.Worker(["default"], connection=lab.store.redis))
    ours = inspect.getsource(Worker.__init__)
    hidden = [name for name in stock if f"self.{name} =" in ours or f"self.{name}:" in ours]
    assert hidden == []


def test_rqs_commands_and_suspension_are_where_we_look_for_them() -> None:
    assert list(inspect.signature(suspension.is_suspended).parameters) == ["connection", "worker"]
    assert suspension.WORKERS_SUSPENDED == "rq:suspended"
    assert list(inspect.signature(command.handle_command).parameters) == ["worker", "payload"]
