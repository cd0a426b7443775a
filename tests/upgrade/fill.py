"""Adds the contents of the fixture: ``python fill.py APP STEP``.

Either version runs it, so it must not import anything of the tests: ``lastacross`` is the version whose
data is being made.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from lastacross import channel, config, datastore, deferred, memcache, taskqueue

# Of the application's folder, which no type checker knows.
upgrade_app: Any = importlib.import_module("upgrade_app")
workers: Any = importlib.import_module("workers")

LARGE = "large " * 40_000
"""Too large for a task: its payload becomes a row."""


def short(*, with_poison: str = "") -> None:
    """While the site runs: tasks that soon succeed or fail."""
    queue = taskqueue.Queue("upgrade")
    queue.add(upgrade_app.task("note", name="ran"))
    queue.add(upgrade_app.task("fail", name="dead"))
    queue.add(taskqueue.Task(url="/upgrade/act", params={"act": "fail"}, name="retried"))
    if with_poison:
        queue.add(upgrade_app.task("poison", name="poison"))


def crash() -> None:
    """A task that takes a worker down, and leaves its queue paused."""
    taskqueue.Queue("upgrade-suspect").add(upgrade_app.task("crash", name="suspect"))


def long() -> None:
    """Tasks that hang until the machine goes down; batches that they keep open."""
    queue = taskqueue.Queue("upgrade")
    queue.add(upgrade_app.task("hang", name="leased"))
    nested = {"act": "nest", "batch": "inner", "acts": "note,note,fail,hang"}
    with taskqueue.Batch(
        queue_name="upgrade-nested", name="outer", on_complete=upgrade_app.fired("outer")
    ) as outer:
        outer.add(taskqueue.Task(url="/upgrade/act", params=nested, name="parent"))
        outer.add(upgrade_app.task("note", name="sibling"))
        outer.add(upgrade_app.task("note", name="later", countdown=86_400))
    with taskqueue.Batch(
        queue_name="upgrade-nested", name="cancelled", on_complete=upgrade_app.fired("cancelled")
    ) as cancelled:
        cancelled.add(upgrade_app.task("hang", name="cancelled-leased"))
        cancelled.add(upgrade_app.task("note", name="cancelled-dropped", countdown=86_400))
    with taskqueue.Batch(
        queue_name="upgrade-nested", name="succeeds", on_success=upgrade_app.fired("succeeds")
    ) as succeeds:
        succeeds.add(upgrade_app.task("hang", name="succeeds-leased"))
    taskqueue.Queue("upgrade-nested").add(upgrade_app.task("fill", name="filling"))
    with datastore.transaction():
        queue.add(taskqueue.Task(url="/upgrade/outbox/sent"), transactional=True)


def cancel() -> None:
    """Cancel the batch whose member hangs."""
    taskqueue.Batch.get("cancelled").cancel()


def late() -> None:
    """After the machine went down: tasks that nobody has begun."""
    queue = taskqueue.Queue("upgrade")
    queue.add(upgrade_app.task("note", name="ready"))
    unnamed = taskqueue.Task("x" * 300, url="/upgrade/act", headers={"Content-Type": "text/plain"})
    queue.add(unnamed)
    queue.add(upgrade_app.task("note", name="due", countdown=30))
    queue.add(upgrade_app.task("note", name="scheduled", countdown=86_400))
    queue.add(upgrade_app.task("note", name="run-now", countdown=86_400))
    queue.run_now("run-now")
    queue.add(taskqueue.Task(url="/upgrade/act", name="side", target="counter"))
    deferred.defer(upgrade_app.call, "small", _queue="upgrade")
    deferred.defer(upgrade_app.call, LARGE, _queue="upgrade")
    deferred.defer(workers.fill_quilt, "no-such-quilt", _queue="upgrade", _name="fill-quilt")
    deferred.defer(workers.send_color, 0, 0, "no-such-quilt", _queue="upgrade", _name="send-color")
    pull = taskqueue.Queue("upgrade-pull")
    pull.add([taskqueue.Task(f"body {name}", method="PULL", name=name) for name in ("leased", "held")])
    # For a day, so that the leases still hold when the fixture is opened.
    assert len(pull.lease_tasks(86_400, 2)) == 2
    pull.add(taskqueue.Task("body expired", method="PULL", name="expired"))
    assert len(pull.lease_tasks(1, 1)) == 1
    tagged = {"red": "red", "blue": "blue"}
    pull.add([taskqueue.Task("tagged", method="PULL", name=name, tag=tag) for name, tag in tagged.items()])
    _values()


def _values() -> None:
    memcache.set("text", "Schöne Grüße")
    memcache.set("structure", {"numbers": [1, 2.5], "none": None})
    memcache.set("counter", 41)
    memcache.set("for-a-day", b"bytes", time=86_400)
    memcache.set("spaced", 1, namespace="other")
    channel.send_messages("upgrade-client", ["first", "second"])
    with datastore.session() as session:
        session.execute(
            text(
                "INSERT INTO invoice (number, date, customer, customer_vat, country, terms,"
                " nature_of_transaction, mode_of_transport, currency) VALUES"
                " ('2026-1', '2026-10-05', 'Somebody', '', 'FR', 'DAP', '11', '3', 'EUR')"
            )
        )
        session.execute(
            text(
                "INSERT INTO invoice_line (invoice_number, place, commodity_code, country_of_origin,"
                " quantity, net_mass_grams, value_cents) VALUES ('2026-1', 1, '61091000', 'DE', 3, 450, 2997)"
            )
        )


def outbox() -> None:
    """While Redis is unavailable: a transaction's task stays in the datastore."""
    with datastore.transaction():
        taskqueue.Queue("upgrade").add(taskqueue.Task(url="/upgrade/outbox/unsent"), transactional=True)


def seen() -> None:
    """Two tasks for the other version's command line to list."""
    queue, code = taskqueue.Queue("upgrade"), os.environ["UPGRADE_CODE"]
    queue.add(upgrade_app.task("note", name=f"seen-{code}-ready"))
    queue.add(upgrade_app.task("note", name=f"seen-{code}-scheduled", countdown=86_400))


STEPS: dict[str, Callable[..., None]] = {
    step.__name__: step for step in (short, crash, long, cancel, late, outbox, seen)
}

if __name__ == "__main__":
    config.use(config.load(Path(sys.argv[1]), os.environ))
    options = dict(argument.split("=") for argument in sys.argv[3:])
    STEPS[sys.argv[2]](**options)
