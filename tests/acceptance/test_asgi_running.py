"""A FastAPI application on a running site: its lifespan, streams, deadlines and failures."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import store
from tests.conftest import SECRET_KEY
from tests.support.processes import ROOT, wait_until
from tests.support.site import Site, free_port, running_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MAIN = '''\
"""Notes what happens to it, by process."""

import asyncio
import contextlib
import json
import os

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from lastacross import taskqueue


def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps([what, os.getpid()]) + "\\n")


@contextlib.asynccontextmanager
async def lifespan(app):
    note("startup")
    yield
    # An executor still works here.
    await asyncio.to_thread(note, "shutdown")


app = FastAPI(lifespan=lifespan)


@app.post("/start")
async def start():
    taskqueue.add(url="/tasks/work", params={"word": "one"})
    once = taskqueue.TaskRetryOptions(task_retry_limit=0)
    taskqueue.add(url="/tasks/fail", name="fails", retry_options=once)
    return "started"


@app.post("/start-waiting")
async def start_waiting():
    once = taskqueue.TaskRetryOptions(task_retry_limit=0)
    task = taskqueue.Task(
        url="/tasks/wait", name="waits", dispatch_deadline_usec=15_000_000, retry_options=once
    )
    task.add()
    return "started"


@app.post("/tasks/work")
async def work(request: Request):
    assert request.headers["x-appengine-queuename"] == "default"
    note((await request.body()).decode())


@app.post("/tasks/fail")
async def fail():
    raise ValueError("not today")


@app.post("/tasks/wait")
async def wait():
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note("cancelled")
        raise


@app.get("/stream")
async def stream():
    async def parts():
        try:
            while True:
                yield "part\\n"
                await asyncio.sleep(0.05)
        finally:
            note("left")
    return StreamingResponse(parts())
'''
APP_YAML = "handlers:\n- url: /tasks/.*\n  script: main.app\n  login: admin\n- url: /.*\n  script: main.app\n"


@pytest.fixture
def notes_file(tmp_path: Path) -> Path:
    """Where the application's processes note what happens."""
    return tmp_path / "notes"


def notes(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def noted(file: Path) -> list[str]:
    return [what for what, _ in notes(file)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The application's folder."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "main.py").write_text(MAIN)
    (app / "app.yaml").write_text(APP_YAML)
    (app / "queue.yaml").write_text("queue:\n- name: default\n  rate: 500/s\n")
    return app


@pytest.fixture
def site(folder: Path, notes_file: Path) -> Iterator[Site]:
    """The running site."""
    with running_site(folder, {"NOTES": str(notes_file), "SECRET_KEY": SECRET_KEY}) as running:
        yield running


def test_a_fastapi_application_runs_in_real_processes(folder: Path, notes_file: Path) -> None:
    with running_site(folder, {"NOTES": str(notes_file), "SECRET_KEY": SECRET_KEY}) as site:
        with site.open("/start", b"") as answer:
            assert json.load(answer) == "started"
        read_a_part_of_the_stream(site)
        wait_until(lambda: "left" in noted(notes_file), 20, "the stream to end")
        wait_until(lambda: dead(site), 20, "a dead letter")
        reasons = dead(site)
        text = site.processes.text()

    assert {name: reason.strip() for name, reason in reasons.items()} == {
        "fails": "answered 500: 500 Internal Server Error: ValueError: not today"
    }
    assert "preload.off" not in text
    assert [what for what in noted(notes_file) if what.startswith("word")] == ["word=one"]
    seen = notes(notes_file)
    for pid in {pid for _, pid in seen}:
        own = [what for what, each in seen if each == pid]
        assert own[0] == "startup"
        assert own[-1] == "shutdown"
        assert own.count("startup") == own.count("shutdown") == 1
    assert len({pid for _, pid in seen}) >= 2


@pytest.mark.long
def test_a_deadline_cancels_a_coroutine_in_a_worker(site: Site, notes_file: Path) -> None:
    with site.open("/start-waiting", b"") as answer:
        assert json.load(answer) == "started"
    wait_until(lambda: dead(site), 60, "a dead letter")
    assert dead(site) == {"waits": "DeadlineExceededError: not done after 15 s"}
    assert "cancelled" in noted(notes_file)


def read_a_part_of_the_stream(site: Site) -> None:
    host = site.url.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(host, timeout=20)) as connection:
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.read1(5) == b"part\n"
        answer.close()


def dead(site: Site) -> dict[str, str]:
    """The reasons of the dead letters by task name."""
    opened = store.Store(site.redis_server.url)
    redis: Any = opened.redis
    try:
        ids = [found.decode() for found in redis.zrange(store.dead_key("default"), 0, -1)]
        return {each.partition("_")[2]: redis.hget(store.record_key(each), "error").decode() for each in ids}
    finally:
        opened.close()


def test_a_websocket_is_refused_by_the_running_site(site: Site) -> None:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Accept": "application/json"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        site.open("/", None, **headers)
    assert caught.value.code == 501
    assert "WebSockets are not available" in json.load(caught.value)["error"]["message"]


@pytest.mark.parametrize("commands", [["config check"], ["db upgrade", "web"], ["deploy --yes"]], ids=str)
def test_without_the_extra_the_command_names_it(folder: Path, tmp_path: Path, commands: list[str]) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['a2wsgi'] = None\n")
    environ = {
        **os.environ,
        "PYTHONPATH": f"{hidden}:{ROOT}",
        "SECRET_KEY": SECRET_KEY,
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_URL": f"sqlite:///{tmp_path}/site.db",
        "LASTACROSS_DATA_DIR": str(tmp_path / "var"),
        "LASTACROSS_ALLOWED_HOSTS": "app.example",
        "PORT": str(free_port()),
    }
    for command in commands:
        line = [sys.executable, "-m", "lastacross", "--app", str(folder), *command.split()]
        done = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if commands[-1] == "web" else 2), done.stderr
    problem = "`app` is an ASGI application (FastAPI), which needs a2wsgi; install lastacross[asgi]"
    assert f"script: main.app: {problem}" in done.stderr
    assert "app.yaml:" in done.stderr
