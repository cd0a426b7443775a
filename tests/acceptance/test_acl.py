"""Everything runs as a Redis user that has only the rights of docs/operations.md."""

import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from lastacross import channel, config, deferred, memcache, start_limits, store, taskqueue
from lastacross.channel import streams
from lastacross.errors import StoreUnavailableError
from tests.support.command_line import Capture, command_line
from tests.support.lab import FILES, Lab
from tests.support.processes import python, started, wait_until
from tests.support.redis_server import RedisServer, running_server
from tests.support.site import free_port, wait_for_answer
from tests.support.wrong_servers import with_credentials

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
PASSWORD = "sesame"
QUEUES = f"{FILES['queue.yaml']}- name: pulled\n  mode: pull\n"
CRON = "cron:\n- description: minutely\n  url: /cron\n  schedule: every 1 minutes\n"


def rules(*changes: str) -> list[str]:
    """The documented user's rules, without its password, and with changes."""
    [line] = re.findall(r"^user lastacross on >PASSWORD (.+)$", DOCUMENT.read_text(), re.MULTILINE)
    return [*line.split(), *changes]


@dataclass
class Ruled:
    """A server with the documented user.

    Attributes:
        server: the server.
        url: the REDIS_URL of that user.
        client: a client that may do everything.
    """

    server: RedisServer
    url: str
    client: Any

    def set_user(self, *changes: str) -> None:
        """Give the user its documented rights, with changes."""
        self.client.execute_command(
            "ACL", "SETUSER", "lastacross", "reset", "on", f">{PASSWORD}", *rules(*changes)
        )

    def denied(self) -> list[str]:
        """The command, key or channel of each refusal since the last call."""
        found = [f"{entry['reason']} {entry['object']}" for entry in self.client.acl_log()]
        self.client.acl_log_reset()
        return sorted(found)


@pytest.fixture
def ruled() -> Iterator[Ruled]:
    with running_server() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        made = Ruled(server, with_credentials(server.url, f"lastacross:{PASSWORD}"), client)
        made.set_user()
        yield made


@pytest.fixture
def lab(ruled: Ruled) -> Iterator[Lab]:
    """A lab whose processes, like this one, are that user."""
    with tempfile.TemporaryDirectory(prefix="la-acl-") as name:
        files = {"queue.yaml": QUEUES, "cron.yaml": CRON}
        environ = {"PORT": str(free_port()), "LASTACROSS_PROCESSES": "1"}
        made = Lab(Path(name), RedisServer.at(ruled.url), files, environ)
        config.use(made.config)
        store.use(made.store)
        try:
            yield made
        finally:
            store.use(None)
            config.use(None)
            made.store.close()


def running_dev(lab: Lab) -> Any:
    """Run a web server, a worker and a scheduler."""
    return started(python("-m", "lastacross", "--app", str(lab.root), "dev"), lab.root, lab.environ)


def use_queues(lab: Lab) -> None:
    """Take every step of a task's life that the application or an operator can ask for."""
    queue = taskqueue.Queue()
    taskqueue.add(url="/work", name="named")
    taskqueue.add(url="/work", countdown=0.2)
    taskqueue.add(url="/work", params={"statuses": "500,200"}, name="retried")
    queue.add([taskqueue.Task(url="/work") for _ in range(100)])
    with taskqueue.Batch(on_complete=taskqueue.Task(url="/complete")) as batch:
        batch.add(taskqueue.Task(url="/member") for _ in range(20))
    lab.wait_for(103, "/work", 30)
    lab.wait_for(1, "/complete", 30)
    assert batch.progress().done == 20
    with taskqueue.Batch() as cancelled:
        cancelled.add(taskqueue.Task(url="/member", countdown=600))
    cancelled.cancel()
    deferred.defer(len, "abc")
    taskqueue.Queue("limited").add(taskqueue.Task(url="/dead", params={"statuses": "500"}, name="dead"))
    wait_until(lambda: lab.dead("limited") == ["dead"], 30, "the dead letter")
    taskqueue.Queue("limited").retry_dead(["dead"])
    taskqueue.add(url="/work", name="later", countdown=600)
    queue.run_now("later")
    lab.wait_for(104, "/work", 30)
    taskqueue.add(url="/work", name="deleted", countdown=600)
    queue.delete_tasks_by_name("deleted")
    queue.pause()
    assert queue.is_paused()
    queue.resume()
    queue.fetch_statistics()
    taskqueue.Queue("other").purge()


