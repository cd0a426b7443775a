"""The broker against a model in plain Python: any steps, in any order, on a real Redis.

After each step every task is in exactly the one state that the model says: nothing is lost, nothing
that is done runs again, and a batch fires at most once and only when its last member has ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lastacross import store
from lastacross.store import Store
from lastacross.taskqueue.broker import Broker
from lastacross.taskqueue.record import Leased
from tests.support.clock import StoppedClock
from tests.support.scripts import Scripts

QUEUES = ("default", "other")
BATCH = "b"
END = "default_b-complete"
POISON_AFTER = 5
LEASE_SECONDS = 8.0
WAITS = ("ready", "scheduled")
LIVES = (*WAITS, "leased")


@dataclass
class Expected:
    """What the model knows of one task."""

    state: str
    is_member: bool = False
    outcome: str | None = None
    eta: float = 0.0
    lease: str = ""
    expires_at: float = 0.0
    has_started: bool = False
    crashes: int = 0


class _Steps(RuleBasedStateMachine):
    """The rules are what workers, callers, operators and RQ's tools do."""

    server: Store
    leases = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        self.server.redis.flushall()
        self.clock = StoppedClock()
        self.server.clock = self.clock
        self.scripts = Scripts(self.server, self.clock)
        self.broker = Broker(self.server)
        for queue in QUEUES:
            self.scripts.configure(queue, rate=1e6, bucket_size=10**6)
        self.tasks: dict[str, Expected] = {}
        self.number = 0
        self.members = 0
        self.is_sealed = False
        self.paused: set[str] = set()
        self.stale: set[str] = set()
        self.is_suspended = False
        self.scripts.open_batch(BATCH, complete=END)

    # --- add ---------------------------------------------------------------------------------

    @rule(
        queue=st.sampled_from(QUEUES),
        countdown=st.sampled_from([None, 0.0, 5.0, 20.0]),
        number=st.integers(0, 9),
    )
    def add(self, queue: str, countdown: float | None, number: int) -> None:
        task = f"{queue}_t{number}"
        [code] = self.scripts.add(task, countdown=countdown, tombstone=777)
        known = self.tasks.get(task)
        if known is None:
            assert code == 0
            self.tasks[task] = self._new(countdown)
        else:
            assert code == (10 if known.state in LIVES else 11)

    @rule(count=st.integers(1, 3), countdown=st.sampled_from([None, 5.0]), again=st.integers(0, 2))
    def fill(self, count: int, countdown: float | None, again: int) -> None:
        first = max(0, self.members - again)
        answer = self.scripts.fill(BATCH, count, first=first, countdown=countdown)
        is_new = first + count > self.members
        if self.is_sealed and is_new:
            assert answer == -2
            return
        assert answer == [1 if index < self.members else 0 for index in range(first, first + count)]
        for index in range(self.members, first + count):
            self.tasks[f"default_{BATCH}-{index}"] = self._new(countdown, is_member=True)
        self.members = max(self.members, first + count)

    @rule()
    def seal(self) -> None:
        assert self.scripts.seal(BATCH) == self.members
        self.is_sealed = True
        self._complete()

    # --- workers -------------------------------------------------------------------------------

    @rule(target=leases, wanted=st.integers(1, 4), first=st.sampled_from(QUEUES))
    def lease(self, wanted: int, first: str) -> Any:
        self.number += 100
        queues = [first, *(queue for queue in QUEUES if queue != first)]
        grant = self.broker.lease(
            queues, token="w", number=self.number, wanted=wanted, free=wanted, lease_seconds=LEASE_SECONDS
        )
        could = [
            task
            for task, known in self.tasks.items()
            if known.state == "ready" and task.partition("_")[0] not in self.paused
        ]
        most = 0 if self.is_suspended else min(wanted, len(could))
        assert len(grant.tasks) <= most if self.stale else len(grant.tasks) == most
        for task in grant.tasks:
            known = self.tasks[task.id]
            assert task.id in could
            assert known.outcome != "done"
            known.state, known.lease, known.has_started = "leased", task.lease_id, False
            known.expires_at = self.clock.now() + LEASE_SECONDS
        return multiple(*grant.tasks)

    @rule(task=leases)
    def renew(self, task: Leased) -> None:
        assert self.broker.renew([task], {task.entry}, LEASE_SECONDS) == [self._holds(task)]
        if self._holds(task):
            self.tasks[task.id].has_started = True
            self.tasks[task.id].expires_at = self.clock.now() + LEASE_SECONDS

    @rule(tasks=st.lists(leases, max_size=3))
    def ack(self, tasks: list[Leased]) -> None:
        expected = []
        for task in tasks:
            expected.append(self._holds(task))
            if self._holds(task):
                self._end(task.id, "done")
        assert self.broker.ack(tasks) == expected

    @rule(task=consumes(leases), delay=st.sampled_from([0.0, 3.0, 30.0]))
    def retry(self, task: Leased, delay: float) -> None:
        eta = self.clock.now() + delay
        assert self.broker.retry(task, eta, 500) == self._holds(task)
        if self._holds(task):
            known = self.tasks[task.id]
            known.state, known.eta, known.crashes = "scheduled", eta, 0

    @rule(task=consumes(leases))
    def dead_letter(self, task: Leased) -> None:
        assert self.broker.dead_letter(task, 500, "answered 500") == self._holds(task)
        if self._holds(task):
            self._end(task.id, "dead")

    @rule(tasks=st.lists(leases, max_size=3, unique_by=lambda task: task.entry))
    def release(self, tasks: list[Leased]) -> None:
        held = [task for task in tasks if self._holds(task)]
        assert self.broker.release(tasks) == len(held)
        for task in held:
            self.tasks[task.id].state = "ready"

    @rule(task=consumes(leases))
    def crash(self, task: Leased) -> None:
        expected = self._lose(task.id, has_started=True) if self._holds(task) else "gone"
        assert self.broker.crash(task) == expected

    @rule(seconds=st.sampled_from([0.5, 4.0, 8.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def promote_due(self) -> None:
        due = [
            t
            for t, known in self.tasks.items()
            if known.state == "scheduled" and known.eta <= self.clock.now()
        ]
        moved, next_due = self.broker.promote_due(QUEUES)
        assert moved == len(due)
        for task in due:
            self.tasks[task].state = "ready"
        later = [known.eta for known in self.tasks.values() if known.state == "scheduled"]
        assert next_due == (min(later) if later else None)

    @rule()
    def rescue_expired(self) -> None:
        now = self.clock.now()
        over = [t for t, known in self.tasks.items() if known.state == "leased" and known.expires_at <= now]
        assert self.broker.rescue_expired(QUEUES) == {
            task: self._lose(task, has_started=self.tasks[task].has_started) for task in over
        }

    # --- operators and RQ's tools -----------------------------------------------------------------

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        known = self.tasks[task]
        assert self.broker.delete([task]) == [known.state in (*LIVES, "dead")]
        if known.state in LIVES:
            self._end(task, "deleted")
        elif known.state == "dead":
            known.state = "gone"

    @rule()
    def purge(self) -> None:
        self.clock.advance(0.25)
        self.broker.purge("default")
        for task, known in list(self.tasks.items()):
            if task.startswith("default_") and known.state in LIVES:
                self._end(task, "deleted")

    @rule(queue=st.sampled_from(QUEUES))
    def pause_or_resume(self, queue: str) -> None:
        if queue in self.paused:
            self.paused.remove(queue)
            self.server.redis.srem(store.PAUSED, queue)
        else:
            self.paused.add(queue)
            self.server.redis.sadd(store.PAUSED, queue)

    @rule()
    def suspend_or_resume(self) -> None:
        self.is_suspended = not self.is_suspended
        if self.is_suspended:
            self.server.redis.set(store.RQ_SUSPENDED, 1)
        else:
            self.server.redis.delete(store.RQ_SUSPENDED)

    @precondition(lambda self: any(known.state == "dead" for known in self.tasks.values()))
    @rule(data=st.data())
    def run_again(self, data: st.DataObject) -> None:
        task = data.draw(
            st.sampled_from(sorted(t for t, known in self.tasks.items() if known.state == "dead"))
        )
        queue = task.partition("_")[0]
        self.server.redis.zrem(store.dead_key(queue), task)
        self.server.redis.hset(store.record_key(task), "status", "queued")
        self.server.redis.rpush(store.ready_key(queue), task)
        self.tasks[task].state, self.tasks[task].crashes = "ready", 0

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def leave_a_stale_entry(self, data: st.DataObject) -> None:
        """What a repeated command or a stock worker leaves: the lease that meets it drops it."""
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        self.stale.add(task)
        self.server.redis.rpush(store.ready_key(task.partition("_")[0]), task)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def restore_what_is_no_orphan(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        is_ready = self.tasks[task].state == "ready"
        assert self.broker.restore_orphans([task]) == ([task] if is_ready else [])
        if is_ready:
            self.stale.add(task)

    @rule()
    def sweep(self) -> None:
        assert self.broker.sweep_foreign(QUEUES) == []
        assert self.scripts.run("sweep_batches", self.scripts.now, 0, 0, 1000) == [0, 0]

    # --- what must hold ------------------------------------------------------------------------------

    @invariant()
    def every_task_is_where_the_model_says(self) -> None:
        for task, known in self.tasks.items():
            if task not in self.stale:
                assert self.scripts.state(task) == known.state, task
                continue
            status = {"ready": "queued", "leased": "started", "dead": "failed", "gone": None}
            assert self.scripts.record(task).get("status") == status.get(known.state, known.state), task
            places = self.scripts.places(task)
            assert known.state in [*places, "gone"], task
            assert {place for place in places if place != "ready"} <= {known.state}, task

    @invariant()
    def the_counts_of_the_batch_are_those_of_its_members(self) -> None:
        outcomes = [known.outcome for known in self.tasks.values() if known.is_member]
        expected = {
            "total": len(outcomes),
            "done": outcomes.count("done"),
            "failed": outcomes.count("dead"),
            "cancelled": outcomes.count("deleted"),
        }
        assert self.scripts.counts(BATCH) == {name: count for name, count in expected.items() if count}

    @invariant()
    def the_completion_fires_once_when_all_have_ended(self) -> None:
        assert self.scripts.is_finished(BATCH) == (END in self.tasks)
        if END not in self.tasks:
            assert self.scripts.state(END) == "deferred"

    # --- the model -------------------------------------------------------------------------------------

    def _new(self, countdown: float | None, *, is_member: bool = False) -> Expected:
        if countdown:
            return Expected("scheduled", is_member, eta=self.clock.now() + countdown)
        return Expected("ready", is_member)

    def _holds(self, task: Leased) -> bool:
        known = self.tasks[task.id]
        return known.state == "leased" and known.lease == task.lease_id

    def _end(self, task: str, outcome: str) -> None:
        known = self.tasks[task]
        known.state = "dead" if outcome == "dead" else "gone"
        if known.outcome is None or (known.outcome == "dead" and outcome == "done"):
            known.outcome = outcome
        self._complete()

    def _complete(self) -> None:
        members = [known for known in self.tasks.values() if known.is_member]
        if self.is_sealed and END not in self.tasks and all(known.outcome for known in members):
            self.tasks[END] = Expected("ready")

    def _lose(self, task: str, *, has_started: bool) -> str:
        known = self.tasks[task]
        known.crashes += has_started
        if known.crashes >= POISON_AFTER:
            self._end(task, "dead")
            return "poison"
        known.state = "ready"
        return "ready"


@pytest.fixture
def machine(test_store: Store) -> Iterator[type[_Steps]]:
    """The model, bound to this test's store."""
    _Steps.server = test_store
    yield _Steps
    del _Steps.server


def run(machine: type[_Steps], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_no_task_is_lost_or_run_when_it_is_over_whatever_happens(machine: type[_Steps]) -> None:
    run(machine, examples=60, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_task_is_lost_or_run_when_it_is_over_in_many_lives(machine: type[_Steps]) -> None:
    run(machine, examples=300, steps=60)
