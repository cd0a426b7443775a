"""Handlers that fork: the child ends where it leaves the handler; the engine goes on in its parent only."""

import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from lastacross import datastore, taskqueue
from tests.support.lab import Lab, running_lab
from tests.support.processes import Started, python, started, wait_until
from tests.support.site import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FILES = {
    "app.yaml": """\
manual_scaling:
  instances: 1
handlers:
- url: /webapp2/.*
  script: main.pages
- url: /.*
  script: main.app
""",
    "main.py": '''\
"""Forks wherever the engine calls it."""

import urllib.parse

import webapp2
from forking import fork, hook, note, use_processes

from lastacross import deferred, runtime

runtime.set_shutdown_hook(hook)


class Page(webapp2.RequestHandler):
    def get(self):
        fork("webapp2", self.request.get("how"))
        self.response.text = "of the parent"

    post = get


def body(how):
    yield b"of the "
    fork("body", how)
    yield b"parent"


def app(environ, start_response):
    fields = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    path, how = environ["PATH_INFO"], fields.get("how", "")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/body":
        return body(how)
    if path == "/defer":
        deferred.defer(fork, "deferred", how)
    elif path == "/processes":
        deferred.defer(use_processes)
    elif path == "/plain":
        note("plain")
    elif path.startswith("/_ah/"):
        fork(path, "raise")
    else:
        fork(path, how)
    return [b"of the parent"]


pages = webapp2.WSGIApplication([("/webapp2/page", Page)])
''',
    "forking.py": '''\
"""Forks, and notes what becomes of the child."""

import concurrent.futures
import json
import multiprocessing
import os
import subprocess
import sys
import time

NOTES = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(what, **more):
    os.write(NOTES, json.dumps({"what": what, "pid": os.getpid(), **more}).encode() + b"\\n")


def fork(where, how):
    child = os.fork()
    if child == 0:
        if how == "raise":
            raise ValueError("in the child")
        if how.isdigit():
            sys.exit(int(how))
        if how == "text":
            sys.exit("it ends with a text")
        return
    note(where, how=how, child=child, code=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def hook():
    fork("hook", "4")


def square(number):
    return number * number


def use_processes():
    context = multiprocessing.get_context("fork")
    process = context.Process(target=sys.exit, args=(5,))
    process.start()
    process.join()
    asleep = context.Process(target=time.sleep, args=(600,))
    asleep.start()
    asleep.terminate()
    asleep.join()
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        squares = list(pool.map(square, range(5)))
    program = subprocess.run([sys.executable, "-c", "print(7)"], stdout=subprocess.PIPE, check=True)
    note("processes", codes=[process.exitcode, asleep.exitcode], squares=squares, printed=int(program.stdout))
''',
}
# How a child leaves its handler, and its exit code.
CODES = {"return": 0, "raise": 1, "0": 0, "3": 3, "text": 1}


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The application that forks, on a Redis of its own."""
    with running_lab(files=FILES) as running:
        yield running


@contextlib.contextmanager
def running(lab: Lab, *command: str, **environ: str) -> Iterator[Started]:
    """Run a command of ``lastacross`` for the application, and stop it by SIGTERM."""
    line = python("-W", "ignore::DeprecationWarning", "-m", "lastacross", "--app", str(lab.root), *command)
    with started(line, lab.root, {**lab.environ, **environ}) as process:
        yield process
        process.send(signal.SIGTERM)
        assert process.wait(60) == 0, process.text()
        assert process.others() == []


def of(lab: Lab, what: str) -> list[dict[str, Any]]:
    """The notes of this kind."""
    return [note for note in lab.notes() if note["what"] == what]


def logged(process: Started, event: str) -> list[dict[str, Any]]:
    """The log's lines about this event."""
    lines = [json.loads(line) for line in process.text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_child_forked_in_a_task_ends_and_each_task_runs_once(lab: Lab) -> None:
    urls = [f"{path}?how={how}" for path in ("/body", "/webapp2/page", "/task", "/defer") for how in CODES]
    with running(lab, "worker", "--processes", "1", "--threads", "4") as worker:
        wait_until(lambda: logged(worker, "worker.start"))
        for url in urls:
            taskqueue.add(url=url, method="GET")
        wait_until(lambda: not lab.open_tasks(), 60)
        # A second runner would run some of these twice.
        for _ in range(50):
            taskqueue.add(url="/plain")
        wait_until(lambda: len(of(lab, "plain")) >= 50 and not lab.open_tasks())
        [pid] = {note["pid"] for note in of(lab, "plain")}

    assert len(of(lab, "plain")) == 50
    for where in ("body", "webapp2", "/task", "deferred"):
        assert {note["how"]: note["code"] for note in of(lab, where)} == CODES, where
        assert len(of(lab, where)) == len(CODES)
    # One in its start handler, one in its stop handler, and one in its hook.
    ends = {
        note["what"]: note["code"]
        for note in lab.notes()
        if note["what"] in ("/_ah/start", "/_ah/stop", "hook")
    }
    assert ends == {"/_ah/start": 1, "/_ah/stop": 1, "hook": 4}
    forked = [note for note in lab.notes() if "child" in note]
    assert {note["pid"] for note in forked} == {pid}
    told = {(line["parent"], line["pid"], line["code"]) for line in logged(worker, "handler.child_end")}
    assert told == {(pid, note["child"], note["code"]) for note in forked}
    # Nothing of the engine ends with a child, and no attempt has failed or been repeated.
    assert len(logged(worker, "worker.drain")) == len(logged(worker, "worker.stop")) == 1
    for event in ("task.error", "task.retry", "task.rescue", "request.fail", "deferred.failure"):
        assert logged(worker, event) == [], event


def test_processes_that_are_meant_to_run_on_their_own_do(lab: Lab) -> None:
    with running(lab, "worker", "--processes", "1", "--threads", "4") as worker:
        taskqueue.add(url="/processes")
        wait_until(lambda: of(lab, "processes") and not lab.open_tasks())

    [note] = of(lab, "processes")
    assert note["codes"] == [5, -signal.SIGTERM]
    assert (note["squares"], note["printed"]) == ([0, 1, 4, 9, 16], 7)
    assert len(logged(worker, "worker.drain")) == 1
    assert [line for line in logged(worker, "handler.child_end") if line["pid"] == note["pid"]] == []


def test_a_child_forked_in_a_web_request_does_not_answer(lab: Lab) -> None:
    port = free_port()
    asked = [(path, how) for path in ("/body", "/webapp2/page", "/task") for how in CODES]
    datastore.upgrade(lab.environ["DATABASE_URL"], lab.root)
    datastore.dispose()
    with running(lab, "web", HOST="127.0.0.1", PORT=str(port), WEB_CONCURRENCY="1") as web:
        wait_until(lambda: answer(port, "/plain")[0] == 200)
        for path, how in asked:
            assert answer(port, f"{path}?how={how}") == (200, "of the parent")
        [pid] = {note["pid"] for note in of(lab, "/task")}
        assert os.getpgid(pid) == os.getpgid(web.pid)

    for where in ("body", "webapp2", "/task"):
        assert [(note["how"], note["code"]) for note in of(lab, where)] == list(CODES.items()), where
    forked = [note for note in lab.notes() if "child" in note]
    assert [note["code"] for note in of(lab, "hook")] == [4]
    assert {line["pid"] for line in logged(web, "handler.child_end")} == {note["child"] for note in forked}
    assert len([line for line in logged(web, "request.answer") if line["path"] == "/task"]) == len(CODES)


def answer(port: int, path: str) -> tuple[int, str]:
    """The status and the text of a page; status 0 if there is no answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)
