"""One busy site of either version, and the moment at which its machine goes down.

Nothing here belongs to one version: the site is driven through HTTP, its command line and the public API
(``fill.py``), and read through its Redis keys and its tables.
"""

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.conftest import SECRET_KEY
from tests.support.processes import Started, python, started, wait_until
from tests.support.redis_server import RedisServer
from tests.support.site import Site, free_port, wait_for_answer
from tests.upgrade import snapshot
from tests.upgrade.former import FOLDER, Code

START = {"WEB_CONCURRENCY": "1", "LASTACROSS_PROCESSES": "1", "LASTACROSS_THREADS": "12"}
QUEUES = (
    *("upgrade", "upgrade-suspect", "upgrade-nested", "upgrade-pull"),
    *("default", "quilt", "errors", "reload", "master", "subtasks"),
)
PATIENCE = 120.0


@dataclass
class Scene:
    """A copy of the demo application, its Redis and its datastore.

    Attributes:
        code: the version that runs it.
        folder: has the application, the notes and the SQLite file.
        redis_server: a server that only this scene uses.
        database_url: another datastore than the SQLite file.
    """

    code: Code
    folder: Path
    redis_server: RedisServer
    database_url: str = ""
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.app = self.code.lay_out(self.folder / "app")
        self.notes_file = self.folder / "notes.jsonl"
        self.sqlite = self.folder / "site.db"
        self.redis: Any = redis.Redis.from_url(self.redis_server.url)

    @property
    def environ(self) -> dict[str, str]:
        """The variables of every process of the site."""
        return {
            **START,
            "PORT": str(self.port),
            "REDIS_URL": self.redis_server.url,
            "DATABASE_URL": self.database_url or f"sqlite:///{self.sqlite}",
            "SECRET_KEY": SECRET_KEY,
            "LASTACROSS_APP": str(self.app),
            "LASTACROSS_DATA_DIR": str(self.folder / "var"),
            "UPGRADE_NOTES": str(self.notes_file),
        }

    def fill(self, step: str, *options: str, **variables: str) -> None:
        """Run a step of ``fill.py``."""
        arguments = [str(FOLDER / "fill.py"), str(self.app), step, *options]
        self.code.run(arguments, {**self.environ, **variables}, self.app)

    def ask(self, *commands: str) -> list[Any]:
        """The JSON outputs of commands."""
        return self.code.ask(self.environ, *commands)

    @contextlib.contextmanager
    def running(self, **variables: str) -> Iterator[Site]:
        """``lastacross dev``; killed at the end unless the caller stops it."""
        environ = {**self.environ, **self.code.environ(), **variables}
        with started(python("-m", "lastacross", "dev"), self.folder, environ) as processes:
            url = f"http://127.0.0.1:{self.port}"
            wait_for_answer(url, processes)
            # To the former release whoever asks from this machine is the administrator, without a cookie.
            yield Site(url, self.redis_server, processes, self.folder, SECRET_KEY).administrator

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows that a query of the datastore returns."""
        if self.database_url:
            with psycopg.connect(self.database_url) as connection:
                return connection.execute(query.encode()).fetchall()
        with closing(sqlite3.connect(f"file:{self.sqlite}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()

    def notes(self) -> list[dict[str, Any]]:
        """All notes of deliveries, in their order."""
        if not self.notes_file.exists():
            return []
        lines = self.notes_file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def noted(self, what: str, key: str = "task") -> list[Any]:
        """One field of all notes of a kind."""
        return [note[key] for note in self.notes() if note["what"] == what]


def power_cut(processes: Started) -> None:
    """Kill all processes of a site before any of them notices the end of another."""
    processes.process.send_signal(signal.SIGSTOP)
    for pid in processes.others():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    processes.process.kill()


# --- the life of the site ------------------------------------------------------------------


def play(scene: Scene, *, with_poison: bool) -> dict[str, Any]:
    """Run a site until everything is half done, cut its power, and add tasks that nobody begins.

    Returns the JSON that its pages and commands answered, by name.
    """
    answers: dict[str, Any] = {}
    with scene.running(UPGRADE_HANGS="1") as site:
        _short_tasks(scene, with_poison)
        _finish_programs(scene, site, answers)
        scene.fill("long")
        _begin_long_tasks(scene, site, answers)
        _wait_for_hanging_tasks(scene)
        scene.fill("cancel")
        _begin_cron(scene)
        _ask_commands(scene, answers)
        _begin_programs(scene, site, answers)
        _pause_programs(scene, site, answers)
        power_cut(site.processes)
    scene.fill("late")
    scene.fill("outbox", REDIS_URL=f"unix://{scene.folder}/nobody-listens")
    return answers


def _short_tasks(scene: Scene, with_poison: bool) -> None:
    scene.fill("short", f"with_poison={'yes' if with_poison else ''}")
    dead = 2 if with_poison else 1
    wait_until(lambda: scene.redis.zcard("rq:failed:upgrade") == dead, PATIENCE, "dead letters")
    wait_until(lambda: scene.redis.zcard("rq:scheduled:upgrade") == 1, PATIENCE, "a retry")
    wait_until(lambda: "ran" in scene.noted("end"), PATIENCE, "a task to run")
    scene.fill("crash")
    wait_until(
        lambda: scene.redis.hexists("rq:job:upgrade-suspect_suspect", "suspect"), PATIENCE, "a suspect"
    )


def _finish_programs(scene: Scene, site: Site, answers: dict[str, Any]) -> None:
    """A quilt, a count and errors that are over before the machine goes down."""
    quilt = site.post("/quilt", rows=2, columns=2)
    site.post("/count", name="counted", intervals="1-3", delay_ms=0)
    for number in range(2):
        site.post("/errors", **error(f"uid-{number}"))
    wait_until(lambda: site.json(f"/{quilt['name']}.json")["done"], PATIENCE, "a quilt")
    wait_until(lambda: site.json("/count/counted.json")["done"], PATIENCE, "a count")
    wait_until(lambda: scene.rows("SELECT * FROM error_group"), PATIENCE, "a group of errors")
    answers["quilt"] = site.json(f"/{quilt['name']}.json")
    answers["count"] = site.json("/count/counted.json")
    answers["errors"] = site.json("/errors.json")


def error(uid: str, kind: str = "KeyError") -> dict[str, object]:
    """The fields of a posted error."""
    return {
        "account": "shop",
        "uid": uid,
        "url": "https://shop.example/cart",
        "status": 500,
        "type": kind,
        "msg": f"{kind} in the cart",
        "traceback": f'File "cart.py", line 7\n{kind}: in the cart',
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    }


def _begin_long_tasks(scene: Scene, site: Site, answers: dict[str, Any]) -> None:
    ids = {ends: start_long_task(site, ends) for ends in ("done", "fail", "retry", "run", "cancel")}
    site.post(f"/upgrade/long?_longtaskjob=cancel&_longtaskid={ids['cancel']}")
    query = "SELECT status FROM lastacross_long_task ORDER BY status"
    wanted = ["cancelled", "done", "error", "failed", "started"]
    wait_until(lambda: [row[0] for row in scene.rows(query)] == wanted, PATIENCE, "long tasks")
    for ends, identifier in ids.items():
        answers[f"longtask {ends}"] = site.json(f"/upgrade/long?_longtaskjob=query&_longtaskid={identifier}")


def start_long_task(site: Site, ends: str) -> str:
    """Start a long task; its id."""
    return str(site.post("/upgrade/long", ends=ends)["name"]).rpartition("/")[2]


def _begin_programs(scene: Scene, site: Site, answers: dict[str, Any]) -> None:
    """Begin a quilt, a reload and a count; pause the queue of each as soon as there is something of it."""
    answers["quilt begun"] = site.post("/quilt", rows=8, columns=8, delay_ms=500)
    _pause_when(scene, "quilt", "SELECT * FROM quilt WHERE rows = 8 AND painted > 4")
    answers["accounts"] = site.post("/accounts", keys=" ".join(f"account-{number}" for number in range(80)))
    site.json("/taskloader/")
    _pause_when(scene, "reload", "SELECT * FROM reload_run WHERE done > 20")
    # The backend counts two intervals at once.
    intervals = "1-60, 61-120, 121-122, 123-124"
    answers["count begun"] = site.post("/count", name="counting", intervals=intervals, delay_ms=200)
    _pause_when(scene, "subtasks", "SELECT * FROM count_interval WHERE last = 60 AND counted > 1")


def _pause_when(scene: Scene, queue: str, begun: str) -> None:
    """Without the command line, which takes a second: on a busy machine nothing would be left."""
    wait_until(lambda: scene.rows(begun), PATIENCE, begun)
    scene.redis.sadd("lastacross:paused", queue)


def _wait_for_hanging_tasks(scene: Scene) -> None:
    hanging = {"leased", "inner-3", "cancelled-leased", "succeeds-leased", "filling"}
    wait_until(lambda: hanging <= set(scene.noted("begin")), PATIENCE, "hanging tasks")
    wait_until(lambda: scene.noted("filling", "pid"), PATIENCE, "half a batch")
    wait_until(lambda: scene.redis.zcard("rq:failed:upgrade-nested") == 1, PATIENCE, "a dead member")
    sent = "SELECT * FROM lastacross_outbox WHERE sent_at IS NOT NULL AND queue = 'upgrade'"
    wait_until(lambda: scene.rows(sent), PATIENCE, "a sent row")


def _begin_cron(scene: Scene) -> None:
    jobs = cron_job_count(scene)
    wait_until(lambda: len(scene.rows("SELECT * FROM lastacross_cron_job")) == jobs, PATIENCE, "cron jobs")
    scene.ask(*(f"cron run {cron_job(scene, act)}" for act in ("note", "hang")))
    ended = "SELECT * FROM lastacross_cron_run WHERE state = 'done'"
    wait_until(lambda: scene.rows(ended), PATIENCE, "a run of a job")
    wait_until(lambda: "/upgrade/cron" in scene.noted("begin", "path"), PATIENCE, "a job")


def cron_job_count(scene: Scene) -> int:
    """How many jobs the cron.yaml of the scene's application has."""
    return (scene.app / "cron.yaml").read_text().count("schedule:")


