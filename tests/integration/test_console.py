"""The console's pages and actions over a real Redis and SQLite: what they show, and what they do."""

import json
import pickle
import re
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert

from lastacross import audit, config, datastore, store, taskqueue, webapp
from lastacross import console as console_room
from lastacross.accounts import Person
from lastacross.broker import (
    Broker,
    Control,
    FailedAttempt,
    Listing,
    WorkerStatus,
    queue_directory,
)
from lastacross.config import CRON_QUEUE
from lastacross.console.app import ROUTES
from lastacross.cronruns import model
from lastacross.datastore import CronRun, OutboxRow
from lastacross.store import Store
from lastacross.store.store import SAME_WAIT_SECONDS
from lastacross.taskqueue import Batch, Queue, Task
from lastacross.worker.deadline import Deadlines
from lastacross.worker.delivery import Delivery
from tests.support import console, console_data, databases
from tests.support.clock import StoppedClock
from tests.support.console import Visitor, signed_in_as
from tests.support.hands import Hands
from tests.support.redis_server import running_server, unavailable_store

QUEUES = """\
queue:
- name: default
  rate: 5/s
  bucket_size: 1
- name: mail
  rate: 30/m
  max_concurrent_requests: 2
  retry_parameters:
    task_retry_limit: 3
    task_age_limit: 2h
- name: pulled
  mode: pull
"""
CRON = """\
cron:
- description: close the books
  url: /tasks/close
  schedule: 1st,third monday of month 04:00
  timezone: America/New_York
"""


@pytest.fixture
def admin(configuration: config.Config, test_store: Store) -> Visitor:
    """The administrator of a site with three queues and a cron job."""
    (configuration.root / "queue.yaml").write_text(QUEUES)
    (configuration.root / "cron.yaml").write_text(CRON)
    loaded = config.load(configuration.root, _environ(configuration))
    config.use(loaded)
    databases.upgrade()
    queue_directory.upload(test_store, loaded)
    return console.admin(loaded)


def _environ(configuration: config.Config) -> dict[str, str]:
    settings = configuration.settings
    return {
        "REDIS_URL": settings.redis_url,
        "DATABASE_URL": settings.database_url,
        "SECRET_KEY": settings.secret_key,
        "LASTACROSS_DATA_DIR": str(settings.data_dir),
        "LASTACROSS_ALLOWED_HOSTS": "localhost",
    }


def lease(queue: str, wanted: int = 1) -> list:  # type: ignore[type-arg]
    """Lease tasks as a worker does."""
    broker = Broker(store.current())
    request = {"token": "t" * 48, "number": 0, "wanted": wanted, "free": wanted, "lease_seconds": 60.0}
    return broker.lease([queue], **request).tasks  # type: ignore[arg-type]


def die(queue: str, reason: str = "HTTP 500: no") -> str:
    """Make the next task of a queue a dead letter; returns its name."""
    [task] = lease(queue)
    assert Broker(store.current()).dead_letter(task, 500, reason)
    return str(task.name)


# --- every page ---------------------------------------------------------------------------

PAGES = sorted(path.removeprefix("/") for path in ROUTES if "<" not in path)


def test_each_page_is_html_and_json_without_script_or_style(admin: Visitor) -> None:
    for path in PAGES:
        page = admin.get(path)
        facts = admin.json(path)
        assert page.content_type == "text/html"
        assert page.html.h1.text.strip()
        assert admin.get(f"{path}.json").json.keys() == facts.keys()
        assert not [key for key in facts if key.startswith("_")]
        assert [tag["src"] for tag in page.html.find_all("script")] == ["/_ah/static/console.js"]
        assert not page.html.find_all("style")
        assert not page.html.find_all(style=True)
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]


def test_an_unchanged_page_is_not_sent_again(admin: Visitor, clock: StoppedClock) -> None:
    etags = {path: admin.get(path).headers["ETag"] for path in PAGES}
    clock.advance(1)

    for path, etag in etags.items():
        assert admin.get(path, 304, **{"If-None-Match": etag}).body == b"", path
    Queue("mail").add(Task(url="/a"))
    assert admin.get("queues", 200, **{"If-None-Match": etags["queues"]}).body


def test_a_stranger_sees_nothing(admin: Visitor) -> None:
    stranger = Visitor(config.current(), {})

    for path in [*PAGES, "queues/mail", "queues/mail/pause"]:
        answer = stranger.client.get(f"/_ah/admin/{path}.json", status=403)
        assert answer.json["error"]["code"] == 403


