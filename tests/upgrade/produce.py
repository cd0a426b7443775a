"""Adds tasks of every kind for some seconds: ``python produce.py APP SEED SECONDS PAUSE``.

Either version runs it, so it must not import anything of the tests. It appends the names of accepted tasks to
the file UPGRADE_ACCEPTED, so that a test can ask for each of them.
"""

import importlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lastacross import config, datastore, taskqueue

upgrade_app: Any = importlib.import_module("upgrade_app")

ACCEPTED = os.open(os.environ["UPGRADE_ACCEPTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def accepted(kind: str, *names: str) -> None:
    """Note the names of accepted tasks."""
    lines = [json.dumps({"code": os.environ["UPGRADE_CODE"], "kind": kind, "name": name}) for name in names]
    os.write(ACCEPTED, "".join(f"{line}\n" for line in lines).encode())


def named(name: str) -> None:
    """A task with a name."""
    taskqueue.Queue("upgrade").add(upgrade_app.task("note", name=name))
    accepted("task", name)


def unnamed(_name: str) -> None:
    """A few tasks without one."""
    tasks = taskqueue.Queue("upgrade").add([upgrade_app.task("note") for _ in range(5)])
    accepted("task", *(str(task.name) for task in tasks))


def delayed(name: str) -> None:
    """A task that is scheduled first."""
    taskqueue.Queue("upgrade").add(upgrade_app.task("note", name=name, countdown=0.5))
    accepted("task", name)


def flaky(name: str) -> None:
    """A task that fails twice."""
    taskqueue.Queue("upgrade").add(upgrade_app.task("flaky", name=name))
    accepted("task", name)


def batch(name: str) -> None:
    """A batch with a member that fails twice."""
    members = {f"{name}-{number}": act for number, act in enumerate(("note", "note", "flaky", "note"))}
    with taskqueue.Batch(
        queue_name="upgrade-nested", name=name, on_complete=upgrade_app.fired(name)
    ) as opened:
        opened.add(upgrade_app.task(act, name=member) for member, act in members.items())
    accepted("task", *members)
    accepted("batch", name)


def nested(name: str) -> None:
    """A batch whose member opens another one."""
    inner = f"{name}-inner"
    params = {"act": "nest", "batch": inner, "acts": "note,flaky,note"}
    with taskqueue.Batch(
        queue_name="upgrade-nested", name=name, on_complete=upgrade_app.fired(name)
    ) as opened:
        opened.add(taskqueue.Task(url="/upgrade/act", params=params, name=f"{name}-parent"))
        opened.add(upgrade_app.task("note", name=f"{name}-sibling"))
    accepted("task", f"{name}-parent", f"{name}-sibling", *(f"{inner}-{number}" for number in range(3)))
    accepted("batch", name, inner)


def transactional(name: str) -> None:
    """A task that is part of a transaction."""
    with datastore.transaction():
        taskqueue.Queue("upgrade").add(taskqueue.Task(url=f"/upgrade/outbox/{name}"), transactional=True)
    accepted("path", f"/upgrade/outbox/{name}")


def rolled_back(name: str) -> None:
    """A task that must never run, as its transaction fails."""
    try:
        with datastore.transaction():
            taskqueue.Queue("upgrade").add(taskqueue.Task(url=f"/upgrade/outbox/{name}"), transactional=True)
            raise ZeroDivisionError
    except ZeroDivisionError:
        accepted("never", f"/upgrade/outbox/{name}")


KINDS: list[Callable[[str], None]] = [
    *(named, named, unnamed, unnamed, delayed, flaky),
    *(batch, nested, transactional, rolled_back),
]


def main(seed: str, seconds: float, pause: float) -> None:
    """Add until the time is over, each kind in turn first."""
    generator = random.Random(seed)
    end = time.monotonic() + seconds
    for number in itertools.count():
        if time.monotonic() > end and number >= len(KINDS):
            return
        kind = KINDS[number] if number < len(KINDS) else generator.choice(KINDS)
        kind(f"{seed}-{number}")
        time.sleep(pause)


if __name__ == "__main__":
    config.use(config.load(Path(sys.argv[1]), os.environ))
    main(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
