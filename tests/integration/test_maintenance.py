"""What every worker does beside running tasks, on a real Redis with a stopped clock."""

import pytest
from structlog.testing import capture_logs

from lastacross import store
from lastacross.broker.record import Leased
from lastacross.broker.steps import BatchSteps, Broker
from lastacross.errors import StoreUnavailableError
from lastacross.store import Store
from lastacross.worker.maintenance import (
    JUMP_PATIENCE_SECONDS,
    MAX_LEASES_LEFT,
    RENEWALS_PER_LEASE,
    SWEEP_SECONDS,
    Maintenance,
    Renewer,
)
from tests.support.clock import StoppedClock
from tests.support.processes import wait_until
from tests.support.scripts import LEASE_SECONDS, Scripts
from tests.support.uploads import upload


def test_all_that_a_machine_held_is_given_back_at_once(test_store: Store, clock: StoppedClock) -> None:
    """Each step moves at most 100 tasks of a queue, but one look makes as many as there is work for."""
    scripts = Scripts(test_store, clock)
    scripts.add(*(f"default_{number}" for number in range(350)))
    for _ in range(7):
        assert len(scripts.lease()) == 50
    clock.advance(LEASE_SECONDS + 1)

    assert Maintenance(Broker(test_store), ["default", "other"], clock).run_due()

    assert scripts.redis.llen("rq:queue:default") == 350
    assert scripts.redis.zcard("rq:wip:default") == 0


def test_a_task_that_comes_due_between_two_looks_does_not_wait_for_the_second(
    test_store: Store, clock: StoppedClock
) -> None:
    scripts = Scripts(test_store, clock)
    maintenance = Maintenance(Broker(test_store), ["default", "other"], clock)
    scripts.add("default_a", countdown=0.5)
    assert maintenance.run_due()
    assert maintenance.next_due == pytest.approx(clock.now() + 0.5, abs=0.001)
    clock.advance(0.4)
    assert not maintenance.run_due()

    clock.advance(0.2)

    assert maintenance.run_due()
    assert (scripts.ready(), maintenance.next_due) == (["default_a"], None)
    assert not maintenance.run_due()