WITHOUT_REDIS = {"configuration", "cron", "longtasks"}
"""The pages that show something even then."""


def test_each_page_says_that_redis_is_unavailable(
    admin: Visitor, tmp_path: Path, clock: StoppedClock
) -> None:
    store.use(unavailable_store(tmp_path, clock))
    for path in sorted(set(PAGES) - WITHOUT_REDIS):
        answer = admin.get(path, 503)
        assert answer.html.h1.text == "Redis is unavailable", path
        assert answer.headers["Retry-After"]
        assert admin.json(path, 503)["error"]["code"] == 503
    for path in WITHOUT_REDIS:
        assert admin.get(path).html.h1


# --- queues -------------------------------------------------------------------------------


def test_the_list_shows_each_queue_in_the_wanted_order(admin: Visitor) -> None:
    Queue("mail").add([Task(url="/a"), Task(url="/b", countdown=60)])
    Queue("default").pause()

    rows = admin.json("queues?order=ready")["queues"]
    paused = admin.json("queues?state=paused")["queues"]

    assert [row["name"] for row in rows] == ["mail", "default", "pulled"]
    assert (rows[0]["ready"], rows[0]["scheduled"], rows[0]["rate"]) == (1, 1, 0.5)
    assert [row["name"] for row in paused] == ["default"]
    assert paused[0]["effective_rate"] == 0
    assert admin.get("queues?order=size", 400)


def test_a_queue_says_why_nothing_runs(admin: Visitor) -> None:
    Queue("mail").add([Task(url="/a", name=f"t{number}") for number in range(4)])
    Queue("mail").pause()
    page = admin.get("queues/mail")
    text = " ".join(page.html.find("section", "why").text.split())

    assert "The queue is paused. Resume it." in text
    assert "No worker serves target default, for which 4 tasks wait." in text
    assert admin.json("queues/mail")["why_idle"][0]["kind"] == "paused"


def test_a_queue_explains_both_retry_limits(admin: Visitor) -> None:
    words = admin.json("queues/mail")["retry_in_words"]

    assert "after 3 retries and 2 h since its first attempt. Both limits must be exceeded." in words


def test_an_unknown_queue_is_not_found(admin: Visitor) -> None:
    assert "There is no queue &#39;nowhere&#39;" in admin.get("queues/nowhere", 404).text
    assert admin.json("queues/nowhere", 404)["error"]["code"] == 404


@pytest.mark.parametrize(
    ("action", "state", "message"),
    [
        ("pause", "paused", "Queue mail is paused."),
        ("drain", "draining", "Queue mail is draining; it accepts no new tasks."),
    ],
)
def test_an_action_changes_the_queue_and_leaves_an_audit_line(
    admin: Visitor, action: str, state: str, message: str
) -> None:
    undo = {"pause": "resume", "drain": "undrain"}[action]

    assert admin.act(f"queues/mail/{action}") == message
    assert admin.json("queues/mail")["state"] == state
    [entry] = audit.read(store.current()).entries
    assert (entry.name, entry.action, entry.ids) == ("administrator", f"queue.{action}", ("mail",))
    assert entry.address == console.ADDRESS
    admin.act(f"queues/mail/{undo}")
    assert admin.json("queues/mail")["state"] == "running"


def test_purging_says_how_many_tasks_it_deleted(admin: Visitor) -> None:
    Queue("mail").add([Task(url="/a") for _ in range(7)])

    assert admin.act("queues/mail/purge") == "Queue mail was purged of 7 tasks."
    assert admin.json("queues/mail")["ready"] == 0


# --- tasks --------------------------------------------------------------------------------


def test_a_task_shows_its_form_decoded(admin: Visitor) -> None:
    taskqueue.add(queue_name="mail", name="t", url="/send", params={"to": "a@b.example", "text": "<b>"})

    page = admin.get("tasks/mail/t")
    facts = admin.json("tasks/mail/t")

    cells = [
        cell.text for cell in page.html.find("section", attrs={"aria-labelledby": "body"}).find_all("td")
    ]
    assert sorted(cells) == ["<b>", "a@b.example"]
    assert facts["body"]["kind"] == "form"
    assert (facts["method"], facts["url"], facts["state"]) == ("POST", "/send", "ready")


