"""Containers: each command is process 1 there, on a read-only file system, with its secrets in files.

Docker itself is not needed: the tests make the namespaces that a container consists of, which takes root.
"""

import contextlib
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from ruamel.yaml import YAML

from lastacross import cli
from lastacross.config.settings import FILE_SUFFIX, FROM_FILES, VARIABLES
from tests.support.processes import ROOT, Started, python, started, wait_until
from tests.support.redis_server import RedisServer
from tests.support.site import free_port

SCAFFOLD = ROOT / "lastacross" / "cli" / "scaffold" / "common"
COMPOSE = [ROOT / "compose.yaml", SCAFFOLD / "compose.yaml.tmpl"]
DOCKERFILES = [ROOT / "Dockerfile", SCAFFOLD / "Dockerfile.tmpl"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))

# What a container runtime does before it starts its process: /tmp and the data folder stay writable.
BEGIN = """
mount --make-rprivate /
for folder in "$LASTACROSS_DATA_DIR" "$TMPDIR"; do mount --bind "$folder" "$folder"; done
mount -o remount,bind,ro /
if touch "$OUTSIDE" 2>/dev/null; then echo "the root is writable" >&2; exit 9; fi
exec "$@"
"""

MAIN = '''
"""Leaves an orphan behind."""

import os
import time

import webapp2

from lastacross import memcache


class Work(webapp2.RequestHandler):
    def post(self):
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            orphan = os.fork()
            if orphan == 0:
                time.sleep(0.2)
            else:
                os.write(write_fd, str(orphan).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        memcache.set("done", int(os.read(read_fd, 20)))


class Home(webapp2.RequestHandler):
    def get(self):
        self.response.text = str(memcache.get("done"))

    def post(self):
        from lastacross import taskqueue

        taskqueue.add(url="/tasks/work")


app = webapp2.WSGIApplication([("/", Home), ("/tasks/work", Work)])
'''


APP_YAML = """\
handlers:
- url: /tasks/.*
  script: main.app
  login: admin
- url: /.*
  script: main.app
"""


def yaml_of(path: Path) -> Any:
    """A parsed file."""
    return YAML(typ="safe").load(path.read_text())


@pytest.mark.parametrize("path", COMPOSE, ids=["ours", "new"])
def test_compose_starts_commands_and_sets_variables_that_exist(path: Path) -> None:
    services = yaml_of(path)["services"]
    known = {variable.name for variable in VARIABLES} | {name + FILE_SUFFIX for name in FROM_FILES}
    own = {name: each for name, each in services.items() if "build" in each}
    assert {"deploy", "web", "worker", "scheduler"} <= own.keys()
    for name, each in own.items():
        program, *arguments = map(str, each["command"])
        assert program == "lastacross"
        assert cli.run([*arguments, "--help"]) == 0, name
        assert each["environment"].keys() <= known
        assert each["read_only"] is True


@pytest.mark.parametrize("path", DOCKERFILES, ids=["ours", "new"])
def test_an_image_runs_a_command_as_another_user_than_root(path: Path) -> None:
    text = path.read_text()
    [command] = re.findall(r'^CMD \["lastacross", "(\w+)"\]$', text, re.MULTILINE)
    assert cli.run([command, "--help"]) == 0
    assert text.index("\nUSER app\n") < text.index("\nCMD ")
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()]
    folders = (path.parent, SCAFFOLD.parent / "webapp2")
    there = {file.name.removesuffix(".tmpl") for folder in folders for file in folder.iterdir()}
    assert set(copied) <= there | {"."}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_for_what_doctor_says(path: Path) -> None:
    form = yaml_of(path)
    if path.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    fields = {each["id"]: each["attributes"] for each in form["body"]}
    assert "lastacross doctor --json" in fields["doctor"]["label"]
    assert cli.run(["doctor", "--help"]) == 0


@contextmanager
def contained(folder: Path, redis_url: str, *arguments: str, **environ: str) -> Iterator[tuple[Started, int]]:
    """Run a command as process 1, with a read-only root; gives its pid outside, too."""
    app = folder / "app"
    if not app.exists():
        app.mkdir()
        (app / "main.py").write_text(MAIN)
        (app / "app.yaml").write_text(APP_YAML)
        (folder / "key").write_text("a secret key in a file, long enough\n")
        (folder / "redis").write_text(redis_url)
        for name in ("data", "tmp"):
            (folder / name).mkdir()
    variables = {
        "LASTACROSS_APP": str(app),
        "LASTACROSS_DATA_DIR": str(folder / "data"),
        "TMPDIR": str(folder / "tmp"),
        "OUTSIDE": str(folder / "outside"),
        "SECRET_KEY_FILE": str(folder / "key"),
        "REDIS_URL_FILE": str(folder / "redis"),
        "HOST": "127.0.0.1",
        **environ,
    }
    line = ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "--kill-child", "sh", "-ec", BEGIN, "sh"]
    with started([*line, *python("-m", "lastacross", *arguments)], folder, variables) as running:
        wait_until(lambda: _child_of(running.pid), what="process 1")
        yield running, _child_of(running.pid)


def _child_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return int(text.split()[0]) if text.split() else 0


def inner_pids_of(pid: int) -> set[int]:
    """The children of this process, by their numbers in its own namespace, ended ones included."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child}/status").read_text()
            found.add(int(status.partition("NSpid:")[2].splitlines()[0].split()[-1]))
    return found


def ask(port: int, path: str = "/", data: bytes | None = None) -> str:
    """The text of an answer; empty if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces")
@pytest.mark.parametrize("preload", ["1", "0"], ids=["preloading", "programs"])
def test_each_process_is_process_1_on_a_read_only_root_with_its_secrets_in_files(
    tmp_path: Path, redis_server: RedisServer, preload: str
) -> None:
    port = free_port()
    given = {"PORT": str(port), "LASTACROSS_PRELOAD": preload}
    url = redis_server.url
    redis.Redis.from_url(url).flushall()
    with contained(tmp_path, url, "deploy", "--yes", **given) as (deploy, _):
        assert deploy.wait() == 0, deploy.text()
    with (
        contained(tmp_path, url, "web", **given) as (web, web_pid),
        contained(tmp_path, url, "worker", "--processes", "1", **given) as (worker, worker_pid),
        contained(tmp_path, url, "scheduler", **given) as (scheduler, scheduler_pid),
    ):
        wait_until(lambda: ask(port) == "None", what="the web server")
        assert ask(port, data=b"") == ""
        wait_until(lambda: ask(port).isdigit(), what="the task")
        orphan = int(ask(port))
        wait_until(lambda: orphan not in inner_pids_of(worker_pid), what="the orphan's end")
        wait_until(lambda: '"scheduler.start"' in scheduler.text(), what="the scheduler")
        for running, pid in ((web, web_pid), (worker, worker_pid), (scheduler, scheduler_pid)):
            assert Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split()[1] == "1"
            os.kill(pid, signal.SIGTERM)
            assert running.wait() == 0, running.text()
            assert "Read-only file system" not in running.text()
            assert "Traceback" not in running.text()