@pytest.mark.parametrize(
    ("method", "step"),
    [("reroute", "send_on"), ("sweep_foreign", "restore"), ("sweep_batches", "sweep_batches")],
)
def test_a_step_that_fails_is_logged_by_the_name_that_alerts_know(
    test_store: Store, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch, method: str, step: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the step")

    owner, name = (BatchSteps, "sweep") if method == "sweep_batches" else (Broker, method)
    monkeypatch.setattr(owner, name, fail)
    with capture_logs() as logged:
        Maintenance(Broker(test_store), ["default"], clock).run_due()

    assert [entry["step"] for entry in logged if entry["event"] == "upkeep.failed"] == [step]


def look_each_second(maintenance: Maintenance, clock: StoppedClock, seconds: int) -> None:
    for _ in range(seconds):
        maintenance.run_due()
        clock.advance(1)


def test_after_an_outage_of_redis_whoever_lives_may_renew_first(
    test_store: Store, clock: StoppedClock
) -> None:
    """No lease could be renewed meanwhile: the tasks run still, and must not be begun once more."""
    scripts = Scripts(test_store, clock)
    lease = scripts.leased("default_a")
    maintenance = Maintenance(Broker(test_store), ["default"], clock, lease_seconds=LEASE_SECONDS)
    look_each_second(maintenance, clock, 2)
    clock.advance(60)

    look_each_second(maintenance, clock, 2)
    expires_at = clock.now() + LEASE_SECONDS
    assert scripts.run("renew_leases", expires_at, "default_a", lease, 1) == [1]
    look_each_second(maintenance, clock, 7)

    assert scripts.ready() == []
    assert scripts.record("default_a")["status"] == "started"


def test_an_outage_in_the_middle_of_a_look_is_an_outage(
    test_store: Store, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_a")
    maintenance = Maintenance(Broker(test_store), ["default"], clock, lease_seconds=LEASE_SECONDS)
    look_each_second(maintenance, clock, 2)

    with monkeypatch.context() as patched:
        patched.setattr(maintenance, "promote", lambda: clock.advance(60))
        maintenance.run_due()

    assert scripts.ready() == []


def test_after_an_outage_of_redis_the_dead_are_rescued_half_a_lease_later(
    test_store: Store, clock: StoppedClock
) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_a")
    maintenance = Maintenance(Broker(test_store), ["default"], clock, lease_seconds=LEASE_SECONDS)
    look_each_second(maintenance, clock, 2)
    clock.advance(60)

    look_each_second(maintenance, clock, 4)
    assert scripts.ready() == []
    look_each_second(maintenance, clock, 1)

    assert scripts.ready() == ["default_a"]


def test_a_worker_that_is_always_slow_rescues_all_the_same(test_store: Store, clock: StoppedClock) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_a")
    maintenance = Maintenance(Broker(test_store), ["default"], clock, lease_seconds=LEASE_SECONDS)

    for _ in range(3):
        clock.advance(5)
        maintenance.run_due()

    assert scripts.ready() == ["default_a"]


def test_a_pause_in_which_a_living_worker_would_have_renewed_is_not_an_outage(
    test_store: Store, clock: StoppedClock
) -> None:
    """The pause is as long as a renewal and a look take, so an expired lease is rescued without delay."""
    scripts = Scripts(test_store, clock)
    scripts.leased("default_a")
    maintenance = Maintenance(Broker(test_store), ["default"], clock, lease_seconds=LEASE_SECONDS)
    look_each_second(maintenance, clock, 7)
    clock.advance(LEASE_SECONDS / RENEWALS_PER_LEASE)

    maintenance.run_due()

    assert scripts.ready() == ["default_a"]


def test_a_job_failed_by_another_program_is_found_behind_hundreds_of_dead_letters(
    test_store: Store, clock: StoppedClock
) -> None:
    """Each sweep looks at the next hundred."""
    scripts = Scripts(test_store, clock)
    dead = store.dead_key("default")
    for number in range(350):
        scripts.redis.hset(store.record_key(f"default_dead-{number}"), mapping={"eta": 1, "dead_at": 1})
        scripts.redis.zadd(dead, {f"default_dead-{number}": number})
    scripts.redis.hset(store.record_key("default_a"), mapping={"status": "failed", "eta": 1, "data": "x"})
    scripts.redis.zadd(dead, {"default_a": 149.5})
    maintenance = Maintenance(Broker(test_store), ["default"], clock)

    maintenance.run_due()
    assert scripts.ready() == []
    clock.advance(SWEEP_SECONDS)
    maintenance.run_due()

    assert scripts.ready() == ["default_a"]
    assert scripts.redis.zcard(dead) == 350


def test_a_task_in_a_wrong_list_is_found_behind_hundreds_of_others(
    test_store: Store, clock: StoppedClock
) -> None:
    """Each sweep looks at the ends of a list, and at the next hundred of its middle."""
    scripts = Scripts(test_store, clock)
    upload(test_store, ["default"], services=["counter"])
    scripts.add(*(f"default_{number}" for number in range(250)))
    scripts.add("default_astray")
    scripts.redis.hset(store.record_key("default_astray"), "target", "counter")
    scripts.add(*(f"default_{number}" for number in range(250, 500)))
    maintenance = Maintenance(Broker(test_store), ["default"], clock)

    maintenance.run_due()
    assert scripts.redis.llen("rq:queue:default.counter") == 0
    clock.advance(SWEEP_SECONDS)
    maintenance.run_due()

    assert scripts.redis.lrange("rq:queue:default.counter", 0, -1) == [b"default_astray"]


def test_one_sweep_gives_back_all_that_was_leased_while_the_queue_was_a_pull_queue(
    test_store: Store, clock: StoppedClock
) -> None:
    """The script moves a hundred tasks at a call, and so does a lease."""
    scripts = Scripts(test_store, clock)
    ids = [f"default_{number}" for number in range(250)]
    scripts.add(*ids, description="POST /a")
    upload(test_store, {"default": {"mode": "pull"}})
    clock.advance(1)
    for request in ("r1", "r2", "r3"):
        scripts.run("lease_pull_tasks", scripts.now, "default", 10, 1000, "", "", request)
    assert scripts.redis.zcard(store.pull_key("default")) == 250
    upload(test_store, {"default": {"mode": "push"}})

    maintenance = Maintenance(Broker(test_store), ["default"], clock)
    maintenance.run_due()

    assert scripts.redis.zcard(store.pull_key("default")) == 0
    clock.advance(11)
    maintenance.run_due()
    assert sorted(scripts.ready()) == sorted(ids)


@pytest.mark.parametrize("count", [3, 1001])
def test_every_lease_is_renewed_and_the_owner_hears_of_the_lost_ones(
    test_store: Store, clock: StoppedClock, count: int
) -> None:
    """1,001 leases take three calls."""
    scripts = Scripts(test_store, clock)
    scripts.configure("default", rate=5000, bucket_size=5000)
    scripts.add(*(f"default_{number}" for number in range(count)))
    held = [Leased(task, lease, {}) for task, lease in scripts.lease(wanted=count, free=count)]
    lost = held[count // 2]
    scripts.run("delete_tasks", scripts.now, lost.id)
    clock.advance(5)
    reported: list[Leased] = []

    started = {held[0].entry, lost.entry}
    Renewer(Broker(test_store), LEASE_SECONDS, lambda: (held, started), reported.append).renew()

    assert reported == [lost]
    ends = [scripts.expires_at(task.id, task.lease_id) for task in held if task is not lost]
    assert ends == [clock.now() + LEASE_SECONDS] * (count - 1)
    noted = [task for task in held if "started" in scripts.record(task.id)]
    assert noted == [held[0]]


def test_a_renewer_outlives_an_error(test_store: Store, clock: StoppedClock) -> None:
    scripts = Scripts(test_store, clock)
    held = Leased("default_a", scripts.leased("default_a"), {})
    clock.advance(5)
    errors: list[Exception] = [RuntimeError("a fault of ours"), StoreUnavailableError("no answer")]

    def failing_twice() -> tuple[list[Leased], set[str]]:
        if errors:
            raise errors.pop()
        return [held], set()

    renewer = Renewer(Broker(test_store), 0.04, failing_twice, lambda task: None)
    renewer.start()
    wait_until(lambda: scripts.expires_at(held.id, held.lease_id) == clock.now() + 0.04, 30)
    renewer.stop()

    assert errors == []


# --- the server's clock is set ---------------------------------------------------------------


class Jumps:
    """What a store knows of its server's clock, in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.seconds = 0, 0.0
        monkeypatch.setattr(Store, "clock_jumps", property(lambda _: self.count))
        monkeypatch.setattr(Store, "clock_jump_seconds", property(lambda _: self.seconds))

    def jump(self, seconds: float) -> None:
        """Notice a jump."""
        self.count, self.seconds = self.count + 1, seconds


@pytest.fixture
def jumps(monkeypatch: pytest.MonkeyPatch) -> Jumps:
    return Jumps(monkeypatch)


def test_after_a_jump_of_the_servers_clock_leases_are_renewed_and_nothing_is_rescued_for_a_while(
    test_store: Store, clock: StoppedClock, jumps: Jumps
) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_dead")
    states: list[str] = []
    maintenance = Maintenance(
        Broker(test_store),
        ["default"],
        clock,
        lease_seconds=LEASE_SECONDS,
        renew=lambda: states.append(scripts.state("default_dead")),
    )
    look_each_second(maintenance, clock, 2)
    # By the new time, every lease has ended.
    clock.advance(LEASE_SECONDS)
    jumps.jump(3600)

    with capture_logs() as logged:
        look_each_second(maintenance, clock, int(JUMP_PATIENCE_SECONDS))

    # It renews once, before anything else.
    assert states == ["leased"]
    assert [entry["seconds"] for entry in logged if entry["event"] == "clock.jump"] == [3600]
    assert scripts.state("default_dead") == "leased"

    look_each_second(maintenance, clock, 1)

    assert scripts.state("default_dead") == "ready"


def test_a_jump_that_another_thread_notices_in_the_middle_of_a_look_ends_no_lease(
    test_store: Store, clock: StoppedClock, jumps: Jumps, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_a")
    maintenance = Maintenance(Broker(test_store), ["default"], clock, lease_seconds=LEASE_SECONDS)
    look_each_second(maintenance, clock, 1)
    real = clock.now

    def now() -> float:
        if jumps.count == 0:
            jumps.jump(3600)
        return real() + 3600

    monkeypatch.setattr(clock, "now", now)
    maintenance.run_due()

    assert scripts.state("default_a") == "leased"


def test_a_clock_that_was_set_back_does_not_keep_the_tasks_of_the_dead(
    test_store: Store, clock: StoppedClock, jumps: Jumps
) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_dead")
    maintenance = Maintenance(Broker(test_store), ["default"], clock, lease_seconds=LEASE_SECONDS)
    look_each_second(maintenance, clock, 1)
    lease = scripts.redis.zrange("rq:wip:default", 0, -1)[0]
    scripts.redis.zincrby("rq:wip:default", 3600, lease)
    jumps.jump(-3600)

    look_each_second(maintenance, clock, int(MAX_LEASES_LEFT * LEASE_SECONDS))
    assert scripts.state("default_dead") == "leased"
    look_each_second(maintenance, clock, 2)

    assert scripts.state("default_dead") == "ready"


def test_shortening_leaves_shorter_leases_alone(test_store: Store, clock: StoppedClock) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_a")
    before = scripts.redis.zrange("rq:wip:default", 0, -1, withscores=True)

    assert Broker(test_store).shorten_leases(["default", "other"], clock.now() + LEASE_SECONDS + 1) == 0

    assert scripts.redis.zrange("rq:wip:default", 0, -1, withscores=True) == before


def test_the_leases_of_one_worker_are_held_longer_and_those_of_others_are_not(
    test_store: Store, clock: StoppedClock
) -> None:
    scripts = Scripts(test_store, clock)
    scripts.add("default_a", "default_b", "other_c")
    [(_, own)] = scripts.lease(wanted=1, token="one")
    [(_, others)] = scripts.lease(wanted=1, token="two")
    [(_, second)] = scripts.lease("other", token="one")
    ends_at = scripts.expires_at("default_b", others)

    Broker(test_store).hold("one", ["default", "other"], 60.0)

    assert scripts.expires_at("default_a", own) == pytest.approx(clock.now() + 60, abs=0.001)
    assert scripts.expires_at("other_c", second) == pytest.approx(clock.now() + 60, abs=0.001)
    assert scripts.expires_at("default_b", others) == ends_at
    Broker(test_store).hold("one", ["default"], 30.0)
    assert scripts.expires_at("default_a", own) == pytest.approx(clock.now() + 60, abs=0.001), "it ends later"


def test_a_new_worker_rescues_nothing_until_the_others_may_have_noticed_a_jump(
    test_store: Store, clock: StoppedClock
) -> None:
    scripts = Scripts(test_store, clock)
    scripts.leased("default_a")
    clock.advance(LEASE_SECONDS + 1)
    maintenance = Maintenance(Broker(test_store), ["default"], clock, patience_seconds=3)

    look_each_second(maintenance, clock, 3)
    assert scripts.state("default_a") == "leased"
    look_each_second(maintenance, clock, 1)

    assert scripts.state("default_a") == "ready"