@pytest.mark.parametrize(
    ("payload", "kind", "shown"),
    [
        (json.dumps({"a": [1]}), "json", '"a": ['),
        ("plain words", "text", "plain words"),
        (pickle.dumps({"key": 1}), "pickle", "SHORT_BINUNICODE 'key'"),
        (b"\xff\x00\x01", "bytes", "ff 00 01"),
    ],
)
def test_a_body_is_decoded_by_what_it_is(admin: Visitor, payload: str | bytes, kind: str, shown: str) -> None:
    Queue("mail").add(Task(payload, name="t", url="/send"))

    facts = admin.json("tasks/mail/t")

    assert facts["body"]["kind"] == kind
    assert shown in facts["body"]["text"]


def test_a_lone_surrogate_is_shown_as_an_escape(admin: Visitor, clock: StoppedClock) -> None:
    """It is valid JSON, but no page can contain it."""
    Queue("mail").add(Task('{"a": "\\ud800"}', name="t", url="/send"))
    last = ("no \ud800", "mail_t", clock.now())
    status = WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",), False, *last)
    console_data.register_worker("lastacross-a", status, clock.now())

    assert r'"a": "\ud800"' in admin.json("tasks/mail/t")["body"]["text"]
    assert r"\ud800" in admin.get("tasks/mail/t").html.find("section", attrs={"aria-labelledby": "body"}).text
    assert admin.json("workers")["workers"][0]["last_error"] == "no ?"
    assert "no ?" in admin.get("workers").text


def test_a_pickle_is_never_loaded(admin: Visitor) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("it was loaded",))

    Queue("mail").add(Task(pickle.dumps(Trap()), name="t", url="/send"))

    assert "REDUCE" in admin.json("tasks/mail/t")["body"]["text"]


def test_a_task_that_has_ended_says_until_when_its_name_is_refused(
    admin: Visitor, clock: StoppedClock
) -> None:
    for name in ("done", "deleted", "purged"):
        Queue("mail").add(Task(url="/a", name=name))
        if name == "done":
            assert Broker(store.current()).ack(lease("mail")) == [True]
        elif name == "deleted":
            Queue("mail").delete_tasks(Task(name=name))
        else:
            Queue("mail").purge()

        text = admin.get(f"tasks/mail/{name}", 404).html.main.text
        error = admin.json(f"tasks/mail/{name}", 404)["error"]

        assert f"no longer has a task {name}. It has ended" in text
        assert error["code"] == 404
        assert "its name is refused until 20" in error["message"]
        until = datetime.fromisoformat(error["name_refused_until_at"]).timestamp()
        tombstone_seconds = config.current().settings.tombstone_seconds
        assert clock.now() + tombstone_seconds - 30 < until <= clock.now() + tombstone_seconds