def use_services() -> None:
    """Use pull queues, memcache, channels and limits."""
    pulled = taskqueue.Queue("pulled")
    pulled.add([taskqueue.Task(payload=b"x", method="PULL", tag=tag) for tag in ("a", "a", "b")])
    [task] = pulled.lease_tasks_by_tag(10, 1, "b")
    pulled.modify_task_lease(task, 20)
    pulled.delete_tasks([task, *pulled.lease_tasks(10, 5)])
    memcache.set("a", {"b": 1}, time=60)
    memcache.incr("n", initial_value=1)
    memcache.set_multi({"c": 1, "d": b"x"})
    assert memcache.get_multi(["a", "c", "d", "e"]) == {"a": {"b": 1}, "c": 1, "d": b"x"}
    client = memcache.Client()
    client.gets("a")
    client.cas("a", 2)
    memcache.delete("a")
    memcache.get_stats()
    memcache.flush_all()
    channel.create_channel("someone")
    before = streams.newest("someone")
    channel.send_message("someone", "hello")
    assert len(streams.page_after("someone", before)) == 1
    assert len(streams.wait({store.channel_key("someone"): before}, 100, count=5)) == 1
    start_limits.check("test", "10/minute", {"REMOTE_ADDR": "127.0.0.1"})


COMMANDS = [
    *("queues list", "queues list --json", "queues pause other", "queues resume other"),
    *("queues purge other --yes", "tasks list default", "tasks list limited --state dead"),
    *("tasks show limited dead", "cron list", "cron run JOB", "admin link", "config check"),
]


def test_nothing_is_denied(ruled: Ruled, lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with running_dev(lab) as running:
        url = f"http://127.0.0.1:{lab.environ['PORT']}"
        wait_for_answer(url, running)
        use_queues(lab)
        use_services()
        for name, value in lab.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LASTACROSS_APP", str(lab.root))
        with command_line(capsys) as command:
            job = lab.config.cron[0].name
            wait_until(lambda: job in command("cron", "list")[1], 30, "the scheduler's first tick")
            results = {line: command(*line.replace("JOB", job).split()) for line in COMMANDS}
        with urllib.request.urlopen(f"{url}/_ah/ready", timeout=20) as response:
            assert response.status == 200
        # Each periodic step of the worker and the scheduler has had its turn.
        time.sleep(6)
        assert "NOPERM" not in running.text()
    assert {line: result for line, result in results.items() if result[0]} == {}
    assert ruled.denied() == []


def test_a_user_without_other_rights_has_none_to_other_keys_or_the_server(ruled: Ruled) -> None:
    with redis.Redis.from_url(ruled.url) as client:
        for command in (
            "GET shop:1",
            "FLUSHALL",
            "CONFIG GET maxmemory",
            "KEYS *",
            "PUBLISH shop x",
            "SHUTDOWN",
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command.split())


@pytest.mark.parametrize("change", ["-hset", "-evalsha", "resetkeys"])
def test_a_missing_right_is_named_in_one_line(ruled: Ruled, change: str) -> None:
    ruled.set_user(change)
    opened = store.Store(ruled.url, patience_seconds=2)
    try:
        with pytest.raises(
            StoreUnavailableError, match="does not permit its user a needed command"
        ) as raised:
            opened.run("add_task", (), ("default_a-1", "default", "POST /a", "", "", ""))
        assert "operations.md" in str(raised.value)
    finally:
        opened.close()


# RQ's commands come over a channel. Without the others, `rq info` shows no address.
NOT_NEEDED = [("-@pubsub", "-client|setname", "-client|info", "-client|unblock"), ("resetchannels",)]


@pytest.mark.parametrize("change", NOT_NEEDED)
def test_a_worker_runs_tasks_without_the_rights_that_only_rqs_tools_need(
    ruled: Ruled, lab: Lab, change: tuple[str, ...]
) -> None:
    ruled.set_user(*change)
    with lab.workers(1) as running:
        taskqueue.add(url="/work", name="one")
        lab.wait_for(1, "/work", 30)
        wait_until(lambda: "worker.commands" in running.text(), 10, "the warning")
        # The worker looks at its threads once a second.
        time.sleep(2.5)
        taskqueue.add(url="/work", name="two")
        lab.wait_for(2, "/work", 30)
        text = running.text()
    assert text.count("worker.commands") == 1, text
    assert "worker.thread_ended" not in text
    assert "Traceback" not in text


def commands_of_scripts() -> set[str]:
    """The names of the commands in all Lua files."""
    texts = [path.read_text() for path in (DOCUMENT.parents[1] / "lastacross").rglob("*.lua")]
    return {name for text in texts for name in re.findall(r"\b\w*(?:call|try)\(\s*'([A-Z]+)'", text)}


def test_the_documented_rights_cover_every_command_of_the_scripts(ruled: Ruled) -> None:
    granted = {word.removeprefix("+") for word in rules() if word.startswith("+")}
    names = commands_of_scripts()
    assert len(names) > 40
    for name in names:
        [described] = ruled.client.execute_command("COMMAND", "INFO", name).values()
        categories = set(described["acl_categories"])
        is_covered = categories & granted and "@dangerous" not in categories
        assert is_covered or name.lower() in granted, (name, categories)
