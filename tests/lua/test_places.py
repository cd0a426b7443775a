"""Where a ready task waits: in its queue's own list, or beside it, for the workers of another service.

Every step that makes a task ready puts it there.
"""

from collections.abc import Callable
from typing import Any

import pytest

from lastacross import store
from tests.support.places import FIXED, NOWHERE, PLAIN, Queues, add_for, is_woken, lease, leased, lists
from tests.support.scripts import Scripts
from tests.support.uploads import upload


@pytest.fixture
def scripts(scripts: Scripts) -> Scripts:
    """The scripts, with the services "counter" and "mail" beside the default one."""
    scripts.redis.flushall()
    upload(scripts.store, PLAIN, services=["counter", "mail"])
    return scripts


# --- where a task is put -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queues", "target", "place"),
    [
        (PLAIN, "", "default"),
        (PLAIN, "counter", "default.counter"),
        (PLAIN, "default", "default"),
        (PLAIN, "nobody", "default"),
        (PLAIN, "!counter", "default.counter"),
        (PLAIN, "!nobody", "default"),
        (PLAIN, "!default", "default"),
        (FIXED, "", "default"),
        (FIXED, "counter", "default"),
        (FIXED, "mail", "default"),
        (FIXED, "default", "default"),
        (FIXED, "!mail", "default.mail"),
        (FIXED, "!default", "default.default"),
        (FIXED, "!counter", "default"),
        (FIXED, "!nobody", "default.default"),
        ({"default": {"target": "nobody"}}, "counter", "default"),
        ({"default": {"target": "v2.counter"}}, "!v2.counter", "default"),
    ],
)
def test_a_task_waits_where_its_target_and_its_queues_say(
    scripts: Scripts, queues: Queues, target: str, place: str
) -> None:
    upload(scripts.store, queues, services=["counter", "mail"])

    add_for(target, scripts)

    assert lists(scripts) == {place: ["default_a"]}


@pytest.mark.parametrize(
    ("queues", "target", "group"),
    [
        (PLAIN, "", "default"),
        (PLAIN, "counter", "counter"),
        (FIXED, "", "counter"),
        (FIXED, "!default", "default"),
    ],
)
@pytest.mark.parametrize("countdown", [None, 60])
def test_who_serves_it_is_woken_and_nobody_else(
    scripts: Scripts, queues: Queues, target: str, group: str, countdown: float | None
) -> None:
    upload(scripts.store, queues, services=["counter", "mail"])
    for each in ("default", "counter", "mail"):
        is_woken(scripts, each)

    add_for(target, scripts, countdown=countdown)

    assert [each for each in ("default", "counter", "mail") if is_woken(scripts, each)] == [group]


@pytest.mark.parametrize("script", ["add_tasks", "add_members"])
def test_scheduling_for_two_services_in_one_add_wakes_both(scripts: Scripts, script: str) -> None:
    scripts.open_batch("b")
    for each in ("default", "counter"):
        is_woken(scripts, each)
    eta = f"{scripts.clock.now() + 60:.6f}"
    args: list[Any] = [scripts.now, "b", 0] if script == "add_members" else [scripts.now]
    for number, target in enumerate(("counter", "", "counter")):
        named = [1] if script == "add_members" else []
        args += [f"default_{number}", eta, target, *named, 4, "origin", "default", "eta", eta]

    assert scripts.run(script, *args) == [0, 0, 0]

    assert [scripts.redis.lpop(store.wakeup_key(each)) for each in ("default", "counter")] == [
        b"scheduled"
    ] * 2


def test_rq_knows_every_list(scripts: Scripts) -> None:
    scripts.add("default_a")
    scripts.add("default_b", target="counter")

    assert scripts.redis.smembers(store.RQ_QUEUES) == {
        f"{store.RQ}queue:default".encode(),
        f"{store.RQ}queue:default.counter".encode(),
    }


def test_a_worker_is_given_the_tasks_of_its_service_only(scripts: Scripts) -> None:
    scripts.add("default_own")
    scripts.add("default_theirs", target="counter")

    assert lease(scripts, "counter", "default", "default.counter") == ["default_theirs"]
    assert lease(scripts, "default", "default", "default.counter") == ["default_own"]


def test_the_lists_of_a_queue_share_its_rate_and_its_places(scripts: Scripts) -> None:
    upload(scripts.store, {"default": {"max_concurrent": "2"}}, services=["counter"])
    scripts.add("default_a", "default_b", target="counter")
    scripts.add("default_c", "default_d")

    assert len(lease(scripts, "default", "default")) == 2
    assert lease(scripts, "counter", "default.counter") == NOWHERE


