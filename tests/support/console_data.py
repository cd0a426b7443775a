"""Fills a site with the data that an operator meets: waiting, failed and dead tasks, runs, a batch."""

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import delete, insert, update

from lastacross import audit, config, datastore, metrics, store
from lastacross.accounts import Person
from lastacross.broker import (
    STATUS_FIELD,
    Broker,
    FailedAttempt,
    Leased,
    WorkerStatus,
    queue_directory,
    task_id,
)
from lastacross.cronruns import model
from lastacross.datastore import CronJob, CronRun, LongTask
from lastacross.taskqueue import Batch, Queue, Task

APP = "handlers:\n- url: /.*\n  script: main.app\n"
QUEUES = """\
queue:
- name: default
  rate: 50/s
  bucket_size: 100
- name: mail
  rate: 5/s
  max_concurrent_requests: 2
  retry_parameters:
    task_retry_limit: 7
    task_age_limit: 2h
- name: invoices
  rate: 30/m
- name: exports
  mode: pull
"""
CRON = """\
cron:
- description: close the books
  url: /tasks/close
  schedule: 1st,third monday of month 04:00
  timezone: America/New_York
- description: send a digest
  url: /tasks/digest
  schedule: every 30 minutes
"""
REASON = "HTTP 500: ConnectionError: smtp.example.com refused the connection"
LONG_WORD = "AVeryLongNameThatHasNoPlaceToBreakInIt" * 5
PAGES = (
    *(
        "",
        "queues",
        "queues/mail",
        "tasks?queue=mail",
        "tasks/mail/form",
        "tasks/mail/json",
        "tasks/mail/pickle",
    ),
    *("dead", "cron", "batches", "longtasks", "workers", "handlers", "configuration", "audit"),
    *("queues/mail/purge", "tasks/mail/json/again", "queues/nowhere"),
)
"""The pages and confirmations, below the console's root."""


def write_app(root: Path) -> None:
    """Write the files of the application."""
    for name, text in {"app.yaml": APP, "queue.yaml": QUEUES, "cron.yaml": CRON}.items():
        (root / name).write_text(text)


def fill() -> None:
    """Fill the current store and database."""
    opened = store.current()
    queue_directory.upload(opened, config.current())
    queue_directory.of(opened).refresh(is_urgent=True)
    _add_tasks()
    _fail_some()
    Queue("invoices").pause()
    _run_cron(opened.now())
    recorder = metrics.Recorder(opened)
    recorder.record(
        [("mail", "/send/.*", outcome, 0.03, 0.01) for outcome in ("done", "done", "retried", "dead")]
    )
    recorder.flush()
    audit.record(opened, Person("anna", "admin", "password"), "queue.pause", ["invoices"], "203.0.113.9")


def fill_again() -> None:
    """Replace everything in the current store and database."""
    store.current().redis.flushall()
    with datastore.session() as session:
        for table in (CronRun, CronJob, LongTask):
            session.execute(delete(table))
    fill()


def _add_tasks() -> None:
    mail = Queue("mail")
    mail.add(Task(url="/send/form", name="form", params={"to": "ada@example.com", "text": LONG_WORD}))
    mail.add(Task(json.dumps({"to": ["ada@example.com"], "lines": [1, 2]}), url="/send/json", name="json"))
    mail.add(Task(pickle.dumps({"deep": True}), url=f"/send/{LONG_WORD}", name="pickle"))
    Queue("default").add([Task(url=f"/orders/{number}/pack") for number in range(12)])
    Queue("invoices").add(Task(url="/invoices/print", countdown=3600))
    Queue("exports").add(Task("a row", method="PULL", tag="csv"))
    with Batch("default", name="export") as batch:
        batch.add([Task(url=f"/export/{number}") for number in range(6)])


