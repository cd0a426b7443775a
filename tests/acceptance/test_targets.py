"""Targets in real processes: each service does its own tasks, whoever dies; and over HTTP, end to end."""

import contextlib
from collections import Counter
from collections.abc import Iterator

import pytest

from lastacross import datastore, store, taskqueue
from lastacross.broker import queue_directory
from lastacross.taskqueue import Queue, Task
from tests.support import lab as labs
from tests.support.lab import Lab, running_lab
from tests.support.processes import Started, kill, python, started, wait_until
from tests.support.site import free_port, wait_for_answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FILES = {
    "queue.yaml": """\
queue:
- name: default
  rate: 500/s
  bucket_size: 500
- name: theirs
  rate: 500/s
  target: counter
- name: once
  rate: 500/s
  retry_parameters:
    task_retry_limit: 0
""",
    "dispatch.yaml": """\
dispatch:
- url: "*/dispatched"
  service: counter
""",
    "main.py": labs.FILES["main.py"].replace(
        '"pid": os.getpid(),',
        '"pid": os.getpid(), "service": os.environ.get("LASTACROSS_SERVICE", "default"),',
    ),
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An application whose notes say which service ran what; dispatch.yaml sends /dispatched to "counter"."""
    with running_lab(files=FILES) as lab:
        queue_directory.upload(lab.store, lab.config)
        yield lab


@contextlib.contextmanager
def workers(lab: Lab, service: str = "default", **environ: str) -> Iterator[Started]:
    """One worker process of a service, once it works; killed at the end."""
    command = ["worker", "--service", service, "--processes", "1"]
    arguments = python("-m", "lastacross", "--app", str(lab.root), *command)
    before = lab.store.redis.smembers("rq:workers")
    with started(arguments, lab.root, {**lab.environ, **environ}) as running:
        wait_until(
            lambda: running.process.poll() is not None or lab.store.redis.smembers("rq:workers") - before,
            60,
            f"a worker of {service}",
        )
        assert running.process.poll() is None, running.text()
        yield running


@contextlib.contextmanager
def web(lab: Lab, port: int) -> Iterator[Started]:
    """The same application's web server on another port, as the service "remote"."""
    datastore.upgrade(lab.config.settings.database_url, lab.root)
    datastore.dispose()
    environ = {**lab.environ, "PORT": str(port), "HOST": "127.0.0.1", "LASTACROSS_SERVICE": "remote"}
    arguments = python("-m", "lastacross", "--app", str(lab.root), "web")
    with started(arguments, lab.root, environ) as running:
        wait_for_answer(f"http://127.0.0.1:{port}", running)
        yield running


def kill_all(running: Started) -> None:
    """kill -9 the supervisor and every process below it."""
    pids = [running.process.pid, *running.others()]
    for pid in pids:
        kill(pid)
    running.process.wait()


def done_by(lab: Lab) -> dict[str, Counter[str]]:
    """Which service ran which paths to their end, and how often."""
    found: dict[str, Counter[str]] = {}
    for note in lab.notes():
        if note["what"] == "end":
            found.setdefault(note["service"], Counter())[note["path"]] += 1
    return found


def wait_for(lab: Lab, tasks: int, seconds: float = 30) -> None:
    """Wait until so many have run."""
    wait_until(lambda: len(lab.ran()) >= tasks, seconds, f"{tasks} tasks to run")


def add(path: str, number: int, queue: str = "default", target: str | None = None) -> None:
    """Add tasks."""
    Queue(queue).add([Task(url=path, target=target) for _ in range(number)])


def test_each_service_does_its_own_tasks(lab: Lab) -> None:
    with workers(lab), workers(lab, "counter"):
        add("/own", 20)
        add("/target", 20, target="v1.counter")
        add("/queue", 20, "theirs")
        add("/queue-beats-task", 20, "theirs", target="default")
        add("/dispatched", 20)
        add("/unknown", 20, target="nobody")
        wait_for(lab, 120)

    assert done_by(lab) == {
        "default": Counter({"/own": 20, "/unknown": 20}),
        "counter": Counter({"/target": 20, "/queue": 20, "/queue-beats-task": 20, "/dispatched": 20}),
    }


def test_tasks_of_a_service_that_is_killed_wait_and_the_others_go_on(lab: Lab) -> None:
    with workers(lab):
        with workers(lab, "counter") as counter:
            Queue().add([Task(url="/long", target="counter", params={"seconds": 30}) for _ in range(4)])
            wait_until(lambda: len(lab.ran("/long", "begin")) == 4, what="long tasks to begin")
            kill_all(counter)
        add("/theirs", 10, target="counter")
        add("/theirs", 10, "theirs")
        add("/own", 30)
        lab.wait_for(30, "/own", 60)
        assert lab.ran("/theirs") == Counter()

        Queue().delete_tasks_by_name([name for name in lab.ran("/long", "begin")])
        with workers(lab, "counter"):
            lab.wait_for(20, "/theirs", 60)

    assert done_by(lab) == {"default": Counter({"/own": 30}), "counter": Counter({"/theirs": 20})}


def test_what_a_killed_service_had_leased_is_given_back_by_the_workers_of_another(lab: Lab) -> None:
    lease = {"LASTACROSS_LEASE_SECONDS": "2"}
    with workers(lab, **lease):
        with workers(lab, "counter", **lease) as counter:
            taskqueue.add(url="/long", name="n", target="counter", params={"seconds": 600})
            wait_until(lambda: lab.ran("/long", "begin"), what="the task to begin")
            kill_all(counter)
        wait_until(lambda: lab.record("default_n")["status"] == "queued", 20, "the lease to end")

    assert lab.store.redis.lrange(store.ready_key("default.counter"), 0, -1) == [b"default_n"]


def test_tasks_fall_to_the_default_service_until_their_own_comes(lab: Lab) -> None:
    with workers(lab):
        add("/before", 5, target="counter")
        add("/before", 5, "theirs")
        lab.wait_for(10, "/before", 60)
        with workers(lab, "counter"):
            # Other processes learn of it within a second or two; the scripts at once.
            add("/after", 5, target="counter")
            add("/after", 5, "theirs")
            lab.wait_for(10, "/after", 60)

    assert done_by(lab) == {"default": Counter({"/before": 10}), "counter": Counter({"/after": 10})}


def test_waiting_tasks_are_sent_on_when_their_service_comes(lab: Lab) -> None:
    Queue().pause()
    with workers(lab):
        add("/a", 20, target="counter")
        with workers(lab, "counter"):
            Queue().resume()
            lab.wait_for(20, "/a", 60)

    assert set(done_by(lab)) == {"counter"}


def test_after_redis_was_emptied_a_service_is_there_again(lab: Lab) -> None:
    with workers(lab), workers(lab, "counter"):
        lab.redis_server.flush()
        wait_until(lambda: lab.store.redis.sismember(store.SERVICES, "counter"), 20, "the service")
        add("/a", 20, target="counter")
        add("/b", 20)
        wait_for(lab, 40)

    assert done_by(lab) == {"counter": Counter({"/a": 20}), "default": Counter({"/b": 20})}


def test_rqs_tools_see_the_side_lists_and_requeue_finds_the_way_to_the_service(lab: Lab) -> None:
    """Also while no worker of the queue's own service runs."""
    with workers(lab, "counter"):
        taskqueue.add(url="/a", name="n", queue_name="once", target="counter", params={"statuses": "500"})
        wait_until(lambda: lab.dead("once") == ["n"], what="the dead letter")
        text = lab.ask_stock("info", "-R")
        assert "once.counter" in text
        lab.ask_stock("requeue", "--queue", "once", "once_n")
        wait_until(lambda: lab.ran("/a")["n"] == 2, 20, "the second run")

    assert set(done_by(lab)) == {"counter"}


def test_a_service_on_another_machine_is_asked_over_http(lab: Lab) -> None:
    """Down, then up: RetryCount counts what never arrived, ExecutionCount does not; a 302 fails."""
    port = free_port()
    with workers(lab, LASTACROSS_SERVICES=f"remote=http://127.0.0.1:{port}"):
        taskqueue.add(url="/down", name="n", target="remote")
        wait_until(lambda: int(lab.record("default_n").get("failures", 0)) >= 2, 30, "attempts to fail")
        assert lab.notes() == []

        with web(lab, port):
            lab.wait_for(1, "/down", 60)
            taskqueue.add(url="/answers", name="m", target="remote", params={"statuses": "302,500,204"})
            wait_until(lambda: lab.ran("/answers")["m"] == 3, 30, "three attempts")
            add("/own", 5)
            wait_until(lambda: not lab.open_tasks(), 30, "nothing to be left")

    ended = [note for note in lab.notes() if note["what"] == "end"]
    [after] = [note for note in ended if note["path"] == "/down"]
    assert after["retry_count"] >= 2
    assert (after["execution_count"], after["previous_response"]) == (0, None)
    counts = ("retry_count", "execution_count", "previous_response")
    assert [tuple(note[count] for count in counts) for note in ended if note["path"] == "/answers"] == [
        (0, 0, None),
        (1, 1, "302"),
        (2, 2, "500"),
    ]
    assert done_by(lab) == {
        "remote": Counter({"/answers": 3, "/down": 1}),
        "default": Counter({"/own": 5}),
    }
    assert lab.record("default_m") == {}