@pytest.mark.parametrize(("queues", "target"), [(PLAIN, "counter"), (FIXED, "!default")])
def test_a_place_that_becomes_free_wakes_who_waits_beside_the_queue(
    scripts: Scripts, queues: Queues, target: str
) -> None:
    fields = {**queues["default"], "max_concurrent": "1"}
    upload(scripts.store, {"default": fields}, services=["counter"])
    own, other = ("default", "counter") if queues is PLAIN else ("counter", "default")
    scripts.add("default_runs")
    scripts.groups = [own]
    [running] = scripts.lease("default")
    scripts.add("default_waits", target=target)
    is_woken(scripts, other)

    scripts.ack(running)

    assert is_woken(scripts, other)


# --- every step that makes a task ready -----------------------------------------------------


def promoted(scripts: Scripts) -> None:
    """Scheduled, then due."""
    scripts.add("default_a", target="counter", countdown=5)
    scripts.clock.advance(6)
    scripts.run("promote_due", scripts.now, 100, "default")


def retried(scripts: Scripts) -> None:
    """An attempt failed, and the wait is over."""
    held = leased(scripts)
    later = f"{scripts.clock.now() + 1:.6f}"
    assert scripts.run("retry_task", "default_a", held, later, 500, scripts.now, 1) == 1
    scripts.clock.advance(2)
    scripts.run("promote_due", scripts.now, 100, "default")


def released(scripts: Scripts) -> None:
    """Given back before it started."""
    assert scripts.run("release_tasks", "default_a", leased(scripts)) == 1


def rescued(scripts: Scripts) -> None:
    """Its lease ran out."""
    leased(scripts)
    scripts.clock.advance(60)
    assert scripts.run("rescue_expired", scripts.now, 100, "default") == ["default_a", "ready"]


def given_back(scripts: Scripts) -> None:
    """Its worker process is known to have ended."""
    leased(scripts)
    assert scripts.run("rescue_worker", scripts.now, "w", 0, 1, "default") == ["default_a", "ready"]


def crashed(scripts: Scripts) -> None:
    """The process that ran it alone has ended."""
    assert scripts.run("crash_task", scripts.now, "default_a", leased(scripts)) == "ready"


def restored(scripts: Scripts) -> None:
    """A stock worker lost it."""
    scripts.add("default_a", target="counter")
    scripts.redis.delete(store.ready_key("default.counter"))
    assert scripts.run("restore_orphans", "default_a") == ["default_a"]


def swept(scripts: Scripts) -> None:
    """A stock worker took it and had no time to fail it."""
    scripts.add("default_a", target="counter")
    key = store.ready_key("default.counter")
    scripts.redis.lmove(key, f"{key}:intermediate", "LEFT", "RIGHT")
    assert scripts.run("sweep_foreign", 100, 0, "default") == ["default_a"]


def failed_by_rq(scripts: Scripts) -> None:
    """A stock worker failed it."""
    scripts.add("default_a", target="counter")
    scripts.redis.delete(store.ready_key("default.counter"))
    scripts.redis.hset(store.record_key("default_a"), "status", "failed")
    scripts.redis.zadd(store.dead_key("default"), {"default_a": 1})
    assert scripts.run("sweep_foreign", 100, 0, "default") == ["default_a"]


def fired(scripts: Scripts) -> None:
    """The batch that it waited for is complete."""
    strings: list[Any] = ["origin", "default", "data", b"x", "eta", scripts.now, "target", "counter"]
    scripts.run("create_batch", scripts.now, "b", "default", "", "default_a", len(strings), *strings, "", 0)
    scripts.seal("b")


def member(scripts: Scripts) -> None:
    """It is of a batch."""
    scripts.open_batch("b")
    assert scripts.fill_with("b", ["default_a"], target="counter") == [0]


STEPS = [
    promoted,
    retried,
    released,
    rescued,
    given_back,
    crashed,
    restored,
    swept,
    failed_by_rq,
    fired,
    member,
]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_puts_a_task_where_its_service_looks(
    scripts: Scripts, step: Callable[[Scripts], None]
) -> None:
    step(scripts)
    assert is_woken(scripts, "counter")

    assert lists(scripts) == {"default.counter": ["default_a"]}
    assert lease(scripts, "counter", "default.counter") == ["default_a"]


@pytest.mark.parametrize("step", [promoted, retried, released, rescued, given_back, crashed])
def test_every_step_goes_by_the_services_and_the_queue_as_they_are_then(
    scripts: Scripts, step: Callable[[Scripts], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue was given a target of its own while the task was leased or scheduled."""
    real = Scripts.run

    def run(self: Scripts, script: str, *args: Any) -> Any:
        if script not in ("add_tasks", "lease_tasks"):
            upload(self.store, {"default": {"target": "mail"}}, services=["counter", "mail"])
        return real(self, script, *args)

    monkeypatch.setattr(Scripts, "run", run)

    step(scripts)

    assert lists(scripts) == {"default": ["default_a"]}