def cron_job(scene: Scene, act: str) -> str:
    """The name of one of the tests' own jobs."""
    [[name]] = scene.rows(
        f"SELECT name FROM lastacross_cron_job WHERE entry LIKE '%/upgrade/cron?act={act}%'"
    )
    return str(name)


def _ask_commands(scene: Scene, answers: dict[str, Any]) -> None:
    commands = (
        "queues list",
        "tasks list upgrade",
        "tasks show upgrade leased",
        "cron list",
        f"cron history {cron_job(scene, 'note')}",
        "config show",
    )
    answers.update(zip(commands, scene.ask(*commands), strict=True))


def _pause_programs(scene: Scene, site: Site, answers: dict[str, Any]) -> None:
    """Leave some tasks of the programs unbegun, deferred calls among them."""
    scene.ask("queues pause default errors")
    site.post("/quilt", rows=3, columns=3)
    site.post("/errors", **error("uid-late", "ValueError"))
    [[run]] = scene.rows("SELECT id FROM reload_run")
    answers["reload"] = site.json(f"/reloads/{run}.json")
    time.sleep(0.3)  # for the marks of the sent rows: there is nothing to wait for


def listed(scene: Scene) -> dict[str, list[dict[str, Any]]]:
    """The tasks of each queue, as the command line lists them."""
    answers = scene.ask(*(f"tasks list {queue} --limit 2000" for queue in QUEUES))
    return dict(zip(QUEUES, answers, strict=True))


def taken(scene: Scene) -> tuple[dict[str, Any], str]:
    """The Redis and the SQLite file as they are."""
    return snapshot.read_redis(scene.redis), snapshot.read_sqlite(scene.sqlite)
