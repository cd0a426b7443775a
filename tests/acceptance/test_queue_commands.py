"""``lastacross queues`` and ``lastacross tasks``: what an operator sees and does, and what is refused."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastacross import audit, config, store, taskqueue
from lastacross.broker.steps import Broker
from lastacross.errors import TransientError
from lastacross.processes import data_folder, embedded
from lastacross.store import Store
from lastacross.taskqueue import Batch, Queue, Task
from tests.conftest import SECRET_KEY
from tests.support.command_line import Capture, Command, command_line
from tests.support.damage import BAD_VALUES, MISSING, flip
from tests.support.redis_server import RedisServer
from tests.support.uploads import upload


@pytest.fixture
def opened(redis_server: RedisServer, app_root: Path) -> Iterator[Store]:
    """An empty Redis with the machine's clock; queues default, mail (for "counter") and work (pull)."""
    store_ = Store(redis_server.url)
    store_.redis.flushall()
    queues = {"default": {"rate": "5.0"}, "mail": {"target": "counter"}, "work": {"mode": "pull"}}
    upload(store_, queues, services=["counter"])
    yield store_
    store_.close()


@pytest.fixture
def command(
    app_root: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> Iterator[Command]:
    """Runs a command in the application's folder; gives exit code, standard output and error."""
    for name in ("SECRET_KEY", "LASTACROSS_APP", "LASTACROSS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.chdir(app_root)
    with command_line(capsys) as run:
        yield run


@pytest.fixture
def filled(opened: Store, app_root: Path) -> Store:
    """A task of "default" in each state, named by it; a payload that would play with a terminal."""
    config.use(config.load(app_root, {"SECRET_KEY": SECRET_KEY, "REDIS_URL": opened.url}))
    store.use(opened)
    broker = Broker(opened)
    for name in ("dead", "leased"):
        taskqueue.add(url=f"/{name}", name=name)
        [task] = broker.lease(["default"], token="w", number=1, wanted=1, free=1, lease_seconds=600).tasks
        if name == "dead":
            broker.dead_letter(task, 500, "answered 500\x1b]0;gone\x07\nsecond line")
    taskqueue.add(b"\x1b[2Jhello \xff\r\n" + b"x" * 5000, url="/ready", name="ready", headers={"X-A": "1"})
    taskqueue.add(url="/scheduled", name="scheduled", countdown=3600, target="counter")
    Batch(name="b", on_complete=Task(url="/end")).__enter__()
    Queue("work").add(Task("pulled", method="PULL", name="p", tag="red"))
    store.use(None)
    config.use(None)
    return opened


def rows(out: str) -> list[list[str]]:
    """The cells of a table without its head and without the lines below it."""
    return [line.split() for line in out.partition("\n\n")[0].splitlines()[1:]]


# --- queues ----------------------------------------------------------------------------------


def test_queues_are_listed_with_their_tasks(command: Command, filled: Store) -> None:
    code, out, err = command("queues", "list")

    assert (code, err) == (0, "")
    table = {row[0]: row[1:] for row in rows(out)}
    assert table["default"][:7] == ["push", "running", "3", "1", "1", "5", "1"]
    assert table["mail"] == ["push", "running", "0", "0", "0", "500", "0", "-", "counter"]
    assert table["work"][:3] == ["pull", "running", "1"]


def test_the_list_for_programs(command: Command, filled: Store) -> None:
    command("queues", "pause", "mail")
    upload(filled, ["default", "mail"])

    code, out, _ = command("queues", "list", "--json")

    found = {queue["name"]: queue for queue in json.loads(out)}
    assert code == 0
    assert [found[name]["state"] for name in ("default", "mail", "work")] == ["running", "paused", "disabled"]
    assert (found["default"]["dead"], found["default"]["tasks"], found["mail"]["enforced_rate"]) == (1, 3, 0)
    assert found["default"]["oldest_eta"].endswith("Z")


def test_pausing_and_resuming(command: Command, opened: Store) -> None:
    assert command("queues", "pause", "default", "mail") == (
        0,
        "queue default is paused\nqueue mail is paused\n",
        "",
    )
    assert opened.redis.smembers(store.PAUSED) == {b"default", b"mail"}

    assert command("queues", "resume", "default") == (0, "queue default is resumed\n", "")
    code, out, _ = command("queues", "resume", "mail", "--json")

    assert (code, json.loads(out)) == (0, [{"name": "mail", "is_paused": False}])
    assert opened.redis.smembers(store.PAUSED) == set()


def test_draining_and_its_end(command: Command, opened: Store) -> None:
    assert command("queues", "drain", "default") == (0, "queue default refuses new tasks\n", "")
    rows = json.loads(command("queues", "list", "--json")[1])
    assert [row["state"] for row in rows if row["name"] in ("default", "mail")] == ["draining", "running"]
    with pytest.raises(TransientError, match="draining"):
        taskqueue.add(url="/a")

    code, out, _ = command("queues", "undrain", "default", "--json")

    assert (code, json.loads(out)) == (0, [{"name": "default", "is_draining": False}])
    assert opened.redis.smembers(store.DRAINING) == set()
    assert [(each.action, each.ids) for each in audit.read(opened).entries] == [
        ("queue.undrain", ("default",)),
        ("queue.drain", ("default",)),
    ]


def test_one_misspelt_name_changes_nothing(command: Command, opened: Store) -> None:
    code, out, err = command("queues", "pause", "default", "nowhere")

    assert (code, out) == (1, "")
    assert err == "lastacross: there is no queue 'nowhere'; the queues are default, mail, work\n"
    assert opened.redis.smembers(store.PAUSED) == set()


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_purging_asks_first(
    command: Command, filled: Store, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))

    code, out, err = command("queues", "purge", "default")

    assert (code, out) == (1, "")
    assert "Delete all tasks of queue default (currently 3)?" in err
    assert err.endswith(
        "lastacross: queue default was not purged; use --yes to purge it without confirmation\n"
    )
    assert filled.redis.exists(store.record_key("default_ready"))


def test_purging_after_a_yes(command: Command, filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    code, out, _ = command("queues", "purge", "default")

    assert (code, out) == (0, "queue default was purged of 3 tasks\n")
    assert not filled.redis.exists(store.record_key("default_ready"))
    assert filled.redis.exists(store.record_key("default_dead"))


def test_purging_without_being_asked(command: Command, filled: Store) -> None:
    code, out, err = command("queues", "purge", "default", "--yes", "--json")

    assert (code, json.loads(out), err) == (0, {"name": "default", "tasks": 3}, "")
    assert not filled.redis.exists(store.record_key("default_scheduled"))


@pytest.fixture
def without_mail(opened: Store, app_root: Path) -> Store:
    """The last upload lists neither "work" nor "mail", which has a task and is paused."""
    config.use(config.load(app_root, {"SECRET_KEY": SECRET_KEY, "REDIS_URL": opened.url}))
    store.use(opened)
    taskqueue.add(url="/a", name="t", queue_name="mail")
    store.use(None)
    config.use(None)
    opened.redis.sadd(store.PAUSED, "mail")
    upload(opened, ["default"])
    return opened


def test_a_disabled_queue_is_forgotten_once_it_is_empty(command: Command, without_mail: Store) -> None:
    code, out, err = command("queues", "forget", "mail", "--yes")
    assert (code, out) == (1, "")
    assert err == (
        "lastacross: queue mail still has tasks or dead letters; `lastacross tasks list mail` shows them\n"
    )

    command("queues", "purge", "mail", "--yes")
    assert command("queues", "forget", "mail", "--yes") == (0, "queue mail was forgotten\n", "")

    names = [row["name"] for row in json.loads(command("queues", "list", "--json")[1])]
    assert "mail" not in names
    assert without_mail.redis.smembers(store.PAUSED) == set()
    assert [(each.action, each.ids) for each in audit.read(without_mail).entries] == [
        ("queue.forget", ("mail",)),
        ("queue.purge", ("mail",)),
    ]


def test_forgetting_for_programs(command: Command, without_mail: Store) -> None:
    code, out, err = command("queues", "forget", "work", "--yes", "--json")

    assert (code, json.loads(out), err) == (0, {"name": "work", "is_forgotten": True}, "")
    assert not without_mail.redis.exists(store.settings_key("work"))


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_forgetting_asks_first(
    command: Command, without_mail: Store, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))

    code, out, err = command("queues", "forget", "work")

    assert (code, out) == (1, "")
    assert "Forget queue work and its settings?" in err
    assert err.endswith("queue work was not forgotten; use --yes to forget it without confirmation\n")
    assert without_mail.redis.exists(store.settings_key("work"))


def test_a_listed_queue_is_not_forgotten_and_nobody_is_asked(command: Command, opened: Store) -> None:
    assert command("queues", "forget", "mail") == (
        1,
        "",
        "lastacross: queue mail is not disabled; take it out of queue.yaml and deploy first\n",
    )
    assert opened.redis.exists(store.settings_key("mail"))
    assert audit.read(opened).entries == ()


def test_an_unknown_queue_is_not_forgotten(command: Command, opened: Store) -> None:
    code, out, err = command("queues", "forget", "nowhere", "--yes")

    assert (code, out) == (1, "")
    assert err == "lastacross: there is no queue 'nowhere'; the queues are default, mail, work\n"


# --- tasks -----------------------------------------------------------------------------------


def test_tasks_are_listed_by_their_states(command: Command, filled: Store) -> None:
    code, out, err = command("tasks", "list", "default")

    assert (code, err) == (0, "")
    table = {row[0]: row for row in rows(out)}
    assert {name: row[1] for name, row in table.items()} == {
        "ready": "ready",
        "scheduled": "scheduled",
        "leased": "leased",
        "dead": "dead",
        "b-complete": "waiting",
    }
    assert table["scheduled"][4:7] == ["counter", "POST", "/scheduled"]
    assert out.count("answered 500\\x1b]0;gone\\x07\\nsecond line") == 1


def test_only_some_states_and_not_too_many(command: Command, filled: Store) -> None:
    _, out, _ = command("tasks", "list", "default", "--state", "dead", "--state", "ready", "--json")
    assert [task["name"] for task in json.loads(out)] == ["dead", "ready"]

    _, out, _ = command("tasks", "list", "default", "--limit", "1", "--json")
    assert len(json.loads(out)) == 5


def test_pull_tasks_are_listed_too(command: Command, filled: Store) -> None:
    _, out, _ = command("tasks", "list", "work", "--json")

    [task] = json.loads(out)
    assert (task["name"], task["state"], task["method"], task["tag"]) == ("p", "ready", "PULL", "red")


def test_nothing_of_a_task_reaches_the_terminal_raw(command: Command, filled: Store) -> None:
    filled.redis.hset(store.record_key("default_ready"), "description", "GET /\u202egpj.exe\x9b1m\x00")

    for arguments in (("list", "default"), ("show", "default", "ready"), ("show", "default", "dead")):
        code, out, err = command("tasks", *arguments)
        assert code == 0
        assert [each for each in out + err if not each.isprintable() and each != "\n"] == []
        assert arguments[-1] == "dead" or "gpj.exe" in out


def test_a_task_is_shown_whole(command: Command, filled: Store) -> None:
    code, out, _ = command("tasks", "show", "default", "ready")

    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert (lines["name"], lines["state"], lines["url"]) == ("ready", "ready", "/ready")
    assert "X-A: 1" in out
    assert lines["payload"].startswith("\\x1b[2Jhello \\xff\\r\\nxxx")
    assert lines["payload"].endswith("… (5013 bytes)")
    assert len(lines["payload"]) < 1100


def test_a_task_for_programs_has_its_whole_payload(command: Command, filled: Store) -> None:
    _, out, _ = command("tasks", "show", "default", "ready", "--json")
    ready = json.loads(out)
    _, out, _ = command("tasks", "show", "work", "p", "--json")
    pulled = json.loads(out)

    assert base64.b64decode(ready["body_base64"]) == b"\x1b[2Jhello \xff\r\n" + b"x" * 5000
    assert ready["body"] is None
    assert ["X-A", "1"] in ready["headers"]
    assert pulled["body"] == "pulled"


def test_a_dead_letter_says_why(command: Command, filled: Store) -> None:
    _, out, _ = command("tasks", "show", "default", "dead", "--json")

    found = json.loads(out)
    assert (found["state"], found["attempts"], found["record"]["previous_response"]) == ("dead", 1, "500")
    assert found["error"].startswith("answered 500")
    assert found["dead_at"].endswith("Z")


def test_a_task_runs_now(command: Command, filled: Store) -> None:
    assert command("tasks", "run", "default", "scheduled") == (
        0,
        "task scheduled of queue default will run as soon as a worker is free\n",
        "",
    )
    assert filled.redis.lrange(store.RUN_NOW_PREFIX + "counter", 0, -1) == [b"default_scheduled"]

    code, _, err = command("tasks", "run", "default", "leased")
    assert (code, err) == (1, "lastacross: task 'leased' is already running\n")


def test_tasks_are_deleted(command: Command, filled: Store) -> None:
    code, out, err = command("tasks", "delete", "default", "ready", "none", "dead")

    assert (code, err) == (1, "lastacross: queue 'default' has no task 'none'\n")
    assert out == "task ready of queue default was deleted\ntask dead of queue default was deleted\n"
    assert not filled.redis.exists(store.record_key("default_ready"), store.record_key("default_dead"))
    assert command("tasks", "delete", "default", "scheduled", "--json")[0] == 0


def test_dead_letters_are_tried_again(command: Command, filled: Store) -> None:
    code, out, err = command("tasks", "retry", "default", "dead", "ready")

    assert (code, out) == (1, "task dead of queue default will be retried\n")
    assert err == "lastacross: queue 'default' has no dead letter 'ready'\n"
    assert b"default_dead" in filled.redis.lrange(store.ready_key("default"), 0, -1)


def test_all_dead_letters_are_tried_again(command: Command, filled: Store) -> None:
    code, out, _ = command("tasks", "retry", "default", "--all", "--json")
    assert (code, json.loads(out)) == (0, [{"queue": "default", "name": "dead"}])

    assert command("tasks", "retry", "default", "--all") == (0, "", "")


@pytest.mark.parametrize("arguments", [(), ("--all", "dead")])
def test_retry_wants_names_or_all(command: Command, opened: Store, arguments: tuple[str, ...]) -> None:
    code, _, err = command("tasks", "retry", "default", *arguments)

    assert code == 2
    assert "give the names of tasks, or --all" in err


# --- refused ---------------------------------------------------------------------------------

EVERY = [
    ("queues", "pause", "{}"),
    ("queues", "resume", "{}"),
    ("queues", "drain", "{}"),
    ("queues", "undrain", "{}"),
    ("queues", "purge", "{}", "--yes"),
    ("tasks", "list", "{}"),
    ("tasks", "show", "{}", "a"),
    ("tasks", "run", "{}", "a"),
    ("tasks", "delete", "{}", "a"),
    ("tasks", "retry", "{}", "a"),
    ("tasks", "retry", "{}", "--all"),
]


@pytest.mark.parametrize("arguments", EVERY)
@pytest.mark.parametrize("queue", ["nowhere", "no_queue", "\x1b[2J"])
def test_a_queue_that_there_is_not_is_named_in_one_line(
    command: Command, opened: Store, arguments: tuple[str, ...], queue: str
) -> None:
    code, out, err = command(*(each.format(queue) for each in arguments))

    assert (code, out) == (1, "")
    assert err.startswith("lastacross: ")
    assert err.count("\n") == 1
    assert repr(queue) in err
    assert "\x1b" not in err


@pytest.mark.parametrize("name", ["none", "no name", "\x1b[2J"])
@pytest.mark.parametrize("verb", ["show", "run", "delete", "retry"])
def test_a_task_that_there_is_not_is_named_in_one_line(
    command: Command, opened: Store, verb: str, name: str
) -> None:
    code, out, err = command("tasks", verb, "default", name)

    assert (code, out) == (1, "")
    assert err.startswith("lastacross: ")
    assert err.count("\n") == 1
    assert repr(name) in err
    assert "\x1b" not in err


@pytest.mark.parametrize("arguments", [("queues", "list"), *EVERY])
def test_without_redis_it_is_said_in_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:1/0")

    code, out, err = command(*(each.format("default") for each in arguments))

    assert (code, out) == (1, "")
    assert err.startswith("lastacross: Redis is not available")
    assert err.count("\n") == 1
    assert "secret" not in err


# --- which Redis -----------------------------------------------------------------------------


def test_without_redis_url_it_is_that_of_a_running_dev(tmp_path: Path) -> None:
    with data_folder.opened(tmp_path / "var") as folder:
        assert embedded.running_url(folder.path) is None
        server = embedded.prepare(folder)
        assert embedded.running_url(folder.path) == server.url

    assert embedded.running_url(tmp_path / "var") is None
    assert embedded.running_url(tmp_path / "none") is None


def test_the_commands_of_a_folder_ask_the_redis_of_its_dev(
    command: Command, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setattr(embedded, "running_url", lambda path: opened.url)

    code, out, _ = command("queues", "list", "--json")

    assert (code, {queue["name"] for queue in json.loads(out)}) == (0, {"default", "mail", "work"})


def test_the_commands_leave_nothing_open(command: Command, filled: Store) -> None:
    def clients() -> set[str]:
        found: Any = filled.redis.client_list()
        return {each["id"] for each in found}

    before = clients()
    command("tasks", "list", "default")

    assert clients() == before


def test_a_command_logs_what_it_does_only_if_it_is_told_to(
    command: Command, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("queues", "pause", "default")[2] == ""
    monkeypatch.setenv("LASTACROSS_LOG_LEVEL", "INFO")

    code, out, err = command("queues", "resume", "default")

    assert (code, out) == (0, "queue default is resumed\n")
    assert "lastacross.taskqueue" in err


# --- damaged records --------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_damaged_record_keeps_no_command_from_its_work(
    command: Command, filled: Store, value: object
) -> None:
    redis: Any = filled.redis
    flip(redis, store.settings_key("mail"), "rate", value)
    code, out, err = command("queues", "list")
    assert (code, err) == (0, "")
    assert "mail" in out
    whole = redis.hgetall(store.record_key("default_ready"))

    for field in ("status", "eta", "failures", "headers", "description"):
        redis.hset(store.record_key("default_ready"), mapping=whole)
        flip(redis, store.record_key("default_ready"), field, value)
        code, out, err = command("tasks", "list", "default", "--json")
        assert (code, err) == (0, "")
        assert {"dead", "leased"} <= {task["name"] for task in json.loads(out)}
        is_hidden = value is MISSING and field in ("status", "eta")
        assert (command("tasks", "show", "default", "ready")[0] != 0) == is_hidden

    assert command("tasks", "delete", "default", "ready")[0] == 0
    assert redis.exists(store.record_key("default_ready")) == 0
