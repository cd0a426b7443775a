"""The broker against a model in plain Python: any steps, in any order, on a real Redis.

After each step every task is in exactly the one state that the model says: nothing is lost, nothing
that is done runs again, a queue's limits hold to the task, and a batch fires at most once and only when
its last member has ended.
"""

import itertools
from collections.abc import Iterator, Sequence
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

from lastacross import store, taskqueue
from lastacross.store import Store
from lastacross.taskqueue.broker import Broker, Upload
from lastacross.taskqueue.record import Leased
from tests.support import queue_model
from tests.support.clock import StoppedClock
from tests.support.queue_model import LIVES, Expected, Seen
from tests.support.scripts import Scripts

QUEUES = ("default", "other")
BATCH = "b"
END = "default_b-complete"
POISON_AFTER = 5
LEASE_SECONDS = 8.0

# rate a second, bucket size, the most at once
LIMITS: list[tuple[float, int, int | None]] = [
    (1e6, 10**6, None),
    (5.0, 3, None),
    (20 / 60, 1, None),
    (1.5 / 60, 2, None),
    (1 / 3600, 1, None),
    (0.0, 5, None),
    (1e6, 10**6, 1),
    (1e6, 10**6, 2),
    (0.5, 2, 2),
]


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
        self.queues = {queue: queue_model.Queue() for queue in QUEUES}
        self.uploads = 0
        self._upload(dict.fromkeys(QUEUES, LIMITS[0]))
        self.tasks: dict[str, Expected] = {}
        self.number = 0
        self.members = 0
        self.is_sealed = False
        self.stale: set[str] = set()
        self.is_suspended = False
        # What the last call for leases said of the next one.
        self.is_told = True
        self.told_due: float | None = None
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

    @rule(
        target=leases, wanted=st.integers(1, 4), busy=st.integers(0, 2), order=st.permutations(list(QUEUES))
    )
    def lease(self, wanted: int, busy: int, order: list[str]) -> Any:
        self.number += 100
        free = max(0, wanted - busy)
        expected = self._grants(order, wanted, free)
        grant = self.broker.lease(
            order, token="w", number=self.number, wanted=wanted, free=free, lease_seconds=LEASE_SECONDS
        )
        assert [task.id for task in grant.tasks] == list(itertools.chain(*expected.values()))
        for queue in QUEUES:
            self.queues[queue].take(self.clock.now(), len(expected[queue]))
        for task in grant.tasks:
            known = self.tasks[task.id]
            assert known.outcome != "done"
            known.state, known.lease, known.has_started = "leased", task.lease_id, False
            known.expires_at = self.clock.now() + LEASE_SECONDS
        # A worker without a free thread asks again as soon as it has one.
        was_told = free == 0 and (self.is_told or self._is_due())
        self.is_told, self.told_due = was_told or grant.has_more, grant.next_due
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
        known = self.queues[queue]
        if known.is_paused:
            taskqueue.Queue(queue).resume()
        else:
            taskqueue.Queue(queue).pause()
        known.is_paused = not known.is_paused

    @rule(
        listed=st.dictionaries(st.sampled_from(QUEUES), st.sampled_from(LIMITS), min_size=1),
    )
    def upload(self, listed: dict[str, tuple[float, int, int | None]]) -> None:
        """Another queue.yaml: other limits, and what it does not list stands still."""
        self._upload(listed)

    @rule()
    def suspend_or_resume(self) -> None:
        self.is_suspended = not self.is_suspended
        if self.is_suspended:
            self.server.redis.set(store.RQ_SUSPENDED, 1)
        else:
            self.server.redis.delete(store.RQ_SUSPENDED)
            self.is_told = True  # RQ wakes nobody: the safety call of each second finds it

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def run_now(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        known = self.tasks[task]
        answer = {"gone": "gone", "leased": "running"}.get(known.state, "ready")
        assert self.broker.run_now(task) == answer
        if answer == "ready":
            self.stale.add(task)
            if known.state == "dead":
                known.crashes = 0
            known.state = "ready"

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
        self.is_told = True

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
    def every_task_is_in_the_one_state_that_the_model_says(self) -> None:
        self.seen = self._see()
        for task, known in self.tasks.items():
            assert self.seen.status[task] == known.status, task
            places = self.seen.places(task)
            if places == ([] if known.state == "gone" else [known.state]):
                if task not in self.seen.run_now:
                    self.stale.discard(task)
                continue
            # Only what a second entry was made for may have one, and only among those that are ready.
            assert task in self.stale, (task, known.state, places)
            assert {place for place in places if place != "ready"} <= {known.state}, (task, places)
            assert known.state in (*places, "gone"), (task, places)

    @invariant()
    def nothing_else_is_there(self) -> None:
        expected = {task for task, known in self.tasks.items() if known.state != "gone"}
        assert self.seen.records == expected | {END}.difference(self.tasks)

    @invariant()
    def what_may_run_is_not_forgotten(self) -> None:
        """Whenever a task could be leased, somebody knows: by a marker, or from the last call for leases."""
        if any(self._grants(QUEUES, 1, 1).values()):
            assert self.seen.is_marked or self.is_told or self._is_due()

    @invariant()
    def the_counts_of_the_batch_are_those_of_its_members(self) -> None:
        outcomes = [known.outcome for known in self.tasks.values() if known.is_member]
        expected = {
            "total": len(outcomes),
            "done": outcomes.count("done"),
            "failed": outcomes.count("dead"),
            "cancelled": outcomes.count("deleted"),
        }
        assert {name: int(self.seen.batch.get(name, 0)) for name in expected} == expected

    @invariant()
    def the_completion_fires_once_when_all_have_ended(self) -> None:
        assert ("finished_at" in self.seen.batch) == (END in self.tasks)
        if END not in self.tasks:
            assert self.seen.places(END) == ["deferred"]

    # --- the model -------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        return self.told_due is not None and self.told_due <= self.clock.now()

    def _see(self) -> Seen:
        return queue_model.see(self.server.redis, QUEUES, self.tasks, BATCH)

    def _upload(self, listed: dict[str, tuple[float, int, int | None]]) -> None:
        self.uploads += 1
        settings_of = {}
        for queue, known in self.queues.items():
            known.is_listed = queue in listed
        for queue, (rate, bucket_size, most) in listed.items():
            self.queues[queue].limit(rate, bucket_size, most)
            settings_of[queue] = {
                "mode": "push",
                "rate": repr(rate),
                "bucket_size": str(bucket_size),
                "max_concurrent": "" if most is None else str(most),
            }
        self.broker.upload(Upload(str(self.uploads), settings_of))

    def _grants(self, order: Sequence[str], wanted: int, free: int) -> dict[str, list[str]]:
        """What a worker should get: by hand in front of all limits (under ""), then of each queue."""
        grants: dict[str, list[str]] = {queue: [] for queue in ("", *order)}
        if self.is_suspended:
            return grants
        for task in self.seen.run_now[: min(wanted, free)]:
            self._grant(task, "", grants)
        given = len(grants[""])
        for queue in order:
            running = [*itertools.chain(*grants.values()), *self._all("leased")]
            count = self.queues[queue].allows(
                self.clock.now(),
                sum(task.partition("_")[0] == queue for task in running),
                wanted - given,
                free - given,
            )
            for task in self.seen.ready[queue][:count]:
                self._grant(task, queue, grants)
            given += len(grants[queue])
        return grants

    def _grant(self, task: str, queue: str, grants: dict[str, list[str]]) -> None:
        is_taken = any(task in given for given in grants.values())
        if not is_taken and task in self.tasks and self.tasks[task].state == "ready":
            grants[queue].append(task)

    def _all(self, state: str) -> list[str]:
        return [task for task, known in self.tasks.items() if known.state == state]

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


def test_no_task_is_lost_and_no_limit_passed_whatever_happens(machine: type[_Steps]) -> None:
    run(machine, examples=60, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_task_is_lost_and_no_limit_passed_in_five_hundred_lives(machine: type[_Steps]) -> None:
    run(machine, examples=500, steps=50)