def _fail_some() -> None:
    broker = Broker(store.current())
    leased = _lease(broker, "default", 6)
    for task in leased[:3]:
        broker.dead_letter(task, 500, REASON, attempt=_attempt(None), handler="/orders/.*")
    broker.dead_letter(leased[3], None, f"missed its deadline {LONG_WORD}", attempt=_attempt(None))
    broker.retry(leased[4], broker.now() + 60, 503, attempt=_attempt(broker.now() + 60))


def _lease(broker: Broker, queue: str, wanted: int) -> list[Leased]:
    token = "0" * 48
    return broker.lease([queue], token=token, number=0, wanted=wanted, free=wanted, lease_seconds=600).tasks


def _attempt(next_at: float | None) -> str:
    at = store.current().now()
    return FailedAttempt(at, 1.5, 500, f"{REASON}\nTraceback …", "web-1.worker-2.0a1b2c3d", next_at).dump()


def _run_cron(now: float) -> None:
    model.deploy(config.current().cron, now)
    with datastore.session() as session:
        for job in config.current().cron:
            for number in range(20):
                at = now - 1800 * (20 - number)
                state = "failed" if number % 7 == 6 else "done"
                ended = {
                    "started_at": at,
                    "finished_at": at + number,
                    "status": 500 if state == "failed" else 200,
                }
                run = {"job": job.name, "due_at": at, "cause": "schedule", "state": state, "created_at": at}
                values = {**run, **ended, "attempts": 1, "task_name": f"{job.name}-{number}"}
                session.execute(insert(CronRun).values(**values, error=REASON if state == "failed" else None))
        for number, status in enumerate(("done", "failed", "cancelled")):
            session.execute(insert(LongTask).values(**_long_task(number, status, now)))


def _long_task(number: int, status: str, now: float) -> dict[str, object]:
    return {
        **{"id": f"abcdefghijklmnopqrstu{number}", "path": "/report", "method": "POST", "status": status},
        **{"title": f"Report {number} of {LONG_WORD}", "queue_name": "default", "attempts": 1, "failures": 0},
        **{"delivery": 0, "created_at": now - 90, "started_at": now - 80, "finished_at": now - 10},
        **{
            "expires_at": now + 1e6,
            "expires_seconds": 1e6,
            "given": "[]",
            "result_size": 0,
            "stored_bytes": 0,
        },
        "error": "ValueError: no code" if status == "failed" else None,
    }


def register_worker(name: str, status: WorkerStatus, now: float, queues: str = "mail") -> None:
    """Write what a worker process writes with each heartbeat."""
    at = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    fields = {
        "hostname": "web-1",
        "pid": "17",
        "state": "busy",
        "birth": at,
        "last_heartbeat": at,
        "queues": queues,
    }
    redis = store.current().redis
    redis.sadd(store.RQ_WORKERS, store.RQ_WORKER_PREFIX + name)
    shown: Any = {**fields, STATUS_FIELD: status.dump()}
    redis.hset(store.RQ_WORKER_PREFIX + name, mapping=shown)


def add_markup(markup: str) -> str:
    """Put a text that a stranger sent into every place that takes one; returns the name of a dead task."""
    opened = store.current()
    broker = Broker(opened)
    task = Task(markup, url="/x?" + quote(markup), method="PUT", headers={"X-Evil": markup})
    # The URL of a task is checked, but a record may come from anywhere.
    Queue("default").add(task)
    name = str(task.name)
    key = store.record_key(task_id("default", name))
    opened.redis.hset(key, "description", f"PUT /{markup}")
    taken = [each for each in _lease(broker, "default", 100) if each.name == name]
    attempt = FailedAttempt(opened.now(), 0.1, 500, markup, markup, None).dump()
    broker.dead_letter(taken[0], 500, f"HTTP 500: {markup}", attempt=attempt, handler=markup)
    with datastore.session() as session:
        session.execute(update(CronRun).values(error=markup))
        session.execute(update(LongTask).values(title=markup, error=markup))
    audit.record(opened, Person(markup, "admin", "proxy"), "queue.pause", [markup], markup)
    return name
