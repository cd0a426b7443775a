"""``web``, ``worker`` and ``scheduler`` each by itself, as they run on many machines."""

import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import redis

from lastacross import datastore
from lastacross.store import settings_key
from tests.conftest import SECRET_KEY
from tests.support import administrator, example_app
from tests.support.judging import judged
from tests.support.processes import Started, kill, python, started, wait_until
from tests.support.redis_server import RedisServer, running_server
from tests.support.site import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Start = Callable[..., Started]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of this test's own, which it may stop."""
    with running_server(append_only=True) as running:
        yield running


@pytest.fixture
def environ(server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """What every process of a set-up is given."""
    return {
        "LASTACROSS_APP": str(example_app.write(tmp_path / "shop")),
        "REDIS_URL": server.url,
        "DATABASE_URL": f"sqlite:///{tmp_path}/shop.db",
        "SECRET_KEY": SECRET_KEY,
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
    }


@pytest.fixture
def start(environ: Mapping[str, str], server: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Starts commands with this environment, on a migrated database; the history of all tasks is judged."""
    with judged(tmp_path / "history.jsonl", server.url) as recording, contextlib.ExitStack() as stack:

        def begin(*arguments: str) -> Started:
            line = python("-m", "lastacross", *arguments)
            return stack.enter_context(started(line, tmp_path, {**environ, **recording}))

        datastore.upgrade(environ["DATABASE_URL"], Path(environ["LASTACROSS_APP"]))
        datastore.dispose()
        yield begin


def answer(environ: Mapping[str, str], path: str = "/", word: str = "", cookie: str = "") -> tuple[int, str]:
    """Status and text of a page, of a POST when there is a word; 0 when nobody answers."""
    body = urllib.parse.urlencode({"word": word}).encode() if word else None
    url = f"http://127.0.0.1:{environ['PORT']}{path}"
    request = urllib.request.Request(url, body, {"Cookie": cookie})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def test_one_kind_of_process_each_delivers_tasks_and_drains(start: Start, environ: Mapping[str, str]) -> None:
    web, worker, scheduler = start("web"), start("worker", "--processes", "2"), start("scheduler")
    wait_until(lambda: answer(environ) == (200, "hello - -"))

    assert answer(environ, word="delivered")[0] == 202

    wait_until(lambda: answer(environ) == (200, "hello delivered delivered"))
    for process in (web, worker, scheduler):
        process.send(signal.SIGTERM)
        assert process.wait() == 0
        assert process.others() == []
        assert "Traceback" not in process.text()


def test_web_without_redis_answers_503_and_recovers_by_itself(
    start: Start, environ: Mapping[str, str], server: RedisServer
) -> None:
    server.stop()
    web = start("web")
    web.wait_for_text("web.redis_away")
    assert "LASTACROSS_ALLOWED_HOSTS=*: requests for any host are accepted" in web.text()
    wait_until(lambda: answer(environ, "/_ah/health")[0] == 200)

    status, text = answer(environ, "/_ah/ready")
    assert (status, json.loads(text)) == (503, {"status": "not ready"})
    # The administrator's cookie needs no Redis.
    status, text = answer(environ, "/_ah/ready", cookie=administrator.cookie(environ["SECRET_KEY"]))
    assert (status, list(json.loads(text)["reasons"])) == (503, ["redis"])
    assert answer(environ, word="lost")[0] == 503

    server.start()

    wait_until(lambda: answer(environ, "/_ah/ready")[0] == 200)
    assert answer(environ, word="kept")[0] == 202


def test_web_uploads_queue_yaml_when_redis_comes_and_forks_no_process_beside_a_thread(
    start: Start, environ: Mapping[str, str], server: RedisServer
) -> None:
    """A lock that a thread holds while a process is forked is taken in that process for ever."""
    server.stop()
    web = start("web")
    wait_until(lambda: answer(environ, "/_ah/health")[0] == 200)

    assert len(os.listdir(f"/proc/{web.pid}/task")) == 1

    server.start()
    with redis.Redis.from_url(server.url) as client:
        wait_until(lambda: bool(client.exists(settings_key("default"))))
    assert len(os.listdir(f"/proc/{web.pid}/task")) == 1
    web.wait_for_text("queues.resume")


def test_a_silent_redis_keeps_web_from_neither_replacing_a_process_nor_stopping(
    start: Start, environ: dict[str, str], server: RedisServer
) -> None:
    """Its parent asks Redis between its looks at its processes."""
    environ["WEB_CONCURRENCY"] = "1"
    with server.frozen():
        web = start("web")
        wait_until(lambda: answer(environ, "/_ah/health")[0] == 200, 60)
        [killed] = web.others()
        kill(killed)
        wait_until(lambda: answer(environ, "/_ah/health")[0] == 200, 20)
        assert killed not in web.others()

        asked_at = time.monotonic()
        web.send(signal.SIGTERM)
        assert web.wait() == 0
        # Far less than the grace, in which it would be killed.
        assert time.monotonic() - asked_at < 12


def test_worker_and_scheduler_outlive_an_outage_of_redis(
    start: Start, environ: Mapping[str, str], server: RedisServer
) -> None:
    start("web")
    worker, scheduler = start("worker", "--processes", "1"), start("scheduler")
    wait_until(lambda: answer(environ) == (200, "hello - -"))
    worker.wait_for_text("worker.start")
    server.kill()
    scheduler.wait_for_text("queues.pause")

    server.start()
    wait_until(lambda: answer(environ, word="after")[0] == 202)

    wait_until(lambda: answer(environ) == (200, "hello after after"))
    scheduler.wait_for_text("queues.resume")
    assert worker.process.poll() is None


def test_an_application_that_cannot_be_imported_is_named_in_one_line(
    start: Start, environ: dict[str, str]
) -> None:
    # All eight fail at the same moment: gunicorn hears of the second while it ends because of the first.
    at_once = "import time\ntime.sleep(2 - time.time() % 2)\nimport no_such_module\n"
    Path(environ["LASTACROSS_APP"], "main.py").write_text(at_once)
    environ["WEB_CONCURRENCY"] = "8"

    web = start("web")

    assert web.wait() == 1
    assert "`main` imports `no_such_module`, which is not installed" in web.text()
    assert "Traceback" not in web.text()


def test_a_supervisor_of_workers_killed_outright_leaves_no_worker(start: Start) -> None:
    worker = start("worker", "--processes", "2")
    wait_until(lambda: worker.text().count("worker.start") == 2)

    worker.send(signal.SIGKILL)

    wait_until(lambda: worker.others() == [])


def test_nor_does_one_whose_workers_still_wait_for_redis(
    environ: Mapping[str, str], start: Start, tmp_path: Path
) -> None:
    away = {**environ, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    command = python("-m", "lastacross", "worker", "--processes", "2")
    with started(command, tmp_path, away) as worker:
        wait_until(lambda: worker.text().count("worker.redis") >= 2)

        worker.send(signal.SIGKILL)

        wait_until(lambda: worker.others() == [])