def test_a_task_without_a_tombstone_says_so(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/a", name="freed"))
    admin.act("tasks/mail/freed/free")

    for name in ("freed", "never-added"):
        assert f"neither a task {name} nor its tombstone" in admin.get(f"tasks/mail/{name}", 404).text
        error = admin.json(f"tasks/mail/{name}", 404)["error"]
        assert (error["code"], error["name_refused_until_at"]) == (404, None)


def test_a_tombstone_without_an_end_is_shown_too(admin: Visitor) -> None:
    store.current().redis.set(store.tombstone_key("mail_t"), "1")

    error = admin.json("tasks/mail/t", 404)["error"]
    assert "its name is refused until its tombstone is deleted" in error["message"]
    assert error["name_refused_until_at"] is None


def test_a_dead_letter_is_retried_and_run(admin: Visitor) -> None:
    Queue("mail").add([Task(url="/a", name="one"), Task(url="/a", name="two")])
    names = [die("mail"), die("mail")]

    assert admin.json(f"tasks/mail/{names[0]}")["state"] == "dead"
    assert admin.act(f"tasks/mail/{names[0]}/retry") == f"Task {names[0]} will be retried."
    assert admin.act(f"tasks/mail/{names[1]}/run").startswith(f"Task {names[1]} runs as soon as")
    assert {task.state for task in Listing(store.current()).tasks("mail")} == {"ready"}
    page = admin.get(f"tasks/mail/{names[0]}")
    assert "retry" not in [link["href"].rpartition("/")[2] for link in page.html.select(".actions a")]


def test_a_task_is_deleted(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/a", name="t"))

    assert admin.act("tasks/mail/t/delete") == "Task t was deleted."
    assert Listing(store.current()).find("mail", "t") is None
    assert admin.get("tasks/mail/t/delete", 404)


def test_a_copy_runs_with_an_edited_body(admin: Visitor) -> None:
    Queue("mail").add(Task('{"a": 1}', name="t", url="/send", headers={"X-Kept": "yes"}))

    message = admin.act("tasks/mail/t/again", body='{"a": 2}')

    name = message.removeprefix("The copy was added as task ").rstrip(".")
    copy = Listing(store.current()).find("mail", name)
    assert copy is not None
    assert (copy.body, copy.task.url) == (b'{"a": 2}', "/send")
    assert ("X-Kept", "yes") in copy.headers


def test_the_same_form_sent_twice_makes_one_copy(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/send", name="t"))
    form = admin.get("tasks/mail/t/again").forms[1]

    assert form.submit().status_int == 303
    assert "already has a task named" in form.submit(status=409).text
    assert len(list(Listing(store.current()).tasks("mail"))) == 2
    assert [entry.action for entry in audit.read(store.current()).entries] == ["task.copy"]

    admin.act("tasks/mail/t/again")
    assert len(list(Listing(store.current()).tasks("mail"))) == 3, "another form makes another copy"


def test_a_draining_queue_refuses_a_copy_with_its_own_words(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/send", name="t"))
    form = admin.get("tasks/mail/t/again").forms[1]
    Queue("mail").drain()

    page = form.submit(status=409)

    assert "Queue &#39;mail&#39; is draining" in page.text
    assert "Redis is unavailable" not in page.text
    assert len(list(Listing(store.current()).tasks("mail"))) == 1
    assert audit.read(store.current()).entries == ()


def test_an_action_that_an_outage_interrupts_is_in_the_audit_log(
    admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its steps may have been taken."""

    def interrupted(*_given: object) -> int:
        raise taskqueue.TransientError("Redis is unavailable: timeout")

    form = admin.get("queues/mail/purge").forms[1]
    monkeypatch.setattr(Broker, "purge", interrupted)

    assert form.submit(status=503).html.h1.text == "Redis is unavailable"
    [entry] = audit.read(store.current()).entries
    assert (entry.name, entry.action, entry.ids) == ("administrator", "queue.purge.interrupted", ("mail",))
    assert entry.address == console.ADDRESS


# --- the others ---------------------------------------------------------------------------


def test_a_cron_job_is_told_in_plain_words_with_its_next_runs(admin: Visitor) -> None:
    model.deploy(config.current().cron, store.current().now())

    [job] = admin.json("cron")["jobs"]

    assert job["in_words"] == (
        "On the first and third Monday of each month at 04:00 (America/New_York time)."
    )
    assert len(job["next_runs"]) == 5
    assert job["next_runs"][0]["local"].startswith("Mon ")
    assert admin.act(f"cron/{job['name']}/run").startswith(f"Job {job['name']} was started as task")
    assert admin.json("cron")["jobs"][0]["is_running"]
    assert admin.get("cron/nobody/run", 404)


def test_each_deployed_job_has_its_newest_runs(admin: Visitor) -> None:
    """They are read without a look at the others."""
    model.deploy(config.current().cron, store.current().now())
    [job] = model.jobs()
    facts = {"cause": "hand", "state": "done", "created_at": 1.0}
    rows = [
        {**facts, "job": name, "task_name": f"{name}-{number}", "due_at": float(number)}
        for name in (job.name, "removed")
        for number in range(2000)
    ]
    with datastore.session() as session:
        session.execute(insert(CronRun), rows)
    steps: list[int] = []

    def count(_connection: Any, cursor: Any, *_given: Any) -> None:
        cursor.connection.set_progress_handler(lambda: steps.append(100), 100)

    event.listen(datastore.engine(), "before_cursor_execute", count)
    try:
        found = model.latest_runs(3)
    finally:
        event.remove(datastore.engine(), "before_cursor_execute", count)

    assert list(found) == [job.name]
    assert [run.due_at for run in found[job.name]] == [1999.0, 1998.0, 1997.0]
    assert sum(steps) < 2000, "SQLite's steps"


def test_secrets_are_masked(admin: Visitor) -> None:
    page = admin.get("configuration").text

    assert "SECRET_KEY" in page
    assert config.current().settings.secret_key not in page


def test_the_audit_log_is_filtered(admin: Visitor) -> None:
    for name in ("anna", "ben"):
        audit.record(store.current(), Person(name, "admin", "password"), "queue.pause", ["mail"])

    assert [entry["name"] for entry in admin.json("audit?name=ben")["entries"]] == ["ben"]
    assert admin.json("audit?action=task")["entries"] == []


IDLE = WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",))


# --- who may do what ----------------------------------------------------------------------

VIEWER = Person("vera", "viewer", "password")
ACTIONS = sorted(
    re.sub("<[^>]*>", "x", path).removeprefix("/")
    for path, page in ROUTES.items()
    if not page.endswith("Page")
)


def test_a_viewer_may_not_act(admin: Visitor) -> None:
    assert len(ACTIONS) >= 14
    with signed_in_as(VIEWER):
        for path in ACTIONS:
            for accept in ("text/html", "application/json"):
                headers = {"Accept": accept}
                admin.client.get(f"/_ah/admin/{path}", headers=headers, status=403)
                admin.client.post(f"/_ah/admin/{path}", headers=headers, status=403)
    assert audit.read(store.current()).entries == ()


def test_a_viewer_sees_no_buttons(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/a", name="t"))
    for path in ("queues/mail", "tasks/mail/t"):
        assert admin.get(path).html.select(".actions a")
        with signed_in_as(VIEWER):
            page = admin.get(path)
        assert not page.html.select(".actions a, a.button")
        assert "vera, viewer" in page.text


ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {},
    {"Content-Type": "text/plain"},
]


def test_a_form_of_another_site_does_nothing(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/a", name="x"))

    for path in ACTIONS:
        for headers in ELSEWHERE:
            admin.client.post(f"/_ah/admin/{path}", {"body": "x"}, headers=headers, status=403)

    assert audit.read(store.current()).entries == ()
    assert Listing(store.current()).find("mail", "x") is not None


def test_a_get_changes_nothing_and_a_form_fits_one_action(admin: Visitor) -> None:
    form = admin.get("queues/mail/pause").forms[1]
    token = form["token"].value
    assert admin.json("queues/mail")["state"] == "running"

    refused = admin.client.post("/_ah/admin/queues/mail/purge", {"token": token}, status=403)

    assert "out of date" in refused.text


def test_a_message_cannot_be_forged(admin: Visitor) -> None:
    page = admin.get("queues?said=Call+0900-123+now")

    assert "0900" not in page.html.find(attrs={"role": "status"}).text


# --- the search ---------------------------------------------------------------------------


def test_tasks_are_found_by_filters_and_by_their_exact_name(admin: Visitor, clock: StoppedClock) -> None:
    Queue("mail").add([Task(url=f"/send/{number}", name=f"t{number}") for number in range(3)])
    Queue("default").add(Task(url="/other", name="t1"))
    die("mail", "HTTP 500: no")
    clock.advance(600)
    Queue("mail").add(Task(url="/send/new", name="new"))

    def names(query: str) -> list[str]:
        return [f"{task['queue']}/{task['name']}" for task in admin.json(f"tasks?{query}")["tasks"]]

    assert names("name=t1") == ["default/t1", "mail/t1"]
    assert names("name=t1&queue=mail") == ["mail/t1"]
    assert names("name=t") == []
    assert names("url=/send/&state=ready") == ["mail/t1", "mail/t2", "mail/new"]
    assert names("state=dead") == ["mail/t0"]
    assert names("queue=mail&age=5&state=ready") == ["mail/t1", "mail/t2"]
    assert admin.get("tasks?state=lost", 400)
    assert admin.get("tasks?answer=none", 400)
    assert admin.get("tasks?cursor=x", 400)


def test_a_search_goes_on_at_a_click(admin: Visitor) -> None:
    for first in range(0, 120, 60):
        Queue("mail").add([Task(url="/a", name=f"t{number:03}") for number in range(first, first + 60)])
    page = admin.get("tasks?queue=mail&url=/a")
    assert "50 tasks were looked at; 50 match." in " ".join(page.text.split())

    found = [row.text.strip() for row in page.html.select("tbody th")]
    while more := page.html.find("a", string="Look at the next ones"):
        page = admin.client.get(more["href"])
        found += [row.text.strip() for row in page.html.select("tbody th")]

    assert found == [f"t{number:03}" for number in range(120)]


# --- dead letters -------------------------------------------------------------------------


def run_bulk(configuration: config.Config) -> None:
    """Run the task of a bulk action as a worker does."""
    builtins = {console_room.WORK_URL: console_room.work}
    inside = webapp.inside(configuration, lambda _name: console_room.work, builtins)
    deadlines = Deadlines(pytest.fail)
    hands = Hands(store.current(), Delivery(inside, deadlines, direct_calls={}))
    try:
        [outcome] = hands.run(CRON_QUEUE)
    finally:
        deadlines.stop()
    assert outcome.is_success, outcome.reason


def test_dead_letters_are_grouped_and_a_group_is_retried(admin: Visitor, clock: StoppedClock) -> None:
    Queue("mail").add([Task(url=f"/send/{number}", name=f"t{number}") for number in range(5)])
    for number in range(5):
        die("mail", "HTTP 500: no connection" if number else "HTTP 500: no such order")
    clock.advance(1)

    facts = admin.json("dead")
    assert (facts["letters"], [group["letters"] for group in facts["groups"]]) == (5, [4, 1])
    group = facts["groups"][0]
    assert (group["handler"], group["answer"]) == ("/send/*", "500")
    assert "no connection" in admin.get("dead").text
    names = [task["name"] for task in admin.json(f"dead/{group['id']}")["tasks"]]
    assert sorted(names) == ["t1", "t2", "t3", "t4"]

    page = admin.client.get(f"/_ah/admin/dead/{group['id']}/retry").forms[1].submit().follow()
    bulk = page.request.path.removeprefix("/_ah/admin/")
    assert "Started on 4 dead letters." in page.html.find(attrs={"role": "status"}).text
    assert admin.json(bulk)["state"] == "running"
    run_bulk(config.current())

    assert (admin.json(bulk)["state"], admin.json(bulk)["done"]) == ("done", 4)
    assert {task.name: task.state for task in Listing(store.current()).tasks("mail")} == {
        "t0": "dead",
        **dict.fromkeys(("t1", "t2", "t3", "t4"), "ready"),
    }
    assert admin.json("dead")["letters"] == 1
    assert admin.get(f"dead/{group['id']}", 404)


def test_a_group_is_deleted_and_a_stopped_deletion_stops(admin: Visitor, clock: StoppedClock) -> None:
    Queue("mail").add([Task(url="/send", name=f"t{number}") for number in range(3)])
    for _ in range(3):
        die("mail")
    clock.advance(1)
    [group] = admin.json("dead")["groups"]
    page = admin.client.get(f"/_ah/admin/dead/{group['id']}/delete").forms[1].submit().follow()
    bulk = page.request.path.removeprefix("/_ah/admin/")
    admin.act(f"{bulk}/cancel")
    run_bulk(config.current())
    assert (admin.json(bulk)["state"], admin.json("dead")["letters"]) == ("cancelled", 3)

    admin.act(f"dead/{group['id']}/delete")
    run_bulk(config.current())

    assert admin.json("dead")["groups"] == []
    assert "No dead letters." in admin.get("dead").text


def test_a_bulk_action_whose_task_is_gone_is_lost(admin: Visitor, clock: StoppedClock) -> None:
    Queue("mail").add(Task(url="/send"))
    die("mail")
    clock.advance(1)
    [group] = admin.json("dead")["groups"]
    page = admin.client.get(f"/_ah/admin/dead/{group['id']}/retry").forms[1].submit().follow()
    bulk = page.request.path.removeprefix("/_ah/admin/")
    assert admin.json(bulk)["state"] == "running"

    [task] = Listing(store.current()).tasks(CRON_QUEUE)
    assert Broker(store.current()).delete([f"{CRON_QUEUE}_{task.name}"]) == [True]

    assert admin.json(bulk)["state"] == "lost"
    assert "Its task is gone" in admin.get(bulk).text


def test_a_bulk_action_is_refused_while_its_queue_is_draining(admin: Visitor, clock: StoppedClock) -> None:
    Queue("mail").add(Task(url="/send"))
    die("mail")
    clock.advance(1)
    [group] = admin.json("dead")["groups"]
    queue_directory.keep_cron_queue(store.current(), config.current())
    Control(store.current()).drain(CRON_QUEUE, True)
    clock.advance(2)

    page = admin.get(f"dead/{group['id']}/retry").forms[1].submit(status=409)

    assert f"Queue &#39;{CRON_QUEUE}&#39; is draining" in page.text
    assert "Redis is unavailable" not in page.text
    assert audit.read(store.current()).entries == ()


def test_only_a_task_may_carry_out_a_bulk_action(admin: Visitor) -> None:
    assert admin.client.post("/_ah/bulk", {"id": "x"}, status=403)


def test_a_tasks_timeline_has_each_attempt_with_its_answer(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/send", name="t"))
    broker = Broker(store.current())
    for number in range(2):
        [task] = lease("mail")
        attempt = FailedAttempt(store.current().now(), 1.5, 503, f"answer {number}", "web-1.worker-2", None)
        assert broker.retry(task, store.current().now() - 1, 503, attempt=attempt.dump())
        broker.promote_due(["mail"])

    timeline = admin.json("tasks/mail/t")["timeline"]

    assert [event["text"] for event in timeline] == [
        "Added",
        "First leased by a worker",
        "Attempt 1 failed with status 503 after 1.5 s",
        "Attempt 2 failed with status 503 after 1.5 s",
        "Ready since",
    ]
    assert [event["answer"] for event in timeline[2:4]] == ["answer 0", "answer 1"]
    assert "web-1.worker-2" in timeline[2]["detail"]


# --- batches, workers, cron ---------------------------------------------------------------


def test_a_batch_is_shown_as_a_tree_with_its_failed_members_and_cancelled(admin: Visitor) -> None:
    with Batch("mail", name="parent") as batch:
        batch.add([Task(url="/a", name="member"), *(Task(url="/a") for _ in range(4))])
    die("mail", "HTTP 500: no")

    [listed] = admin.json("batches")["batches"]
    found = admin.json("batches?batch=parent")
    assert (listed["id"], listed["state"], listed["total"], listed["failed"]) == ("parent", "running", 5, 1)
    assert [task["name"] for task in found["failed_members"]] == ["member"]
    assert (found["tree"]["id"], found["tree"]["children"]) == ("parent", [])
    assert admin.get("batches?batch=parent").html.find("a", href=re.compile(r"tasks\?batch=parent"))
    assert admin.json("tasks?batch=parent&state=ready")["tasks"]

    assert admin.act("batches/parent/cancel") == "Batch parent was cancelled."
    assert admin.json("batches?batch=parent")["cancelled"] == 4
    assert admin.get("batches?batch=unknown", 404)


def test_a_worker_is_shown_with_what_it_runs(admin: Visitor, clock: StoppedClock) -> None:
    now = clock.now()
    running, last = (("mail_t", now - 5),), ("HTTP 500", "mail_u", now)
    status = WorkerStatus("2.0", 8, 1, 3, running, 98_000_000, ("default",), False, *last)
    console_data.register_worker("lastacross-web-1", status, now)

    found = admin.json("workers")
    [worker] = found["workers"]
    assert found["services"] == [{"name": "default", "workers": 1, "threads": 8, "busy": 1}]

    assert (worker["host"], worker["pid"], worker["state"], worker["busy"]) == ("web-1", 17, "busy", 1)
    assert (worker["running"][0]["name"], worker["last_error"]) == ("t", "HTTP 500")
    page = admin.get("workers").text
    assert "98.0 MB" in page
    assert "1 of 8 threads busy, 3 waiting" in page
    clock.advance(20)
    assert admin.json("workers")["workers"][0]["state"] == "silent"


def test_draining_a_worker_that_does_not_listen_is_refused(admin: Visitor, clock: StoppedClock) -> None:
    console_data.register_worker(
        "lastacross-a", WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",)), clock.now()
    )
    form = admin.get("workers/lastacross-a/drain").forms[1]

    assert "does not listen" in form.submit(status=409).text
    assert admin.get("workers/nobody/drain", 404)


def test_a_cron_job_is_paused_and_resumed(admin: Visitor) -> None:
    model.deploy(config.current().cron, store.current().now())
    [job] = admin.json("cron")["jobs"]

    assert admin.act(f"cron/{job['name']}/pause") == f"Job {job['name']} is paused."
    assert admin.json("cron")["jobs"][0]["is_paused"]
    assert "None while it is paused." in admin.get("cron").text
    assert admin.act(f"cron/{job['name']}/resume").endswith("runs by its schedule again.")
    assert not admin.json("cron")["jobs"][0]["is_paused"]


# --- what needs attention -----------------------------------------------------------------


def kinds(admin: Visitor) -> list[str]:
    """The kinds of all items."""
    return [item["kind"] for item in admin.json("")["attention"]]


def test_the_overview_names_what_needs_attention(admin: Visitor, clock: StoppedClock) -> None:
    console_data.register_worker(
        "lastacross-a", WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",)), clock.now()
    )
    assert kinds(admin) == []

    Queue("mail").add([Task(url="/a"), Task(url="/a")])
    die("mail")
    Queue("default").add(Task(url="/a"))
    Queue("default").pause()

    assert kinds(admin) == ["unserved", "dead_letters", "queue_paused"]
    page = admin.get("")
    texts = [" ".join(item.text.split()) for item in page.html.select(".attention li")]
    assert texts[0].startswith("No worker serves queue default (service default).")
    assert all(item.a["href"].startswith("/_ah/admin/") for item in page.html.select(".attention li"))


def test_refused_deliveries_need_attention_for_an_hour(admin: Visitor, clock: StoppedClock) -> None:
    console_data.register_worker(
        "lastacross-a", WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",)), clock.now()
    )
    admin.client.post("/tasks/send", headers={"X-Lastacross-Delivery": "nonsense"}, status=403)

    [item] = admin.json("")["attention"]
    assert (item["kind"], item["text"]) == (
        "refused_deliveries",
        "1 delivery was refused in the last hour.",
    )
    assert "lastacross doctor" in item["remedy"]
    clock.advance(3600)
    assert "refused_deliveries" not in kinds(admin)


def test_stuck_outbox_rows_late_jobs_and_silent_workers_need_attention(
    admin: Visitor, clock: StoppedClock
) -> None:
    console_data.register_worker(
        "lastacross-a", WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",)), clock.now() - 60
    )
    model.deploy(config.current().cron, clock.now() - 90 * 86_400)
    with datastore.session() as session:
        row = {"queue": "mail", "task_id": "mail_t", "record": b"", "created_at": 1.0}
        session.execute(insert(OutboxRow).values(**row))
        session.execute(
            insert(OutboxRow).values(**{**row, "task_id": "mail_u"}, set_aside_at=2.0, error="no")
        )

    assert kinds(admin) == ["silent_process", "cron_late", "outbox_stuck", "outbox_set_aside"]


def test_a_task_is_deleted_and_its_name_is_free(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/a", name="t"))

    assert admin.act("tasks/mail/t/free") == "Task t was deleted, and its name is free."

    Queue("mail").add(Task(url="/a", name="t"))
    admin.act("tasks/mail/t/delete")
    with pytest.raises(taskqueue.TombstonedTaskError):
        Queue("mail").add(Task(url="/a", name="t"))


def fail(queue: str, times: int) -> None:
    """Let the next task of a queue fail this often."""
    broker = Broker(store.current())
    store.current().redis.hset(store.settings_key(queue), mapping={"rate": "100000", "bucket_size": "1000"})
    for _ in range(times):
        [task] = lease(queue)
        assert broker.retry(task, store.current().now() - 1, 500)
        broker.promote_due([queue])


def test_a_task_that_fails_again_and_again_needs_attention_until_it_ends(
    admin: Visitor, clock: StoppedClock
) -> None:
    lists = "mail,default"
    console_data.register_worker(
        "lastacross-a", WorkerStatus("2.0", 8, 0, 0, (), 1, ("default",)), clock.now(), lists
    )
    Queue("mail").add(Task(url="/a", name="t"))
    fail("mail", 9)
    assert kinds(admin) == []

    fail("mail", 1)
    [item] = admin.json("")["attention"]
    assert (item["kind"], item["text"]) == ("failing_task", "Task mail/t has failed ten times or more.")
    assert item["url"] == "/_ah/admin/tasks/mail/t"

    assert Broker(store.current()).ack(lease("mail")) == [True]
    assert kinds(admin) == []
    assert store.current().redis.exists(store.FAILING) == 0


def test_a_disabled_queue_is_forgotten_once_it_is_empty(admin: Visitor) -> None:
    Queue("mail").add(Task(url="/a"))
    refused = admin.get("queues/mail/forget").forms[1].submit(status=409)
    assert "Queue mail is not disabled." in refused.text
    store.current().redis.hset(store.settings_key("mail"), "is_disabled", "1")
    assert "still has tasks" in admin.get("queues/mail/forget").forms[1].submit(status=409).text

    Broker(store.current()).purge("mail")

    assert admin.act("queues/mail/forget") == "Queue mail was forgotten."
    assert "mail" not in [row["name"] for row in admin.json("queues")["queues"]]
    assert admin.get("queues/mail", 404)


# --- a silent Redis -----------------------------------------------------------------------

PATIENCE = 1.0
"""So that two waits in a row would be seen; a web process waits 2.5 s."""


def test_a_page_waits_only_once_for_a_silent_redis(admin: Visitor) -> None:
    with running_server() as server:
        opened = Store(server.url, patience_seconds=PATIENCE)
        store.use(opened)
        queue_directory.upload(opened, config.current())
        admin.get("")
        with server.frozen():
            opened._sync_at = 0.0
            queue_directory.of(opened)._refresh_at = 0.0
            for path in ("", "queues", "tasks/mail/t", "workers"):
                # A later request is a wait of its own.
                threading.Event().wait(SAME_WAIT_SECONDS)
                began_at = time.monotonic()
                assert admin.get(path, 503).html.h1.text == "Redis is unavailable"
                assert time.monotonic() - began_at < 1.8 * PATIENCE
        opened.close()
